"""Clicks that are counted already: query, document, how often it was shown and clicked. They train, and judge nothing.

A document that was clicked is a positive of grade 1, for training alone, where its click rate is at least half of the query's
best. The rate is clicked / (shown + 10): the ten keep a document that was shown once and clicked once below one that was clicked
200 times in 1,000. Both numbers are chosen, not measured. Rates are not corrected for position: what stood on top was clicked
more often because it stood there (Joachims, Swaminathan, Schnabel, arXiv 1608.04468). So they never go into dev or test.

A query that people judged, under any id that has its text, keeps their judgements alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distill_assets.errors import MalformedRecordError
from distill_assets.records import Qrel, hash_text, normalise
from distill_assets.sources.base import AskedQuery, Parts
from distill_assets.sources.files import Faults
from distill_assets.sources.parsing import integer_of
from distill_assets.sources.row_files import Row, iter_rows

_SHARE_OF_BEST = 0.5
_ADDED_SHOWN = 10


def read_clicks(path: Path) -> Iterator[tuple[str, Row]]:
    """Place and cells of the rows of a file of clicks. Faults of lines are told together, after the last row."""
    faults = Faults(path)
    yield from ((f"{path}, row {number}", row) for number, row in iter_rows(path, faults))
    faults.raise_any()


@dataclass
class _Clicked:
    """What was clicked for one query: doc_id -> times shown, times clicked. `ids` are all ids that have its text."""

    query: AskedQuery
    ids: set[str]
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, doc_id: str, shown: int, clicked: int) -> None:
        before = self.counts.get(doc_id, (0, 0))
        self.counts[doc_id] = before[0] + shown, before[1] + clicked

    def positives(self) -> list[Qrel]:
        rates = {doc_id: clicked / (shown + _ADDED_SHOWN) for doc_id, (shown, clicked) in self.counts.items()}
        lowest = _SHARE_OF_BEST * max(rates.values())
        return [Qrel(self.query.query_id, doc_id, 1) for doc_id, rate in rates.items() if rate and rate >= lowest]


def parts_of_clicks(rows: Iterable[tuple[str, Row]], parts: Parts) -> Parts:
    """The parts, and what clicks add: positives, queries that are not there yet, and ids of queries that train alone.

    Args:
        rows: what errors call a row ("clicks.tsv, row 3"), and its cells: query_id or query, or both; doc_id, shown, clicked.
            Counts of equal pairs add up.
        parts: what the batch brings beside. A click finds its query there by its id, else by its text.

    Raises:
        MalformedRecordError: a cell is missing, a count is no whole number or negative, more was clicked than shown; or a row
            names a query by an id that the batch does not hold, without its text.
    """
    known: dict[str, _Clicked] = {}
    text_of_id = {query.query_id: normalise(query.text) for query in parts.queries}
    for asked in parts.queries:
        known.setdefault(text_of_id[asked.query_id], _Clicked(asked, set())).ids.add(asked.query_id)
    for where, row in rows:
        query_id, text, doc_id, shown, clicked = _click(where, row)
        key = text_of_id.get(query_id) or normalise(text)
        if not key:
            raise MalformedRecordError(
                f"{where}: the query {query_id!r} is not among those of this batch; expected its text under query beside "
                "the id, or clicks of the batch's own queries: add the text, or remove the row"
            )
        new = AskedQuery(query_id or hash_text(text), text)
        known.setdefault(key, _Clicked(new, {new.query_id})).add(doc_id, shown, clicked)
    by_people = {query_id for _, ids in parts.judged for query_id in ids}
    found = [query for query in known.values() if query.counts and query.ids.isdisjoint(by_people)]
    new_queries = [query.query for query in found if query.query.query_id not in text_of_id]
    return replace(
        parts,
        queries=[*parts.queries, *new_queries],
        qrels=[*parts.qrels, *(qrel for query in found for qrel in query.positives())],
        train_only=parts.train_only.union(*(query.ids for query in found)),
    )


def _click(where: str, row: Row) -> tuple[str, str, str, int, int]:
    """Query id, text (one of the two may be empty), doc_id, shown and clicked of one row, checked."""
    query_id, text, doc_id = (_text(row.get(column)) for column in ("query_id", "query", "doc_id"))
    shown, clicked = (integer_of(_text(row.get(column))) for column in ("shown", "clicked"))
    if not (query_id or text) or not doc_id or shown is None or clicked is None:
        raise MalformedRecordError(
            f"{where}: expected query or query_id, doc_id, and whole numbers under shown and clicked, found {dict(row)}; correct or "
            "remove the row"
        )
    if clicked < 0 or shown < max(clicked, 1):
        raise MalformedRecordError(
            f"{where}: {doc_id!r} was shown {shown} times and clicked {clicked} times; expected it to be shown, and no more "
            "clicks than that: count both over the same time, or remove the row"
        )
    return query_id, text, doc_id, shown, clicked


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()
