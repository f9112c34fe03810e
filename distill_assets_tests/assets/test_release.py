"""The champion: promotion, the gate, rolling back."""

from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from distill_assets.assets import release
from distill_assets.assets.release import HISTORY_SCHEMA, refused_models, roll_back
from distill_assets.definitions import build_definitions
from distill_assets.errors import PromotionError
from distill_assets.evaluation.comparison import Comparison
from distill_assets.evaluation.leaderboard import find_champion_row
from distill_assets.models.catalog import fingerprint_model
from distill_assets.orchestration.running import run_line
from distill_assets.report.publishing import (
    current_champion,
    read_champion,
    read_conclusion,
    read_history,
    read_rows,
)
from distill_assets.serving.searcher import search


def add(project: Any, hour: int, recipe: str, verdict: str, folder: Path) -> None:
    """Append one decision to the history."""
    folder.mkdir(exist_ok=True)
    row = {
        "decided_at": datetime(2026, 1, 1, hour),
        "recipe": recipe,
        "model_fingerprint": f"fingerprint-{recipe}",
        "checkpoint_path": str(folder),
        "verdict": verdict,
        "reason": "test",
        "dev_ndcg_at_10": 0.5,
        "p_value": None,
    }
    project.places.warehouse.append("champion_history", pa.Table.from_pylist([row], schema=HISTORY_SCHEMA))


def test_a_student_that_is_not_shown_to_be_better_does_not_reach_search(
    project: Any, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the untouched student as first champion any student is promoted, however much training harmed it.

    Twenty dev queries show no gain at p = 0.05: search, leaderboard and the last words of the run say so, all of them.
    """
    looked_at: list[Any] = []
    lost = {"length: long": Comparison(difference=-0.1, p_value=0.01, p_holm=0.02, detectable=0.05)}
    monkeypatch.setattr(release, "lost_groups", lambda *given: looked_at.append(given) or lost)
    monkeypatch.setattr(release, "grouped", lambda inputs, queries: {q.query_id: q.split for q in queries})
    instance = dg.DagsterInstance.ephemeral()
    steps = list(run_line(build_definitions(project), project, instance))
    assert steps[-1].was_materialised
    [(groups, candidate, present)] = looked_at
    assert set(groups.values()) == {"dev"} and groups.keys() == candidate.keys() == present.keys()
    first, decision = read_history(project)
    assert (first["recipe"], first["verdict"], first["sequence"]) == ("untouched_student", "promoted", 1)
    assert first["model_fingerprint"] == fingerprint_model(tiny_encoder)
    assert decision["verdict"] == "kept" and "not shown to be better than the untouched student" in decision["reason"]
    assert decision["reason"].endswith("dev queries: length: long (-0.100, p 0.020). p is Holm-corrected.")
    event = instance.get_latest_materialization_event(dg.AssetKey("champion"))
    assert event is not None and event.asset_materialization is not None
    assert event.asset_materialization.metadata["groups_lost"].value == "length: long"
    rows = read_rows(project)
    marked = find_champion_row(rows, read_champion(project))
    assert marked is not None and marked.system == "untouched_student"
    told = read_conclusion(project)
    assert told[0].startswith("Training was not shown to help on these documents: search uses the untouched student.")
    assert decision["reason"] in told[0]
    assert told[1].startswith("Why, probably: ") and "with 20 dev queries small gains cannot be shown" in told[1]
    assert told[2].startswith("12 test queries are too few to say which way is best")
    page = (project.places.report / "index.html").read_text(encoding="utf-8")
    assert "Training was not shown to help" in page
    assert search(project, "how to sum a matrix", 3).champion == "untouched_student"
    with pytest.raises(PromotionError, match="untouched_student is the first champion"):
        roll_back(project)


def test_an_untouched_champion_is_found_where_the_settings_find_it(
    project: Any, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Its row names a folder of site-packages or of a cache: in a new environment search would find no model there."""
    row = {
        "decided_at": datetime(2026, 1, 1),
        "recipe": "untouched_student",
        "model_fingerprint": fingerprint_model(tiny_encoder),
        "checkpoint_path": str(tmp_path / "of another environment"),
        "verdict": "promoted",
        "reason": "test",
        "dev_ndcg_at_10": 0.5,
    }
    project.places.warehouse.append("champion_history", pa.Table.from_pylist([row], schema=HISTORY_SCHEMA))
    assert current_champion(project)["checkpoint_path"] == str(tiny_encoder.resolve())
    other = row | {"decided_at": datetime(2026, 1, 2), "model_fingerprint": "another model"}
    project.places.warehouse.append("champion_history", pa.Table.from_pylist([other], schema=HISTORY_SCHEMA))
    assert current_champion(project)["checkpoint_path"] == other["checkpoint_path"]


def test_roll_back_walks_back_one_champion_at_a_time(project: Any, tmp_path: Path) -> None:
    """Rolling back to the champion that was just left, or to one that was only kept, would ship the wrong model."""
    add(project, 1, "first", "promoted", tmp_path / "a")
    add(project, 2, "second", "promoted", tmp_path / "b")
    add(project, 3, "third", "kept", tmp_path / "c")
    add(project, 4, "fourth", "promoted", tmp_path / "d")
    assert roll_back(project)["recipe"] == "second"
    assert current_champion(project)["recipe"] == "second"
    assert roll_back(project)["recipe"] == "first"
    with pytest.raises(PromotionError, match="first champion"):
        roll_back(project)


def test_promotion_after_a_roll_back_can_be_rolled_back_again(project: Any, tmp_path: Path) -> None:
    """History is a stack. With "the one before in time" the model that a person rolled away would be champion again."""
    add(project, 1, "first", "promoted", tmp_path / "a")
    add(project, 2, "second", "promoted", tmp_path / "b")
    assert roll_back(project)["recipe"] == "first"
    assert (current_champion(project)["recipe"], current_champion(project)["verdict"]) == ("first", "rolled_back")
    add(project, 3, "third", "promoted", tmp_path / "c")
    assert current_champion(project)["recipe"] == "third"
    assert roll_back(project)["recipe"] == "first"
    assert refused_models(read_history(project)) == {"fingerprint-second", "fingerprint-third"}
    with pytest.raises(PromotionError, match="first champion"):
        roll_back(project)


def test_the_history_is_in_the_order_of_decisions(project: Any, tmp_path: Path) -> None:
    """A clock that is set back would make last year's model champion: its decision seems to be the newest."""
    add(project, 9, "first", "promoted", tmp_path / "a")
    add(project, 1, "second", "promoted", tmp_path / "b")
    assert [(row["recipe"], row["sequence"]) for row in read_history(project)] == [("first", 1), ("second", 2)]
    assert current_champion(project)["recipe"] == "second"
    assert roll_back(project)["recipe"] == "first"
    assert refused_models(read_history(project)) == {"fingerprint-second"}
    assert [row["sequence"] for row in read_history(project)] == [1, 2, 3]


def test_roll_back_refuses_a_folder_that_is_gone(project: Any, tmp_path: Path) -> None:
    """A champion without files would fail at the next query, not at the roll back."""
    add(project, 1, "first", "promoted", tmp_path / "a")
    add(project, 2, "second", "promoted", tmp_path / "b")
    (tmp_path / "a").rmdir()
    with pytest.raises(PromotionError, match="is gone"):
        roll_back(project)
    assert current_champion(project)["recipe"] == "second"


def test_roll_back_without_a_champion(project: Any) -> None:
    """The first thing a nervous operator may try must say that there is nothing to roll back."""
    with pytest.raises(PromotionError, match="no champion"):
        roll_back(project)
