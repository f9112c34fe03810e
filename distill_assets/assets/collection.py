"""Group `collection`: what a batch brings, as three tables."""

from functools import lru_cache
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.failures import retrying
from distill_assets.assets.inputs import CODE_VERSIONS, input_fingerprint
from distill_assets.assets.reporting import OWNERS, content_version, markdown_table, materialised, table_schema
from distill_assets.core.errors import SourceError
from distill_assets.core.records import Collection, hash_text
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


@dg.asset(code_version=CODE_VERSIONS["corpus"], metadata={"dagster/column_schema": table_schema("corpus")}, **_COMMON)
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
    return _write(context, project, "corpus", rows)


@dg.asset(code_version=CODE_VERSIONS["queries"], metadata={"dagster/column_schema": table_schema("queries")}, **_COMMON)
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
    return _write(context, project, "queries", rows)


@dg.asset(code_version=CODE_VERSIONS["qrels"], metadata={"dagster/column_schema": table_schema("qrels")}, **_COMMON)
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
    return _write(context, project, "qrels", rows, {"num_dropped_qrels": collection.num_dropped_qrels})


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
    metadata: dict[str, Any] | None = None,
) -> dg.MaterializeResult:
    batch, version = context.partition_key, content_version(rows)
    # A batch may bring queries alone, or documents alone: an empty table is then what it says.
    project.warehouse.replace_slice(
        table,
        rows,
        slice_key=batch,
        input_fingerprint=input_fingerprint(project, table, batch),
        data_version=version,
        allow_empty=True,
    )
    return materialised(
        version, rows.num_rows, {"sample": markdown_table(rows.slice(0, 5).to_pylist()), **(metadata or {})}
    )
