"""Group `evaluation`: per query and per system metrics, and all systems side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.comparison import DEV_INPUTS, result_rows, score_pool, teacher_rows
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.rankings import (
    DEPTH,
    GROUP_INPUTS,
    GROUP_SETTINGS,
    RANKING_INPUTS,
    RANKING_SETTINGS,
    drop_former_rankings,
    fused_rankings,
    grouped,
    judged_queries,
    rankings_of,
    write_of,
)
from distill_assets.assets.reads import Reads, if_set, teacher_judges
from distill_assets.assets.reporting import content_version, markdown_table
from distill_assets.assets.timing import measure_speeds
from distill_assets.errors import EvaluationError
from distill_assets.evaluation.leaderboard import compare_systems
from distill_assets.evaluation.metrics import METRIC_NAMES, QueryMetrics, evaluate_run, mean_of
from distill_assets.models.catalog import fingerprint_model
from distill_assets.records import BM25, TEACHER, UNTOUCHED_STUDENT, Query, hybrid_of
from distill_assets.report.charts import as_markdown_image, leaderboard_chart, quality_latency_chart
from distill_assets.report.publishing import summarise, write_project_report
from distill_assets.retrieval.rankings import Run
from distill_assets.storage.collection import EVALUATION, Judge
from distill_assets.storage.tables import schema_of
from distill_assets.storage.warehouse import SliceWrite


def eval_metrics(inputs: Inputs) -> Made:
    """nDCG@10, MRR@10, recall@100 and MAP per query on dev and test: BM25, the untouched student, this recipe's student."""
    name = inputs.partition
    systems = {BM25: None, UNTOUCHED_STUDENT: inputs.student_path, name: inputs.checkpoint_path(name)}
    rankings = {system: rankings_of(inputs, system, path) for system, path in systems.items()}
    rows: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    for split in EVALUATION:
        _, qrels = judged_queries(inputs, split)
        for system in systems:
            found = evaluate_run(rankings[system][split], qrels, inputs.min_relevance)
            about = {"split": split, "system": system}
            who = {"judged_by": inputs.judge_of(split)}
            rows += [
                about | who | {"query_id": query_id, **asdict(metrics)} for query_id, metrics in sorted(found.items())
            ]
            means += [about | {metric: mean_of(found, metric) for metric in METRIC_NAMES}] if found else []
    if not rows:
        raise EvaluationError(
            "no dev or test query has a judgement of a document that exists: there is nothing to measure; "
            "add qrels/dev.tsv and qrels/test.tsv"
        )
    own = {f"{mean['split']}_ndcg_at_10": mean["ndcg_at_10"] for mean in means if mean["system"] == name}
    table = pa.Table.from_pylist(rows, schema=schema_of("eval_metrics"))
    # Where people judged, the version is as before there was another judge: nothing that follows is made anew.
    is_of_people = all(row["judged_by"] == "people" for row in rows)
    version = content_version(table.drop_columns(["judged_by"]) if is_of_people else table)
    return Made(rows=table, data_version=version, metadata=own | {"means": markdown_table(means)})


EVAL_METRICS = Asset(
    name="eval_metrics",
    reads=Reads(
        inputs=("checkpoint", "student", "tokeniser", "judges", *RANKING_INPUTS),
        settings=RANKING_SETTINGS,
        only_if={"judges": teacher_judges},
    ),
    body=eval_metrics,
    table="eval_metrics",
    group="evaluation",
    pool="encoder",
    kinds=frozenset({"python", "duckdb"}),
    code_version="3",
    when_red="Materialise `student_checkpoint` of the recipe, then this one. Nothing is trained by it.",
    by="recipe",
)


def leaderboard(inputs: Inputs) -> Made:
    """All systems on test queries: means with 95 % intervals, gap closed, latency, encoding speed, size. On dev where there are none.

    `hybrid` fuses BM25 and the untouched student by reciprocal rank: what search would be without any training. `hybrid:NAME`
    fuses BM25 and a recipe's student or a baseline.
    """
    split = "test" if judged_queries(inputs, "test")[0] else "dev"
    queries, qrels = judged_queries(inputs, split)
    if not queries:
        raise EvaluationError(
            "no test or dev query has a judgement of a document that exists: there is nothing to compare; add qrels/test.tsv"
        )
    students = {UNTOUCHED_STUDENT: inputs.student_path} | {n: inputs.checkpoint_path(n) for n in inputs.recipes}
    encoders = students | inputs.baselines
    rankings = {BM25: rankings_of(inputs, BM25, None)}
    rankings |= {name: rankings_of(inputs, name, path) for name, path in encoders.items()}
    hybrids = {hybrid_of(name): fused_rankings(rankings[BM25], rankings[name]) for name in encoders}
    rankings |= hybrids
    runs = {system: found[split] for system, found in rankings.items()}
    pool = score_pool(inputs, queries, runs[BM25], runs[UNTOUCHED_STUDENT])
    reranked = pool.reranked(DEPTH)
    judge = inputs.judge_of(split)
    # By its own judgements the teacher's nDCG@10 is 1.000. Imported scores may hold nothing of the pool: then nobody knows it.
    if judge == "people" and pool.share_scored:
        runs[TEACHER] = pool.reranked_documents(DEPTH)
    per_system = {system: evaluate_run(run, qrels, inputs.min_relevance) for system, run in runs.items()}
    on_dev, num_scored = teacher_rows(inputs, students if inputs.judge_of("dev") == "people" else {})
    speeds = measure_speeds(inputs, queries, reranked, encoders)
    models = {name: fingerprint_model(path) for name, path in encoders.items()}
    board = compare_systems(split, per_system, speeds, models, inputs.baselines)
    prompts = {name: str(inputs.project.models.prompts(path)) for name, path in encoders.items()}
    board = [replace(row, prompts=prompts.get(row.system), judged_by=judge) for row in board]
    rows = [asdict(row) for row in board]
    table = pa.Table.from_pylist(rows, schema=schema_of("leaderboard"))
    made_from = {name: inputs.versions[name] for name in ("teacher", "metrics", "baselines", "settings.pool_depth")}
    drop_former_rankings(inputs, runs)
    return Made(
        rows=table,
        # Speeds differ from run to run; what the data version says is the quality.
        data_version=content_version(table.select(["system", "split", *METRIC_NAMES, *_told_of(judge)])),
        beside=[
            *(write_of(system, {split: run}, made_from) for system, run in runs.items() if system == TEACHER),
            *(write_of(system, found, made_from) for system, found in hybrids.items()),
            SliceWrite(
                table="query_results",
                rows=result_rows(inputs, split, pool, encoders, per_system, _dev_metrics(inputs, split, rankings)),
                is_empty_meant=True,
            ),
            SliceWrite(table="query_groups", rows=_group_rows(inputs, queries), is_empty_meant=True),
            SliceWrite(table="teacher_fitness", rows=on_dev, is_empty_meant=True),
        ],
        metadata={
            "leaderboard": markdown_table(rows),
            "ndcg_at_10": _picture(leaderboard_chart(board), "nDCG@10 per system with 95 % intervals"),
            "quality_and_latency": _picture(quality_latency_chart(board), "nDCG@10 against query latency"),
            "num_teacher_forward_passes": pool.num_scored + num_scored,
            "pool_recall": pool.recall(qrels),
            "share_of_pool_scored": pool.share_scored,
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
            "baselines",
            "teacher",
            "tokeniser",
            "judges",
            *RANKING_INPUTS,
            *GROUP_INPUTS,
            *DEV_INPUTS,
        ),
        settings=(
            *RANKING_SETTINGS,
            *GROUP_SETTINGS,
            "pool_depth",
            "step_queries",
            "teacher_max_length",
            "teacher_prompt",
            "precision",
        ),
        only_if={"judges": teacher_judges, **if_set("teacher_prompt")},
        labels="taught",
    ),
    body=leaderboard,
    table="leaderboard",
    group="evaluation",
    pool="teacher",
    kinds=frozenset({"pytorch", "duckdb"}),
    code_version="6",
    when_red="Materialise what the error names. Pairs that the teacher has scored are kept.",
)


def _told_of(judge: Judge) -> list[str]:
    """The column that says who judged, where that is not people: they judged whatever was stored before."""
    return ["judged_by"] if judge == "teacher" else []


def _dev_metrics(
    inputs: Inputs, split: str, rankings: Mapping[str, Mapping[str, Run]]
) -> dict[str, dict[str, QueryMetrics]]:
    """Per system what it has on dev, where dev is not the split of the leaderboard itself: by it the report chooses."""
    _, qrels = judged_queries(inputs, "dev")
    if split == "dev" or not qrels:
        return {}
    return {system: evaluate_run(found["dev"], qrels, inputs.min_relevance) for system, found in rankings.items()}


def _group_rows(inputs: Inputs, queries: Sequence[Query]) -> pa.Table:
    rows = [
        {"rule": rule, "query_id": query_id, "label": label}
        for rule, labels in grouped(inputs, queries).items()
        for query_id, label in labels.items()
    ]
    return pa.Table.from_pylist(rows, schema=schema_of("query_groups"))


def _picture(image: bytes, alt: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(as_markdown_image(image, alt))
