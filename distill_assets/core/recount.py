"""The four measures counted from their definitions: a second tool, to be compared with the judge of `core/metrics.py`.

Shares no code with it, not even the order of a ranking: what both agree on is not one tool's mistake.
"""

import math
from collections.abc import Mapping, Sequence

from distill_assets.core.metrics import METRIC_NAMES, QueryMetrics


def recount(ranking: Sequence[tuple[str, float]], relevances: Mapping[str, int]) -> QueryMetrics:
    """The measures of one ranking ((doc_id, score), in any order) against judgements (doc_id -> relevance).

    nDCG@10 has linear gains and log2 discounts; relevant is a relevance above 0 (Järvelin and Kekäläinen 2002, trec_eval).
    At least one document is relevant.
    """
    ordered = sorted(ranking, key=lambda scored: scored[0], reverse=True)
    ordered.sort(key=lambda scored: -scored[1])  # stable: equal scores stay by doc_id, descending
    gains = [max(0, relevances.get(doc_id, 0)) for doc_id, _ in ordered]
    ideal = sorted((relevance for relevance in relevances.values() if relevance > 0), reverse=True)
    hits = [place for place, gain in enumerate(gains, start=1) if gain > 0]
    return QueryMetrics(
        ndcg_at_10=_discounted(gains[:10]) / _discounted(ideal[:10]),
        mrr_at_10=1 / hits[0] if hits and hits[0] <= 10 else 0.0,
        recall_at_100=sum(place <= 100 for place in hits) / len(ideal),
        map=math.fsum(number / place for number, place in enumerate(hits, start=1)) / len(ideal),
    )


def largest_differences(
    run: Mapping[str, Sequence[tuple[str, float]]],
    qrels: Mapping[str, Mapping[str, int]],
    counted: Mapping[str, QueryMetrics],
) -> dict[str, float]:
    """Per measure the largest absolute difference over all queries; infinite where one tool has a query that the other lacks."""
    judged = {query_id for query_id, relevances in qrels.items() if any(r > 0 for r in relevances.values())}
    if judged != set(counted):
        return dict.fromkeys(METRIC_NAMES, math.inf)
    again = {query_id: recount(run.get(query_id, ()), qrels[query_id]) for query_id in judged}
    return {
        name: max((abs(getattr(again[q], name) - getattr(counted[q], name)) for q in judged), default=0.0)
        for name in METRIC_NAMES
    }


def _discounted(gains: Sequence[int]) -> float:
    return math.fsum(gain / math.log2(place + 1) for place, gain in enumerate(gains, start=1))
