"""From the warehouse to `report/index.html`: the leaderboard, the champion and its history as one page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_assets.assets.report_reading import (
    read_agreement,
    read_contests,
    read_curves,
    read_fitness,
    read_logits,
    read_ways,
)
from distill_assets.core.fitness import fitness_sentence
from distill_assets.core.leaderboard import LeaderboardRow, format_share, legend_of_tests, sort_rows
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
    """Write the report of what the warehouse holds now, and return its path. Opens no model.

    `steps` are (label, seconds) of a run; without any, those of the last one that told stay on the page.
    """
    champion = current_champion(project)
    name = None if champion is None else champion["recipe"]
    fitness = read_fitness(project)
    context = ReportContext(
        collection=project.source.name,
        split="test",
        rows=read_rows(project),
        champion=name,
        champion_history=read_history(project),
        steps=_remember_steps(project.folder / "report" / "steps.json", steps),
        facts=_facts(project),
        fitness=None if fitness is None else fitness_sentence(fitness),
        is_teacher_fit=fitness is None or fitness.is_fit,
        ways=read_ways(project),
        contests=read_contests(project, name),
        agreement=read_agreement(project),
        logits=read_logits(project),
        curves=read_curves(project),
    )
    path = project.folder / "report" / "index.html"
    write_report(path, context)
    return path


def read_rows(project: Project) -> list[LeaderboardRow]:
    """The leaderboard, best first."""
    return sort_rows(LeaderboardRow.from_mapping(row) for row in project.warehouse.read("leaderboard").to_pylist())


def summarise(project: Project) -> str:
    """What the report says, as a few lines of Markdown."""
    rows, fitness = read_rows(project), read_fitness(project)
    lines = [f"- {row.system}: nDCG@10 {row.ndcg_at_10:.3f}, gap closed {format_share(row.gap_closed)}" for row in rows]
    lines += [
        f"- {found.system} agrees with the teacher: Kendall's tau-b "
        f"{'-' if found.kendall_tau is None else format(found.kendall_tau, '.3f')}, overlap@10 {found.overlap_at_10:.3f}"
        for found in read_agreement(project)
    ]
    return "\n".join(
        [*lines, "", *legend_of_tests(rows), *([] if fitness is None else ["", fitness_sentence(fitness)])]
    )


def _facts(project: Project) -> dict[str, str]:
    count = {
        table: sum(_num_rows(project, table, b) for b in project.batches()) for table in ("corpus", "queries", "qrels")
    }
    return {
        "documents": f"{count['corpus']:,}",
        "queries": f"{count['queries']:,}",
        "judgements": f"{count['qrels']:,}",
        "batches": ", ".join(project.batches()),
        "teacher": project.teacher_choice,
        "student": project.settings.student,
        "pool that the teacher reranks": f"top {project.settings.pool_depth} of every first-stage system",
    }


def _remember_steps(path: Path, steps: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Times are of a run and not in the warehouse: they are kept beside the page, so that `report` can write it again."""
    if steps:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(list(steps)), encoding="utf-8")
        return list(steps)
    if not path.is_file():
        return []
    return [(str(label), float(seconds)) for label, seconds in json.loads(path.read_text(encoding="utf-8"))]


def _num_rows(project: Project, table: str, batch: str) -> int:
    info = project.warehouse.slice_info(table, batch)
    return 0 if info is None else info.num_rows
