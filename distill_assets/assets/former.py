"""What version 3 of the warehouse was made from: so that nothing of it is scored again. To be deleted with schema 6.

Version 3 kept one fingerprint of all inputs per slice. Where that fingerprint is still what today's inputs give by its own formula,
the teacher is up to date, and the store's logits are those of today's teacher. All else is made again.
"""

from collections.abc import Sequence

import pyarrow as pa

from distill_assets.assets.reads import Moment
from distill_assets.errors import MissingPartitionError
from distill_assets.handles.collection import State
from distill_assets.models.catalog import fingerprint_model
from distill_assets.records import fingerprint, fingerprint_rows
from distill_assets.settings.values import BUNDLED
from distill_assets.storage.warehouse import SliceInfo


def is_current(moment: Moment, info: SliceInfo) -> bool:
    """Whether a teacher of version 3 was made from what is there now."""
    return info.input_fingerprint == fingerprint("teacher_checkpoint", "4", _teacher(moment))


def keep_scores(moment: Moment) -> None:
    """Write down under which key version 3 kept the logits of the whole teacher, for today's length and precision.

    To be called before the batch's candidates are mined anew: what its scores were made from is then gone.
    """
    project, info = moment.project, moment.state.slices.get(("teacher_scores", moment.partition))
    if info is None or info.inputs is not None:
        return
    try:
        is_current = info.input_fingerprint == fingerprint("teacher_scores", "2", _scores(moment))
        teacher = moment.state.version("checkpoints", "teacher")
    except MissingPartitionError:
        return
    precision, length = project.models.scoring_precision, project.settings.teacher_max_length
    rows = project.places.warehouse.read("former_scores").to_pylist()
    known = [(row["teacher_fingerprint"], row["max_length"], row["precision"]) for row in rows]
    if is_current and (teacher, length, precision) not in known:
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
