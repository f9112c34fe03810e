"""Which documents people should judge first, and what their judgements can show.

Pooling: documents that no system ranks high are not judged. Every kind of system puts its first documents into the pool, because a
document that is not judged counts as not relevant: a system outside the pool would look worse than it is.

Carterette, Allan & Sitaraman 2006, "Minimal test collections for retrieval evaluation": judge first what can change the
difference of two systems most. The weight of a document is the difference of its discounts in the two rankings; here, of more
systems, the largest one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill_assets.errors import EvaluationError
from distill_assets.evaluation.significance import detectable_difference
from distill_assets.records import hash_text

DEPTH = 10  # nDCG@10 sees no further
POOLED = 5  # documents of each system; at ranks 6 to 10 a document adds at most 0.36 of what one at rank 1 adds
ROUND = 40  # queries; with a spread of 0.25 per query they show a difference of 0.11
_FEW = 5  # judged queries: fewer say nothing about the spread


@dataclass(frozen=True, slots=True)
class Pool:
    """What a person judges of one query: the documents in an order that tells nothing, and how much they can change."""

    query_id: str
    doc_ids: tuple[str, ...]
    weight: float


def choose_pools(rankings: Sequence[Mapping[str, Sequence[str]]]) -> list[Pool]:
    """The pools of all queries in the order in which they should be judged.

    Queries come in rounds of `ROUND`, by hash of their id: a round that is done stands for all queries. In a round the queries
    on which systems disagree most come first. The documents of a query are in the order of a hash, which hides who found them.

    Args:
        rankings: of each system, query_id -> doc_ids, best first.

    Raises:
        EvaluationError: the systems did not rank the same queries, or there is no system.
    """
    if not rankings or any(each.keys() != rankings[0].keys() for each in rankings):
        raise EvaluationError(
            "pools need rankings of the same queries by one system or more: run distill-assets run first"
        )
    by_hash = sorted(rankings[0], key=hash_text)
    rounds = (by_hash[start : start + ROUND] for start in range(0, len(by_hash), ROUND))
    pools = []
    for query_ids in rounds:
        found = [_pool(query_id, [each[query_id] for each in rankings]) for query_id in query_ids]
        pools += sorted((pool for pool in found if pool.doc_ids), key=lambda pool: (-pool.weight, pool.query_id))
    return pools


def _pool(query_id: str, rankings: Sequence[Sequence[str]]) -> Pool:
    doc_ids = {doc_id for ranking in rankings for doc_id in ranking[:POOLED]}
    discounts = [{doc_id: 1 / math.log2(rank + 1) for rank, doc_id in enumerate(r[:DEPTH], start=1)} for r in rankings]
    weight = 0.0
    for doc_id in sorted(doc_ids):
        values = [found.get(doc_id, 0.0) for found in discounts]
        weight += max(values) - min(values)
    return Pool(query_id, tuple(sorted(doc_ids, key=lambda doc_id: hash_text(f"{query_id} {doc_id}"))), weight)


def describe_power(first: Mapping[str, float], second: Mapping[str, float]) -> str:
    """What the judged queries can show, in words: nDCG@10 of two systems by query_id, of the same queries."""
    count = len(first)
    if count < _FEW:
        return f"{count} judged queries with a relevant document: {_FEW} are the least to say what they can show."
    differences = np.asarray([first[query_id] - second[query_id] for query_id in sorted(first)])
    now = detectable_difference(differences)
    # The square root law of `detectable_difference`: four times the queries halve the difference.
    return (
        f"{count} judged queries with a relevant document find a true difference of {now:.2f} in nDCG@10 four times out of five; "
        f"{4 * count} would find {now / 2:.2f}."
    )
