"""What version 3 of the warehouse was made from: so that nothing of it is scored or trained again. To be deleted with schema 6.

Version 3 kept one fingerprint of all inputs per slice. Where that fingerprint is still what today's inputs give by its own formula,
the slice is up to date, and its inputs are written down in today's words. The cheap assets are made again instead.
"""

from collections.abc import Sequence

import pyarrow as pa

from distill_assets.assets.reads import Moment
from distill_assets.core.records import fingerprint, fingerprint_rows
from distill_assets.handles.collection import State
from distill_assets.settings import BUNDLED
from distill_assets.storage.models import fingerprint_model
from distill_assets.storage.warehouse import SliceInfo

_CODE_VERSIONS = {"teacher_checkpoint": "4", "teacher_scores": "2", "student_checkpoint": "1"}


def is_current(moment: Moment, asset: str, info: SliceInfo) -> bool:
    """Whether a slice of version 3 was made from what is there now."""
    formula = {"teacher_checkpoint": _teacher, "teacher_scores": _scores, "student_checkpoint": _student}.get(asset)
    if formula is None:
        return False
    return info.input_fingerprint == fingerprint(asset, _CODE_VERSIONS[asset], formula(moment))


def keep_scores(moment: Moment) -> None:
    """Write down under which key version 3 kept the logits of the whole teacher, for today's length and precision."""
    project, teacher = moment.project, moment.state.version("checkpoints", "teacher")
    precision, length = project.models.scoring_precision, project.settings.teacher_max_length
    rows = project.places.warehouse.read("former_scores").to_pylist()
    if any((r["teacher_fingerprint"], r["max_length"], r["precision"]) == (teacher, length, precision) for r in rows):
        return
    key = teacher if precision == "fp32" else fingerprint(teacher, precision)
    row = {"teacher_fingerprint": [teacher], "max_length": [length], "precision": [precision], "scorer_id": [key]}
    project.places.warehouse.append("former_scores", pa.table(row))


def _teacher(moment: Moment) -> str:
    models, settings, state = moment.project.models, moment.project.settings, moment.state
    parts: list[object] = [fingerprint_model(models.teacher_source_path)]
    if models.teacher_choice == BUNDLED or models.is_teacher_joined:
        parts.append(models.student_id)
    if models.is_teacher_joined:
        tables = ("queries", "hard_negatives")
        parts += ["joined", settings.step_queries, *(_versions(state, table, state.batches) for table in tables)]
    if models.is_teacher_trained:
        parts += [settings.teacher_recipe.fingerprint, models.num_teacher_folds]
        parts += [_versions(state, table, state.batches) for table in ("queries", "qrels", "hard_negatives")]
    return fingerprint(*parts)


def _scores(moment: Moment) -> str:
    batch, settings, state = moment.partition, moment.project.settings, moment.state
    return fingerprint(
        *(state.version(table, batch) for table in ("hard_negatives", "qrels", "queries")),
        _document_versions(moment, [batch]),
        state.version("checkpoints", "teacher"),
        settings.num_scored_negatives,
        settings.teacher_max_length,
        settings.precision,
    )


def _student(moment: Moment) -> str:
    recipe, settings, state = moment.recipe, moment.project.settings, moment.state
    parts: list[object] = [recipe.fingerprint, moment.project.models.student_id, settings.step_queries]
    if recipe.rounds > 1:
        mining = (settings.train_queries, settings.mining_depth, settings.negatives_per_query, settings.near_identical)
        unjudged = ["unjudged"] if settings.reads_unjudged_queries else []
        parts += [fingerprint(*mining, settings.student_max_length, *unjudged), settings.num_scored_negatives]
    tables = ["queries", "qrels", "hard_negatives"]
    tables += ["teacher_scores"] if recipe.uses_teacher else []
    tables += ["corpus"] if recipe.reads_whole_corpus else []
    labels = [_versions(state, table, state.batches) for table in tables]
    return fingerprint(*parts, fingerprint(_document_versions(moment, state.batches), *labels))


def _versions(state: State, table: str, keys: Sequence[str]) -> str:
    """As version 3 wrote it: slices without rows count, too."""
    return fingerprint(*((key, state.version(table, key)) for key in keys))


def _document_versions(moment: Moment, batches: Sequence[str]) -> str:
    rows = moment.project.places.warehouse.query(
        _DOCUMENT_VERSIONS, [list(moment.state.batches), list(batches), list(batches)]
    )
    return fingerprint_rows(zip(*rows.to_pydict().values(), strict=True))


_DOCUMENT_VERSIONS = """
    WITH latest AS (
        SELECT doc_id, arg_max(content_hash, batch) AS content_hash FROM corpus
        WHERE batch IN (SELECT unnest(?::VARCHAR[])) GROUP BY doc_id
    ), used AS (
        SELECT doc_id FROM hard_negatives WHERE batch IN (SELECT unnest(?::VARCHAR[]))
        UNION SELECT doc_id FROM qrels WHERE batch IN (SELECT unnest(?::VARCHAR[]))
    )
    SELECT doc_id, content_hash FROM used LEFT JOIN latest USING (doc_id) ORDER BY doc_id
"""
