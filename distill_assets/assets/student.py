"""Group `student`: one bi-encoder per recipe, and what it is like: its loss, its embeddings, how far it ranks as the teacher does."""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from distill_assets.assets.checks import Check
from distill_assets.assets.comparison import step_lists
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.manifests import checkpoint_row, chosen_sizes, code_state
from distill_assets.assets.reads import Moment, Reads
from distill_assets.assets.teacher_building import train_queries
from distill_assets.quality.verdicts import Verdict, judge_losses, judge_spread
from distill_assets.records import Query, fingerprint, hash_text
from distill_assets.report.charts import as_markdown_image, score_scatter_chart, training_curve_chart
from distill_assets.storage.checkpoints import MANIFEST
from distill_assets.training.lists import build_student_epochs

_MOST_EVALUATIONS = 3
# Chosen by hash of their id, so always the same.
_DOCUMENTS, _QUERIES = 256, 128


def student_checkpoint(inputs: Inputs) -> Made:
    """A bi-encoder trained by one recipe; loads with `SentenceTransformer(path)`."""
    name, store = inputs.partition, inputs.project.places.checkpoints
    key = fingerprint(STUDENT_CHECKPOINT.code_version, *sorted(inputs.versions.items()))
    if store.has("student", name, key):
        inputs.log.info(f"{name}: a checkpoint from exactly these inputs is there already; nothing is trained")
    else:
        _train(inputs, key)
    path = store.path("student", name, key)
    training = store.read_manifest(path)["training"]
    verdicts, charts = _examine(inputs, path, training)
    metadata: dict[str, Any] = {
        "num_groups": training["num_groups"],
        "best_step": training["best_step"],
        "best_dev_search_ndcg_at_10": training["best_dev_ndcg_at_10"],
        "queries_left_out": training.get("num_queries_left_out", {}),  # reason -> how many
    }
    rows, model_fingerprint, shown = checkpoint_row(inputs.project, "student", name, path)
    return Made(rows=rows, data_version=model_fingerprint, verdicts=verdicts, metadata=shown | charts | metadata)


def _uses_teacher(moment: Moment) -> bool:
    return moment.recipe.uses_teacher


def _reads_whole_corpus(moment: Moment) -> bool:
    return moment.recipe.num_random > 0


STUDENT_CHECKPOINT = Asset(
    name="student_checkpoint",
    reads=Reads(
        inputs=(
            *("recipe", "student", "training_queries", "training_judgements", "candidates"),
            *("texts", "documents", "logits", "teacher"),
        ),
        settings=("step_queries",),
        labels="taught",
        only_if={
            "logits": _uses_teacher,
            "teacher": _uses_teacher,
            "documents": _reads_whole_corpus,
            "texts": lambda moment: not _reads_whole_corpus(moment),
        },
    ),
    body=student_checkpoint,
    table="checkpoints",
    group="student",
    pool="trainer",
    kinds=frozenset({"pytorch", "huggingface"}),
    code_version="4",
    when_red="Materialise it again: training goes on from its last save. Out of memory: give the recipe a smaller `mini_batch_size`.",
    checks=(
        Check(
            "loss_finite",
            "Training left a loss curve and all of it is finite.",
            "Lower the recipe's learning_rate or margin_scale.",
            is_blocking=True,
        ),
        Check(
            "embeddings_spread",
            "Embeddings have not collapsed into one direction.",
            "Lower the recipe's learning_rate, or train it longer; a changed recipe is trained anew.",
            is_blocking=True,
        ),
    ),
    by="recipe",
)


def _train(inputs: Inputs, key: str) -> None:
    """Train by the recipe and write the checkpoint. After a kill the same call goes on from the last save."""
    from distill_assets.models.query_tower import split_towers
    from distill_assets.training.trainer import TrainingRun, affordable_evaluations, train_student

    project, recipe, name = inputs.project, inputs.recipe, inputs.partition
    store, started = project.places.checkpoints, time.perf_counter()
    model = project.models.load_student(inputs.student_path)
    if recipe.train == "query_tower":
        model = split_towers(model)
    logits, labels = (inputs.logits if recipe.uses_teacher else None), inputs.labels
    if logits is not None and inputs.teacher.is_imported:
        labels = labels.of_scored(logits)
    epochs = build_student_epochs(_queries(inputs), labels, recipe, logits)
    lists = step_lists(inputs)
    run = TrainingRun(
        store.work_folder("student", name, key),
        project.models.device,
        num_evaluations=affordable_evaluations(epochs, lists, _MOST_EVALUATIONS),
    )
    training = train_student(model, epochs, lists, recipe, run)
    inputs.log.info(f"{name}: dev nDCG@10 {training.best_dev_ndcg_at_10:.4f}")
    manifest = {
        "recipe": asdict(recipe),
        "input_fingerprint": key,
        "student": {"model": project.models.student_name, "fingerprint": inputs.versions["student"]},
        "inputs": inputs.versions,
        "data_versions": inputs.slice_versions(("queries", "qrels", "hard_negatives", "teacher_scores")),
        "sizes": chosen_sizes(project),
        **code_state(),
        "training": asdict(training),
        "training_s": time.perf_counter() - started,
    }
    has_own_prompts = project.models.prompts(inputs.student_path).is_loaded  # else the copy would be read without them
    with store.writing("student", name, key) as folder:
        if training.best_step == 0 and has_own_prompts:  # no step was better: it is the untouched student, file by file
            without = shutil.ignore_patterns(MANIFEST)
            shutil.copytree(inputs.student_path, folder, ignore=without, dirs_exist_ok=True)
        else:
            model.save_pretrained(str(folder), create_model_card=False)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    store.clear_work("student", name, key)


def _queries(inputs: Inputs) -> list[Query]:
    """The mined train queries, at most the recipe's number; also those without a judgement where the teacher names the positive."""
    recipe = inputs.recipe
    everything = [query for query in inputs.training_queries if query.split == "train"]
    queries = everything if recipe.positives == "teacher" else train_queries(inputs)
    mined = [query for query in queries if query.query_id in inputs.candidates]
    return sorted(mined, key=lambda query: hash_text(query.query_id))[: recipe.max_queries]


def _examine(inputs: Inputs, path: Path, training: dict[str, Any]) -> tuple[dict[str, Verdict], dict[str, Any]]:
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
