"""`python -m experiments`: run studies, print their tables, grow the bundled teacher."""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from distill_assets.errors import DistillError

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
