"""A file, or the files of a folder, as one batch: which belong to it, whether it is complete, and its fingerprint."""

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distill_assets.errors import SourceError
from distill_assets.records import fingerprint
from distill_assets.sources.base import Parts
from distill_assets.sources.files import GZIP, cannot_read, digest, is_ready, shown, stamp
from distill_assets.sources.row_files import ENDINGS

DATA_ENDINGS = (*ENDINGS, GZIP, ".txt", ".xml", ".trec", ".xlsx", ".zip")


def list_files(path: Path) -> list[Path]:
    """The file; or all files below the folder, sorted. Hidden ones are left out, links to folders are not followed.

    Raises:
        SourceError: nothing is there, or a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise cannot_read(Path(error.filename), error, "a file or folder") from error

    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [path]
    except OSError as error:
        raise cannot_read(path, error, "a file or folder") from error
    found: list[Path] = []
    for at, folders, names in os.walk(path, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += (Path(at, name) for name in names if not name.startswith("."))
    return sorted(found)


@dataclass(frozen=True)
class FileSet(ABC):
    """Reads the files at `path`. A format says its version, and how it is read."""

    path: Path

    scheme = ""  # that opens it by name
    version = ""  # raised whenever the same files would give something else

    def look(self) -> str | None:
        """Names, sizes and times of the files as one hash; None where a `_READY` came after all of them."""
        return None if is_ready(self.path, self._data) else fingerprint(*self._each(stamp))

    def fingerprint(self) -> str:
        """Hash of the bytes of the files."""
        return fingerprint(type(self).__name__, self.version, *self._each(digest))

    @abstractmethod
    def read(self) -> Parts:
        """Read the files. Raises `SourceError`."""

    def name_of(self, path: Path) -> str:
        """A file's name as people know it: from the folder on."""
        return shown(os.path.relpath(path, self.path) if path != self.path else path.name)

    def _data(self) -> list[Path]:
        found = [path for path in list_files(self.path) if path.name.casefold().endswith(self.endings())]
        return found or list_files(self.path)

    def endings(self) -> tuple[str, ...]:
        """How names of files end that belong to the batch, read or not."""
        return DATA_ENDINGS

    def _each(self, tell: Callable[[Path], str]) -> list[str]:
        try:
            files = self._data()
        except SourceError as error:
            return [str(error)]
        return [part for path in files for part in (self.name_of(path), tell(path))]

    def require_any(self, found: object, unread: Mapping[str, str], expected: str) -> None:
        """Raise `SourceError` where no file was read."""
        if not found:
            told = "; ".join(f"{name}: {reason}" for name, reason in list(unread.items())[:3])
            raise SourceError(
                f"nothing to read in {shown(self.path)}: expected {expected}" + (f". {told}" if told else "")
            )
