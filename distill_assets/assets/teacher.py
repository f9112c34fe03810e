"""Group `teacher`: the cross-encoder and its raw logits."""

import json
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.checks import accepted, check_results, check_specs
from distill_assets.assets.failures import retrying
from distill_assets.assets.fitness import judge_fitness, measure_teacher
from distill_assets.assets.inputs import CODE_VERSIONS, input_fingerprint
from distill_assets.assets.manifests import code_state, record_checkpoint
from distill_assets.assets.reading import choose_train_queries, read_corpus, read_qrels, read_queries
from distill_assets.assets.reporting import OWNERS, content_version, markdown_table, materialised, table_schema
from distill_assets.assets.scoring import score_pairs
from distill_assets.assets.teacher_building import build_teacher
from distill_assets.charts import as_markdown_image, score_histogram_chart
from distill_assets.core.quality import ScoredPair, judge_logits, judge_negatives_above
from distill_assets.partitions import batches
from distill_assets.resources import Project
from distill_assets.storage.missing_pairs import WantedPairs


@dg.asset(
    deps=["queries", "qrels", "hard_negatives"],
    group_name="teacher",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    pool="teacher",
    code_version=CODE_VERSIONS["teacher_checkpoint"],
    metadata={"dagster/column_schema": table_schema("checkpoints")},
    check_specs=check_specs("teacher_checkpoint"),
)
@retrying
def teacher_checkpoint(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
    """The cross-encoder, or one per fold: a published one as it is, the bundled one, or fine-tuned on the train split's labels."""
    key = input_fingerprint(project, "teacher_checkpoint")
    store = project.checkpoints
    if not store.has("teacher", "teacher", key):
        with store.writing("teacher", "teacher", key) as folder:
            manifest = build_teacher(project, folder, store.work_folder("teacher", "teacher", key))
            manifest["dev_rerank"] = measure_teacher(project, manifest, lambda: project.teacher_scorer(folder))
            manifest |= {"input_fingerprint": key, **code_state()}
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        store.clear_work("teacher", "teacher", key)
    path = store.path("teacher", "teacher", key)
    context.log.info(f"teacher checkpoint at {path}")
    manifest = store.read_manifest(path)
    measured = manifest.get("dev_rerank")
    if not measured or not measured["num_queries"]:  # made before this was measured, or before there were dev queries
        measured = measure_teacher(project, manifest, lambda: project.teacher_scorer(path))
    checks = check_results("teacher_checkpoint", {"better_than_baselines": judge_fitness(measured)})
    return record_checkpoint(project, kind="teacher", name="teacher", path=path, checks=checks)


@dg.asset(
    deps=["hard_negatives", "qrels", teacher_checkpoint],
    partitions_def=batches,
    group_name="teacher",
    kinds={"pytorch", "duckdb"},
    owners=OWNERS,
    pool="teacher",
    code_version=CODE_VERSIONS["teacher_scores"],
    metadata={"dagster/column_schema": table_schema("teacher_scores")},
    check_specs=check_specs("teacher_scores", batches),
)
@retrying
def teacher_scores(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
    """Raw fp32 logits of the train queries' positives and first hard negatives; a pair scored before is never scored again."""
    batch = context.partition_key
    key = input_fingerprint(project, "teacher_scores", batch)
    wanted = wanted_of_batch(project, batch)
    scores, num_scored = score_pairs(project, context, wanted)
    rows = project.pair_scores.join(scores, wanted)
    scored = _with_texts(project, rows)
    checks = check_results(
        "teacher_scores",
        {"logits_vary": judge_logits(scored), "positives_above_negatives": judge_negatives_above(scored)},
    )
    version = content_version(rows)
    project.warehouse.replace_slice(
        "teacher_scores",
        rows,
        slice_key=batch,
        input_fingerprint=accepted(key, checks),
        data_version=version,
        allow_empty=True,  # a batch without train queries has nothing to score
    )
    metadata: dict[str, Any] = {
        "num_pairs": rows.num_rows,
        "num_forward_passes": num_scored,
        "num_known": rows.num_rows - num_scored,
        "precision": project.scoring_precision,
    }
    positive = [pair.logit for pair in scored if pair.label > 0]
    negative = [pair.logit for pair in scored if pair.label == 0]
    if positive and negative:
        image = score_histogram_chart(positive, negative)
        metadata["score_histogram"] = dg.MetadataValue.md(
            as_markdown_image(image, "teacher logits of positives and negatives")
        )
        metadata["sample"] = markdown_table(rows.slice(0, 6).to_pylist())
    return materialised("teacher_scores", version, rows.num_rows, metadata, checks)


def _with_texts(project: Project, rows: pa.Table) -> list[ScoredPair]:
    """The scored pairs with the texts they stand for, for the checks and their samples."""
    text_of = {query.query_id: query.text for query in read_queries(project, splits=("train",))}
    content_of = read_corpus(project).content_of
    return [
        ScoredPair(
            r["query_id"], text_of[r["query_id"]], r["doc_id"], content_of[r["doc_id"]], r["label"], r["teacher_logit"]
        )
        for r in rows.to_pylist()
    ]


def wanted_of_batch(project: Project, batch: str) -> WantedPairs:
    """`query_id, doc_id, label` and hashes of the pairs to score: the batch's train queries with positives and hard negatives.

    The label is the relevance of a positive and 0 of a negative.
    """
    queries = choose_train_queries(project, read_queries(project, [batch], ("train",)), read_qrels(project))
    chosen = [query.query_id for query in queries]
    return WantedPairs(_BATCH_PAIRS, [project.batches(), chosen, project.settings.num_scored_negatives])


# Of rows that several batches bring the last batch's counts, as in `assets/reading.py`.
_BATCH_PAIRS = """
    WITH current AS (SELECT unnest(?::VARCHAR[]) AS batch),
    chosen AS (
        SELECT query_id, sha256(arg_max(text, batch))[1:32] AS query_hash FROM queries SEMI JOIN current USING (batch)
        WHERE query_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY query_id
    ),
    documents AS (
        SELECT doc_id, arg_max(content_hash, batch) AS doc_hash FROM corpus SEMI JOIN current USING (batch) GROUP BY doc_id
    ),
    judged AS (
        SELECT query_id, doc_id, arg_max(relevance, batch) AS label FROM qrels SEMI JOIN current USING (batch)
        WHERE relevance > 0 GROUP BY query_id, doc_id
    ),
    mined AS (
        SELECT query_id, doc_id FROM hard_negatives SEMI JOIN current USING (batch) SEMI JOIN documents USING (doc_id)
        SEMI JOIN chosen USING (query_id)
        QUALIFY row_number() OVER (PARTITION BY query_id ORDER BY rank, batch, doc_id) <= ?
    ),
    labelled AS (
        SELECT query_id, doc_id, label FROM judged
        UNION ALL SELECT DISTINCT query_id, doc_id, 0 FROM mined ANTI JOIN judged USING (query_id, doc_id)
    )
    SELECT query_id, doc_id, label, query_hash, doc_hash FROM labelled JOIN chosen USING (query_id) JOIN documents USING (doc_id)
"""
