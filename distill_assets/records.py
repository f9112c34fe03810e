"""Documents, queries, judgements, the names of systems, and the hashes that the stores have as keys."""

import hashlib
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
# Names of the systems that are compared; every other one is a recipe, a baseline, or fused from BM25 and one of these (`hybrid_of`).
# `hard_labels` is the recipe that the others are tested against.
BM25, HYBRID, UNTOUCHED_STUDENT, TEACHER = "bm25", "hybrid", "untouched_student", "teacher"
RESERVED_SYSTEMS: tuple[str, ...] = (BM25, HYBRID, UNTOUCHED_STUDENT, TEACHER)
HARD_LABELS = "hard_labels"
MIN_QUERIES = 20  # fewer say nothing about other queries: with 12 pairs a champion was promoted on one test query
Rule = Literal["source", "batch", "length", "code"]  # what makes groups of queries (evaluation/groups.py)


def hybrid_of(encoder: str) -> str:
    """Name of the system that fuses BM25 and this bi-encoder: `hybrid` for the untouched student, else `hybrid:NAME`."""
    return HYBRID if encoder == UNTOUCHED_STUDENT else f"{HYBRID}:{encoder}"


def is_hybrid(system: str) -> bool:
    """Whether a system fuses BM25 and a bi-encoder."""
    return system.partition(":")[0] == HYBRID


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


class Documents(Protocol):
    """Documents that can be gone through more than once: a list, or those of a file (`documents.py`)."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Document]: ...


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

    documents: Documents
    queries: list[Query]
    qrels: list[Qrel]
    num_dropped_qrels: int = 0
    num_blank: int = 0  # documents and queries without text, which were dropped
    labels: Mapping[str, str] = field(default_factory=dict)  # query_id -> its group, where the source names one
    unread: Mapping[str, str] = field(default_factory=dict)  # files that were there and not read -> why, and what to do


def normalise(text: str) -> str:
    """A text as texts are compared: composed characters (NFC), case folded, every run of white space one space."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


_COMMON_PASSAGE = 80  # letters: half of a shorter passage may be in a query by chance


def is_own_document(query: Query, doc_id: str, content: str, judged: Container[str], is_passage: bool = False) -> bool:
    """Whether a document is the query itself, which must not be found: ArguAna's and Quora's queries are in the corpus.

    It is if both texts are the same, or if the ids are and the document holds the query's text (ArguAna adds titles). Equal ids
    alone do not count: a FAQ may number questions and answers alike. A document that is `judged` relevant is an answer. BEIR
    PR 91 left queries out of their own rankings: ArguAna's nDCG rose from 31.5 to 41.4. Of a passage `doc_id` is its document's; the
    query may hold it without its title, which is in the first half.
    """
    if doc_id in judged:
        return False
    asked = normalise(query.text)
    if doc_id == query.query_id:
        text = normalise(content)
        return asked in text or (is_passage and len(text) >= _COMMON_PASSAGE and text[len(text) // 2 :] in asked)
    # Few documents begin as the query does. The others need not be normalised as a whole.
    begins = normalise(content.lstrip()[:64])[:16]
    return asked.startswith(begins) and asked == normalise(content)


def hash_text(text: str) -> str:
    """Content key of a text: the first 128 bits of its SHA-256, as 32 hex digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:32]


def fingerprint(*parts: object) -> str:
    """Fingerprint of several values, order kept, unambiguous (each part is length-prefixed). 32 hex digits."""
    return fingerprint_each(parts)


def fingerprint_each(parts: Iterable[object]) -> str:
    """`fingerprint` of values that need not all be in memory."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = str(part).encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]


def fingerprint_rows(rows: Iterable[tuple[object, ...]]) -> str:
    """Fingerprint of a table's rows in any order: the sorted row fingerprints are hashed."""
    return fingerprint(*sorted(fingerprint(*row) for row in rows))


def hash_share(key: str) -> float:
    """Where a key falls in [0, 1) by hash, independent of its split."""
    return int.from_bytes(hashlib.sha256(f"share of {key}".encode()).digest()[:6], "big") / 2**48


def assign_split(key: str) -> Split:
    """Deterministic split of a query by hash: train 80 %, dev 10 %, test 10 %.

    The split depends on the key alone, so it stays when a batch grows. The key is the normalised text if there is one: a question
    that is in a log twice, under two ids, must not be trained on and tested.
    """
    bucket = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") % 10
    if bucket == 8:
        return "dev"
    return "test" if bucket == 9 else "train"
