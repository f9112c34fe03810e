"""BEIR folders: `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`, as one batch or as an inbox with a batch per folder.

Every refusal names the file, the line, what was expected and what to do. Files are read as bytes and split at line
feeds alone, because texts may hold the other characters that Python takes for line ends.

A batch that cannot be opened has a fingerprint like any other, from what can be seen of it: one odd entry holds up nobody
else, and its batch is read again when the entry changes. Only `read` refuses.
"""

import csv
import errno
import gzip
import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

from distill_assets.core.errors import MalformedRecordError, SourceError, UnknownBatchError
from distill_assets.core.records import (
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

# Raised whenever the same files would give other documents, queries or splits, so that stored batches count as stale.
READER_VERSION = "2"
_CORPUS, _QUERIES, _QRELS, _READY = "corpus.jsonl", "queries.jsonl", "qrels", "_READY"
_GZIP = ".gz"
_TABLES = (".tsv", ".csv", ".tsv.gz", ".csv.gz")  # how a file of judgements ends
_TEXTS = tuple(f"{name}{ending}" for name in (_CORPUS, _QUERIES) for ending in ("", _GZIP))
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
# Names that a header gives the three columns that are read, as BEIR, TREC and the sets of the hub write them.
_COLUMNS: tuple[frozenset[str], ...] = (
    frozenset({"query-id", "query_id", "queryid", "qid", "query"}),
    frozenset({"corpus-id", "corpus_id", "doc-id", "doc_id", "docid", "did", "pid", "document-id", "document_id"}),
    frozenset({"score", "relevance", "rel", "label", "grade"}),
)
_TREC = (0, 2, 3)  # of `qid 0 docid rel`
_TREC_ITERATIONS = frozenset({"0", "Q0", "q0"})  # the second of TREC's four columns
_INTEGER = re.compile(
    r"([+-]?[0-9]{1,9})(\.0*)?"
)  # nine digits fit the INTEGER column of the warehouse; 1.0 is integral
_QUOTED_CHARACTERS = 80


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
        reasons = {_shown(path.name): _name_fault(path.name) for path in _data_folders(self.root)}
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
        qrels, judged = _read_judgements([path for path in files if path.name not in _TEXTS])
        asked = [(query_id, text) for query_id, _, text in _texts_of(files, _QUERIES)]
        key_of = {query_id: normalise(text) for query_id, text in asked}
        splits = given_splits(judged, key_of, self.train_share_of_dev)
        queries = [Query(key, text, splits.get(key) or assign_split(key_of[key])) for key, text in asked]
        documents = [Document(*fields) for fields in _texts_of(files, _CORPUS)]
        found = check_collection(documents, queries, qrels, where=str(folder), max_unknown_share=self.max_unknown_qrels)
        found = replace(found, unread=_unread(folder, files))
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
        raise _cannot_read(folder, error, "a folder") from error


def _batch_files(folder: Path) -> list[Path]:
    """What a batch is read from, sorted, whether it can be opened or not.

    Raises:
        SourceError: the folder, or what is called `qrels` in it, cannot be listed.
    """
    names = _list(folder)
    if _QRELS in names:
        # Hidden ones are left out: macOS archives bring a binary `._test.tsv` beside each `test.tsv`.
        shown = sorted(name for name in _list(folder / _QRELS) if name.endswith(_TABLES) and not name.startswith("."))
        judgements = [folder / _QRELS / name for name in shown]
    else:
        judgements = [folder / name for name in sorted(names) if name in {f"{_QRELS}{ending}" for ending in _TABLES}]
    return [folder / name for name in _TEXTS if name in names] + judgements


def _unread(folder: Path, files: Sequence[Path]) -> dict[str, str]:
    """Files that look like data and are not read, with the reason: what a misnamed file holds would be missed in silence."""
    entries = [folder / name for name in _list(folder)]
    if folder / _QRELS in entries:
        entries += [folder / _QRELS / name for name in _list(folder / _QRELS)]
    found = {}
    for path in sorted(set(entries) - set(files)):
        if path.name.endswith(_DATA_ENDINGS) and not path.name.startswith(".") and _is_a(stat.S_ISREG, path):
            found[_shown(path.relative_to(folder).as_posix())] = _why_unread(path)
    return found


def _why_unread(path: Path) -> str:
    if path.name.endswith(_TABLES):
        return f"judgements are read from {_QRELS}/, or from {_QRELS}.tsv where there is no such folder: move it there"
    if ".json" in path.name:
        return f"documents are read from {_CORPUS} and queries from {_QUERIES} (also .gz): rename it"
    return f"it has no ending that is read ({', '.join(_TABLES)} for judgements, .jsonl for texts): write it as one of these"


def _texts_of(files: Sequence[Path], name: str) -> Iterator[tuple[str, str, str]]:
    """Records of a batch's corpus or queries file, plain or compressed; nothing where it brings none."""
    found = [path for path in files if path.name in (name, name + _GZIP)]
    if len(found) > 1:
        raise SourceError(
            f"{found[0].parent}: {name} is there twice, plain and as {_GZIP}; expected one: remove the other"
        )
    for path in found:
        yield from _read_texts(path)


def _of_each_file(folder: Path, tell: Callable[[Path], str]) -> list[str]:
    """Name of each file of a batch, then what `tell` says of it; the reason alone where the folder cannot be listed."""
    try:
        files = _batch_files(folder)
    except SourceError as error:
        return [str(error)]
    return [part for path in files for part in (_shown(path.relative_to(folder).as_posix()), tell(path))]


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
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """An ordinary file, opened for its bytes; whatever the system refuses while it is open is a `SourceError`."""
    try:
        # A plain open of a named pipe would wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "Not an ordinary file")
            yield file
    except OSError as error:
        raise _cannot_read(path, error, "a file") from error


def _cannot_read(path: Path, error: OSError, expected: str) -> SourceError:
    return SourceError(
        f"cannot read {_shown(path)}: {error.strerror or error}; expected {expected} that may be read; "
        "mend or remove the entry, or give the permissions"
    )


def _shown(name: str | Path) -> str:
    """The name as text: a name of a Linux file may hold bytes that no text has, and no table or hash takes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _malformed(path: Path, number: int, expected: str, found: str) -> MalformedRecordError:
    quoted = repr(found if len(found) <= _QUOTED_CHARACTERS else f"{found[:_QUOTED_CHARACTERS]}...")
    return MalformedRecordError(
        f"{_shown(path)}, line {number}: expected {expected}, found {quoted}; correct or remove the line"
    )


def _iter_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank, from 1."""
    with _opened(path) as file:
        for number, line in enumerate(_unpacked(path, file), start=1):
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            try:
                text = content.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                found = content[error.start : error.start + 8].hex(" ")
                raise _malformed(path, number, "UTF-8 text", f"bytes {found}") from error
            if text.strip():
                yield number, text


def _unpacked(path: Path, file: BufferedReader) -> Iterator[bytes]:
    """The lines of a file, decompressed where its name ends with `.gz`."""
    if not path.name.endswith(_GZIP):
        yield from file
        return
    try:
        yield from gzip.GzipFile(fileobj=file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(
            f"{_shown(path)} cannot be decompressed: {error}; expected a whole gzip file: copy it again"
        ) from error


def _read_texts(path: Path) -> Iterator[tuple[str, str, str]]:
    """Id, title and text of every record of a corpus or queries file."""
    is_empty = True
    for number, line in _iter_lines(path):
        is_empty = False
        record = _parse_object(path, number, line)
        yield (
            _require_id(path, number, record),
            _string(path, number, record, "title"),
            _string(path, number, record, "text"),
        )
    if is_empty:
        raise SourceError(f"{path} holds no record: fill it, or delete it if this batch brings none")


def _parse_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _malformed(path, number, 'one JSON object like {"_id": "1", "text": "..."}', line) from error
    if not isinstance(record, dict):
        raise _malformed(path, number, 'one JSON object like {"_id": "1", "text": "..."}', line)
    return record


def _require_id(path: Path, number: int, record: dict[str, Any]) -> str:
    found = record.get("_id")
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str) or not found.strip():
        raise _malformed(path, number, 'a string or integer under "_id"', json.dumps(record))
    return _require_encodable(path, number, "_id", found)


def _string(path: Path, number: int, record: dict[str, Any], key: str) -> str:
    """The string under `key`; a title may be absent or null, a text may not."""
    found = record.get(key)
    if key == "title" and found is None:
        return ""
    if not isinstance(found, str):
        raise _malformed(path, number, f'a string under "{key}"', json.dumps(record))
    return _require_encodable(path, number, key, found)


def _require_encodable(path: Path, number: int, key: str, text: str) -> str:
    # JSON allows "\ud800" alone; no hash, database or tokenizer can take it.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        expected = f'"{key}" without half a surrogate pair'
        raise _malformed(path, number, expected, text[error.start : error.start + 1]) from error
    return text


def _read_judgements(files: Iterable[Path]) -> tuple[list[Qrel], list[tuple[str, set[str]]]]:
    """All judgements of a batch, each pair once, and for each file its stem and the queries that it judges."""
    relevance_of: dict[tuple[str, str], int] = {}
    judged = []
    for path in files:
        query_ids = set()
        for number, qrel in _iter_qrels(path):
            query_ids.add(qrel.query_id)
            known = relevance_of.setdefault((qrel.query_id, qrel.doc_id), qrel.relevance)
            if known != qrel.relevance:
                expected = f"score {known} for ({qrel.query_id!r}, {qrel.doc_id!r}) as judged before"
                raise _malformed(path, number, expected, str(qrel.relevance))
        judged.append((path.name.split(".")[0], query_ids))
    return [Qrel(*pair, relevance) for pair, relevance in relevance_of.items()], judged


def _iter_qrels(path: Path) -> Iterator[tuple[int, Qrel]]:
    """Line number and judgement; rows `query-id corpus-id score`, columns by name where there is a header, or TREC rows."""
    columns: tuple[int, ...] = ()
    width = 0
    for number, line in _iter_lines(path):
        cells = _cells(path, line)
        if not columns:
            width, columns = len(cells), _header(path, number, cells, line)
            if columns:
                continue
            columns = _columns_without_header(path, number, cells, line)
        if len(cells) != width or not all(cells[column] for column in columns):
            raise _malformed(path, number, f"{width} columns as in the lines before (`query-id corpus-id score`)", line)
        if width == 4 and columns == _TREC and cells[1] not in _TREC_ITERATIONS:
            raise _malformed(
                path, number, "0 or Q0 in the second of four columns, as in TREC's `qid 0 docid rel`", line
            )
        query_id, doc_id, score = (cells[column] for column in columns)
        integer = _INTEGER.fullmatch(score)
        if integer is None:
            raise _malformed(path, number, "an integer score", score)
        yield number, Qrel(query_id, doc_id, int(integer[1]))


def _cells(path: Path, line: str) -> list[str]:
    if ".csv" in path.name:
        return [cell.strip() for cell in next(csv.reader([line]))]
    return [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()


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
    raise _malformed(
        path, number, "a header that names query-id, corpus-id and score, or a judgement with an integer score", line
    )


def _columns_without_header(path: Path, number: int, cells: Sequence[str], line: str) -> tuple[int, ...]:
    if len(cells) == 3:
        return (0, 1, 2)
    if len(cells) == 4 and cells[1] in _TREC_ITERATIONS:
        return _TREC
    raise _malformed(
        path, number, "`query-id corpus-id score`, TREC's `qid 0 docid rel`, or a header that names more columns", line
    )
