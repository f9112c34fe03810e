"""Exact dense search: the best documents by inner product for many queries, in memory that a setting bounds.

A matrix product only *selects* here. It adds in an order that depends on its shape, and in bf16 it rounds; whatever can be
among the best `k` within its error bound is scored again, pair by pair, by one fixed rule. The result is therefore the
same whatever the block sizes and the precision of the product, and equal vectors tie by `doc_id`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.retrieval.rankings import Ranking

Precision = Literal["fp32", "bf16"]

_Floats = npt.NDArray[np.float32]
_Doubles = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.int64]
_EPSILON = float(np.finfo(np.float32).eps)
_TINY = float(np.finfo(np.float32).tiny)
_BF16_ROUNDOFF = 2.0**-9  # 8 significant bits, rounded to nearest
_BF16_NORMS = (1e-6, 1e6)  # far from where bf16 products under- or overflow, which its bound does not cover
_BF16_MIN_QUERIES = 64  # below, turning the documents into bf16 costs more than the product saves
_FEW_QUERIES_DOCS = 2048
_RESCORED_ROWS = 1024  # rows rescored at once: 1,024 x 384 float64 is 3 MB, whatever number of documents tie
_FLOOR_GROUPS = 2  # groups per wanted document in the first look for a floor
_COMPACT_AT = 4  # candidates per wanted document that are kept before the floor is raised and the rest dropped
_CANDIDATE_BYTES = 3 * 2 * _COMPACT_AT * 16  # row, document, score, and the copies that compacting makes of them


class VectorRows(Protocol):
    """Rows of float32 vectors: an array, or a view of a store that reads them when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dimension)."""
        ...

    def __getitem__(self, rows: "slice | _Rows", /) -> _Floats:
        """The vectors of these rows."""
        ...


class FoundRows(NamedTuple):
    """The best documents of each query, best first.

    `rows` int64 (num_queries, k) are positions among the documents, -1 past the end of a short list; `scores` float32 of
    the same shape, -inf there.
    """

    rows: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    def rankings(self, doc_ids: Sequence[str]) -> list[Ranking]:
        """The same as (doc_id, score) lists."""
        return [
            [(doc_ids[row], score) for row, score in zip(rows, scores, strict=True) if row >= 0]
            for rows, scores in zip(self.rows.tolist(), self.scores.tolist(), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Blocks:
    """How much is worked on at once; never changes a result.

    `docs` x `queries` is the shape of one matrix product. Each pass over the documents serves `queries_per_pass` queries.
    """

    docs: int
    queries: int
    queries_per_pass: int

    def __post_init__(self) -> None:
        """Refuse sizes that would never get anywhere."""
        for name in ("docs", "queries", "queries_per_pass"):
            if getattr(self, name) < 1:
                raise ValueError(f"block of {name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def within(cls, memory_mb: int, *, dimension: int, k: int) -> "Blocks":
        """Blocks that keep search below `memory_mb` above its vectors and its result.

        A quarter each for a block's vectors and its scores, half for the candidates of the queries of a pass.
        """
        if memory_mb < 1:
            raise ValueError(f"memory_mb must be at least 1, got {memory_mb}")
        budget = memory_mb * 2**20
        queries = max(1, min(512, math.isqrt(budget // 32)))
        docs = max(1, min(16_384, budget // 4 // (6 * queries), budget // 4 // (10 * dimension)))
        return cls(docs, queries, max(queries, budget // 2 // (_CANDIDATE_BYTES * k + 16 * dimension)))


def search_dense(
    query_vectors: npt.ArrayLike,
    doc_vectors: VectorRows,
    doc_ids: Sequence[str],
    *,
    k: int,
    blocks: Blocks | None = None,
    precision: Precision = "fp32",
) -> list[Ranking]:
    """`search_dense_rows` as one (doc_id, score) ranking for each query, in the order of `query_vectors`."""
    found = search_dense_rows(query_vectors, doc_vectors, doc_ids, k=k, blocks=blocks, precision=precision)
    return found.rankings(doc_ids)


def search_dense_rows(
    query_vectors: npt.ArrayLike,
    doc_vectors: VectorRows,
    doc_ids: Sequence[str],
    *,
    k: int,
    blocks: Blocks | None = None,
    precision: Precision = "fp32",
) -> FoundRows:
    """The `k` documents with the highest inner product for each query, exact, in bounded memory.

    Scores are products exact in float64, summed over the dimensions by one fixed rule, rounded to float32; that is also the
    precision in which trec_eval compares, so an exported run keeps this order there.

    Args:
        query_vectors: float32 (num_queries, dimension).
        doc_vectors: float32 (num_docs, dimension); each block is read once per pass, candidates once more.
        doc_ids: distinct ids, one for each row of `doc_vectors`; they decide between equal scores, greater first.
        k: how many documents per query, at least 1.
        blocks: sizes that bound memory; by default those of 256 MB.
        precision: of the matrix product that selects. bf16 is faster where the hardware has it, the result is the same.

    Raises:
        ShapeError: dimensions differ, or ids and document vectors differ in number.
        NonFiniteError: a vector holds a NaN or an infinity, or a product overflows float32.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    queries = np.ascontiguousarray(query_vectors, dtype=np.float32)
    _require_shapes(queries, doc_vectors, doc_ids)
    sizes = blocks or Blocks.within(256, dimension=max(1, queries.shape[1]), k=k)
    if (
        len(queries) < _BF16_MIN_QUERIES
    ):  # little work per block: it stays in the cache between its norms and its product
        sizes = replace(sizes, docs=min(sizes.docs, _FEW_QUERIES_DOCS))
    found = FoundRows(np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32))
    for first in range(0, len(queries), sizes.queries_per_pass):
        part = slice(first, first + sizes.queries_per_pass)
        for start, best in _one_pass(queries[part], doc_vectors, doc_ids, k, sizes, precision):
            rows, documents, scores = best.finish()
            at = (first + start + rows, places_of(rows))
            found.rows[at], found.scores[at] = documents, scores
    return found


def _one_pass(
    queries: _Floats, doc_vectors: VectorRows, doc_ids: Sequence[str], k: int, sizes: Blocks, precision: Precision
) -> "list[tuple[int, _Best]]":
    """Every document offered to every query, in blocks of both."""
    starts = range(0, len(queries), sizes.queries)
    parts = [(start, _Best(queries[start : start + sizes.queries], doc_vectors, doc_ids, k)) for start in starts]
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    if not np.isfinite(norms).all():
        raise _not_finite(int((~np.isfinite(norms)).sum()), "query vectors")
    is_bf16 = precision == "bf16" and len(queries) >= _BF16_MIN_QUERIES and _is_within(norms, *_BF16_NORMS)
    for first in range(0, doc_vectors.shape[0], sizes.docs):
        block = np.ascontiguousarray(doc_vectors[first : first + sizes.docs], dtype=np.float32)
        largest = _largest_norm(block)
        product = _Bf16Product(block) if is_bf16 and _is_within(largest, *_BF16_NORMS) else _Fp32Product(block)
        for start, best in parts:
            errors = product.error * norms[start : start + len(best.queries)] * largest + product.underflow
            best.offer(product, first, errors, may_overflow=float(norms.max()) * largest > 1e37)
    return parts


@dataclass
class _Fp32Product:
    """Inner products of a block by float32 matrix product.

    Error, for any order of summation: Higham, Accuracy and Stability of Numerical Algorithms, eq. 3.5: dimension x unit
    roundoff x |q| x |d|. Epsilon is twice the unit roundoff, 4 more terms cover the rounding to float32 of the exact
    score, the last addend is for underflow.
    """

    block: _Floats

    @property
    def error(self) -> float:
        return (self.block.shape[1] + 4) * _EPSILON

    @property
    def underflow(self) -> float:
        return (self.block.shape[1] + 4) * _TINY

    def keys(self, queries: _Floats) -> _Floats:
        """Scores; their own order is the order of the scores."""
        # By torch, not by NumPy's BLAS: threads of one library still spin when the other begins, and a search right after encoding its
        # query took 24 ms (108 at the 95th percentile) instead of 10 (13).
        import torch

        scores: _Floats = (torch.from_numpy(queries) @ torch.from_numpy(self.block).T).numpy()
        return scores

    @staticmethod
    def threshold(scores: _Doubles) -> _Floats:
        """The greatest key that is certainly not above each score."""
        with np.errstate(over="ignore"):
            return np.nextafter(scores.astype(np.float32), np.float32(-np.inf), dtype=np.float32)

    @staticmethod
    def scores(keys: npt.NDArray[Any]) -> _Floats:
        return keys


@dataclass
class _Bf16Product:
    """Inner products of a block by bf16 matrix product, which adds in float32.

    Error: both factors and the result are rounded to 8 bits, each by 2^-9; the sum as in float32. The keys are the bits of
    the results as integers of the same order, so that half the memory of float32 is compared.
    """

    block: _Floats
    transposed: object = field(init=False)

    def __post_init__(self) -> None:
        import torch

        self.transposed = torch.from_numpy(self.block).to(torch.bfloat16).T

    @property
    def error(self) -> float:
        return 3.01 * _BF16_ROUNDOFF + (self.block.shape[1] + 4) * _EPSILON

    @property
    def underflow(self) -> float:
        return (self.block.shape[1] + 4) * _TINY

    def keys(self, queries: _Floats) -> npt.NDArray[np.int16]:
        import torch

        products = torch.from_numpy(queries).to(torch.bfloat16) @ self.transposed  # type: ignore[operator]
        return _ordered(products.view(torch.int16).numpy())

    @staticmethod
    def threshold(scores: _Doubles) -> npt.NDArray[np.int16]:
        bits = _Fp32Product.threshold(scores).view(np.int32)
        return (_ordered(bits) >> 16).astype(np.int16)  # an arithmetic shift rounds down

    @staticmethod
    def scores(keys: npt.NDArray[Any]) -> _Floats:
        return (_ordered(keys).astype(np.int32) << 16).view(np.float32)


_Product = _Fp32Product | _Bf16Product


def _ordered(bits: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.signedinteger]:
    """Bits of floats as integers in the order of the floats, and back: negative ones have all bits but the sign turned."""
    width = 8 * bits.dtype.itemsize
    return bits ^ ((bits >> (width - 1)) & bits.dtype.type(2 ** (width - 1) - 1))


@dataclass
class _Best:
    """What can still be among the best `k` of a block of queries.

    `floors` float64 (num_queries,): a score that k documents are known to reach, so that nothing below it is needed.
    """

    queries: _Floats
    doc_vectors: VectorRows
    doc_ids: Sequence[str]
    k: int
    floors: _Doubles = field(init=False)
    errors: _Doubles = field(init=False)
    kept: list[tuple[_Rows, _Rows, _Floats]] = field(default_factory=list)
    num_kept: int = 0

    def __post_init__(self) -> None:
        self.floors = np.full(len(self.queries), -np.inf)
        self.errors = np.zeros(len(self.queries))

    def offer(self, product: "_Product", first: int, errors: _Doubles, *, may_overflow: bool) -> None:
        """Keep the documents of a block, which begins at row `first`, that reach the floor within the error."""
        keys = product.keys(self.queries)
        if may_overflow and not np.isfinite(keys).all():
            raise _not_finite(int((~np.isfinite(keys)).sum()), "inner products")
        if not self.kept:
            np.maximum(self.floors, _group_floor(product, keys, self.k) - errors, out=self.floors)
        self.errors = np.maximum(self.errors, errors)
        hits = np.flatnonzero(keys >= product.threshold(self.floors - errors)[:, None])
        if not len(hits):
            return
        queries, columns = np.divmod(hits, keys.shape[1])
        self.kept.append((queries, columns + first, product.scores(keys.ravel()[hits])))
        self.num_kept += len(hits)
        if self.num_kept > self._limit:
            self._compact()
            if self.num_kept > self._limit // 2:  # many within the error of the k-th: only their exact scores tell
                self._settle()

    def finish(self) -> tuple[_Rows, _Rows, _Floats]:
        """(query, document, exact score) of the best `k`, sorted by query, then best first."""
        if not self.kept:
            empty = np.empty(0, np.int64)
            return empty, empty, np.empty(0, np.float32)
        self._compact()
        self._settle()
        return self.kept[0]

    @property
    def _limit(self) -> int:
        return _COMPACT_AT * self.k * len(self.queries)

    def _compact(self) -> None:
        """Raise the floors to the k-th best kept and drop what is below; leave one sorted part."""
        queries, documents, scores = (np.concatenate(part) for part in zip(*self.kept, strict=True))
        order = np.lexsort((-scores, queries))
        queries, documents, scores = queries[order], documents[order], scores[order]
        starts = np.searchsorted(queries, np.arange(len(self.queries) + 1))
        full = np.flatnonzero(np.diff(starts) >= self.k)
        kth = scores[starts[full] + self.k - 1].astype(np.float64)
        self.floors[full] = np.maximum(self.floors[full], kth - self.errors[full])
        stay = scores >= (self.floors - self.errors)[queries]
        self._keep(queries[stay], documents[stay], scores[stay])

    def _settle(self) -> None:
        """Score what is kept exactly and keep the best `k` in the one total order."""
        queries, documents, _ = self.kept[0]
        scores = self._exact_scores(queries, documents)
        order = np.lexsort((-scores, queries))
        queries, documents, scores = queries[order], documents[order], scores[order]
        ties = _tie_ranks(queries, documents, scores, self.doc_ids)
        if ties is not None:
            order = np.lexsort((-ties, -scores, queries))
            documents, scores = documents[order], scores[order]
        stay = places_of(queries) < self.k
        self._keep(queries[stay], documents[stay], scores[stay])

    def _keep(self, queries: _Rows, documents: _Rows, scores: _Floats) -> None:
        self.kept, self.num_kept = [(queries, documents, scores)], len(queries)

    def _exact_scores(self, queries: _Rows, documents: _Rows) -> _Floats:
        """Inner products, each computed alone, rounded to float32.

        The product of two float32 is exact in float64, and `vecdot` adds each row's by itself: neither the other rows nor
        the blocks move a bit.
        """
        exact = self.queries.astype(np.float64)
        scores = np.empty(len(queries), np.float32)
        for start in range(0, len(queries), _RESCORED_ROWS):
            part = slice(start, start + _RESCORED_ROWS)
            vectors = np.ascontiguousarray(self.doc_vectors[documents[part]], dtype=np.float64)
            scores[part] = np.vecdot(vectors, exact[queries[part]])
        return scores


def places_of(queries: _Rows) -> _Rows:
    """Place of each entry within its query, from 0; `queries` is sorted."""
    return np.arange(len(queries)) - np.searchsorted(queries, queries)


def _group_floor(product: "_Product", keys: npt.NDArray[np.generic], k: int) -> _Doubles:
    """A score that k documents of the block reach by the product: the k-th best of the maxima of disjoint groups."""
    num_groups = min(keys.shape[1], _FLOOR_GROUPS * k)
    if num_groups < k:
        return np.full(len(keys), -np.inf)
    size = keys.shape[1] // num_groups
    # Groups are strides apart: the maximum of whole rows is vectorised, that of neighbours is not.
    maxima = keys[:, : size * num_groups].reshape(len(keys), size, num_groups).max(axis=1)
    kth = np.partition(maxima, num_groups - k, axis=1)[:, num_groups - k]
    return product.scores(kth).astype(np.float64)


def _tie_ranks(queries: _Rows, documents: _Rows, scores: _Floats, doc_ids: Sequence[str]) -> _Rows | None:
    """For sorted results, the rank of the ids of those documents that tie with a neighbour, 0 elsewhere; None without ties."""
    same = (queries[1:] == queries[:-1]) & (scores[1:] == scores[:-1])
    if not same.any():
        return None
    tied = np.concatenate([same, [False]]) | np.concatenate([[False], same])
    distinct, places = np.unique(documents[tied], return_inverse=True)
    by_id = sorted(range(len(distinct)), key=lambda i: doc_ids[int(distinct[i])])
    ranks = np.empty(len(distinct), np.int64)
    ranks[by_id] = np.arange(len(distinct))
    ties = np.zeros(len(documents), np.int64)
    ties[tied] = ranks[places]
    return ties


def _largest_norm(block: _Floats) -> float:
    """An upper bound of the largest norm, off by float32 rounding at most."""
    squares = np.einsum("ij,ij->i", block, block)
    largest = float(squares.max(initial=0.0))
    if np.isfinite(largest) and float(squares.min(initial=1.0)) > 1e-20:
        return math.sqrt(largest * (1 + 2 * block.shape[1] * _EPSILON))
    # Squares under- or overflow in float32: a bound of 0 or NaN would lose documents.
    squares = np.einsum("ij,ij->i", block, block, dtype=np.float64)
    if not np.isfinite(squares).all():
        raise _not_finite(int((~np.isfinite(squares)).sum()), "document vectors")
    return math.sqrt(float(squares.max(initial=0.0)))


def _is_within(values: "float | _Doubles", low: float, high: float) -> bool:
    return bool(np.all((values >= low) & (values <= high)))  # type: ignore[operator]


def _not_finite(num_bad: int, what: str) -> NonFiniteError:
    return NonFiniteError(
        f"{num_bad} {what} are not finite: a query or document vector holds a NaN or an infinity; encode the texts again"
    )


def _require_shapes(queries: _Floats, doc_vectors: VectorRows, doc_ids: Sequence[str]) -> None:
    if queries.ndim != 2 or len(doc_vectors.shape) != 2 or queries.shape[1] != doc_vectors.shape[1]:
        raise ShapeError(
            f"queries {queries.shape} and documents {doc_vectors.shape} must both be (rows, dimension) of one "
            "dimension: encode both with the same model"
        )
    if len(doc_ids) != doc_vectors.shape[0]:
        raise ShapeError(f"{len(doc_ids)} doc_ids for {doc_vectors.shape[0]} document vectors: every row needs its id")
