"""Systems compared on the same queries, several seeds each: one table with intervals, corrected tests and their limits.

Input is always ``{system: {seed: {query_id: nDCG@10}}}``; a system without randomness (BM25, the untouched student) has one
seed. Every function is deterministic: resampling takes its seed as an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.evaluation.significance import (
    bootstrap_interval,
    holm_correction,
    mean_over_seeds,
    minimum_detectable_difference,
    paired_randomisation_test,
)
from distill_assets.evaluation.tables import as_markdown, format_difference, format_p, format_score, format_share
from distill_assets.records import BM25, HYBRID, TEACHER, UNTOUCHED_STUDENT

PerSeed = Mapping[int, Mapping[str, float]]
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


@dataclass(frozen=True, kw_only=True)
class EvidenceRow:
    """One line of the results table.

    Attributes:
        ndcg_at_10: mean over queries of the means over seeds; `low` and `high` are its 95 % bootstrap interval over queries.
        seed_sd: sample standard deviation of the seeds' means; None with one seed.
        difference: of the mean from the baseline's; None for the baseline, as are `p_value`, `p_holm`, `detectable`, which
            are also None for systems outside the tested family.
        gap_closed: see `gap_closed`; None for the references and where the teacher is not ahead.
        gap_closed_low: lower end of its 95 % interval, `gap_closed_high` the upper; None where the teacher's lead is not
            certain enough for the ratio to have bounds.
    """

    system: str
    num_seeds: int
    num_queries: int
    ndcg_at_10: float
    low: float
    high: float
    seed_sd: float | None = None
    difference: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    gap_closed: float | None = None
    gap_closed_low: float | None = None
    gap_closed_high: float | None = None


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


def results_table(
    per_system: Mapping[str, PerSeed],
    *,
    baseline: str,
    untouched: str = UNTOUCHED_STUDENT,
    teacher: str = TEACHER,
    family: Sequence[str] | None = None,
    seed: int = 2026,
) -> list[EvidenceRow]:
    """The results table, best mean first, equal means by name.

    Args:
        per_system: {system: {seed: {query_id: nDCG@10}}}, all on the same queries.
        baseline: what the others are tested against, often `hard_labels` or `untouched_student`.
        untouched: start of the gap; without it in `per_system` no gap is reported. The same for `teacher`, its end.
        teacher: end of the gap.
        family: systems tested together; by default all but the baseline, BM25, `untouched` and `teacher`.
        seed: of the bootstrap and the sampled sign patterns.

    Raises:
        ShapeError: systems or seeds were evaluated on different queries, or there is no baseline.
    """
    means = {system: mean_over_seeds(seeds) for system, seeds in per_system.items()}
    columns = columns_of_queries(means, [baseline, *means])
    if family is None:
        family = [name for name in means if name not in (baseline, BM25, untouched, teacher)]
    comparisons = compare_with_baseline(means, baseline, family, seed=seed)
    has_gap = untouched in columns and teacher in columns
    rows = []
    for name, values in columns.items():
        found = comparisons.get(name)
        low, high = bootstrap_interval(values, seed=seed)
        gap: tuple[float | None, float | None, float | None] = (None, None, None)
        if has_gap and name not in (BM25, HYBRID, untouched, teacher):
            gap = gap_closed(values, columns[untouched], columns[teacher], seed=seed)
        rows.append(
            EvidenceRow(
                system=name,
                num_seeds=len(per_system[name]),
                num_queries=len(values),
                ndcg_at_10=float(values.mean()),
                low=low,
                high=high,
                seed_sd=_seed_sd(per_system[name]),
                difference=None if name == baseline else float((values - columns[baseline]).mean()),
                p_value=found.p_value if found else None,
                p_holm=found.p_holm if found else None,
                detectable=found.detectable if found else None,
                gap_closed=gap[0],
                gap_closed_low=gap[1],
                gap_closed_high=gap[2],
            )
        )
    return sorted(rows, key=lambda row: (-row.ndcg_at_10, row.system))


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


def evidence_records(rows: Sequence[EvidenceRow]) -> list[dict[str, Any]]:
    """The rows as plain dictionaries, for JSON or a frame; what was not tested is None."""
    return [asdict(row) for row in rows]


def format_markdown(rows: Sequence[EvidenceRow], baseline: str, *, alpha: float = 0.05) -> str:
    """The table as Markdown with a legend below; never prints NaN. A significant p is bold; no trailing newline."""
    if not rows:
        return "no system was evaluated"
    head = ["system", "seeds", "nDCG@10", "95 % interval", "sd of seeds", f"vs {baseline}", "p (Holm)", "detectable"]
    head.append("gap closed")
    num_tested = sum(row.p_holm is not None for row in rows)
    legend = (
        f"{rows[0].num_queries:,} queries. Per-query values are means over seeds. p: two-sided paired randomisation test "
        f"against `{baseline}`, Holm-corrected over {num_tested} systems, bold from {alpha:g} down. Detectable: true difference found "
        "with 80 % probability; what is smaller may be there and not be seen."
    )
    return f"{as_markdown([head, *(_cells(row, alpha) for row in rows)])}\n\n{legend}"


def _cells(row: EvidenceRow, alpha: float) -> list[str]:
    p_value = format_p(row.p_holm)
    return [
        row.system,
        str(row.num_seeds),
        format_score(row.ndcg_at_10),
        f"{format_score(row.low)} to {format_score(row.high)}",
        format_score(row.seed_sd),
        format_difference(row.difference),
        f"**{p_value}**" if row.p_holm is not None and row.p_holm <= alpha else p_value,
        format_score(row.detectable),
        format_share(row.gap_closed, row.gap_closed_low, row.gap_closed_high),
    ]


def _detectable(differences: npt.NDArray[np.float64], alpha: float, num_tests: int) -> float:
    """What the test could see; with a single query nothing bounds it, and the whole range of nDCG is reported."""
    if len(differences) < 2:
        return 1.0
    sd = float(differences.std(ddof=1))
    return minimum_detectable_difference(len(differences), sd, alpha=alpha, num_tests=max(1, num_tests))


def _seed_sd(per_seed: PerSeed) -> float | None:
    if len(per_seed) < 2:
        return None
    return float(np.std([np.mean(list(values.values())) for values in per_seed.values()], ddof=1))


def _resampled_means(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means of both columns over the same drawn queries, (resamples,) each."""
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(a), size=len(a)) for _ in range(_RESAMPLES)]
    return np.array([a[rows].mean() for rows in draws]), np.array([b[rows].mean() for rows in draws])
