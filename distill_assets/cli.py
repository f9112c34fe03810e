"""The command line: run the line, search with the champion, read the leaderboard, roll back, open the UI."""

import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill_assets.core.errors import DistillError
from distill_assets.settings import FULL, QUICK, load_settings
from distill_assets.study.commands import app as study_commands

if TYPE_CHECKING:
    from distill_assets.resources import Project

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help=(
        "Distil a slow cross-encoder (teacher) into a fast bi-encoder (student) for your own documents.\n\n"
        "Settings come from `distill.toml` in this folder and from `DISTILL_*` variables, which win. "
        "`DISTILL_COLLECTION=beir:PATH distill-assets run` trains on a BEIR folder (corpus.jsonl, queries.jsonl, qrels/*.tsv)."
    ),
)
app.add_typer(study_commands, name="study")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
_LEADERBOARD_FIELDS = (
    "ndcg_at_10",
    "ndcg_at_10_low",
    "ndcg_at_10_high",
    "mrr_at_10",
    "recall_at_100",
    "query_ms_p50",
    "query_ms_p95",
    "gap_closed",
    "p_vs_hard_labels",
    "p_vs_untouched",
    "detectable_vs_hard_labels",
    "detectable_vs_untouched",
)


@app.command()
def run(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer packages and queries: minutes, and noisier numbers.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Four packages, every query, recipes at full length: for a fast machine, or a night."
        ),
    ] = False,
    until: Annotated[str, typer.Option(help="Stop after this asset.")] = "champion",
) -> None:
    """Materialise what is missing or stale, in order, and print the leaderboard.

    Everything is recorded in the same Dagster instance that `distill-assets ui` shows. A second run with nothing changed
    does no teacher forward pass and trains nothing.
    """
    if quick and full:
        raise typer.BadParameter("choose one of --quick and --full")
    project = _open_project(QUICK if quick else FULL if full else {}, show_progress=sys.stderr.isatty())
    steps = _run_steps(project, until)
    if not any(step.was_made for step in steps):
        typer.echo("nothing changed: no teacher forward pass, nothing trained")
    if until == "champion":
        _print_results(project, steps)
    _exit_on_refusals(steps)


@app.command()
def retrain() -> None:
    """Retrain every recipe on all scores to date, compare, and let the gate decide on the champion.

    What the schedule `retraining` does, now and in this process. Reads no new batch; does nothing, and says why, when no
    scores, labels or documents have come since the last training.
    """
    from distill_assets.automation import reason_not_to_retrain
    from distill_assets.stages import due_for_retraining

    project = _open_project(show_progress=sys.stderr.isatty())
    reason = reason_not_to_retrain(project)
    if reason:
        typer.echo(f"nothing to retrain: {reason}")
        return
    steps = _run_steps(project, "champion", due_for_retraining)
    _print_results(project, steps)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many documents.")] = 10,
    as_json: Json = False,
) -> None:
    """Search all documents with the champion student."""
    from distill_assets.search import search as search_champion

    if not text.strip():
        raise typer.BadParameter("the query is empty")
    found = search_champion(_open_project(), text, k)
    if found.missing_batches:
        typer.echo(f"not searched, because not materialised yet: {', '.join(found.missing_batches)}", err=True)
    if as_json:
        _print_json({"query": text, **asdict(found)})
        return
    for hit in found.hits:
        typer.echo(f"{hit.rank:3}  {hit.student_score:.3f}  {hit.doc_id}\n     {' '.join(hit.text.split())[:160]}")


@app.command()
def leaderboard(as_json: Json = False) -> None:
    """All systems on the test split, best first."""
    project = _open_project()
    rows = _leaderboard_rows(project)
    if as_json:
        systems = [{"name": row["system"], **{name: row[name] for name in _LEADERBOARD_FIELDS}} for row in rows]
        document = {"collection": project.source.name, "split": rows[0]["split"], "systems": systems}
        _print_json({**document, "teacher_fitness": _fitness(project)})
        return
    _print_leaderboard(project)


@app.command()
def report(
    open_it: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
) -> None:
    """Write the report (HTML, self-contained) again from what is stored; no model is opened."""
    from distill_assets.assets.publishing import write_project_report

    project = _open_project()
    _leaderboard_rows(project)  # says what to run where there is nothing to report
    path = write_project_report(project).resolve()
    typer.echo(f"report: {path}")
    if open_it:
        typer.launch(path.as_uri())


@app.command()
def batches(as_json: Json = False) -> None:
    """The batches of the collection and what each brought."""
    project = _open_project()
    refusals, held = project.unreadable(), sorted(project.refused_by_checks())
    found = []
    for batch in project.source.batches():
        row: dict[str, Any] = {"batch": batch}
        for table in ("corpus", "queries", "qrels", "hard_negatives", "teacher_scores"):
            info = project.warehouse.slice_info(table, batch) if project.warehouse.exists() else None
            row[table] = None if info is None else info.num_rows
        found.append(row)
    if as_json:
        _print_json(
            {"collection": project.source.name, "batches": found, "quarantined": refusals, "refused_by_checks": held}
        )
        return
    for row in found:
        counts = ", ".join(
            f"{name} {'-' if count is None else format(count, ',')}" for name, count in row.items() if name != "batch"
        )
        typer.echo(f"{row['batch']}: {counts}")
    for batch, reason in sorted(refusals.items()):
        typer.echo(f"{batch} is in quarantine: {reason}")
    for batch in held:
        typer.echo(
            f"{batch} did not pass a blocking check: see its checks in the Dagster UI, or start distill-assets run"
        )


@app.command()
def rollback() -> None:
    """Make the champion before the present one champion again."""
    from distill_assets.assets.release import roll_back

    row = roll_back(_open_project())
    typer.echo(f"champion is {row['recipe']} ({row['model_fingerprint'][:8]}) again: {row['reason']}")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 3000) -> None:
    """Open the Dagster UI on 127.0.0.1 over the same instance that `run` records in (ends with Ctrl-C)."""
    with _instance(_open_project()):  # its databases, made once: several processes that make them at a time fail
        pass
    dagster = Path(sys.executable).with_name("dagster")
    arguments = [str(dagster), "dev", "-m", "distill_assets.definitions", "-h", "127.0.0.1", "-p", str(port)]
    os.execv(arguments[0], arguments)


@app.command(name="grow-teacher")
def grow_teacher(
    out: Annotated[Path, typer.Argument(help="Folder of the teacher: per fold two adapters with their provenance.")],
    folds: Annotated[int, typer.Option(min=1, help="A query is scored by the folds that never saw its label.")] = 2,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the low-rank adapters.")] = 12,
    queries: Annotated[int | None, typer.Option(help="Train queries; all by default.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 2,
    learning_rate: Annotated[float, typer.Option()] = 7e-4,
) -> None:
    """Train the bundled teacher as small adapters on the train split (how it was made); members that are there are kept.

    Reads the train labels and mined negatives of the present collection, materialising them first where needed. Dev and
    test queries are never trained on.
    """
    from distill_assets.bundling import Growth
    from distill_assets.bundling import grow_teacher as grow

    project = _open_project(show_progress=True)
    _run_steps(project, until="hard_negatives")
    growth = Growth(folds=folds, rank=rank, num_queries=queries, epochs=epochs, learning_rate=learning_rate)
    grow(project, out, growth, say=typer.echo)


def main() -> None:
    """Entry point: errors that a user can cause are one line on stderr and exit code 1."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    try:
        app()
    except DistillError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


def _open_project(overrides: dict[str, Any] | None = None, *, show_progress: bool = False) -> "Project":
    load_settings(**(overrides or {}))  # a bad setting is refused before anything heavy is imported
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from distill_assets.resources import Project

    return Project(overrides=overrides or {}, show_progress=show_progress)


def _run_steps(project: "Project", until: str, todo: Any = None) -> list[Any]:
    from distill_assets.definitions import build_definitions
    from distill_assets.running import run_line
    from distill_assets.stages import is_stale

    steps = []
    with _instance(project) as instance:
        definitions = build_definitions(project)
        for step in run_line(definitions, project, instance, until=until, todo=todo or is_stale, on_start=_announce):
            typer.echo(f"{'up to date' if step.was_fresh else f'{step.seconds:8.1f} s'}  {_label(step)}")
            if step.refusal:
                typer.echo(f"refused: {step.refusal}", err=True)
            steps.append(step)
    worked = sum(step.was_made for step in steps)
    typer.echo(f"\n{worked} steps run, {len(steps) - worked} up to date, {sum(s.seconds for s in steps):.0f} s")
    return steps


def _print_results(project: "Project", steps: list[Any]) -> None:
    from distill_assets.assets.publishing import write_project_report

    report = write_project_report(project, [(_label(step), step.seconds) for step in steps if step.was_made])
    _print_leaderboard(project)
    typer.echo(f"report: {report}")


def _exit_on_refusals(steps: list[Any]) -> None:
    """A script must hear that a batch was left out, although all others went through."""
    refused = [step.partition for step in steps if step.refusal]
    if refused:
        raise DistillError(f"left out, because they could not be read: {', '.join(refused)} (reasons above)")


def _announce(assets: tuple[str, ...], partition: str) -> None:
    where = f" [{partition}]" if partition else ""
    typer.echo(f"...         {', '.join(assets)}{where}", err=True)


def _label(step: Any) -> str:
    return f"{', '.join(step.assets)}{f' [{step.partition}]' if step.partition else ''}"


def _dagster_home(project: "Project") -> Path:
    """DAGSTER_HOME: the user's, or a folder beside the warehouse with the shipped dagster.yaml."""
    home = Path(os.environ.get("DAGSTER_HOME") or project.folder / "dagster_home").resolve()
    home.mkdir(parents=True, exist_ok=True)
    shipped = Path(__file__).parents[1] / "dagster.yaml"
    if not (home / "dagster.yaml").exists() and shipped.exists():
        shutil.copyfile(shipped, home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


@contextmanager
def _instance(project: "Project") -> Iterator[Any]:
    """The Dagster instance, with its databases made and without runs whose process is gone."""
    import dagster as dg

    from distill_assets.lost_runs import end_lost_runs

    _dagster_home(project)
    with dg.DagsterInstance.get() as instance:
        instance.all_instigator_state()
        for run in end_lost_runs(instance):
            typer.echo(f"marked as failed, its process is gone: {run.job_name} {run.run_id[:8]}", err=True)
        yield instance


def _leaderboard_rows(project: "Project") -> list[dict[str, Any]]:
    if not project.warehouse.exists() or project.warehouse.slice_info("leaderboard") is None:
        raise DistillError("there is no leaderboard yet: run distill-assets run first")
    rows = project.warehouse.read("leaderboard").to_pylist()
    return sorted(rows, key=lambda row: (-row["ndcg_at_10"], row["system"]))


def _print_leaderboard(project: "Project") -> None:
    from distill_assets.assets.publishing import current_champion
    from distill_assets.core.leaderboard import LeaderboardRow, format_table, teacher_finding

    rows = [LeaderboardRow.from_mapping(row) for row in _leaderboard_rows(project)]
    champion = current_champion(project)
    typer.echo(f"\n{project.source.name}, test split, {rows[0].num_queries} queries")
    typer.echo(format_table(rows, None if champion is None else champion["recipe"]))
    for finding in (_fitness(project), teacher_finding(rows)):
        if finding:
            typer.echo(f"\n{finding}")


def _fitness(project: "Project") -> str | None:
    from distill_assets.assets.report_reading import read_fitness
    from distill_assets.core.fitness import fitness_sentence

    fitness = read_fitness(project)
    return None if fitness is None else fitness_sentence(fitness)


def _print_json(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
