"""The leaderboard as values: one row per system, the gap a student closed, and a table for terminals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from distill_assets.core.errors import NonFiniteError
from distill_assets.core.recipes import BM25, TEACHER

MISSING = "-"
CHAMPION_MARK = "*"


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """One system on one split: means over the judged queries, and what a query costs.

    Attributes:
        ndcg_at_10_low: lower end of the 95 % bootstrap interval of the mean; `ndcg_at_10_high` is the upper end.
        gap_closed: see `gap_closed`; None for systems that are no student, or when there is no gap to close.
        query_ms_p50: median time of one query end to end; for the teacher, of reranking that query's pool.
        documents_per_s: documents encoded a second; None for systems that encode none.
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

    @classmethod
    def from_mapping(cls, row: Mapping[str, Any]) -> "LeaderboardRow":
        """Build from a row of the warehouse table; columns that are no field (`split`) are left out."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in row.items() if name in names})

    @property
    def is_student(self) -> bool:
        """Whether this is a bi-encoder: a recipe's student or the untouched one."""
        return self.system not in (BM25, TEACHER)


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
    header = ["", "system", "nDCG@10", "95 % interval", "MRR@10", "recall@100", "MAP", "gap closed"]
    header += ["ms p50", "ms p95", "docs/s", "MB"]
    cells = [header] + [[CHAMPION_MARK if row.system == champion else "", *_cells(row)] for row in sort_rows(rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = [_align(line, widths) for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
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


def _align(line: list[str], widths: list[int]) -> str:
    """Mark and name to the left, numbers to the right."""
    aligned = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
    aligned += [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
    return "  ".join(aligned)
