"""Folders of temporary files."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill_assets.spilling import temporary_folder

HOLDS = """
import sys, time
from pathlib import Path
from distill_assets.spilling import temporary_folder
with temporary_folder("made-", Path(sys.argv[1])) as folder:
    (folder / "documents").write_text("many")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_deleted_by_the_next_one_and_nothing_else(tmp_path: Path) -> None:
    """Each try of a run that memory is too small for would leave a gigabyte, until the disk is full; in use it must stay."""
    other = tmp_path / "somebody-elses"
    other.mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        _age(left, other)
        with temporary_folder("made-", tmp_path):
            assert (left / "documents").read_text() == "many", "the folder of a process that lives"
    finally:
        process.kill()
        process.communicate()
    with temporary_folder("made-", tmp_path) as mine:
        assert sorted(tmp_path.iterdir()) == sorted([mine, other])
    assert [*tmp_path.iterdir()] == [other]


def test_a_folder_that_was_just_made_stays(tmp_path: Path) -> None:
    """It is made first and locked then: between the two it looks like one that was left behind."""
    young = tmp_path / "made-now"
    young.mkdir()
    with temporary_folder("made-", tmp_path):
        assert young.is_dir()


def test_a_folder_that_may_not_be_opened_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below /tmp lie those of other people."""
    theirs = tmp_path / "made-theirs"
    theirs.mkdir()
    _age(theirs)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "no")

    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: refuse() if Path(path) == theirs else opened(path, *rest))
    with temporary_folder("made-", tmp_path):
        assert theirs.is_dir()


def _age(*folders: Path) -> None:
    for folder in folders:
        os.utime(folder, (time.time() - 3600, time.time() - 3600))
