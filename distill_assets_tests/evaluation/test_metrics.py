"""The measures, against hand-worked numbers and a naive implementation of each."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.errors import NonFiniteError
from distill_assets.evaluation.metrics import (
    METRIC_NAMES,
    DevList,
    QueryMetrics,
    evaluate_run,
    mean_of,
    rerank_metrics,
    rerank_ndcg,
    search_ndcg,
    values_of,
)


def ranked(*doc_ids: str) -> list[tuple[str, float]]:
    """A ranking with falling scores."""
    return [(doc_id, float(-place)) for place, doc_id in enumerate(doc_ids)]


def naive_metrics(ranking: list[tuple[str, float]], judgements: dict[str, int]) -> QueryMetrics:
    """Each measure by its textbook definition."""
    order = [d for d, _ in sorted(ranking, key=lambda p: (p[1], p[0]), reverse=True)]
    gains = [max(0, judgements.get(d, 0)) for d in order]
    ideal = sorted((g for g in judgements.values() if g > 0), reverse=True)

    def dcg(values: list[int]) -> float:
        return sum(g / math.log2(place + 1) for place, g in enumerate(values[:10], start=1))

    hits = [place for place, gain in enumerate(gains, start=1) if gain > 0]
    return QueryMetrics(
        ndcg_at_10=dcg(gains) / dcg(ideal),
        mrr_at_10=1 / hits[0] if hits and hits[0] <= 10 else 0.0,
        recall_at_100=sum(place <= 100 for place in hits) / len(ideal),
        map=sum(n / place for n, place in enumerate(hits, start=1)) / len(ideal),
    )


def test_ndcg_at_10_uses_graded_linear_gains() -> None:
    """[grade 0, 1, 2]: (1/log2 3 + 2/log2 4) / (2 + 1/log2 3) = 0.6199; binary gains: 0.693, exponential: 0.587."""
    found = evaluate_run({"q": ranked("d7", "d2", "d9")}, {"q": {"d2": 1, "d9": 2}})["q"]
    assert found.ndcg_at_10 == pytest.approx(0.6199, abs=1e-4)
    assert found.mrr_at_10 == pytest.approx(1 / 2)
    assert found.recall_at_100 == 1.0
    assert found.map == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_reranking_counts_grades_with_linear_gains() -> None:
    """Grades (1, 3, 0), ranked 0, 1, 3: (1/log2 3 + 3/log2 4) / (3 + 1/log2 3) = 2.1309 / 3.6309 = 0.5869.

    Binary gains give 0.6934 and exponential ones 0.5413: either would choose other steps than the leaderboard's metric does.
    """
    group = DevList("q", "query", ("a", "b", "c"), (1, 3, 0))
    assert rerank_ndcg([group], [[2.0, 1.0, 3.0]]) == pytest.approx(0.58688, abs=1e-5)


def test_a_judged_document_that_no_candidate_is_counts_as_missed() -> None:
    """One of two answers is found and put first: 1 / (1 + 1/log2 3) = 0.6131. Left out, it would be a perfect 1."""
    group = DevList("q", "query", ("a", "b"), (0, 1), (1,), ("c",))
    assert rerank_ndcg([group], [[1.0, 2.0]]) == pytest.approx(0.61315, abs=1e-5)


def test_a_search_ranks_every_document_for_every_query() -> None:
    """Query a finds its missed document third of four, 1/log2 4 = 0.5; b has grade 2 first of two grades, 1.0; mean 0.75.

    The text "x" is a candidate under two ids: it stands there once, with the higher grade.
    """
    groups = [
        DevList("a", "qa", ("w", "x"), (0, 0), (1,), ("z",)),
        DevList("b", "qb", ("x", "y", "x"), (1, 0, 2)),
    ]
    scores = np.array([[4.0, 1.0, 3.0, 2.0], [0.0, 9.0, 1.0, 2.0]])
    assert search_ndcg(groups, ["w", "x", "y", "z"], scores) == pytest.approx(0.75)


def test_cut_offs() -> None:
    """One relevant document at place 11: nDCG@10 and MRR@10 are 0, MAP 1/11; at place 101 recall@100 is 0."""
    noise = [f"n{i:03}" for i in range(100)]
    at_11 = evaluate_run({"q": ranked(*noise[:10], "d")}, {"q": {"d": 1}})["q"]
    assert at_11 == QueryMetrics(ndcg_at_10=0.0, mrr_at_10=0.0, recall_at_100=1.0, map=1 / 11)
    at_10 = evaluate_run({"q": ranked(*noise[:9], "d")}, {"q": {"d": 1}})["q"]
    assert at_10.mrr_at_10 == pytest.approx(1 / 10)
    assert at_10.ndcg_at_10 == pytest.approx(1 / math.log2(11))
    at_101 = evaluate_run({"q": ranked(*noise, "d")}, {"q": {"d": 1}})["q"]
    assert at_101.recall_at_100 == 0.0


def test_judged_queries_that_return_nothing_score_zero() -> None:
    """A mean over answered queries would reward a system for staying silent: here 1.0 instead of 1/3."""
    found = evaluate_run({"q1": ranked("d"), "q2": []}, {"q1": {"d": 1}, "q2": {"d": 1}, "q3": {"d": 1}})
    assert list(found) == ["q1", "q2", "q3"]
    assert found["q2"] == found["q3"] == QueryMetrics(0.0, 0.0, 0.0, 0.0)
    assert mean_of(found, "ndcg_at_10") == pytest.approx(1 / 3)


def test_no_query_is_answered() -> None:
    """The judge must not fall over, or return nothing, when a run is empty."""
    assert evaluate_run({}, {"q": {"d": 1}}) == {"q": QueryMetrics(0.0, 0.0, 0.0, 0.0)}


def test_queries_without_a_relevant_document_are_left_out() -> None:
    """Their measures are 0 / 0; counted as 0 they would pull every system down alike."""
    qrels = {"q1": {"d": 1}, "q2": {"d": 0}, "q3": {"d": -1}, "q4": {}}
    assert list(evaluate_run({q: ranked("d") for q in [*qrels, "unjudged"]}, qrels)) == ["q1"]
    assert evaluate_run({"q2": ranked("d")}, {"q2": {"d": 0}}) == {}


def test_ties_are_ordered_as_trec_eval_does() -> None:
    """Both documents score 0.5: trec_eval lists d2 before d1, so the relevant d1 is second, in every measure."""
    for ranking in ([("d1", 0.5), ("d2", 0.5)], [("d2", 0.5), ("d1", 0.5)]):
        found = evaluate_run({"q": ranking}, {"q": {"d1": 1}})["q"]
        assert (found.mrr_at_10, found.map) == (0.5, 0.5)
        assert found.ndcg_at_10 == pytest.approx(1 / math.log2(3))


def test_scores_that_differ_beyond_float32_keep_their_order() -> None:
    """trec_eval keeps float32: 1 + 1e-12 and 1 collapse there, and b would come first by its id."""
    found = evaluate_run({"q": [("a", 1 + 1e-12), ("b", 1.0)]}, {"q": {"a": 1}})["q"]
    assert (found.mrr_at_10, found.ndcg_at_10) == (1.0, 1.0)


def test_negative_relevance_is_not_relevant() -> None:
    """Some collections judge spam as -2: it must neither lower the ideal ranking nor count as found."""
    found = evaluate_run({"q": ranked("spam", "d")}, {"q": {"spam": -2, "d": 1}})["q"]
    assert found.ndcg_at_10 == pytest.approx(1 / math.log2(3))
    assert (found.mrr_at_10, found.recall_at_100, found.map) == (0.5, 1.0, 0.5)


def test_a_threshold_decides_what_is_relevant_and_ndcg_keeps_the_grades() -> None:
    """A document that is judged "on topic" (1) would count as the answer: MRR says 1.0 where the answer (2) is second.

    [grade 1, 2]: (1 + 2/log2 3) / (2 + 1/log2 3) = 0.8597, whatever the threshold.
    """
    run, qrels = {"q": ranked("topic", "answer")}, {"q": {"topic": 1, "answer": 2}, "no answer": {"topic": 1}}
    found = evaluate_run(run, qrels, min_relevance=2)
    assert list(found) == ["q"], "a query without an answer says nothing about a system"
    assert found["q"].ndcg_at_10 == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))
    assert (found["q"].mrr_at_10, found["q"].recall_at_100, found["q"].map) == (0.5, 1.0, 0.5)
    assert evaluate_run(run, qrels)["q"].mrr_at_10 == 1.0


def test_bad_rankings_are_refused() -> None:
    """A relevant document listed twice would count twice, and a NaN has no place in an order."""
    with pytest.raises(ValueError, match="'q' holds 1 documents twice"):
        evaluate_run({"q": [("d", 1.0), ("d", 0.5)]}, {"q": {"d": 1}})
    with pytest.raises(NonFiniteError, match="'q' has a score that is not finite"):
        evaluate_run({"q": [("d", float("nan"))]}, {"q": {"d": 1}})


def test_means_and_columns() -> None:
    """Means are over queries; a mean over none would be NaN."""
    per_query = {"q1": QueryMetrics(1.0, 0.5, 0.25, 0.0), "q2": QueryMetrics(0.0, 0.5, 0.75, 1.0)}
    assert [mean_of(per_query, name) for name in METRIC_NAMES] == [0.5] * 4
    assert values_of(per_query, "recall_at_100") == {"q1": 0.25, "q2": 0.75}
    with pytest.raises(ValueError, match="no judged query"):
        mean_of({}, "map")


def _drawn(rng: np.random.Generator) -> tuple[list[tuple[str, float]], dict[str, int]]:
    """A ranking of up to 130 documents with many ties, and graded judgements of documents that may be in no ranking."""
    doc_ids = [f"d{i:03}" for i in rng.permutation(140)]
    scores = rng.integers(-20, 20, size=rng.integers(0, 131)).tolist()
    judged = rng.permutation(140)[: rng.integers(0, 60)]
    relevances = {f"d{i:03}": int(rng.integers(-1, 5)) for i in judged}
    return [(doc_id, float(score)) for doc_id, score in zip(doc_ids, scores, strict=False)], relevances | {"d000": 3}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_measures_equal_the_textbook(seed: int) -> None:
    """Three tools sit behind one call. One that breaks ties, counts gains or cuts otherwise gives plausible numbers."""
    rng = np.random.default_rng(seed)
    collection = {f"q{i}": _drawn(rng) for i in range(20)}
    qrels = {query_id: judgements for query_id, (_, judgements) in collection.items()}
    found = evaluate_run({query_id: ranking for query_id, (ranking, _) in collection.items()}, qrels)
    assert list(found) == list(qrels)
    for query_id, drawn in collection.items():
        expected = naive_metrics(*drawn)
        for name in METRIC_NAMES:
            assert getattr(found[query_id], name) == pytest.approx(getattr(expected, name), abs=1e-9), name


def test_passages_of_one_document_are_ranked_as_it_by_the_best_of_them() -> None:
    """Two passages of one right document would be two hits, and a document with ten of them would fill the list."""
    # Document A by its second passage (0.9) is first, B second: 1/log2(2) of an ideal that ranks A alone first.
    passages = DevList("q", "query", ("a1", "b", "a2"), (1, 0, 1), parents=("A", "B", "A"))
    assert rerank_metrics([passages], [[0.1, 0.5, 0.9]])["q"].ndcg_at_10 == pytest.approx(1.0)
    # A by its best (0.3) is behind B: 1/log2(3). As three documents its two passages would be at 2 and 3.
    assert rerank_metrics([passages], [[0.1, 0.5, 0.3]])["q"].ndcg_at_10 == pytest.approx(1 / np.log2(3))
    missed = DevList("q", "query", ("b",), (0,), missed=(1,), missed_documents=("a1",), parents=("B", "A"))
    assert rerank_metrics([missed], [[0.5]])["q"].ndcg_at_10 == 0.0


def test_a_search_among_passages_finds_documents() -> None:
    """The step that is chosen on dev must be the one that ranks documents best, as the leaderboard counts."""
    first = DevList("q", "query", ("a1", "b", "a2"), (1, 0, 1), parents=("A", "B", "A"))
    second = DevList("p", "other", ("b",), (0,), missed=(1,), missed_documents=("c",), parents=("B", "C"))
    documents, scores = ["a1", "a2", "b", "c"], np.array([[0.1, 0.6, 0.5, 0.2], [0.9, 0.8, 0.1, 0.7]])
    # q: A 0.6 is first: 1. p: A 0.9, C 0.7, B 0.1: C is second, 1/log2(3).
    assert search_ndcg([first, second], documents, scores) == pytest.approx((1 + 1 / np.log2(3)) / 2)
