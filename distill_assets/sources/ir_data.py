"""`ir_datasets:ID`: a collection that the package `ir_datasets` downloads into a cache of its own and checks there."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa

from distill_assets.errors import SettingsError, SourceError
from distill_assets.records import fingerprint
from distill_assets.sources.base import SPLIT_OF_NAME, Options, Parts, require_package
from distill_assets.sources.columns import Origin, Part
from distill_assets.sources.rows import Table, parts_of
from distill_assets.sources.strings import as_strings

READER_VERSION = "1"  # raised whenever the same data set would give other parts
_ROWS_PER_BATCH = 4096


@dataclass(frozen=True)
class IrDataset:
    """One batch: a data set with the judgements of its subsets train, dev and test, where it has them."""

    name: str

    def look(self) -> str | None:
        """None: what the package has downloaded is complete."""
        return None

    def fingerprint(self) -> str:
        """The id and the version of the package, which says by their hashes which files an id stands for."""
        return fingerprint(READER_VERSION, self.name, _package().__version__)

    def read(self) -> Parts:
        """Read the data set; documents whenever they are gone through. Raises `SourceError`."""
        whole = _load(self.name)
        subsets = {self.name.rpartition("/")[2]: whole} | _subsets(self.name)
        judged, asked = _having(subsets, "qrels"), _having(subsets, "queries")
        found: dict[Part, list[tuple[str, Table]]] = {}
        if whole.has_docs():
            found["documents"] = [("", self._table("documents", partial(_documents, whole)))]
        if asked:
            found["queries"] = [("", self._table("queries", partial(_queries, list(asked.values()))))]
        if judged:
            found["judgements"] = [
                (name, self._table("judgements", partial(_judgements, subset))) for name, subset in judged.items()
            ]
        if not found:
            raise SourceError(f"ir_datasets:{self.name} has no documents, queries or judgements: name another id")
        unread = {} if judged else {self.name: _WITHOUT_JUDGEMENTS}
        return replace(parts_of(found), unread=unread)

    def _table(self, part: Part, records: Callable[[], Iterator[dict[str, Any]]]) -> Table:
        origin = Origin(part, f"ir_datasets:{self.name}", f"data.{part}.columns")
        return Table(origin, partial(_rows, origin, records))


_WITHOUT_JUDGEMENTS = (
    "ir_datasets has no judgements under this id, nor under its subsets train, dev and test: name an id that has some (ir_datasets "
    "lists them), or go on without"
)


def open_ir_datasets(name: str, options: Options) -> IrDataset:
    """The reader of a data set. Raises `SettingsError` where the package is missing or knows no such id."""
    _load(name)
    return IrDataset(name)


def _package() -> Any:
    return require_package("ir_datasets", "ir_datasets:ID", "ir-datasets")


def _load(name: str) -> Any:
    try:
        return _package().load(name)
    except KeyError as error:
        near = get_close_matches(name, _package().registry, 3, 0.5)
        raise SettingsError(
            f"ir_datasets has no data set {name!r}: did you mean {', '.join(near) or 'one of https://ir-datasets.com'}?"
        ) from error


def _subsets(name: str) -> dict[str, Any]:
    """Direct subsets that are named as a split is."""
    ids = [known for known in _package().registry if known.rpartition("/")[0] == name]
    return {last: _load(known) for known in sorted(ids) if (last := known.rpartition("/")[2]) in SPLIT_OF_NAME}


def _having(subsets: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {name: subset for name, subset in subsets.items() if getattr(subset, f"has_{kind}")()}


def _rows(origin: Origin, records: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[pa.Table]:
    def tables() -> Iterator[pa.Table]:
        rows = records()
        while batch := list(islice(rows, _ROWS_PER_BATCH)):
            yield pa.Table.from_pylist(batch)

    try:
        yield from as_strings(origin, tables())
    except OSError as error:  # of a download, or of the cache
        raise SourceError(
            f"{origin.name} cannot be read: {error}; check the network and the cache of ir_datasets (IR_DATASETS_HOME)"
        ) from error


def _documents(dataset: Any) -> Iterator[dict[str, Any]]:
    for found in dataset.docs_iter():
        has_both = hasattr(found, "title") and hasattr(found, "text")
        text = found.text if has_both else found.default_text()
        yield {"doc_id": found.doc_id, "title": found.title if has_both else "", "text": text}


def _queries(subsets: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Each query once: the whole has those of its subsets, too."""
    seen: set[str] = set()
    for subset in subsets:
        for found in subset.queries_iter():
            if found.query_id not in seen:
                seen.add(found.query_id)
                yield {"query_id": found.query_id, "text": found.default_text()}


def _judgements(dataset: Any) -> Iterator[dict[str, Any]]:
    for found in dataset.qrels_iter():
        yield {"query_id": found.query_id, "doc_id": found.doc_id, "relevance": found.relevance}
