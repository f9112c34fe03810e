"""Dagster's handle on everything that is not a value: settings, source, warehouse, stores, checkpoints, models, device."""

from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from distill_assets.core.errors import ModelError, SourceError
from distill_assets.core.model_folders import is_cross_encoder, read_json
from distill_assets.core.records import fingerprint, hash_text
from distill_assets.settings import BUNDLED, INBOX, Settings, load_settings
from distill_assets.sources.base import Source
from distill_assets.sources.beir import BeirSource
from distill_assets.sources.python_api import PythonApiSource
from distill_assets.storage.checkpoints import CheckpointStore
from distill_assets.storage.embeddings import EmbeddingStore, StoredVectors
from distill_assets.storage.lexical import LexicalCache
from distill_assets.storage.models import (
    BI_ENCODER_FOLDER,
    BUNDLED_TEACHER,
    fingerprint_model,
    fold_folders,
    read_trained_on,
    resolve_model,
)
from distill_assets.storage.pair_scores import PairScoreStore
from distill_assets.storage.warehouse import SliceInfo, Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from distill_assets.core.encoders import EncoderPrecision, Role
    from distill_assets.core.packed_encoder import Precision
    from distill_assets.core.scoring import PairScorer

ENSEMBLE_FILE = "ensemble.json"  # in a teacher's folder: the weight with which a bi-encoder's cosine joins its logit
FOLDS_FILE = "folds.json"  # in a cross-fitted teacher's folder: what each fold's scores are multiplied by
_CHUNK_BATCHES = 64  # batches encoded between two commits: 2,048 texts by default, a minute of work on two slow cores


class Project(dg.ConfigurableResource):
    """One project: its settings and everything they lead to.

    Nothing is opened when definitions load; each part is made at its first use. `overrides` win over file and environment.
    """

    settings_file: str | None = None
    overrides: dict[str, Any] = {}
    show_progress: bool = False

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once per process."""
        return load_settings(Path(self.settings_file) if self.settings_file else None, **self.overrides)

    @property
    def folder(self) -> Path:
        """Where this collection's warehouse, stores and checkpoints live; each BEIR folder has its own."""
        return collection_folder(self.settings)

    @cached_property
    def source(self) -> Source:
        """The collection that the settings name."""
        return open_source(self.settings)

    def batches(self) -> list[str]:
        """The batches that make up the collection, sorted: those the source has and that were read into the warehouse.

        A batch that has only just landed, could not be read, or did not pass a blocking check is not among them, so it holds
        up nobody; one that was read before and is broken now stays as it was read.
        """
        slices = self._batch_slices()
        whole = set.intersection(*(set(by_batch) for by_batch in slices)) - self.refused_by_checks()
        return [batch for batch in self.source.batches() if batch in whole]

    def refused_by_checks(self) -> set[str]:
        """Batches that were read and did not pass a blocking check.

        Such a slice is stored without the fingerprint of its inputs (assets/checks.py).
        """
        return {
            batch for by_batch in self._batch_slices() for batch, info in by_batch.items() if not info.input_fingerprint
        }

    def _batch_slices(self) -> list[dict[str, SliceInfo]]:
        if not self.warehouse.exists():
            return [{}]
        return [self.warehouse.slices(table) for table in ("corpus", "queries", "qrels")]

    def quarantined(self) -> dict[str, dict[str, Any]]:
        """Rows of the quarantine table by batch: what could not be read, and why; folders that are gone included."""
        if not self.warehouse.exists():
            return {}
        return {row["batch"]: row for row in self.warehouse.read("quarantine").to_pylist()}

    def unreadable(self) -> dict[str, str]:
        """Batches in quarantine that are still there, and folders that can never be a batch, each with the reason."""
        try:
            there = set(self.source.batches())
        except SourceError:  # nothing is there
            there = set()
        rows = {batch: row["reason"] for batch, row in self.quarantined().items() if batch in there}
        return rows | self.source.refused()

    @cached_property
    def warehouse(self) -> Warehouse:
        """The DuckDB warehouse."""
        return Warehouse(self.folder / "distill.duckdb")

    @cached_property
    def pair_scores(self) -> PairScoreStore:
        """Every pair that a teacher has ever scored."""
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

    @cached_property
    def device(self) -> str:
        """The torch device, picked once."""
        from distill_assets.core.encoders import pick_device

        return pick_device(self.settings.device)

    @cached_property
    def student_precision(self) -> "EncoderPrecision":
        """What bi-encoders encode in: as set, else bf16 where the hardware multiplies in it."""
        if self.settings.student_precision != "auto":
            return self.settings.student_precision
        from distill_assets.core.encoders import has_fast_bf16

        return "bf16" if has_fast_bf16(self.device) else "fp32"

    @cached_property
    def search_precision(self) -> "EncoderPrecision":
        """What the matrix product of dense search computes in; it only selects, so this moves no result."""
        from distill_assets.core.encoders import has_fast_bf16

        return "bf16" if has_fast_bf16("cpu") else "fp32"

    @cached_property
    def student_path(self) -> Path:
        """Folder of the untouched student."""
        return resolve_model(self.settings.student)

    @property
    def student_fingerprint(self) -> str:
        """Content of the untouched student and how much of a text it reads."""
        return self.encoder_fingerprint(self.student_path)

    def encoder_fingerprint(self, path: Path) -> str:
        """Content of a bi-encoder folder (weights, tokenizer, prompts), how many tokens of a text it reads, precision if set.

        The precision that `auto` finds is not part of it: the same collection on another machine is not stale for that. Vectors
        are keyed by it (`embedded`), so that those of two precisions never meet.
        """
        precision = self.settings.student_precision
        chosen = () if precision == "auto" else (precision,)
        return fingerprint(fingerprint_model(path), self.settings.student_max_length, *chosen)

    @property
    def teacher_choice(self) -> str:
        """`bundled`, a folder or a hub name; `auto` resolved."""
        if self.settings.teacher != "auto":
            return self.settings.teacher
        return BUNDLED if self.settings.collection == "python_api" else self.settings.student

    @property
    def is_teacher_joined(self) -> bool:
        """Whether the teacher is joined with a bi-encoder's cosine: by setting, else where it was grown from an encoder."""
        if self.settings.teacher_with_cosine is not None:
            return self.settings.teacher_with_cosine
        return self.teacher_choice == BUNDLED or not is_cross_encoder(self.teacher_source_path)

    @property
    def teacher_source_path(self) -> Path:
        """Folder that the teacher is made from: the bundled adapters, or the chosen model."""
        if self.teacher_choice == BUNDLED:
            if not fold_folders(BUNDLED_TEACHER):
                raise ModelError(
                    f"the bundled teacher is missing at {BUNDLED_TEACHER}: reinstall the package or set teacher to a model"
                )
            return BUNDLED_TEACHER
        return resolve_model(self.teacher_choice)

    @property
    def is_teacher_trained(self) -> bool:
        """Whether the teacher is fine-tuned on this collection's labels: by setting, or because it has no scoring head yet."""
        if self.teacher_choice == BUNDLED:
            return self.settings.teacher_finetune
        return self.settings.teacher_finetune or not is_cross_encoder(self.teacher_source_path)

    @property
    def num_teacher_folds(self) -> int:
        """How many times the teacher is there, each trained without the labels of one fold: 1 for one that is taken as it is."""
        if self.teacher_choice == BUNDLED:
            return len(fold_folders(self.teacher_source_path))
        return self.settings.teacher_folds if self.is_teacher_trained else 1

    def load_student(self, path: Path, precision: "EncoderPrecision" = "fp32") -> "SentenceTransformer":
        """Load a bi-encoder at the length that the settings allow; fp32 is for training."""
        from distill_assets.core.encoders import load_student

        return load_student(path, device=self.device, max_length=self.settings.student_max_length, precision=precision)

    def load_teacher(self, path: Path) -> "CrossEncoder":
        """Load a cross-encoder at the length that the settings allow."""
        from distill_assets.core.encoders import load_teacher

        return load_teacher(path, device=self.device, max_length=self.settings.teacher_max_length)

    @cached_property
    def scoring_precision(self) -> "Precision":
        """Precision of the teacher's matrix products on this machine."""
        from distill_assets.core.fast_scoring import resolve_precision

        return resolve_precision(self.settings.precision, self.device)

    def teacher_scorer(self, path: Path, precision: "Precision | None" = None) -> "PairScorer":
        """What turns pairs into teacher logits: one teacher, or a query's own folds of one that was cross-fitted.

        `precision` is that of the settings unless given.
        """
        from distill_assets.core.cross_fitting import CrossFittedScorer, Fold

        folders = fold_folders(path)
        if not folders:
            return self.fold_scorer(path, precision)
        scales = read_json(path / FOLDS_FILE)["scales"]
        return CrossFittedScorer(
            [
                Fold(self.fold_scorer(folder, precision), scale, read_trained_on(folder))
                for folder, scale in zip(folders, scales, strict=True)
            ]
        )

    def fold_scorer(self, path: Path, precision: "Precision | None" = None) -> "PairScorer":
        """The cross-encoder at `path`, joined with a bi-encoder's cosine where its folder says so."""
        from distill_assets.core.ensemble import CosineEnsemble
        from distill_assets.core.fast_scoring import open_scorer

        chosen = precision or self.scoring_precision
        scorer = open_scorer(self.load_teacher(path), chosen, batch_tokens=self.settings.batch_tokens)
        if not (path / ENSEMBLE_FILE).is_file():
            return scorer
        weight, bi_encoder = read_json(path / ENSEMBLE_FILE)["cosine_weight"], self.teacher_bi_encoder(path)
        # Loaded once, not for each window of pairs.
        load = cache(lambda: self.load_student(bi_encoder, self.student_precision))
        return CosineEnsemble(scorer, lambda pairs: self.cosines(bi_encoder, pairs, load), weight)

    def teacher_bi_encoder(self, path: Path) -> Path:
        """The bi-encoder beside the cross-encoder at `path`, else the untouched student."""
        own = path / BI_ENCODER_FOLDER
        return own if own.is_dir() else self.student_path

    def cosines(
        self, path: Path, pairs: "Sequence[tuple[str, str]]", load: "Callable[[], SentenceTransformer] | None" = None
    ) -> "np.ndarray":
        """Cosine of each (query, document) by the bi-encoder at `path`, float32 (len(pairs),).

        Each text is looked up once; `load` gives the model where some have to be encoded.
        """
        query_row = {text: row for row, text in enumerate(dict.fromkeys(query for query, _ in pairs))}
        document_row = {text: row for row, text in enumerate(dict.fromkeys(document for _, document in pairs))}
        queries, _ = self.embed(path, list(query_row), "query", load)
        documents, _ = self.embed(path, list(document_row), "document", load)
        left, right = [query_row[query] for query, _ in pairs], [document_row[document] for _, document in pairs]
        return (queries[left] * documents[right]).sum(axis=1)

    def keeps_documents(self, path: Path) -> bool:
        """Whether the student at `path` was trained on its query side alone, from today's untouched student: same document vectors."""
        if not (path / "manifest.json").is_file():
            return False
        manifest = read_json(path / "manifest.json")
        is_tower = manifest.get("recipe", {}).get("train") == "query_tower"
        return is_tower and manifest["student"]["fingerprint"] == self.student_fingerprint

    def embed(
        self,
        path: Path,
        texts: "Sequence[str]",
        role: "Role",
        load: "Callable[[], SentenceTransformer] | None" = None,
    ) -> "tuple[np.ndarray, int]":
        """Unit vectors of `texts` in order, and how many had to be encoded: the embedding store answers the rest."""
        vectors, num_encoded = self.embedded(path, texts, role, load)
        return vectors[:], num_encoded

    def embedded(
        self,
        path: Path,
        texts: "Sequence[str]",
        role: "Role",
        load: "Callable[[], SentenceTransformer] | None" = None,
    ) -> "tuple[StoredVectors, int]":
        """The same, read from the memory-mapped store when rows are asked for.

        What is encoded is committed every few thousand texts, so that a killed run pays for at most those again. They are
        stored in the order of `texts`: a search reads them from end to end.
        """
        from distill_assets.core.encoders import encode_texts

        if role == "document" and self.keeps_documents(path):
            path = self.student_path
        key = fingerprint(self.encoder_fingerprint(path), role, self.student_precision)
        hashes = [hash_text(text) for text in texts]
        missing = self.embeddings.missing(key, hashes)
        if missing:
            text_of = dict(zip(hashes, texts, strict=True))
            model = load() if load else self.load_student(path, self.student_precision)
            step = _CHUNK_BATCHES * self.settings.batch_size
            for start in range(0, len(missing), step):
                part = missing[start : start + step]
                batch = [text_of[h] for h in part]
                vectors = encode_texts(
                    model, batch, role, batch_size=self.settings.batch_size, show_progress=self.show_progress
                )
                self.embeddings.append(key, part, vectors)
        return self.embeddings.view(key, hashes), len(missing)


def collection_folder(settings: Settings) -> Path:
    """`data/` for the embedded collection, a folder of its own below it for any other, so that two never mix."""
    path = settings.collection_path
    if path is None:
        return settings.data_folder
    return settings.data_folder / f"beir-{path.name}-{hash_text(str(path))[:6]}"


def open_source(settings: Settings) -> Source:
    """The source that `settings.collection` names. The inbox in the data folder is made where it is missing."""
    path = settings.collection_path
    if path is None:
        return PythonApiSource(settings.packages, body_words=settings.body_words)
    if settings.collection == INBOX:
        path.mkdir(parents=True, exist_ok=True)
    return BeirSource(path, max_unknown_qrels=settings.max_unknown_qrels)
