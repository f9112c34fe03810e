"""How far a mean over queries can be trusted: intervals, paired tests, correction for many tests, and what a test can see.

Smucker, Allan & Carterette 2007, "A comparison of statistical significance tests for information retrieval
evaluation": the paired randomisation test needs no normal distribution and is the one to prefer for per-query measures.
The same values and the same seed give the same number.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from distill_assets.errors import NonFiniteError, ShapeError

_Floats = npt.NDArray[np.float64]
ALPHA = 0.05  # level of a family of tests
SEED = 2026
_POWER = 0.8
_TAILS = ((1 - 0.95) / 2, (1 + 0.95) / 2)  # of a 95 % interval
_RESAMPLES = 10_000
_MAX_EXACT = 12  # 2 ** 12 = 4,096 sign patterns: fewer than the permutations drawn otherwise, and no sampling error
_STEPS = 512  # of a difference of 1: rounding to 0.002 moves the mean of 200 differences by about 0.00004
_SMALLEST_P = 1e-12  # a sum of chances that went through a Fourier transform is no better than this
_DRAWS_PER_CHUNK = 1 << 20  # 8 MB of float64 at a time, whatever the number of queries


def bootstrap_interval(values: Sequence[float] | _Floats, *, seed: int = SEED) -> tuple[float, float]:
    """95 % percentile bootstrap interval (low, high) of the mean, queries drawn with replacement.

    Raises:
        ShapeError: there is no value.
        NonFiniteError: a value is NaN or infinite.
    """
    return _interval(_resampled_means([_as_floats(values)], seed)[0])


def gap_closed(
    student: _Floats, untouched: _Floats, teacher: _Floats, *, seed: int = SEED
) -> tuple[float | None, float | None, float | None]:
    """Share of the way from the untouched student to the teacher, with its 95 % bootstrap interval: (share, low, high).

    The arguments are nDCG@10 of the same queries, (n,) each. The share is mean(student - untouched) / mean(teacher - untouched).
    Above 1 the student passed the teacher, below 0 training harmed it. It is None where the teacher is not ahead: there is no gap,
    and the ratio would turn its sign. Queries are drawn with replacement, the same for all three systems. A draw in which the
    teacher is not ahead is left out. The interval is None where more than 2.5 % of the draws are such: it would reach to infinity.

    Raises:
        ShapeError: the numbers of queries differ, or there is none.
        NonFiniteError: a value is NaN or infinite.
    """
    gains, gaps = _differences(student, untouched), _differences(teacher, untouched)
    if gaps.mean() <= 0:
        return None, None, None
    share = float(gains.mean() / gaps.mean())
    drawn_gains, drawn_gaps = _resampled_means([gains, gaps], seed)
    has_gap = drawn_gaps > 0
    if (~has_gap).mean() > _TAILS[0]:
        return share, None, None
    return share, *_interval(drawn_gains[has_gap] / drawn_gaps[has_gap])


def _resampled_means(columns: Sequence[_Floats], seed: int) -> _Floats:
    """Means over queries drawn with replacement, the same draws for every column: (number of columns, 10,000)."""
    rng, num_queries = np.random.default_rng(seed), len(columns[0])
    chunks = _chunk_rows(_RESAMPLES, num_queries)
    draws = (rng.integers(0, num_queries, size=(rows, num_queries)) for rows in chunks)
    return np.concatenate([[column[drawn].mean(axis=1) for column in columns] for drawn in draws], axis=1)


def _interval(resampled: _Floats) -> tuple[float, float]:
    low, high = np.quantile(resampled, _TAILS)
    return float(low), float(high)


def paired_randomisation_test(
    a: Sequence[float] | _Floats, b: Sequence[float] | _Floats, *, seed: int = SEED, num_permutations: int = 10_000
) -> float:
    """Two-sided p-value of "a and b have the same mean", values paired by query.

    Signs of the differences are flipped at random and it is counted how often the mean is at least as far from 0. Exact
    over all sign patterns with at most 12 non-zero differences; otherwise (count + 1) / (num_permutations + 1), which
    is never 0 and keeps the test valid.

    Raises:
        ShapeError: different numbers of values, or none.
        NonFiniteError: a value is NaN or infinite.
    """
    differences = _differences(a, b)
    differences = differences[differences != 0]  # a zero keeps its value under any sign
    if len(differences) == 0:
        return 1.0
    # Sums of the same numbers in another order differ in their last bits; a tie must still count as a tie.
    threshold = abs(differences.sum()) - 1e-12 * float(np.abs(differences).sum())
    is_exact = len(differences) <= _MAX_EXACT
    patterns = _all_signs(len(differences)) if is_exact else _random_signs(len(differences), num_permutations, seed)
    num_extreme = sum(int((np.abs(signs @ differences) >= threshold).sum()) for signs in patterns)
    if is_exact:
        return float(num_extreme / 2 ** len(differences))
    return (num_extreme + 1) / (num_permutations + 1)


def non_inferiority_test(
    candidate: Sequence[float] | _Floats, baseline: Sequence[float] | _Floats, *, margin: float
) -> float:
    """One-sided p-value of "the candidate's mean is `margin` or more below the baseline's", values paired by query.

    A small p-value means: not worse by that much. With margin 0 it is the test of "not better".

    The null hypothesis is made as likely as it can be: of all distributions of differences on [-1, 1] whose mean is
    -margin, the one is taken under which the observed differences are the most likely (Owen 1988, "Empirical likelihood
    ratio confidence intervals for a single functional"). It may put weight on -1, a query that the candidate loses
    wholly, even where no such query was observed. The p-value is the chance that a sample of as many queries from that
    distribution has a mean at least as high as the observed one (Efron 1981, "Nonparametric standard errors and
    confidence intervals": tilting). With differences of 0 and -1 alone that is the exact binomial test. It is 1 where the
    observed mean is -margin or lower.

    Flipping signs of the differences shifted by the margin is not valid here: the shifted differences of sparse measures
    are not symmetric, and a rare large loss that the sample happens to miss is invisible to it.

    Differences are rounded to 1/512, so that the chance is a sum over a lattice and needs no random draws.

    Args:
        candidate: one value per query between 0 and 1, higher is better.
        baseline: the same queries in the same order.
        margin: loss that would be tolerated, at least 0 and below 1, in the unit of the values.

    Raises:
        ShapeError: different numbers of values, or none.
        NonFiniteError: a value is NaN or infinite.
        ValueError: `margin` is out of its range, or two values of one query are more than 1 apart.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin must be at least 0 and below 1, got {margin}")
    steps = np.rint(_differences(candidate, baseline) * _STEPS).astype(np.int64)
    if np.abs(steps).max() > _STEPS:
        raise ValueError(f"expected values between 0 and 1, got a difference of {np.abs(steps).max() / _STEPS:g}")
    num_queries, total = len(steps), int(steps.sum())
    if total <= -margin * _STEPS * num_queries:
        return 1.0
    values, counts = np.unique(steps, return_counts=True)
    chances = np.zeros(2 * _STEPS + 1)  # of the differences -1 to 1
    chances[values + _STEPS] = _most_likely_weights(values / _STEPS + margin, counts, lowest=margin - 1)
    chances[0] += max(0.0, 1 - chances.sum())
    return max(_SMALLEST_P, _upper_tail(chances, num_queries, total + num_queries * _STEPS))


def _upper_tail(chances: _Floats, num_draws: int, threshold: int) -> float:
    """Chance that the sum of `num_draws` indices, drawn with `chances`, is at least `threshold`, to 1e-12.

    The distribution of the sum is a convolution, taken by Fourier transform. Only sums within `reach` of their mean are
    kept, the others fold onto them: Bernstein's inequality leaves less than 2e-14 there, and memory stays at megabytes.
    """
    indices = np.arange(len(chances))
    mean = float(chances @ indices)
    variance = float(chances @ (indices - mean) ** 2)
    slack = 32 / 3 * len(chances)  # exp(-32) = 1.3e-14; no index is further from the mean than len(chances)
    reach = int(slack + np.sqrt(slack**2 + 64 * num_draws * variance)) + 1
    centre = round(num_draws * mean)
    length = 1 << max(2 * reach + 1, len(chances)).bit_length()  # a power of two transforms fast
    sums = np.fft.irfft(np.fft.rfft(chances, length) ** num_draws, length)
    return float(min(1.0, sums[np.arange(threshold, centre + reach + 1) % length].sum()))


def _most_likely_weights(values: _Floats, counts: npt.NDArray[np.int64], *, lowest: float) -> _Floats:
    """Weights of `values`, seen `counts` times, in the most likely distribution on [lowest, ...) whose mean is 0.

    They are counts / (n * (1 + t * values)); what they lack to 1 lies on `lowest`. t is the root of
    sum(counts * values / (1 + t * values)), or -1 / lowest where the sum stays positive up to there.
    """
    low, high = 0.0, -1 / lowest
    for _ in range(60):  # halvings: more than a float64 has bits
        middle = (low + high) / 2
        if (counts * values / (1 + middle * values)).sum() > 0:
            low = middle
        else:
            high = middle
    return counts / (counts.sum() * (1 + low * values))


def holm_correction(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of one family of tests, in the order given: significant where the adjusted one is <= alpha.

    Holm 1979, "A simple sequentially rejective multiple test procedure": the smallest of m p-values is multiplied by m, the
    next by m - 1, and so on; none may be below the one before it, none above 1. The chance of any false claim in the
    family stays at alpha, whatever the dependence between the tests (recipes share queries and a baseline).
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def detectable_difference(differences: _Floats, num_tests: int = 1) -> float:
    """The true mean difference that a two-sided paired test at `ALPHA` finds with 80 % probability.

    (z(1 - alpha / (2 * num_tests)) + z(0.8)) * sd / sqrt(n), z being the standard normal quantile: Webber, Moffat & Zobel
    2008, "Statistical power in retrieval experimentation" (their n, solved for the difference). The randomisation test's
    power is that of the t-test in large samples. A measured difference below it is no evidence of "no difference".

    Args:
        differences: per query, (n,). With one query nothing bounds it, and the whole range of nDCG is returned: 1.
        num_tests: size of a Holm family; its strictest step is assumed, so the figure holds for every test in it.
    """
    if len(differences) < 2:
        return 1.0
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - ALPHA / (2 * num_tests)) + normal.inv_cdf(_POWER)
    return quantiles * float(differences.std(ddof=1)) / float(np.sqrt(len(differences)))


def _all_signs(num_pairs: int) -> Iterator[_Floats]:
    """Every sign pattern once, (2 ** num_pairs, num_pairs)."""
    bits = (np.arange(2**num_pairs)[:, None] >> np.arange(num_pairs)) & 1
    yield np.where(bits, -1.0, 1.0)


def _random_signs(num_pairs: int, num_permutations: int, seed: int) -> Iterator[_Floats]:
    rng = np.random.default_rng(seed)
    for rows in _chunk_rows(num_permutations, num_pairs):
        yield np.where(rng.integers(0, 2, size=(rows, num_pairs), dtype=np.int8), -1.0, 1.0)


def _chunk_rows(num_rows: int, width: int) -> Iterator[int]:
    """Split `num_rows` draws of `width` numbers into chunks of bounded size."""
    step = max(1, _DRAWS_PER_CHUNK // width)
    for start in range(0, num_rows, step):
        yield min(step, num_rows - start)


def _differences(a: Sequence[float] | _Floats, b: Sequence[float] | _Floats) -> _Floats:
    first, second = _as_floats(a), _as_floats(b)
    if len(first) != len(second):
        raise ShapeError(f"a paired test needs one value per query on both sides: got {len(first)} and {len(second)}")
    return first - second


def _as_floats(values: Sequence[float] | _Floats) -> _Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise ShapeError(f"expected one value per query, at least one: got shape {array.shape}")
    if not np.isfinite(array).all():
        num_bad = int((~np.isfinite(array)).sum())
        raise NonFiniteError(f"{num_bad} of {len(array)} values are not finite: evaluate those queries again")
    return array
