"""How far a mean over queries can be trusted: intervals, paired tests, correction for many tests, and what a test can see.

Smucker, Allan & Carterette 2007, "A comparison of statistical significance tests for information retrieval
evaluation": the paired randomisation test needs no normal distribution and is the one to prefer for per-query measures.
The seed is an argument; the same seed and values give the same number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from distill_assets.core.errors import NonFiniteError, ShapeError

_Floats = npt.NDArray[np.float64]
_MAX_EXACT = 12  # 2 ** 12 = 4,096 sign patterns: fewer than the permutations drawn otherwise, and no sampling error
_DRAWS_PER_CHUNK = 1 << 20  # 8 MB of float64 at a time, whatever the number of queries


def bootstrap_interval(
    values: Sequence[float] | _Floats, *, seed: int, num_resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean, queries drawn with replacement.

    Raises:
        ShapeError: there is no value.
        NonFiniteError: a value is NaN or infinite.
        ValueError: `level` is not between 0 and 1, or `num_resamples` below 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1, got {level}")
    _require_draws("num_resamples", num_resamples)
    sample = _as_floats(values)
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            sample[rng.integers(0, len(sample), size=(rows, len(sample)))].mean(axis=1)
            for rows in _chunk_rows(num_resamples, len(sample))
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_randomisation_test(
    a: Sequence[float] | _Floats, b: Sequence[float] | _Floats, *, seed: int, num_permutations: int = 10_000
) -> float:
    """Two-sided p-value of "a and b have the same mean", values paired by query.

    Signs of the differences are flipped at random and it is counted how often the mean is at least as far from 0. Exact
    over all sign patterns with at most 12 non-zero differences; otherwise (count + 1) / (num_permutations + 1), which
    is never 0 and keeps the test valid.

    Raises:
        ShapeError: different numbers of values, or none.
        NonFiniteError: a value is NaN or infinite.
    """
    return _sign_flip_p_value(_differences(a, b), np.abs, seed=seed, num_permutations=num_permutations)


def non_inferiority_test(
    candidate: Sequence[float] | _Floats,
    baseline: Sequence[float] | _Floats,
    *,
    margin: float,
    seed: int,
    num_permutations: int = 10_000,
) -> float:
    """One-sided p-value of "the candidate is worse than the baseline by `margin` or more", values paired by query.

    A small p-value means: not worse by that much. The differences are shifted by `margin` and their signs flipped, so
    the null hypothesis is that they are symmetric about -margin or lie lower. With margin 0 it is the test of "not
    better".     Exact or sampled as in `paired_randomisation_test`.

    Args:
        candidate: one value per query, higher is better.
        baseline: the same queries in the same order.
        margin: loss that would be tolerated, at least 0, in the unit of the values.
        seed: of the sampled sign patterns.
        num_permutations: sampled sign patterns.

    Raises:
        ShapeError: different numbers of values, or none.
        NonFiniteError: a value is NaN or infinite.
        ValueError: `margin` is negative.
    """
    if not margin >= 0:
        raise ValueError(f"margin must be at least 0, got {margin}: a negative one would ask for superiority by it")
    shifted = _differences(candidate, baseline) + margin
    return _sign_flip_p_value(shifted, lambda sums: sums, seed=seed, num_permutations=num_permutations)


def holm_correction(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of one family of tests, in the order given: significant where the adjusted one is <= alpha.

    Holm 1979, "A simple sequentially rejective multiple test procedure": the smallest of m p-values is multiplied by m, the
    next by m - 1, and so on; none may be below the one before it, none above 1. The chance of any false claim in the
    family stays at alpha, whatever the dependence between the tests (recipes share queries and a baseline).

    Raises:
        ValueError: a p-value is not within 0 and 1.
    """
    wrong = {name: p for name, p in p_values.items() if not 0 <= p <= 1}  # NaN compares false, so it is refused too
    if wrong:
        raise ValueError(f"p-values lie between 0 and 1, got {wrong}")
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def minimum_detectable_difference(
    num_queries: int, sd_of_differences: float, *, alpha: float = 0.05, power: float = 0.8, num_tests: int = 1
) -> float:
    """The true mean difference that a two-sided paired test finds with probability `power`, in the unit of the values.

    (z(1 - alpha / (2 * num_tests)) + z(power)) * sd / sqrt(n), z being the standard normal quantile: Webber, Moffat & Zobel
    2008, "Statistical power in retrieval experimentation" (their n, solved for the difference). The randomisation test's
    power is that of the t-test in large samples. A measured difference below it is no evidence of "no difference".

    Args:
        num_queries: at least 2.
        sd_of_differences: sample standard deviation of the per-query differences, at least 0.
        alpha: of the whole family.
        power: probability of finding it.
        num_tests: size of a Holm family; its strictest step is assumed, so the figure holds for every test in it.

    Raises:
        ValueError: an argument is out of its range.
    """
    if num_queries < 2 or num_tests < 1:
        raise ValueError(f"expected at least 2 queries and 1 test, got {num_queries} and {num_tests}")
    if not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError(f"alpha and power must be above 0 and below 1, got {alpha} and {power}")
    if not 0 <= sd_of_differences < float("inf"):
        raise ValueError(f"a standard deviation is 0 or more and finite, got {sd_of_differences}")
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - alpha / (2 * num_tests)) + normal.inv_cdf(power)
    return quantiles * sd_of_differences / float(np.sqrt(num_queries))


def mean_over_seeds(per_seed: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Mean per query over the seeds of one recipe, in the order of the first seed's queries.

    To be done before a paired test. What the test samples is queries: three seeds on 100 queries are 100 observations, not
    300, and taken as 300 they would give p-values that are far too small. The mean over seeds stands for what the recipe
    gives on that query; conclusions hold for the mean of these seeds, and how much seeds differ is reported beside it.

    Raises:
        ShapeError: no seed, or seeds evaluated on different queries.
    """
    if not per_seed:
        raise ShapeError("no seed to average over: expected at least one with its per-query values")
    first = next(iter(per_seed.values()))
    for seed, values in per_seed.items():
        if values.keys() != first.keys():
            num_shared = len(values.keys() & first.keys())
            raise ShapeError(
                f"seed {seed} has {len(values)} queries, the first seed {len(first)}, {num_shared} in both: "
                "evaluate every seed on the same queries"
            )
    return {query_id: float(np.mean([values[query_id] for values in per_seed.values()])) for query_id in first}


def _sign_flip_p_value(
    differences: _Floats, extremeness: Callable[[_Floats], _Floats], *, seed: int, num_permutations: int
) -> float:
    """Share of sign patterns whose summed differences are at least as extreme as the ones observed."""
    _require_draws("num_permutations", num_permutations)
    differences = differences[differences != 0]  # a zero keeps its value under any sign
    if len(differences) == 0:
        return 1.0
    # Sums of the same numbers in another order differ in their last bits; a tie must still count as a tie.
    tolerance = 1e-12 * float(np.abs(differences).sum())
    threshold = extremeness(differences.sum(keepdims=True))[0] - tolerance
    is_exact = len(differences) <= _MAX_EXACT
    patterns = _all_signs(len(differences)) if is_exact else _random_signs(len(differences), num_permutations, seed)
    num_extreme = sum(int((extremeness(signs @ differences) >= threshold).sum()) for signs in patterns)
    if is_exact:
        return float(num_extreme / 2 ** len(differences))
    return (num_extreme + 1) / (num_permutations + 1)


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


def _require_draws(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
