"""Group `generation`: queries made from a batch's documents, for a collection that brings none, or not enough."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from distill_assets.assets.checks import Check
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.reads import Moment, Reads
from distill_assets.assets.reporting import markdown_table
from distill_assets.generation import GeneratedQuery, deduplicate, generate
from distill_assets.quality.verdicts import judge_generated
from distill_assets.records import Document, Query, assign_split, fingerprint, hash_text, normalise
from distill_assets.retrieval.rankings import Run, fuse_runs
from distill_assets.storage.tables import schema_of

_SEED = 13
_FOUND_WITHIN = (
    20  # places of the fused ranking (round-trip filter, Alberti et al. 2019, arXiv 1906.05416; Promptagator: 1)
)
_DEPTH = 50  # of each of the two rankings that are fused
_MADE_PER_KEPT = (
    2  # documents are asked for twice as many queries as are kept: about half of them do not find their source
)
_SAMPLES = 4  # of each kind


def generated_queries(inputs: Inputs) -> Made:
    """Queries made from the batch's documents, kept where BM25 and the untouched student find their document among the top 20.

    Empty where the collection brings queries and no generator is named. The teacher judges them later, before they count.
    """
    if "own_documents" not in inputs.versions:
        return _made([], {}, [], "nothing is made: the collection brings queries, and no generator is named")
    settings, dropped = inputs.settings, Counter[str]()
    documents = _chosen(inputs.own_documents, settings.queries_per_document, settings.generated_queries)
    generator = inputs.project.open_generator(inputs.own_documents)
    made = deduplicate(generate(documents, generator, settings.queries_per_document, _SEED, dropped))
    ranks = _ranks(inputs, made)
    order = {document.doc_id: position for position, document in enumerate(documents)}
    found = sorted((query for query in made if query in ranks), key=lambda query: order[query.doc_id])
    kept = found[: settings.generated_queries]
    inputs.log.info(
        f"{len(made):,} queries of {len(documents):,} documents, {len(kept):,} kept; dropped: {dict(dropped)}"
    )
    rows = [_row(query, ranks[query]) for query in kept]
    counts = {"made": Counter(query.kind for query in made), "kept": Counter(query.kind for query in kept)}
    metadata = {f"num_{what}_{kind}": number for what, of in counts.items() for kind, number in sorted(of.items())}
    return _made(rows, metadata | {"dropped": dict(dropped)}, documents)


def _always(moment: Moment) -> bool:
    return moment.project.collection.labelling.always


def _generates(moment: Moment) -> bool:
    return moment.state.generates


_MADE_FROM = ("own_documents", "documents", "sole_student", "tokeniser", "generator")
_SIZES = ("queries_per_document", "generated_queries")
GENERATED_QUERIES = Asset(
    name="generated_queries",
    # As negatives: documents of another batch make them aged.
    reads=Reads(
        inputs=("has_queries", *_MADE_FROM),
        settings=_SIZES,
        as_of_making=("documents",),
        only_if={"has_queries": lambda m: not _always(m), **dict.fromkeys((*_MADE_FROM, *_SIZES), _generates)},
    ),
    body=generated_queries,
    table="generated_queries",
    group="generation",
    pool="encoder",
    kinds=frozenset({"python", "duckdb"}),
    code_version="1",
    when_red="Check `query_generator`: rules, a sequence-to-sequence model, or a server that answers. Materialise it again.",
    checks=(
        Check(
            "queries_generated",
            "At least 20 % of the documents have a query that finds them, and at least 60 queries stand.",
            "Bring queries that people typed, if only a few hundred. Else read the sample: documents of a line or two, or of one form, "
            "give no query that tells them apart; cut or join them, or set `query_generator` to a model.",
        ),
    ),
    by="batch",
    is_empty_meant=True,  # nothing is made where the collection brings queries
)


def _chosen(documents: Sequence[Document], per_document: int, limit: int) -> list[Document]:
    """As many documents as give the wanted number of queries, by hash: a larger limit only adds."""
    by_hash = sorted(documents, key=lambda document: hash_text(document.doc_id))
    return by_hash[: math.ceil(_MADE_PER_KEPT * limit / per_document)]


def _ranks(inputs: Inputs, made: Sequence[GeneratedQuery]) -> dict[GeneratedQuery, int]:
    """The place of its document, from 1, of each query that finds it."""
    asked = {_query_id(query): query for query in made}
    queries = [Query(query_id, query.text, "train") for query_id, query in asked.items()]
    found: Run = inputs.retrieval.bm25(queries, _DEPTH)
    if inputs.versions["sole_student"]:
        dense = inputs.retrieval.dense(inputs.project.models.student_path, queries, _DEPTH)
        found = fuse_runs(found, dense, _FOUND_WITHIN) if queries else {}
    ranks = {}
    for query_id, ranking in found.items():
        doc_ids = [doc_id for doc_id, _ in ranking[:_FOUND_WITHIN]]
        query = asked[query_id]
        if query.doc_id in doc_ids:
            ranks[query] = 1 + doc_ids.index(query.doc_id)
    return ranks


def _query_id(query: GeneratedQuery) -> str:
    return f"generated-{fingerprint(query.text, query.doc_id)}"


def _row(query: GeneratedQuery, rank: int) -> dict[str, Any]:
    key = normalise(query.text)
    return {
        "query_id": _query_id(query),
        "text": query.text,
        "text_key": hash_text(key),
        "split": assign_split(key),
        "doc_id": query.doc_id,
        "kind": query.kind,
        "rank": rank,
    }


def _made(
    rows: list[dict[str, Any]], metadata: dict[str, Any], documents: Sequence[Document], nothing: str = ""
) -> Made:
    num_answered = len({row["doc_id"] for row in rows})
    verdict = judge_generated(len(documents), num_answered, len(rows), nothing)
    shown = {
        kind: [row for row in rows if row["kind"] == kind][:_SAMPLES] for kind in dict.fromkeys(r["kind"] for r in rows)
    }
    sample = [{name: row[name] for name in ("kind", "text", "doc_id", "rank")} for of in shown.values() for row in of]
    return Made(
        rows=pa.Table.from_pylist(rows, schema=schema_of("generated_queries")),
        verdicts={"queries_generated": verdict},
        metadata=metadata | {"sample": markdown_table(sample)},
    )
