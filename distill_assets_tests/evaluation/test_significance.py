"""Intervals and tests, against enumeration by hand and known distributions."""

import itertools
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.evaluation import significance
from distill_assets.evaluation.significance import (
    _most_likely_weights,
    bootstrap_interval,
    detectable_difference,
    gap_closed,
    holm_correction,
    non_inferiority_test,
    paired_randomisation_test,
)

small = settings(max_examples=50, deadline=None)
measures = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=25)


def test_bootstrap_interval_agrees_with_the_normal_approximation() -> None:
    """200 zeros and 200 ones: mean 0.5, standard error 0.5 / 20 = 0.025, so 0.5 -/+ 1.96 x 0.025 = (0.451, 0.549).

    Resampling without replacement would give an interval of width 0.
    """
    low, high = bootstrap_interval([0.0] * 200 + [1.0] * 200, seed=1)
    assert low == pytest.approx(0.451, abs=0.004)
    assert high == pytest.approx(0.549, abs=0.004)


@small
@given(measures, st.integers(0, 2**32 - 1))
def test_bootstrap_interval_contains_the_mean(values: list[float], seed: int) -> None:
    """An interval beside its own point estimate would be drawn on the leaderboard all the same."""
    low, high = bootstrap_interval(values, seed=seed)
    assert low - 1e-12 <= np.mean(values) <= high + 1e-12
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


def test_seeds_decide_and_only_they() -> None:
    """A global generator would make a second, unchanged run print other intervals."""
    values = np.random.default_rng(0).random(40)
    np.random.default_rng(9).random(5)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    p_values = [paired_randomisation_test(values, values[::-1] + 0.01, seed=s) for s in (3, 3, 4)]
    assert p_values[0] == p_values[1] != p_values[2]


def test_chunks_bound_memory_without_losing_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 draws in chunks of 3 rows are 3 + 3 + 3 + 1; a lost last chunk would bias every p-value."""
    monkeypatch.setattr(significance, "_DRAWS_PER_CHUNK", 60)
    assert list(significance._chunk_rows(10, 20)) == [3, 3, 3, 1]
    assert list(significance._chunk_rows(2, 1000)) == [1, 1]


def test_paired_test_by_hand() -> None:
    """Differences 1, 2, 3: of 8 sign patterns only +++ and --- reach |sum| = 6, so p = 2/8."""
    assert paired_randomisation_test([1, 2, 3], [0, 0, 0], seed=0) == 0.25
    # Differences 3, -1: |sum| 4, 2, 2, 4 against 2: every pattern is as extreme.
    assert paired_randomisation_test([3, 0], [0, 1], seed=0) == 1.0


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        # Nothing differs: the most likely loser of 0.01 loses one query in a hundred wholly, 0.99 ** n.
        ([0.0] * 50, 0.6050),
        ([0.0] * 298, 0.0500),
        # One query lost wholly: (0 or 1 of 200 at 0.01) 0.99 ** 200 + 200 x 0.01 x 0.99 ** 199 = 0.1340 + 0.2707.
        ([-1.0] + [0.0] * 199, 0.4046),
        # All gain 0.5: 0.66 x 0.5 - 0.34 = -0.01, so the chance of five such gains is 0.66 ** 5.
        ([0.5] * 5, 0.1252),
        # The observed loss is the margin or more: 5 x -0.02.
        ([-0.02] * 5, 1.0),
    ],
)
def test_non_inferiority_by_hand(differences: list[float], expected: float) -> None:
    """A test that trusts the observed spread would call 50 queries without a difference proof, with p = 0."""
    found = non_inferiority_test(np.array(differences) * 0.5 + 0.5, 0.5 - np.array(differences) * 0.5, margin=0.01)
    assert found == pytest.approx(expected, abs=5e-5)


@small
@given(st.integers(1, 60), st.integers(0, 60), st.floats(0, 0.5))
def test_non_inferiority_of_losses_is_the_binomial_test(num_queries: int, num_lost: int, margin: float) -> None:
    """Differences of 0 and -1: P(at most num_lost of n at a chance of margin), from scipy; a lattice off by one shows."""
    num_lost = min(num_lost, num_queries)
    differences = np.append(np.full(num_lost, -1.0), np.zeros(num_queries - num_lost))
    found = non_inferiority_test(1 + differences, np.ones(num_queries), margin=margin)
    exact = binom.cdf(num_lost, num_queries, margin) if num_lost < margin * num_queries else 1.0
    assert found == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("num_queries", "num_lost"), [(2_000, 19), (2_000, 10), (2_000, 6), (20_000, 150)])
def test_sums_that_fold_onto_others_are_too_rare_to_count(num_queries: int, num_lost: int) -> None:
    """The transform keeps a window of sums: one too narrow would add the other tail to p, and nothing would show it."""
    differences = np.append(np.full(num_lost, -1.0), np.zeros(num_queries - num_lost))
    found = non_inferiority_test(1 + differences, np.ones(num_queries), margin=0.01)
    assert found == pytest.approx(binom.cdf(num_lost, num_queries, 0.01), abs=1e-11)


def test_certain_gains_leave_a_p_above_zero() -> None:
    """0.495 ** 500 is below the transform's rounding, which can be negative: a p below 0 would be stored."""
    assert non_inferiority_test(np.ones(500), np.zeros(500), margin=0.01) == 1e-12


@small
@given(measures, st.floats(0, 0.2), st.randoms(use_true_random=False))
def test_non_inferiority_ignores_order_and_falls_with_the_margin(
    values: list[float], margin: float, random: Random
) -> None:
    """Evidence against a large loss is at least that against a small one; order of queries carries none."""
    pairs = [(value, random.random()) for value in values]
    shuffled = random.sample(pairs, len(pairs))
    narrow, again, wide = (
        non_inferiority_test([a for a, _ in p], [b for _, b in p], margin=m)
        for p, m in ((pairs, margin), (shuffled, margin), (pairs, margin + 0.1))
    )
    assert narrow == pytest.approx(again, abs=1e-9)
    assert 0 < wide <= narrow + 1e-9 <= 1 + 1e-9


def test_null_distribution_has_the_mean_that_is_tested() -> None:
    """Weights that miss the mean test another margin. Values 0.51 and -0.49 seen 2 and 1 times must get 0.49 and 0.51.

    Where all observed values are positive, the lowest possible one carries the rest: 0.66 x 0.51 = 0.34 x 0.99.
    """
    weights = _most_likely_weights(np.array([-0.49, 0.51]), np.array([1, 2]), lowest=-0.99)
    assert weights == pytest.approx([0.51, 0.49])
    assert _most_likely_weights(np.array([0.51]), np.array([5]), lowest=-0.99) == pytest.approx([0.66])


def test_non_inferiority_has_the_right_direction() -> None:
    """With candidate and baseline swapped, a worse model would be promoted."""
    rng = np.random.default_rng(5)
    baseline = 0.4 * rng.random(100)
    better = baseline + rng.normal(0.1, 0.05, 100)
    assert non_inferiority_test(better, baseline, margin=0.01) < 0.001
    assert non_inferiority_test(baseline, better, margin=0.01) > 0.999


def test_ties_of_sums_count_despite_float_rounding() -> None:
    """0.1 + 0.2 - 0.3 is 5.6e-17 and 0.3 - 0.2 - 0.1 is -2.8e-17: without a tolerance p would be 1/2 or so, not 1."""
    assert paired_randomisation_test([0.1, 0.2, 0.0], [0.0, 0.0, 0.3], seed=0) == 1.0


def test_equal_systems_differ_by_nothing() -> None:
    """All differences 0: p is 1, not 0 / 0."""
    assert paired_randomisation_test([0.5] * 30, [0.5] * 30, seed=0) == 1.0
    assert non_inferiority_test([0.5] * 30, [0.5] * 30, margin=0.0) == 1.0


def test_sampled_p_value_is_near_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 differences, exact by 4,096 patterns and by 50,000 drawn ones: signs with a bias would part them."""
    rng = np.random.default_rng(12)
    a, b = rng.random(12) + 0.25, rng.random(12)
    exact = paired_randomisation_test(a, b, seed=0)
    monkeypatch.setattr(significance, "_MAX_EXACT", 0)
    sampled = paired_randomisation_test(a, b, seed=0, num_permutations=50_000)
    assert 0.02 < exact < 0.9
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=0.01)


def test_p_values_are_uniform_under_the_null_hypothesis() -> None:
    """The gate's alpha is a promise: of 400 pairs of equal systems about 5 % (20, standard deviation 4.4) differ."""
    rng = np.random.default_rng(2)
    pairs = [(rng.random(40), rng.random(40)) for _ in range(400)]
    p_values = np.array([paired_randomisation_test(a, b, seed=7, num_permutations=499) for a, b in pairs])
    assert 7 <= (p_values <= 0.05).sum() <= 34
    assert p_values.mean() == pytest.approx(0.5, abs=0.06)


@small
@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=20),
    st.integers(0, 99),
)
def test_p_values_are_bounded_and_symmetric(pairs: list[tuple[float, float]], seed: int) -> None:
    """A p-value of 0 would call a finite sample proof; the two-sided test must not care which system is called a."""
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    num_differences = sum(x != y for x, y in pairs)
    p_value = paired_randomisation_test(a, b, seed=seed, num_permutations=199)
    # The observed pattern, and its mirror image, are among those enumerated; sampled, the 1 added stands for it.
    smallest = 2 / 2**num_differences if 0 < num_differences <= 12 else 1 / 200
    assert smallest <= p_value <= 1
    assert p_value == paired_randomisation_test(b, a, seed=seed, num_permutations=199)


def test_sampled_p_value_is_never_zero() -> None:
    """30 queries, all better: no sampled pattern gets there, and (0 + 1) / (999 + 1) is what may be claimed."""
    assert paired_randomisation_test([0.9] * 30, [0.1] * 30, seed=0, num_permutations=999) == 0.001


@small
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_exact_p_value_equals_enumeration(differences: list[int]) -> None:
    """Tenths are not exact in binary: sums that tie on paper differ in the last bit and must still count as ties."""
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = sum(abs(total) >= abs(sum(differences)) for total in sums) / len(sums)
    tenths = [d / 10 for d in differences]
    assert paired_randomisation_test(tenths, [0] * len(differences), seed=0) == expected


def test_bad_input_is_refused() -> None:
    """Broadcasting would compare every query with one value; NaN would make every comparison false and p tiny."""
    with pytest.raises(ShapeError, match="got 3 and 1"):
        paired_randomisation_test([1, 2, 3], [1], seed=0)
    with pytest.raises(ShapeError, match=r"got shape \(0,\)"):
        bootstrap_interval([], seed=0)
    with pytest.raises(NonFiniteError, match="1 of 2 values"):
        paired_randomisation_test([1, float("nan")], [1, 2], seed=0)
    for margin in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="margin must be at least 0 and below 1"):
            non_inferiority_test([1], [1], margin=margin)
    with pytest.raises(ValueError, match="expected values between 0 and 1, got a difference of 40"):
        non_inferiority_test([0.5, 60], [0.5, 20], margin=0.01)


def test_holm_by_hand() -> None:
    """P 0.01, 0.04, 0.03, 0.005 of 4 tests: sorted x 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04; the last may not fall below 0.06.

    Without the running maximum 0.04 would pass at 5 % although a smaller p before it did not.
    """
    found = holm_correction({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(found) == ["a", "b", "c", "d"]
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_holm_of_one_and_of_none() -> None:
    """One test needs no correction; two recipes of p 0.8 must not get 1.6."""
    assert holm_correction({"a": 0.04}) == {"a": 0.04}
    assert holm_correction({}) == {}
    assert holm_correction({"a": 0.8, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@small
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p_values: list[float]) -> None:
    """A corrected p below the raw one invents evidence; one above Bonferroni's throws it away. Order must not turn."""
    raw = {str(i): p for i, p in enumerate(p_values)}
    found = holm_correction(raw)
    assert all(raw[k] <= found[k] <= min(1.0, len(raw) * raw[k]) + 1e-12 for k in raw)
    ordered = [found[k] for k in sorted(raw, key=lambda k: raw[k])]
    assert ordered == sorted(ordered)


def spread(num_queries: int, sd: float) -> np.ndarray:
    """Differences whose sample standard deviation is `sd`."""
    return np.tile([1.0, -1.0], num_queries // 2) * sd * np.sqrt((num_queries - 1) / num_queries)


def test_detectable_difference_by_hand() -> None:
    """z(0.975) = 1.95996, z(0.8) = 0.84162, sum 2.80159: with sd 0.25 and 100 queries x 0.025 = 0.07004.

    Four tests: z(1 - 0.05 / 8) = z(0.99375) = 2.49771, sum 3.33933, x 0.025 = 0.08348. A one-sided quantile would give 0.0622.
    """
    assert detectable_difference(spread(100, 0.25)) == pytest.approx(0.07004, abs=1e-5)
    assert detectable_difference(spread(400, 0.25)) == pytest.approx(0.07004 / 2, abs=1e-5)
    assert detectable_difference(spread(100, 0.25), 4) == pytest.approx(0.08348, abs=1e-5)
    assert detectable_difference(np.array([0.3])) == 1.0, "one query has no spread: NaN would be printed"


def test_detectable_difference_is_detected_with_its_power() -> None:
    """The formula is a promise about our own test: of 300 samples with that true difference about 80 % (sd 2.3 %) are found."""
    rng = np.random.default_rng(4)
    samples = rng.normal(detectable_difference(spread(60, 0.2)), 0.2, size=(300, 60))
    found = [paired_randomisation_test(d, np.zeros(60), seed=1, num_permutations=499) <= 0.05 for d in samples]
    assert 0.72 <= np.mean(found) <= 0.88


@pytest.mark.parametrize(("student", "share"), [(0.55, 0.5), (0.45, -0.5), (0.65, 1.5)])
def test_gap_closed_is_the_share_of_the_way_to_the_teacher(student: float, share: float) -> None:
    """0.05 of 0.10: dividing by the teacher would give 0.083. Clipping to 0..1 would hide a student that training harmed."""
    found = gap_closed(np.full(9, student), np.full(9, 0.5), np.full(9, 0.6), seed=1)
    assert found == pytest.approx((share, share, share))


@pytest.mark.parametrize("teacher", [0.50, 0.40])
def test_gap_closed_is_none_when_the_teacher_is_not_better(teacher: float) -> None:
    """A weaker teacher turns the sign of the ratio: 0.05 / -0.10 would call a gain a loss; equality divides by 0."""
    assert gap_closed(np.full(9, 0.55), np.full(9, 0.5), np.full(9, teacher), seed=1) == (None, None, None)


def test_gap_closed_refuses_nan_and_other_queries() -> None:
    """NaN <= x is False, so a teacher of NaN would pass the guard and give a gap of NaN in the report."""
    with pytest.raises(NonFiniteError, match="1 of 2 values"):
        gap_closed(np.full(2, 0.55), np.full(2, 0.5), np.array([0.6, math.nan]), seed=1)
    with pytest.raises(ShapeError, match="got 1 and 2"):
        gap_closed(np.full(2, 0.55), np.full(2, 0.5), np.full(1, 0.6), seed=1)


def test_gap_without_certain_teacher_has_no_interval() -> None:
    """A teacher ahead by chance makes the ratio's denominator cross 0: an interval from those draws looks precise."""
    rng = np.random.default_rng(0)
    untouched = rng.random(20)
    teacher = untouched + rng.normal(0, 0.5, 20)
    teacher += 0.01 - (teacher - untouched).mean()  # ahead by 0.01, standard error 0.11
    share, low, high = gap_closed(untouched + 0.005, untouched, teacher, seed=1)
    assert share == pytest.approx(0.5)
    assert (low, high) == (None, None)
