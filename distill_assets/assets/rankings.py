"""Rankings as a table: each system searches the dev and test queries once. Metrics, pool, leaderboard, gate and export read it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from distill_assets.assets.inputs import Inputs
from distill_assets.evaluation.groups import groups_of
from distill_assets.records import Query
from distill_assets.retrieval.passages import documents_of
from distill_assets.retrieval.rankings import Run, fuse_runs
from distill_assets.storage.collection import EVALUATION, Qrels
from distill_assets.storage.tables import schema_of
from distill_assets.storage.warehouse import SliceWrite, Warehouse

DEPTH = 100  # recall@100 is the deepest metric
_CODE_VERSION = "2"
FORMER_CHAMPION = "champion-"  # before its fingerprint: the system of a champion that is no recipe's student any more
# What a ranking is made from beside its system; an asset that reads rankings declares these.
RANKING_INPUTS = ("documents", "evaluation_queries", "evaluation_judgements")
GROUP_INPUTS, GROUP_SETTINGS = ("query_origins",), ("query_groups",)  # what `grouped` reads
RANKING_SETTINGS = ("dev_queries", "test_queries")


def judged_queries(inputs: Inputs, split: str) -> tuple[list[Query], Qrels]:
    """The queries of a split that are evaluated, and their judgements."""
    return inputs.evaluated(split, inputs.settings.dev_queries if split == "dev" else inputs.settings.test_queries)


def grouped(inputs: Inputs, queries: Sequence[Query]) -> dict[str, dict[str, str]]:
    """The groups of these queries by the rules of the settings: rule -> query_id -> label."""
    return groups_of(inputs.settings.query_groups, queries, inputs.query_origins)


def rankings_of(inputs: Inputs, system: str, student: Path | None) -> dict[str, Run]:
    """Rankings of the judged queries, by split: of a student, or of BM25 where none is given. Read again while they are current.

    They are of documents, each by its best passage.
    """
    encoder = (
        inputs.project.models.encoder_id(student) if student else f"bm25, tokeniser {inputs.versions['tokeniser']}"
    )
    needed = (*RANKING_INPUTS, *(f"settings.{name}" for name in RANKING_SETTINGS))
    made_from = {"code": _CODE_VERSION, "encoder": encoder, **{name: inputs.versions[name] for name in needed}}
    queries: dict[str, Sequence[Query]] = {split: judged_queries(inputs, split)[0] for split in EVALUATION}
    warehouse = inputs.project.places.warehouse
    info = warehouse.slice_info("rankings", system)
    if info is not None and info.inputs == made_from:
        return read_rankings(warehouse, system, queries)
    search = inputs.retrieval.bm25 if student is None else lambda q, k: inputs.retrieval.dense(student, q, k)
    runs: dict[str, Run] = {
        split: {q: documents_of(found, inputs.parent_of) for q, found in search(asked, DEPTH).items()}
        for split, asked in queries.items()
    }
    warehouse.write(write_of(system, runs, made_from))
    return runs


def fused_rankings(bm25: Mapping[str, Run], encoder: Mapping[str, Run]) -> dict[str, Run]:
    """Rankings by split of BM25 and a bi-encoder, fused by reciprocal rank."""
    return {split: fuse_runs(bm25[split], encoder[split], DEPTH) for split in EVALUATION}


def drop_former_rankings(inputs: Inputs, systems: Collection[str]) -> None:
    """Drop the rankings of what is neither one of these systems nor a recipe, so that nobody exports them as today's.

    A recipe that is skipped keeps its rankings, and so does a former champion.
    """
    warehouse, kept = inputs.project.places.warehouse, {*systems, *inputs.project.settings.known_recipes}
    for system in warehouse.slices("rankings"):
        if system not in kept and not system.startswith(FORMER_CHAMPION):
            warehouse.drop_slice("rankings", system)


def write_of(system: str, runs: Mapping[str, Run], made_from: Mapping[str, str]) -> SliceWrite:
    """The slice of a system's rankings, by split."""
    rows = [
        (split, query_id, doc_id, rank, float(score))
        for split, run in runs.items()
        for query_id, ranking in run.items()
        for rank, (doc_id, score) in enumerate(ranking, start=1)
    ]
    columns: list[Any] = list(zip(*rows, strict=True)) or [()] * 5
    table = pa.table(columns, schema=schema_of("rankings"))
    return SliceWrite(table="rankings", rows=table, slice_key=system, inputs=made_from, is_empty_meant=True)


def read_rankings(warehouse: Warehouse, system: str, queries: Mapping[str, Sequence[Query]]) -> dict[str, Run]:
    """Split -> ranking of each of these queries as stored; an empty one where nothing was found."""
    runs: dict[str, Run] = {split: {q.query_id: [] for q in asked} for split, asked in queries.items()}
    rows = warehouse.query(
        "SELECT split, query_id, doc_id, score FROM rankings WHERE system = ? ORDER BY split, query_id, rank", [system]
    )
    for split, query_id, doc_id, score in zip(*(rows[name].to_pylist() for name in rows.column_names), strict=True):
        runs[split][query_id].append((doc_id, score))
    return runs
