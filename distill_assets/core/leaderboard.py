"""The leaderboard as values: one row per system, the gap a student closed, and a table for terminals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from distill_assets.core.errors import NonFiniteError
from distill_assets.core.evidence import compare_with_baseline, format_difference
from distill_assets.core.recipes import BM25, HARD_LABELS, TEACHER, UNTOUCHED_STUDENT

MISSING = "-"
CHAMPION_MARK = "*"
SIGNIFICANT = "†"
ALPHA = 0.05
_BASELINES = {"hard_labels": HARD_LABELS, "untouched": UNTOUCHED_STUDENT}  # column suffix: system


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """One system on one split: means over the judged queries, and what a query costs.

    Attributes:
        ndcg_at_10_low: lower end of the 95 % bootstrap interval of the mean; `ndcg_at_10_high` is the upper end.
        gap_closed: see `gap_closed`; None for systems that are no student, or when there is no gap to close.
        query_ms_p50: median time of one query end to end; for the teacher, of reranking that query's pool.
        documents_per_s: documents encoded a second; None for systems that encode none.
        p_vs_hard_labels: paired randomisation test against that recipe, Holm-corrected over the recipes; None where
            nothing was tested. `p_vs_untouched` likewise.
        detectable_vs_hard_labels: true difference that this test finds with 80 % probability; `detectable_vs_untouched`
            likewise.
    """

    system: str
    ndcg_at_10: float
    ndcg_at_10_low: float
    ndcg_at_10_high: float
    mrr_at_10: float
    recall_at_100: float
    map: float
    gap_closed: float | None = None
    query_ms_p50: float | None = None
    query_ms_p95: float | None = None
    documents_per_s: float | None = None
    model_mb: float | None = None
    num_queries: int
    p_vs_hard_labels: float | None = None
    p_vs_untouched: float | None = None
    detectable_vs_hard_labels: float | None = None
    detectable_vs_untouched: float | None = None

    @classmethod
    def from_mapping(cls, row: Mapping[str, Any]) -> "LeaderboardRow":
        """Build from a row of the warehouse table; columns that are no field (`split`) are left out."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in row.items() if name in names})

    @property
    def is_student(self) -> bool:
        """Whether this is a bi-encoder: a recipe's student or the untouched one."""
        return self.system not in (BM25, TEACHER)


def significance_columns(
    per_query: Mapping[str, Mapping[str, float]], recipes: Sequence[str], *, seed: int
) -> dict[str, dict[str, float]]:
    """Per recipe the columns `p_vs_*` and `detectable_vs_*` of its row; a baseline that was not evaluated brings none.

    Two families, one per baseline, each corrected over the recipes: they answer two questions (does distilling beat plain
    fine-tuning; does training help at all).

    Args:
        per_query: system -> query_id -> nDCG@10, on the same queries.
        recipes: names of the trained students.
        seed: of the sampled sign patterns.
    """
    columns: dict[str, dict[str, float]] = {name: {} for name in recipes}
    for suffix, baseline in _BASELINES.items():
        if baseline not in per_query:
            continue
        for name, found in compare_with_baseline(per_query, baseline, recipes, seed=seed, alpha=ALPHA).items():
            columns[name] |= {f"p_vs_{suffix}": found.p_holm, f"detectable_vs_{suffix}": found.detectable}
    return columns


def versus(row: LeaderboardRow, rows: Iterable[LeaderboardRow], baseline: str) -> str:
    """Difference of a recipe from a baseline, marked where significant: `+0.071†`; `-` where nothing was tested."""
    suffix = next(key for key, system in _BASELINES.items() if system == baseline)
    p_value, other = getattr(row, f"p_vs_{suffix}"), find_row(rows, baseline)
    if p_value is None or other is None:
        return MISSING
    return format_difference(row.ndcg_at_10 - other.ndcg_at_10) + (SIGNIFICANT if p_value <= ALPHA else "")


def legend_of_tests(rows: Sequence[LeaderboardRow]) -> list[str]:
    """What the marks mean and what the tests could see, as sentences; empty where nothing was tested."""
    sentences = []
    for suffix, baseline in _BASELINES.items():
        found = [value for row in rows if (value := getattr(row, f"detectable_vs_{suffix}")) is not None]
        if found:
            sentences.append(
                f"Against {baseline}, {rows[0].num_queries:,} queries find a true difference of {max(found):.3f} or more with 80 % "
                "probability; smaller ones may be there and not be seen."
            )
    if not sentences:
        return []
    test = f"two-sided paired randomisation test, p ≤ {ALPHA:g}, Holm-corrected over the recipes"
    return [f"{SIGNIFICANT} significantly different: {test}.", *sentences]


def gap_closed(student: float, untouched: float, teacher: float) -> float | None:
    """Share of the way from the untouched student to the teacher: (student - untouched) / (teacher - untouched).

    All three are nDCG@10 on the same queries. Above 1 the student passed the teacher, below 0 training harmed it.
    None when the teacher is not better than the untouched student: there is no gap, and the ratio would turn its sign.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    if not all(math.isfinite(value) for value in (student, untouched, teacher)):
        raise NonFiniteError(
            f"gap closed of student {student}, untouched student {untouched}, teacher {teacher}: expected finite "
            "nDCG@10 values; materialise eval_metrics again"
        )
    if teacher <= untouched:
        return None
    return (student - untouched) / (teacher - untouched)


def sort_rows(rows: Iterable[LeaderboardRow]) -> list[LeaderboardRow]:
    """Best nDCG@10 first; equal values by name, so that two runs print the same table."""
    return sorted(rows, key=lambda row: (-row.ndcg_at_10, row.system))


def find_row(rows: Iterable[LeaderboardRow], system: str | None) -> LeaderboardRow | None:
    """The row of that system, or None."""
    return next((row for row in rows if row.system == system), None)


def students_above_teacher(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """Students whose nDCG@10 is above the teacher's, best first; empty when the teacher was not evaluated."""
    teacher = find_row(rows, TEACHER)
    if teacher is None:
        return []
    return [row for row in sort_rows(rows) if row.is_student and row.ndcg_at_10 > teacher.ndcg_at_10]


def teacher_finding(rows: Sequence[LeaderboardRow]) -> str | None:
    """One sentence for people when a student beats the teacher, else None."""
    above = students_above_teacher(rows)
    teacher = find_row(rows, TEACHER)
    if not above or teacher is None:
        return None
    best = above[0]
    listed = ", ".join(f"{row.system} {row.ndcg_at_10:.3f}" for row in above)
    if best.ndcg_at_10_low > teacher.ndcg_at_10_high:
        certainty = "The 95 % intervals do not overlap."
    else:
        certainty = f"The 95 % intervals overlap, so on {best.num_queries:,} queries this may be chance."
    return (
        f"The teacher (nDCG@10 {teacher.ndcg_at_10:.3f}) is weaker than {len(above)} of the students: {listed}. "
        f"{certainty} A teacher that is not ahead has little to teach: train or choose a stronger one."
    )


def format_table(rows: Sequence[LeaderboardRow], champion: str | None) -> str:
    """A plain-text table for terminals, best system first, the champion marked; no trailing newline."""
    if not rows:
        return "no system has been evaluated yet: run `distill-assets run`"
    header = [
        "",
        "system",
        "nDCG@10",
        "95 % interval",
        *(f"vs {suffix}" for suffix in _BASELINES),
        "MRR@10",
        "recall@100",
    ]
    header += ["MAP", "gap closed", "ms p50", "ms p95", "docs/s", "MB"]
    marks = {row.system: [_room_for_mark(versus(row, rows, name)) for name in _BASELINES.values()] for row in rows}
    cells = [header]
    for row in sort_rows(rows):
        name, ndcg, interval, *others = _cells(row)
        mark = CHAMPION_MARK if row.system == champion else ""
        cells.append([mark, name, ndcg, interval, *marks[row.system], *others])
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = [_align(line, widths) for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += legend_of_tests(rows)
    if find_row(rows, champion):
        lines.append(f"{CHAMPION_MARK} champion: what search uses")
    return "\n".join(lines)


def format_number(value: float | None) -> str:
    """Three significant digits or more, never an exponent: 0.12, 4.56, 78.9, 1,234; `-` for None."""
    if value is None:
        return MISSING
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def format_share(value: float | None) -> str:
    """A share as whole per cent: `50 %`; `-` for None."""
    return MISSING if value is None else f"{value * 100:.0f} %"


def _cells(row: LeaderboardRow) -> list[str]:
    return [
        row.system,
        f"{row.ndcg_at_10:.3f}",
        f"{row.ndcg_at_10_low:.3f} to {row.ndcg_at_10_high:.3f}",
        f"{row.mrr_at_10:.3f}",
        f"{row.recall_at_100:.3f}",
        f"{row.map:.3f}",
        format_share(row.gap_closed),
        *(format_number(value) for value in (row.query_ms_p50, row.query_ms_p95, row.documents_per_s, row.model_mb)),
    ]


def _room_for_mark(cell: str) -> str:
    """Digits stay below digits, marked or not."""
    return cell if cell.endswith(SIGNIFICANT) else f"{cell} "


def _align(line: list[str], widths: list[int]) -> str:
    """Mark and name to the left, numbers to the right."""
    aligned = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
    aligned += [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
    return "  ".join(aligned)
