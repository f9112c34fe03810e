"""Ranking: the one total order, exact dense search in bounded memory, reciprocal-rank fusion.

The one total order is trec_eval's: score descending, then `doc_id` descending (by code point, which for UTF-8 is
trec_eval's byte order). Every ranking of this package is in it, so that equal scores cannot move a metric between
two runs. BM25 lives in `storage/lexical.py` and ranks in the same order.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distill_assets.core.errors import NonFiniteError, ShapeError

Ranking = list[tuple[str, float]]
Run = dict[str, Ranking]

_FloatArray = npt.NDArray[np.float32]
_EPSILON = float(np.finfo(np.float32).eps)
_TINY = float(np.finfo(np.float32).tiny)
_RESCORED_ROWS = 2048  # rows rescored at once: 2,048 x 384 float64 is 6 MB, whatever number of documents tie


def rank(doc_ids: Sequence[str], scores: npt.ArrayLike, k: int) -> Ranking:
    """The `k` best documents in the one total order, exact where several tie at the cut.

    Args:
        doc_ids: distinct ids, one for each score.
        scores: finite numbers, shape (len(doc_ids),).
        k: how many to keep, at least 1; all of them where there are fewer.

    Raises:
        ShapeError: ids and scores differ in number.
        NonFiniteError: a score is NaN or infinite; it would rank at random.
    """
    _require_positive(k=k)
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(doc_ids),):
        raise ShapeError(f"rank needs one score per document: got scores {values.shape} for {len(doc_ids)} documents")
    if not np.isfinite(values).all():
        num_bad = int((~np.isfinite(values)).sum())
        raise NonFiniteError(f"{num_bad} of {len(values)} scores are not finite: the model that gave them is damaged")
    kept = _at_least_kth(values, k)
    return sorted(((doc_ids[i], float(values[i])) for i in kept), key=_order, reverse=True)[:k]


def search_dense(
    query_vectors: npt.ArrayLike,
    doc_vectors: npt.NDArray[np.float32],
    doc_ids: Sequence[str],
    *,
    k: int,
    block_docs: int = 16_384,
    block_queries: int = 256,
) -> list[Ranking]:
    """The `k` documents with the highest inner product for each query, exact, in bounded memory.

    The result does not depend on the block sizes. A matrix product adds in an order that depends on its shape, so
    its float32 scores only *select* here: whatever can be among the best `k` within their rounding error is scored
    again, pair by pair, by one fixed rule (products exact in float64, summed over the dimensions in one fixed order,
    rounded to float32). Equal vectors therefore get equal scores and tie by `doc_id`. Float32 is also the precision
    in which trec_eval compares, so an exported run keeps this order there.

    Args:
        query_vectors: float32 (num_queries, dimension).
        doc_vectors: float32 (num_docs, dimension); may be memory-mapped, each block is read once.
        doc_ids: distinct ids, one for each row of `doc_vectors`.
        k: how many documents per query, at least 1.
        block_docs: documents per matrix product; bounds memory with `block_queries`, never changes the result.
        block_queries: queries per matrix product.

    Returns:
        One ranking for each query, in the order of `query_vectors`.

    Raises:
        ShapeError: dimensions differ, or ids and document vectors differ in number.
        NonFiniteError: a vector holds a NaN or an infinity, or a product overflows float32.
    """
    _require_positive(k=k, block_docs=block_docs, block_queries=block_queries)
    queries = np.ascontiguousarray(query_vectors, dtype=np.float32)
    _require_shapes(queries, doc_vectors, doc_ids)
    best: list[Ranking] = [[] for _ in queries]
    floors = np.full(len(queries), -np.inf)  # score that a document must reach to be among a query's best k so far
    query_norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    for start in range(0, len(doc_ids), block_docs):
        block = np.ascontiguousarray(doc_vectors[start : start + block_docs], dtype=np.float32)
        ids = doc_ids[start : start + block_docs]
        errors = _rounding_error(query_norms, block)
        for first in range(0, len(queries), block_queries):
            scores = _multiply(queries[first : first + block_queries], block)
            part = slice(first, first + len(scores))
            has_candidate = scores.max(axis=1) >= floors[part] - errors[part]
            for row in np.flatnonzero(has_candidate):
                query = first + int(row)
                candidates = _candidates(scores[row], floors[query], errors[query], k)
                rescored = _exact_scores(queries[query], block, candidates)
                found = [(ids[i], float(score)) for i, score in zip(candidates, rescored, strict=True)]
                best[query] = sorted(best[query] + found, key=_order, reverse=True)[:k]
                if len(best[query]) == k:
                    floors[query] = best[query][-1][1]
    return best


def fuse_reciprocal_rank(rankings: Sequence[Sequence[str]], *, k: int = 60) -> Ranking:
    """Fuse rankings by reciprocal rank: a document scores the sum of 1 / (k + rank) over the rankings that hold it.

    Cormack, Clarke & Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods"; ranks are 1-based and k = 60 is theirs. Symmetric: the order of the rankings never matters, not even in
    the last bit.

    Raises:
        ValueError: a ranking holds a document twice, which would count it twice.
    """
    _require_positive(k=k)
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for ranking in rankings:
        if len(set(ranking)) != len(ranking):
            raise ValueError(
                f"a ranking of {len(ranking)} documents holds only {len(set(ranking))} distinct ones: "
                "remove the repeats"
            )
        for position, doc_id in enumerate(ranking, start=1):
            parts[doc_id].append(1.0 / (k + position))
    # fsum rounds once: three or more terms give the same sum in any order.
    return sorted(((doc_id, math.fsum(terms)) for doc_id, terms in parts.items()), key=_order, reverse=True)


def _order(scored: tuple[str, float]) -> tuple[float, str]:
    """Sort key of the one total order; sort with ``reverse=True``."""
    return scored[1], scored[0]


def _at_least_kth(values: npt.NDArray[np.floating], k: int, slack: float = 0.0) -> npt.NDArray[np.intp]:
    """Positions of all values that reach the k-th largest less `slack`; every position when there are at most k."""
    if len(values) <= k:
        return np.arange(len(values))
    kth = float(np.partition(values, len(values) - k)[len(values) - k])
    return np.flatnonzero(values >= kth - slack)


def _candidates(scores: _FloatArray, floor: float, error: float, k: int) -> npt.NDArray[np.intp]:
    """Positions in one block that can be among the best k, each float32 score being off by at most `error`.

    k documents of the block reach (k-th float32 score - error), so one below (k-th - 2 error) is not among them.
    """
    reached = np.flatnonzero(scores >= floor - error)
    return reached[_at_least_kth(scores[reached].astype(np.float64), k, slack=2 * error)]


def _exact_scores(query: _FloatArray, block: _FloatArray, rows: npt.NDArray[np.intp]) -> _FloatArray:
    """Inner products of `query` with some rows of `block`, each computed alone, rounded to float32.

    The product of two float32 is exact in float64. Each row is contiguous, so NumPy sums it by the same pairwise
    scheme whatever other rows are there; that is what makes the result independent of the blocks.
    """
    exact = query.astype(np.float64)
    parts = [
        (block[rows[start : start + _RESCORED_ROWS]].astype(np.float64) * exact).sum(axis=1)
        for start in range(0, len(rows), _RESCORED_ROWS)
    ]
    return np.concatenate(parts).astype(np.float32)


def _rounding_error(query_norms: npt.NDArray[np.float64], block: _FloatArray) -> npt.NDArray[np.float64]:
    """Bound on |float32 matrix product - `_exact_scores`| per query, for any order of summation.

    Higham, Accuracy and Stability of Numerical Algorithms, eq. 3.5: dimension x unit roundoff x |q| x |d|. Epsilon is
    twice the unit roundoff, 4 more terms cover the rounding to float32 at the end, the last addend is for underflow.
    """
    dimension = block.shape[1]
    # In float64: squares of float32 under- or overflow in float32, and a bound of 0 or NaN would lose documents.
    largest = math.sqrt(float(np.einsum("ij,ij->i", block, block, dtype=np.float64).max()))
    bound: npt.NDArray[np.float64] = (dimension + 4) * (_EPSILON * query_norms * largest + _TINY)
    return bound


def _multiply(queries: _FloatArray, block: _FloatArray) -> _FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        scores: _FloatArray = queries @ block.T
    if not np.isfinite(scores).all():
        raise NonFiniteError(
            f"{(~np.isfinite(scores)).sum()} of {scores.size} inner products are not finite: a query or document "
            "vector holds a NaN or an infinity; encode the texts again"
        )
    return scores


def _require_shapes(queries: _FloatArray, doc_vectors: npt.NDArray[np.float32], doc_ids: Sequence[str]) -> None:
    if queries.ndim != 2 or doc_vectors.ndim != 2 or queries.shape[1] != doc_vectors.shape[1]:
        raise ShapeError(
            f"queries {queries.shape} and documents {doc_vectors.shape} must both be (rows, dimension) of one "
            "dimension: encode both with the same model"
        )
    if len(doc_ids) != len(doc_vectors):
        raise ShapeError(f"{len(doc_ids)} doc_ids for {len(doc_vectors)} document vectors: every row needs its id")


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
