"""The values of Arrow tables as strings, under our column names.

Tables, statements, data sets of the hub and a team's own assets all pass here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from distill_assets.errors import SourceError
from distill_assets.sources.columns import COLUMNS, Origin

_IDS = ("doc_id", "query_id")
_BREAKS = "[\\t\\r\\n]"  # what an id must not hold: a file of judgements is lines of columns


def as_strings(origin: Origin, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows under our column names, all values as strings, table by table; an absent text is empty.

    Raises:
        SourceError: a needed column is missing, an id is missing (all of them are counted first), or a value is no text or number.
    """
    first, faults = 0, _Missing(origin)
    for table in tables:
        found = origin.find(table.column_names)
        rows = pa.table({ours: _cast(origin, ours, theirs, table[theirs]) for ours, theirs in found.items()})
        needed = (name for name in _IDS if COLUMNS[origin.part].get(name))  # a click's query may have a text instead
        for ours in needed:
            faults.add(found[ours], _absent(rows[ours]), first)
            _require_one_line(origin, found[ours], rows[ours])
        first += rows.num_rows
        if not faults.count:
            yield pa.table({ours: pc.fill_null(rows[ours], "") for ours in rows.column_names})
    faults.raise_any(first)


@dataclass
class _Missing:
    origin: Origin
    count: int = 0
    column: str = ""
    row: int = 0

    def add(self, column: str, absent: pa.ChunkedArray, first: int) -> None:
        number = pc.sum(absent).as_py() or 0
        if number and not self.count:
            self.column, self.row = column, first + pc.index(absent, True).as_py()
        self.count += number if column == self.column else 0

    def raise_any(self, num_rows: int) -> None:
        if self.count:
            raise SourceError(
                f"{self.origin.name}: {self.count} of {num_rows} rows have no {self.column}, first row {self.row} counted from 0; "
                "expected one in each: leave these rows out, or number them"
            )


def _absent(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(ids), ""), True)


def _cast(origin: Origin, ours: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        # pandas turns integers into floats where one was missing. A grade is judged where its row is known.
        if pa.types.is_floating(column.type) and ours != "relevance":
            column = column.cast(pa.int64())
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(
            f"{origin.name}: the column {name} is {column.type}, expected strings or integers: write it as text there ({error})"
        ) from error


def _require_one_line(origin: Origin, name: str, ids: pa.ChunkedArray) -> None:
    if len(broken := ids.filter(pc.fill_null(pc.match_substring_regex(ids, _BREAKS), False))):
        raise SourceError(
            f"{origin.name}: {name} = {broken[0].as_py()!r} holds a tab or a line break, which no id may: clean it at its source"
        )
