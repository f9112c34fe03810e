"""Fit to teach, or not: the rule and the sentence."""

import numpy as np

from distill_assets.evaluation.fitness import fitness_sentence, judge_teacher

QUERIES = [f"q{i}" for i in range(40)]


def around(mean: float, seed: int) -> dict[str, float]:
    """Values that differ per query."""
    noise = np.random.default_rng(seed).normal(0, 0.05, len(QUERIES))
    return dict(zip(QUERIES, (mean + noise).tolist(), strict=True))


def test_fit_only_when_ahead_of_every_student_and_significantly() -> None:
    """A higher mean alone is chance, one student left out is the one that matters: both would let a weak teacher teach."""
    dev = {"teacher": around(0.7, 1), "hard_labels": around(0.6, 2), "margin_mse": around(0.695, 3)}
    both = judge_teacher(dev, seed=0)
    one = judge_teacher({name: values for name, values in dev.items() if name != "margin_mse"}, seed=0)
    assert one is not None and both is not None
    assert one.is_fit
    assert fitness_sentence(one).startswith("The teacher is fit to teach: on 40 dev queries")
    assert not both.is_fit and both.not_beaten == ["margin_mse"]
    assert "not fit to teach" in fitness_sentence(both) and "margin_mse 0.6" in fitness_sentence(both)
    assert "hard_labels" not in fitness_sentence(both)


def test_a_teacher_significantly_behind_is_not_fit() -> None:
    """A two-sided p is small here, too: without the direction the weakest teacher would be called fit."""
    dev = {"teacher": around(0.4, 1), "hard_labels": around(0.6, 2)}
    found = judge_teacher(dev, seed=0)
    assert found is not None and found.against["hard_labels"].p_holm < 0.01
    assert not found.is_fit


def test_nothing_to_compare_says_nothing() -> None:
    """A warehouse of an older version has no dev numbers: neither fit nor unfit may be claimed."""
    assert judge_teacher({"hard_labels": around(0.7, 1)}) is None
    assert judge_teacher({"teacher": around(0.7, 1)}) is None
