"""Group `teacher`: which document the teacher ranks first for dev and test queries, where people judged neither split."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.negatives import search_each
from distill_assets.assets.reads import Reads, teacher_judges
from distill_assets.assets.reporting import markdown_table
from distill_assets.records import Query
from distill_assets.retrieval.mining import pool_candidates
from distill_assets.retrieval.rankings import place_unscored_last, rank
from distill_assets.storage.tables import schema_of


def teacher_judgements(inputs: Inputs) -> Made:
    """The document that the teacher ranks first in the pool, for each dev and test query of the batch that the teacher judges.

    Empty where people judged: then no teacher is opened. A generated query counts where its own document comes first. Such
    judgements say how far students rank as the teacher does, and not whether it is right.
    """
    if "own_unjudged" not in inputs.versions:
        return _made([], {"judged_by": "people"})
    source_of = {query.query_id: source for query, source in inputs.own_unjudged}
    asked = [query for query, _ in inputs.own_unjudged]
    pool = {query_id: found for query_id, found in _pools(inputs, asked) if found}
    content_of, text_of = inputs.documents.content_of, {query.query_id: query.text for query in asked}
    pairs = [(text_of[query_id], content_of[doc_id]) for query_id, found in pool.items() for doc_id in found]
    logits, num_scored = inputs.logits_handle.score_texts(inputs.teacher, pairs)
    rows, start, parent_of = [], 0, inputs.parent_of
    for query_id, found in pool.items():
        own, start = logits[start : start + len(found)], start + len(found)
        if all(logit != logit for logit in own):  # imported scores have none of them
            continue
        first = rank(found, place_unscored_last(own), 1)[0][0]
        source = source_of[query_id]
        if not source or parent_of.get(first, first) == parent_of.get(source, source):
            rows.append({"query_id": query_id, "doc_id": first, "relevance": 1})
    told = {"judged_by": "teacher", "num_queries": len(asked), "num_forward_passes": num_scored}
    texts = [{"query": text_of[r["query_id"]], "document": content_of[r["doc_id"]]} for r in rows[:6]]
    return _made(rows, told | {"num_judged": len(rows), "sample": markdown_table(texts)})


_READ = ("own_unjudged", "documents", "student", "tokeniser", "teacher")
_SETTINGS = ("pool_depth", "teacher_max_length", "precision")
TEACHER_JUDGEMENTS = Asset(
    name="teacher_judgements",
    reads=Reads(
        inputs=_READ,
        settings=(*_SETTINGS, "teacher_prompt"),
        only_if={
            **dict.fromkeys((*_READ, *_SETTINGS), teacher_judges),
            "teacher_prompt": lambda m: teacher_judges(m) and m.project.settings.teacher_prompt is not None,
        },
    ),
    body=teacher_judgements,
    table="teacher_judgements",
    group="teacher",
    pool="teacher",
    kinds=frozenset({"pytorch", "duckdb"}),
    code_version="1",
    when_red="Materialise it again: what was scored is kept. Out of memory: lower `batch_tokens`.",
    by="batch",
    is_empty_meant=True,  # people judged, or the batch has no dev and no test query
)


def _pools(inputs: Inputs, queries: list[Query]) -> Iterator[tuple[str, list[str]]]:
    """Query id and what the teacher reranks: the documents that BM25 and the untouched student find."""
    depth = inputs.settings.pool_depth
    for query_id, bm25, dense in search_each(inputs, queries, depth + 1, 1):
        yield query_id, [found.doc_id for found in pool_candidates(bm25, dense, depth)]


def _made(rows: list[dict[str, Any]], metadata: dict[str, Any]) -> Made:
    return Made(rows=pa.Table.from_pylist(rows, schema=schema_of("teacher_judgements")), metadata=metadata)
