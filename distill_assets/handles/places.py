"""Where a collection's warehouse, stores and checkpoints lie."""

import os
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path

from distill_assets.errors import ScoreSetError, SettingsError
from distill_assets.records import hash_text
from distill_assets.retrieval.bm25 import LexicalCache
from distill_assets.settings.values import INBOX, Settings
from distill_assets.sources.base import batch_name
from distill_assets.sources.catalog import BEIR
from distill_assets.storage.checkpoints import CheckpointStore
from distill_assets.storage.embeddings import EmbeddingStore
from distill_assets.storage.folders import require_folder_name
from distill_assets.storage.pair_scores import PairScoreStore
from distill_assets.storage.warehouse import Warehouse

_CHECKPOINTS = "checkpoints"
# What makes imported scores known; a copy lies in the folder of a teacher that is made of them.
IMPORTED_FILE = "imported.json"


@dataclass(frozen=True)
class Places:
    """One collection's folder and what is kept in it. Nothing is opened before it is asked for.

    Attributes:
        shared: the folder where several lines keep pair scores and vectors; None where each has its own.
    """

    folder: Path
    shared: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Places":
        """`data/` for the embedded collection, a folder of its own below it for any other, so that two never mix."""
        path, folder = settings.collection_path, settings.data_folder
        shared = settings.shared_stores and settings.shared_stores.expanduser()
        scheme, _, rest = settings.collection.partition(":")
        if path is not None:
            folder = _folder_of(
                folder, path, BEIR if scheme == INBOX else scheme, is_inbox=settings.collection == INBOX
            )
        elif rest:
            folder = folder / f"{scheme}-{batch_name(rest)[:60]}-{_hash_of(rest)}"
        if shared is not None and shared.exists() and not shared.is_dir():
            raise SettingsError(
                f"shared_stores: {shared} is a file; expected a folder, or a path where one can be made"
            )
        return cls(folder, shared)

    @cached_property
    def warehouse(self) -> Warehouse:
        """The DuckDB warehouse."""
        return Warehouse(self.folder / "distill.duckdb")

    @cached_property
    def pair_scores(self) -> PairScoreStore:
        """Every pair that a member of a teacher has ever scored."""
        shared = None if self.shared is None else Warehouse(self.shared / "pair_scores.duckdb")
        return PairScoreStore(self.warehouse, shared)

    @cached_property
    def embeddings(self) -> EmbeddingStore:
        """Every text that an encoder has ever embedded."""
        own = EmbeddingStore(self.folder / "embeddings")
        return own if self.shared is None else EmbeddingStore(self.shared / "embeddings", former=own)

    @cached_property
    def lexical(self) -> LexicalCache:
        """BM25 indexes by corpus fingerprint."""
        return LexicalCache(self.folder / "lexical")

    @cached_property
    def checkpoints(self) -> CheckpointStore:
        """Model folders with manifests."""
        return CheckpointStore(self.folder / _CHECKPOINTS)

    def imported_file(self, name: str) -> Path:
        """Where the scores that were imported under this name are told of. Raises `WarehouseError` for what is no name."""
        return self.folder / "imported_scores" / require_folder_name(name, "name") / IMPORTED_FILE

    def find_imported(self, name: str) -> Path:
        """The file of scores that are there. Raises `ScoreSetError` where there are none of this name."""
        path = self.imported_file(name)
        if not path.is_file():
            there = sorted(each.parent.name for each in path.parents[1].glob(f"*/{IMPORTED_FILE}"))
            raise ScoreSetError(
                f"there are no imported scores {name!r} of this collection, only: {', '.join(there) or 'none'}; bring them in with "
                f"distill-assets import-scores PATH --name {name}, or set another teacher"
            )
        return path

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.folder / "report"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance: the user's DAGSTER_HOME, or one beside the warehouse."""
        return Path(os.environ.get("DAGSTER_HOME") or self.folder / "dagster_home").resolve()

    def checkpoint_path(self, name: str) -> Path:
        """Folder of the teacher (`teacher`) or of a recipe's student, from its row in the warehouse."""
        rows = self.warehouse.read("checkpoints", slice_keys=[name], columns=["path"])
        return self.path_of(rows.column("path")[0].as_py())

    def kept(self, path: Path) -> str:
        """A path as tables keep it: relative to the folder where it lies below, so that the folder may be moved, else absolute."""
        # As it is written first: `checkpoints` may be a link to another disk, which moves along.
        for each, folder in ((path.absolute(), self.folder.absolute()), (path.resolve(), self.folder.resolve())):
            if each.is_relative_to(folder):
                return each.relative_to(folder).as_posix()
        return str(path.resolve())

    def path_of(self, kept: str) -> Path:
        """The path that a table keeps. Older versions kept absolute ones, whose folder may have been moved here since."""
        path = self.folder.absolute() / kept
        if path.exists():
            return path
        starts = (i for i, part in enumerate(path.parts) if part == _CHECKPOINTS)
        here = (self.folder.absolute().joinpath(*path.parts[start:]) for start in starts)
        return next((each for each in here if each.exists()), path)


def _folder_of(data: Path, collection: Path, scheme: str, *, is_inbox: bool) -> Path:
    """The folder of a collection in the data folder: the one that is there, else a new one.

    Two collections of one name are told apart by their places: `SCHEME-NAME-HERE-ABSOLUTE`, with hashes of the path from the data
    folder and of the absolute one. So the data folder may be moved away from the collection, and the project that holds both may be
    moved. There is no HERE outside of the project, nor in the folders of older versions: a moved inbox is known by being the only one.
    """
    absolute, project = _hash_of(str(collection)), data.expanduser().resolve()
    name, known = absolute, [absolute, f"*-{absolute}"]
    if collection.is_relative_to(project.parent):
        here = _hash_of(Path(os.path.relpath(collection, project)).as_posix())
        name, known = f"{here}-{absolute}", [*known, f"{here}-*"]
    stem = f"{scheme}-{collection.name}-"
    there = {pattern: sorted(data.glob(f"{escape(stem)}{pattern}")) for pattern in (*known, "?" * len(absolute))}
    *found, old = there.values()
    if is_inbox and len(old) == 1:
        found.append(old)
    return next((folders[0] for folders in found if folders), data / f"{stem}{name}")


def _hash_of(path: str) -> str:
    return hash_text(path)[:6]
