"""Group `student`: one bi-encoder per recipe."""

import json
import shutil
from dataclasses import asdict
from typing import Any

from distill_assets.assets.examination import examine_student
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.manifests import checkpoint_row, chosen_sizes, code_state
from distill_assets.assets.negatives import MINING_SETTINGS
from distill_assets.assets.reads import Moment, Reads
from distill_assets.assets.reporting import markdown_table
from distill_assets.assets.rounds import train_rounds
from distill_assets.records import fingerprint


def _uses_teacher(moment: Moment) -> bool:
    return moment.recipe.uses_teacher


def _reads_whole_corpus(moment: Moment) -> bool:
    return moment.recipe.reads_whole_corpus


def _has_rounds(moment: Moment) -> bool:
    """It mines and has pairs scored by itself."""
    return moment.recipe.rounds > 1


def student_checkpoint(inputs: Inputs) -> Made:
    """A bi-encoder trained by one recipe; loads with `SentenceTransformer(path)`."""
    name, store = inputs.partition, inputs.project.places.checkpoints
    key = fingerprint(STUDENT_CHECKPOINT.code_version, *sorted(inputs.versions.items()))
    if store.has("student", name, key):
        inputs.log.info(f"{name}: a checkpoint from exactly these inputs is there already; nothing is trained")
    else:
        _train(inputs, key)
    path = store.path("student", name, key)
    manifest = store.read_manifest(path)
    verdicts, charts = examine_student(inputs, path, manifest["training"])
    metadata: dict[str, Any] = {
        "num_groups": manifest["training"]["num_groups"],
        "best_step": manifest["training"]["best_step"],
        "best_dev_search_ndcg_at_10": manifest["training"]["best_dev_ndcg_at_10"],
        "queries_left_out": manifest["training"].get("num_queries_left_out", {}),  # reason -> how many
    }
    if inputs.recipe.rounds > 1:
        metadata["rounds"] = markdown_table(
            [{k: v for k, v in r.items() if k != "training"} for r in manifest["rounds"]]
        )
    rows, model_fingerprint, shown = checkpoint_row(inputs.project, "student", name, path)
    return Made(rows=rows, data_version=model_fingerprint, verdicts=verdicts, metadata=shown | charts | metadata)


STUDENT_CHECKPOINT = Asset(
    name="student_checkpoint",
    reads=Reads(
        inputs=(
            "recipe",
            "student",
            "training_queries",
            "training_judgements",
            "candidates",
            "texts",
            "documents",
            "logits",
            "teacher",
            "tokeniser",
        ),
        settings=("step_queries", *MINING_SETTINGS, "num_scored_negatives", "teacher_max_length", "precision"),
        only_if={
            "logits": _uses_teacher,
            "teacher": _uses_teacher,
            "documents": _reads_whole_corpus,
            "texts": lambda moment: not _reads_whole_corpus(moment),
            **dict.fromkeys(
                ("tokeniser", *MINING_SETTINGS, "num_scored_negatives", "teacher_max_length", "precision"), _has_rounds
            ),
        },
    ),
    body=student_checkpoint,
    table="checkpoints",
    group="student",
    pool="trainer",
    kinds=frozenset({"pytorch", "huggingface"}),
    code_version="3",
    by="recipe",
)


def _train(inputs: Inputs, key: str) -> None:
    store, name = inputs.project.places.checkpoints, inputs.partition
    work_folder = store.work_folder("student", name, key)
    about = {
        "recipe": asdict(inputs.recipe),
        "input_fingerprint": key,
        "student": {"model": inputs.project.settings.student, "fingerprint": inputs.versions["student"]},
        "inputs": inputs.versions,
        "data_versions": inputs.slice_versions(("queries", "qrels", "hard_negatives", "teacher_scores")),
        "sizes": chosen_sizes(inputs.project),
        **code_state(),
    }
    path, rounds = train_rounds(inputs, work_folder, about)
    best = max(rounds, key=lambda r: (r["training"]["best_dev_ndcg_at_10"], -r["round"]))
    with store.writing("student", name, key) as folder:
        shutil.copytree(path(best["round"]), folder, dirs_exist_ok=True)
        manifest = about | {"training": best["training"], "rounds": rounds, "kept_round": best["round"]}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    store.clear_work("student", name, key)
