"""The second tool for metrics: by hand, against the judge, and what a difference between the two looks like."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.core.metrics import METRIC_NAMES, evaluate_run
from distill_assets.core.recount import largest_differences, recount


def test_measures_by_hand() -> None:
    """Relevant at places 2 (gain 2) and 4 (gain 1), a third never found.

    DCG 2/log2(3) + 1/log2(5) = 1.26186 + 0.43068; ideal 2 + 1/log2(3) + 1/log2(4) = 3.13093; AP (1/2 + 2/4) / 3.
    """
    ranking = [("a", 9.0), ("b", 8.0), ("c", 7.0), ("d", 6.0)]
    found = recount(ranking, {"b": 2, "d": 1, "never": 1, "a": 0})
    assert found.ndcg_at_10 == pytest.approx((1.261860 + 0.430677) / 3.130930, abs=1e-6)
    assert (found.mrr_at_10, found.recall_at_100, found.map) == (0.5, pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_nothing_found_is_zero() -> None:
    """A query without an answer must count as 0, not fall out of the mean."""
    assert recount([], {"a": 1}).ndcg_at_10 == 0.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5]), min_size=1, max_size=14),
    st.dictionaries(st.integers(0, 16).map(lambda i: f"d{i}"), st.integers(0, 3), min_size=1),
)
def test_both_tools_count_the_same(scores: list[float], judgements: dict[str, int]) -> None:
    """Ties and graded judgements are where tools differ; documents that are judged and never found as well."""
    run = {"q": [(f"d{i}", score) for i, score in enumerate(scores)]}
    assert all(
        value < 1e-6
        for value in largest_differences(run, {"q": judgements}, evaluate_run(run, {"q": judgements})).values()
    )


def test_a_difference_is_found_with_its_size() -> None:
    """The check must see a metric that is 0.25 off in one of many queries."""
    run = {q: [("a", 2.0), ("b", 1.0)] for q in ("q1", "q2")}
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}}
    counted = evaluate_run(run, qrels)
    counted["q2"] = replace(counted["q2"], mrr_at_10=counted["q2"].mrr_at_10 - 0.25)
    found = largest_differences(run, qrels, counted)
    assert found["mrr_at_10"] == pytest.approx(0.25) and found["map"] == pytest.approx(0.0, abs=1e-9)


def test_a_query_that_one_tool_lost_is_an_infinite_difference() -> None:
    """A mean over fewer queries is the likeliest way for two tools to differ."""
    run, qrels = {"q1": [("a", 1.0)]}, {"q1": {"a": 1}, "q2": {"a": 1}}
    counted = {"q1": evaluate_run(run, qrels)["q1"]}
    assert largest_differences(run, qrels, counted) == dict.fromkeys(METRIC_NAMES, math.inf)
