"""From the warehouse to `report/index.html`: the leaderboard, the champion and its history as one page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_assets.evaluation.fitness import fitness_sentence
from distill_assets.evaluation.leaderboard import (
    Champion,
    LeaderboardRow,
    champion_note,
    find_champion_row,
    format_table,
    legend_of_tests,
    sort_rows,
)
from distill_assets.handles.project import Project
from distill_assets.models.catalog import fingerprint_model
from distill_assets.records import UNTOUCHED_STUDENT
from distill_assets.report.conclusion import conclude
from distill_assets.report.page import ReportContext, write_report
from distill_assets.report.reading import (
    read_agreement,
    read_contests,
    read_curves,
    read_fitness,
    read_logits,
    read_training_data,
    read_ways,
)


def read_history(project: Project) -> list[dict[str, Any]]:
    """Every decision of the gate and every roll back, oldest first."""
    rows = project.places.warehouse.read("champion_history").to_pylist()
    # Rows of older versions have no number: they come first, in the order of their clock.
    return sorted(rows, key=lambda row: (row["sequence"] or 0, row["decided_at"]))


def current_champion(project: Project) -> dict[str, Any] | None:
    """The row that made the present champion; None before the first decision.

    The untouched student lies where the settings find it: its row may name a place of another environment.
    """
    moves = [row for row in read_history(project) if row["verdict"] in ("promoted", "rolled_back")]
    if not moves:
        return None
    row = moves[-1]
    if row["recipe"] == UNTOUCHED_STUDENT and not Path(row["checkpoint_path"]).is_dir():
        path = project.models.student_path
        if fingerprint_model(path) == row["model_fingerprint"]:
            return row | {"checkpoint_path": str(path.resolve())}
    return row


def read_champion(project: Project) -> Champion | None:
    """The checkpoint that search uses; None before the first decision."""
    row = current_champion(project)
    return None if row is None else Champion.from_mapping(row)


def read_conclusion(project: Project) -> list[str]:
    """What the last run comes to, in words; empty before the first leaderboard."""
    rows, history = read_rows(project), read_history(project)
    if not rows or not history:
        return []
    return conclude(
        rows, read_champion(project), history[-1]["reason"], read_training_data(project), read_fitness(project)
    )


def write_project_report(project: Project, steps: Sequence[tuple[str, float]] = ()) -> Path:
    """Write the report of what the warehouse holds now, and return its path. Opens no model.

    `steps` are (label, seconds) of a run; without any, those of the last one that told stay on the page.
    """
    rows, champion = read_rows(project), read_champion(project)
    shown = find_champion_row(rows, champion)
    context = ReportContext(
        collection=project.collection.source.name,
        split=rows[0].split if rows else "test",
        rows=rows,
        champion=champion,
        champion_history=read_history(project),
        steps=_remember_steps(project.places.report / "steps.json", steps),
        facts=_facts(project),
        fitness=read_fitness(project),
        ways=read_ways(project),
        contests=read_contests(project, None if shown is None else shown.system),
        agreement=read_agreement(project),
        logits=read_logits(project),
        curves=read_curves(project),
        conclusion=read_conclusion(project),
    )
    path = project.places.report / "index.html"
    write_report(path, context)
    return path


def read_rows(project: Project) -> list[LeaderboardRow]:
    """The leaderboard, best first."""
    return sort_rows(
        LeaderboardRow.from_mapping(row) for row in project.places.warehouse.read("leaderboard").to_pylist()
    )


def summarise(project: Project) -> str:
    """What the report says, as a few lines of Markdown."""
    rows, champion, fitness = read_rows(project), read_champion(project), read_fitness(project)
    lines = [
        f"- {found.system} agrees with the teacher: Kendall's tau-b "
        f"{'-' if found.kendall_tau is None else format(found.kendall_tau, '.3f')}, overlap@10 {found.overlap_at_10:.3f}"
        for found in read_agreement(project)
    ]
    told = [
        *legend_of_tests(rows),
        champion_note(rows, champion),
        None if fitness is None else fitness_sentence(fitness),
    ]
    table = f"```\n{format_table(rows, champion)}\n```"
    return "\n\n".join([table, "\n".join(lines), *(sentence for sentence in told if sentence)])


def _facts(project: Project) -> dict[str, str]:
    count = {
        table: sum(_num_rows(project, table, b) for b in project.collection.batches())
        for table in ("corpus", "queries", "qrels")
    }
    return {
        "documents": f"{count['corpus']:,}",
        "queries": f"{count['queries']:,}",
        "judgements": f"{count['qrels']:,}",
        "batches": ", ".join(project.collection.batches()),
        "teacher": project.models.teacher_choice,
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
    info = project.places.warehouse.slice_info(table, batch)
    return 0 if info is None else info.num_rows
