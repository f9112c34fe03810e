"""Systems compared on the same queries: differences with corrected tests, what the tests can see, and the gap that is closed.

Input is `{system: {query_id: nDCG@10}}`. Every function is deterministic: resampling takes its seed as an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.evaluation.significance import (
    holm_correction,
    minimum_detectable_difference,
    paired_randomisation_test,
)
from distill_assets.records import HARD_LABELS, TEACHER, UNTOUCHED_STUDENT

ALPHA = 0.05
# Column suffix: system. The untouched student comes first: whether training helps at all is the first question.
BASELINES = {"untouched": UNTOUCHED_STUDENT, "hard_labels": HARD_LABELS}
_RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One system against a baseline on the same queries, after averaging each query over seeds.

    Attributes:
        difference: mean of system - baseline over the queries.
        p_value: two-sided paired randomisation test, uncorrected.
        p_holm: corrected over the family that was tested together.
        detectable: smallest true difference that this test finds with 80 % probability at the family's strictest step.
    """

    system: str
    baseline: str
    difference: float
    p_value: float
    p_holm: float
    detectable: float

    def is_better(self, alpha: float = 0.05) -> bool:
        """Significantly above the baseline at `alpha`, corrected."""
        return self.difference > 0 and self.p_holm <= alpha

    def is_worse(self, alpha: float = 0.05) -> bool:
        """Significantly below the baseline at `alpha`, corrected."""
        return self.difference < 0 and self.p_holm <= alpha


def compare_with_baseline(
    per_query: Mapping[str, Mapping[str, float]],
    baseline: str,
    family: Sequence[str],
    *,
    seed: int,
    alpha: float = 0.05,
) -> dict[str, Comparison]:
    """Test each system of `family` against `baseline`, paired by query, corrected over the family.

    Args:
        per_query: system -> query_id -> value, the same queries for all that are compared.
        baseline: a key of `per_query`; taken out of the family where it is in it.
        family: the systems that are claimed about together.
        seed: of the sampled sign patterns.
        alpha: level of the family, for what is detectable.

    Raises:
        ShapeError: a system is missing, or was evaluated on other queries than the baseline.
    """
    columns = columns_of_queries(per_query, [baseline, *family])
    base = columns.pop(baseline)
    p_values = {name: paired_randomisation_test(values, base, seed=seed) for name, values in columns.items()}
    corrected = holm_correction(p_values)
    return {
        name: Comparison(
            system=name,
            baseline=baseline,
            difference=float((values - base).mean()),
            p_value=p_values[name],
            p_holm=corrected[name],
            detectable=_detectable(values - base, alpha, len(columns)),
        )
        for name, values in columns.items()
    }


def comparison_columns(
    per_query: Mapping[str, Mapping[str, float]], recipes: Sequence[str], *, seed: int
) -> dict[str, dict[str, float | None]]:
    """Per recipe the columns of its row that compare it: `gap_closed*`, `p_vs_*` and `detectable_vs_*`.

    The gap is told only where the teacher is significantly above the untouched student. A system that was not evaluated brings no
    column. The tests are two families, one per baseline, each corrected over
    the recipes: they answer two questions (does distilling beat plain fine-tuning; does training help at all).

    Args:
        per_query: system -> query_id -> nDCG@10, on the same queries.
        recipes: names of the trained students.
        seed: of the sampled sign patterns and of the bootstrap.

    Raises:
        ShapeError: systems were evaluated on different queries.
        NonFiniteError: a value is NaN or infinite.
    """
    columns: dict[str, dict[str, float | None]] = {name: {} for name in recipes}
    for suffix, baseline in BASELINES.items():
        if baseline not in per_query:
            continue
        for name, found in compare_with_baseline(per_query, baseline, recipes, seed=seed, alpha=ALPHA).items():
            columns[name] |= {f"p_vs_{suffix}": found.p_holm, f"detectable_vs_{suffix}": found.detectable}
    if UNTOUCHED_STUDENT in per_query and TEACHER in per_query and _is_ahead(per_query, seed):
        values = columns_of_queries(per_query, [UNTOUCHED_STUDENT, TEACHER, *recipes])
        for name in recipes:
            share = gap_closed(values[name], values[UNTOUCHED_STUDENT], values[TEACHER], seed=seed)
            columns[name] |= dict(zip(("gap_closed", "gap_closed_low", "gap_closed_high"), share, strict=True))
    return columns


def _is_ahead(per_query: Mapping[str, Mapping[str, float]], seed: int) -> bool:
    """Whether the teacher is significantly above the untouched student: a share of a gap that may be none says nothing."""
    return compare_with_baseline(per_query, UNTOUCHED_STUDENT, [TEACHER], seed=seed, alpha=ALPHA)[TEACHER].is_better(
        ALPHA
    )


def columns_of_queries(
    per_query: Mapping[str, Mapping[str, float]], systems: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Values of each system, (num_queries,) each, all in one order of the queries.

    Raises:
        ShapeError: a system is missing, or was evaluated on other queries than the first.
    """
    missing = [name for name in systems if name not in per_query]
    if missing:
        raise ShapeError(f"no values of {', '.join(missing)}: there are {', '.join(per_query)}")
    first = per_query[systems[0]].keys()
    for name in systems:
        if per_query[name].keys() != first:
            raise ShapeError(
                f"{name} has {len(per_query[name])} queries and {systems[0]} {len(first)}, "
                f"{len(per_query[name].keys() & first)} in both: a paired comparison needs the same queries; evaluate both on one split"
            )
    queries = sorted(first)
    return {name: np.array([per_query[name][q] for q in queries], dtype=np.float64) for name in systems}


def gap_closed(
    student: npt.NDArray[np.float64],
    untouched: npt.NDArray[np.float64],
    teacher: npt.NDArray[np.float64],
    *,
    seed: int,
    level: float = 0.95,
) -> tuple[float | None, float | None, float | None]:
    """Share of the way from the untouched student to the teacher, with a percentile bootstrap interval: (share, low, high).

    The share is mean(student - untouched) / mean(teacher - untouched). Above 1 the student passed the teacher, below 0
    training harmed it. It is None where the teacher is not ahead: there is no gap, and the ratio would turn its sign.
    Queries are drawn with replacement, the same for all three systems. A draw in which the teacher is not ahead is left
    out. The interval is None where more than half of (1 - level) of the draws are such: it would reach to infinity.

    Args:
        student: nDCG@10 per query, (n,).
        untouched: the same queries, (n,).
        teacher: the same queries, (n,).
        seed: of the draws.
        level: of the interval.

    Raises:
        ShapeError: the numbers of queries differ, or there is none.
        NonFiniteError: a value is NaN or infinite.
    """
    if not len(student) == len(untouched) == len(teacher) or len(student) == 0:
        raise ShapeError(
            f"gap closed needs the same queries for all: got {len(student)}, {len(untouched)} and {len(teacher)} values"
        )
    wrong = int((~np.isfinite([student, untouched, teacher])).sum())
    if wrong:
        raise NonFiniteError(
            f"gap closed: {wrong} nDCG@10 values are NaN or infinite, expected none; materialise eval_metrics again"
        )
    if teacher.mean() <= untouched.mean():
        return None, None, None
    share = float((student - untouched).mean() / (teacher - untouched).mean())
    gains, gaps = _resampled_means(student - untouched, teacher - untouched, seed)
    has_gap = gaps > 0
    if (~has_gap).mean() > (1 - level) / 2:
        return share, None, None
    low, high = np.quantile(gains[has_gap] / gaps[has_gap], [(1 - level) / 2, (1 + level) / 2])
    return share, float(low), float(high)


def _detectable(differences: npt.NDArray[np.float64], alpha: float, num_tests: int) -> float:
    """What the test could see; with a single query nothing bounds it, and the whole range of nDCG is reported."""
    if len(differences) < 2:
        return 1.0
    sd = float(differences.std(ddof=1))
    return minimum_detectable_difference(len(differences), sd, alpha=alpha, num_tests=max(1, num_tests))


def _resampled_means(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means of both columns over the same drawn queries, (resamples,) each."""
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(a), size=len(a)) for _ in range(_RESAMPLES)]
    return np.array([a[rows].mean() for rows in draws]), np.array([b[rows].mean() for rows in draws])
