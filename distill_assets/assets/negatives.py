"""Group `negatives`: documents that look right for a query and are not judged so."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import pyarrow as pa

from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.reads import Reads
from distill_assets.assets.reporting import markdown_table
from distill_assets.core.choosing import choose_queries, choose_train_queries
from distill_assets.core.dense_search import FoundRows
from distill_assets.core.mining import Candidate, MiningRules, mine_hard_negatives
from distill_assets.core.records import Query
from distill_assets.handles.retrieval import Corpus

# What decides which candidates are mined; a recipe of several rounds mines by the same rules.
MINING_SETTINGS = ("train_queries", "mining_depth", "negatives_per_query", "near_identical", "reads_unjudged_queries")


def hard_negatives(inputs: Inputs) -> Made:
    """Per train and dev query: BM25 and dense candidates over all documents, fused, positives and their twins removed."""
    settings, judged = inputs.settings, inputs.own_judgements
    queries = choose_train_queries(
        inputs.own_queries, judged, settings.train_queries, reads_unjudged=settings.reads_unjudged_queries
    )
    queries += choose_queries([q for q in inputs.own_queries if q.split == "dev"], judged, None)
    bm25 = inputs.retrieval.bm25_rows(queries, settings.mining_depth)
    dense = inputs.retrieval.dense_rows(inputs.student_path, queries, settings.mining_depth)
    table = _as_table(mine_all(queries, bm25, dense, inputs.documents, judged, mining_rules(settings)))
    metadata = {"num_queries": len(queries), "sample": markdown_table(table.slice(0, 8).to_pylist())}
    return Made(rows=table, metadata=metadata)


HARD_NEGATIVES = Asset(
    name="hard_negatives",
    # A new batch's documents make older batches' negatives old, not wrong: `run` mines them again, a retraining where it is told to.
    reads=Reads(
        inputs=("documents", "own_queries", "own_judgements", "student"),
        settings=MINING_SETTINGS,
        as_of_making=("documents",),
    ),
    body=hard_negatives,
    table="hard_negatives",
    group="negatives",
    pool="encoder",
    kinds=frozenset({"python", "duckdb"}),
    code_version="4",
    by="batch",
    is_empty_meant=True,  # a batch that brings documents alone has no query to mine for
)


def mining_rules(settings: Any) -> MiningRules:
    """The rules as the settings say."""
    return MiningRules(num_negatives=settings.negatives_per_query, near_identical_jaccard=settings.near_identical)


def mine_all(
    queries: Sequence[Query],
    bm25: FoundRows | None,
    dense: FoundRows,
    corpus: Corpus,
    judged: Mapping[str, Set[str] | Mapping[str, int]],
    rules: MiningRules,
) -> Iterator[tuple[str, Candidate]]:
    """(query_id, hard negative) of every query, in order; without `bm25`, dense search alone brings candidates."""
    texts, doc_ids = corpus.content_of, corpus.doc_ids
    lexical = [[] for _ in queries] if bm25 is None else bm25.rows.tolist()
    for query, bm25_found, dense_found in zip(queries, lexical, dense.rows.tolist(), strict=True):
        mined = mine_hard_negatives(
            query.query_id,
            [doc_ids[row] for row in bm25_found if row >= 0 and doc_ids[row] != query.query_id],
            [doc_ids[row] for row in dense_found if row >= 0 and doc_ids[row] != query.query_id],
            positives=set(judged.get(query.query_id, ())),
            texts=texts,
            rules=rules,
        )
        yield from ((query.query_id, candidate) for candidate in mined)


def _as_table(mined: Iterator[tuple[str, Candidate]]) -> pa.Table:
    """Columns, not one dict per row: 100,000 rows take 0.15 s instead of 0.72."""
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for query_id, candidate in mined:
        columns["query_id"].append(query_id)
        for name in _SCHEMA.names[1:]:
            columns[name].append(getattr(candidate, name))
    return pa.table(columns, schema=_SCHEMA)


_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("doc_id", pa.string()),
        ("rank", pa.int32()),
        ("source", pa.string()),
        ("bm25_rank", pa.int32()),
        ("dense_rank", pa.int32()),
        ("rrf_score", pa.float64()),
    ]
)
