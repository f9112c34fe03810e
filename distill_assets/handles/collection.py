"""The collection: which batches make it up, what version each of its parts has, and one snapshot of what they say together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from distill_assets.errors import MissingPartitionError, SourceError
from distill_assets.evaluation.splits import leaked_queries
from distill_assets.quality.identity import is_same_document
from distill_assets.records import TEACHER, Split, fingerprint
from distill_assets.settings.values import INBOX, PYTHON_API, Settings
from distill_assets.sources import catalog
from distill_assets.sources.base import Rules, Source
from distill_assets.sources.beir import BeirSource
from distill_assets.sources.python_api import PythonApiSource
from distill_assets.storage.collection import BY_PEOPLE, EVALUATION, Collection, Judge, Labelling, changed_documents
from distill_assets.storage.tables import TABLES
from distill_assets.storage.warehouse import SliceInfo, Warehouse, slices_in

COLLECTION_TABLES = ("corpus", "queries", "qrels")
PAGE_JUDGEMENTS = "page_judgements"  # of people, on the page of `distill-assets judge`
_VIEWED = (
    *COLLECTION_TABLES,
    "query_labels",
    "generated_queries",
    "hard_negatives",
    "teacher_scores",
    "teacher_judgements",
)
Slices = Mapping[tuple[str, str], SliceInfo]


@dataclass(frozen=True)
class CollectionHandle:
    """A source and what was read from it into the warehouse.

    Attributes:
        labelling: what counts beside what people brought.
    """

    source: Source
    warehouse: Warehouse
    near_identical: float
    min_relevance: int = 1
    labelling: Labelling = BY_PEOPLE

    def batches(self) -> list[str]:
        """The batches that make up the collection, sorted: those the source has and that were read into the warehouse.

        A batch that has only just landed, could not be read, or did not pass a blocking check is not among them, so it holds up
        nobody. One that was read before and is broken now stays as it was read.
        """
        return self._whole(self._slices())

    def refused_by_checks(self) -> set[str]:
        """Batches that were read and did not pass a blocking check: their slice has no fingerprint of its inputs."""
        refused = {
            key
            for (table, key), info in self._slices().items()
            if not info.input_fingerprint and table in COLLECTION_TABLES
        }
        return refused & set(self.source.batches())

    def quarantined(self) -> dict[str, dict[str, Any]]:
        """Rows of the quarantine table by batch: what could not be read, and why; folders that are gone included.

        A row counts for the content that it was made from: one that was put back as it was is not read again, and not refused.
        """
        if not self.warehouse.exists():
            return {}
        rows = {row["batch"]: row for row in self.warehouse.read("quarantine").to_pylist()}
        there = set(self._there()) & rows.keys()
        moved = {batch for batch in there if self.source.fingerprint(batch) != rows[batch]["source_fingerprint"]}
        return {batch: row for batch, row in rows.items() if batch not in moved}

    def unreadable(self) -> dict[str, str]:
        """Batches in quarantine that are still there, and folders that can never be a batch, each with the reason."""
        there = self._there()
        rows = {batch: row["reason"] for batch, row in self.quarantined().items() if batch in there}
        return rows | self.source.refused()

    def _there(self) -> list[str]:
        try:
            return self.source.batches()
        except SourceError:  # nothing is there
            return []

    def state(self) -> "State":
        """The versions of everything that is stored now."""
        slices = self._slices()
        return State(self, slices, tuple(self._whole(slices)))

    def state_on(self, connection: duckdb.DuckDBPyConnection) -> "State":
        """The same as a transaction sees it that the caller has open."""
        slices = slices_in(connection)
        return State(self, slices, tuple(self._whole(slices)), connection)

    @contextmanager
    def snapshot(self) -> Iterator[Collection]:
        """The collection as it is now, in one read transaction."""
        with self.warehouse.reading() as connection:
            connection.begin()
            yield self.on(connection, self._whole(slices_in(connection)))

    def on(self, connection: duckdb.DuckDBPyConnection, batches: Sequence[str]) -> Collection:
        """These batches as one collection, on a connection that the caller has, inside its transaction."""
        slices = slices_in(connection)
        leaks = ("left out", self.near_identical, self.labelling, *_content(slices, _asked(slices, batches), batches))
        if leaks not in _known:
            queries = Collection(connection, tuple(batches), (), labelling=self.labelling).asked()
            _remember(leaks, tuple(sorted(leaked_queries(queries, jaccard=self.near_identical))))
        left_out = _known[leaks]
        texts = ("displaced", *_content(slices, ("corpus",), batches))
        if texts not in _known:
            changed = changed_documents(connection, batches)
            _remember(texts, tuple((b, d) for b, d, former, now in changed if not is_same_document(former, now)))
        return Collection(connection, tuple(batches), left_out, _known[texts], self.min_relevance, self.labelling)

    def _slices(self) -> Slices:
        return self.warehouse.all_slices() if self.warehouse.exists() else {}

    def _whole(self, slices: Slices) -> list[str]:
        """Of the source's batches those whose three tables are there and accepted."""

        def is_whole(batch: str) -> bool:
            infos = [slices.get((table, batch)) for table in COLLECTION_TABLES]
            return all(info is not None and info.input_fingerprint for info in infos)

        return [batch for batch in self.source.batches() if is_whole(batch)]


@dataclass(frozen=True)
class State:
    """The version of every slice, and of every view of the collection, at one moment."""

    handle: CollectionHandle
    slices: Slices
    batches: tuple[str, ...]
    connection: duckdb.DuckDBPyConnection | None = None

    def version(self, table: str, key: str = "") -> str:
        """Content version of one slice.

        Raises:
            MissingPartitionError: it is not there, or a blocking check refused it.
        """
        info = self.slices.get((table, key))
        where = f"{TABLES[table].asset}{f'[{key}]' if key else ''}"
        if table == "checkpoints":  # two assets keep theirs in it
            where = "teacher_checkpoint" if key == TEACHER else f"student_checkpoint[{key}]"
        if info is None:
            raise MissingPartitionError(f"{where} is not materialised: materialise it first, or run distill-assets run")
        if not info.input_fingerprint:
            raise MissingPartitionError(
                f"{where} did not pass a blocking check: its checks in the Dagster UI say what was found and what to do; "
                "then materialise it again"
            )
        return info.data_version

    def versions(self, table: str, keys: Sequence[str]) -> str:
        """Content version of several slices; one without rows adds nothing. Raises `MissingPartitionError` for the first missing one.

        So a batch of judgements alone makes no other batch's negatives old.
        """
        found = [(key, self.version(table, key)) for key in keys]
        return fingerprint(*(pair for pair in found if self.slices[table, pair[0]].num_rows))

    def view(self, view: str, batch: str | None = None) -> str:
        """Version of a view of `storage/collection.py`: of the batch's own rows, or of all.

        Computed once per process and content: whether a hundred batches are up to date must not take a hundred statements.

        Raises:
            MissingPartitionError: the batch is not in the collection: not read yet, refused by a check, or gone.
        """
        if batch is not None:
            self._require_batch(batch)
        by_batch: dict[str, str] = self._of_collection(view, lambda collection: collection.view_versions(view))
        return by_batch.get(batch, "") if batch is not None else fingerprint(*sorted(by_batch.items()))

    @property
    def judges(self) -> dict[Split, Judge]:
        """Who judges each split (`storage/collection.py`); a split that nobody judges is not there."""
        if not self.batches:  # there may be no warehouse, and asking must not make one
            return {}
        found: dict[Split, Judge] = self._of_collection("judges", lambda collection: collection.judges())
        return found

    @property
    def has_queries(self) -> bool:
        """Whether a batch brings a query."""
        return any(self.slices["queries", batch].num_rows for batch in self.batches)

    @property
    def is_train_unjudged(self) -> bool:
        """Whether the teacher names the answers of train queries, because people answered none."""
        return self.judges.get("train") == "teacher"

    @property
    def is_measured_by_teacher(self) -> bool:
        """Whether the teacher judges dev or test."""
        return any(self.judges.get(split) == "teacher" for split in EVALUATION)

    @property
    def generates(self) -> bool:
        """Whether queries are made from documents: by a named generator always, by default while no batch brings a query."""
        labelling = self.handle.labelling
        return labelling.generates and (labelling.always or not self.has_queries)

    def require_generated(self) -> None:
        """Raise `MissingPartitionError` where a batch's queries are still to be made from its documents."""
        if self.generates:
            self.versions("generated_queries", self.batches)

    def require_taught(self) -> None:
        """Raise `MissingPartitionError` where labels come from the teacher, and it has not been asked about a batch yet."""
        if self.is_measured_by_teacher:
            self.versions("teacher_judgements", self.batches)
        if self.generates or self.is_train_unjudged:
            self.versions("teacher_scores", self.batches)

    def _of_collection(self, what: str, read: Callable[[Collection], Any]) -> Any:
        """What the collection says, read once per process and content."""
        handle = self.handle
        key = (
            what,
            handle.near_identical,
            handle.min_relevance,
            handle.labelling,
            *_content(self.slices, (PAGE_JUDGEMENTS,), ("",)),
            *_content(self.slices, _VIEWED, self.batches),
        )
        if key not in _known:
            if self.connection is None:
                with handle.warehouse.reading() as connection:
                    connection.begin()
                    return handle.state_on(connection)._of_collection(what, read)
            _remember(key, read(handle.on(self.connection, self.batches)))
        return _known[key]

    def _require_batch(self, batch: str) -> None:
        """Without this, what follows a batch that is not there would be made of nothing, and succeed."""
        for table in COLLECTION_TABLES:
            self.version(table, batch)
        if batch not in self.batches:
            raise MissingPartitionError(
                f"{self.handle.source.name} has no batch {batch!r} any more: bring it back, or leave it"
            )


_known: dict[tuple[Any, ...], Any] = {}
_MAX_KNOWN = 256


def _remember(key: tuple[Any, ...], value: Any) -> None:
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[key] = value


def _content(slices: Slices, tables: Sequence[str], batches: Sequence[str]) -> tuple[str, ...]:
    """What these batches' slices of these tables hold: equal content gives equal views."""
    found = ((table, batch, slices.get((table, batch))) for table in tables for batch in batches)
    return tuple(f"{table} {batch} {'' if info is None else info.data_version}" for table, batch, info in found)


def _asked(slices: Slices, batches: Sequence[str]) -> tuple[str, ...]:
    """Tables that decide which queries there are. A generated query counts while its document stands."""
    made = [slices.get(("generated_queries", batch)) for batch in batches]
    return ("queries", "generated_queries", "corpus") if any(info and info.num_rows for info in made) else ("queries",)


def open_source(settings: Settings) -> Source:
    """The source that `settings.collection` names. The inbox in the data folder is made where it is missing."""
    rules = Rules(settings.max_unknown_qrels, settings.local_ids, settings.train_share_of_dev)
    if settings.collection == PYTHON_API:
        return PythonApiSource(settings.packages, body_words=settings.body_words)
    if settings.collection == INBOX:
        path = settings.collection_path
        assert path is not None
        path.mkdir(parents=True, exist_ok=True)
        return BeirSource(path, rules)
    return catalog.open_source(settings.collection, settings.source_options, rules)
