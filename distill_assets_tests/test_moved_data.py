"""A data folder that was copied to another place: nothing is made again, and search and roll back find their models."""

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from distill_assets.assets.release import HISTORY_SCHEMA, roll_back
from distill_assets.definitions import build_definitions
from distill_assets.handles.project import Project
from distill_assets.handles.vectors import Vectors
from distill_assets.orchestration.running import run_line
from distill_assets.orchestration.stages import partitions_of, stages_of, status_of
from distill_assets.records import hash_text
from distill_assets.report.publishing import current_champion, read_history
from distill_assets.serving.searcher import search
from distill_assets_tests.conftest import make_project, write_beir

PATHS = "SELECT path FROM checkpoints UNION ALL SELECT checkpoint_path FROM champion_history WHERE recipe <> 'untouched_student'"


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_cross_encoder: Path
) -> tuple[Path, dict[str, Any]]:
    """A place with an inbox whose line has run to a trained champion, and how to open it; the gate asks for next to nothing."""
    place = tmp_path_factory.mktemp("made")
    write_beir(place / "data" / "inbox" / "first")
    settings = make_project(place, tiny_encoder, tiny_cross_encoder, place, promotion_alpha=0.9).overrides
    project = open_at(place, settings)
    assert all(step.was_materialised for step in run_line_of(project))
    trained = current_champion(project)
    assert trained is not None and trained["recipe"] != "untouched_student", "there has to be a model that can be lost"
    other = next(name for name in project.settings.all_recipes if name != trained["recipe"])
    later = {**trained, "recipe": other, "decided_at": datetime(2099, 1, 1), "model_fingerprint": "later"}
    later["checkpoint_path"] = project.places.kept(project.places.checkpoint_path(other))
    project.places.warehouse.append("champion_history", pa.Table.from_pylist([later], schema=HISTORY_SCHEMA))
    return place, settings


def open_at(place: Path, settings: dict[str, Any]) -> Project:
    """The project at that place, as a new process would open it."""
    return Project(overrides={**settings, "collection": "inbox", "data_folder": str(place / "data")})


def run_line_of(project: Project) -> list[Any]:
    """`run`."""
    return list(run_line(build_definitions(project), project, dg.DagsterInstance.ephemeral()))


def write_as_older_versions(place: Path, project: Project) -> None:
    """Absolute paths in the tables, and the collection's folder named by one."""
    folder = place / "data" / f"beir-inbox-{hash_text(str(place / 'data' / 'inbox'))[:6]}"
    with project.places.warehouse.transaction() as connection:
        for table, column in (
            ("checkpoints", "path"),
            *(("champion_history", f"{n}checkpoint_path") for n in ("", "best_")),
        ):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || '/' || {column} WHERE NOT starts_with({column}, '/')",
                [str(folder)],
            )
    project.places.folder.rename(folder)


@pytest.mark.parametrize("is_old", [False, True], ids=["as today", "as older versions wrote it"])
@pytest.mark.parametrize("is_moved", [False, True], ids=["stays", "moved"])
def test_everything_is_up_to_date_and_found(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, is_old: bool, is_moved: bool
) -> None:
    """A path that names the place before makes models count as missing: hours of training are paid again, and search has no model."""
    original, settings = made
    place = tmp_path / "first"
    shutil.copytree(original, place)
    if is_old:
        write_as_older_versions(place, open_at(place, settings))
    if is_moved:
        place = place.rename(tmp_path / "second")
    project = open_at(place, settings)
    kept = [row["path"] for row in project.places.warehouse.query(PATHS).to_pylist()]
    assert len(kept) > 4 and {Path(path).is_absolute() for path in kept} == {is_old}
    for stage in stages_of(project):
        for asset in stage.assets:
            for partition in partitions_of(project, stage):
                assert status_of(project, asset, partition).condition == "up to date", (asset, partition)
    assert not any(step.was_materialised for step in run_line_of(project))
    checkpoints = project.places.folder / "checkpoints"
    for _ in range(2):  # the later champion, then the one that it was rolled back to
        champion = current_champion(project)
        assert champion is not None and Path(champion["checkpoint_path"]).is_relative_to(checkpoints)
        assert search(project, "how to sum a matrix", 3).champion == champion["recipe"]
        last = roll_back(project)
    assert last["recipe"] == "untouched_student"
    assert [row["recipe"] for row in read_history(project)][-1] == "untouched_student"
    rolled = project.places.warehouse.query(
        "SELECT checkpoint_path FROM champion_history ORDER BY sequence"
    ).to_pylist()
    assert rolled[-2]["checkpoint_path"].startswith("checkpoints/student/"), "what is written from now on is relative"


def test_a_line_that_begins_to_share_its_stores_makes_nothing_again(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting that only says where scores lie must make nothing stale; what lies at the former place must not be made anew.

    Search is asked twice: without the former vectors it encodes all documents each time, and is slow without a word.
    """
    original, settings = made
    shutil.copytree(original, tmp_path / "place")
    project = open_at(tmp_path / "place", {**settings, "shared_stores": str(tmp_path / "shared")})
    assert not any(step.was_materialised for step in run_line_of(project))
    encoded: list[str] = []
    encode = Vectors._encode
    monkeypatch.setattr(Vectors, "_encode", lambda *given: encoded.extend(given[2]) or encode(*given))
    asked = ["the total of a table", "ordered values"]  # no queries of the collection
    assert [len(search(project, text, 3).hits) for text in asked] == [3, 3] and encoded == asked
    stored = [path.read_bytes() for path in (tmp_path / "shared" / "embeddings").glob("*/hashes.bin")]
    assert [len(each) for each in stored] == [16 * 120], "documents, and no query of a user"
