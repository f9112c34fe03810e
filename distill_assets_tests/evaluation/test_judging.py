"""Which documents people judge first, by hand."""

import math
from datetime import datetime

import pytest

from distill_assets.errors import EvaluationError
from distill_assets.evaluation.judging import POOLED, ROUND, Answer, choose_pools, describe_power, summarise_answers


def test_the_query_on_which_systems_disagree_comes_first() -> None:
    """In any other order an afternoon ends before what decides is judged.

    Query b: d1 is first in one system and second in the other: 1 - 1/log2(3) = 0.369; d2 likewise. Query c: three documents
    that one system alone has: 1/log2(2) + 1/log2(3) twice = 1 + 0.631 and 1. Query a: both agree.
    """
    first = {"a": ["d1", "d2"], "b": ["d1", "d2"], "c": ["d1", "d2"]}
    second = {"a": ["d1", "d2"], "b": ["d2", "d1"], "c": ["d3"]}
    pools = choose_pools([first, second])
    assert [pool.query_id for pool in pools] == ["c", "b", "a"]
    assert [pool.weight for pool in pools] == pytest.approx([1 + 0.6309 + 1, 2 * 0.3691, 0], abs=1e-4)
    assert [sorted(pool.doc_ids) for pool in pools] == [["d1", "d2", "d3"], ["d1", "d2"], ["d1", "d2"]]


def test_every_system_puts_its_first_documents_into_the_pool() -> None:
    """What nobody judged counts as not relevant: a system whose finds are left out would look worse than it is.

    `b1`, rank 7 in the second system, weighs 1 - 1/log2(8) = 2/3 and no more.
    """
    deep = [f"b{i}" for i in range(2, 8)] + ["b1"]
    (pool,) = choose_pools([{"q": ["b1"]}, {"q": deep}, {"q": ["c1", *deep]}])
    assert set(pool.doc_ids) == {"b1", "c1", "b2", "b3", "b4", "b5", "b6"}
    assert POOLED == 5
    (pool,) = choose_pools([{"q": ["b1"]}, {"q": ["c1", "c2", "c3", "c4", "c5", "c6", "b1"]}])
    assert pool.weight == pytest.approx(1 - 1 / math.log2(8) + sum(1 / math.log2(rank + 1) for rank in range(1, 6)))


def test_the_order_of_documents_says_nothing_of_who_found_them() -> None:
    """The first document that is shown would be taken for the best one, and the page would judge itself."""
    ranked = [f"d{i}" for i in range(5)]
    shown = [choose_pools([{f"q{i}": ranked}])[0].doc_ids for i in range(30)]
    assert len(set(shown)) > 20 and all(sorted(each) == ranked for each in shown)
    assert choose_pools([{"q1": ranked}])[0].doc_ids == choose_pools([{"q1": ranked[::-1]}])[0].doc_ids


def test_a_round_is_drawn_by_hash_and_not_by_disagreement() -> None:
    """Queries that are chosen because systems differ on them show a larger difference than all queries have."""
    agreed = {f"q{i}": ["d1"] for i in range(2 * ROUND)}
    loud = {query_id: ["d1"] if i < ROUND else ["d2"] for i, query_id in enumerate(agreed)}
    pools = choose_pools([agreed, loud])
    halves = [[pool.weight for pool in pools[start : start + ROUND]] for start in (0, ROUND)]
    assert all(0 < sum(weight > 0 for weight in half) < ROUND for half in halves)
    assert all(half == sorted(half, reverse=True) for half in halves)


def test_rankings_of_other_queries_are_refused() -> None:
    """A query that one system never searched would be judged on the other's documents alone."""
    with pytest.raises(EvaluationError, match="rankings of the same queries"):
        choose_pools([{"a": ["d1"]}, {"b": ["d1"]}])
    with pytest.raises(EvaluationError, match="one system or more"):
        choose_pools([])


def test_a_query_without_documents_is_not_asked_about() -> None:
    """A page without a document to judge would stop there."""
    assert choose_pools([{"a": [], "b": ["d1"]}])[0].query_id == "b"
    assert len(choose_pools([{"a": [], "b": ["d1"]}])) == 1


def test_power_in_words() -> None:
    """Differences 0.5, -0.5, 0.5, -0.5, 0 have sd 0.5: (1.96 + 0.8416) * 0.5 / sqrt(5) = 0.626; four times the queries show half."""
    first = {"a": 0.5, "b": 0.0, "c": 0.5, "d": 0.0, "e": 0.1}
    second = {"a": 0.0, "b": 0.5, "c": 0.0, "d": 0.5, "e": 0.1}
    assert "5 judged queries" in describe_power(first, second)
    assert "difference of 0.63" in describe_power(first, second) and "20 would find 0.31" in describe_power(
        first, second
    )
    assert "5 are the least" in describe_power({"a": 1.0}, {"a": 0.0})


def test_who_judged_how_much_and_how_far_they_agree() -> None:
    """Counts of answers would take a pair that two people judged for two pairs.

    Ann and Ben both judged three pairs; with grades from 2 on relevant they say 1 1 0 and 1 0 0: observed 2/3, expected
    (2 * 1 + 1 * 2) / 9 = 4/9, so kappa = (6 - 4) / (9 - 4) = 0.4.
    """
    day = [datetime(2026, 11, 2), datetime(2026, 11, 3)]
    answers = [Answer("q1", f"d{i}", grade, "ann", day[i > 1]) for i, grade in enumerate((3, 2, 1))]
    answers += [Answer("q1", f"d{i}", grade, "ben", day[1]) for i, grade in enumerate((2, 1, 0))]
    answers += [Answer("q2", "d0", 1, "ben", day[1]), Answer("q3", "", -1, "ben", day[1])]
    found = summarise_answers("test", answers, min_relevance=2)
    assert (found.num_pairs, found.num_queries, found.num_bad_queries, found.num_twice) == (4, 2, 1, 3)
    assert found.judges == {"ann": (3, "2026-11-02", "2026-11-03"), "ben": (4, "2026-11-03", "2026-11-03")}
    assert found.kappa == pytest.approx(0.4)
    assert found.sentences == [
        "On the page people judged 4 pairs of 2 test queries, and called 1 query bad: "
        "ann 3 (2026-11-02 to 2026-11-03); ben 4 (2026-11-03).",
        "Two people judged the same pair 3 times, relevant or not: Cohen's kappa is 0.40.",
    ]
    assert summarise_answers("dev", []).sentences[0].startswith("Nobody has judged queries of dev")
