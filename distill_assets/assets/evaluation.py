"""Group `evaluation`: per query and per system metrics, and all systems side by side."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from distill_assets.assets.checks import accepted, check_results, check_specs
from distill_assets.assets.comparison import score_pool, write_fitness, write_query_results
from distill_assets.assets.failures import retrying
from distill_assets.assets.inputs import CODE_VERSIONS, input_fingerprint
from distill_assets.assets.publishing import summarise, write_project_report
from distill_assets.assets.reading import (
    Qrels,
    checkpoint_path,
    choose_queries,
    read_corpus,
    read_qrels,
    read_queries,
    search_bm25,
    search_student,
)
from distill_assets.assets.reporting import OWNERS, content_version, markdown_table, materialised, table_schema
from distill_assets.charts import as_markdown_image, leaderboard_chart, quality_latency_chart
from distill_assets.core.leaderboard import LeaderboardRow, gap_closed, significance_columns
from distill_assets.core.metrics import METRIC_NAMES, QueryMetrics, evaluate_run
from distill_assets.core.quality import judge_recount
from distill_assets.core.recipes import BM25, TEACHER, UNTOUCHED_STUDENT
from distill_assets.core.records import Query
from distill_assets.core.recount import largest_differences
from distill_assets.core.retrieval import Run
from distill_assets.core.significance import bootstrap_interval
from distill_assets.resources import Project

_DEPTH = 100  # recall@100 is the deepest metric
_SEED = 2026
# What is timed: enough for a p95 of students; one rerank of 100 by the teacher takes as long as a hundred student queries.
_TIMED_QUERIES, _TIMED_TEACHER_QUERIES, _TIMED_DOCUMENTS = 40, 6, 256
_QUICK_QUERIES = 40  # with fewer test queries the run is a quick one, and timing must not be most of it


def make_eval_metrics(recipes: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset for a given set of recipes."""

    @dg.asset(
        deps=["student_checkpoint", *_collection_deps()],
        partitions_def=recipes,
        group_name="evaluation",
        kinds={"python", "duckdb"},
        owners=OWNERS,
        pool="encoder",
        code_version=CODE_VERSIONS["eval_metrics"],
        metadata={"dagster/column_schema": table_schema("eval_metrics")},
        check_specs=check_specs("eval_metrics", recipes),
    )
    @retrying
    def eval_metrics(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
        """nDCG@10, MRR@10, recall@100 and MAP per query on dev and test: BM25, the untouched student, this recipe's student."""
        name = context.partition_key
        student = checkpoint_path(project, name)
        searches: dict[str, Callable[[Sequence[Query]], Run]] = {
            BM25: lambda queries: search_bm25(project, queries, _DEPTH),
            UNTOUCHED_STUDENT: lambda queries: search_student(project, project.student_path, queries, _DEPTH),
            name: lambda queries: search_student(project, student, queries, _DEPTH),
        }
        rows: list[dict[str, Any]] = []
        differences: dict[str, float] = dict.fromkeys(METRIC_NAMES, 0.0)
        for split in ("dev", "test"):
            queries, qrels = judged_queries(project, split)
            for system, search in searches.items():
                run = search(queries)
                counted = evaluate_run(run, qrels)
                rows += _metric_rows(name, system, split, counted)
                for measure, value in largest_differences(run, qrels, counted).items():
                    differences[measure] = max(differences[measure], value)
        verdict = judge_recount(differences, len(rows) * len(METRIC_NAMES))
        checks = check_results("eval_metrics", {"metrics_agree": verdict})
        table = pa.Table.from_pylist(
            [{k: v for k, v in row.items() if k != "recipe"} for row in rows], schema=_METRIC_SCHEMA
        )
        version = content_version(table)
        project.warehouse.replace_slice(
            "eval_metrics",
            table,
            slice_key=name,
            input_fingerprint=accepted(input_fingerprint(project, "eval_metrics", name), checks),
            data_version=version,
        )
        means = _means(rows)
        metadata: dict[str, Any] = {
            f"{split}_ndcg_at_10": means[split, name]["ndcg_at_10"] for split in ("dev", "test")
        }
        metadata["means"] = markdown_table([{"split": s, "system": n, **v} for (s, n), v in means.items()])
        return materialised("eval_metrics", version, table.num_rows, metadata, checks)

    return eval_metrics


@dg.asset(
    deps=["eval_metrics", "teacher_checkpoint"],
    group_name="evaluation",
    kinds={"pytorch", "duckdb"},
    owners=OWNERS,
    pool="teacher",
    code_version=CODE_VERSIONS["leaderboard"],
    metadata={"dagster/column_schema": table_schema("leaderboard")},
)
@retrying
def leaderboard(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
    """All systems on the test split: means with 95 % intervals, gap closed, latency, encoding speed, size."""
    queries, qrels = judged_queries(project, "test")
    names = sorted(project.settings.all_recipes)
    key = input_fingerprint(project, "leaderboard")
    runs = first_stage_runs(project, queries, names)
    pool = score_pool(project, context, queries, runs)
    runs[TEACHER] = pool.reranked(_DEPTH)
    per_query = {system: evaluate_run(run, qrels) for system, run in runs.items()}
    write_query_results(project, pool, qrels, runs, per_query)
    num_scored = pool.num_scored + write_fitness(project, context, names)
    speeds = _measure_speeds(project, queries, runs, names)
    rows = _leaderboard_rows(per_query, speeds)
    table = pa.Table.from_pylist([_row_dict(row) for row in rows], schema=_LEADERBOARD_SCHEMA)
    # Speeds differ from run to run; what the data version says is the quality.
    version = content_version(table.select(["system", "split", *METRIC_NAMES]))
    project.warehouse.replace_slice("leaderboard", table, input_fingerprint=key, data_version=version)
    report = write_project_report(project)
    shown = [_row_dict(row) for row in rows]
    metadata: dict[str, Any] = {
        "leaderboard": markdown_table(shown),
        "ndcg_at_10": dg.MetadataValue.md(
            as_markdown_image(leaderboard_chart(shown), "nDCG@10 per system with 95 % intervals")
        ),
        "quality_and_latency": dg.MetadataValue.md(
            as_markdown_image(quality_latency_chart(shown), "nDCG@10 against query latency")
        ),
        "report": dg.MetadataValue.path(str(report)),
        "summary": dg.MetadataValue.md(summarise(project)),
        "num_teacher_forward_passes": num_scored,
        "pool_recall": pool.recall(qrels),
    }
    return materialised("leaderboard", version, len(rows), metadata)


def _collection_deps() -> list[dg.AssetDep]:
    return [dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping()) for name in ("corpus", "queries", "qrels")]


def judged_queries(project: Project, split: str) -> tuple[list[Query], Qrels]:
    """The queries of a split that are evaluated, and their judgements."""
    limit = project.settings.dev_queries if split == "dev" else project.settings.test_queries
    qrels = read_qrels(project)
    queries = choose_queries(read_queries(project, splits=(split,)), qrels, limit)
    return queries, {q.query_id: qrels[q.query_id] for q in queries}


def first_stage_runs(project: Project, queries: Sequence[Query], names: Sequence[str]) -> dict[str, Run]:
    """Top 100 of every system that searches all documents by itself."""
    runs = {
        BM25: search_bm25(project, queries, _DEPTH),
        UNTOUCHED_STUDENT: search_student(project, project.student_path, queries, _DEPTH),
    }
    return runs | {name: search_student(project, checkpoint_path(project, name), queries, _DEPTH) for name in names}


def _measure_speeds(
    project: Project, queries: Sequence[Query], runs: dict[str, Run], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Per system: query latency in ms (p50, p95), documents encoded per second, size in MB. One query at a time."""
    corpus = read_corpus(project)
    share = 1 if len(queries) >= _QUICK_QUERIES else 3
    timed, timed_by_teacher = queries[:_TIMED_QUERIES], queries[: _TIMED_TEACHER_QUERIES // share]
    sample = corpus.contents[:: max(1, len(corpus.contents) * share // _TIMED_DOCUMENTS)][: _TIMED_DOCUMENTS // share]
    speeds = {BM25: _latency(timed, _bm25_search(project))}
    for name, path in [(UNTOUCHED_STUDENT, project.student_path), *((n, checkpoint_path(project, n)) for n in names)]:
        speeds[name] = _student_speed(project, path, timed, sample)
    speeds[TEACHER] = _teacher_speed(project, timed_by_teacher, runs[TEACHER], corpus.content_of)
    return speeds


def _latency(queries: Sequence[Query], search: Callable[[Query], object], *, warm_up: bool = True) -> dict[str, float]:
    if not queries:
        return {}
    if warm_up:
        search(queries[0])  # the first call pays for set-up that later queries do not
    times = []
    for query in queries:
        started = time.perf_counter()
        search(query)
        times.append(1000 * (time.perf_counter() - started))
    return {"query_ms_p50": float(np.percentile(times, 50)), "query_ms_p95": float(np.percentile(times, 95))}


def _bm25_search(project: Project) -> Callable[[Query], object]:
    """A search with the index at hand, as a server would hold it."""
    corpus = read_corpus(project)
    index = project.lexical.load_or_build(corpus.version, corpus.doc_ids, corpus.contents)
    return lambda query: index.search([query.text], 10)


def _student_speed(project: Project, path: Path, queries: Sequence[Query], sample: Sequence[str]) -> dict[str, float]:
    from distill_assets.core.dense_search import search_dense
    from distill_assets.core.encoders import encode_texts

    corpus = read_corpus(project)
    documents, _ = project.embed(path, corpus.contents, "document")
    model = project.load_student(path, project.student_precision)
    speed = _latency(
        queries, lambda q: search_dense(encode_texts(model, [q.text], "query"), documents, corpus.doc_ids, k=10)
    )
    started = time.perf_counter()
    encode_texts(model, sample, "document", batch_size=project.settings.batch_size)
    speed["documents_per_s"] = len(sample) / (time.perf_counter() - started)
    return speed | {"model_mb": _weights_mb(path)}


def _teacher_speed(
    project: Project, queries: Sequence[Query], run: Run, content_of: dict[str, str]
) -> dict[str, float]:
    path = checkpoint_path(project, "teacher")
    scorer = project.teacher_scorer(path)
    pairs = {q.query_id: [(q.text, content_of[d]) for d, _ in run[q.query_id]] for q in queries}
    scorer([pair for found in pairs.values() for pair in found[:1]])  # set-up, which need not take a whole rerank
    speed = _latency(queries, lambda q: scorer(pairs[q.query_id]), warm_up=False)
    return speed | {"model_mb": _weights_mb(path)}


def _weights_mb(path: Path) -> float:
    weights = [f for pattern in ("*.safetensors", "*.bin") for f in path.rglob(pattern)]
    return sum(f.stat().st_size for f in weights) / 1e6


def _leaderboard_rows(
    per_query: dict[str, dict[str, QueryMetrics]], speeds: dict[str, dict[str, float]]
) -> list[LeaderboardRow]:
    mean = {s: float(np.mean([m.ndcg_at_10 for m in metrics.values()])) for s, metrics in per_query.items()}
    rows = []
    ndcg = {s: {q: m.ndcg_at_10 for q, m in metrics.items()} for s, metrics in per_query.items()}
    tests = significance_columns(ndcg, [s for s in ndcg if s not in (BM25, UNTOUCHED_STUDENT, TEACHER)], seed=_SEED)
    for system, metrics in per_query.items():
        values = [m.ndcg_at_10 for _, m in sorted(metrics.items())]
        low, high = bootstrap_interval(values, seed=_SEED)
        has_gap = system not in (BM25, UNTOUCHED_STUDENT, TEACHER)
        speed = speeds.get(system, {})
        rows.append(
            LeaderboardRow(
                system=system,
                ndcg_at_10=mean[system],
                ndcg_at_10_low=low,
                ndcg_at_10_high=high,
                mrr_at_10=float(np.mean([m.mrr_at_10 for m in metrics.values()])),
                recall_at_100=float(np.mean([m.recall_at_100 for m in metrics.values()])),
                map=float(np.mean([m.map for m in metrics.values()])),
                gap_closed=gap_closed(mean[system], mean[UNTOUCHED_STUDENT], mean[TEACHER]) if has_gap else None,
                query_ms_p50=speed.get("query_ms_p50"),
                query_ms_p95=speed.get("query_ms_p95"),
                documents_per_s=speed.get("documents_per_s"),
                model_mb=speed.get("model_mb"),
                num_queries=len(metrics),
                **tests.get(system, {}),
            )
        )
    return rows


def _row_dict(row: LeaderboardRow) -> dict[str, Any]:
    return {"split": "test", **{name: getattr(row, name) for name in _LEADERBOARD_SCHEMA.names if name != "split"}}


def _metric_rows(recipe: str, system: str, split: str, per_query: dict[str, QueryMetrics]) -> list[dict[str, Any]]:
    return [
        {
            "recipe": recipe,
            "system": system,
            "split": split,
            "query_id": query_id,
            "ndcg_at_10": m.ndcg_at_10,
            "mrr_at_10": m.mrr_at_10,
            "recall_at_100": m.recall_at_100,
            "map": m.map,
        }
        for query_id, m in sorted(per_query.items())
    ]


def _means(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["split"], row["system"]), []).append(row)
    return {k: {name: float(np.mean([r[name] for r in group])) for name in METRIC_NAMES} for k, group in groups.items()}


_METRIC_SCHEMA = pa.schema(
    [
        ("system", pa.string()),
        ("split", pa.string()),
        ("query_id", pa.string()),
        *((name, pa.float64()) for name in METRIC_NAMES),
    ]
)
_LEADERBOARD_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("system", pa.string()),
        *(
            (name, pa.float64())
            for name in (
                "ndcg_at_10",
                "ndcg_at_10_low",
                "ndcg_at_10_high",
                "mrr_at_10",
                "recall_at_100",
                "map",
                "gap_closed",
                "query_ms_p50",
                "query_ms_p95",
                "documents_per_s",
                "model_mb",
            )
        ),
        ("num_queries", pa.int32()),
        *(
            (f"{name}_vs_{baseline}", pa.float64())
            for name in ("p", "detectable")
            for baseline in ("hard_labels", "untouched")
        ),
    ]
)
