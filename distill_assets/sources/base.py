"""The interface of a source, and the rules that every collection goes by whatever it comes from: splits, ids, checks.

A `Source` has batches. A `Reader` reads one of them, from whatever its file or system holds, as `Parts`. `collect` makes a
`Collection` of these. A new format is a file of its own with a `Reader`, and a line in `sources/catalog.py`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, field_serializer, field_validator

from distill_assets.errors import SettingsError, SourceError, UnknownBatchError, UnknownJudgementError
from distill_assets.records import (
    Collection,
    Document,
    Qrel,
    Query,
    Split,
    assign_split,
    fingerprint,
    hash_share,
    normalise,
)
from distill_assets.sources.columns import Part

_MAX_READS = 5
_MAX_BLANK_SHARE = 0.05
_BATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+|(?<![A-Za-z0-9])[_-]")
_NO_LETTERS = re.compile(r"[^a-z]+")
SPLIT_OF_NAME: dict[str, Split] = {
    "train": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}


class AskedQuery(NamedTuple):
    """A query as a source gives it: its split is not decided yet. `label` names its group, where the source does."""

    query_id: str
    text: str
    label: str = ""


@dataclass(frozen=True)
class Parts:
    """What a reader reads of one batch, before splits and checks.

    Attributes:
        documents: may be gone through more than once, from the start each time; a large collection is streamed.
        qrels: each pair of query and document once.
        judged: one pair per file or split of judgements: its name (train, dev, test, or any other), and the queries that it judges.
        train_only: ids of queries that never go into dev or test, because what judges them is too weak: clicks.
        unread: files that were there and not read, with the reason and what to do.
    """

    documents: Iterable[Document] = ()
    queries: Sequence[AskedQuery] = ()
    qrels: Sequence[Qrel] = ()
    judged: Sequence[tuple[str, Set[str]]] = ()
    train_only: frozenset[str] = frozenset()
    unread: Mapping[str, str] = field(default_factory=dict)


class Reader(Protocol):
    """How one batch is read. A frozen value: equal readers read the same thing."""

    def __hash__(self) -> int:
        """Readers are frozen values."""
        ...

    def look(self) -> str | None:
        """Changes with every write to the batch; None where it is known to be complete. Opens no file. See `Source.look`."""
        ...

    def fingerprint(self) -> str:
        """Changes when, and only when, `read` would give something else. Cheap. See `Source.fingerprint`."""
        ...

    def read(self) -> Parts:
        """Read the batch. Raises `SourceError` with what, where and the next step."""
        ...


@dataclass(frozen=True)
class Rules:
    """How what was read becomes a collection.

    Attributes:
        max_unknown_qrels: share of judgements that may name an unknown id; they are dropped and counted.
        local_ids: whether ids are put behind the batch's name, so that two batches may number alike.
        train_share_of_dev: share of the dev queries, by hash, that train where there is no train file.
    """

    max_unknown_qrels: float = 0.05
    local_ids: bool = False
    train_share_of_dev: float = 0.0


DEFAULT_RULES = Rules()


class Source(Protocol):
    """A named collection that arrives in batches. Hashable: equal sources read the same things."""

    def __hash__(self) -> int:
        """Sources are frozen values."""
        ...

    @property
    def name(self) -> str:
        """What the leaderboard calls the collection."""
        ...

    @property
    def is_inbox(self) -> bool:
        """Whether batches arrive here one by one, so that a broken one must not hold up the others."""
        ...

    def batches(self) -> list[str]:
        """Names of the batches that are there now, sorted."""
        ...

    def refused(self) -> dict[str, str]:
        """What lies among the batches and can never be one, with the reason: a folder with an impossible name, say."""
        ...

    def look(self, batch: str) -> str | None:
        """Changes with every write to the batch; None where the batch is known to be complete. Opens no file.

        A batch that changes between two looks is still being copied. Only what reads by itself waits for two equal looks, the
        sensor `new_batches`: who starts a run by hand says that the batches are complete, and they are read at once.
        """
        ...

    def fingerprint(self, batch: str) -> str:
        """Changes when, and only when, reading the batch would give something else. Cheap: it parses nothing.

        A batch of an inbox that cannot be read has one, too: it stays while nothing changes and `read` would fail again.
        """
        ...

    def read(self, batch: str) -> Collection:
        """Read one batch. Raises `SourceError` with what, where and the next step."""
        ...


class PartOptions(BaseModel):
    """Where one part of a collection is read from: `[data.documents]`, `[data.queries]`, `[data.judgements]`, `[data.clicks]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None  # file or glob, local or remote (https://, s3://): .parquet, .csv, .tsv, .jsonl, also .gz
    query: str | None = None  # one SELECT of DuckDB
    columns: tuple[tuple[str, str], ...] = ()  # pairs (our column, theirs); a table in the file
    config: str | None = None  # of a data set of the hub
    split: str | None = None  # of a data set of the hub; all of them by default

    @field_validator("columns", mode="before")
    @classmethod
    def _as_pairs(cls, value: Any) -> Any:
        return tuple(sorted(value.items())) if isinstance(value, Mapping) else value

    @field_serializer("columns")
    def _as_table(self, value: tuple[tuple[str, str], ...]) -> dict[str, str]:
        return dict(value)


@dataclass(frozen=True)
class Options:
    """What the settings say of a source beside its name; a source takes what concerns it.

    Attributes:
        parts: parts of the collection that settings describe, in the order of `sources/columns.PARTS`.
        sql_setup: statements of DuckDB that are run before a part is read.
        sql_version: a SELECT whose answer changes whenever a statement or remote file would give other rows.
    """

    parts: tuple[tuple[Part, PartOptions], ...] = ()
    sql_setup: tuple[str, ...] = ()
    sql_version: str | None = None


@dataclass(frozen=True)
class OneBatch:
    """A source that is one batch, named after what it is read from.

    Attributes:
        name: what the leaderboard calls the collection.
        batch: name of the batch.
    """

    name: str
    batch: str
    reader: Reader
    rules: Rules = DEFAULT_RULES

    is_inbox = False

    def batches(self) -> list[str]:
        """The one batch."""
        return [self.batch]

    def refused(self) -> dict[str, str]:
        """Nothing: what cannot be read is an error of the settings."""
        return {}

    def look(self, batch: str) -> str | None:
        """What the reader says."""
        return self._reader(batch).look()

    def fingerprint(self, batch: str) -> str:
        """What the reader says, and the rules."""
        return fingerprint(self._reader(batch).fingerprint(), self.rules)

    def read(self, batch: str) -> Collection:
        """Read the batch. Raises `SourceError`."""
        return collect(self._reader(batch).read(), batch, self.rules, where=self.name)

    def _reader(self, batch: str) -> Reader:
        require_known_batch(batch, [self.batch])
        return self.reader


def read_settled(source: Source, batch: str) -> tuple[Collection, str]:
    """Read one batch, and return it with the fingerprint of exactly what was read.

    A batch that moved while it was read is read again: its parts may come from before and after the change.

    Raises:
        SourceError: the batch cannot be read, and did not change while that was found out; or it changed during each of 5
            readings.
    """
    key = source.fingerprint(batch)
    for _ in range(_MAX_READS):
        found: Collection | SourceError
        try:
            found = source.read(batch)
        except SourceError as error:
            found = error  # of a half-written line, say: it counts if the line is still the same
        before, key = key, source.fingerprint(batch)
        if key != before:
            continue
        if isinstance(found, SourceError):
            raise found
        return found, key
    raise SourceError(
        f"batch {batch!r} of {source.name} changed during each of {_MAX_READS} readings; expected a batch that is complete: "
        "start again when nothing writes to it any more, or copy it under a hidden name and rename it"
    )


def require_batch_name(name: str) -> str:
    """Return `name` if it may name a batch, else raise `UnknownBatchError`.

    Batch names become partition keys, folder names and SQL parameters; slashes, `..`, quotes and control
    characters are refused so that none of those can be steered by a file name.
    """
    if not _BATCH_NAME.fullmatch(name) or ".." in name:
        raise UnknownBatchError(
            f"{name!r} cannot name a batch: expected 1 to 100 letters, digits, '.', '_' or '-', starting with a letter "
            "or digit and without '..'; rename the folder or package"
        )
    return name


def require_known_batch(name: str, known: Iterable[str]) -> str:
    """Return `name` if the source has that batch, else raise `UnknownBatchError` that lists those it has."""
    names = sorted(known)
    if require_batch_name(name) not in names:
        raise UnknownBatchError(f"no batch {name!r}: the source has {', '.join(names) or 'none'}")
    return name


def require_split(name: str, where: str) -> Split | None:
    """The split that a column `split` names; None where it is empty. Raises `SourceError` for another word."""
    if name and name.casefold() not in SPLIT_OF_NAME:
        raise SourceError(f"{where}: found the split {name!r}, expected one of {', '.join(SPLIT_OF_NAME)}, or none")
    return SPLIT_OF_NAME.get(name.casefold())


def require_package(package: str, collection: str, extra: str) -> Any:
    """The module of a package that a source needs and an extra brings. Raises `SettingsError` where it is not installed."""
    try:
        return import_module(package)
    except ImportError as error:
        raise SettingsError(
            f"the collection {collection} is read by the package {package}, which is not installed: "
            f"pip install 'distill_assets[{extra}]'"
        ) from error


def batch_name(text: str) -> str:
    """A name for a batch that is as near to `text` as the rules of names allow."""
    return _NOT_IN_A_NAME.sub("_", text).strip("_-")[:100] or "batch"


def collect(parts: Parts, batch: str, rules: Rules, *, where: str) -> Collection:
    """The collection that a batch brings, checked, each query with its split.

    Raises:
        SourceError: an id occurs twice, or too many texts are blank.
        UnknownJudgementError: too many judgements name an unknown id.
    """
    if rules.local_ids:
        parts = _with_local_ids(parts, batch)
    key_of = {query.query_id: normalise(query.text) for query in parts.queries}
    strong = [(name, set(ids) - parts.train_only) for name, ids in parts.judged]
    splits = given_splits(strong, key_of, rules.train_share_of_dev) | dict.fromkeys(parts.train_only, "train")
    queries = [Query(key, text, splits.get(key) or assign_split(key_of[key])) for key, text, _ in parts.queries]
    found = check_collection(
        parts.documents, queries, list(parts.qrels), where=where, max_unknown_share=rules.max_unknown_qrels
    )
    kept = {query.query_id for query in found.queries}
    labels = {query.query_id: query.label for query in parts.queries if query.label and query.query_id in kept}
    return replace(found, unread=parts.unread, labels=labels)


def _with_local_ids(parts: Parts, batch: str) -> Parts:
    def local(key: str) -> str:
        return f"{batch}/{key}"

    return replace(
        parts,
        documents=(replace(document, doc_id=local(document.doc_id)) for document in parts.documents),
        queries=[query._replace(query_id=local(query.query_id)) for query in parts.queries],
        qrels=[Qrel(local(q.query_id), local(q.doc_id), q.relevance) for q in parts.qrels],
        judged=[(name, {local(query_id) for query_id in query_ids}) for name, query_ids in parts.judged],
        train_only=frozenset(map(local, parts.train_only)),
    )


def split_of_name(name: str) -> str:
    """The split that a file's name holds as a word (`nq-dev.jsonl`, `qrels.train.tsv`); its stem where it holds none or two."""
    found = {SPLIT_OF_NAME[word] for word in _NO_LETTERS.split(name.casefold()) if word in SPLIT_OF_NAME}
    return found.pop() if len(found) == 1 else name.partition(".")[0]


def given_splits(
    judged: Iterable[tuple[str, Set[str]]], key_of: Mapping[str, str], train_share_of_dev: float = 0.0
) -> dict[str, Split]:
    """Split of each query that the names of files or splits decide. Queries that are not in the answer get the hash split.

    `judged` holds one pair per file: its name without ending, and the ids of the queries it judges. `key_of` is what the hash
    of a query is taken of, by id; the id itself where it is missing. A batch's own files decide, so that splits never move when
    it is ingested again:

    - `train`, `dev` (also `val`, `valid`, `validation`) and `test` decide the split of the queries they judge. A query in several
      files belongs to test, else dev, else train: what is tested is never trained on.
    - Without a dev file, the train queries whose hash falls in the dev bucket (10 %) become dev: steps and champions
      must be chosen on something. SciFact, with train and test, is such a collection.
    - Without a train file, as in BEIR's Quora and DBpedia, a share of the dev queries trains where `train_share_of_dev` says so.
    - If all judgements name one split, as in SQuAD and COVID-QA where everything is `test.tsv`, all queries get the
      hash split (train 80, dev 10, test 10): there would be nothing to train on otherwise. Numbers on that test share
      cannot be compared with those published for the whole file.
    - Queries of other files, and queries without judgements, get the hash split.
    """
    files = [(SPLIT_OF_NAME.get(name.casefold()), query_ids) for name, query_ids in judged if query_ids]
    named = {split for split, _ in files}
    if len(named) == 1:
        return {}
    found: dict[str, Split] = {}
    for wanted in ("train", "dev", "test"):  # later ones win
        for split, query_ids in files:
            if split == wanted:
                found.update(dict.fromkeys(query_ids, split))
    if "dev" not in named:
        train = [query_id for query_id, split in found.items() if split == "train"]
        found.update({q: "dev" for q in train if assign_split(key_of.get(q, q)) == "dev"})
    if "train" not in named:
        dev = [query_id for query_id, split in found.items() if split == "dev"]
        found.update({q: "train" for q in dev if hash_share(key_of.get(q, q)) < train_share_of_dev})
    return found


def check_collection(
    documents: Iterable[Document], queries: list[Query], qrels: list[Qrel], *, where: str, max_unknown_share: float
) -> Collection:
    """Refuse duplicate ids; drop blank texts, up to 5 %, and judgements of unknown ids, up to `max_unknown_share` of them.

    The documents are gone through once, and never in memory as a whole: of them only the ids that are judged or blank are.
    `qrels` are checked against the documents (queries) of this batch only when the batch has documents (queries) of its own:
    a batch that brings queries alone is judged against the corpus that stands already, one that brings judgements alone
    judges the queries that stand already.

    Raises:
        NoSpaceError: the disk is full.
        SourceError: an id occurs twice, or too many texts are blank.
        UnknownJudgementError: the share of judgements that name an unknown id is above `max_unknown_share`.
    """
    judged, known, blank = {qrel.doc_id for qrel in qrels}, set[str](), list[str]()
    from distill_assets.documents import (
        StoredDocuments,  # Arrow and numpy: settings load this module, and nothing heavy
    )

    with_text = StoredDocuments(_with_text(documents, judged, known, blank))
    _require_unique(where, "document", *with_text.repeated_ids(blank))
    repeated = [query_id for query_id, count in Counter(query.query_id for query in queries).items() if count > 1]
    _require_unique(where, "query", len(repeated), min(repeated, default=""))
    asked = [query for query in queries if query.text.strip()]
    unasked = {query.query_id for query in queries if not query.text.strip()}
    _require_few_blank(where, "document", blank, len(with_text) + len(blank))
    _require_few_blank(where, "query", unasked, len(queries))
    gone = judged.intersection(blank)
    about_text = [q for q in qrels if q.doc_id not in gone and q.query_id not in unasked]
    known_documents = known if with_text else judged
    known_queries = {query.query_id for query in asked} or {qrel.query_id for qrel in qrels}
    kept = [q for q in about_text if q.doc_id in known_documents and q.query_id in known_queries]
    _require_few_unknown(about_text, kept, where=where, max_unknown_share=max_unknown_share)
    return Collection(with_text, asked, kept, len(qrels) - len(kept), len(blank) + len(unasked))


def _with_text(
    documents: Iterable[Document], judged: Set[str], known: set[str], blank: list[str]
) -> Iterator[Document]:
    """Those with text; ids of those without are added to `blank`, the judged ones of the others to `known`."""
    for document in documents:
        if not document.content.strip():
            blank.append(document.doc_id)
            continue
        if document.doc_id in judged:
            known.add(document.doc_id)
        yield document


def _require_unique(where: str, kind: str, num_repeated: int, first: str) -> None:
    if num_repeated:
        raise SourceError(
            f"{where}: {num_repeated} {kind} ids occur more than once, first {first!r}: "
            "ids must be unique within a batch; remove or rename the repeats"
        )


def _require_few_blank(where: str, kind: str, blank: Sequence[str] | Set[str], num_texts: int) -> None:
    """An encoder has nothing to read in a blank text. FiQA and Cranfield have some as published; many are a wrong field."""
    if len(blank) > _MAX_BLANK_SHARE * num_texts:
        raise SourceError(
            f"{where}: {len(blank)} of {num_texts} {kind} texts are blank, first id {min(blank)!r}; expected a share of "
            f'{_MAX_BLANK_SHARE:.0%} at most, which is dropped: is the text under another key than "text"? Remove the records, or give '
            "them text"
        )


def _require_few_unknown(qrels: list[Qrel], kept: list[Qrel], *, where: str, max_unknown_share: float) -> None:
    num_unknown = len(qrels) - len(kept)
    if qrels and num_unknown / len(qrels) > max_unknown_share:
        kept_set = set(kept)
        first = next(q for q in qrels if q not in kept_set)
        raise UnknownJudgementError(
            f"{where}: {num_unknown} of {len(qrels)} judgements name an unknown query or document, first "
            f"({first.query_id!r}, {first.doc_id!r}); allowed is a share of {max_unknown_share:g} "
            "(setting max_unknown_qrels). Check that corpus, queries and qrels belong together"
        )
