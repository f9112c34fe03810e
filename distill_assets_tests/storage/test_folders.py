"""Small files of the stores: what is absent is told from what cannot be read."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from distill_assets.errors import WarehouseError
from distill_assets.storage.checkpoints import CheckpointStore
from distill_assets.storage.folders import read_json_object, write_text


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_checkpoint_that_cannot_be_read_is_not_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disk that fails for a moment, or another user's folder, would have a model of hours trained again, without a word."""
    store = CheckpointStore(tmp_path)
    manifest = store.path("student", "kl", "key") / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}", encoding="utf-8")
    assert store.has("student", "kl", "key")

    def refuse(path: Path, *args: Any, **kwargs: Any) -> str:
        raise OSError(number, "the system's reason", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(
        WarehouseError, match=rf"cannot read {manifest}: the system's reason; .*permissions and the disk"
    ):
        store.has("student", "kl", "key")


def test_absent_and_torn_files_are_none(tmp_path: Path) -> None:
    """An error for a checkpoint that was never made would stop the first run of every project."""
    (tmp_path / "file").write_text("{", encoding="utf-8")
    (tmp_path / "list").write_text("[1]", encoding="utf-8")
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "sound").write_text(json.dumps({"a": 1}), encoding="utf-8")
    for name in ("absent", "absent/below", "file/below", "file", "list", "bytes"):
        assert read_json_object(tmp_path / name) is None, name
    assert read_json_object(tmp_path / "sound") == {"a": 1}
    with pytest.raises(WarehouseError, match="Is a directory"):
        read_json_object(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk shows in the middle of writing: readers must still find the old text, and no temporary file stays."""
    path = tmp_path / "new" / "index.html"
    write_text(path, "old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distill_assets.storage.folders.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    assert path.read_text() == "old"
