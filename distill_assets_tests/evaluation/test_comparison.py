"""Systems compared with a baseline, and a teacher with every system, against numbers worked by hand."""

import numpy as np
import pytest

from distill_assets.errors import ShapeError
from distill_assets.evaluation.comparison import compare_teacher, compare_with_baseline

QUERIES = [f"q{i:03d}" for i in range(100)]


def constant(value: float) -> dict[str, float]:
    """The same value on every query."""
    return dict.fromkeys(QUERIES, value)


def noisy(mean: float, seed: int) -> dict[str, float]:
    """Values around a mean that differ per query."""
    noise = np.random.default_rng(seed).normal(0, 0.05, len(QUERIES))
    return dict(zip(QUERIES, (mean + noise).tolist(), strict=True))


def test_correction_runs_over_the_family() -> None:
    """Differences 1, 1, 1 give p 2/8 each (exact); two recipes tested together give 0.5, one alone 0.25."""
    base = {"q1": 0.0, "q2": 0.0, "q3": 0.0}
    better = {"q1": 0.1, "q2": 0.2, "q3": 0.3}
    values = {"base": base, "a": better, "b": better}
    together = compare_with_baseline(values, "base", ["base", "a", "b"], seed=0)
    assert set(together) == {"a", "b"}
    assert (together["a"].p_value, together["a"].p_holm) == (0.25, 0.5)
    assert compare_with_baseline(values, "base", ["a"], seed=0)["a"].p_holm == 0.25
    # sd of 0.1, 0.2, 0.3 is 0.1; (1.95996 + 0.84162) x 0.1 / sqrt(3) = 0.16175
    assert compare_with_baseline(values, "base", ["a"], seed=0)["a"].detectable == pytest.approx(0.16175, abs=1e-5)


def test_significance_needs_a_direction() -> None:
    """A recipe that is significantly worse has a small p, too: a mark by p alone would praise it."""
    values = {"base": constant(0.5), "up": constant(0.6), "down": constant(0.4)}
    found = compare_with_baseline(values, "base", ["up", "down"], seed=0)
    assert found["up"].is_better and not found["up"].is_worse
    assert found["down"].is_worse and not found["down"].is_better


def test_different_queries_are_refused_by_name() -> None:
    """Pairing by position would compare query 1 of one system with query 2 of another and still print a p-value."""
    fewer = {query: 0.5 for query in QUERIES[1:]}
    with pytest.raises(ShapeError, match=r"b has 99 queries and a 100, 99 in both"):
        compare_with_baseline({"a": constant(0.5), "b": fewer}, "a", ["b"])
    with pytest.raises(ShapeError, match="no values of hard_labels: there are a"):
        compare_with_baseline({"a": constant(0.5)}, "hard_labels", ["a"])


def test_fit_only_when_ahead_of_every_student_and_significantly() -> None:
    """A higher mean alone is chance, one student left out is the one that matters: both would let a weak teacher teach."""
    dev = {"teacher": noisy(0.7, 1), "hard_labels": noisy(0.6, 2), "margin_mse": noisy(0.695, 3)}
    both = compare_teacher(dev)
    one = compare_teacher({name: values for name, values in dev.items() if name != "margin_mse"})
    assert one is not None and both is not None
    assert one.is_fit
    assert one.sentence.startswith("The teacher is fit to teach: on 100 dev queries")
    assert not both.is_fit and both.not_beaten == ["margin_mse"]
    assert "not fit to teach" in both.sentence and "margin_mse 0.6" in both.sentence
    assert "hard_labels" not in both.sentence


def test_a_teacher_significantly_behind_is_not_fit() -> None:
    """A two-sided p is small here, too: without the direction the weakest teacher would be called fit."""
    dev = {"teacher": noisy(0.4, 1), "hard_labels": noisy(0.6, 2)}
    found = compare_teacher(dev)
    assert found is not None and found.against["hard_labels"].p_holm < 0.01
    assert not found.is_fit


def test_nothing_to_compare_says_nothing() -> None:
    """A warehouse of an older version has no dev numbers: neither fit nor unfit may be claimed."""
    assert compare_teacher({"hard_labels": noisy(0.7, 1)}) is None
    assert compare_teacher({"teacher": noisy(0.7, 1)}) is None
