"""Lines of a BEIR folder as records: texts as JSON, judgements as columns. All faults of a file are told together."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distill_assets.errors import SourceError
from distill_assets.records import Qrel
from distill_assets.sources.files import PARQUET, Faults, iter_lines, iter_parquet, malformed

# Names that a header gives the three columns that are read, as BEIR, TREC and the sets of the hub write them.
_COLUMNS: tuple[frozenset[str], ...] = (
    frozenset({"query-id", "query_id", "queryid", "qid", "query"}),
    frozenset({"corpus-id", "corpus_id", "doc-id", "doc_id", "docid", "did", "pid", "document-id", "document_id"}),
    frozenset({"score", "relevance", "rel", "label", "grade"}),
)
_TREC = (0, 2, 3)  # of `qid 0 docid rel`
_SHARD = re.compile(r"-[0-9]+(-of-[0-9]+)?$")  # of `test-00000-of-00001.parquet`
_TREC_ITERATIONS = frozenset({"0", "Q0", "q0"})  # the second of TREC's four columns
_QUOTED = re.compile(r'"[^"]+"')
_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", re.IGNORECASE)
_MAX_RUN_LINE = 1000  # characters; a longer line is a document
_LIKE = '{"_id": "1", "text": "..."}'
# Nine digits fit the _INTEGER column of the warehouse; 1.0 is integral.
_INTEGER = re.compile(r"([+-]?[0-9]{1,9})(\.0*)?")


def read_texts(path: Path, *, has_labels: bool = False) -> Iterator[tuple[str, str, str, str]]:
    """Id, title, text and label of every record of a corpus or queries file; the label is empty where a file or record has none.

    Raises:
        MalformedRecordError: a record is none, or the file is one array: then no line of it is a record.
        SourceError: there is no record.
    """
    is_empty, faults = True, Faults(path)
    for number, record in _iter_records(path, faults):
        is_empty, found = False, None
        with faults.kept():
            record_id = _require_id(path, number, record)
            label = _label(path, number, record) if has_labels else ""
            found = (record_id, _string(path, number, record, "title"), _string(path, number, record, "text"), label)
        if found:
            yield found
    faults.raise_any()
    if is_empty:
        raise SourceError(f"{path} holds no record: fill it, or delete it if this batch brings none")


def _iter_records(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and value of each line's object, or of each row of a Parquet file."""
    if path.name.endswith(PARQUET):
        yield from iter_parquet(path)
        return
    is_first = True
    for number, line in iter_lines(path, faults):
        if is_first and line.lstrip().startswith("["):
            raise malformed(path, number, f"one JSON object a line like {_LIKE}, not an array of them", line)
        is_first, found = False, None
        with faults.kept():
            found = parse_object(path, number, line)
        if found is not None:
            yield number, found


def parse_object(path: Path, number: int, line: str, like: str = _LIKE) -> dict[str, Any]:
    """The JSON object in a line; `like` is an example of what is expected. Raises `MalformedRecordError`."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        told = "a second value begins" if error.msg == "Extra data" else error.msg
        expected = f"one JSON object like {like} ({told} at character {error.pos + 1})"
        raise malformed(path, number, expected, line[max(0, error.pos - 20) :]) from error
    except (ValueError, RecursionError) as error:
        raise malformed(path, number, f"one JSON object like {like}", line) from error
    if not isinstance(record, dict):
        raise malformed(path, number, f"one JSON object like {like}", line)
    return record


def _require_id(path: Path, number: int, record: dict[str, Any]) -> str:
    found = record.get("_id")
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str) or not found.strip():
        raise malformed(path, number, 'a string or integer under "_id"', json.dumps(record, default=str))
    return require_encodable(path, number, "_id", found)


def _string(path: Path, number: int, record: dict[str, Any], key: str) -> str:
    """The string under `key`; a title may be absent or null, a text may not."""
    found = record.get(key)
    if key == "title" and found is None:
        return ""
    if not isinstance(found, str):
        raise malformed(path, number, f'a string under "{key}"', json.dumps(record, default=str))
    return require_encodable(path, number, key, found)


def _label(path: Path, number: int, record: dict[str, Any]) -> str:
    """What stands under `group`, or under `group` of `metadata`; empty where nothing does."""
    metadata = record.get("metadata")
    found = record.get("group", metadata.get("group") if isinstance(metadata, dict) else None)
    if found is None:
        return ""
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str):
        raise malformed(path, number, 'a string or integer under "group", or none', json.dumps(record, default=str))
    return require_encodable(path, number, "group", found.strip())


def require_encodable(path: Path, number: int, key: str, text: str) -> str:
    """The text itself. Raises `MalformedRecordError` where no hash, database or tokenizer could take it."""
    # JSON allows "\ud800" alone.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        expected = f'"{key}" without half a surrogate pair'
        raise malformed(path, number, expected, text[error.start : error.start + 1]) from error
    return text


def read_judgements(files: Iterable[Path]) -> tuple[list[Qrel], list[tuple[str, set[str]]]]:
    """All judgements of a batch, each pair once, and for each file its stem and the queries that it judges."""
    relevance_of: dict[tuple[str, str], int] = {}
    judged = []
    for path in files:
        query_ids, faults = set[str](), Faults(path)
        for number, qrel in _iter_qrels(path, faults):
            query_ids.add(qrel.query_id)
            known = relevance_of.setdefault((qrel.query_id, qrel.doc_id), qrel.relevance)
            with faults.kept():
                _require_same(path, number, qrel, known)
        faults.raise_any()
        judged.append((_SHARD.sub("", path.name.split(".")[0]), query_ids))
    return [Qrel(*pair, relevance) for pair, relevance in relevance_of.items()], judged


def is_run(path: Path) -> bool:
    """Whether the first line is one of TREC's ranked results, `qid Q0 docid rank score tag`, or a header of such lines."""
    if path.name.endswith(PARQUET):
        return False
    try:
        line = next((line for _, line in iter_lines(path, Faults(path))), "")
        cells = _cells(path, line) if len(line) < _MAX_RUN_LINE else []
    except SourceError:
        return False
    if len(cells) != 6:
        return False
    is_result = cells[1] in _TREC_ITERATIONS and cells[3].isdecimal() and _NUMBER.fullmatch(cells[4]) is not None
    return is_result or "rank" in [cell.casefold() for cell in cells]


def _require_same(path: Path, number: int, qrel: Qrel, known: int) -> None:
    if known != qrel.relevance:
        expected = f"score {known} for ({qrel.query_id!r}, {qrel.doc_id!r}) as judged before"
        raise malformed(path, number, expected, str(qrel.relevance))


def _iter_qrels(path: Path, faults: Faults) -> Iterator[tuple[int, Qrel]]:
    """Line number and judgement; rows `query-id corpus-id score`, columns by name where there is a header, or TREC rows.

    Raises:
        MalformedRecordError: the first line does not say what the columns are: then no other line can be read.
    """
    columns: tuple[int, ...] = ()
    width = 0
    for number, cells, line in _iter_cells(path, faults):
        if not columns:
            width, columns = len(cells), _header(path, number, cells, line)
            if columns:
                continue
            columns = _columns_without_header(path, number, cells, line)
        found = None
        with faults.kept():
            _require_columns(path, number, cells, columns, width, line)
            found = _judgement(path, number, [cells[column] for column in columns])
        if found is not None:
            yield number, found


def _iter_cells(path: Path, faults: Faults) -> Iterator[tuple[int, list[str], str]]:
    """Number, cells and text of each line; of a Parquet file the columns' names first, then each row."""
    if not path.name.endswith(PARQUET):
        yield from ((number, _cells(path, line), line) for number, line in iter_lines(path, faults))
        return
    for number, row in iter_parquet(path):
        for cells in ([*row] if number == 1 else [], ["" if value is None else str(value) for value in row.values()]):
            if cells:
                yield number, cells, " ".join(cells)


def _require_columns(
    path: Path, number: int, cells: Sequence[str], columns: tuple[int, ...], width: int, line: str
) -> None:
    if len(cells) != width or not all(cells[column] for column in columns):
        raise malformed(path, number, f"{width} columns as in the lines before (`query-id corpus-id score`)", line)
    if width == 4 and columns == _TREC and cells[1] not in _TREC_ITERATIONS:
        raise malformed(path, number, "0 or Q0 in the second of four columns, as in TREC's `qid 0 docid rel`", line)


def _judgement(path: Path, number: int, cells: Sequence[str]) -> Qrel:
    query_id, doc_id, score = cells
    grade = integer_of(score)
    if grade is None:
        raise malformed(path, number, "an integer score", score)
    return Qrel(query_id, doc_id, grade)


def integer_of(text: str) -> int | None:
    """The integer that a text says, of nine digits at most; None where it says none."""
    found = _INTEGER.fullmatch(text)
    return int(found[1]) if found else None


def _cells(path: Path, line: str) -> list[str]:
    """The columns of a line. Spreadsheets of some countries write semicolons, R quotes texts between tabs."""
    if ".csv" in path.name.casefold():
        delimiter = "," if "," in line else ";"
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
    return [cell[1:-1] if _QUOTED.fullmatch(cell) else cell for cell in cells]


def _header(path: Path, number: int, cells: Sequence[str], line: str) -> tuple[int, ...]:
    """Places of query, document and score as the header names them; nothing where the line is a judgement.

    Raises:
        MalformedRecordError: the line ends with no number, and names other columns.
    """
    names = [cell.casefold() for cell in cells]
    found = [[place for place, name in enumerate(names) if name in known] for known in _COLUMNS]
    if all(len(places) == 1 for places in found):
        return tuple(places[0] for places in found)
    if any(_INTEGER.fullmatch(cell) for cell in cells[2:]):
        return ()
    raise malformed(
        path,
        number,
        "a header that names query-id, corpus-id and score, or a judgement with an integer score, its columns parted by tabs "
        "(by commas or semicolons in a .csv)",
        line,
    )


def _columns_without_header(path: Path, number: int, cells: Sequence[str], line: str) -> tuple[int, ...]:
    if len(cells) == 3:
        return (0, 1, 2)
    if len(cells) == 4 and cells[1] in _TREC_ITERATIONS:
        return _TREC
    raise malformed(
        path, number, "`query-id corpus-id score`, TREC's `qid 0 docid rel`, or a header that names more columns", line
    )
