"""Folders of an inbox that are no BEIR folders: one that says in `source.toml` how it is read, or one whose files are recognised.

    collection = "pairs:rows"     # SCHEME:REST; a path begins at the folder

For tables and statements it holds [documents], [queries], [judgements] and [clicks] as the settings' [data.*] do.

`source.toml` wins over whatever else lies in the folder. Who may write to an inbox decides through it which files, data bases and
hub names are read, with the rights of this process: give that right to nobody whom you would not let start a run.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill_assets.errors import SettingsError, SourceError
from distill_assets.records import fingerprint
from distill_assets.sources import pairs, squad, trec
from distill_assets.sources.base import Options, PartOptions, Parts, Reader
from distill_assets.sources.beir import BeirFolder
from distill_assets.sources.catalog import BEIR, find_opener, is_path, reads_parts
from distill_assets.sources.columns import PARTS
from distill_assets.sources.document_files import DocumentFolder, is_folder_of_documents
from distill_assets.sources.file_sets import list_files
from distill_assets.sources.files import GZIP, cannot_read, digest, is_ready, shown, stamp
from distill_assets.sources.row_files import ENDINGS

SOURCE_FILE = "source.toml"
_NO_DOCUMENTS = (*ENDINGS, GZIP, ".zip")


@dataclass(frozen=True)
class SourceFile:
    """A folder that says itself how it is read."""

    folder: Path

    def look(self) -> str | None:
        """What the source says of itself, and its file's size and times; None where a `_READY` came after all of the folder's files."""
        if is_ready(self.folder, lambda: list_files(self.folder)):
            return None
        return fingerprint(stamp(self._path), self._told(lambda reader: reader.look()))

    def fingerprint(self) -> str:
        """What the source says of itself, and its file's bytes."""
        return fingerprint(digest(self._path), self._told(lambda reader: reader.fingerprint()))

    def read(self) -> Parts:
        """Read it. Raises `SourceError` also where the file is wrong."""
        return self._open().read()

    @property
    def _path(self) -> Path:
        return self.folder / SOURCE_FILE

    def _told(self, tell: Any) -> str:
        try:
            return str(tell(self._open()))
        except SourceError as error:
            return str(error)

    def _open(self) -> Reader:
        values = self._values()
        collection = values.pop("collection", None)
        scheme, _, rest = collection.partition(":") if isinstance(collection, str) else ("", "", "")
        try:
            if not rest:
                raise SettingsError(f"collection = {collection!r}; expected SCHEME:PATH or SCHEME:NAME as text")
            rest = str(self.folder / Path(rest).expanduser()) if is_path(scheme) else rest
            if scheme == BEIR:
                return BeirFolder(Path(rest))
            options = self._options(values)
            if options != Options() and not reads_parts(scheme):
                raise SettingsError(f"{scheme} reads no part that is described beside: remove all but collection")
            return find_opener(scheme)(rest, options)
        except SettingsError as error:
            raise SourceError(f"{shown(self._path)}: {error}") from error

    def _values(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self._path.read_text(encoding="utf-8"))
        except OSError as error:
            raise cannot_read(self._path, error, "a file") from error
        except ValueError as error:
            raise SourceError(f"{shown(self._path)} is no TOML: {error}; correct it") from error

    def _options(self, values: Mapping[str, Any]) -> Options:
        allowed = (*PARTS, "sql_setup", "sql_version")
        if unknown := ", ".join(sorted(set(values) - set(allowed))):
            raise SettingsError(f"found {unknown}, expected {', '.join(allowed)} beside collection; remove the rest")
        try:
            parts = [(part, self._rooted(PartOptions.model_validate(values[part]))) for part in PARTS if part in values]
        except ValidationError as error:
            raise SettingsError(f"a part is not as the settings' [data.*] have it: {error}") from error
        return Options(tuple(parts), tuple(values.get("sql_setup", ())), values.get("sql_version"))

    def _rooted(self, part: PartOptions) -> PartOptions:
        """The part with its path from the folder on; the paths in a query stay as they are."""
        if part.path is None or "://" in part.path:
            return part
        return part.model_copy(update={"path": str(self.folder / Path(part.path).expanduser())})


def find_source_file(folder: Path) -> Reader | None:
    """The reader of a folder that holds a `source.toml`."""
    return (
        SourceFile(folder) if os.path.lexists(folder / SOURCE_FILE) else None
    )  # a broken link says so when it is read


def recognise(folder: Path) -> Reader | None:
    """The reader of a folder whose files are of a format that is told by names and columns; None where nothing is. Opens files.

    A folder of documents is one without a table or archive beside them: the README of a data set is not its corpus.
    """
    documents = DocumentFolder(folder)
    try:
        files = list_files(folder)
        if found := _recognise(folder, fingerprint(*(f"{path} {stamp(path)}" for path in files))):
            return found
        is_data = any(path.name.casefold().endswith(_NO_DOCUMENTS) for path in files)
        return documents if not is_data and is_folder_of_documents(folder) else None
    except SourceError:
        return documents  # it cannot be looked into, and says so when it is read


@lru_cache(maxsize=4096)
def _recognise(folder: Path, seen: str) -> Reader | None:
    """Looked at again only when size or time of a file moved: a sensor asks this of every folder of an inbox."""
    for known in (squad.recognise, trec.recognise, pairs.recognise):
        if found := known(folder):
            return found
    return None
