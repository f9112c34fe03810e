"""Recipes that go beyond training on judged queries, through the assets: what is scored, trained and kept."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.definitions import build_definitions
from distill_assets.orchestration.running import run_line
from distill_assets.records import assign_split
from distill_assets_tests.conftest import ACTIONS, TOPICS, make_project

TINY: dict[str, Any] = {"batch_size": 8, "teacher_logits": "standardised", "loss": {"kl": 1.0}, "num_negatives": 2}
FREE_IDS = [f"free-{i}" for i in range(4)]
_FREE_TEXTS = [f"how to {action} a {topic} along one axis" for topic in TOPICS for action in ACTIONS]
NOT_JUDGED = [text for text in _FREE_TEXTS if assign_split(text) == "train"][
    :4
]  # without judgement they are split by hash


@pytest.fixture
def grown(beir_folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> Any:
    """A query tower and the teacher's own positives, over a collection with four train queries that nobody judged."""
    with (beir_folder / "queries.jsonl").open("a", encoding="utf-8") as file:
        for query_id, text in zip(FREE_IDS, NOT_JUDGED, strict=True):
            file.write(json.dumps({"_id": query_id, "text": text}) + "\n")
    recipes = {
        # With the labels' own loss: this teacher's weights are random, and a student that gets no better stays as it was.
        "tower": TINY
        | {"train": "query_tower", "learning_rate": 3e-3, "loss": {"kl": 1.0, "info_nce": 5.0}, "epochs": 3},
        "free": TINY | {"positives": "teacher", "sampling": "stratified"},
    }
    built_in = ("hard_labels", "kl", "margin_mse")
    return make_project(
        beir_folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", recipes=recipes, skip_recipes=built_in
    )


def manifest_of(project: Any, name: str) -> dict[str, Any]:
    """The manifest of a recipe's student."""
    return project.places.checkpoints.read_manifest(project.places.checkpoint_path(name))


def count(project: Any, statement: str) -> int:
    """One number from the warehouse."""
    return int(project.places.warehouse.query(statement).column(0)[0].as_py())


def test_towers_and_unjudged_queries(grown: Any) -> None:
    """Each of these can fall back to plain training without an error: a moved document, only judged queries."""
    instance = dg.DagsterInstance.ephemeral()
    list(run_line(build_definitions(grown), grown, instance, until="teacher_scores"))
    before = count(grown, "SELECT count(*) FROM pair_scores")
    scored = set(grown.places.warehouse.read("teacher_scores").column("query_id").to_pylist())
    assert set(FREE_IDS) <= scored
    list(run_line(build_definitions(grown), grown, instance, until="eval_metrics"))
    assert count(grown, "SELECT count(*) FROM pair_scores") == before, "a student pays for no pair"

    # Those that nobody judged are trained on by `free` alone.
    training = manifest_of(grown, "tower")["training"]
    assert manifest_of(grown, "free")["training"]["num_groups"] == training["num_groups"] + 4

    tower = grown.places.checkpoint_path("tower")
    contents = grown.places.warehouse.read("corpus").column("text").to_pylist()
    untouched = grown.models.student_path
    documents = grown.vectors.embed(tower, contents, "document")[:]
    assert (documents == grown.vectors.embed(untouched, contents, "document", _refuse)[:]).all()  # one set serves both
    queries = grown.vectors.embed(tower, NOT_JUDGED, "query")[:]
    assert abs(queries - grown.vectors.embed(untouched, NOT_JUDGED, "query")[:]).max() > 1e-4

    steps = list(run_line(build_definitions(grown), grown, instance, until="eval_metrics"))
    assert all(step.was_up_to_date for step in steps)


def _refuse() -> Any:
    raise AssertionError("a model was opened for vectors that are stored")
