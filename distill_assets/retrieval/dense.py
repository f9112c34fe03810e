"""Exact dense search: the best documents by inner product for many queries, in memory that a setting bounds.

A matrix product only selects `k` documents and some more, because its rounding depends on its shape. The selected ones are scored
again one pair at a time in float64. A query whose k-th score is within the product's rounding error of the documents left out
is searched again with more. The result is therefore the same for every block size and device.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.progress import Progress
from distill_assets.retrieval.rankings import Ranking
from distill_assets.storage.embeddings import StoredVectors

if TYPE_CHECKING:
    import torch

_Floats = npt.NDArray[np.float32]
_Rows = npt.NDArray[np.int64]
_EPSILON, _TINY = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
_GROUP = 8  # columns of a group of products; 16,384 x 8: 2.8 s, 16: 3.1, 32: 4.3, all columns 5.2 (10k x 100k, AVX2)
_RESCORED_PAIRS = 1024  # pairs rescored at once: 1,024 x 384 float64 is 3 MB, which stays in the cache


class FoundRows(NamedTuple):
    """The best documents of each query, best first.

    `rows` (num_queries, k) are positions among the documents, -1 past the end of a short list; `scores` has the same shape, -inf there.
    """

    rows: _Rows
    scores: _Floats

    def rankings(self, doc_ids: Sequence[str]) -> list[Ranking]:
        """The same as (doc_id, score) lists."""
        return [
            [(doc_ids[row], score) for row, score in zip(rows, scores, strict=True) if row >= 0]
            for rows, scores in zip(self.rows.tolist(), self.scores.tolist(), strict=True)
        ]


def search_dense(
    query_vectors: npt.ArrayLike,
    doc_vectors: _Floats | StoredVectors,
    doc_ids: Sequence[str],
    *,
    k: int,
    memory_mb: float = 256,
    device: str = "cpu",
) -> FoundRows:
    """The `k` documents with the highest inner product for each query, exact, score descending, then doc_id descending.

    Scores are summed in float64 and rounded to float32. trec_eval compares in float32 too, so an exported run keeps this order there.

    Args:
        query_vectors: float32 (num_queries, dimension).
        doc_vectors: float32 (num_docs, dimension).
        doc_ids: distinct ids, one for each row of `doc_vectors`.
        k: how many documents per query, at least 1.
        memory_mb: bound of the memory above vectors and result; never changes a result.
        device: the torch device of the matrix product that selects; never changes a result.

    Raises:
        ShapeError: dimensions differ, or ids and document vectors differ in number.
        NonFiniteError: a vector holds a NaN or an infinity, or a product overflows float32.
    """
    if k < 1 or memory_mb <= 0:
        raise ValueError(f"k must be at least 1 and memory_mb above 0, got k = {k}, memory_mb = {memory_mb}")
    queries = np.ascontiguousarray(query_vectors, dtype=np.float32)
    _require_shapes(queries, doc_vectors, doc_ids)
    _require_finite(queries, "numbers in query vectors")
    num_docs, budget = doc_vectors.shape[0], int(memory_mb * 2**20)
    found = FoundRows(np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32))
    left, width, wanted = np.arange(len(queries)), k + k // 8 + 16, min(k, num_docs)
    while num_docs and len(left):
        width = min(width, num_docs)
        # A quarter of the memory for a block's vectors, a quarter for its products, half for what is selected.
        step = max(1, budget // 2 // (64 * width + 16 * queries.shape[1]))
        unsure, progress = [], Progress("dense search", len(left) * num_docs, "inner products")
        for start in range(0, len(left), step):
            at = left[start : start + step]
            selected, limits = _select(queries[at], doc_vectors, width, budget // 4, device, progress)
            rows, scores = _rescore(queries[at], selected, doc_vectors, doc_ids)
            is_sure = (scores[:, wanted - 1] > limits) | (width == num_docs)
            found.rows[at[is_sure], :wanted] = rows[is_sure, :wanted]
            found.scores[at[is_sure], :wanted] = scores[is_sure, :wanted]
            unsure.append(at[~is_sure])
        left, width = np.concatenate(unsure), 4 * width
    return found


def _select(
    queries: _Floats,
    doc_vectors: _Floats | StoredVectors,
    width: int,
    part_bytes: int,
    device: str,
    progress: Progress,
) -> tuple[_Rows, npt.NDArray[np.float64]]:
    """The `width` best documents of each query by matrix product, unordered, and a bound on the exact scores of all others.

    Error of a product for any order of summation: dimension x unit roundoff x |q| x |d| (Higham, Accuracy and Stability of Numerical
    Algorithms, eq. 3.5). Epsilon is twice the unit roundoff, 4 more terms cover the rounding of the exact score, TINY underflow.
    """
    # By torch, not by NumPy's BLAS: threads of one library still spin when the other begins, and a search right after encoding its
    # query took 24 ms (108 at the 95th percentile) instead of 10 (13).
    import torch

    dimension = queries.shape[1]
    # 256 x 16,384 products are 16 MB. From 32 MB on the allocator takes new pages each time, which costs 15 % of the time.
    num_queries = max(1, min(256, math.isqrt(part_bytes // 8)))
    num_docs = max(1, min(16_384, part_bytes // (8 * max(num_queries, dimension))))
    vectors = torch.from_numpy(queries).to(device)
    best = torch.full((len(queries), width), -math.inf, device=device)
    rows = torch.full((len(queries), width), -1, device=device)
    largest = 0.0
    for first in range(0, doc_vectors.shape[0], num_docs):
        read = np.ascontiguousarray(doc_vectors[first : first + num_docs], dtype=np.float32)
        block = torch.from_numpy(read).to(device)
        norm = float(torch.linalg.vector_norm(block, dim=1).max())
        if not math.isfinite(norm):  # squares of large numbers overflow too: then the bound is infinite
            _require_finite(read, "numbers in document vectors")
        largest = max(largest, norm)
        for start in range(0, len(queries), num_queries):
            part = slice(start, start + num_queries)
            values, columns = _top(vectors[part] @ block.T, min(width, len(block)))
            values, columns = torch.cat([best[part], values], 1), torch.cat([rows[part], columns + first], 1)
            best[part], places = values.topk(width, sorted=False)
            rows[part] = columns.gather(1, places)
        progress.advance(len(queries) * len(block))
    _require_finite(best.cpu().numpy(), "inner products")
    # Squares of small numbers underflow, so that `largest` is too low by at most the last term.
    largest = largest * (1 + dimension * _EPSILON) + math.sqrt(dimension * _TINY)
    # Where the process allows TF32 or bf16 for float32 products, both factors keep 8 bits at least.
    roundoff = 0 if torch.get_float32_matmul_precision() == "highest" else 2.0**-7
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    errors = ((dimension + 4) * _EPSILON + roundoff) * largest * norms + (dimension + 4) * _TINY
    return rows.cpu().numpy(), best.amin(1).cpu().numpy() + errors


def _top(products: "torch.Tensor", width: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """The `width` highest products of each row, unordered, and their columns.

    They lie in the `width` groups of columns with the highest maxima: whatever lies elsewhere is at most the lowest of those maxima.
    Taking maxima reads each product once, in half the time of `topk` over all of them.
    """
    num_groups, left = divmod(products.shape[1], _GROUP)
    if left or width >= num_groups:
        return products.topk(width, sorted=False)
    groups = products.view(len(products), _GROUP, num_groups)  # column c is in the group c % num_groups
    chosen = groups.amax(1).topk(width, sorted=False).indices.unsqueeze(1).expand(-1, _GROUP, -1)
    values, places = groups.gather(2, chosen).flatten(1).topk(width, sorted=False)
    return values, places // width * num_groups + chosen[:, 0].gather(1, places % width)


def _rescore(
    queries: _Floats, rows: _Rows, doc_vectors: _Floats | StoredVectors, doc_ids: Sequence[str]
) -> tuple[_Rows, _Floats]:
    """The selected rows (num_queries, width), best first, and their exact scores.

    The product of two float32 is exact in float64, and `vecdot` adds each pair's by itself: no other pair and no block moves a bit.
    """
    exact, documents = queries.astype(np.float64), rows.ravel()
    scores: _Floats = np.empty(rows.size, np.float32)
    for start in range(0, rows.size, _RESCORED_PAIRS):
        pairs = np.arange(start, min(start + _RESCORED_PAIRS, rows.size))
        vectors = np.ascontiguousarray(doc_vectors[documents[pairs]], dtype=np.float64)
        scores[pairs] = np.vecdot(vectors, exact[pairs // rows.shape[1]])
    scores = scores.reshape(rows.shape)
    distinct, places = np.unique(rows, return_inverse=True)
    ranks = np.empty(len(distinct), np.int64)
    ranks[sorted(range(len(distinct)), key=lambda i: doc_ids[int(distinct[i])])] = np.arange(len(distinct))
    order = np.lexsort((-ranks[places].reshape(rows.shape), -scores))
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def _require_finite(values: _Floats, what: str) -> None:
    num_bad = values.size - np.count_nonzero(np.isfinite(values))
    if num_bad:
        raise NonFiniteError(
            f"{num_bad} {what} are not finite: a query or document vector holds a NaN or an infinity; encode the texts again"
        )


def _require_shapes(queries: _Floats, doc_vectors: _Floats | StoredVectors, doc_ids: Sequence[str]) -> None:
    if queries.ndim != 2 or len(doc_vectors.shape) != 2 or queries.shape[1] != doc_vectors.shape[1]:
        raise ShapeError(
            f"queries {queries.shape} and documents {doc_vectors.shape} must both be (rows, dimension) of one "
            "dimension: encode both with the same model"
        )
    if len(doc_ids) != doc_vectors.shape[0]:
        raise ShapeError(f"{len(doc_ids)} doc_ids for {doc_vectors.shape[0]} document vectors: every row needs its id")
