"""The columns that a table of documents, queries, judgements or clicks has, and its values as strings.

Tables, statements, data sets of the hub and a team's own assets all come as Arrow tables, and pass here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from distill_assets.errors import SourceError

# Pairs and a source bring a whole batch, from assets of a team (`sources/upstream.py`); settings describe the other parts.
Part = Literal["documents", "queries", "judgements", "clicks", "pairs", "source"]
PARTS: tuple[Part, ...] = ("documents", "queries", "judgements", "clicks")
# Column of a part -> whether it must be there. Without `relevance` a judgement is positive, grade 1.
COLUMNS: dict[Part, dict[str, bool]] = {
    "documents": {"doc_id": True, "title": False, "text": True},
    "queries": {"query_id": True, "text": True, "split": False, "group": False},
    "judgements": {"query_id": True, "doc_id": True, "relevance": False, "split": False},
    "clicks": {"query_id": False, "query": False, "doc_id": True, "shown": True, "clicked": True},
    "pairs": {"query": True, "positive": True, "negative": False},
    "source": {},
}
_IDS = ("doc_id", "query_id")
_BREAKS = "[\\t\\r\\n]"  # what an id must not hold: a file of judgements is lines of columns


@dataclass(frozen=True)
class Origin:
    """Where the rows of one part come from, and which of their columns is what.

    Attributes:
        name: what errors call it.
        setting: the setting that holds the column map.
        columns: our column -> theirs, where the names differ.
    """

    part: Part
    name: str
    setting: str
    columns: Mapping[str, str] = field(default_factory=dict)

    def find(self, there: Sequence[str]) -> dict[str, str]:
        """Our columns that are there, each with the name it has there. Raises `SourceError` for a missing one."""
        found: dict[str, str] = {}
        for ours, is_needed in COLUMNS[self.part].items():
            theirs = self.columns.get(ours, ours)
            if theirs in there:
                found[ours] = theirs
            elif is_needed or ours in self.columns:
                near = get_close_matches(theirs, there, 1)
                guess = f" (did you mean {near[0]!r}?)" if near else ""
                raise SourceError(
                    f"{self.name} has no column {theirs!r} for {ours}{guess}: it has {', '.join(there)}; say in {self.setting} "
                    f"which of them is {ours}"
                )
        return found


def fault_of_columns(part: Part, columns: Mapping[str, str]) -> str | None:
    """What is wrong with the keys of a column map; None where each is a column of ours."""
    unknown = sorted(set(columns) - set(COLUMNS[part]))
    if not unknown:
        return None
    return f"names {', '.join(unknown)}: a column map goes from our names ({', '.join(COLUMNS[part])}) to those"


def as_strings(origin: Origin, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows under our column names, all values as strings, table by table; an absent text is empty.

    Raises:
        SourceError: a needed column is missing, an id is missing (all of them are counted first), or a value is no text or number.
    """
    first, faults = 0, _Missing(origin)
    for table in tables:
        found = origin.find(table.column_names)
        rows = pa.table({ours: _cast(origin, ours, theirs, table[theirs]) for ours, theirs in found.items()})
        for ours in (
            name for name in _IDS if COLUMNS[origin.part].get(name)
        ):  # a click's query may have a text instead
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
