"""Rows of documents, queries and judgements under our column names, all strings (`sources/columns.py`), as `Parts`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from distill_assets.errors import MalformedRecordError, SourceError
from distill_assets.records import Document, Qrel
from distill_assets.sources.base import AskedQuery, Parts, require_split
from distill_assets.sources.clicks import parts_of_clicks
from distill_assets.sources.columns import Origin, Part
from distill_assets.sources.parsing import integer_of

Rows = Callable[[], Iterator[pa.Table]]  # reads from the start each time; raises `SourceError`
Judged = dict[str, set[str]]
_WHERE_ABSENT = {"relevance": "1"}  # a judgement without a grade is positive
_ROWS = 4096


@dataclass(frozen=True)
class Table:
    """The rows of one part, and what errors call them."""

    origin: Origin
    rows: Rows

    def records(self, *columns: str) -> Iterator[tuple[str, ...]]:
        """The values of these columns, row by row; defaults for a column that is not there. Raises `SourceError` without a row."""
        is_empty = True
        for table in self.rows():
            for batch in table.to_batches(_ROWS):
                is_empty = is_empty and not batch.num_rows
                yield from zip(*(_values(batch, name) for name in columns), strict=True)
        if is_empty:
            raise SourceError(
                f"{self.origin.name} gives no row: expected at least one; correct it, or leave the part out"
            )


def _values(batch: pa.RecordBatch, name: str) -> list[str]:
    if name not in batch.schema.names:
        return [_WHERE_ABSENT.get(name, "")] * batch.num_rows
    found: list[str] = batch.column(name).to_pylist()
    return found


@dataclass(frozen=True)
class Documents:
    """Documents that are read anew whenever they are gone through."""

    tables: tuple[Table, ...]

    def __iter__(self) -> Iterator[Document]:
        """Raises `SourceError` where a table cannot be read, or is empty."""
        for table in self.tables:
            for doc_id, title, text in table.records("doc_id", "title", "text"):
                yield Document(doc_id, title, text)


def parts_of(tables: Mapping[Part, Iterable[tuple[str, Table]]]) -> Parts:
    """What the tables of each part say together. Documents are streamed; queries and judgements are held in memory.

    A table's name is the split of its judgements where no column `split` says another one; empty where it says nothing.

    Raises:
        MalformedRecordError: a grade is no integer, or a pair has two grades.
        SourceError: a split is unknown, or a table cannot be read or is empty.
    """
    judged: Judged = {}
    queries = [query for _, table in tables.get("queries", ()) for query in _queries(table, judged)]
    grades: dict[tuple[str, str], int] = {}
    for name, table in tables.get("judgements", ()):
        _judge(name, table, grades, judged)
    parts = Parts(
        documents=Documents(tuple(table for _, table in tables.get("documents", ()))),
        queries=queries,
        qrels=[Qrel(*pair, relevance) for pair, relevance in grades.items()],
        judged=sorted(judged.items()),
    )
    clicks = [row for _, table in tables.get("clicks", ()) for row in _clicks(table)]
    return parts_of_clicks(clicks, parts) if clicks else parts


def _clicks(table: Table) -> Iterator[tuple[str, dict[str, str]]]:
    columns = ("query_id", "query", "doc_id", "shown", "clicked")
    for number, values in enumerate(table.records(*columns)):
        yield f"{table.origin.name}, row {number} counted from 0", dict(zip(columns, values, strict=True))


def _queries(table: Table, judged: Judged) -> Iterator[AskedQuery]:
    for query_id, text, split, label in table.records("query_id", "text", "split", "group"):
        if named := require_split(split.strip(), table.origin.name):
            judged.setdefault(named, set()).add(query_id)
        yield AskedQuery(query_id, text, label.strip())


def _judge(name: str, table: Table, grades: dict[tuple[str, str], int], judged: Judged) -> None:
    columns = ("query_id", "doc_id", "relevance", "split")
    for number, (query_id, doc_id, relevance, split) in enumerate(table.records(*columns)):
        grade = _grade(table.origin, number, relevance)
        if grades.setdefault((query_id, doc_id), grade) != grade:
            raise MalformedRecordError(
                f"{table.origin.name}, row {number} counted from 0: relevance {grade} for ({query_id!r}, {doc_id!r}), judged "
                f"{grades[query_id, doc_id]} before; expected one grade for each pair: keep one of the rows"
            )
        judged.setdefault(require_split(split.strip(), table.origin.name) or name, set()).add(query_id)


def _grade(origin: Origin, number: int, relevance: str) -> int:
    grade = integer_of(relevance.strip())
    if grade is None:
        raise MalformedRecordError(
            f"{origin.name}, row {number} counted from 0: relevance {relevance!r}, expected an integer grade such as 0, 1 or 2: "
            "round it at its source"
        )
    return grade
