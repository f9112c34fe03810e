"""Texts to vectors: what an encoder has embedded before comes from the store, the rest is encoded and kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distill_assets.handles.models import Models
from distill_assets.models.folders import read_json
from distill_assets.records import fingerprint, hash_text
from distill_assets.settings.values import Settings
from distill_assets.storage.embeddings import EmbeddingStore, StoredVectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from distill_assets.models.encoders import Role

_CHUNK_BATCHES = 64  # batches encoded between two commits: 2,048 texts by default, a minute of work on two slow cores


@dataclass(frozen=True)
class Vectors:
    """Unit vectors by (encoder, role, text)."""

    settings: Settings
    models: Models
    store: EmbeddingStore

    def embed(
        self,
        path: Path,
        texts: Sequence[str],
        role: "Role",
        load: "Callable[[], SentenceTransformer] | None" = None,
    ) -> StoredVectors:
        """Unit vectors of `texts` in order by the bi-encoder at `path`, read from the memory-mapped store when rows are asked for.

        What is encoded is committed every few thousand texts, so that a killed run pays for at most those again. They are stored in
        the order of `texts`: a search reads them from end to end. `load` gives the model where some have to be encoded.
        """
        path, key = self._key(path, role)
        hashes = [hash_text(text) for text in texts]
        missing = self.store.missing(key, hashes)
        if missing:
            text_of = dict(zip(hashes, texts, strict=True))
            model = load() if load else self.models.load_student(path, self.models.student_precision)
            step = _CHUNK_BATCHES * self.settings.batch_size
            for start in range(0, len(missing), step):
                part = missing[start : start + step]
                self.store.append(key, part, self._encode(model, [text_of[h] for h in part], role))
        return self.store.view(key, hashes)

    def num_missing(self, path: Path, texts: Sequence[str], role: "Role") -> int:
        """How many distinct texts `embed` would have to encode."""
        path, key = self._key(path, role)
        return len(self.store.missing(key, [hash_text(text) for text in texts]))

    def look_up(self, path: Path, texts: Sequence[str], role: "Role") -> np.ndarray:
        """The same as an array, and nothing new is kept: a search must not fill the disk with its queries.

        Where `shared_stores` is set, known vectors of the line's own store are copied to the shared one.
        """
        path, key = self._key(path, role)
        hashes = [hash_text(text) for text in texts]
        missing = set(self.store.missing(key, hashes))
        known = [h for h in hashes if h not in missing]
        if not missing:
            return self.store.view(key, hashes)[:]
        text_of = dict(zip(hashes, texts, strict=True))
        model = self.models.load_student(path, self.models.student_precision)
        encoded = dict(zip(missing, self._encode(model, [text_of[h] for h in missing], role), strict=True))
        stored = dict(zip(known, self.store.view(key, known)[:], strict=True)) if known else {}
        return np.stack([encoded[h] if h in encoded else stored[h] for h in hashes])

    def cosines(
        self,
        path: Path,
        pairs: Sequence[tuple[str, str]],
        load: "Callable[[], SentenceTransformer] | None" = None,
    ) -> np.ndarray:
        """Cosine of each (query, document) by the bi-encoder at `path`, float32 (len(pairs),). Each text is looked up once."""
        if not pairs:
            return np.empty(0, np.float32)
        query_row = {text: row for row, text in enumerate(dict.fromkeys(query for query, _ in pairs))}
        document_row = {text: row for row, text in enumerate(dict.fromkeys(document for _, document in pairs))}
        queries = self.embed(path, list(query_row), "query", load)[:]
        documents = self.embed(path, list(document_row), "document", load)[:]
        left, right = [query_row[query] for query, _ in pairs], [document_row[document] for _, document in pairs]
        return (queries[left] * documents[right]).sum(axis=1)

    def keeps_documents(self, path: Path) -> bool:
        """Whether the student at `path` was trained on its query side alone, from today's untouched student: same document vectors."""
        if not (path / "manifest.json").is_file():
            return False
        manifest = read_json(path / "manifest.json")
        is_tower = manifest.get("recipe", {}).get("train") == "query_tower"
        return is_tower and manifest["student"]["fingerprint"] == self.models.student_id

    def _key(self, path: Path, role: "Role") -> tuple[Path, str]:
        """The encoder that really embeds, and the key of its vectors: encoder, role, and the precision that is used."""
        if role == "document" and self.keeps_documents(path):
            path = self.models.student_path
        precision = self.models.student_precision
        # Query towers were pooled in bf16 by an older version: those vectors are not used again.
        again = ("pooled in fp32",) if precision == "bf16" and _is_router(path) else ()
        return path, fingerprint(self.models.encoder_id(path), role, precision, *again)

    def _encode(self, model: "SentenceTransformer", texts: list[str], role: "Role") -> np.ndarray:
        from distill_assets.models.encoders import encode_texts

        return encode_texts(model, texts, role, batch_size=self.settings.batch_size)


def _is_router(path: Path) -> bool:
    modules = path / "modules.json"
    return modules.is_file() and any(entry["type"].endswith(".Router") for entry in read_json(modules))
