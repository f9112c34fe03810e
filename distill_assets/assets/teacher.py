"""Group `teacher`: the cross-encoder, and what it says of the train queries' pairs."""

import json
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.checks import Check
from distill_assets.assets.comparison import compare_new_teacher
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.manifests import checkpoint_row, chosen_sizes, code_state
from distill_assets.assets.negatives import choose_own_train_queries, num_answers_to_come
from distill_assets.assets.reads import Moment, Reads, if_set, nobody_judged_train
from distill_assets.assets.reporting import markdown_table
from distill_assets.assets.teacher_building import ask_servers, build_teacher
from distill_assets.errors import ScoreSetError
from distill_assets.handles.logits import read_served
from distill_assets.models.catalog import member_folders
from distill_assets.quality.verdicts import ScoredPair, judge_logits, judge_negatives_above, judge_teacher
from distill_assets.records import fingerprint
from distill_assets.report.charts import as_markdown_image, score_histogram_chart
from distill_assets.storage.checkpoints import MANIFEST
from distill_assets.storage.collection import TEXT_HASH, VIEWS
from distill_assets.storage.missing_pairs import WantedPairs
from distill_assets.training.lists import Labels

_LABELS = ("training_queries", "training_judgements", "candidates", "documents")


def _is_joined(moment: Moment) -> bool:
    return moment.project.models.is_teacher_joined


def _has_labels(moment: Moment) -> bool:
    """A published teacher can be made before a batch is mined. It is then not measured on dev."""
    mined = all(("hard_negatives", batch) in moment.state.slices for batch in moment.state.batches)
    return moment.project.models.is_teacher_of_collection or (mined and bool(moment.state.batches))


def teacher_checkpoint(inputs: Inputs) -> Made:
    """The cross-encoder, or one per fold: a published one as it is, the bundled one, or fine-tuned on the train split's labels."""
    store, models = inputs.project.places.checkpoints, inputs.project.models
    is_of_collection = models.is_teacher_of_collection
    used = {name: v for name, v in inputs.versions.items() if is_of_collection or name not in _LABELS}
    served = ask_servers(inputs)
    if any(served):  # by what is served: a server that moves is the same teacher, one that serves another model is not
        ids = zip(models.teacher_source_ids, served, strict=True)
        used["teacher_source"] = " ".join(fingerprint(*one.as_json().items()) if one else source for source, one in ids)
        used.pop("settings.teacher_local_copy")
    key = fingerprint(TEACHER_CHECKPOINT.code_version, *sorted(used.items()))
    if not store.has("teacher", "teacher", key):
        with store.writing("teacher", "teacher", key) as folder:
            manifest = build_teacher(inputs, folder, store.work_folder("teacher", "teacher", key), served)
            manifest |= {"input_fingerprint": key, "inputs": inputs.versions}
            manifest |= {"sizes": chosen_sizes(inputs.project), **code_state()}
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        store.clear_work("teacher", "teacher", key)
    path = store.path("teacher", "teacher", key)
    for number, folder in enumerate(member_folders(path) or [path]):
        if served[number]:
            # A folder that was there has the canary of its time.
            models.open_servers(number).require(read_served(folder))
    inputs.log.info(f"teacher checkpoint at {path}")
    compared = compare_new_teacher(inputs, path) if "candidates" in inputs.versions else None
    rows, fingerprint_of_model, metadata = checkpoint_row(inputs.project, "teacher", "teacher", path)
    return Made(
        rows=rows,
        data_version=fingerprint_of_model,
        verdicts={"better_than_baselines": judge_teacher(compared)},
        metadata=metadata,
    )


TEACHER_CHECKPOINT = Asset(
    name="teacher_checkpoint",
    # A teacher that was made from the collection is an input like a published one: new labels alone make it aged, not stale.
    reads=Reads(
        inputs=("teacher_source", "student", *_LABELS),
        settings=(
            "teacher_finetune",
            "teacher_local_copy",
            "teacher_with_cosine",
            "teacher_recipe",
            "teacher_folds",
            "step_queries",
            "teacher_max_length",
            "teacher_prompt",
        ),
        as_of_making=_LABELS,
        labels="people",
        only_if={
            **dict.fromkeys(_LABELS, _has_labels),
            "student": _is_joined,
            "teacher_local_copy": lambda m: any(m.project.models.are_teachers_served),
            **dict.fromkeys(("teacher_recipe", "teacher_folds"), lambda m: m.project.models.is_teacher_trained),
            **dict.fromkeys(
                ("step_queries", "teacher_max_length"), lambda m: m.project.models.is_teacher_of_collection
            ),
            **if_set("teacher_prompt"),
        },
    ),
    body=teacher_checkpoint,
    table="checkpoints",
    key="teacher",
    group="teacher",
    pool="teacher",
    kinds=frozenset({"pytorch", "huggingface"}),
    code_version="5",
    when_red="Check the setting `teacher`: a hub name, folder or server. Fine-tuning goes on from its last save.",
    checks=(
        Check(
            "better_than_baselines",
            "The teacher orders dev candidates significantly better than BM25 and than the untouched student.",
            "Not fit to teach: set another teacher, or fine-tune it on more queries, before training on its scores. "
            "If nothing was measured, judge some dev queries: `distill-assets judge --split dev`.",
        ),
    ),
)


def teacher_scores(inputs: Inputs) -> Made:
    """Raw fp32 logits of the train queries' positives and first hard negatives; a pair scored before is never scored again."""
    asked, num_scored = inputs.logits_handle.score(inputs.teacher, wanted_of_batch(inputs))
    rows = _scored_rows(inputs, asked)
    text_of = {query.query_id: query.text for query in inputs.own_queries}
    columns = (rows[name].to_pylist() for name in ("query_id", "doc_id", "label", "teacher_logit"))
    scored = [
        ScoredPair(query_id, text_of[query_id], doc_id, inputs.own_texts[doc_id], label, logit)
        for query_id, doc_id, label, logit in zip(*columns, strict=True)
    ]
    metadata: dict[str, Any] = {
        "num_pairs": rows.num_rows,
        "num_forward_passes": num_scored,
        "precision": _precision(inputs),
    }
    if inputs.teacher.is_imported:
        metadata["num_unscored"] = asked.num_rows - rows.num_rows
    positive = [pair.logit for pair in scored if pair.label > 0]
    negative = [pair.logit for pair in scored if pair.label == 0]
    if positive and negative:
        image = score_histogram_chart(positive, negative)
        picture = as_markdown_image(image, "teacher logits of positives and negatives")
        metadata |= {
            "score_histogram": dg.MetadataValue.md(picture),
            "sample": markdown_table(rows.slice(0, 6).to_pylist()),
        }
    verdicts = {"logits_vary": judge_logits(scored), "positives_above_negatives": judge_negatives_above(scored)}
    return Made(rows=rows, verdicts=verdicts, metadata=metadata)


def _scored_rows(inputs: Inputs, asked: pa.Table) -> pa.Table:
    """The rows with a logit: all but those that imported scores lack. Raises `ScoreSetError` where they lack them all."""
    rows = asked.filter(asked["teacher_logit"].is_valid())
    num_unscored = asked.num_rows - rows.num_rows
    if num_unscored:
        inputs.log.warning(
            f"{num_unscored:,} of {asked.num_rows:,} pairs have no imported score; they are left out, and students do not see them"
        )
    if num_unscored and not rows.num_rows:
        raise ScoreSetError(
            f"batch {inputs.partition}: the imported scores have none of its {asked.num_rows:,} pairs of a train query and a positive "
            "or hard negative that are needed; score those pairs and import them, or set teacher to a model"
        )
    return rows


def _precision(inputs: Inputs) -> str:
    models = inputs.project.models
    if inputs.teacher.is_imported:
        return "as imported"
    return "as served" if all(models.are_teachers_served) else models.scoring_precision


TEACHER_SCORES = Asset(
    name="teacher_scores",
    reads=Reads(
        inputs=("own_candidates", "own_queries", "own_judgements", "own_texts", "teacher", "student", "unjudged_train"),
        settings=(
            "train_queries",
            "reads_unjudged_queries",
            "num_scored_negatives",
            "teacher_max_length",
            "teacher_prompt",
            "precision",
        ),
        only_if={"student": _is_joined, "unjudged_train": nobody_judged_train, **if_set("teacher_prompt")},
    ),
    body=teacher_scores,
    table="teacher_scores",
    group="teacher",
    pool="teacher",
    kinds=frozenset({"pytorch", "duckdb"}),
    code_version="3",
    when_red="Materialise it again: what was scored is kept, and only missing pairs are paid for. Out of memory: lower `batch_tokens`.",
    checks=(
        Check(
            "logits_vary",
            "Teacher logits are finite and differ between the documents of a query.",
            "Check that `teacher` is a cross-encoder with trained weights and gives raw logits, then materialise again.",
            is_blocking=True,
        ),
        Check(
            "positives_above_negatives",
            "The teacher ranks few hard negatives above the positive.",
            "Read the sample: if those negatives are right answers, labels are missing, and soft labels help; if not, the "
            "teacher is too weak.",
        ),
    ),
    by="batch",
    is_empty_meant=True,  # a batch without train queries has nothing to score
)


def wanted_of_batch(inputs: Inputs) -> WantedPairs:
    """`query_id, doc_id, label` and hashes of the pairs to score: the batch's train queries with positives and hard negatives.

    The label is the relevance of a positive and 0 of a negative. Of a judged document in passages those are scored that stand for it.
    """
    chosen = [query.query_id for query in choose_own_train_queries(inputs)]
    parameters = {"chosen": chosen, "num_scored": inputs.settings.num_scored_negatives}
    parameters["num_answers"] = num_answers_to_come(inputs)
    labels = Labels(inputs.own_judgements, inputs.own_candidates, {}, inputs.min_relevance, inputs.parent_of)
    spare = [
        (q, d) for q in chosen if inputs.parent_of for d in {*labels.judged_of(q)}.difference(labels.answers_of(q))
    ]
    table = pa.table(dict(zip(("query_id", "doc_id"), zip(*spare, strict=True), strict=True)) if spare else _NO_PAIRS)
    return WantedPairs(_BATCH_PAIRS, inputs.view_parameters | parameters, {"spare_answers": table})


_NO_PAIRS = {"query_id": pa.array([], pa.string()), "doc_id": pa.array([], pa.string())}
_BATCH_PAIRS = f"""
    WITH {VIEWS},
    chosen AS (
        SELECT query_id, {TEXT_HASH} AS query_hash FROM kept WHERE query_id IN (SELECT unnest($chosen::VARCHAR[]))
    ),
    judged AS (
        SELECT query_id, doc_id, relevance AS label FROM judgements SEMI JOIN chosen USING (query_id)
        ANTI JOIN spare_answers USING (query_id, doc_id) WHERE relevance >= $min_relevance
    ),
    negatives AS (
        SELECT query_id, doc_id, 0 AS label FROM (
            SELECT query_id, doc_id, row_number() OVER (PARTITION BY query_id ORDER BY rank, doc_id) AS place,
                if(query_id IN (SELECT query_id FROM judgements), 0, $num_answers::INTEGER) AS num_answers
            FROM mined SEMI JOIN chosen USING (query_id) ANTI JOIN judgements USING (query_id, doc_id)
        ) WHERE place <= $num_scored + num_answers
    )
    SELECT query_id, doc_id, label, query_hash, content_hash AS doc_hash
    FROM (SELECT * FROM judged UNION ALL SELECT * FROM negatives) JOIN chosen USING (query_id) JOIN documents USING (doc_id)
"""
