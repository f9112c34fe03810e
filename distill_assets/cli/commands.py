"""The command line: run the line, search with the champion, read the leaderboard, roll back, open the UI.

A command prints what a person reads, or returns what `--json` prints: `main` alone writes documents.
"""

import atexit
import getpass
import json
import logging
import math
import os
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from distill_assets.errors import DistillError, NothingToDoError, ScoreSetError, SettingsError, SourceError
from distill_assets.orchestration import INSTANCE_FILE
from distill_assets.settings.values import EXAMPLE_FILE, FULL, PYTHON_API, QUICK, TABLES

if TYPE_CHECKING:
    from distill_assets.evaluation.leaderboard import LeaderboardRow
    from distill_assets.handles.project import Project

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help=(
        "Distil a slow cross-encoder (teacher) into a fast bi-encoder (student) for your own documents.\n\n"
        "`distill-assets init PATH`, then `distill-assets run`: PATH is a folder of documents (Markdown, HTML, text, ...), or a BEIR "
        "folder (corpus.jsonl, queries.jsonl, qrels/*.tsv). "
        "Settings come from the `distill.toml` that `init` writes. `DISTILL_*` variables win over it, "
        "and flags over both; a flag holds for its command alone.\n\n"
        "Every command but `ui` takes `--json`. Exit codes: 0 done, 1 failed, 2 bad input, 3 nothing to do (`retrain` alone)."
    ),
)
Document = dict[str, Any]  # what --json prints
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
_PANEL = "Settings, for this command alone"
Collection = Annotated[
    str | None,
    typer.Option(
        help="python_api, inbox, files:PATH, beir:PATH, or another SCHEME:REST.",
        show_default="as set",
        rich_help_panel=_PANEL,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="A cross-encoder: hub name, folder or URL of a server; or scores:NAME.",
        show_default="as set",
        rich_help_panel=_PANEL,
    ),
]
Student = Annotated[
    str | None, typer.Option(help="A bi-encoder: hub name or folder.", show_default="as set", rich_help_panel=_PANEL)
]
Recipes = Annotated[
    list[str] | None,
    typer.Option("--recipe", help="Only this recipe; may be repeated.", show_default="all", rich_help_panel=_PANEL),
]
Baselines = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline",
        help="A published bi-encoder as it is, for the leaderboard: hub name or folder; may be repeated.",
        show_default="as set",
        rich_help_panel=_PANEL,
    ),
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="Fewer packages and queries: minutes, and noisier numbers.", rich_help_panel=_PANEL),
]
Full = Annotated[
    bool,
    typer.Option(
        "--full",
        help="Four packages, all train queries, full recipes: for a fast machine.",
        rich_help_panel=_PANEL,
    ),
]


_line: str | None = None  # what --line names, for the command that follows


@app.callback()
def choose_line(
    line: Annotated[
        str | None,
        typer.Option(
            help="One of the lines of the Dagster project that this folder is in.",
            show_default="the line of this folder",
        ),
    ] = None,
) -> None:
    """Remember the line that the command is about."""
    global _line
    _line = line


@app.command()
def init(
    path: Annotated[
        Path | None, typer.Argument(help="A folder of documents, or of a BEIR collection.", show_default="the demo")
    ] = None,
    as_json: Json = False,
) -> Document | None:
    """Write a commented `distill.toml` into this folder: for PATH, which is read first. A file that is there already stays as it is."""
    file = Path("distill.toml").absolute()
    if os.path.lexists(file):
        raise DistillError(f"{file} exists already and is left as it is: edit it, or move it away first")
    text, read = EXAMPLE_FILE.read_text(encoding="utf-8"), {}
    if path is not None:
        read = _look_at(path)
        if not read["batches"]:
            raise SourceError(f"nothing of {path} can be read (reasons above); {file.name} was not written")
        named = json.dumps(read["setting"], ensure_ascii=False)
        text = text.replace(f'collection = "{PYTHON_API}"', f"collection = {named}", 1)
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(text)
    except OSError as error:
        raise DistillError(f"cannot write {file}: {error.strerror}; go to a folder that you may write to") from error
    if as_json:
        return {"written": str(file), **read}
    typer.echo(f"written: {file}\nnext: distill-assets run")
    return None


@app.command()
def settings(
    collection: Collection = None,
    teacher: Teacher = None,
    student: Student = None,
    recipe: Recipes = None,
    baseline: Baselines = None,
    as_json: Json = False,
) -> Document | None:
    """Print each setting, its value, and where that is from: default, file, environment or flag.

    `[python_api]` and `[files]` are tables of the file that hold for that collection, and for folders of documents, alone.
    """
    given = _given(recipe, baselines=baseline, collection=collection, teacher=teacher, student=student)
    found = _open_project(given).settings_with_sources("flag" if _line is None else "line")
    values = found.settings.model_dump(mode="json")
    if as_json:
        rows = [{"name": name, "value": values[name], "source": source} for name, source in found.sources.items()]
        return {"file": found.file and str(found.file.absolute()), "settings": rows}
    typer.echo(f"file: {found.file or 'none in this folder (distill-assets init writes one)'}")
    for table, names in {
        **{table: of.model_fields for table, of in TABLES.items()},
        "recipes.NAME": ["recipes"],
    }.items():
        typer.echo(f"\n[{table}]")
        for name in names:
            value = "none" if values[name] is None else json.dumps(values[name], ensure_ascii=False)
            typer.echo(f"{name:26}{found.sources[name]:13}{value}")
    return None


@app.command()
def run(
    until: Annotated[str, typer.Option(help="Stop after this asset.")] = "champion",
    quick: Quick = False,
    full: Full = False,
    collection: Collection = None,
    teacher: Teacher = None,
    student: Student = None,
    recipe: Recipes = None,
    baseline: Baselines = None,
    as_json: Json = False,
) -> Document | None:
    """Materialise what is missing or stale, in order, and print the leaderboard.

    Everything is recorded in the same Dagster instance that `distill-assets ui` shows. A second run with nothing changed
    does no teacher forward pass and trains nothing.
    """
    from distill_assets.assets.manifests import chosen_sizes

    given = _given(recipe, baselines=baseline, collection=collection, teacher=teacher, student=student)
    project = _open_project(_sizes(quick, full) | given)
    sizes = chosen_sizes(project)
    typer.echo("; ".join(f"{name.replace('_', ' ')}: {size}" for name, size in sizes.items()), err=True)
    steps = _run_steps(project, until)
    if not any(step.was_materialised for step in steps):
        typer.echo("nothing changed: no teacher forward pass, nothing trained")
    return _tell_results(project, steps, as_json, is_whole=until == "champion")


@app.command()
def plan(
    until: Annotated[str, typer.Option(help="Stop after this asset.")] = "champion",
    exact: Annotated[
        bool, typer.Option("--exact", help="Count all pairs, also where the search that this needs takes long.")
    ] = False,
    quick: Quick = False,
    full: Full = False,
    collection: Collection = None,
    teacher: Teacher = None,
    student: Student = None,
    recipe: Recipes = None,
    baseline: Baselines = None,
    as_json: Json = False,
) -> Document | None:
    """Say what `run` would do and cost: what is due and why, pairs to score, tokens, disk, and time on this machine.

    It reads what `run` would read, and searches on a copy of the warehouse. Nothing is stored but vectors, which `run` then has. Where
    searching would take more than a minute, pairs are told as the most that there can be.
    """
    from distill_assets.orchestration.plan import SEARCH_LIMIT_S, make_plan
    from distill_assets.orchestration.stages import is_stale

    given = _given(recipe, baselines=baseline, collection=collection, teacher=teacher, student=student)
    project = _open_project(_sizes(quick, full) | given)
    found = make_plan(project, is_stale, until, math.inf if exact else SEARCH_LIMIT_S)
    for sentence in filter(None, (project.models.advice, *found.warnings)):
        typer.echo(f"warning: {sentence}", err=True)
    if as_json:
        return found.as_json()
    typer.echo(found.text)
    return None


@app.command()
def retrain(
    fresh_teacher: Annotated[
        bool, typer.Option("--fresh-teacher", help="Make the teacher anew first; every pair is then scored by it.")
    ] = False,
    fresh_student: Annotated[bool, typer.Option("--fresh-student", help="Choose among `students` anew first.")] = False,
    quick: Quick = False,
    full: Full = False,
    collection: Collection = None,
    teacher: Teacher = None,
    student: Student = None,
    recipe: Recipes = None,
    baseline: Baselines = None,
    as_json: Json = False,
) -> Document | None:
    """Retrain every recipe on all scores to date, compare, and let the gate decide on the champion.

    What the schedule `retraining` does, now and in this process. It reads no new batch. If no scores, labels or documents have
    come since the last training, it does nothing, says so, and ends with exit code 3.
    """
    from distill_assets.orchestration.automation import reason_not_to_retrain
    from distill_assets.orchestration.stages import is_stale_for_retraining, status_of

    given = _given(recipe, baselines=baseline, collection=collection, teacher=teacher, student=student)
    project = _open_project(_sizes(quick, full) | given)

    fresh = {"teacher_checkpoint": fresh_teacher, "student_choice": fresh_student}

    def is_asked_for(asset: str) -> bool:
        # A server may serve another model than it did, and nothing but asking tells.
        is_served = asset == "teacher_checkpoint" and any(project.models.are_teachers_served)
        due = ("aged", "up to date") if is_served else ("aged",)
        return fresh.get(asset, False) and status_of(project, asset).condition in due

    def is_stale(project: "Project", asset: str, partition: str) -> bool:
        return is_asked_for(asset) or is_stale_for_retraining(project, asset, partition)

    if reason := None if any(map(is_asked_for, fresh)) else reason_not_to_retrain(project):
        raise NothingToDoError(f"nothing to retrain: {reason}")
    return _tell_results(project, _run_steps(project, "champion", is_stale), as_json)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many documents.")] = 10,
    collection: Collection = None,
    as_json: Json = False,
) -> Document | None:
    """Search all documents with the champion student."""
    from distill_assets.serving.searcher import search as search_champion

    if not text.strip():
        raise typer.BadParameter("the query is empty")
    project = _open_project(_given(collection=collection))
    found = search_champion(project, text, k)
    typer.echo(f"searched: {project.collection.source.name}, with {found.champion}", err=True)
    if found.missing_batches:
        typer.echo(f"not searched, because not materialised yet: {', '.join(found.missing_batches)}", err=True)
    if as_json:
        return {"query": text, **asdict(found)}
    for hit in found.hits:
        typer.echo(f"{hit.rank:3}  {hit.student_score:.3f}  {hit.passage_id}\n     {' '.join(hit.text.split())[:160]}")
    return None


@app.command()
def leaderboard(collection: Collection = None, as_json: Json = False) -> Document | None:
    """All systems on the test split, best first."""
    project = _open_project(_given(collection=collection))
    if as_json:
        return _leaderboard_document(project)
    _print_leaderboard(project)
    return None


@app.command()
def report(
    open_it: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    collection: Collection = None,
    as_json: Json = False,
) -> Document | None:
    """Write the report (HTML, self-contained) again from what is stored; no model is opened."""
    from distill_assets.report.publishing import write_project_report

    project = _open_project(_given(collection=collection))
    _leaderboard_rows(project)  # says what to run where there is nothing to report
    path = write_project_report(project).resolve()
    if open_it:
        typer.launch(path.as_uri())
    if as_json:
        return {"report": str(path)}
    typer.echo(f"report: {path}")
    return None


@app.command()
def judge(
    name: Annotated[str, typer.Option(help="Who judges.", show_default="your login name")] = "",
    split: Annotated[Literal["test", "dev"], typer.Option(help="test or dev.")] = "test",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1.", show_default="a free one")] = 0,
    open_it: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Say what is judged and what is left, and open no page.")
    ] = False,
    collection: Collection = None,
    as_json: Json = False,
) -> Document | None:
    """Judge documents on a local page, by keyboard: the pairs that say most about which system is better (ends with Ctrl-C).

    Every answer is written at once; start again to go on. `distill-assets run` then measures with the answers. `--json` is `--status`
    as a document.
    """
    from distill_assets.handles import judging
    from distill_assets.serving.judging import JudgingServer

    project, who = _open_project(_given(collection=collection)), name.strip() or _login_name()
    sheet = judging.open_sheet(project, split)
    if not (status or as_json):
        with JudgingServer(project, sheet, who, port) as server:
            typer.echo(
                f"{who} judges the {split} queries of {project.collection.source.name}: {server.url}  (ends with Ctrl-C)"
            )
            if open_it:
                typer.launch(server.url)
            with suppress(KeyboardInterrupt):
                server.serve_forever()
    judged, power = judging.judged_by_people(project, split), judging.tell_power(project, sheet)
    num_pairs, num_queries = judging.count_left(sheet, judging.read_answers(project, split), who)
    if as_json:
        judges = [
            dict(zip(("name", "num_pairs", "first", "last"), (n, *told), strict=True))
            for n, told in judged.judges.items()
        ]
        left = {"judge": who, "num_left_pairs": num_pairs, "num_left_queries": num_queries}
        return {**asdict(judged), "judges": judges, "power": power, **left}
    typer.echo(
        "\n".join([*judged.sentences, power, f"Left for {who}: {num_pairs:,} pairs of {num_queries:,} queries."])
    )
    return None


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A folder of documents, or of a BEIR collection, or of such folders.")],
    as_json: Json = False,
) -> Document | None:
    """Read a folder and say what was read, what was not, and why. Stores nothing and opens no model."""
    told = _look_at(path)
    left_out = SourceError(f"cannot be read: {', '.join(told['refused'])} (reasons above)") if told["refused"] else None
    return _end(told, left_out, as_json)


def _look_at(path: Path) -> Document:
    """Print what lies at `path` and what each batch of it brings, or why it cannot be read. Returns it, with the setting."""
    from distill_assets.assets.collection import cut_documents_of, read_batch
    from distill_assets.sources.catalog import FILES, recognise
    from distill_assets.sources.document_files import find_files

    scheme = recognise(path)
    project = _open_project({"collection": f"{scheme}:{path}"})
    typer.echo(project.settings.collection)
    if scheme == FILES:
        typer.echo(f"files: {find_files(path)}")
    source, read, refused = project.collection.source, list[Document](), dict[str, str]()
    for batch in source.batches():
        typer.echo(f"{batch}:")
        try:
            sentences = read_batch(project, *cut_documents_of(project, source.read(batch))).sentences()
            read.append({"batch": batch, "sentences": sentences})
        except SourceError as error:
            refused[batch] = str(error)
            sentences = [f"refused: {error}"]
        typer.echo("\n".join(f"  {sentence}" for sentence in sentences))
    for name, reason in source.refused().items():
        typer.echo(f"{name}: refused: {reason}")
    setting = project.settings.collection
    return {"setting": setting, "collection": source.name, "batches": read, "refused": refused | source.refused()}


@app.command()
def batches(collection: Collection = None, as_json: Json = False) -> Document | None:
    """The batches of the collection and what each brought."""
    project = _open_project(_given(collection=collection))
    warehouse = project.places.warehouse
    stored = warehouse.all_slices() if warehouse.exists() else {}
    tables = ("corpus", "queries", "qrels", "hard_negatives", "teacher_scores")
    counts = {
        batch: {table: stored[table, batch].num_rows if (table, batch) in stored else None for table in tables}
        for batch in project.collection.source.batches()
    }
    quarantined, rejected = project.collection.unreadable(), sorted(project.collection.refused_by_checks())
    if as_json:
        found = [{"batch": batch, **row} for batch, row in counts.items()]
        told = {"batches": found, "quarantined": quarantined, "refused_by_checks": rejected}
        return {"collection": project.collection.source.name, **told}
    for batch, row in counts.items():
        typer.echo(f"{batch}: " + ", ".join(f"{table} {'-' if n is None else f'{n:,}'}" for table, n in row.items()))
    for batch, reason in sorted(quarantined.items()):
        typer.echo(f"{batch} is in quarantine: {reason}")
    for batch in rejected:
        typer.echo(f"{batch} did not pass a blocking check: distill-assets why 'corpus[{batch}]' says which")
    return None


@app.command()
def rollback(collection: Collection = None, as_json: Json = False) -> Document | None:
    """Make the champion before the present one champion again."""
    from distill_assets.assets.release import roll_back, roll_back_event
    from distill_assets.report.publishing import write_project_report

    project = _open_project(_given(collection=collection))
    row = roll_back(project)
    with _instance(project) as instance:
        instance.report_runless_asset_event(roll_back_event(project, row))
    write_project_report(project)
    if as_json:
        return {"champion": _champion_document(project), "reason": row["reason"]}
    typer.echo(f"champion is {row['recipe']} ({row['model_fingerprint'][:8]}) again: {row['reason']}")
    return None


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 3000, collection: Collection = None) -> None:
    """Open the Dagster UI on 127.0.0.1 over the same instance that `run` records in (ends with Ctrl-C)."""
    if _line is not None:
        raise SettingsError(
            f"the UI of {_line} is that of its project: start dg dev, or dagster dev, in the project's folder"
        )
    if collection is not None:
        os.environ["DISTILL_COLLECTION"] = collection  # the processes of Dagster read the settings themselves
    with _instance(_open_project()):  # makes its databases: several processes that do so at once fail
        pass
    dagster = Path(sys.executable).with_name("dagster")
    # A background job of a script ignores SIGINT. Dagster takes SIGTERM for SIGINT and ignored both.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = [str(dagster), "dev", "-m", "distill_assets.definitions", "-h", "127.0.0.1", "-p", str(port)]
    os.execv(arguments[0], arguments)


@app.command()
def why(
    asset: Annotated[str | None, typer.Argument(help="An asset, or asset[partition]; all by default.")] = None,
    quick: Quick = False,
    full: Full = False,
    collection: Collection = None,
    teacher: Teacher = None,
    student: Student = None,
    recipe: Recipes = None,
    baseline: Baselines = None,
    as_json: Json = False,
) -> Document | None:
    """Say in one sentence of each asset's partition whether it is fresh, due, waiting or refused, and because of which input."""
    from distill_assets.orchestration.explanation import explain

    given = _given(recipe, baselines=baseline, collection=collection, teacher=teacher, student=student)
    answers = explain(_open_project(_sizes(quick, full) | given), asset)
    if as_json:
        return {"assets": [asdict(answer) for answer in answers]}
    for answer in answers:
        typer.echo(answer.sentence)
    return None


@app.command(name="export-ranking")
def export_ranking(
    system: Annotated[str, typer.Argument(help="A system of the leaderboard: bm25, teacher, a recipe, ...")],
    split: Annotated[str, typer.Option(help="test or dev.")] = "test",
    collection: Collection = None,
    as_json: Json = False,
) -> Document | None:
    """Print a system's ranking as a TREC run: query, Q0, document, rank, score, system."""
    from distill_assets.notebook import Line

    found = Line(_open_project(_given(collection=collection))).rankings(system, split)
    if as_json:
        return {"system": system, "split": split, "rankings": found.to_dict("records")}
    for row in found.itertuples():
        typer.echo(f"{row.query_id} Q0 {row.doc_id} {row.rank} {row.score!r} {system}")
    return None


@app.command(name="export-scores")
def export_scores(
    folder: Annotated[Path, typer.Argument(help="A new folder, or one that holds an earlier export.")],
    collection: Collection = None,
    as_json: Json = False,
) -> Document | None:
    """Write the teacher's scores as Parquet, as published score sets are: documents, queries, scores; and where they come from."""
    from distill_assets.handles import score_sets
    from distill_assets.orchestration.stages import is_stale

    project = _open_project(_given(collection=collection))
    stored = project.collection.batches() if project.places.warehouse.exists() else []
    stale = [batch for batch in stored if is_stale(project, "teacher_scores", batch)]
    if stale:
        raise ScoreSetError(
            f"these batches are not scored, or their texts or the teacher have changed since: {', '.join(stale)}; run distill-assets "
            "run --until teacher_scores first"
        )
    told = score_sets.export_scores(project, folder)
    if as_json:
        return {"folder": str(folder.resolve()), "provenance": told}
    typer.echo(f"{told['num_pairs']:,} scores of {told['num_queries']:,} queries: {folder.resolve()}")
    return None


@app.command(name="import-scores")
def import_scores(
    path: Annotated[Path, typer.Argument(help="A folder as export-scores writes it, or FlagEmbedding's JSONL.")],
    name: Annotated[str, typer.Option(help="The teacher is then scores:NAME.")],
    value_space: Annotated[
        Literal["logit", "sigmoid", "other"] | None,
        typer.Option(help="What the scores are.", show_default="as the set says"),
    ] = None,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Leave out pairs whose texts are not in the collection.")
    ] = False,
    collection: Collection = None,
    as_json: Json = False,
) -> Document | None:
    """Bring in scores that were made elsewhere. They take part like any teacher: `teacher = "scores:NAME"`."""
    from distill_assets.handles import score_sets

    project = _open_project(_given(collection=collection))
    told = score_sets.import_scores(project, path, name, value_space=value_space, skips_unknown=skip_unknown)
    if as_json:
        return told
    for sentence in told["left_out"]:
        typer.echo(f"left out: {sentence}", err=True)
    typer.echo(
        f"{told['num_pairs']:,} scores of {told['num_queries']:,} queries, as logits of {told['value_space']} scores: scores:{name}"
    )
    return None


def main() -> None:
    """Entry point: an error that a user can cause is one line on stderr, and its class has the exit code."""
    atexit.register(_close_stderr)  # the first that is registered runs last
    for category in (DeprecationWarning, FutureWarning):  # of libraries about libraries
        warnings.filterwarnings("ignore", category=category)
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    if "--json" in sys.argv[1:]:  # looked for here, because a command line that is refused is told as a document, too
        sys.exit(_answer_in_json())
    try:
        app()
    except DistillError as error:
        sys.exit(_tell_error(error)[1])


def _close_stderr() -> None:
    """What is written while the interpreter is taken down is lost.

    DuckDB 2.0's bindings (nanobind) then name 60 objects as leaked where dagster, duckdb and torch are loaded together: below every
    leaderboard, though nothing was lost.
    """
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _answer_in_json() -> int:
    """Carry out the command, print one document on stdout whatever happens, and return the exit code."""
    document: Document
    try:
        with redirect_stdout(sys.stderr):  # progress, and what a library prints
            found = app(standalone_mode=False)
        if not isinstance(found, dict):  # --help, Ctrl-C
            return found or 0
        document, error = found, found.get("error")
    except Exception as raised:
        document, error = {}, raised
    code = 0
    if error is not None:
        told, code = _tell_error(error)
        document = document | {"error": told}
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return code


def _tell_error(error: Exception) -> tuple[Document, int]:
    """Say it on stderr; return it for a document, and the exit code. One that nobody raised on purpose has its traceback."""
    code = getattr(error, "exit_code", None)  # of this package's errors, and of usage errors
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if code is None:
        traceback.print_exception(error)
    else:
        typer.echo(message if isinstance(error, NothingToDoError) else f"error: {message}", err=True)
    return {"type": type(error).__name__, "message": message}, code or 1


def _end(document: Document, error: DistillError | None, as_json: bool) -> Document | None:
    """A document that has beside what was done what was not; without --json the error alone is left to say."""
    if as_json:
        return document | {"error": error}
    if error is not None:
        raise error
    return None


def _sizes(quick: bool, full: bool) -> dict[str, Any]:
    if quick and full:
        raise typer.BadParameter("choose one of --quick and --full")
    return QUICK if quick else FULL if full else {}


def _given(recipe: list[str] | None = None, **flags: str | list[str] | None) -> dict[str, Any]:
    """The settings that flags give; they win over environment and file."""
    given: dict[str, Any] = {name: value for name, value in flags.items() if value not in (None, [])}
    return given | ({"skip_recipes": _open_project(given).settings.all_but(recipe)} if recipe else {})


def _open_project(overrides: dict[str, Any] | None = None) -> "Project":
    from distill_assets.handles.project import Project

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not sys.stderr.isatty():  # a bar in a file is a line for every step of it
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if _line is None:
        return Project(overrides=overrides or {})
    from distill_assets.component import find_line

    return find_line(_line, Path.cwd(), overrides or {})


def _run_steps(project: "Project", until: str, is_stale: Any = None) -> list[Any]:
    from distill_assets.assets.reporting import INBOX
    from distill_assets.definitions import build_definitions
    from distill_assets.orchestration import stages
    from distill_assets.orchestration.plan import make_plan
    from distill_assets.orchestration.running import run_line

    told: list[str] = []
    found_stale = is_stale or stages.is_stale

    def announce(assets: tuple[str, ...], partition: str) -> None:
        # What has been read decides how long the rest takes.
        if not told and assets[0] not in (INBOX, *stages.INGEST.assets):
            found = make_plan(project, found_stale, until, 0)
            told.extend(filter(None, (project.models.advice, *found.warnings, found.sentence)))
            typer.echo("\n".join(told), err=True)
        typer.echo(f"...         {_label(assets, partition)}", err=True)

    steps = []
    with _instance(project) as instance:
        definitions = project.load_location() if project.load_location else build_definitions(project)
        for step in run_line(definitions, project, instance, until=until, is_stale=found_stale, on_start=announce):
            took = "up to date" if step.was_up_to_date else f"{step.seconds:8.1f} s"
            typer.echo(f"{took}  {_label(step.assets, step.partition)}")
            if step.refusal:
                typer.echo(f"refused: {step.refusal}", err=True)
            steps.append(step)
    worked = sum(step.was_materialised for step in steps)
    typer.echo(f"\n{worked} steps run, {len(steps) - worked} up to date, {sum(s.seconds for s in steps):.0f} s")
    for step in steps:
        for warning in step.warnings:
            typer.echo(f"warning: {warning}", err=True)
    return steps


def _tell_results(project: "Project", steps: list[Any], as_json: bool, *, is_whole: bool = True) -> Document | None:
    """The steps of a run and, where it went up to the champion, the report and the leaderboard."""
    from distill_assets.report.publishing import read_conclusion, write_project_report

    names = ("assets", "partition", "seconds", "outcome", "refusal", "warnings")
    document: Document = {"steps": [{name: getattr(step, name) for name in names} for step in steps]}
    if is_whole:
        times = [(_label(step.assets, step.partition), step.seconds) for step in steps if step.was_materialised]
        path = write_project_report(project, times)
        if as_json:
            document |= _leaderboard_document(project) | {"report": str(path.resolve())}
        else:
            _print_leaderboard(project)
            typer.echo(f"report: {path}\n")
            typer.echo("\n".join(read_conclusion(project)))
    # A script must hear that a batch was left out, although all others went through.
    refused = ", ".join(step.partition for step in steps if step.refusal)
    error = SourceError(f"left out, because they could not be read: {refused} (reasons above)") if refused else None
    return _end(document, error, as_json)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # a container's user may have no name
        raise typer.BadParameter("this system gives you no login name: say who judges with --name") from error


def _label(assets: Iterable[str], partition: str) -> str:
    return f"{', '.join(assets)}{f' [{partition}]' if partition else ''}"


@contextmanager
def _instance(project: "Project") -> Iterator[Any]:
    """The Dagster instance, with its databases made and without runs whose process is gone.

    DAGSTER_HOME is set for this process. Dagster makes its databases where they are missing. Two processes that do so at once
    fail, so the second one waits here.
    """
    import fcntl

    import dagster as dg

    from distill_assets.orchestration.lost_runs import end_lost_runs

    home = project.places.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with (home / ".creation.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system takes it back from a process that dies
            if not (home / "dagster.yaml").exists():
                shutil.copyfile(INSTANCE_FILE, home / "dagster.yaml")
            os.environ["DAGSTER_HOME"] = str(home)
            instance = stack.enter_context(dg.DagsterInstance.get())
            instance.all_instigator_state()
        for run in end_lost_runs(instance):
            typer.echo(f"marked as failed, its process is gone: {run.job_name} {run.run_id[:8]}", err=True)
        yield instance


def _leaderboard_rows(project: "Project") -> "list[LeaderboardRow]":
    from distill_assets.report.publishing import read_rows

    rows = read_rows(project) if project.places.warehouse.exists() else []
    if not rows:
        name = project.settings.collection
        raise DistillError(
            f"there is no leaderboard of {name!r} yet: run distill-assets run first, or name another --collection"
        )
    return rows


def _leaderboard_document(project: "Project") -> Document:
    from distill_assets.report.publishing import read_conclusion

    rows = _leaderboard_rows(project)
    return {
        "collection": project.collection.source.name,
        "split": rows[0].split,
        "judged_by": rows[0].judged_by or "people",
        "systems": [{"name": row.system, **asdict(row)} for row in rows],
        "champion": _champion_document(project),
        "teacher_fitness": _fitness(project),
        "conclusion": read_conclusion(project),
    }


def _champion_document(project: "Project") -> Document | None:
    from distill_assets.report.publishing import current_champion

    row = current_champion(project)
    return row and {
        "name": row["recipe"],
        "model_fingerprint": row["model_fingerprint"],
        "checkpoint_path": row["checkpoint_path"],
        "judged_by": row["judged_by"] or "people",
        "since": f"{row['decided_at']:%Y-%m-%dT%H:%M:%SZ}",
    }


def _print_leaderboard(project: "Project") -> None:
    from distill_assets.evaluation.leaderboard import champion_note, format_table
    from distill_assets.report.publishing import read_champion, read_judgements

    rows, champion = _leaderboard_rows(project), read_champion(project)
    typer.echo(f"\n{project.collection.source.name}, {rows[0].split} split, {rows[0].num_queries} queries")
    typer.echo(format_table(rows, champion))
    for finding in (champion_note(rows, champion), _fitness(project), " ".join(read_judgements(project, rows))):
        if finding:
            typer.echo(f"\n{finding}")


def _fitness(project: "Project") -> str | None:
    from distill_assets.report.publishing import read_teacher_comparison

    teacher = read_teacher_comparison(project)
    return None if teacher is None else teacher.sentence
