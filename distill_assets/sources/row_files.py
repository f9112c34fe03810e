"""Rows of a table in a file, as dictionaries: JSON Lines, a JSON array, CSV, TSV (each also .gz) and Parquet.

A cell of TSV is taken as it stands, because MS MARCO's texts hold single quotes; only one that is quoted as a whole is unquoted.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill_assets.errors import MalformedRecordError, SourceError
from distill_assets.sources.files import (
    GZIP,
    PARQUET,
    Faults,
    iter_lines,
    iter_parquet,
    malformed,
    stamp,
)
from distill_assets.sources.parsing import integer_of, parse_object, require_encodable

_LINES, _ARRAY, _CSV, _TSV = (".jsonl", ".ndjson"), ".json", ".csv", ".tsv"
ENDINGS = (*_LINES, _ARRAY, _CSV, _TSV, PARQUET)
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
csv.field_size_limit(2**31 - 1)  # by default a cell above 131,072 characters is an error

Row = Mapping[str, Any]


def ending_of(path: Path) -> str:
    """The ending, in small letters, without `.gz`."""
    return Path(path.name.casefold().removesuffix(GZIP)).suffix


def is_table(path: Path) -> bool:
    """Whether `iter_rows` reads files of this name."""
    return ending_of(path) in ENDINGS


def iter_rows(path: Path, faults: Faults) -> Iterator[tuple[int, Row]]:
    """Number and cells by column of every row: the line where rows are lines, else the row, from 1.

    Raises:
        MalformedRecordError: the file as a whole is not of its format. What is wrong with one row is a fault.
        SourceError: the file cannot be opened.
    """
    ending = ending_of(path)
    if ending in _LINES:
        yield from _of_lines(path, faults)
    elif ending == _ARRAY:
        yield from _of_array(path, faults)
    elif ending == PARQUET:
        yield from iter_parquet(path)
    else:
        yield from _of_cells(path, iter_cells(path, faults), faults)


def first_columns(path: Path) -> tuple[str, ...]:
    """Columns of the first row, the cells of the first line of CSV and TSV; none where the file is empty or not of its format."""
    return _first_columns(path, stamp(path))


@lru_cache(maxsize=4096)
def _first_columns(path: Path, seen: str) -> tuple[str, ...]:
    """Read again only when size or time moved: a sensor asks this of every folder of an inbox."""
    rows = iter_cells if ending_of(path) in (_CSV, _TSV) else iter_rows
    try:
        return tuple(next((row for _, row in rows(path, Faults(path))), ()))
    except SourceError:
        return ()


def _of_lines(path: Path, faults: Faults) -> Iterator[tuple[int, Row]]:
    for number, line in iter_lines(path, faults):
        found = None
        with faults.kept():
            found = parse_object(path, number, line, '{"column": "value"}')
        if found is not None:
            yield number, found


def _of_array(path: Path, faults: Faults) -> Iterator[tuple[int, Row]]:
    """Objects of one array. Many write JSON Lines into a .json as well."""
    try:
        found = read_json(path)
    except MalformedRecordError:
        yield from _of_lines(path, faults)
        return
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise malformed(path, 1, "an array of objects, or one object a line", json.dumps(found))
    yield from enumerate(found, start=1)


def read_json(path: Path) -> Any:
    """The one value of a JSON file. Raises `MalformedRecordError` where it is none."""
    faults = Faults(path)
    text = "\n".join(line for _, line in iter_lines(path, faults, with_blank=True))
    faults.raise_any()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise malformed(path, error.lineno, f"one JSON value ({error.msg})", text[max(0, error.pos - 20) :]) from error
    except (ValueError, RecursionError) as error:
        raise malformed(path, 1, "one JSON value", text) from error


def iter_cells(path: Path, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of every line of a CSV or TSV file; a quoted cell of CSV may hold line ends."""
    if ending_of(path) != _CSV:
        for number, line in iter_lines(path, faults):
            yield number, [_unquoted(cell) for cell in line.split("\t")]
        return
    first = next((line for _, line in iter_lines(path, Faults(path))), "")
    lines = (f"{line}\n" for _, line in iter_lines(path, faults, with_blank=True))
    reader = csv.reader(lines, delimiter="," if "," in first else ";", strict=True)
    try:
        yield from ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells))
    except csv.Error as error:
        raise malformed(path, reader.line_num, f"cells parted by commas or semicolons ({error})", "a line") from error


def _unquoted(cell: str) -> str:
    found = cell.strip()
    return found[1:-1].replace('""', '"') if len(found) > 1 and _QUOTED.fullmatch(found) else found


def _of_cells(path: Path, cells: Iterator[tuple[int, list[str]]], faults: Faults) -> Iterator[tuple[int, Row]]:
    _, header = next(cells, (0, []))
    for number, found in cells:
        if len(found) == len(header):
            yield number, dict(zip(header, found, strict=True))
            continue
        with faults.kept():
            raise malformed(path, number, f"{len(header)} columns as in the first line", " | ".join(found))


def text_of(path: Path, number: int, row: Row, column: str) -> str:
    """The text of a cell without white space around it. Raises `MalformedRecordError` where it holds none."""
    found = row.get(column)
    if not isinstance(found, str) or not found.strip():
        raise malformed(path, number, f'text under "{column}"', repr(found))
    return require_encodable(path, number, column, found.strip())


def whole_number_of(path: Path, number: int, row: Row, column: str) -> int:
    """The whole number of a cell, 1.0 too. Raises `MalformedRecordError` for anything else."""
    value = row.get(column)
    found = integer_of(str(int(value) if isinstance(value, bool) else value).strip())
    if found is None:
        raise malformed(path, number, f'a whole number under "{column}"', repr(value))
    return found


def one_of(names: Sequence[str], columns: Iterable[str]) -> list[str]:
    """Those columns that have one of these names, in any case."""
    return [column for column in columns if column.casefold() in names]
