"""Where a collection's warehouse, stores and checkpoints lie."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distill_assets.records import hash_text
from distill_assets.retrieval.bm25 import LexicalCache
from distill_assets.settings.values import Settings
from distill_assets.storage.checkpoints import CheckpointStore
from distill_assets.storage.embeddings import EmbeddingStore
from distill_assets.storage.pair_scores import PairScoreStore
from distill_assets.storage.warehouse import Warehouse


@dataclass(frozen=True)
class Places:
    """One collection's folder and what is kept in it. Nothing is opened before it is asked for."""

    folder: Path

    @classmethod
    def of(cls, settings: Settings) -> "Places":
        """`data/` for the embedded collection, a folder of its own below it for any other, so that two never mix."""
        path = settings.collection_path
        if path is None:
            return cls(settings.data_folder)
        return cls(settings.data_folder / f"beir-{path.name}-{hash_text(str(path))[:6]}")

    @cached_property
    def warehouse(self) -> Warehouse:
        """The DuckDB warehouse."""
        return Warehouse(self.folder / "distill.duckdb")

    @cached_property
    def pair_scores(self) -> PairScoreStore:
        """Every pair that a member of a teacher has ever scored."""
        return PairScoreStore(self.warehouse)

    @cached_property
    def embeddings(self) -> EmbeddingStore:
        """Every text that an encoder has ever embedded."""
        return EmbeddingStore(self.folder / "embeddings")

    @cached_property
    def lexical(self) -> LexicalCache:
        """BM25 indexes by corpus fingerprint."""
        return LexicalCache(self.folder / "lexical")

    @cached_property
    def checkpoints(self) -> CheckpointStore:
        """Model folders with manifests."""
        return CheckpointStore(self.folder / "checkpoints")

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
        return Path(rows.column("path")[0].as_py())
