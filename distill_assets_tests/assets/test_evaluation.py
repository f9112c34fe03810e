"""The leaderboard with baselines and hybrids: what is on it, what makes it stale, and what leaves with a baseline."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.definitions import build_definitions
from distill_assets.errors import ModelError
from distill_assets.orchestration.running import run_line
from distill_assets.orchestration.stages import status_of
from distill_assets.report.publishing import current_champion, read_rows
from distill_assets_tests.conftest import make_project


def run(project: Any) -> None:
    """The whole line, or what is stale of it."""
    list(run_line(build_definitions(project), project, dg.DagsterInstance.ephemeral()))


def test_a_baseline_is_measured_like_a_student_and_leaves_no_trace(
    beir_folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """A published model without its time and size cannot be chosen; rankings of one that was removed are exported as today's.

    The baseline is the untouched student under another name: its numbers are the same, and no test tells the two apart.
    """
    published = tmp_path / "published-model"
    shutil.copytree(tiny_encoder, published)

    def project(*baselines: str) -> Any:
        return make_project(
            beir_folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", test_queries=20, baselines=baselines
        )

    run(project(f"{published}/"))
    line = project(f"{published}/")
    rows = {row.system: row for row in read_rows(line)}
    fused = {"hybrid:published-model", "hybrid:hard_labels", "hybrid:margin_mse"}
    own = {"bm25", "hybrid", "untouched_student", "teacher", "hard_labels", "margin_mse"}
    assert rows.keys() == own | fused | {"published-model"}
    found, untouched = rows["published-model"], rows["untouched_student"]
    assert (found.ndcg_at_10, found.p_vs_untouched, found.gap_closed) == (untouched.ndcg_at_10, 1.0, None)
    assert found.query_ms_p50 and found.documents_per_s and found.model_mb == untouched.model_mb
    assert rows["hybrid:published-model"].ndcg_at_10 == rows["hybrid"].ndcg_at_10
    assert rows["hybrid"].p_vs_untouched is not None and rows["bm25"].p_vs_untouched is None
    assert line.places.warehouse.slices("rankings").keys() == rows.keys()
    results = line.places.warehouse.read("query_results").to_pylist()
    assert {row["system"] for row in results if row["split"] == "dev"} == rows.keys() - {"teacher"}
    champion = current_champion(line)
    assert champion is not None and champion["recipe"] != "published-model"

    assert status_of(line, "leaderboard").condition == "up to date"
    (published / "vocab.txt").write_text("another revision", encoding="utf-8")
    assert status_of(project(str(published)), "leaderboard").reasons == ("baselines changed",)
    assert status_of(project(), "leaderboard").reasons == ("baselines changed",)
    assert status_of(project(), "champion").condition == "up to date"

    queries = beir_folder / "queries.jsonl"
    queries.write_text(queries.read_text("utf-8").replace('"text"', '"group": "asked", "text"', 60), encoding="utf-8")
    list(run_line(build_definitions(line), line, dg.DagsterInstance.ephemeral(), until="hard_negatives"))
    assert status_of(line, "hard_negatives", "tiny").condition == "up to date"
    assert status_of(line, "eval_metrics", "margin_mse").condition == "up to date"
    assert status_of(project(str(published)), "leaderboard").reasons == ("baselines changed", "query_origins changed")
    assert status_of(line, "champion").reasons == ("query_origins changed",)

    run(project())
    labels = {(row["rule"], row["label"]) for row in line.places.warehouse.read("query_groups").to_pylist()}
    assert labels == {("source", "asked"), ("source", "(no label)")}
    left = (own | fused) - {"hybrid:published-model"}
    assert {row.system for row in read_rows(line)} == left == line.places.warehouse.slices("rankings").keys()


def test_a_baseline_that_is_nowhere_is_told_before_anything_is_made(
    beir_folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """It is read at the very end: a typing error would cost all the training before it."""
    lost = make_project(beir_folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", baselines=("./nowhere/x",))
    with pytest.raises(ModelError, match=r"no model at '\./nowhere/x'"):
        run(lost)
    assert not lost.places.warehouse.exists()
