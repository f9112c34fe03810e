"""Group `evaluation`: per query and per system metrics, and all systems side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from distill_assets.assets.comparison import fitness_rows, result_rows, score_pool
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.rankings import (
    DEPTH,
    RANKING_INPUTS,
    RANKING_SETTINGS,
    judged_queries,
    rankings_of,
    write_of,
)
from distill_assets.assets.reads import Reads
from distill_assets.assets.reporting import content_version, markdown_table
from distill_assets.assets.timing import measure_speeds
from distill_assets.errors import EvaluationError
from distill_assets.evaluation.comparison import comparison_columns
from distill_assets.evaluation.leaderboard import LeaderboardRow
from distill_assets.evaluation.metrics import METRIC_NAMES, QueryMetrics, evaluate_run
from distill_assets.evaluation.significance import MIN_QUERIES, bootstrap_interval
from distill_assets.models.catalog import fingerprint_model
from distill_assets.records import BM25, HYBRID, RESERVED_SYSTEMS, TEACHER, UNTOUCHED_STUDENT
from distill_assets.report.charts import as_markdown_image, leaderboard_chart, quality_latency_chart
from distill_assets.report.publishing import summarise, write_project_report
from distill_assets.retrieval.rankings import Run, fuse_runs
from distill_assets.storage.collection import EVALUATION
from distill_assets.storage.warehouse import SliceWrite

_SEED = 2026


def eval_metrics(inputs: Inputs) -> Made:
    """nDCG@10, MRR@10, recall@100 and MAP per query on dev and test: BM25, the untouched student, this recipe's student."""
    name = inputs.partition
    systems = {BM25: None, UNTOUCHED_STUDENT: inputs.student_path, name: inputs.checkpoint_path(name)}
    rankings = {system: rankings_of(inputs, system, path) for system, path in systems.items()}
    rows: list[dict[str, Any]] = []
    for split in EVALUATION:
        _, qrels = judged_queries(inputs, split)
        for system in systems:
            rows += _metric_rows(system, split, evaluate_run(rankings[system][split], qrels, inputs.min_relevance))
    if not rows:
        raise EvaluationError(
            "no dev or test query has a judgement of a document that exists: there is nothing to measure; "
            "add qrels/dev.tsv and qrels/test.tsv"
        )
    means = _means(rows)
    metadata: dict[str, Any] = {
        f"{split}_ndcg_at_10": means[split, name]["ndcg_at_10"] for split in EVALUATION if (split, name) in means
    }
    metadata["means"] = markdown_table([{"split": s, "system": n, **v} for (s, n), v in means.items()])
    return Made(rows=pa.Table.from_pylist(rows, schema=_METRIC_SCHEMA), metadata=metadata)


EVAL_METRICS = Asset(
    name="eval_metrics",
    reads=Reads(inputs=("checkpoint", "student", "tokeniser", *RANKING_INPUTS), settings=RANKING_SETTINGS),
    body=eval_metrics,
    table="eval_metrics",
    group="evaluation",
    pool="encoder",
    kinds=frozenset({"python", "duckdb"}),
    code_version="3",
    by="recipe",
)


def leaderboard(inputs: Inputs) -> Made:
    """All systems on test queries: means with 95 % intervals, gap closed, latency, encoding speed, size. On dev where there are none.

    `hybrid` fuses BM25 and the untouched student by reciprocal rank: what search would be without any training.
    """
    split = "test" if judged_queries(inputs, "test")[0] else "dev"
    queries, qrels = judged_queries(inputs, split)
    if not queries:
        raise EvaluationError(
            "no test or dev query has a judgement of a document that exists: there is nothing to compare; add qrels/test.tsv"
        )
    students = {UNTOUCHED_STUDENT: inputs.student_path} | {n: inputs.checkpoint_path(n) for n in inputs.recipes}
    runs: dict[str, Run] = {BM25: rankings_of(inputs, BM25, None)[split]}
    runs |= {name: rankings_of(inputs, name, path)[split] for name, path in students.items()}
    runs[HYBRID] = fuse_runs(runs[BM25], runs[UNTOUCHED_STUDENT], DEPTH)
    pool = score_pool(inputs, queries, runs[BM25], runs[UNTOUCHED_STUDENT])
    runs[TEACHER] = pool.reranked(DEPTH)
    per_query = {system: evaluate_run(run, qrels, inputs.min_relevance) for system, run in runs.items()}
    fitness, num_scored = fitness_rows(inputs)
    speeds = measure_speeds(inputs, queries, runs[TEACHER], students)
    rows = _leaderboard_rows(
        split, per_query, speeds, {name: fingerprint_model(path) for name, path in students.items()}
    )
    table = pa.Table.from_pylist([_row_dict(row) for row in rows], schema=_LEADERBOARD_SCHEMA)
    made_from = {name: inputs.versions[name] for name in ("teacher", "metrics", "settings.pool_depth")}
    return Made(
        rows=table,
        # Speeds differ from run to run; what the data version says is the quality.
        data_version=content_version(table.select(["system", "split", *METRIC_NAMES])),
        beside=[
            *(write_of(system, {split: runs[system]}, made_from) for system in (TEACHER, HYBRID)),
            SliceWrite(
                table="query_results", rows=result_rows(inputs, split, pool, students, per_query), is_empty_meant=True
            ),
            SliceWrite(table="teacher_fitness", rows=fitness, is_empty_meant=True),
        ],
        metadata={
            "leaderboard": markdown_table([_row_dict(row) for row in rows]),
            "ndcg_at_10": _picture(leaderboard_chart(rows), "nDCG@10 per system with 95 % intervals"),
            "quality_and_latency": _picture(quality_latency_chart(rows), "nDCG@10 against query latency"),
            "num_teacher_forward_passes": pool.num_scored + num_scored,
            "pool_recall": pool.recall(qrels),
        },
        then=lambda: {
            "report": dg.MetadataValue.path(str(write_project_report(inputs.project))),
            "summary": dg.MetadataValue.md(summarise(inputs.project)),
        },
    )


LEADERBOARD = Asset(
    name="leaderboard",
    reads=Reads(
        inputs=(
            "metrics",
            "checkpoints",
            "student",
            "teacher",
            "tokeniser",
            *RANKING_INPUTS,
            "training_queries",
            "training_judgements",
            "candidates",
        ),
        settings=(*RANKING_SETTINGS, "pool_depth", "step_queries", "teacher_max_length", "precision"),
    ),
    body=leaderboard,
    table="leaderboard",
    group="evaluation",
    pool="teacher",
    kinds=frozenset({"pytorch", "duckdb"}),
    code_version="5",
)


def _picture(image: bytes, alt: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(as_markdown_image(image, alt))


def _leaderboard_rows(
    split: str,
    per_query: Mapping[str, Mapping[str, QueryMetrics]],
    speeds: Mapping[str, Mapping[str, float]],
    models: Mapping[str, str],
) -> list[LeaderboardRow]:
    ndcg = {s: {q: m.ndcg_at_10 for q, m in metrics.items()} for s, metrics in per_query.items()}
    recipes = [system for system in ndcg if system not in RESERVED_SYSTEMS]
    is_enough = len(ndcg[UNTOUCHED_STUDENT]) >= MIN_QUERIES
    compared = comparison_columns(ndcg, recipes, seed=_SEED) if is_enough else {}
    rows = []
    for system, metrics in per_query.items():
        low, high = bootstrap_interval([m.ndcg_at_10 for _, m in sorted(metrics.items())], seed=_SEED)
        columns: dict[str, Any] = {**speeds.get(system, {}), **compared.get(system, {})}
        rows.append(
            LeaderboardRow(
                system=system,
                split=split,
                model_fingerprint=models.get(system),
                **{name: float(np.mean([getattr(m, name) for m in metrics.values()])) for name in METRIC_NAMES},
                ndcg_at_10_low=low,
                ndcg_at_10_high=high,
                num_queries=len(metrics),
                **columns,
            )
        )
    return rows


def _row_dict(row: LeaderboardRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _LEADERBOARD_SCHEMA.names}


def _metric_rows(system: str, split: str, per_query: Mapping[str, QueryMetrics]) -> list[dict[str, Any]]:
    return [
        {
            "system": system,
            "split": split,
            "query_id": query_id,
            **{name: getattr(found, name) for name in METRIC_NAMES},
        }
        for query_id, found in sorted(per_query.items())
    ]


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
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
        ("model_fingerprint", pa.string()),
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
                "gap_closed_low",
                "gap_closed_high",
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
