"""What a plan says against what the run then does."""

import hashlib
import math
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.definitions import build_definitions
from distill_assets.errors import SourceError, UnknownAssetError
from distill_assets.orchestration.estimate import Measured, Sizes, Work
from distill_assets.orchestration.plan import NOTHING, Plan, PlannedAsset, make_plan
from distill_assets.orchestration.running import run_line
from distill_assets.orchestration.stages import is_stale
from distill_assets_tests.conftest import make_project, write_beir


def run(project: Any, until: str) -> int:
    """Run, and return how many pairs a cross-encoder scored for it."""
    before = num_scored(project)
    with dg.DagsterInstance.ephemeral() as instance:
        list(run_line(build_definitions(project), project, instance, until=until))
    return num_scored(project) - before


def num_scored(project: Any) -> int:
    """Pairs that were paid for so far."""
    warehouse = project.places.warehouse
    return sum(warehouse.read("scoring_costs")["num_pairs"].to_pylist()) if warehouse.exists() else 0


def plan(project: Any, until: str, limit_s: float = math.inf) -> Plan:
    """The plan, which must leave the warehouse as it is, byte by byte."""
    folder = project.places.folder
    before, names = content(project), {path.name for path in folder.glob("*")}
    found = make_plan(project, is_stale, until, limit_s)
    assert content(project) == before, "a plan has written to the warehouse"
    added = {path.name for path in folder.glob("*")} - names
    # The lock is that of a reader.
    assert added <= {"embeddings", ".distill.duckdb.lock", ".distill.duckdb.waiting"}
    return found


def content(project: Any) -> str | None:
    """SHA-256 of the warehouse's file."""
    file = project.places.warehouse.path
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None


def test_pairs_are_exact_in_a_fresh_folder_after_a_batch_and_after_a_change(
    tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """Who is told of 500 pairs and pays for 5,000 believes no plan again; so does who finds slices that no run has made."""
    inbox, recipes = tmp_path / "inbox", {"hard_labels": {"batch_size": 8}}
    write_beir(inbox / "first", topics=("array", "matrix", "frame"))

    def line(**settings: Any) -> Any:
        given = {"recipes": recipes, "skip_recipes": ("kl", "margin_mse")}
        return make_project(inbox, tiny_encoder, tiny_cross_encoder, tmp_path / "data", **(given | settings))

    told = plan(line(), "leaderboard")
    assert told.num_uncounted == 0 and told.num_exact == told.work.pairs > 0
    assert run(line(), "leaderboard") == told.num_exact
    assert plan(line(), "leaderboard").text == NOTHING

    write_beir(inbox / "second", topics=("graph", "kernel"))
    told = plan(line(), "leaderboard")
    assert told.assets[0].reasons == {"it was never made": ["second"]}
    assert run(line(), "leaderboard") == told.num_exact > 0

    deeper = line(scored_negatives=6, recipes={"hard_labels": {"batch_size": 4}})
    told = plan(deeper, "leaderboard")
    assert [each.asset for each in told.assets] == [
        "teacher_scores",
        "student_checkpoint",
        "eval_metrics",
        "leaderboard",
    ]
    assert "settings.num_scored_negatives: 4 -> 6" in str(told.assets[0].reasons)
    assert run(deeper, "leaderboard") == told.num_exact > 0
    assert plan(deeper, "leaderboard").assets == ()


def test_pairs_of_a_teacher_that_is_still_to_be_trained(project: Any) -> None:
    """Each fold scores the queries whose labels it will not see: as one teacher, a third of the pairs would be left out."""
    settings = {"teacher_finetune": True, "teacher_folds": 2, "teacher_with_cosine": True, "teacher_epochs": 1}
    project.overrides = {**project.overrides, **settings}
    told = plan(project, "teacher_scores")
    assert told.num_uncounted == 0
    assert run(project, "teacher_scores") == told.num_exact


def test_where_searching_takes_too_long_pairs_are_told_as_the_most(project: Any) -> None:
    """A plan that searches for an hour is a run; one that guesses too few pairs is a surprise."""
    told = plan(project, "leaderboard", limit_s=1e-9)
    assert told.num_exact == told.num_encoded == 0
    # 80 train queries with an answer and 4 negatives; 8 dev and 12 test queries with 2 * 10 documents each.
    assert told.num_uncounted == 80 * 5 + 8 * 20 + 12 * 20
    assert "at most 800 that are not counted" in told.text
    assert plan(project, "leaderboard").num_exact <= told.num_uncounted


def test_what_cannot_be_read_is_told_before_the_run(
    project: Any, beir_folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """A batch that is left out must not be missed only after hours of training."""
    with pytest.raises(UnknownAssetError, match="no asset 'no_such'"):
        make_plan(project, is_stale, "no_such")
    (beir_folder / "queries.jsonl").write_text("{\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"queries.jsonl, line 1"):
        make_plan(project, is_stale, "qrels")
    inbox = tmp_path / "inbox"
    write_beir(inbox / "good", topics=("array",))
    shutil.copytree(beir_folder, inbox / "broken")
    line = make_project(inbox, tiny_encoder, tiny_cross_encoder, tmp_path / "data")
    [told] = make_plan(line, is_stale, "qrels").warnings
    assert told.startswith("left out: broken: ") and "queries.jsonl, line 1" in told
    shutil.rmtree(inbox / "good")
    with pytest.raises(SourceError, match="no batch of"):
        make_plan(line, is_stale, "qrels")


def test_a_disk_that_is_too_small_is_told() -> None:
    """A run that ends after hours with a full disk."""
    measured = Measured(Sizes(10, 1, 1, 1), 0.1, 0.5, 1.0, 20.0, 40.0, 384)
    scores = PlannedAsset("teacher_scores", {"it was never made": ["a"]}, Work(pairs=100), 100, True, 50.0)
    pool = PlannedAsset("leaderboard", {"teacher_scores is made anew": [""]}, Work(texts=30, pairs=34), 40, False, 20.0)
    found = Plan((scores, pool), measured, 0, 0, 0, {"vectors": 900.0, "scores": 200.0}, 1000.0, {"b": "no\nline"})
    assert found.warnings == [
        "left out: b: no line",
        "the disk has 1,000 MB free, and the run needs about 1,100 MB: make room, or set data_folder to a folder on another disk",
    ]
    assert (found.num_exact, found.num_uncounted, found.num_tokens) == (100, 40, 30 * 20 + 134 * 40)
    assert found.sentence.startswith("about 1 min 10 s from here on this machine: 10 texts and 2 pairs a second")
    assert "pairs to score: 100, and at most 40 that are not counted (estimated)" in found.text
