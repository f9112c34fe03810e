"""DuckDB in bounded memory: what does not fit goes to disk. By itself DuckDB takes four fifths of the machine before it spills."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distill_assets.errors import NoSpaceError

if TYPE_CHECKING:
    import duckdb

# With 256 a GROUP BY of ten million ids fails on 2 threads. A thread takes buffers of its own, so there are few.
LIMIT_MB, _THREADS = 512, 2
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_IN_WORDS = ("no space left", "out of memory", "failed to allocate", "max_temp_directory_size", "quota exceeded")


@contextmanager
def memory_limit(connection: "duckdb.DuckDBPyConnection", limit_mb: int) -> Iterator[None]:
    """For statements that sort, join or insert more than memory holds; rows of a result come in any order unless it is sorted."""
    connection.execute(f"SET memory_limit = '{limit_mb}MiB'")
    connection.execute("SET preserve_insertion_order = false")
    try:
        yield
    finally:
        connection.execute("RESET memory_limit")
        connection.execute("RESET preserve_insertion_order")


@contextmanager
def scratch(folder: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A database in memory, gone at the end of the block, that spills into `folder`."""
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{LIMIT_MB}MiB",
        "threads": _THREADS,
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
