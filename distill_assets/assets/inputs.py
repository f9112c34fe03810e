"""What each slice is made from, as one fingerprint per asset and partition.

An asset stores the fingerprint with the slice it writes; `distill-assets run` compares it with the fingerprint of today
and materialises what differs. Content decides, never time: a batch that was read again and brought the same rows moves
nothing downstream.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from distill_assets.core.errors import MissingPartitionError
from distill_assets.core.recipes import Recipe
from distill_assets.core.records import fingerprint, fingerprint_rows
from distill_assets.resources import Project
from distill_assets.settings import BUNDLED
from distill_assets.storage.models import fingerprint_model

# Raise an asset's number when its code gives other rows from the same inputs.
CODE_VERSIONS = {
    "corpus": "1",
    "queries": "1",
    "qrels": "1",
    "hard_negatives": "3",
    "teacher_checkpoint": "4",
    "teacher_scores": "2",
    "student_checkpoint": "1",
    "eval_metrics": "2",
    "leaderboard": "3",
    "champion": "1",
}


def data_version(project: Project, table: str, slice_key: str = "") -> str:
    """Content version of one materialised slice.

    Raises:
        MissingPartitionError: it is not there, or a blocking check refused it.
    """
    info = project.warehouse.slice_info(table, slice_key)
    where = f"{table}{f'[{slice_key}]' if slice_key else ''}"
    if info is None:
        raise MissingPartitionError(f"{where} is not materialised: materialise it first, or run distill-assets run")
    if not info.input_fingerprint:
        raise MissingPartitionError(
            f"{where} did not pass a blocking check: its checks in the Dagster UI say what was found and what to do; "
            "then materialise it again"
        )
    return info.data_version


def data_versions(project: Project, table: str, keys: Sequence[str]) -> str:
    """Fingerprint of several slices' keys and content versions. Raises `MissingPartitionError` for the first that is missing."""
    return fingerprint(*((key, data_version(project, table, key)) for key in keys))


def of_batch(project: Project, batch: str) -> str:
    """Inputs of corpus, queries and qrels: what the source would read now."""
    return fingerprint(project.source.name, project.source.fingerprint(batch))


def of_hard_negatives(project: Project, batch: str) -> str:
    """Every document of every batch, this batch's queries and judgements, the encoder, the mining rules."""
    data_version(project, "corpus", batch)  # its own documents, before those of all others
    return fingerprint(
        data_versions(project, "corpus", project.batches()),
        data_version(project, "queries", batch),
        data_version(project, "qrels", batch),
        project.student_fingerprint,
        project.settings.mining_fingerprint,
    )


def of_teacher_checkpoint(project: Project, _: str = "") -> str:
    """The model it starts from; with fine-tuning, every label and mined negative as well."""
    settings, batches = project.settings, project.batches()
    parts: list[object] = [fingerprint_model(project.teacher_source_path)]
    if project.teacher_choice == BUNDLED or project.is_teacher_joined:
        parts.append(project.student_fingerprint)
    if project.is_teacher_joined:  # its weight is measured on dev candidates
        parts += [
            "joined",
            settings.step_queries,
            *(data_versions(project, t, batches) for t in ("queries", "hard_negatives")),
        ]
    if project.is_teacher_trained:
        tables = ("queries", "qrels", "hard_negatives")
        parts += [settings.teacher_recipe.fingerprint, project.num_teacher_folds]
        parts += [data_versions(project, table, batches) for table in tables]
    return fingerprint(*parts)


def of_teacher_scores(project: Project, batch: str) -> str:
    """The pairs of this batch, the texts behind them, and the teacher."""
    return fingerprint(
        data_version(project, "hard_negatives", batch),
        data_version(project, "qrels", batch),
        data_version(project, "queries", batch),
        _document_versions(project, [batch]),
        data_version(project, "checkpoints", "teacher"),
        project.settings.num_scored_negatives,
        project.settings.teacher_max_length,
        project.settings.precision,
    )


def of_student_checkpoint(project: Project, name: str) -> str:
    """The recipe, the untouched student, and the labels that the recipe reads: soft ones, or hard ones alone."""
    recipe = project.settings.recipe(name)
    parts = [recipe.fingerprint, project.student_fingerprint, project.settings.step_queries]
    if recipe.rounds > 1:  # it mines and has pairs scored by itself
        parts += [project.settings.mining_fingerprint, project.settings.num_scored_negatives]
    return fingerprint(*parts, _label_versions(project, recipe))


def _label_versions(project: Project, recipe: Recipe) -> str:
    batches = project.batches()
    tables = ["queries", "qrels", "hard_negatives"] + (["teacher_scores"] if recipe.uses_teacher else [])
    if recipe.reads_whole_corpus:
        tables.append("corpus")
    return fingerprint(
        _document_versions(project, batches), *(data_versions(project, table, batches) for table in tables)
    )


def _document_versions(project: Project, batches: Sequence[str]) -> str:
    """Content of the positives and negatives of these batches: their ids may stay while another batch replaces a text."""
    rows = project.warehouse.query(_DOCUMENT_VERSIONS, [project.batches(), list(batches), list(batches)])
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


def of_eval_metrics(project: Project, name: str) -> str:
    """The student, the documents it searches and the judged queries."""
    batches = project.batches()
    tables = ("corpus", "queries", "qrels")
    return fingerprint(
        data_version(project, "checkpoints", name),
        project.student_fingerprint,
        project.settings.dev_queries,
        project.settings.test_queries,
        *(data_versions(project, table, batches) for table in tables),
    )


def of_leaderboard(project: Project, _: str = "") -> str:
    """Every recipe's metrics and the teacher."""
    names = sorted(project.settings.all_recipes)
    return fingerprint(
        data_versions(project, "eval_metrics", names),
        data_version(project, "checkpoints", "teacher"),
        project.settings.pool_depth,
        project.settings.step_queries,  # the dev queries that judge the teacher
        project.settings.precision,
    )


def of_champion(project: Project, _: str = "") -> str:
    """Every recipe's metrics and the rules of the gate."""
    names = sorted(project.settings.all_recipes)
    settings = project.settings
    return fingerprint(
        data_versions(project, "eval_metrics", names), settings.promotion_margin, settings.promotion_alpha
    )


INPUTS: dict[str, Callable[[Project, str], str]] = {
    "corpus": of_batch,
    "queries": of_batch,
    "qrels": of_batch,
    "hard_negatives": of_hard_negatives,
    "teacher_checkpoint": of_teacher_checkpoint,
    "teacher_scores": of_teacher_scores,
    "student_checkpoint": of_student_checkpoint,
    "eval_metrics": of_eval_metrics,
    "leaderboard": of_leaderboard,
    "champion": of_champion,
}


def input_fingerprint(project: Project, asset: str, partition: str = "") -> str:
    """Fingerprint of everything that asset and partition are made from, the asset's code version included.

    Raises:
        MissingPartitionError: something upstream is not materialised.
    """
    return fingerprint(asset, CODE_VERSIONS[asset], INPUTS[asset](project, partition))


def slice_of(asset: str, partition: str = "") -> tuple[str, str]:
    """Table and slice key where an asset's partition is kept."""
    if asset == "teacher_checkpoint":
        return "checkpoints", "teacher"
    if asset == "student_checkpoint":
        return "checkpoints", partition
    if asset == "champion":
        return "champion_history", ""
    return asset, partition


def is_made(project: Project, asset: str, partition: str = "") -> bool:
    """Whether the asset's partition is there at all, whatever it was made from."""
    return project.warehouse.slice_info(*slice_of(asset, partition)) is not None and _has_files(
        project, asset, partition
    )


def is_fresh(project: Project, asset: str, partition: str = "") -> bool:
    """Whether the stored slice was made from what is there now. False where it, or anything upstream, is missing."""
    info = project.warehouse.slice_info(*slice_of(asset, partition))
    if info is None or not _has_files(project, asset, partition):
        return False
    try:
        return info.input_fingerprint == input_fingerprint(project, asset, partition)
    except MissingPartitionError:
        return False


def _has_files(project: Project, asset: str, partition: str) -> bool:
    """Whether the folder that a checkpoint's row names is still there, whole. Other assets are rows alone."""
    table, key = slice_of(asset, partition)
    if table != "checkpoints":
        return True
    path = project.warehouse.read(table, slice_keys=[key], columns=["path"]).column("path")[0].as_py()
    return (Path(path) / "manifest.json").is_file()
