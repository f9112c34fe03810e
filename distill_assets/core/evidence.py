"""Systems compared on the same queries, several seeds each: one table with intervals, corrected tests and their limits.

Input is always ``{system: {seed: {query_id: nDCG@10}}}``; a system without randomness (BM25, the untouched student) has one
seed. Every function is deterministic: resampling takes its seed as an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distill_assets.core.errors import ShapeError
from distill_assets.core.recipes import BM25, TEACHER, UNTOUCHED_STUDENT
from distill_assets.core.significance import (
    bootstrap_interval,
    holm_correction,
    mean_over_seeds,
    minimum_detectable_difference,
    paired_randomisation_test,
)

PerSeed = Mapping[int, Mapping[str, float]]
_RESAMPLES = 10_000
_MISSING = "-"


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
        gap_closed: (system - untouched) / (teacher - untouched); None for the references and where the teacher is not ahead.
        gap_closed_low: lower end of its 95 % interval, queries resampled in pairs; None where the teacher's lead is not
            certain enough for the ratio to have bounds. `gap_closed_high` is the upper end.
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
    queries = _shared_queries(per_query, [baseline, *family])
    tested = [name for name in family if name != baseline]
    base = _column(per_query, baseline, queries)
    columns = {name: _column(per_query, name, queries) for name in tested}
    p_values = {name: paired_randomisation_test(values, base, seed=seed) for name, values in columns.items()}
    corrected = holm_correction(p_values)
    return {
        name: Comparison(
            system=name,
            baseline=baseline,
            difference=float((values - base).mean()),
            p_value=p_values[name],
            p_holm=corrected[name],
            detectable=_detectable(values - base, alpha, len(tested)),
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
    queries = _shared_queries(means, [baseline, *means])
    if family is None:
        family = [name for name in means if name not in (baseline, BM25, untouched, teacher)]
    comparisons = compare_with_baseline(means, baseline, family, seed=seed)
    columns = {name: _column(means, name, queries) for name in means}
    has_gap = untouched in columns and teacher in columns
    rows = []
    for name, values in columns.items():
        found = comparisons.get(name)
        low, high = bootstrap_interval(values, seed=seed)
        gap: tuple[float | None, float | None, float | None] = (None, None, None)
        if has_gap and name not in (BM25, untouched, teacher):
            gap = gap_closed_interval(values, columns[untouched], columns[teacher], seed=seed)
        rows.append(
            EvidenceRow(
                system=name,
                num_seeds=len(per_system[name]),
                num_queries=len(queries),
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


def gap_closed_interval(
    student: npt.NDArray[np.float64],
    untouched: npt.NDArray[np.float64],
    teacher: npt.NDArray[np.float64],
    *,
    seed: int,
    level: float = 0.95,
) -> tuple[float | None, float | None, float | None]:
    """Share of the gap that a student closed, with a percentile bootstrap interval: (share, low, high).

    Queries are drawn with replacement, the same for all three systems. In draws where the teacher is not ahead of the untouched
    student the ratio means nothing; where that happens in more than half of (1 - level) of them, the interval is
    None: it would reach to infinity. The share itself is None where the teacher is not ahead at all.

    Args:
        student: nDCG@10 per query, (n,).
        untouched: the same queries, (n,).
        teacher: the same queries, (n,).
        seed: of the draws.
        level: of the interval.
    """
    if not len(student) == len(untouched) == len(teacher) or len(student) == 0:
        raise ShapeError(
            f"gap closed needs the same queries for all: got {len(student)}, {len(untouched)} and {len(teacher)} values"
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
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *(_markdown_cells(row, alpha) for row in rows)]
    num_tested = sum(row.p_holm is not None for row in rows)
    legend = (
        f"{rows[0].num_queries:,} queries. Per-query values are means over seeds. p: two-sided paired randomisation test "
        f"against `{baseline}`, Holm-corrected over {num_tested} systems, bold from {alpha:g} down. Detectable: true difference found "
        "with 80 % probability; what is smaller may be there and not be seen."
    )
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", legend])


def format_p(value: float | None) -> str:
    """A p-value in three decimals, `< 0.001` below that, `-` where nothing was tested."""
    if value is None:
        return _MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_difference(value: float | None) -> str:
    """A signed difference in three decimals; one that rounds to nothing has no sign; `-` for None."""
    if value is None:
        return _MISSING
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0 else text


def _markdown_cells(row: EvidenceRow, alpha: float) -> list[str]:
    p_value = format_p(row.p_holm)
    if row.p_holm is not None and row.p_holm <= alpha:
        p_value = f"**{p_value}**"
    gap = _MISSING if row.gap_closed is None else f"{row.gap_closed * 100:.0f} %"
    if row.gap_closed_low is not None and row.gap_closed_high is not None:
        gap += f" ({row.gap_closed_low * 100:.0f} to {row.gap_closed_high * 100:.0f})"
    return [
        row.system.replace("|", "\\|"),
        str(row.num_seeds),
        f"{row.ndcg_at_10:.3f}",
        f"{row.low:.3f} to {row.high:.3f}",
        _MISSING if row.seed_sd is None else f"{row.seed_sd:.3f}",
        format_difference(row.difference),
        p_value,
        _MISSING if row.detectable is None else f"{row.detectable:.3f}",
        gap,
    ]


def _shared_queries(per_query: Mapping[str, Mapping[str, float]], systems: Sequence[str]) -> list[str]:
    """The queries of the systems, sorted. Raises `ShapeError` where a system is missing or has others than the first."""
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
    return sorted(first)


def _column(
    per_query: Mapping[str, Mapping[str, float]], system: str, queries: Sequence[str]
) -> npt.NDArray[np.float64]:
    return np.array([per_query[system][query_id] for query_id in queries], dtype=np.float64)


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
