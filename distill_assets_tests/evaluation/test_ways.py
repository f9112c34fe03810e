"""Which way is ahead: who represents a way, what is tested, and on which queries, with numbers worked by hand."""

import pytest

from distill_assets.evaluation.ways import compare_ways, ways_of

QUERIES = [f"q{i:02d}" for i in range(20)]
WAYS = {"untouched model": ["bge", "untouched_student"], "hybrid": ["hybrid", "hybrid:kl"], "distillation": ["kl"]}


def constant(**values: float) -> dict[str, dict[str, float]]:
    """The same value on every query, by system; `hybrid_kl` is `hybrid:kl`."""
    return {name.replace("_kl", ":kl"): dict.fromkeys(QUERIES, value) for name, value in values.items()}


DEV = constant(bge=0.50, untouched_student=0.40, hybrid=0.45, hybrid_kl=0.60, kl=0.55)
TEST = constant(bge=0.30, untouched_student=0.70, hybrid=0.90, hybrid_kl=0.50, kl=0.50)


def test_each_system_belongs_to_one_way() -> None:
    """A hybrid of a trained student counted as "no training" would tell a team to train nothing; a removed recipe is nobody's."""
    systems = [
        "bm25",
        "hybrid",
        "hybrid:kl",
        "hybrid:bge",
        "untouched_student",
        "bge",
        "hard_labels",
        "kl",
        "teacher",
        "gone",
    ]
    found = ways_of(systems, baselines=["bge", "absent"], labels=["hard_labels"], distilled=["kl"])
    assert found == {
        "untouched model": ["bge", "untouched_student"],
        "BM25": ["bm25"],
        "hybrid": ["hybrid", "hybrid:bge", "hybrid:kl"],
        "hard labels": ["hard_labels"],
        "distillation": ["kl"],
    }
    assert "hard labels" not in ways_of(["kl"], baselines=(), labels=["hard_labels"], distilled=["kl"])


def test_dev_chooses_and_test_is_tested() -> None:
    """The best on test, tested on test, is ahead by luck: here `hybrid` has 0.90 there, and dev has chosen `hybrid:kl` of 0.50.

    Three ways are two tests. Differences of the same size on 20 queries: p = 1 / 10,001, and 2 / 10,001 corrected.
    """
    found = compare_ways(WAYS, DEV, TEST, "kl")
    assert found is not None and found.is_chosen_apart
    assert (found.leader, found.way, found.mean, found.needs_training) == (
        "hybrid:kl",
        "hybrid",
        pytest.approx(0.5),
        True,
    )
    bge, kl = found.rivals
    assert (bge.way, bge.system, kl.way, kl.system) == ("untouched model", "bge", "distillation", "kl")
    assert bge.comparison.difference == bge.low == bge.high == pytest.approx(0.2)
    assert bge.comparison.is_better and bge.comparison.p_holm == pytest.approx(2 / 10_001)
    assert (kl.comparison.difference, kl.comparison.p_holm) == (0.0, 1.0)


def test_without_dev_the_choice_is_not_apart() -> None:
    """Leader and tests are then of the same queries: a reader who is not told takes luck for a lead."""
    found = compare_ways(WAYS, {}, TEST, None)
    assert found is not None and not found.is_chosen_apart
    assert (found.leader, found.needs_training) == ("hybrid", False)


def test_baselines_are_tested_against_the_champion() -> None:
    """A published model that is better than what search uses is the first thing that a team has to know: 0.30 - 0.50 = -0.20."""
    found = compare_ways(WAYS, DEV, TEST, "kl")
    assert found is not None and found.baselines.keys() == {"bge"}
    assert found.baselines["bge"].difference == pytest.approx(-0.2) and found.baselines["bge"].is_worse
    unknown = compare_ways(WAYS, DEV, TEST, None)
    assert unknown is not None and unknown.baselines == {}


def test_few_queries_and_single_ways_are_not_compared() -> None:
    """With 19 queries nothing is claimed; one way alone has no rival."""
    few = {name: dict(list(values.items())[:19]) for name, values in TEST.items()}
    found = compare_ways(WAYS, DEV, few, "kl")
    assert found is not None and (found.num_queries, found.rivals, found.baselines) == (19, [], {})
    assert compare_ways({"BM25": ["bm25"]}, DEV, TEST, None) is None
