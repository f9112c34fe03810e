"""What memory does not hold goes to disk, and is gone afterwards. By itself DuckDB takes four fifths of memory before it spills."""

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from distill_assets.errors import NoSpaceError

if TYPE_CHECKING:
    import duckdb

# Ten million documents need less than 256 on 2 threads. A thread takes buffers of its own, so there are few.
LIMIT_MB, THREADS = 384, 2
_YOUNG_S = 60.0  # a folder may not be locked yet
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_IN_WORDS = ("no space left", "out of memory", "failed to allocate", "max_temp_directory_size", "quota exceeded")


@contextmanager
def temporary_folder(prefix: str, place: Path | None = None) -> Iterator[Path]:
    """A folder below `place`, that of temporary files (TMPDIR) by default, which is gone at the end of the block.

    A process that is killed leaves its own behind, of ten million documents a gigabyte: the next one with that prefix deletes it.
    """
    place = place or Path(tempfile.gettempdir())
    for left in place.glob(f"{prefix}*"):
        with suppress(OSError):  # it is in use, or somebody else's
            if time.time() - left.stat().st_mtime > _YOUNG_S:
                with _locked(left):
                    shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as name, _locked(Path(name)):
        yield Path(name)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock of the folder that ends with this process. Raises `OSError` where another one has it."""
    found = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(found)


@contextmanager
def memory_limit(connection: "duckdb.DuckDBPyConnection", limit_mb: int, threads: int | None = None) -> Iterator[None]:
    """For statements that sort, join or insert more than memory holds; rows of a result come in any order unless it is sorted."""
    connection.execute(f"SET memory_limit = '{limit_mb}MiB'")
    if threads is not None:
        connection.execute(f"SET threads = {threads}")
    connection.execute("SET preserve_insertion_order = false")
    try:
        yield
    finally:
        connection.execute("RESET memory_limit")
        connection.execute("RESET preserve_insertion_order")
        connection.execute("RESET threads")


@contextmanager
def scratch(folder: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A database in memory, gone at the end of the block, that spills into `folder`."""
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{LIMIT_MB}MiB",
        "threads": THREADS,
        "temp_directory": str(folder / "spilled"),
    }
    with duckdb.connect(config=config) as connection:
        connection.execute("SET preserve_insertion_order = false")
        yield connection


@contextmanager
def enough_space(file: Path, what: str) -> Iterator[None]:
    """Raise `NoSpaceError` where disk or memory are full while the file is written or read: with the data nothing is wrong."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise NoSpaceError(no_space(file, what, error)) from error


def is_full(error: Exception) -> bool:
    """Whether disk or memory are full. DuckDB says it in words."""
    is_told = type(error).__module__.endswith("duckdb") and any(words in str(error).lower() for words in _FULL_IN_WORDS)
    return is_told or isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _FULL)


def no_space(file: Path, what: str, error: Exception) -> str:
    """What was to be stored, how large it was, what is free, and what to do."""
    size = file.stat().st_size if file.exists() else 0
    free = shutil.disk_usage(file.parent).free
    return (
        f"no space for {what}: {error}; {file} has {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free beside it; expected room for "
        "the texts twice, there and in the data folder; make room, or name a larger disk in TMPDIR; nothing was stored"
    )
