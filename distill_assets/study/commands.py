"""Run one experiment on one collection and write its JSON document (`distill-assets study`)."""

import json
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from distill_assets.core.errors import SettingsError
from distill_assets.core.recipes import Recipe, TeacherRecipe, derive_recipe
from distill_assets.sources.base import Source
from distill_assets.sources.beir import BeirSource
from distill_assets.sources.python_api import PythonApiSource
from distill_assets.study.collection import read_study_collection, write_beir

app = typer.Typer(
    help="Compare teachers, recipes or label budgets over several seeds, outside the asset graph.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

CollectionArgument = Annotated[
    str, typer.Argument(help="`beir:PATH`, or `python_api:numpy,pandas` read from installed packages.")
]
PlanOption = Annotated[Path, typer.Option(help="TOML: [teachers.NAME] and [recipes.NAME] tables, see benchmarks/.")]
OutOption = Annotated[Path, typer.Option(help="JSON document that is written, and rewritten after each training.")]
EncoderOption = Annotated[str, typer.Option(help="`packaged`, or the folder of a bi-encoder.")]
LengthOption = Annotated[int, typer.Option(help="Tokens that student and teacher read.")]
CandidatesOption = Annotated[int, typer.Option(help="Mined candidates per query that the teacher scores.")]
SeedsOption = Annotated[int, typer.Option(help="Seeds per recipe.")]
WorkOption = Annotated[Path, typer.Option(help="Scratch folder.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
GoOnOption = Annotated[
    bool, typer.Option("--go-on", help="Keep what OUT holds of this study, train only what is missing.")
]


@app.command()
def teachers(
    collection: CollectionArgument,
    plan: PlanOption,
    out: OutOption,
    encoder: EncoderOption = "packaged",
    max_length: LengthOption = 64,
    work: WorkOption = Path("data/study"),
    device: DeviceOption = "auto",
) -> None:
    """Which teacher: every plan and every subset of its members, reranking one pool."""
    from distill_assets.study.experiments import compare_teachers

    study, document = _open(collection, encoder, max_length, work, device)
    compare_teachers(study, _plans(plan), _saver(out, document | {"experiment": "teachers"}))


@app.command()
def recipes(
    collection: CollectionArgument,
    plan: PlanOption,
    out: OutOption,
    teacher: Annotated[
        str,
        typer.Option(help="Name of the teacher plan; `bundled`: the one of python_api that comes with the package."),
    ] = "default",
    seeds: SeedsOption = 3,
    candidates: CandidatesOption = 50,
    encoder: EncoderOption = "packaged",
    max_length: LengthOption = 64,
    work: WorkOption = Path("data/study"),
    device: DeviceOption = "auto",
    go_on: GoOnOption = False,
) -> None:
    """Which recipe: every recipe with every seed, against one teacher."""
    from distill_assets.study.experiments import BUNDLED_TEACHER_PLAN, compare_recipes

    study, document = _open(collection, encoder, max_length, work, device, candidates)
    chosen = None if teacher == BUNDLED_TEACHER_PLAN else _plans(plan)[teacher]
    document |= {"experiment": "recipes"}
    known = _known(out, document) if go_on else None
    save = _saver(out, document, known)
    compare_recipes(study, chosen, _recipes(plan), [13 + i for i in range(seeds)], save, known)


@app.command()
def labels(
    collection: CollectionArgument,
    plan: PlanOption,
    out: OutOption,
    teacher: Annotated[str, typer.Option(help="Name of the teacher plan.")] = "default",
    hard: Annotated[str, typer.Option(help="Recipe that learns from the kept labels.")] = "hard_labels",
    distilled: Annotated[str, typer.Option(help="Recipe that learns from all queries.")] = "distilled",
    shares: Annotated[str, typer.Option(help="Shares of the train labels that are kept.")] = "0.05,0.1,0.25,0.5,1",
    seeds: SeedsOption = 3,
    candidates: CandidatesOption = 50,
    encoder: EncoderOption = "packaged",
    max_length: LengthOption = 64,
    work: WorkOption = Path("data/study"),
    device: DeviceOption = "auto",
    go_on: GoOnOption = False,
) -> None:
    """How many labels: fine-tuning on a share of them against distilling on all queries through a teacher of that share."""
    from distill_assets.study.experiments import compare_label_budgets

    study, document = _open(collection, encoder, max_length, work, device, candidates)
    document |= {"experiment": "labels"}
    known = _known(out, document) if go_on else None
    found = _recipes(plan)
    compare_label_budgets(
        study,
        _plans(plan)[teacher],
        hard=found[hard],
        distilled=found[distilled],
        shares=[float(share) for share in shares.split(",")],
        seeds=[13 + i for i in range(seeds)],
        save=_saver(out, document, known),
        known=known,
    )


@app.command()
def export(collection: CollectionArgument, folder: Path) -> None:
    """Write a collection as a BEIR folder with its splits, to take it to another machine."""
    write_beir(read_study_collection(_source(collection)), folder)


@app.command()
def tables(
    documents: Annotated[list[Path], typer.Argument(help="JSON documents of experiments.")],
    split: Annotated[str, typer.Option(help="dev or test.")] = "test",
    against: Annotated[
        str | None, typer.Option(help="System that the others are tested against; hard_labels where there is one.")
    ] = None,
) -> None:
    """Print the documents as Markdown tables with intervals, corrected tests and the gap closed."""
    from distill_assets.study.tables import render

    for path in documents:
        typer.echo(render(json.loads(path.read_text(encoding="utf-8")), split, against))


def _source(name: str) -> Source:
    kind, _, rest = name.partition(":")
    if kind == "beir" and rest:
        return BeirSource(Path(rest))
    if kind == "python_api" and rest:
        return PythonApiSource(tuple(rest.split(",")), name=name)
    raise SettingsError(f"{name!r} is not a collection: expected beir:PATH or python_api:PACKAGE,PACKAGE")


def _open(
    collection: str, encoder: str, max_length: int, work: Path, device: str, candidates: int = 50
) -> tuple[Any, dict[str, Any]]:
    from distill_assets.core.encoders import pick_device
    from distill_assets.storage.models import resolve_model
    from distill_assets.study.experiments import Study, prepare_device

    found = read_study_collection(_source(collection))
    chosen = pick_device(device)  # type: ignore[arg-type]
    folder = work / found.name.replace(":", "-")
    study = Study(found, resolve_model(encoder), chosen, max_length, folder, candidates)
    sizes = {split: len(queries) for split, queries in found.queries.items()}
    document = {
        "collection": found.name,
        "fingerprint": found.fingerprint,
        "device": prepare_device(chosen),
        "max_length": max_length,
        "num_candidates": candidates,
        "num_documents": len(found.documents),
        "num_queries": sizes,
    }
    return study, document


def _known(out: Path, document: dict[str, Any]) -> dict[str, Any] | None:
    """The document at `out`, if there is one; raises `SettingsError` where it is of another study."""
    if not out.is_file():
        return None
    known: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    other = [key for key, value in document.items() if known.get(key) != value]
    if other:
        raise SettingsError(
            f"{out} has another {', '.join(other)} than this study: it cannot go on with it; write to a new document"
        )
    return known


def _saver(
    out: Path, document: dict[str, Any], known: dict[str, Any] | None = None
) -> Callable[[dict[str, Any]], None]:
    started = time.time() - (known or {}).get("seconds", 0)

    def save(found: dict[str, Any]) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        whole = document | {"seconds": round(time.time() - started)} | found
        partial = out.with_suffix(".partial")
        partial.write_text(json.dumps(whole) + "\n", encoding="utf-8")
        partial.replace(out)
        systems = whole["systems"]
        last = list(systems)[-1]
        values = [v for per_split in systems[last].values() for v in per_split["dev"].values()]
        typer.echo(
            f"{whole['seconds']:5d} s  {document['collection']}  {last}: dev nDCG@10 {sum(values) / len(values):.4f}"
        )

    return save


def _plans(path: Path) -> dict[str, Any]:
    from distill_assets.study.teachers import TeacherPlan

    found = {}
    for name, table in _tables(path, "teachers").items():
        bi_encoder = Recipe(**{"name": "bi_encoder", "loss": "hard_labels", **table.pop("bi_encoder", {})})
        cross_encoder = TeacherRecipe(**{"num_queries": None, **table.pop("cross_encoder", {})})
        table["members"] = tuple(table.get("members", ("cross_encoder", "bi_encoder")))
        found[name] = TeacherPlan(bi_encoder=bi_encoder, cross_encoder=cross_encoder, **table)
    return found


def _recipes(path: Path) -> dict[str, Recipe]:
    """The recipes of a plan; a table without a loss starts from the built-in recipe of its name, or from the one it is `like`."""
    found = {}
    for name, table in _tables(path, "recipes").items():
        like = table.pop("like", None if "loss" in table else name)
        found[name] = derive_recipe(name, table, like)
    return found


def _tables(path: Path, key: str) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8")).get(key, {})
    if not tables:
        raise SettingsError(f"{path} has no [{key}.NAME] table: a study needs at least one")
    return tables
