"""The gate: what it lets through, what it stops, and what it says."""

import numpy as np
import pytest

from distill_assets.core.errors import NonFiniteError, PromotionError
from distill_assets.core.promotion import Decision, choose_candidate, decide_promotion


def dev_scores(mean: float, spread: float = 0.1, num_queries: int = 100, seed: int = 0) -> dict[str, float]:
    """Per-query nDCG@10 around a mean, by query_id."""
    values = np.random.default_rng(seed).normal(mean, spread, num_queries)
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def shifted(scores: dict[str, float], by: float) -> dict[str, float]:
    """The same queries, each better by `by`."""
    return {query_id: value + by for query_id, value in scores.items()}


def test_first_champion_needs_no_test() -> None:
    """A gate that wants something to compare with would never open."""
    found = decide_promotion({"q1": 0.1, "q2": 0.0}, None, seed=0)
    assert found == Decision(True, "first champion: there is none to compare it with", None, None, 2)


def test_by_hand() -> None:
    """Five queries, each 0.01 better, margin 0.01: all shifted differences are 0.02, so p = 1/32 = 0.03125 <= 0.05."""
    champion = {f"q{i}": 0.5 for i in range(5)}
    found = decide_promotion(shifted(champion, 0.01), champion, seed=0)
    assert (found.promote, found.p_value, found.num_queries) == (True, 0.03125, 5)
    assert found.mean_difference == pytest.approx(0.01)
    assert found.reason == (
        "not worse than the champion: dev nDCG@10 +0.0100 on 5 queries, margin 0.01, p = 0.0312, alpha 0.05"
    )


def test_four_queries_can_never_pass_and_the_reason_says_so() -> None:
    """The p-value cannot go below 1/16 = 0.0625: without the hint a user would train for ever."""
    champion = {f"q{i}": 0.1 for i in range(4)}
    found = decide_promotion(shifted(champion, 0.8), champion, seed=0)
    assert (found.promote, found.p_value) == (False, 0.0625)
    assert found.reason.endswith("no result on so few queries could pass")


@pytest.mark.parametrize(
    ("gain", "promote"),
    [
        (0.05, True),  # better
        (0.0, True),  # the same on every query
        (-0.005, True),  # worse on every query, by half the margin
        (-0.015, False),  # worse by more than the margin
        (-0.2, False),  # much worse
    ],
)
def test_uniform_changes(gain: float, promote: bool) -> None:
    """Without noise the margin alone decides: a superiority test would stop an equal model, no test a worse one."""
    champion = dev_scores(0.6)
    assert decide_promotion(shifted(champion, gain), champion, seed=0).promote is promote


def test_noise_does_not_pass_as_not_worse() -> None:
    """Two models that differ by noise of 0.14 per query on 100 queries (standard error 0.014): nothing is shown."""
    champion, candidate = dev_scores(0.6, seed=1), dev_scores(0.6, seed=2)
    found = decide_promotion(candidate, champion, seed=0)
    assert abs(found.mean_difference or 0.0) < 0.02
    assert not found.promote
    assert found.reason.startswith("not shown to be no worse than the champion")


def test_queries_are_paired_by_id_not_by_position() -> None:
    """A second run lists queries in another order; paired by position, equal models would look noisy and stay out."""
    champion = dev_scores(0.6)
    reordered = dict(reversed(list(champion.items())))
    found = decide_promotion(reordered, champion, seed=0)
    assert (found.promote, found.mean_difference) == (True, 0.0)


def test_different_queries_are_refused() -> None:
    """The common queries alone would be another measure: a candidate that skipped the hard ones would win."""
    with pytest.raises(PromotionError, match=r"1 only by the candidate \['q3'\], 1 only by the champion \['q1'\]"):
        decide_promotion({"q2": 0.5, "q3": 0.9}, {"q1": 0.1, "q2": 0.5}, seed=0)
    with pytest.raises(PromotionError, match="no dev query"):
        decide_promotion({}, None, seed=0)
    with pytest.raises(NonFiniteError):
        decide_promotion({"q": float("nan")}, {"q": 0.5}, seed=0)
    with pytest.raises(ValueError, match="alpha must be above 0 and below 1, got 5"):
        decide_promotion({"q": 0.5}, {"q": 0.5}, alpha=5, seed=0)


def test_choose_candidate_is_a_total_order() -> None:
    """Equal means: the name decides, not the order in which recipes were read."""
    assert choose_candidate({"b": 0.6, "a": 0.6, "c": 0.5}) == "a"
    assert choose_candidate({"a": 0.5, "c": 0.7}) == "c"
    with pytest.raises(PromotionError, match="materialise eval_metrics"):
        choose_candidate({})
    with pytest.raises(NonFiniteError, match="of b is not finite"):
        choose_candidate({"a": 0.5, "b": float("nan")})
