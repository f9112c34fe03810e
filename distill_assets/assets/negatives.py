"""Group `negatives`: documents that look right for a query and are not judged so."""

from dataclasses import asdict

import dagster as dg
import pyarrow as pa

from distill_assets.assets.failures import retrying
from distill_assets.assets.inputs import CODE_VERSIONS, input_fingerprint
from distill_assets.assets.reading import (
    choose_queries,
    choose_train_queries,
    read_corpus,
    read_qrels,
    read_queries,
    search_bm25,
    search_student,
)
from distill_assets.assets.reporting import OWNERS, content_version, markdown_table, materialised, table_schema
from distill_assets.core.mining import MiningRules, mine_hard_negatives
from distill_assets.partitions import batches
from distill_assets.resources import Project


@dg.asset(
    deps=[dg.AssetDep("corpus", partition_mapping=dg.AllPartitionMapping()), "queries", "qrels"],
    partitions_def=batches,
    group_name="negatives",
    kinds={"python", "duckdb"},
    owners=OWNERS,
    pool="encoder",
    code_version=CODE_VERSIONS["hard_negatives"],
    metadata={"dagster/column_schema": table_schema("hard_negatives")},
)
@retrying
def hard_negatives(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
    """Per train and dev query: BM25 and dense candidates over all documents, fused, positives and their twins removed."""
    batch, settings = context.partition_key, project.settings
    key = input_fingerprint(project, "hard_negatives", batch)
    corpus, qrels = read_corpus(project), read_qrels(project)
    queries = choose_train_queries(project, read_queries(project, [batch], ("train",)), qrels)
    queries += choose_queries(read_queries(project, [batch], ("dev",)), qrels, None)
    bm25 = search_bm25(project, queries, settings.mining_depth)
    dense = search_student(project, project.student_path, queries, settings.mining_depth)
    rules = MiningRules(num_negatives=settings.negatives_per_query, near_identical_jaccard=settings.near_identical)
    content_of = corpus.content_of
    rows = []
    for query in queries:
        found = mine_hard_negatives(
            query.query_id,
            [doc_id for doc_id, _ in bm25[query.query_id]],
            [doc_id for doc_id, _ in dense[query.query_id]],
            positives=set(qrels.get(query.query_id, ())),
            texts=content_of,
            rules=rules,
        )
        rows += [{"query_id": query.query_id, **asdict(candidate)} for candidate in found]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    version = content_version(table)
    project.warehouse.replace_slice(
        "hard_negatives",
        table,
        slice_key=batch,
        input_fingerprint=key,
        data_version=version,
        allow_empty=True,  # a batch that brings documents alone has no query to mine for
    )
    return materialised(version, table.num_rows, {"num_queries": len(queries), "sample": markdown_table(rows[:8])})


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
