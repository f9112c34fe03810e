"""`python -m experiments`: run studies, print their tables, grow the bundled teacher."""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from distill_assets.errors import DistillError
from distill_assets.records import Collection

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
WorkOption = Annotated[
    Path, typer.Option(help="Data folder of experiments: warehouse, stores and checkpoints of their own.")
]


@app.command()
def study(
    plan: Annotated[
        Path,
        typer.Argument(
            help="TOML, see experiments/plans.py. DISTILL_* variables and distill.toml fill what it leaves out."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="JSON document that is written, and rewritten after each training.")],
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds per recipe; as the plan says by default.")] = None,
    work: WorkOption = Path("data/study"),
) -> None:
    """Run a plan. After a kill the same command goes on."""
    from experiments.plans import read_plan
    from experiments.study import run_study

    def save(document: dict[str, Any]) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_suffix(".partial")
        partial.write_text(json.dumps(document) + "\n", encoding="utf-8")
        partial.replace(out)
        system, per_seed = list(document["systems"].items())[-1]
        values = [value for splits in per_seed.values() for value in splits["dev"].values()]
        mean = f"{sum(values) / len(values):.4f}" if values else "-"
        typer.echo(f"{document['seconds']:5d} s  {document['collection']}  {system}: dev nDCG@10 {mean}")

    run_study(read_plan(plan, seeds), work, save)


@app.command()
def hidden(
    out: Annotated[Path, typer.Argument(help="JSON document that is written, and rewritten after each training.")],
    data: Annotated[Path | None, typer.Option(help="A BEIR folder; by default python_api (numpy, pandas).")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per recipe.")] = 3,
    setting: Annotated[list[str], typer.Option(help="NAME=VALUE of a setting, as JSON or text.")] = [],  # noqa: B006
    work: WorkOption = Path("data/hidden"),
) -> None:
    """Hide the judgements of a collection, train without them, and let people's judgements decide what that was worth."""
    from distill_assets.sources.beir import BeirSource
    from distill_assets.sources.python_api import PythonApiSource
    from experiments.hidden import run_hidden

    source = PythonApiSource(("numpy", "pandas")) if data is None else BeirSource(data)
    parts = [source.read(batch) for batch in source.batches()]
    whole = Collection(
        [d for part in parts for d in part.documents],
        [q for part in parts for q in part.queries],
        [q for part in parts for q in part.qrels],
    )
    chosen = {name: _value(text) for name, _, text in (pair.partition("=") for pair in setting)}

    def save(document: dict[str, Any]) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"{document['seconds']} s  {list(document['systems'].items())[-1]}")

    run_hidden(whole, source.name.replace(":", "_"), chosen, seeds, work.resolve(), save)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@app.command()
def tables(
    documents: Annotated[list[Path], typer.Argument(help="JSON documents of studies.")],
    split: Annotated[str, typer.Option(help="dev or test.")] = "test",
    against: Annotated[
        str | None, typer.Option(help="System that the others are tested against; hard_labels where there is one.")
    ] = None,
) -> None:
    """Print documents as Markdown tables with intervals, corrected tests and the gap closed."""
    from experiments.tables import render

    for path in documents:
        typer.echo(render(json.loads(path.read_text(encoding="utf-8")), split, against))


@app.command()
def topics(
    folder: Annotated[Path, typer.Argument(help="BEIR folder that is written.")],
    packages: Annotated[list[str], typer.Argument(help="Import names of installed packages.")],
) -> None:
    """Write a collection with dozens of judged documents a query, which search mostly does not find."""
    from experiments.topics import write_topics

    typer.echo(f"written: {write_topics(folder, packages)}")


@app.command(name="long-documents")
def long_documents(
    folder: Annotated[Path, typer.Argument(help="BEIR folder of chunks with ids ARTICLE-PARAGRAPH-CHUNK.")],
    lengths: Annotated[list[int], typer.Option("--passage-tokens", min=16)] = [128, 256],  # noqa: B006
) -> None:
    """Join the chunks to articles, and compare search by their first tokens with search by their best passage."""
    from experiments.long_documents import compare_lengths

    for line in compare_lengths(folder, lengths):
        typer.echo(line)


@app.command(name="grow-teacher")
def grow_teacher(
    out: Annotated[Path, typer.Argument(help="Folder of the teacher: per fold two adapters with their provenance.")],
    folds: Annotated[int, typer.Option(min=1, help="A query is scored by the folds that never saw its label.")] = 2,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the low-rank adapters.")] = 12,
    queries: Annotated[int | None, typer.Option(help="Train queries; all by default.")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 2,
    learning_rate: Annotated[float, typer.Option()] = 7e-4,
    work: WorkOption = Path("data/study"),
) -> None:
    """Train the bundled teacher as small adapters on the labels of the train split (how it was made).

    Members that are there from the same recipe and data are kept. Dev and test queries are never trained on.
    """
    from distill_assets.handles.project import Project
    from experiments.growing import Growth
    from experiments.growing import grow_teacher as grow

    growth = Growth(folds=folds, rank=rank, num_queries=queries, epochs=epochs, learning_rate=learning_rate)
    grow(Project(overrides={"data_folder": str(work)}), out, growth, say=typer.echo)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    try:
        app()
    except DistillError as error:
        raise SystemExit(f"error: {error}") from error
