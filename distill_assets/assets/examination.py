"""What a trained student is like: its loss, the spread of its embeddings, and how far it ranks as the teacher does."""

from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from distill_assets.assets.reading import read_corpus, read_queries
from distill_assets.charts import as_markdown_image, score_scatter_chart, training_curve_chart
from distill_assets.core.quality import Verdict, judge_agreement, judge_losses, judge_spread
from distill_assets.core.recipes import Recipe
from distill_assets.core.records import hash_text
from distill_assets.resources import Project

# Chosen by hash of their id, so always the same: documents, whose vectors the evaluation reads next anyway, and queries.
_DOCUMENTS, _QUERIES = 256, 128


def examine_student(
    project: Project, recipe: Recipe, path: Path, training: dict[str, Any]
) -> tuple[dict[str, Verdict], dict[str, Any]]:
    """Verdicts by check name, and charts as metadata. `training` is the report in the student's manifest.

    A student without a finite loss is not opened: what it says means nothing.
    """
    losses = [(int(step), float(loss)) for step, loss in training["losses"]]
    verdicts = {"loss_finite": judge_losses(losses)}
    if not verdicts["loss_finite"].passed:
        unknown = Verdict(False, "not looked at: the training left no finite loss curve")
        return verdicts | {"embeddings_spread": unknown, "agrees_with_teacher": unknown}, {}
    image = training_curve_chart(losses, [(int(step), float(value)) for step, value in training["dev_curve"]])
    charts = {"training_curve": dg.MetadataValue.md(as_markdown_image(image, f"loss and dev nDCG@10 of {recipe.name}"))}
    groups, sample = read_scored_groups(project, _QUERIES), _sample_documents(project)
    # All documents at once: each call that finds vectors missing loads the model again.
    project.embed(path, [*sample, *(text for _, documents, _, _ in groups for text in documents)], "document")
    student_vectors, vectors = (project.embed(model, sample, "document")[0] for model in (path, project.student_path))
    verdicts["embeddings_spread"] = judge_spread(student_vectors, vectors)
    teacher = [logits for _, _, _, logits in groups]
    student, untouched = (_cosines(project, model, groups) for model in (path, project.student_path))
    verdicts["agrees_with_teacher"] = judge_agreement(
        teacher, student, untouched, learns_from_teacher=recipe.uses_teacher
    )
    if groups and verdicts["embeddings_spread"].passed:
        points = [
            (logit, score, label > 0)
            for (_, _, labels, logits), scores in zip(groups, student, strict=True)
            for logit, score, label in zip(logits, scores, labels, strict=True)
        ]
        picture = as_markdown_image(score_scatter_chart(points), f"teacher logit and student cosine of {recipe.name}")
        charts["student_against_teacher"] = dg.MetadataValue.md(picture)
    return verdicts, charts


ScoredGroup = tuple[str, list[str], list[int], list[float]]  # query, documents, labels, teacher logits


def read_scored_groups(project: Project, limit: int) -> list[ScoredGroup]:
    """At most `limit` train queries that the teacher has scored, with their documents, chosen by hash of the query's id.

    Batches that are not scored (a recipe that reads no teacher does not wait for them) have none.
    """
    content_of = read_corpus(project).content_of
    scored = [batch for batch in project.batches() if batch in project.warehouse.slices("teacher_scores")]
    rows = project.warehouse.read("teacher_scores", slice_keys=scored, columns=_COLUMNS).to_pylist()
    texts = {query.query_id: query.text for query in read_queries(project, splits=("train",))}
    usable = [row for row in rows if row["query_id"] in texts and row["doc_id"] in content_of]
    chosen = sorted({row["query_id"] for row in usable}, key=hash_text)[:limit]
    groups: dict[str, ScoredGroup] = {query_id: (texts[query_id], [], [], []) for query_id in chosen}
    for row in usable:
        if row["query_id"] in groups:
            _, documents, labels, logits = groups[row["query_id"]]
            documents.append(content_of[row["doc_id"]])
            labels.append(row["label"])
            logits.append(row["teacher_logit"])
    return list(groups.values())


_COLUMNS = ["query_id", "doc_id", "label", "teacher_logit"]


def _sample_documents(project: Project) -> list[str]:
    corpus = read_corpus(project)
    chosen = sorted(range(len(corpus.doc_ids)), key=lambda place: hash_text(corpus.doc_ids[place]))[:_DOCUMENTS]
    return [corpus.contents[place] for place in chosen]


def _cosines(project: Project, model: Path, groups: list[ScoredGroup]) -> list[list[float]]:
    """Cosine of each query with its documents; vectors that are known are not computed again."""
    if not groups:
        return []
    cosines = project.cosines(model, [(query, text) for query, documents, _, _ in groups for text in documents])
    bounds = np.cumsum([len(documents) for _, documents, _, _ in groups])[:-1]
    return [part.tolist() for part in np.split(cosines, bounds)]
