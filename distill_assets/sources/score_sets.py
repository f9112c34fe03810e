"""Sets of scores that another tool made, read as batches of Arrow rows.

Two forms are read:

three tables        `documents`, `queries`, `scores`: NAME.parquet, NAME-*.parquet or NAME/*.parquet; provenance.json or none
FlagEmbedding's     *.jsonl: query, pos, neg, pos_scores, neg_scores; no ids, so texts are their own ids
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from distill_assets.errors import ScoreSetError
from distill_assets.sources.files import Faults, iter_lines, malformed

PROVENANCE_FILE = "provenance.json"
TABLES = ("documents", "queries", "scores")
# What a column may be called, by table; the first name is ours.
_COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "documents": {"id": ("document_id", "doc_id", "_id"), "text": ("document", "text", "content")},
    "queries": {"id": ("query_id", "_id"), "text": ("query", "text")},
    "scores": {
        "query_id": ("query_id",),
        "document_id": ("document_ids", "document_id", "doc_ids", "doc_id"),
        "score": ("scores", "score"),
    },
}
_PAIRS_PER_BATCH = 65_536
_ROWS_PER_BATCH = 8192


@dataclass(frozen=True)
class ScoreFiles:
    """A set of scores on disk. Each function reads it from the start, in batches.

    Attributes:
        scores: `query_id, document_id, score`, a row per pair.
        documents: `id, text`; None where the texts are their own ids.
        queries: `id, text`; None likewise.
        provenance: the object in provenance.json; empty where there is none.
    """

    scores: Callable[[], Iterator[pa.Table]]
    documents: Callable[[], Iterator[pa.Table]] | None = None
    queries: Callable[[], Iterator[pa.Table]] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def open_score_files(path: Path) -> ScoreFiles:
    """Find out what lies at `path`, a folder or a JSONL file.

    Raises:
        ScoreSetError: no set of scores, or columns are missing. Reading the batches raises it for what is wrong in a row.
        MalformedRecordError: while reading, lines of a JSONL file that are not of the form.
    """
    if not path.exists():
        raise ScoreSetError(
            f"{path} is not there: expected a folder with a set of scores, or a JSONL file; check the path"
        )
    tables = {name: _files_of(path, name) for name in TABLES}
    lines = [path] if path.is_file() else sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")])
    if all(tables.values()):
        readers = {name: _table_reader(name, files) for name, files in tables.items()}
        return ScoreFiles(readers["scores"], readers["documents"], readers["queries"], _read_provenance(path))
    if any(tables.values()) or not lines:
        found = ", ".join(name for name, files in tables.items() if files) or "none of them"
        raise ScoreSetError(
            f"{path} holds no set of scores: expected documents.parquet, queries.parquet and scores.parquet (or shards NAME-*.parquet, "
            f"NAME/*.parquet), or FlagEmbedding's *.jsonl; found of the three tables: {found}"
        )
    return ScoreFiles(lambda: _read_lines(lines))


def _files_of(folder: Path, name: str) -> list[Path]:
    return sorted({each for end in (".parquet", "-*.parquet", "/*.parquet") for each in folder.glob(f"{name}{end}")})


def _read_provenance(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScoreSetError(
            f"{path} cannot be read: {error}; expected a JSON object; mend it, or move it away"
        ) from error
    if not isinstance(found, dict):
        raise ScoreSetError(f"{path} holds {type(found).__name__}, expected a JSON object; mend it, or move it away")
    return found


def _table_reader(table: str, files: Sequence[Path]) -> Callable[[], Iterator[pa.Table]]:
    """What reads a table of shards; the columns of each shard are looked at now."""
    chosen = [_choose_columns(table, path) for path in files]

    def read() -> Iterator[pa.Table]:
        for path, columns in zip(files, chosen, strict=True):
            try:
                for batch in _batches(path, columns):
                    rows = pa.Table.from_batches([batch])
                    yield _flatten(path, rows) if table == "scores" else rows
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
                raise _damaged(path, error) from error

    return read


def _batches(path: Path, columns: Mapping[str, ds.Expression]) -> Iterator[pa.RecordBatch]:
    """Row group by row group: of a whole file pyarrow decodes further and further ahead of its reader, whatever its readahead."""
    for fragment in ds.dataset(path, format="parquet").get_fragments():
        for group in fragment.split_by_row_group():
            yield from group.to_batches(columns=dict(columns), batch_size=_ROWS_PER_BATCH)


def _choose_columns(table: str, path: Path) -> dict[str, ds.Expression]:
    """Our name -> the column of this file."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from error
    found: dict[str, ds.Expression] = {}
    for name, known in _COLUMNS[table].items():
        column = next((each for each in known if each in schema.names), None)
        if column is None:
            raise ScoreSetError(
                f"{path} has no column {' or '.join(known)}: it has {', '.join(schema.names)}; rename the column that is meant"
            )
        value = pa.float64() if name == "score" else pa.string()
        is_nested = pa.types.is_nested(schema.field(column).type)
        found[name] = pc.field(column).cast(pa.list_(value) if is_nested else value)
    if table == "documents" and "title" in schema.names:  # as `Document.content`
        title = pc.field("title").cast(pa.string())
        joined = pc.binary_join_element_wise(title, found["text"], " ")
        found["text"] = pc.if_else(title.is_valid() & (title != ""), joined, found["text"])
    return found


def _damaged(path: Path, error: Exception) -> ScoreSetError:
    return ScoreSetError(f"{path} cannot be read: {error}; expected a whole Parquet file: copy it again")


def _flatten(path: Path, rows: pa.Table) -> pa.Table:
    """A row per pair, where a row has lists. Raises `ScoreSetError` where they differ in length."""
    are_lists = [pa.types.is_list(rows.schema.field(name).type) for name in ("document_id", "score")]
    if not any(are_lists):
        return rows
    if not all(are_lists):
        raise ScoreSetError(
            f"{path}: of documents and scores one is a list and the other is not, expected both or neither"
        )
    lengths = [pc.fill_null(pc.list_value_length(rows[name]), 0) for name in ("document_id", "score")]
    differ = pc.not_equal(*lengths)
    if pc.any(differ).as_py():
        first = rows.filter(differ)["query_id"][0].as_py()
        raise ScoreSetError(
            f"{path}: {pc.sum(differ).as_py():,} queries have not one score for each document, the first is {first!r}; expected lists "
            "of equal length: write the set again"
        )
    rows = rows.combine_chunks()
    of_query = pc.list_parent_indices(rows["document_id"])
    return pa.table(
        {
            "query_id": rows["query_id"].take(of_query),
            "document_id": pc.list_flatten(rows["document_id"]),
            "score": pc.list_flatten(rows["score"]),
        }
    )


def _read_lines(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """Pairs of FlagEmbedding's lines. Raises `MalformedRecordError` after a file that has lines of another form."""
    for path in paths:
        faults, rows = Faults(path), list[tuple[str, str, float]]()
        for number, text in iter_lines(path, faults):
            with faults.kept():
                rows += _pairs_of_line(path, number, text)
            if len(rows) >= _PAIRS_PER_BATCH:
                yield _as_table(rows)
                rows = []
        faults.raise_any()
        yield _as_table(rows)


def _pairs_of_line(path: Path, number: int, text: str) -> list[tuple[str, str, float]]:
    expected = "a JSON object with query, pos, neg, and one number in pos_scores and neg_scores for each text"
    try:
        line = json.loads(text)
        query, pairs = line["query"], list[tuple[str, str, float]]()
        for name in ("pos", "neg"):
            documents = line.get(name) or []
            pairs += [(query, d, float(s)) for d, s in zip(documents, line.get(f"{name}_scores") or [], strict=True)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise malformed(path, number, expected, text) from error
    if not all(isinstance(each, str) for pair in pairs for each in pair[:2]):
        raise malformed(path, number, expected, text)
    return pairs


def _as_table(rows: Sequence[tuple[str, str, float]]) -> pa.Table:
    queries, documents, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "query_id": pa.array(queries, pa.string()),
            "document_id": pa.array(documents, pa.string()),
            "score": pa.array(scores, pa.float64()),
        }
    )
