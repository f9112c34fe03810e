"""Ranking: the one total order, and reciprocal-rank fusion.

The total order is trec_eval's: score descending, then `doc_id` descending by code point, which is the order of UTF-8 bytes.
Every ranking of this package is in it, so equal scores cannot move a metric between two runs.
"""

import math
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.records import Query, is_own_document

Ranking = list[tuple[str, float]]
Run = dict[str, Ranking]


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
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(doc_ids),):
        raise ShapeError(f"rank needs one score per document: got scores {values.shape} for {len(doc_ids)} documents")
    if not np.isfinite(values).all():
        num_bad = int((~np.isfinite(values)).sum())
        raise NonFiniteError(f"{num_bad} of {len(values)} scores are not finite: the model that gave them is damaged")
    # All that reach the k-th largest value stay until the doc_id has decided between them.
    kept = np.flatnonzero(values >= np.partition(values, -k)[-k]).tolist() if len(values) > k else range(len(values))
    return sorted(((doc_ids[i], float(values[i])) for i in kept), key=_order, reverse=True)[:k]


def place_unscored_last(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Scores of one query's documents, (n,), where each NaN, a document without a score, is 1 below the lowest score.

    Where no document has a score, all are 0.
    """
    values = np.asarray(scores, dtype=np.float64)
    is_scored = ~np.isnan(values)
    return np.where(is_scored, values, values[is_scored].min() - 1 if is_scored.any() else 0.0)


def without_own(
    queries: Sequence[Query],
    rankings: Sequence[Ranking],
    content_of: Mapping[str, str],
    judged: Mapping[str, Container[str]],
    parent_of: Mapping[str, str] | None = None,
) -> Run:
    """The run of these queries, one ranking each, without documents that are the query itself (`is_own_document`).

    `content_of` holds what encoders read of every ranked document, `judged` the doc_ids judged relevant for a query, passages or
    documents. `parent_of` names the document of a passage: with one passage that is the query all of the document goes.
    """
    parents = parent_of or {}
    run: Run = {}
    for query, ranking in zip(queries, rankings, strict=True):
        answers = judged.get(query.query_id, ())
        own = {
            parents.get(doc_id, doc_id)
            for doc_id, _ in ranking
            if doc_id not in answers
            and is_own_document(query, parents.get(doc_id, doc_id), content_of[doc_id], answers, doc_id in parents)
        }
        run[query.query_id] = [found for found in ranking if parents.get(found[0], found[0]) not in own]
    return run


def fuse_reciprocal_rank(rankings: Sequence[Sequence[str]], *, k: int = 60) -> Ranking:
    """Fuse rankings by reciprocal rank: a document scores the sum of 1 / (k + rank) over the rankings that hold it.

    Cormack, Clarke & Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods".
    Ranks are 1-based and k = 60 is theirs. The order of the rankings never matters, not even in the last bit.

    Raises:
        ValueError: a ranking holds a document twice, which would count it twice.
    """
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for ranking in rankings:
        if len(set(ranking)) != len(ranking):
            raise ValueError(
                f"a ranking of {len(ranking)} documents holds only {len(set(ranking))} distinct ones: remove the repeats"
            )
        for position, doc_id in enumerate(ranking, start=1):
            parts[doc_id].append(1.0 / (k + position))
    # fsum rounds once: three or more terms give the same sum in any order.
    return sorted(((doc_id, math.fsum(terms)) for doc_id, terms in parts.items()), key=_order, reverse=True)


def fuse_runs(first: Run, second: Run, depth: int) -> Run:
    """The `depth` best documents of each query when two runs of the same queries are fused by reciprocal rank."""
    return {
        query_id: fuse_reciprocal_rank([[doc_id for doc_id, _ in run[query_id]] for run in (first, second)])[:depth]
        for query_id in first
    }


def _order(scored: tuple[str, float]) -> tuple[float, str]:
    """Sort key of the one total order; sort with ``reverse=True``."""
    return scored[1], scored[0]
