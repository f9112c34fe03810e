"""Group `collection`: what a batch brings, as three tables."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.checks import Check
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.reads import Moment, Reads
from distill_assets.assets.reporting import content_version, markdown_table
from distill_assets.documents import StoredDocuments, stored
from distill_assets.errors import InputsMovedError, SourceError
from distill_assets.evaluation.splits import find_twins
from distill_assets.handles.project import Project
from distill_assets.quality.reading import MAX_DOCUMENTS, Reading, read_figures
from distill_assets.quality.verdicts import (
    MAX_SAMPLES,
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
from distill_assets.records import Collection, Document, Qrel, Query, fingerprint, hash_text, normalise
from distill_assets.retrieval.passages import cut_documents
from distill_assets.sources.base import Source, read_settled
from distill_assets.storage.incoming import find_changed, find_copies, find_empty, find_known
from distill_assets.storage.tables import schema_of
from distill_assets.storage.warehouse import SliceWrite, utc_now

_SHOWN = 5  # rows of the table that the UI shows


def corpus(inputs: Inputs) -> Made:
    """Documents of one batch: id, title, text and the hash of what encoders read."""
    collection, passages = cut_documents_of(inputs.project, _read(inputs))
    documents, reading = stored(collection.documents), read_batch(inputs.project, collection, passages)
    for sentence in reading.sentences():
        inputs.log.info(sentence)
    warehouse, others, size = inputs.project.places.warehouse, inputs.others("corpus"), len(documents)
    verdicts = {
        "files_read": judge_files(collection.unread, collection.num_blank),
        "documents_not_empty": judge_empty_documents(size, *find_empty(warehouse, documents, MAX_SAMPLES)),
        "documents_read_whole": judge_reading(reading),
        "documents_distinct": judge_duplicates(size, *find_copies(warehouse, documents, others, MAX_SAMPLES)),
        "ids_keep_their_text": judge_identity(
            size, *find_changed(warehouse, documents, passages, others, MAX_DOCUMENTS)
        ),
    }
    told = dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in reading.sentences()))
    return Made(
        rows=documents,
        verdicts=verdicts,
        metadata=_sampled(documents.rows(_SHOWN)) | {"what was read": told},
        beside=[_beside(inputs, "passages", passages)],
        data_version=corpus_version(documents, passages),
    )


def corpus_version(documents: StoredDocuments, passages: pa.Table) -> str:
    """Data version of a batch's documents: the same rows are other documents where other ones of them are passages."""
    version = content_version(documents)
    return fingerprint(version, content_version(passages)) if passages.num_rows else version


def cut_documents_of(project: Project, collection: Collection) -> tuple[Collection, pa.Table]:
    """A batch whose long documents are passages, where `passage_tokens` says so, and the rows of `passages`.

    Raises:
        SourceError: a passage would have the id of a document.
    """
    max_tokens, parents = project.passage_tokens, dict[str, str]()
    if max_tokens is None:
        return collection, schema_of("passages").empty_table()

    def cut() -> Iterator[Document]:
        cutting = project.models.cutting(max_tokens, project.settings.passage_overlap)
        for document, parent_id in cut_documents(collection.documents, cutting):
            if parent_id is not None:
                parents[document.doc_id] = parent_id
            yield document

    documents = StoredDocuments(cut())
    num_clashes, first = documents.repeated_ids()
    if num_clashes:
        raise SourceError(
            f"{num_clashes} documents have the id of a passage of another one, first {first!r}: rename them, "
            "or unset passage_tokens"
        )
    rows = {"doc_id": list(parents), "parent_id": list(parents.values())}
    return replace(collection, documents=documents), pa.table(rows, schema=schema_of("passages"))


def read_batch(project: Project, collection: Collection, passages: pa.Table) -> Reading:
    """Figures of what a batch brings, in tokens of the untouched student; `passages` are those of `cut_documents_of`."""
    models = project.models
    reading = read_figures(collection, models.count_tokens, models.student_tokens, project.settings.min_relevance)
    return replace(reading, num_passages=passages.num_rows, num_cut=len(passages["parent_id"].unique()))


def queries(inputs: Inputs) -> Made:
    """Queries of one batch, each with its split: train, dev or test."""
    collection = _read(inputs)
    found = collection.queries
    labels = pa.Table.from_pylist(
        [{"query_id": query_id, "label": label} for query_id, label in sorted(collection.labels.items())],
        schema=schema_of("query_labels"),
    )
    columns = {
        "query_id": [q.query_id for q in found],
        "text": [q.text for q in found],
        "text_key": [hash_text(normalise(q.text)) for q in found],
        "split": [q.split for q in found],
    }
    made = _made("queries", columns, {"leakage_within_limit": _judge_leakage(inputs, found)})
    return replace(made, beside=[_beside(inputs, "query_labels", labels)])


def qrels(inputs: Inputs) -> Made:
    """Human judgements of one batch: which documents are relevant to which query."""
    collection = _read(inputs)
    columns = {
        "query_id": [q.query_id for q in collection.qrels],
        "doc_id": [q.doc_id for q in collection.qrels],
        "relevance": [q.relevance for q in collection.qrels],
    }
    dropped = {"num_dropped_qrels": collection.num_dropped_qrels}
    return _made("qrels", columns, _judge_qrels(inputs, collection), dropped)


def _asset(body: Any, reads: Reads, *checks: Check) -> Asset:
    return Asset(
        name=body.__name__,
        reads=reads,
        body=body,
        table=body.__name__,
        group="collection",
        pool="warehouse",
        kinds=frozenset({"python", "duckdb"}),
        code_version="1",
        checks=checks,
        by="batch",
        is_empty_meant=True,  # a batch may bring queries alone, or documents alone
        when_red="The error names the file and line, or the check with its samples: mend the batch at its source. It is read again "
        "when its content changes; the other batches go on without it.",
    )


def _are_documents_cut(moment: Moment) -> bool:
    return moment.project.passage_tokens is not None


CORPUS = _asset(
    corpus,
    Reads(
        inputs=("source", "student_tokens", "passage_tokens"),
        settings=("passage_overlap",),
        checked_against=("corpus",),
        only_if=dict.fromkeys(("student_tokens", "passage_tokens", "passage_overlap"), _are_documents_cut),
    ),
    Check(
        "files_read",
        "Every file of the batch that looks like data was read, and no text was blank.",
        "Do what the sample says of each file, or take it out of the folder. Blank texts are dropped with their judgements.",
    ),
    Check(
        "documents_not_empty",
        "Documents hold letters or digits.",
        "Remove the documents of the sample from the source, or give them text, and read the batch again.",
        is_blocking=True,
    ),
    Check(
        "documents_read_whole",
        "The student reads nearly all of the documents' text: at most 10 % is not read.",
        "Set passage_tokens: longer documents are then cut into passages. Or raise student_max_length where the model can read "
        "more, or choose a student that reads more.",
    ),
    Check(
        "documents_distinct",
        "Few documents say exactly what another one says, in this batch or another.",
        "Remove the copies: a copy of a relevant document that nobody judged counts as a mistake of every system.",
    ),
    Check(
        "ids_keep_their_text",
        "The ids of the batch stand for the same documents in the other batches.",
        "The document of the batch that is last by name replaces the other one, whose judgements do not count any more. "
        "Where two sources number alike, set local_ids = true; where the text was written anew, judge it anew.",
    ),
)
QUERIES = _asset(
    queries,
    Reads(
        inputs=("source", "tokeniser"),
        settings=("max_leaked_queries", "near_identical"),
        checked_against=("queries",),
    ),
    Check(
        "leakage_within_limit",
        "Few queries of the batch stand in two splits, equal or nearly so: at most `max_leaked_queries`.",
        "Split by the query's text, or remove the twins; if they are meant, raise max_leaked_queries. "
        "Twins are left out of the earlier split in any case.",
        is_blocking=True,
    ),
)
QRELS = _asset(
    qrels,
    Reads(inputs=("source",), settings=("min_relevance",), checked_against=("corpus", "queries", "qrels")),
    Check(
        "queries_judged",
        "At least half of each split's queries have a positive judgement.",
        "Bring the missing judgements, or compare the ids of queries and qrels; queries without one are not used.",
    ),
    Check(
        "splits_judged",
        "Train, dev and test each have at least 20 judged queries, over all batches read so far.",
        "Bring more judged queries, or judgements as one file, which is split 80/10/10. Without train queries set "
        "train_share_of_dev. Without any, `distill-assets judge` makes an honest test set.",
    ),
    Check(
        "positives_in_corpus",
        "Every positive judgement names a document that some batch has brought.",
        "Bring the documents, then read this batch again; judgements without a document count nowhere.",
    ),
)


def _made(
    table: str, columns: Mapping[str, Any], verdicts: Mapping[str, Verdict], metadata: Mapping[str, Any] | None = None
) -> Made:
    rows = pa.table(columns, schema=schema_of(table))
    shown = _sampled(rows.slice(0, _SHOWN).to_pylist())
    return Made(rows=rows, verdicts=verdicts, metadata=shown | dict(metadata or {}))


def _sampled(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"sample": markdown_table(rows)}


def _judge_leakage(inputs: Inputs, found: list[Query]) -> Verdict:
    """Queries that stand in two splits. A batch is rejected for its own alone, so the order in which batches arrive rejects nothing.

    What repeats a query of another batch is left out of the earlier split by the line itself (`storage/collection.py`), and is
    counted here.
    """
    jaccard = inputs.settings.near_identical
    verdict = judge_leakage(found, find_twins(found, jaccard=jaccard), limit=inputs.settings.max_leaked_queries)
    everything = {query.query_id: query for query in _other_queries(inputs)} | {q.query_id: q for q in found}
    own = {query.query_id for query in found}
    twins = find_twins(everything.values(), jaccard=jaccard)
    elsewhere = [q for q, twin in twins.items() if q in own and twin.query_id not in own]
    told = f"{verdict.found}; {len(elsewhere):,} of its queries stand in another split of another batch"
    return replace(verdict, found=told, figures={**verdict.figures, "num_in_other_batches": len(elsewhere)})


def _judge_qrels(inputs: Inputs, collection: Collection) -> dict[str, Verdict]:
    """Judgements may come in another batch than their queries or documents, so all batches are asked."""
    warehouse, lowest = inputs.project.places.warehouse, inputs.settings.min_relevance
    columns = ["query_id", "doc_id", "relevance"]
    others = warehouse.read("qrels", slice_keys=inputs.others("qrels"), columns=columns).to_pylist()
    judged = {q.query_id for q in [*collection.qrels, *(Qrel(**row) for row in others)] if q.relevance >= lowest}
    positives = [(qrel.query_id, qrel.doc_id) for qrel in collection.qrels if qrel.relevance >= lowest]
    named = sorted({doc_id for _, doc_id in positives})
    known = find_known(warehouse, stored(collection.documents), inputs.others("corpus"), named)
    own_splits: dict[str, str] = {query.query_id: query.split for query in collection.queries}
    all_splits: dict[str, str] = {query.query_id: query.split for query in _other_queries(inputs)} | own_splits
    return {
        "queries_judged": judge_coverage(own_splits, frozenset(judged)),
        "splits_judged": judge_splits(
            all_splits, frozenset(judged), may_teacher_judge=inputs.project.has_asset("teacher_judgements")
        ),
        "positives_in_corpus": judge_missing_positives(positives, known),
    }


def _beside(inputs: Inputs, table: str, rows: pa.Table) -> SliceWrite:
    """The batch's slice of a table beside the asset's own; most batches bring nothing for it."""
    version = content_version(rows)
    return SliceWrite(table=table, rows=rows, slice_key=inputs.partition, data_version=version, is_empty_meant=True)


def _other_queries(inputs: Inputs) -> list[Query]:
    """Queries of the other batches. An id that several bring is the last one's."""
    columns = ["query_id", "text", "split"]
    rows = inputs.project.places.warehouse.read("queries", slice_keys=inputs.others("queries"), columns=columns)
    return [Query(**row) for row in rows.to_pylist()]


def _read(inputs: Inputs) -> Collection:
    """The three assets of a batch share one parse where they run in one process; a changed source is parsed again.

    What cannot be read is quarantined: its reason is kept, and the sensor leaves it alone until its content changes.
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
