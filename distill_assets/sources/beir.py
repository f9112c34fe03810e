"""BEIR folders: `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`, as one batch or as an inbox with a batch per folder.

Every refusal names the file, the line, what was expected and what to do. Files are read as bytes and split at line
feeds alone, because texts may hold the other characters that Python takes for line ends.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill_assets.core.errors import MalformedRecordError, SourceError, UnknownBatchError
from distill_assets.core.records import Collection, Document, Qrel, Query, Split, assign_split, fingerprint
from distill_assets.sources.base import check_collection, require_batch_name, require_known_batch

# Raised whenever the same files would give other documents, queries or splits, so that stored batches count as stale.
READER_VERSION = "1"
_CORPUS, _QUERIES, _QRELS, _READY = "corpus.jsonl", "queries.jsonl", "qrels", "_READY"
_EXPECTED = f"expected {_CORPUS}, {_QUERIES} and {_QRELS}/*.tsv"
_SPLIT_OF_STEM: dict[str, Split] = {
    "train": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}
_HEADER_IDS = frozenset({"query-id", "query_id", "qid"})
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")  # nine digits fit the INTEGER column of the warehouse
_QUOTED_CHARACTERS = 80


@dataclass(frozen=True)
class BeirSource:
    """A BEIR folder, or an inbox of them.

    A root that holds `corpus.jsonl` or `queries.jsonl` is one batch, named after the folder. Any other root is an
    inbox: each sub-folder with one of the two files, or with judgements, is a batch, and may bring documents alone, queries
    alone that are judged against the documents that stand already, or judgements alone. Hidden folders are skipped, so a
    batch that is still being copied is safe under a name like `.incoming` until it is renamed; a file `_READY`, written last,
    says the same of a batch that is copied in place.

    Splits, decided by the batch's own files so that they never move when it is ingested again:

    - `train.tsv`, `dev.tsv` (also `val`, `valid`, `validation`) and `test.tsv` decide the split of the queries they
      judge. A query in several files belongs to test, else dev, else train: what is tested is never trained on.
    - Without a dev file, the train queries whose hash falls in the dev bucket (10 %) become dev: steps and champions
      must be chosen on something. SciFact, with train and test, is such a collection.
    - If all judgements name one split, as in SQuAD and COVID-QA where everything is `test.tsv`, all queries get the
      hash split (train 80, dev 10, test 10): there would be nothing to train on otherwise. Numbers on that test share
      cannot be compared with those published for the whole file.
    - Queries of other files, and queries without judgements, get the hash split.

    Attributes:
        root: the folder.
        max_unknown_qrels: share of judgements that may name an unknown id; they are dropped and counted.
        name: what the leaderboard calls the collection; `beir:` and the folder name when empty.
    """

    root: Path
    max_unknown_qrels: float = 0.05
    name: str = ""

    def __post_init__(self) -> None:
        """Fill in the name."""
        if not self.name:
            object.__setattr__(self, "name", f"beir:{self.root.resolve().name}")

    @property
    def is_inbox(self) -> bool:
        """Whether each sub-folder is a batch."""
        return not _holds_texts(self.root)

    def batches(self) -> list[str]:
        """Names of the batches that are there now, sorted; folders of an inbox with impossible names are left out.

        Raises:
            SourceError: the root is no folder, or nothing in it can be read.
            UnknownBatchError: the one folder has a name that a batch may not have.
        """
        return sorted(self._folders())

    def refused(self) -> dict[str, str]:
        """Folders of an inbox that hold data under a name that a batch may not have, with the reason."""
        if not self.root.is_dir() or not self.is_inbox:
            return {}
        reasons = {path.name: _name_fault(path.name) for path in _data_folders(self.root)}
        return {name: reason for name, reason in sorted(reasons.items()) if reason}

    def last_change(self, batch: str) -> float:
        """Newest time stamp of the batch's files; 0.0 where a `_READY` file is at least as new as all of them."""
        folder = self._folder(batch)
        newest = max((_changed_at(path) for path in _batch_files(folder)), default=0.0)
        ready = folder / _READY
        return 0.0 if ready.is_file() and _changed_at(ready) >= newest else newest

    def fingerprint(self, batch: str) -> str:
        """Hash of the bytes of the batch's files, and of what else decides whether and how they are read."""
        folder = self._folder(batch)
        digests = [(path.relative_to(folder).as_posix(), _digest(path)) for path in _batch_files(folder)]
        return fingerprint(READER_VERSION, self.max_unknown_qrels, *(part for pair in digests for part in pair))

    def read(self, batch: str) -> Collection:
        """Read one batch.

        Raises:
            MalformedRecordError: a line is not what the format says.
            SourceError: a file is empty or cannot be opened, an id occurs twice, a text is empty.
            UnknownJudgementError: too many judgements name an unknown id.
        """
        folder = self._folder(batch)
        qrels, judged = _read_judgements(folder)
        splits = given_splits(judged)
        queries = [
            Query(query_id, text, splits.get(query_id) or assign_split(query_id))
            for query_id, _, text in _read_texts(folder / _QUERIES)
        ]
        documents = [Document(*fields) for fields in _read_texts(folder / _CORPUS)]
        return check_collection(documents, queries, qrels, where=str(folder), max_unknown_share=self.max_unknown_qrels)

    def _folder(self, batch: str) -> Path:
        # Looked at by itself: a sensor asks of every batch, and listing all folders for each grows with their square.
        path = self.root / batch
        if _name_fault(batch) is None and self.root.is_dir() and self.is_inbox and _is_data_folder(path):
            return path
        folders = self._folders()
        return folders[require_known_batch(batch, folders)]

    def _folders(self) -> dict[str, Path]:
        if not self.root.is_dir():
            raise SourceError(f"no folder at {self.root}: {_EXPECTED} in it or in its sub-folders; correct the path")
        if _holds_texts(self.root):
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


def given_splits(judged: Iterable[tuple[str, set[str]]]) -> dict[str, Split]:
    """Split of each query that the files of judgements decide; the rules are in `BeirSource`.

    `judged` holds one pair per file: its name without ending, and the ids of the queries it judges. Queries that are
    not in the answer get the hash split.
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
        found.update({key: "dev" for key, split in found.items() if split == "train" and assign_split(key) == "dev"})
    return found


def _data_folders(inbox: Path) -> list[Path]:
    return [path for path in inbox.iterdir() if _is_data_folder(path)]


def _is_data_folder(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_dir() and (_holds_texts(path) or bool(_qrel_files(path)))


def _name_fault(name: str) -> str | None:
    try:
        require_batch_name(name)
    except UnknownBatchError as error:
        return str(error)
    return None


def _changed_at(path: Path) -> float:
    """Time of the last change of content, or of the arrival here where that is later: a copy may keep an old time stamp."""
    stat = path.stat()
    return max(stat.st_mtime, stat.st_ctime)


def _holds_texts(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (_CORPUS, _QUERIES))


def _qrel_files(folder: Path) -> list[Path]:
    # Hidden ones are left out: macOS archives bring a binary `._test.tsv` beside each `test.tsv`.
    return sorted(path for path in (folder / _QRELS).glob("*.tsv") if not path.name.startswith("."))


def _batch_files(folder: Path) -> list[Path]:
    return [path for path in (folder / _CORPUS, folder / _QUERIES) if path.is_file()] + _qrel_files(folder)


def _digest(path: Path) -> str:
    try:
        stat = path.stat()
        return _digest_once(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise _cannot_open(path, error) from error


@lru_cache(maxsize=4096)
def _digest_once(path: Path, size: int, changed_ns: int) -> str:
    """Hashed again only when size or time moved: a sensor asks this of every batch twice a minute."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cannot_open(path: Path, error: OSError) -> SourceError:
    return SourceError(f"cannot read {path}: {error.strerror or error}; check the file and its permissions")


def _malformed(path: Path, number: int, expected: str, found: str) -> MalformedRecordError:
    quoted = repr(found if len(found) <= _QUOTED_CHARACTERS else f"{found[:_QUOTED_CHARACTERS]}...")
    return MalformedRecordError(
        f"{path}, line {number}: expected {expected}, found {quoted}; correct or remove the line"
    )


def _iter_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank, from 1."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                try:
                    text = content.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    found = content[error.start : error.start + 8].hex(" ")
                    raise _malformed(path, number, "UTF-8 text", f"bytes {found}") from error
                if text.strip():
                    yield number, text
    except OSError as error:
        raise _cannot_open(path, error) from error


def _read_texts(path: Path) -> Iterator[tuple[str, str, str]]:
    """Id, title and text of every record of a corpus or queries file; none where the file is absent."""
    if not path.is_file():
        return
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


def _read_judgements(folder: Path) -> tuple[list[Qrel], list[tuple[str, set[str]]]]:
    """All judgements of a batch, each pair once, and for each file its stem and the queries that it judges."""
    relevance_of: dict[tuple[str, str], int] = {}
    judged = []
    for path in _qrel_files(folder):
        query_ids = set()
        for number, qrel in _iter_qrels(path):
            query_ids.add(qrel.query_id)
            known = relevance_of.setdefault((qrel.query_id, qrel.doc_id), qrel.relevance)
            if known != qrel.relevance:
                expected = f"score {known} for ({qrel.query_id!r}, {qrel.doc_id!r}) as judged before"
                raise _malformed(path, number, expected, str(qrel.relevance))
        judged.append((path.stem, query_ids))
    return [Qrel(*pair, relevance) for pair, relevance in relevance_of.items()], judged


def _iter_qrels(path: Path) -> Iterator[tuple[int, Qrel]]:
    """Line number and judgement; BEIR rows `query-id corpus-id score` (with a header or without) or TREC rows."""
    width = 0
    for number, line in _iter_lines(path):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        is_first, width = width == 0, width or len(cells)
        if is_first and cells[0].casefold() in _HEADER_IDS and not _INTEGER.fullmatch(cells[-1]):
            continue
        if len(cells) not in (3, 4) or not all(cells):
            raise _malformed(path, number, "`query-id corpus-id score` or TREC's `qid 0 docid rel`", line)
        if len(cells) != width:
            raise _malformed(path, number, f"{width} columns as in the lines before", line)
        if not _INTEGER.fullmatch(cells[-1]):
            raise _malformed(path, number, "an integer score in the last column", line)
        yield number, Qrel(cells[0], cells[-2], int(cells[-1]))
