"""Run a plan: make the assets of every variant, and gather what their tables say of each query."""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from distill_assets.assets import ASSETS
from distill_assets.assets.comparison import score_pool
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset
from distill_assets.assets.rankings import DEPTH, RANKING_SETTINGS, judged_queries, rankings_of
from distill_assets.assets.reads import Reads
from distill_assets.errors import CheckFailedError, DistillError
from distill_assets.evaluation.metrics import evaluate_run, values_of
from distill_assets.handles.project import Project
from distill_assets.orchestration.stages import partitions_of, stages_of, status_of
from distill_assets.records import BM25, TEACHER, UNTOUCHED_STUDENT
from distill_assets.storage.collection import EVALUATION
from experiments.plans import Plan, seeded_name

logger = logging.getLogger("experiments")
Save = Callable[[dict[str, Any]], None]
_SIZES = Reads(
    inputs=("documents", "training_queries", "training_judgements", "evaluation_queries", "evaluation_judgements"),
    settings=RANKING_SETTINGS,
)


def run_study(plan: Plan, data_folder: Path, save: Save) -> dict[str, Any]:
    """Make what the plan needs and is not there, and return the study's document.

    `save` is called with the document as far as it is, after each student and each teacher. After a kill the same call goes on:
    what is stored from the same inputs is not scored, embedded or trained again.

    Raises:
        DistillError: a step failed, or another study works in `data_folder`.
    """
    recipes = plan.resolved_recipes()
    document: dict[str, Any] = {
        "experiment": plan.experiment,
        "plan": asdict(plan),
        "recipes": {name: asdict(recipe) for name, recipe in recipes.items()},
        **{part: {} for part in ("num_labelled", "teachers", "systems", "trainings")},
    }
    started = time.time()
    with _alone(data_folder):
        for label, project in plan.variants(data_folder):
            make_until(project, "teacher_scores")
            document |= _about(project)
            if label:
                document["num_labelled"][label] = _sizes(project)["num_labelled"]
            for seed in plan.seeds:
                for name in recipes:
                    _run_student(document, project, label, name, seed)
                    save(document | {"seconds": round(time.time() - started)})
            _rerank(document, project, label)
            save(document | {"seconds": round(time.time() - started)})
    return document | {"seconds": round(time.time() - started)}


def make_until(project: Project, last: str) -> None:
    """Make every partition that is not up to date, up to and with the stage of the asset `last`."""
    for stage in stages_of(project):
        for partition in partitions_of(project, stage):
            for asset in stage.assets:
                make(project, ASSETS[asset], partition)
        if last in stage.assets:
            return


def make(project: Project, asset: Asset, partition: str) -> None:
    """Make one partition unless it is up to date. A teacher that is only aged is made again, too: it knows labels that a variant hides.

    Raises:
        CheckFailedError: a blocking check did not pass.
    """
    if status_of(project, asset.name, partition).condition == "up to date":
        return
    logger.info("making %s %s", asset.name, partition)
    results = asset.make(project, partition, logger).check_results or ()
    failed = [r for r in results if not r.passed and r.severity is dg.AssetCheckSeverity.ERROR]
    if failed:
        told = "; ".join(f"{result.check_name}: {result.description}" for result in failed)
        raise CheckFailedError(f"{asset.name}[{partition}] did not pass its checks, the study ends here: {told}")


def _run_student(document: dict[str, Any], project: Project, label: str, name: str, seed: int) -> None:
    """Train and evaluate one recipe with one seed, and write down what its tables say."""
    key = seeded_name(name, seed)
    make(project, ASSETS["student_checkpoint"], key)
    make(project, ASSETS["eval_metrics"], key)
    rows = project.places.warehouse.read("eval_metrics", slice_keys=[key]).to_pylist()
    for system, put in (
        (BM25, (BM25, 0)),
        (UNTOUCHED_STUDENT, (UNTOUCHED_STUDENT, 0)),
        (key, (_told(name, label), seed)),
    ):
        found: dict[str, dict[str, float]] = {
            s: {r["query_id"]: r["ndcg_at_10"] for r in rows if (r["system"], r["split"]) == (system, s)}
            for s in EVALUATION
        }
        _put(document, *put, found)
    manifest = project.places.checkpoints.read_manifest(project.places.checkpoint_path(key))
    kept = ("num_groups", "num_steps", "best_step", "resumed_from_step", "num_queries_left_out")
    about = {field: manifest["training"][field] for field in kept}
    seconds = manifest["training_s"] if "training_s" in manifest else manifest["rounds"][0]["training_s"]  # older ones
    about["seconds"] = round(seconds, 1)
    document["trainings"].setdefault(_told(name, label), {})[str(seed)] = about


def _rerank(document: dict[str, Any], project: Project, label: str) -> None:
    """The teacher reranks the pool of BM25 and the untouched student, as on the leaderboard, on dev as well."""
    inputs = Inputs(project, "leaderboard", ASSETS["leaderboard"].reads, "", logger)
    rankings = [rankings_of(inputs, BM25, None), rankings_of(inputs, UNTOUCHED_STUDENT, inputs.student_path)]
    found: dict[str, dict[str, float]] = {}
    for split in EVALUATION:
        queries, qrels = judged_queries(inputs, split)
        pool = score_pool(inputs, queries, *(runs[split] for runs in rankings))
        found[split] = values_of(
            evaluate_run(pool.reranked_documents(DEPTH), qrels, inputs.min_relevance), "ndcg_at_10"
        )
    _put(document, _told(TEACHER, label), 0, found)
    document["teachers"][_told(TEACHER, label)] = project.places.checkpoints.read_manifest(inputs.teacher_path)


def _put(document: dict[str, Any], system: str, seed: int, found: dict[str, dict[str, float]]) -> None:
    per_seed = document["systems"].pop(system, {})  # put last again: a saving prints what was put last
    document["systems"][system] = per_seed | {str(seed): found}


def _told(system: str, label: str) -> str:
    """A system's name in the document."""
    return f"{system} {label}".strip()


def _about(project: Project) -> dict[str, Any]:
    settings = project.settings.model_dump(
        mode="json", exclude={"data_folder", "shared_stores", "recipes", "skip_recipes", "alert_webhook"}
    )
    return {
        "collection": project.collection.source.name,
        "device": _device_name(project.models.device),
        "max_length": project.settings.student_max_length,
        "settings": settings,
        **{name: value for name, value in _sizes(project).items() if name != "num_labelled"},
    }


def _sizes(project: Project) -> dict[str, Any]:
    """Documents, queries per split (of train all, judged or not), and train queries with a label."""
    inputs = Inputs(project, "study", _SIZES, "", logger)
    train = [query for query in inputs.training_queries if query.split == "train"]
    judged = {split: len(judged_queries(inputs, split)[0]) for split in EVALUATION}
    return {
        "num_documents": len(inputs.documents.doc_ids),
        "num_queries": {"train": len(train), **judged},
        "num_labelled": len(inputs.training("train")),
    }


def _device_name(device: str) -> str:
    if device != "cuda":
        return device
    import torch

    return torch.cuda.get_device_name()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder: of two studies in one, each would replace the slices that the other is about to read."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".study.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DistillError(f"another study works in {folder}: wait for it, or give another --work folder") from None
        yield
