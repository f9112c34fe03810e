"""Teacher scores out, for other tools, and scores of other tools in, as a teacher that nobody can ask for more."""

import hashlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill_assets.errors import ScoreSetError
from distill_assets.handles.project import Project
from distill_assets.models.value_space import SATURATED, is_saturated, logits_of_probabilities
from distill_assets.progress import Progress
from distill_assets.records import fingerprint
from distill_assets.sources.score_sets import PROVENANCE_FILE, TABLES, open_score_files
from distill_assets.storage.folders import is_folder_name, read_json_object, write_json
from distill_assets.storage.score_sets import MatchedScores, match_scores, read_export, read_known_texts

ValueSpace = Literal["logit", "sigmoid", "other"]
# In provenance.json: that a folder is an export of ours, which a new one may replace.
_FORMAT = "distill_assets scores 1"
_ROWS_PER_BATCH = 8192
_MAX_LOST_SHARE = 0.25  # of sigmoid scores that are saturated or tie with another of their query, as `models/canary.py`


def export_scores(project: Project, folder: Path) -> dict[str, Any]:
    """Write `documents`, `queries` and `scores` as Parquet into `folder`, and provenance.json last; returns the provenance.

    Raises:
        ScoreSetError: nothing is scored, or the folder holds something else.
        MissingPartitionError: there is no teacher yet.
    """
    before = read_json_object(folder / PROVENANCE_FILE) or {}
    others = folder.exists() and not (folder.is_dir() and all(each.name.startswith(".") for each in folder.iterdir()))
    if others and before.get("format") != _FORMAT:
        raise ScoreSetError(
            f"{folder} holds something else than exported scores and is left as it is: name a new folder"
        )
    told = _provenance(project)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {table: folder / f".{table}.part" for table in TABLES}
    with project.collection.snapshot() as collection:
        for table, part in parts.items():
            _write_parquet(read_export(collection, table, _ROWS_PER_BATCH), part)
    told |= {f"num_{table}": pq.read_metadata(parts[table]).num_rows for table in ("documents", "queries")}
    (folder / PROVENANCE_FILE).unlink(missing_ok=True)  # it comes last: a folder with it is whole
    for table, part in parts.items():
        part.replace(folder / f"{table}.parquet")
    write_json(folder / PROVENANCE_FILE, told)
    return told


def import_scores(
    project: Project, path: Path, name: str, *, value_space: ValueSpace | None = None, skips_unknown: bool = False
) -> dict[str, Any]:
    """Bring the scores at `path` in under a name; returns what is written down of them (`imported.json`).

    The same scores again change nothing. Other scores under the name take its place; the former stay in the pair-score store.

    Args:
        project: the line, whose collection has been read.
        path: a folder or file of one of the forms of `sources/score_sets.py`.
        name: the teacher is then `scores:NAME`.
        value_space: what the scores are, where the set does not say so itself.
        skips_unknown: leave out pairs whose texts are not in the collection, instead of refusing the set.

    Raises:
        ScoreSetError: the set cannot be read or does not fit the collection; nothing is stored then.
    """
    if not is_folder_name(name):
        raise ScoreSetError(
            f"the name {name!r} cannot be a folder's: expected letters, digits, '.', '_' or '-', a letter or digit first"
        )
    target, places = project.places.imported_file(name), project.places
    files = open_score_files(path)
    space = _agreed_space(files.provenance, value_space)
    known: dict[str, pa.Table] = {}
    if places.warehouse.exists():
        with project.collection.snapshot() as collection:
            known = read_known_texts(collection)
    if not all(known.get(table) for table in ("documents", "queries")):
        raise ScoreSetError(
            "the collection has no documents or no queries yet, and scores are matched with their texts: run distill-assets run "
            "--until qrels first"
        )
    documents, queries = (each and each() for each in (files.documents, files.queries))
    with match_scores(known, places.folder, files.scores(), documents, queries) as matched:
        _require_known(matched, skips_unknown=skips_unknown)
        found_space = _find_space(matched, space)
        scorer_id = _scorer_id(matched, found_space)
        told = {
            "name": name,
            "scorer_id": scorer_id,
            "value_space": found_space,
            "num_pairs": matched.num_pairs,
            "num_queries": matched.num_queries,
            "num_left_out": matched.num_left_out,
            "provenance": dict(files.provenance),
        }
        if places.pair_scores.count([scorer_id]) < matched.num_pairs:
            _store(project, scorer_id, matched, found_space)
    if read_json_object(target) != told:
        write_json(target, told)
    return told | {"left_out": [each.sentence for each in matched.left_out]}


def _provenance(project: Project) -> dict[str, Any]:
    """Where the stored scores come from. Of a teacher behind a server: what is served, and no address."""
    warehouse, settings = project.places.warehouse, project.settings
    batches = project.collection.batches() if warehouse.exists() else []
    info = {batch: warehouse.slice_info("teacher_scores", batch) for batch in batches}
    if not any(each is not None and each.num_rows for each in info.values()):
        raise ScoreSetError("nothing is scored yet: run distill-assets run --until teacher_scores first")
    path, logits = project.places.checkpoint_path("teacher"), project.logits()
    manifest, teacher = project.places.checkpoints.read_manifest(path), logits.teacher(path)
    found_by_us = not teacher.is_imported and "served" not in manifest
    return {
        "format": _FORMAT,
        "package": f"distill_assets {importlib.metadata.version('distill_assets')}",
        "collection": project.collection.source.name,
        "batches": batches,
        "num_pairs": sum(each.num_rows for each in info.values() if each is not None),
        "teacher": manifest["source"],
        "teacher_fingerprint": teacher.fingerprint,
        "members": [
            {"scorer_id": member.scorer_id, "weight": member.weight, "fold": member.fold} for member in teacher.members
        ],
        "value_space": "logit",
        "prompt": manifest.get("prompt"),
        "max_length": settings.teacher_max_length if found_by_us else None,
        "precision": project.models.scoring_precision if found_by_us else None,
    } | {name: manifest[name] for name in ("served", "imported") if name in manifest}


def _write_parquet(reader: pa.RecordBatchReader, path: Path) -> None:
    with pq.ParquetWriter(path, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _agreed_space(provenance: Any, given: ValueSpace | None) -> ValueSpace | None:
    told = provenance.get("value_space")
    if told is not None and told not in get_args(ValueSpace):
        raise ScoreSetError(
            f"{PROVENANCE_FILE} has value_space {told!r}, expected one of {', '.join(get_args(ValueSpace))}: correct it there"
        )
    if told and given and told != given:
        raise ScoreSetError(
            f"{PROVENANCE_FILE} says that the scores are {told!r}, --value-space says {given!r}: leave the flag out, or mend the file"
        )
    return told or given


def _require_known(matched: MatchedScores, *, skips_unknown: bool) -> None:
    reasons = "; ".join(each.sentence for each in matched.left_out)
    if matched.num_left_out and not skips_unknown:
        raise ScoreSetError(
            f"the set does not fit the collection: {reasons}. Nothing is stored. Add those texts to the collection, score the texts as "
            "they are now, or import the rest with --skip-unknown"
        )
    if not matched.num_pairs:
        raise ScoreSetError(
            f"no pair is left to import: {reasons or 'the set is empty'}; expected texts that are the collection's, letter by letter"
        )


def _find_space(matched: MatchedScores, space: ValueSpace | None) -> ValueSpace:
    """What the scores are. Raises `ScoreSetError` where it cannot be known, or where a sigmoid has hidden too much."""
    is_probability = matched.lowest >= 0 and matched.highest <= 1
    span = f"all scores lie in [{matched.lowest:g}, {matched.highest:g}]"
    if space is None and is_probability:
        raise ScoreSetError(
            f"{span}, and nothing says what they are: are they outputs of a sigmoid (--value-space sigmoid; they are turned back into "
            "logits), raw logits (--value-space logit), or something else such as a cosine (--value-space other)?"
        )
    if space != "sigmoid":
        return space or "logit"
    if not is_probability:
        raise ScoreSetError(
            f"{span}, expected probabilities, as value space sigmoid says: name the value space that they have"
        )
    num_lost = sum(int(is_saturated(batch["score"].to_numpy()).sum()) for batch in matched.batches(_ROWS_PER_BATCH))
    num_ties = matched.num_ties()
    if num_lost + num_ties > _MAX_LOST_SHARE * matched.num_pairs:
        raise ScoreSetError(
            f"the scores cannot be turned back into logits: of {matched.num_pairs:,} {num_lost:,} are within {SATURATED:g} of 0 or 1 "
            f"and {num_ties:,} equal another of their query, expected at most {_MAX_LOST_SHARE:.0%} together; write raw logits, or fp32"
        )
    return space


def _logits(matched: MatchedScores, space: ValueSpace, size: int) -> Iterator[pa.Table]:
    """`query_hash, doc_hash, teacher_logit` in a total order."""
    for batch in matched.batches(size):
        scores = batch["score"].to_numpy()
        logits = logits_of_probabilities(scores) if space == "sigmoid" else scores
        yield batch.drop_columns("score").append_column("teacher_logit", pa.array(logits.astype(np.float32)))


def _store(project: Project, scorer_id: str, matched: MatchedScores, space: ValueSpace) -> None:
    """Into the pair-score store, a transaction per chunk; what a killed import has stored is kept."""
    progress = Progress("imported scores", matched.num_pairs, "pairs")
    for chunk in _logits(matched, space, project.settings.chunk_size):
        project.places.pair_scores.commit(scorer_id, chunk)
        progress.advance(chunk.num_rows)


def _scorer_id(matched: MatchedScores, space: ValueSpace) -> str:
    """By content: pairs and logits, however they were ordered and wherever they lay."""
    # Hashes and floats have fixed lengths, so two digests have no bounds to mark.
    pairs, logits = hashlib.sha256(), hashlib.sha256()
    for batch in _logits(matched, space, _ROWS_PER_BATCH):
        for query_hash, doc_hash in zip(batch["query_hash"].to_pylist(), batch["doc_hash"].to_pylist(), strict=True):
            pairs.update(f"{query_hash}{doc_hash}".encode())
        logits.update(batch["teacher_logit"].to_numpy().astype("<f4").tobytes())
    return fingerprint("imported", fingerprint(pairs.hexdigest(), logits.hexdigest()))
