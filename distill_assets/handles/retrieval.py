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
from distill_assets.retrieval.dense import Blocks, FoundRows, VectorRows, search_dense_rows
from distill_assets.retrieval.rankings import Run, without_own


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

    def bm25_rows(self, queries: Sequence[Query], k: int) -> FoundRows:
        """Top k by BM25 as positions in the corpus, a query's own document not yet left out."""
        return self.index().search_rows([q.text for q in queries], k)

    def bm25(self, queries: Sequence[Query], k: int) -> Run:
        """Top k by BM25."""
        return self.without_own(queries, self.bm25_rows(queries, k))

    def dense_rows(self, path: Path, queries: Sequence[Query], k: int) -> FoundRows:
        """Exact top k by cosine with the bi-encoder at `path`, as positions in the corpus. Known vectors are not computed again."""
        documents = self.vectors.embed(path, self.corpus.contents, "document")
        if not queries:  # the store knows no dimension before its first vector
            return FoundRows(np.empty((0, k), np.int64), np.empty((0, k), np.float32))
        return search_vectors(
            self.vectors,
            self.vectors.embed(path, [q.text for q in queries], "query")[:],
            documents,
            self.corpus.doc_ids,
            k,
        )

    def dense(self, path: Path, queries: Sequence[Query], k: int) -> Run:
        """Exact top k by cosine."""
        return self.without_own(queries, self.dense_rows(path, queries, k))

    def without_own(self, queries: Sequence[Query], found: FoundRows) -> Run:
        """What was found for these queries as rankings, a query's own document left out."""
        return without_own(queries, found.rankings(self.corpus.doc_ids), self.corpus.content_of, self.judged)


def search_vectors(
    vectors: Vectors, queries: np.ndarray, documents: VectorRows, doc_ids: Sequence[str], k: int
) -> FoundRows:
    """Exact top k among document vectors at hand, within the memory that the settings allow."""
    from distill_assets.models.encoders import EncoderPrecision, has_fast_bf16

    blocks = Blocks.within(vectors.settings.search_memory_mb, dimension=queries.shape[1], k=k)
    # The matrix product only selects, so its precision moves no result (retrieval/dense.py).
    precision: EncoderPrecision = "bf16" if has_fast_bf16("cpu") else "fp32"
    return search_dense_rows(queries, documents, doc_ids, k=k, blocks=blocks, precision=precision)
