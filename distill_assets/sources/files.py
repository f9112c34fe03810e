"""Files of a batch as lines of text, plain or compressed, or as rows.

Every refusal names the file, the line, what was expected and what to do. Files are read as bytes and split at line feeds alone,
because texts may hold the other characters that Python takes for line ends.
"""

import codecs
import errno
import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any, Self

from distill_assets.errors import MalformedRecordError, SourceError

GZIP, PARQUET = ".gz", ".parquet"
_QUOTED_CHARACTERS = 80
_MAX_FAULTS = 20
_ROWS = 4096
_READY = "_READY"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """An ordinary file, opened for its bytes; whatever the system refuses while it is open is a `SourceError`."""
    try:
        # A plain open of a named pipe would wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "Not an ordinary file")
            yield file
    except OSError as error:
        raise cannot_read(path, error, "a file") from error


def cannot_read(path: Path, error: OSError, expected: str) -> SourceError:
    """The error for an entry that the system does not let us read."""
    return SourceError(
        f"cannot read {shown(path)}: {error.strerror or error}; expected {expected} that may be read; "
        "mend or remove the entry, or give the permissions"
    )


def shown(name: str | Path) -> str:
    """The name as text: a name of a Linux file may hold bytes that no text has, and no table or hash takes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def stamp(path: Path) -> str:
    """What tells a change of a file without opening it: size and times, or the kind of error."""
    try:
        found = path.stat()
    except OSError as error:
        return f"error {error.errno}"
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def digest(path: Path) -> str:
    """SHA-256 of the file's bytes; what can be seen of it and the reason where it cannot be read."""
    seen = stamp(path)
    try:
        return _digest_once(path, seen)
    except SourceError as error:
        return f"{seen} {error}"


# A folder of documents may hold 100,000 files, and fewer places than files would keep none of them.
@lru_cache(maxsize=2**17)
def _digest_once(path: Path, stamp: str) -> str:
    """Hashed again only when size or time moved: a sensor asks this of every batch several times a minute."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_ready(folder: Path, list_files: Callable[[], Iterable[Path]]) -> bool:
    """Whether the file `_READY` came after every file of the batch.

    The time of the last change of the entry decides (ctime). The clock of this file system sets it at every write and at
    every arrival, while the time of the content (mtime) may come along with a copy, from another clock.
    """
    try:
        ready = (folder / _READY).stat()
        newest = max((path.stat().st_ctime_ns for path in list_files()), default=0)
    except (OSError, SourceError):
        return False
    return stat.S_ISREG(ready.st_mode) and ready.st_ctime_ns >= newest


def malformed(path: Path, number: int, expected: str, found: str) -> MalformedRecordError:
    """The error for one line; `found` is quoted, and cut where it is long."""
    quoted = repr(found if len(found) <= _QUOTED_CHARACTERS else f"{found[:_QUOTED_CHARACTERS]}...")
    return MalformedRecordError(
        f"{shown(path)}, line {number}: expected {expected}, found {quoted}; correct or remove the line"
    )


class Faults:
    """What is wrong with the lines of one file: the first twenty are kept, for whoever mends it, and all are counted."""

    def __init__(self, path: Path) -> None:
        self._path, self._found, self._count = path, list[str](), 0

    def kept(self) -> Self:
        """Keep the fault of what is done inside."""
        return self

    def __enter__(self) -> None:  # no generator: it is entered twice a line
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> bool:
        if not isinstance(error, MalformedRecordError):
            return False
        self._count += 1
        if len(self._found) < _MAX_FAULTS:
            self._found.append(str(error))
        return True

    def raise_any(self) -> None:
        """Raise one `MalformedRecordError` for all faults, with the first twenty of them; none where there is none."""
        if self._count == 1:
            raise MalformedRecordError(self._found[0])
        if self._found:
            more = self._count - _MAX_FAULTS
            rest = [f"and {more:,} more"] if more > 0 else []
            told = "\n".join(f"  {fault}" for fault in [*self._found, *rest])
            raise MalformedRecordError(f"{shown(self._path)}: {self._count:,} lines cannot be read:\n{told}")


def iter_lines(path: Path, faults: Faults, *, with_blank: bool = False) -> Iterator[tuple[int, str]]:
    """Number and text of every line, from 1, blank ones only where asked for; a line that is no text is a fault.

    Raises:
        MalformedRecordError: the file is in UTF-16, so none of its lines is text.
    """
    with opened(path) as file:
        for number, line in enumerate(_unpacked(path, file), start=1):
            if number == 1 and line.startswith(_UTF_16):
                raise MalformedRecordError(
                    f"{shown(path)}: expected UTF-8 text, found UTF-16, as Excel and older PowerShells write it; save it as UTF-8"
                )
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            text = ""
            with faults.kept():
                text = _decoded(path, number, content)
            if with_blank or text.strip():
                yield number, text


def iter_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and cells by column of every row. Raises `SourceError` where it is no Parquet file."""
    import pyarrow as pa  # a second that settings, which load this room, need not wait
    import pyarrow.parquet as pq

    with opened(path) as file:
        try:
            number = 0
            for batch in pq.ParquetFile(file).iter_batches(_ROWS):
                yield from enumerate(batch.to_pylist(), start=number + 1)
                number += len(batch)
        except (pa.ArrowException, pa.ArrowInvalid) as error:
            raise SourceError(f"{shown(path)} cannot be read as Parquet: {error}; copy it again") from error


def _decoded(path: Path, number: int, content: bytes) -> str:
    try:
        return content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        found = content[error.start : error.start + 8].hex(" ")
        raise malformed(path, number, "UTF-8 text", f"bytes {found}") from error


def _unpacked(path: Path, file: BufferedReader) -> Iterator[bytes]:
    """The lines of a file, decompressed where its name ends with `.gz`."""
    if not path.name.casefold().endswith(GZIP):
        yield from file
        return
    try:
        yield from gzip.GzipFile(fileobj=file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(
            f"{shown(path)} cannot be decompressed: {error}; expected a whole gzip file: copy it again"
        ) from error
