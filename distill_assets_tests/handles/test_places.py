"""Where things lie, also after the data folder, or the whole project, has been moved."""

from pathlib import Path
from typing import Any

import pytest

from distill_assets.errors import SettingsError
from distill_assets.handles.places import Places
from distill_assets.records import hash_text
from distill_assets.settings.values import load_settings


def folder_of(data: Path, collection: str) -> Path:
    """The folder of a collection, there from now on."""
    folder = Places.of(load_settings(data_folder=data, collection=collection)).folder
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def old_name(path: Path) -> str:
    """What an older version called the folder of the collection at that path."""
    return f"beir-{path.name}-{hash_text(str(path.resolve()))[:6]}"


def move(old: Path, new: Path) -> None:
    """Move a folder to a place whose parents need not be there."""
    new.parent.mkdir(parents=True, exist_ok=True)
    old.rename(new)


@pytest.mark.parametrize("collection", ["inbox", "beir:{}/docs", "beir:{}/d[a-z]ta/nested/docs"])
def test_a_collection_is_found_again_after_its_project_has_moved(tmp_path: Path, collection: str) -> None:
    """A folder named by an absolute path is not found at the new place: all is read, scored and trained again, without a word."""
    project, data = tmp_path / "one", "d[a-z]ta"  # a name that is a pattern, too
    made = folder_of(project / data, collection.format(project))
    move(project, tmp_path / "far" / "two")
    project = tmp_path / "far" / "two"
    assert folder_of(project / data, collection.format(project)) == project / data / made.name
    assert len([path for path in (project / data).glob("beir-*") if path.is_dir()]) == 1


def test_a_collection_is_found_again_after_the_data_folder_alone_has_moved(tmp_path: Path) -> None:
    """A disk is full, `data/` goes to another one, and the documents stay: a path from the one to the other is a new one then."""
    names = {}
    for collection in ("project/docs", "elsewhere/docs"):
        (tmp_path / collection).mkdir(parents=True)
        names[collection] = folder_of(tmp_path / "project" / "data", f"beir:{tmp_path / collection}").name
    assert len(set(names.values())) == 2
    move(tmp_path / "project" / "data", tmp_path / "disk" / "renamed")
    for collection, name in names.items():
        assert folder_of(tmp_path / "disk" / "renamed", f"beir:{tmp_path / collection}").name == name


def test_folders_of_older_versions_are_kept(tmp_path: Path) -> None:
    """Their name has one hash, of the absolute path. A second folder beside it would be paid for in full."""
    for collection, path in (("inbox", tmp_path / "data" / "inbox"), ("beir:{}", tmp_path / "docs")):
        (tmp_path / "data" / old_name(path)).mkdir(parents=True)
        assert folder_of(tmp_path / "data", collection.format(path)).name == old_name(path)
    move(tmp_path / "data", tmp_path / "other" / "data")
    assert folder_of(tmp_path / "other" / "data", "inbox").name == old_name(tmp_path / "data" / "inbox")
    (
        tmp_path / "other" / "data" / "beir-inbox-123456"
    ).mkdir()  # now there are two, and nothing says which of them it is
    assert len(folder_of(tmp_path / "other" / "data", "inbox").name) > len("beir-inbox-123456")


def test_two_collections_of_one_name_never_share_a_folder(tmp_path: Path) -> None:
    """Their documents would be taken for two states of one collection, and each run would throw away what the other made."""
    places = [*(tmp_path / where / "docs" for where in ("project", "project/deep", "elsewhere"))]
    found = [folder_of(tmp_path / "project" / "data", f"beir:{path}") for path in places]
    assert (
        len(set(found)) == 3 and [folder_of(tmp_path / "project" / "data", f"beir:{path}") for path in places] == found
    )


@pytest.fixture(params=["as it is", "checkpoints on another disk"])
def places(tmp_path: Path, request: Any) -> Places:
    """A data folder with one checkpoint, `checkpoints/student/kl/abc`."""
    places = Places(tmp_path / "data")
    disk = tmp_path / "disk" if request.param != "as it is" else places.folder / "checkpoints"
    (disk / "student" / "kl" / "abc").mkdir(parents=True)
    if request.param != "as it is":
        places.folder.mkdir()
        (places.folder / "checkpoints").symlink_to(disk)
    return places


def test_a_path_in_the_folder_moves_along_and_one_outside_stays(places: Places, tmp_path: Path) -> None:
    """An absolute path below a folder that has moved names a model that is gone; a relative one outside would name none."""
    path, outside = places.checkpoints.path("student", "kl", "abc"), tmp_path / "hub" / "checkpoints" / "model"
    outside.mkdir(parents=True)
    kept, kept_outside = places.kept(path), places.kept(outside)
    assert (kept, kept_outside) == ("checkpoints/student/kl/abc", str(outside.resolve()))
    move(places.folder, tmp_path / "far" / "data")
    moved = Places(tmp_path / "far" / "data")
    assert moved.path_of(kept) == moved.folder / "checkpoints" / "student" / "kl" / "abc"
    assert moved.path_of(kept).is_dir() and moved.path_of(kept_outside) == outside


def test_an_absolute_path_of_a_place_that_is_gone_is_looked_for_here(places: Places, tmp_path: Path) -> None:
    """Data folders of older versions hold absolute paths: moved, each teacher and student would count as missing and be made again."""
    old = places.folder / "checkpoints" / "student" / "kl" / "abc"
    assert places.path_of(str(old)) == old
    move(places.folder, tmp_path / "checkpoints" / "data")  # a place with that word in its own path
    moved = Places(tmp_path / "checkpoints" / "data")
    here = moved.folder / "checkpoints" / "student" / "kl" / "abc"
    assert moved.path_of(str(old)) == here and moved.kept(moved.path_of(str(old))) == "checkpoints/student/kl/abc"
    gone = old.with_name("of other inputs")  # never another checkpoint in its place
    assert moved.path_of(str(gone)) == gone and moved.path_of("checkpoints/x") == moved.folder / "checkpoints" / "x"


def test_stores_of_several_lines_lie_in_the_folder_that_is_set(tmp_path: Path, beir_folder: Path) -> None:
    """A store that is looked for elsewhere is empty: everything is paid again. What a line had of its own must be read on."""
    own, shared = tmp_path / "data", tmp_path / "shared"
    found = [
        Places.of(load_settings(data_folder=own, collection=f"beir:{beir_folder}", shared_stores=path))
        for path in (None, shared)
    ]
    assert found[0].folder == found[1].folder and found[0].embeddings.root == found[0].folder / "embeddings"
    assert found[0].pair_scores.home is found[0].warehouse
    assert found[1].pair_scores.home.path == shared / "pair_scores.duckdb"
    assert found[1].pair_scores.warehouse.path == found[0].warehouse.path
    former = found[1].embeddings.former
    assert found[1].embeddings.root == shared / "embeddings"
    assert former is not None and former.root == found[0].embeddings.root
    shared.write_text("a file", encoding="ascii")
    with pytest.raises(SettingsError, match="shared_stores: .*shared is a file; expected a folder"):
        Places.of(load_settings(data_folder=own, shared_stores=shared))
