"""BEIR folders: `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`, as one batch or as an inbox with a batch per folder.

A batch that cannot be opened has a fingerprint like any other, from what can be seen of it: one odd entry holds up nobody
else, and its batch is read again when the entry changes. Only `read` refuses.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from distill_assets.errors import SourceError, UnknownBatchError
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
from distill_assets.sources.base import check_collection, require_batch_name, require_known_batch
from distill_assets.sources.files import GZIP, cannot_read, opened, shown
from distill_assets.sources.parsing import read_judgements, read_texts

# Raised whenever the same files would give other documents, queries, splits or labels, so that stored batches count as stale.
READER_VERSION = "4"
_CORPUS, _QUERIES, _QRELS, _READY = "corpus.jsonl", "queries.jsonl", "qrels", "_READY"
_TABLES = (".tsv", ".csv", ".tsv.gz", ".csv.gz")  # how a file of judgements ends
_TEXTS = tuple(f"{name}{ending}" for name in (_CORPUS, _QUERIES) for ending in ("", GZIP))
_NAMES_OF_TEXTS = ("corpus", "collection", "doc", "passage", "quer", "question", "topic")  # as other tools name them
_EXPECTED = f"expected {_CORPUS}, {_QUERIES} and {_QRELS}/*.tsv"
_DATA_ENDINGS = (".json", ".jsonl", ".tsv", ".csv", ".txt", ".gz", ".zip", ".parquet", ".xlsx", ".trec")
_SPLIT_OF_STEM: dict[str, Split] = {
    "train": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}


@dataclass(frozen=True)
class BeirSource:
    """A BEIR folder, or an inbox of them.

    A root that holds `corpus.jsonl` or `queries.jsonl` is one batch, named after the folder. Any other root is an
    inbox: each sub-folder with one of the two files, or with judgements, is a batch, and may bring documents alone, queries
    alone that are judged against the documents that stand already, or judgements alone. Hidden folders are skipped, so a
    batch that is still being copied is safe under a name like `.incoming` until it is renamed; a file `_READY`, written last,
    says the same of a batch that is copied in place. A folder that cannot be looked into is a batch that cannot be read.

    Splits, decided by the batch's own files so that they never move when it is ingested again:

    - `train.tsv`, `dev.tsv` (also `val`, `valid`, `validation`) and `test.tsv` decide the split of the queries they
      judge. A query in several files belongs to test, else dev, else train: what is tested is never trained on.
    - Without a dev file, the train queries whose hash falls in the dev bucket (10 %) become dev: steps and champions
      must be chosen on something. SciFact, with train and test, is such a collection.
    - Without a train file, as in BEIR's Quora and DBpedia, a share of the dev queries trains where `train_share_of_dev` says so.
    - If all judgements name one split, as in SQuAD and COVID-QA where everything is `test.tsv`, all queries get the
      hash split (train 80, dev 10, test 10): there would be nothing to train on otherwise. Numbers on that test share
      cannot be compared with those published for the whole file.
    - Queries of other files, and queries without judgements, get the hash split.

    Attributes:
        root: the folder.
        max_unknown_qrels: share of judgements that may name an unknown id; they are dropped and counted.
        local_ids: whether ids are put behind the batch's name, so that two batches may number alike.
        train_share_of_dev: share of the dev queries, by hash, that train where there is no train file.
        name: what the leaderboard calls the collection; `beir:` and the folder name when empty.
    """

    root: Path
    max_unknown_qrels: float = 0.05
    local_ids: bool = False
    train_share_of_dev: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        """Fill in the name."""
        if not self.name:
            object.__setattr__(self, "name", f"beir:{self.root.resolve().name}")

    @property
    def is_inbox(self) -> bool:
        """Whether each sub-folder is a batch."""
        return not any(_is_a(stat.S_ISREG, self.root / name) for name in _TEXTS)

    def batches(self) -> list[str]:
        """Names of the batches that are there now, sorted; folders of an inbox with impossible names are left out.

        Raises:
            SourceError: the root is no folder, cannot be listed, or holds no data.
            UnknownBatchError: the one folder has a name that a batch may not have.
        """
        return sorted(self._folders())

    def refused(self) -> dict[str, str]:
        """Folders of an inbox that hold data under a name that a batch may not have, with the reason."""
        if not _is_a(stat.S_ISDIR, self.root) or not self.is_inbox:
            return {}
        reasons = {shown(path.name): _name_fault(path.name) for path in _data_folders(self.root)}
        return {name: reason for name, reason in sorted(reasons.items()) if reason}

    def look(self, batch: str) -> str | None:
        """Names, sizes and times of the batch's files as one hash; None where a `_READY` came after all of them."""
        folder = self._folder(batch)
        return None if _is_ready(folder) else fingerprint(*_of_each_file(folder, _stamp))

    def fingerprint(self, batch: str) -> str:
        """Hash of the bytes of the batch's files, and of what else decides whether and how they are read."""
        return fingerprint(
            READER_VERSION,
            self.max_unknown_qrels,
            self.local_ids,
            self.train_share_of_dev,
            *_of_each_file(self._folder(batch), _digest),
        )

    def read(self, batch: str) -> Collection:
        """Read one batch.

        Raises:
            MalformedRecordError: a line is not what the format says.
            SourceError: a file is empty or cannot be opened, an id occurs twice, a text is empty.
            UnknownJudgementError: too many judgements name an unknown id.
        """
        folder = self._folder(batch)
        files = _batch_files(folder)
        qrels, judged = read_judgements([path for path in files if path.name not in _TEXTS])
        asked = list(_texts_of(files, _QUERIES))
        key_of = {query_id: normalise(text) for query_id, _, text, _ in asked}
        splits = given_splits(judged, key_of, self.train_share_of_dev)
        queries = [Query(key, text, splits.get(key) or assign_split(key_of[key])) for key, _, text, _ in asked]
        documents = [Document(*fields) for *fields, _ in _texts_of(files, _CORPUS)]
        found = check_collection(documents, queries, qrels, where=str(folder), max_unknown_share=self.max_unknown_qrels)
        kept = {query.query_id for query in found.queries}
        labels = {query_id: label for query_id, _, _, label in asked if label and query_id in kept}
        found = replace(found, unread=_unread(folder, files), labels=labels)
        return _with_local_ids(found, batch) if self.local_ids else found

    def _folder(self, batch: str) -> Path:
        # Looked at by itself: a sensor asks of every batch, and listing all folders for each grows with their square.
        path = self.root / batch
        if _name_fault(batch) is None and _is_a(stat.S_ISDIR, self.root) and self.is_inbox and _is_data_folder(path):
            return path
        folders = self._folders()
        return folders[require_known_batch(batch, folders)]

    def _folders(self) -> dict[str, Path]:
        if not _is_a(stat.S_ISDIR, self.root):
            raise SourceError(f"no folder at {self.root}: {_EXPECTED} in it or in its sub-folders; correct the path")
        if not self.is_inbox:
            return {require_batch_name(self.root.resolve().name): self.root}
        found = {path.name: path for path in _data_folders(self.root) if not _name_fault(path.name)}
        if not found:
            for reason in self.refused().values():
                raise UnknownBatchError(reason)
            raise SourceError(
                f"nothing to read in {self.root}: {_EXPECTED} in it or in its sub-folders; "
                "put a BEIR folder there (at least one of the three) or correct the path"
            )
        return found


def _with_local_ids(collection: Collection, batch: str) -> Collection:
    return replace(
        collection,
        documents=[replace(d, doc_id=f"{batch}/{d.doc_id}") for d in collection.documents],
        queries=[replace(q, query_id=f"{batch}/{q.query_id}") for q in collection.queries],
        qrels=[Qrel(f"{batch}/{q.query_id}", f"{batch}/{q.doc_id}", q.relevance) for q in collection.qrels],
        labels={f"{batch}/{query_id}": label for query_id, label in collection.labels.items()},
    )


def given_splits(
    judged: Iterable[tuple[str, set[str]]], key_of: Mapping[str, str], train_share_of_dev: float = 0.0
) -> dict[str, Split]:
    """Split of each query that the files of judgements decide; the rules are in `BeirSource`.

    `judged` holds one pair per file: its name without ending, and the ids of the queries it judges. `key_of` is what the hash
    of a query is taken of, by id; the id itself where it is missing. Queries that are not in the answer get the hash split.
    """
    files = [(_SPLIT_OF_STEM.get(stem.casefold()), query_ids) for stem, query_ids in judged if query_ids]
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


def _data_folders(inbox: Path) -> list[Path]:
    return [inbox / name for name in _list(inbox) if _is_data_folder(inbox / name)]


def _is_data_folder(path: Path) -> bool:
    """Whether the folder holds a batch. One that cannot be looked into does: passed over, it would seem to be taken away."""
    if path.name.startswith(".") or not os.path.lexists(path):
        return False
    try:
        return stat.S_ISDIR(path.stat().st_mode) and bool(_batch_files(path))
    except (OSError, SourceError):
        return True


def _name_fault(name: str) -> str | None:
    try:
        require_batch_name(name)
    except UnknownBatchError as error:
        return str(error)
    return None


def _is_a(kind: Callable[[int], bool], path: Path) -> bool:
    """Whether there is something of that kind at `path` that can be reached."""
    try:
        return kind(path.stat().st_mode)
    except OSError:
        return False


def _list(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError as error:
        raise cannot_read(folder, error, "a folder") from error


def _batch_files(folder: Path) -> list[Path]:
    """What a batch is read from, sorted, whether it can be opened or not.

    Raises:
        SourceError: the folder, or what is called `qrels` in it, cannot be listed.
    """
    names = _list(folder)
    if _QRELS in names:
        # Hidden ones are left out: macOS archives bring a binary `._test.tsv` beside each `test.tsv`.
        shown = sorted(name for name in _list(folder / _QRELS) if _is_table(name) and not name.startswith("."))
        judgements = [folder / _QRELS / name for name in shown]
    else:
        at_root = {f"{_QRELS}{ending}" for ending in _TABLES}
        judgements = [folder / name for name in sorted(names) if name.casefold() in at_root]
    return [folder / name for name in _TEXTS if name in names] + judgements


def _is_table(name: str) -> bool:
    return name.casefold().endswith(_TABLES)  # Windows writes Test.TSV and does not mind


def _unread(folder: Path, files: Sequence[Path]) -> dict[str, str]:
    """Files that look like data and are not read, with the reason: what a misnamed file holds would be missed in silence."""
    entries = [folder / name for name in _list(folder)]
    if folder / _QRELS in entries:
        entries += [folder / _QRELS / name for name in _list(folder / _QRELS)]
    found = {}
    for path in sorted(set(entries) - set(files)):
        if path.name.casefold().endswith(_DATA_ENDINGS) and not path.name.startswith(".") and _is_a(stat.S_ISREG, path):
            found[shown(path.relative_to(folder).as_posix())] = _why_unread(path)
    return found


def _why_unread(path: Path) -> str:
    name, is_judgements = path.name.casefold(), path.parent.name == _QRELS
    is_named_as_texts = name.startswith(_NAMES_OF_TEXTS) and not is_judgements
    if _is_table(name) and not is_named_as_texts:
        return f"judgements are read from {_QRELS}/, or from {_QRELS}.tsv where there is no such folder: move it there"
    if is_judgements:
        return f"judgements are read from files that end in {', '.join(_TABLES)}: write it as one of these"
    if ".json" in name:
        return f"documents are read from {_CORPUS} and queries from {_QUERIES} (also .gz): rename it"
    if is_named_as_texts:
        return f"documents are read from {_CORPUS} and queries from {_QUERIES}, one JSON object a line: write it so"
    return f"it has no ending that is read ({', '.join(_TABLES)} for judgements, .jsonl for texts): write it as one of these"


def _texts_of(files: Sequence[Path], name: str) -> Iterator[tuple[str, str, str, str]]:
    """Records of a batch's corpus or queries file, plain or compressed; nothing where it brings none."""
    found = [path for path in files if path.name in (name, name + GZIP)]
    if len(found) > 1:
        raise SourceError(
            f"{found[0].parent}: {name} is there twice, plain and as {GZIP}; expected one: remove the other"
        )
    for path in found:
        yield from read_texts(path, has_labels=name == _QUERIES)


def _of_each_file(folder: Path, tell: Callable[[Path], str]) -> list[str]:
    """Name of each file of a batch, then what `tell` says of it; the reason alone where the folder cannot be listed."""
    try:
        files = _batch_files(folder)
    except SourceError as error:
        return [str(error)]
    return [part for path in files for part in (shown(path.relative_to(folder).as_posix()), tell(path))]


def _is_ready(folder: Path) -> bool:
    """Whether the file `_READY` came after every file of the batch.

    The time of the last change of the entry decides (ctime). The clock of this file system sets it at every write and at
    every arrival, while the time of the content (mtime) may come along with a copy, from another clock.
    """
    try:
        ready = (folder / _READY).stat()
        newest = max((path.stat().st_ctime_ns for path in _batch_files(folder)), default=0)
    except (OSError, SourceError):
        return False
    return stat.S_ISREG(ready.st_mode) and ready.st_ctime_ns >= newest


def _stamp(path: Path) -> str:
    """What tells a change of a file without opening it: size and times, or the kind of error."""
    try:
        found = path.stat()
    except OSError as error:
        return f"error {error.errno}"
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _digest(path: Path) -> str:
    """SHA-256 of the file's bytes; what can be seen of it and the reason where it cannot be read."""
    stamp = _stamp(path)
    try:
        return _digest_once(path, stamp)
    except SourceError as error:
        return f"{stamp} {error}"


@lru_cache(maxsize=4096)
def _digest_once(path: Path, stamp: str) -> str:
    """Hashed again only when size or time moved: a sensor asks this of every batch several times a minute."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
