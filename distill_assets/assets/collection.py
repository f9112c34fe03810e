"""Group `collection`: what a batch brings, as three tables."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.reads import Reads
from distill_assets.assets.reporting import markdown_table
from distill_assets.errors import InputsMovedError, SourceError
from distill_assets.evaluation.splits import find_twins
from distill_assets.handles.project import Project
from distill_assets.quality.reading import Reading, read_figures
from distill_assets.quality.verdicts import (
    Verdict,
    judge_coverage,
    judge_duplicates,
    judge_empty_documents,
    judge_files,
    judge_identity,
    judge_leakage,
    judge_missing_positives,
    judge_reading,
    judge_splits,
)
from distill_assets.records import Collection, Document, Qrel, Query, hash_text, normalise
from distill_assets.retrieval.words import words
from distill_assets.sources.base import Source, read_settled
from distill_assets.storage.collection import CONTENT
from distill_assets.storage.warehouse import SliceWrite, utc_now


def corpus(inputs: Inputs) -> Made:
    """Documents of one batch: id, title, text and the hash of what encoders read."""
    collection = _read(inputs)
    documents, reading = collection.documents, read_batch(inputs.project, collection)
    for sentence in reading.sentences():
        inputs.log.info(sentence)
    rows = pa.table(
        {
            "doc_id": pa.array([d.doc_id for d in documents], pa.string()),
            "title": pa.array([d.title for d in documents], pa.string()),
            "text": pa.array([d.text for d in documents], pa.string()),
            "content_hash": pa.array([hash_text(d.content) for d in documents], pa.string()),
        }
    )
    return _made(
        rows,
        _judge_documents(inputs, collection) | {"documents_read_whole": judge_reading(reading)},
        {"what was read": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in reading.sentences()))},
    )


def read_batch(project: Project, collection: Collection) -> Reading:
    """Figures of what a batch brings, in tokens of the untouched student."""
    return read_figures(
        collection, project.models.count_tokens, project.models.student_tokens, words, project.settings.min_relevance
    )


def queries(inputs: Inputs) -> Made:
    """Queries of one batch, each with its split: train, dev or test."""
    found = _read(inputs).queries
    rows = pa.table(
        {
            "query_id": pa.array([q.query_id for q in found], pa.string()),
            "text": pa.array([q.text for q in found], pa.string()),
            "text_key": pa.array([hash_text(normalise(q.text)) for q in found], pa.string()),
            "split": pa.array([q.split for q in found], pa.string()),
        }
    )
    return _made(rows, _judge_queries(inputs, found))


def qrels(inputs: Inputs) -> Made:
    """Human judgements of one batch: which documents are relevant to which query."""
    collection = _read(inputs)
    rows = pa.table(
        {
            "query_id": pa.array([q.query_id for q in collection.qrels], pa.string()),
            "doc_id": pa.array([q.doc_id for q in collection.qrels], pa.string()),
            "relevance": pa.array([q.relevance for q in collection.qrels], pa.int32()),
        }
    )
    return _made(rows, _judge_qrels(inputs, collection), {"num_dropped_qrels": collection.num_dropped_qrels})


def _asset(
    body: Any,
    checked_against: tuple[str, ...],
    *,
    inputs: tuple[str, ...] = ("source",),
    settings: tuple[str, ...] = (),
) -> Asset:
    return Asset(
        name=body.__name__,
        reads=Reads(inputs=inputs, settings=settings, checked_against=checked_against),
        body=body,
        table=body.__name__,
        group="collection",
        pool="warehouse",
        kinds=frozenset({"python", "duckdb"}),
        code_version="1",
        by="batch",
        is_empty_meant=True,  # a batch may bring queries alone, or documents alone
    )


CORPUS = _asset(corpus, ("corpus",))
QUERIES = _asset(
    queries, ("queries",), inputs=("source", "tokeniser"), settings=("max_leaked_queries", "near_identical")
)
QRELS = _asset(qrels, ("corpus", "queries", "qrels"), settings=("min_relevance",))


def _made(rows: pa.Table, verdicts: Mapping[str, Verdict], metadata: Mapping[str, Any] | None = None) -> Made:
    sample = {"sample": markdown_table(rows.slice(0, 5).to_pylist())}
    return Made(rows=rows, verdicts=verdicts, metadata=sample | dict(metadata or {}))


def _judge_documents(inputs: Inputs, collection: Collection) -> dict[str, Verdict]:
    documents = collection.documents
    hash_of = {document.doc_id: hash_text(document.content) for document in documents}
    return {
        "files_read": judge_files(collection.unread, collection.num_blank),
        "documents_not_empty": judge_empty_documents({d.doc_id: d.content for d in documents}),
        "documents_distinct": judge_duplicates(hash_of, _same_content_elsewhere(inputs, hash_of)),
        "ids_keep_their_text": judge_identity(len(documents), _other_texts(inputs, documents)),
    }


def _other_texts(inputs: Inputs, documents: list[Document]) -> list[tuple[str, str, str, str]]:
    """(doc_id, text here, batch, text there) of ids of this batch that have another text in another batch, by id and batch."""
    content_of = {document.doc_id: document.content for document in documents}
    hashes = [hash_text(content) for content in content_of.values()]
    rows = inputs.project.places.warehouse.query(
        f"SELECT doc_id, batch, {CONTENT} AS content FROM corpus JOIN incoming USING (doc_id) "
        "WHERE corpus.content_hash <> incoming.content_hash AND batch IN (SELECT unnest(?::VARCHAR[])) ORDER BY ALL",
        [inputs.others("corpus")],
        tables={"incoming": pa.table({"doc_id": list(content_of), "content_hash": hashes})},
    )
    return [(r["doc_id"], content_of[r["doc_id"]], r["batch"], r["content"]) for r in rows.to_pylist()]


def _same_content_elsewhere(inputs: Inputs, hash_of: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(content hash, batch, doc_id) of documents of other batches that have the content of one of this batch."""
    rows = inputs.project.places.warehouse.query(
        "SELECT content_hash, batch, doc_id FROM corpus SEMI JOIN incoming USING (content_hash) "
        "WHERE batch IN (SELECT unnest(?::VARCHAR[])) ORDER BY ALL",
        [inputs.others("corpus")],
        tables={"incoming": pa.table({"content_hash": pa.array(sorted(set(hash_of.values())), pa.string())})},
    )
    return [(row["content_hash"], row["batch"], row["doc_id"]) for row in rows.to_pylist()]


def _judge_queries(inputs: Inputs, found: list[Query]) -> dict[str, Verdict]:
    """Queries that stand in two splits. A batch is refused for its own alone, so the order in which batches arrive refuses nothing.

    What repeats a query of another batch is left out of the earlier split by the line itself (`storage/collection.py`), and is
    counted here.
    """
    jaccard = inputs.settings.near_identical
    verdict = judge_leakage(found, found, find_twins(found, jaccard=jaccard), limit=inputs.settings.max_leaked_queries)
    columns = ["query_id", "text", "split"]
    rows = inputs.project.places.warehouse.read("queries", slice_keys=inputs.others("queries"), columns=columns)
    everything = {row["query_id"]: Query(**row) for row in rows.to_pylist()} | {
        query.query_id: query for query in found
    }
    own = {query.query_id for query in found}
    twins = find_twins(everything.values(), jaccard=jaccard)
    elsewhere = [q for q, twin in twins.items() if q in own and twin.query_id not in own]
    told = f"{verdict.found}; {len(elsewhere):,} of its queries stand in another split of another batch"
    figures = {**verdict.figures, "num_in_other_batches": len(elsewhere)}
    return {"leakage_within_limit": replace(verdict, found=told, figures=figures)}


def _judge_qrels(inputs: Inputs, collection: Collection) -> dict[str, Verdict]:
    """Judgements may come in another batch than their queries or documents, so all batches are asked."""
    warehouse = inputs.project.places.warehouse
    columns = ["query_id", "doc_id", "relevance"]
    others = warehouse.read("qrels", slice_keys=inputs.others("qrels"), columns=columns).to_pylist()
    judgements = [*collection.qrels, *(Qrel(**row) for row in others)]
    rows = warehouse.query(
        "SELECT DISTINCT doc_id FROM corpus WHERE batch IN (SELECT unnest(?::VARCHAR[]))", [inputs.others("corpus")]
    )
    known = {*rows.column("doc_id").to_pylist(), *(document.doc_id for document in collection.documents)}
    lowest = inputs.settings.min_relevance
    judged = {qrel.query_id for qrel in judgements if qrel.relevance >= lowest}
    positives = [(qrel.query_id, qrel.doc_id) for qrel in collection.qrels if qrel.relevance >= lowest]
    return {
        "splits_judged": judge_splits(_splits(inputs, collection), frozenset(judged)),
        "queries_judged": judge_coverage({q.query_id: q.split for q in collection.queries}, frozenset(judged)),
        "positives_in_corpus": judge_missing_positives(positives, frozenset(known)),
    }


def _splits(inputs: Inputs, collection: Collection) -> dict[str, str]:
    """Split of every query of all batches, this one's as it has just been read."""
    columns = ["query_id", "split"]
    rows = inputs.project.places.warehouse.read("queries", slice_keys=inputs.others("queries"), columns=columns)
    stored = {row["query_id"]: row["split"] for row in rows.to_pylist()}
    return stored | {query.query_id: query.split for query in collection.queries}


def _read(inputs: Inputs) -> Collection:
    """The three assets of a batch share one parse where they run in one process; a changed source is parsed again.

    What cannot be read goes into quarantine: its reason is kept, and the sensor leaves it alone until its content changes.
    """
    source, batch, warehouse = inputs.source, inputs.partition, inputs.project.places.warehouse
    key = source.fingerprint(batch)
    try:
        collection = _read_once(source, batch, key)
    except SourceError as error:
        row = {"source_fingerprint": [key], "reason": [str(error)], "quarantined_at": [utc_now()]}
        warehouse.write(SliceWrite(table="quarantine", rows=pa.table(row), slice_key=batch))
        raise
    if warehouse.slice_info("quarantine", batch) is not None:
        warehouse.drop_slice("quarantine", batch)
    return collection


@lru_cache(maxsize=2)
def _read_once(source: Source, batch: str, key: str) -> Collection:
    """What the batch brings at the content `key`. Raises `InputsMovedError` where it has other content once it is read."""
    collection, found = read_settled(source, batch)
    if found != key:
        raise InputsMovedError(f"batch {batch!r} of {source.name} changed while it was being read: read it again")
    if not (collection.documents or collection.queries or collection.qrels):
        raise SourceError(
            f"batch {batch!r} of {source.name} has no documents, queries or judgements: check the source, or remove it"
        )
    return collection
