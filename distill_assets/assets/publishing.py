"""From the warehouse to `report/index.html`: the leaderboard, the champion and its history as one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_assets.core.leaderboard import LeaderboardRow
from distill_assets.report import ReportContext, write_report
from distill_assets.resources import Project


def read_history(project: Project) -> list[dict[str, Any]]:
    """Every decision of the gate and every roll back, oldest first."""
    rows = project.warehouse.read("champion_history").to_pylist()
    return sorted(rows, key=lambda row: row["decided_at"])


def current_champion(project: Project) -> dict[str, Any] | None:
    """The row that made the present champion; None before the first promotion."""
    moves = [row for row in read_history(project) if row["verdict"] in ("promoted", "rolled_back")]
    return moves[-1] if moves else None


def write_project_report(project: Project, steps: Sequence[tuple[str, float]] = ()) -> Path:
    """Write the report of what the warehouse holds now, and return its path. `steps` are (label, seconds) of this run."""
    settings = project.settings
    champion = current_champion(project)
    rows = project.warehouse.read("leaderboard").to_pylist()
    count = {
        table: sum(_num_rows(project, table, b) for b in project.batches()) for table in ("corpus", "queries", "qrels")
    }
    context = ReportContext(
        collection=project.source.name,
        split="test",
        rows=[LeaderboardRow.from_mapping(row) for row in rows],
        champion=None if champion is None else champion["recipe"],
        champion_history=read_history(project),
        steps=list(steps),
        facts={
            "documents": f"{count['corpus']:,}",
            "queries": f"{count['queries']:,}",
            "judgements": f"{count['qrels']:,}",
            "batches": ", ".join(project.batches()),
            "teacher": project.teacher_choice,
            "student": settings.student,
            "pool that the teacher reranks": f"top {settings.pool_depth} of every first-stage system",
        },
    )
    path = project.folder / "report" / "index.html"
    write_report(path, context)
    return path


def _num_rows(project: Project, table: str, batch: str) -> int:
    info = project.warehouse.slice_info(table, batch)
    return 0 if info is None else info.num_rows
