"""Searching all documents: BM25 and exact dense search over one corpus."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from distill_assets.errors import SourceError
from distill_assets.handles.vectors import Vectors
from distill_assets.records import Query
from distill_assets.retrieval.bm25 import LexicalCache, LexicalIndex
from distill_assets.retrieval.dense import FoundRows, search_dense
from distill_assets.retrieval.rankings import Ranking, Run, without_own
from distill_assets.storage.embeddings import StoredVectors


@dataclass(frozen=True)
class Corpus:
    """All documents of the collection, sorted by id. `contents` is what encoders read; `version` changes with any of them."""

    doc_ids: list[str] = field(repr=False)
    contents: list[str] = field(repr=False)
    version: str

    def __post_init__(self) -> None:
        """Refuse a collection without documents."""
        if not self.doc_ids:
            raise SourceError("the batches bring no document: there is nothing to search")

    @cached_property
    def content_of(self) -> dict[str, str]:
        """doc_id -> content."""
        return dict(zip(self.doc_ids, self.contents, strict=True))


@dataclass(frozen=True)
class Retrieval:
    """What finds documents of `corpus` for queries. A query that is itself a document never finds itself.

    `judged` are the doc_ids judged relevant for each query: an answer is never the query itself.
    """

    corpus: Corpus
    lexical: LexicalCache
    vectors: Vectors
    judged: Mapping[str, Container[str]]

    def index(self) -> LexicalIndex:
        """The BM25 index of this corpus, from the cache."""
        return self.lexical.load_or_build(self.corpus.version, self.corpus.doc_ids, self.corpus.contents)

    def bm25(self, queries: Sequence[Query], k: int) -> Run:
        """Top k by BM25, a query's own document left out."""
        return self._without_own(queries, self.index().search([q.text for q in queries], k))

    def dense(self, path: Path, queries: Sequence[Query], k: int) -> Run:
        """Exact top k by cosine with the bi-encoder at `path`, a query's own document left out."""
        documents = self.vectors.embed(path, self.corpus.contents, "document")
        if not queries:  # the store knows no dimension before its first vector
            return {}
        query_vectors = self.vectors.embed(path, [q.text for q in queries], "query")[:]
        found = search_vectors(self.vectors, query_vectors, documents, self.corpus.doc_ids, k)
        return self._without_own(queries, found.rankings(self.corpus.doc_ids))

    def _without_own(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> Run:
        return without_own(queries, rankings, self.corpus.content_of, self.judged)


def search_vectors(
    vectors: Vectors, queries: np.ndarray, documents: np.ndarray | StoredVectors, doc_ids: Sequence[str], k: int
) -> FoundRows:
    """Exact top k among document vectors at hand, within the memory that the settings allow; on the GPU where there is one."""
    device = "cuda" if vectors.models.device == "cuda" else "cpu"
    return search_dense(queries, documents, doc_ids, k=k, memory_mb=vectors.settings.search_memory_mb, device=device)
