"""Searching all documents: BM25 and exact dense search over one corpus."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from distill_assets.errors import SourceError
from distill_assets.handles.vectors import Vectors
from distill_assets.records import Query
from distill_assets.retrieval.bm25 import LexicalCache, LexicalIndex
from distill_assets.retrieval.dense import FoundRows, search_dense
from distill_assets.retrieval.passages import best_passages, documents_of
from distill_assets.retrieval.rankings import Ranking, Run, without_own
from distill_assets.storage.embeddings import StoredVectors

T = TypeVar("T")
Search = Callable[[Sequence[T], int], Sequence[Ranking]]  # queries, depth -> what is found first for each


@dataclass(frozen=True)
class Corpus:
    """All documents of the collection, sorted by id. `contents` is what encoders read; `version` changes with any of them.

    A document that was cut is there as its passages; `parent_of` names the document of each.
    """

    doc_ids: list[str] = field(repr=False)
    contents: list[str] = field(repr=False)
    version: str
    parent_of: Mapping[str, str] = field(default_factory=dict, repr=False)

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

    `judged` are the doc_ids judged relevant for each query: an answer is never the query itself. A search gives the passages of the
    first `k` documents, at most `per_document` of each; one that was not cut is its only passage.
    """

    corpus: Corpus
    lexical: LexicalCache
    vectors: Vectors
    judged: Mapping[str, Container[str]]

    def index(self) -> LexicalIndex:
        """The BM25 index of this corpus, from the cache."""
        return self.lexical.load_or_build(self.corpus.version, self.corpus.doc_ids, self.corpus.contents)

    def bm25(self, queries: Sequence[Query], k: int, per_document: int = 1) -> Run:
        """Top k by BM25, a query's own document left out."""
        index = self.index()
        return self._search(queries, k, per_document, lambda asked, depth: index.search([q.text for q in asked], depth))

    def dense(self, path: Path, queries: Sequence[Query], k: int, per_document: int = 1) -> Run:
        """Exact top k by cosine with the bi-encoder at `path`, a query's own document left out."""
        documents = self.vectors.embed(path, self.corpus.contents, "document")

        def search(asked: Sequence[Query], depth: int) -> Sequence[Ranking]:
            vectors = self.vectors.embed(path, [q.text for q in asked], "query")[:]
            found = search_vectors(self.vectors, vectors, documents, self.corpus.doc_ids, depth)
            return found.rankings(self.corpus.doc_ids)

        return self._search(queries, k, per_document, search)

    def _search(self, queries: Sequence[Query], k: int, per_document: int, search: Search[Query]) -> Run:
        corpus = self.corpus

        def search_others(asked: Sequence[Query], depth: int) -> Sequence[Ranking]:
            run = without_own(asked, search(asked, depth), corpus.content_of, self.judged, corpus.parent_of)
            return list(run.values())

        found = search_documents(corpus, queries, k, per_document, search_others)
        return {query.query_id: ranking for query, ranking in zip(queries, found, strict=True)}


def search_documents(
    corpus: Corpus, queries: Sequence[T], k: int, per_document: int, search: Search[T]
) -> list[Ranking]:
    """Per query the passages of the first `k` documents, at most `per_document` of each.

    `search` gives the first passages. A query whose passages are of fewer than `k` documents searches four times as deep, until it has
    `k` or there are no more.
    """
    found: list[Ranking] = [[] for _ in queries]
    left, depth, num_passages = list(range(len(queries))), k, len(corpus.doc_ids)
    while left:
        rankings = search([queries[row] for row in left], min(depth, num_passages))
        for row, ranking in zip(left, rankings, strict=True):
            found[row] = best_passages(ranking, corpus.parent_of, k, per_document)
        is_whole = not corpus.parent_of or depth >= num_passages
        left = [] if is_whole else [row for row in left if len(documents_of(found[row], corpus.parent_of)) < k]
        depth *= 4
    return found


def search_vectors(
    vectors: Vectors, queries: np.ndarray, documents: np.ndarray | StoredVectors, doc_ids: Sequence[str], k: int
) -> FoundRows:
    """Exact top k among document vectors at hand, within the memory that the settings allow; on the GPU where there is one."""
    device = "cuda" if vectors.models.device == "cuda" else "cpu"
    return search_dense(queries, documents, doc_ids, k=k, memory_mb=vectors.settings.search_memory_mb, device=device)
