"""What a trained student is like: its loss, the spread of its embeddings, and how far it ranks as the teacher does."""

from pathlib import Path
from typing import Any

import dagster as dg

from distill_assets.assets.inputs import Inputs
from distill_assets.quality.verdicts import Verdict, judge_losses, judge_spread
from distill_assets.records import hash_text
from distill_assets.report.charts import as_markdown_image, score_scatter_chart, training_curve_chart

# Chosen by hash of their id, so always the same.
_DOCUMENTS, _QUERIES = 256, 128


def examine_student(inputs: Inputs, path: Path, training: dict[str, Any]) -> tuple[dict[str, Verdict], dict[str, Any]]:
    """Verdicts by check name, and charts as metadata. `training` is the report in the student's manifest.

    A student without a finite loss is not opened: what it says means nothing.
    """
    losses = [(int(step), float(loss)) for step, loss in training["losses"]]
    verdicts = {"loss_finite": judge_losses(losses)}
    if not verdicts["loss_finite"].passed:
        unknown = Verdict(False, "not looked at: the training left no finite loss curve")
        return verdicts | {"embeddings_spread": unknown}, {}
    image = training_curve_chart(losses, [(int(step), float(value)) for step, value in training["dev_curve"]])
    name, vectors = inputs.recipe.name, inputs.project.vectors
    charts = {"training_curve": dg.MetadataValue.md(as_markdown_image(image, f"loss and dev nDCG@10 of {name}"))}
    texts = inputs.labels.content_of
    sample = [texts[doc_id] for doc_id in sorted(texts, key=hash_text)[:_DOCUMENTS]]
    student, untouched = (vectors.embed(model, sample, "document")[:] for model in (path, inputs.student_path))
    verdicts["embeddings_spread"] = judge_spread(student, untouched)
    if inputs.recipe.uses_teacher and verdicts["embeddings_spread"].passed:
        points = _against_teacher(inputs, path)
        if points:
            picture = as_markdown_image(score_scatter_chart(points), f"teacher logit and student cosine of {name}")
            charts["student_against_teacher"] = dg.MetadataValue.md(picture)
    return verdicts, charts


def _against_teacher(inputs: Inputs, path: Path) -> list[tuple[float, float, bool]]:
    """(teacher logit, student cosine, whether judged relevant) of the scored pairs of some train queries."""
    text_of = {query.query_id: query.text for query in inputs.training("train")}
    known = inputs.labels.content_of
    chosen = set(sorted({query_id for query_id, _ in inputs.logits if query_id in text_of}, key=hash_text)[:_QUERIES])
    pairs = [(q, d) for q, d in sorted(inputs.logits) if q in chosen and d in known]
    cosines = inputs.project.vectors.cosines(path, [(text_of[q], known[d]) for q, d in pairs])
    relevant = {query_id: set(inputs.labels.positives_of(query_id)) for query_id in chosen}
    return [
        (inputs.logits[pair], float(cosine), pair[1] in relevant[pair[0]])
        for pair, cosine in zip(pairs, cosines, strict=True)
    ]
