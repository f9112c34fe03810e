"""Files and folders that appear whole or not at all: written under a temporary name, flushed to disk, renamed."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill_assets.errors import WarehouseError

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def is_folder_name(name: str) -> bool:
    """Whether a name can be one folder below another."""
    return _SAFE_NAME.fullmatch(name) is not None and ".." not in name


def require_folder_name(name: str, what: str) -> str:
    """Return `name` if it can be one folder below another, else raise `WarehouseError`.

    A leading dot is refused too: names that start with one are temporary and never looked up.
    """
    if not is_folder_name(name):
        raise WarehouseError(
            f"{name!r} cannot be the {what} of a folder: expected 1 to 200 letters, digits, '.', '_' or '-', starting "
            "with a letter or digit and without '..'"
        )
    return name


@contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, on its file system so that it can be renamed; removed if still there at the end.

    A killed process leaves its folder behind, under a name that starts with a dot and that nothing reads.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish_folder(folder: Path, target: Path) -> None:
    """Flush `folder` to disk and rename it to `target`.

    An older target is renamed away first and then removed: between the two renames there is none, never a mixed one.
    When another process publishes at that moment, the last one stands.
    """
    _flush_tree(folder)
    with temporary_folder(target) as trash:
        for attempt in range(10):
            try:
                if target.exists():
                    target.rename(trash / f"old-{attempt}")
                folder.rename(target)
                break
            except OSError:
                if attempt == 9 or not folder.exists():
                    raise
    flush_folder(target.parent)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True))


def write_text(path: Path, text: str) -> None:
    """Write text so that a reader sees the old file or the new one, and no temporary file stays after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None when there is no such file or it holds something else.

    Raises:
        WarehouseError: the file may be there and cannot be read. Taken for absent, what it describes would be made again.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise WarehouseError(
            f"cannot read {path}: {error.strerror or error}; expected a file that may be read, or none; "
            "check its permissions and the disk, then start again"
        ) from error
    return value if isinstance(value, dict) else None


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries (its renames and new names) to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            flush_folder(path)
    flush_folder(folder)
