"""The records that travel between sources, core and storage, and the hashes that key the two stores."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the corpus. `title` may be empty, `text` may not."""

    doc_id: str
    title: str
    text: str

    @property
    def content(self) -> str:
        """What encoders read: title and text joined by one space (BEIR's convention)."""
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Query:
    """One query with the split that it belongs to."""

    query_id: str
    text: str
    split: Split


@dataclass(frozen=True, slots=True)
class Qrel:
    """One human judgement. `relevance` above 0 means relevant."""

    query_id: str
    doc_id: str
    relevance: int


@dataclass(frozen=True, slots=True)
class Collection:
    """What one batch brings: documents, queries, judgements; any of the three may be empty."""

    documents: list[Document]
    queries: list[Query]
    qrels: list[Qrel]
    num_dropped_qrels: int = 0


def hash_text(text: str) -> str:
    """Content key of a text: the first 128 bits of its SHA-256, as 32 hex digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def fingerprint(*parts: object) -> str:
    """Fingerprint of several values, order kept, unambiguous (each part is length-prefixed). 32 hex digits."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = str(part).encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]


def fingerprint_rows(rows: Iterable[tuple[object, ...]]) -> str:
    """Fingerprint of a table's rows, whatever order they come in (the sorted row fingerprints are hashed)."""
    return fingerprint(*sorted(fingerprint(*row) for row in rows))


def assign_split(key: str) -> Split:
    """Deterministic split of a query by hash: train 80 %, dev 10 %, test 10 %.

    The split depends on the key alone, so it never moves when a batch is ingested again or grows.
    """
    bucket = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") % 10
    if bucket == 8:
        return "dev"
    return "test" if bucket == 9 else "train"
