"""Group `collection`: what a batch brings, as three tables."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.checks import accepted, check_results, check_specs
from distill_assets.assets.failures import retrying
from distill_assets.assets.inputs import CODE_VERSIONS, input_fingerprint
from distill_assets.assets.reporting import OWNERS, content_version, markdown_table, materialised, table_schema
from distill_assets.core.errors import SourceError
from distill_assets.core.quality import (
    Verdict,
    find_twins,
    judge_coverage,
    judge_duplicates,
    judge_empty_documents,
    judge_leakage,
    judge_missing_positives,
    judge_unseen,
)
from distill_assets.core.records import Collection, Document, Qrel, Query, hash_text
from distill_assets.partitions import batches
from distill_assets.resources import Project
from distill_assets.sources.base import Source
from distill_assets.storage.warehouse import utc_now

_COMMON: dict[str, Any] = {
    "partitions_def": batches,
    "group_name": "collection",
    "kinds": {"python", "duckdb"},
    "owners": OWNERS,
    "pool": "warehouse",
}


@dg.asset(
    code_version=CODE_VERSIONS["corpus"],
    metadata={"dagster/column_schema": table_schema("corpus")},
    check_specs=check_specs("corpus", batches),
    **_COMMON,
)
@retrying
def corpus(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
    """Documents of one batch: id, title, text and the hash of what encoders read."""
    documents = _read(project, context.partition_key).documents
    rows = pa.table(
        {
            "doc_id": pa.array([d.doc_id for d in documents], pa.string()),
            "title": pa.array([d.title for d in documents], pa.string()),
            "text": pa.array([d.text for d in documents], pa.string()),
            "content_hash": pa.array([hash_text(d.content) for d in documents], pa.string()),
        }
    )
    return _write(context, project, "corpus", rows, _judge_documents(project, context.partition_key, documents))


@dg.asset(
    code_version=CODE_VERSIONS["queries"],
    metadata={"dagster/column_schema": table_schema("queries")},
    check_specs=check_specs("queries", batches),
    **_COMMON,
)
@retrying
def queries(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
    """Queries of one batch, each with its split: train, dev or test."""
    found = _read(project, context.partition_key).queries
    rows = pa.table(
        {
            "query_id": pa.array([q.query_id for q in found], pa.string()),
            "text": pa.array([q.text for q in found], pa.string()),
            "split": pa.array([q.split for q in found], pa.string()),
        }
    )
    return _write(context, project, "queries", rows, _judge_queries(project, context.partition_key, found))


@dg.asset(
    code_version=CODE_VERSIONS["qrels"],
    metadata={"dagster/column_schema": table_schema("qrels")},
    check_specs=check_specs("qrels", batches),
    **_COMMON,
)
@retrying
def qrels(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
    """Human judgements of one batch: which documents are relevant to which query."""
    collection = _read(project, context.partition_key)
    rows = pa.table(
        {
            "query_id": pa.array([q.query_id for q in collection.qrels], pa.string()),
            "doc_id": pa.array([q.doc_id for q in collection.qrels], pa.string()),
            "relevance": pa.array([q.relevance for q in collection.qrels], pa.int32()),
        }
    )
    verdicts = _judge_qrels(project, context.partition_key, collection)
    return _write(context, project, "qrels", rows, verdicts, {"num_dropped_qrels": collection.num_dropped_qrels})


def _judge_documents(project: Project, batch: str, documents: list[Document]) -> dict[str, Verdict]:
    hash_of = {document.doc_id: hash_text(document.content) for document in documents}
    return {
        "documents_not_empty": judge_empty_documents({d.doc_id: d.content for d in documents}),
        "documents_distinct": judge_duplicates(hash_of, _same_content_elsewhere(project, batch, hash_of)),
    }


def _same_content_elsewhere(project: Project, batch: str, hash_of: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(content hash, batch, doc_id) of documents of other batches that have the content of one of this batch."""
    rows = project.warehouse.query(
        "SELECT content_hash, batch, doc_id FROM corpus SEMI JOIN incoming USING (content_hash) "
        "WHERE batch IN (SELECT unnest(?::VARCHAR[]))",
        [_others(project, "corpus", batch)],
        incoming=pa.table({"content_hash": pa.array(sorted(set(hash_of.values())), pa.string())}),
    )
    return [(row["content_hash"], row["batch"], row["doc_id"]) for row in rows.to_pylist()]


def _judge_queries(project: Project, batch: str, found: list[Query]) -> dict[str, Verdict]:
    """Test queries of this batch against train of all, and those of the others against train of this batch."""
    rows = project.warehouse.read(
        "queries", slice_keys=_others(project, "queries", batch), columns=["query_id", "text", "split"]
    ).to_pylist()
    everything = {row["query_id"]: (row["split"], row["text"]) for row in rows}
    everything |= {query.query_id: (query.split, query.text) for query in found}
    test, train = ({i: text for i, (split, text) in everything.items() if split == s} for s in ("test", "train"))
    own = {query.query_id for query in found}
    twins = find_twins(test, train, jaccard=project.settings.near_identical)
    ours = [twin for twin in twins if {twin.test_id, twin.train_id} & own]
    return {
        "test_queries_unseen": judge_unseen(ours, len(test)),
        "leakage_within_limit": judge_leakage(ours, len(test), limit=project.settings.max_leaked_queries),
    }


def _judge_qrels(project: Project, batch: str, collection: Collection) -> dict[str, Verdict]:
    """Judgements may come in another batch than their queries or documents, so all batches are asked."""
    warehouse = project.warehouse
    others = warehouse.read("qrels", slice_keys=_others(project, "qrels", batch), columns=_QREL_COLUMNS).to_pylist()
    judgements = [*collection.qrels, *(Qrel(row["query_id"], row["doc_id"], row["relevance"]) for row in others)]
    rows = warehouse.query(
        "SELECT DISTINCT doc_id FROM corpus WHERE batch IN (SELECT unnest(?::VARCHAR[]))",
        [_others(project, "corpus", batch)],
    )
    known = {*rows.column("doc_id").to_pylist(), *(document.doc_id for document in collection.documents)}
    judged = {qrel.query_id for qrel in judgements if qrel.relevance > 0}
    positives = [(qrel.query_id, qrel.doc_id) for qrel in collection.qrels if qrel.relevance > 0]
    return {
        "queries_judged": judge_coverage({q.query_id: q.split for q in collection.queries}, frozenset(judged)),
        "positives_in_corpus": judge_missing_positives(positives, frozenset(known)),
    }


_QREL_COLUMNS = ["query_id", "doc_id", "relevance"]


def _others(project: Project, table: str, batch: str) -> list[str]:
    """The other batches of the collection that this table holds, those that are being read at this moment included."""
    there = project.warehouse.slices(table)
    return [other for other in project.source.batches() if other != batch and other in there]


@lru_cache(maxsize=2)
def _read_once(source: Source, batch: str, _: str) -> Collection:
    collection = source.read(batch)
    if not (collection.documents or collection.queries or collection.qrels):
        raise SourceError(
            f"batch {batch!r} of {source.name} has no documents, queries or judgements: check the source, or remove it"
        )
    return collection


def _read(project: Project, batch: str) -> Collection:
    """The three assets of a batch share one parse where they run in one process; a changed source is parsed again.

    What cannot be read goes into quarantine: its reason is kept, and the sensor leaves it alone until its content changes.
    """
    key = project.source.fingerprint(batch)
    try:
        collection = _read_once(project.source, batch, key)
    except SourceError as error:
        row = {
            "source_fingerprint": [key],
            "reason": [str(error)],
            "quarantined_at": [utc_now()],
        }
        project.warehouse.replace_slice("quarantine", pa.table(row), slice_key=batch, input_fingerprint=key)
        raise
    if project.warehouse.slice_info("quarantine", batch) is not None:
        project.warehouse.drop_slice("quarantine", batch)
    return collection


def _write(
    context: dg.AssetExecutionContext,
    project: Project,
    table: str,
    rows: pa.Table,
    verdicts: Mapping[str, Verdict],
    metadata: dict[str, Any] | None = None,
) -> dg.MaterializeResult:
    batch, version, checks = context.partition_key, content_version(rows), check_results(table, verdicts)
    # A batch may bring queries alone, or documents alone: an empty table is then what it says.
    project.warehouse.replace_slice(
        table,
        rows,
        slice_key=batch,
        input_fingerprint=accepted(input_fingerprint(project, table, batch), checks),
        data_version=version,
        allow_empty=True,
    )
    sample = {"sample": markdown_table(rows.slice(0, 5).to_pylist())}
    return materialised(table, version, rows.num_rows, {**sample, **(metadata or {})}, checks)
