"""BEIR folders: `corpus.jsonl`, `queries.jsonl` and `qrels/*.tsv`, as one batch or as an inbox with a batch per folder.

Any of them may be a ZIP archive, and each part Parquet: `corpus.parquet`, `corpus/*.parquet`, `qrels/test.parquet`.

A batch that cannot be opened has a fingerprint like any other, from what can be seen of it: one odd entry holds up nobody
else, and its batch is read again when the entry changes. Only `read` refuses.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from distill_assets.errors import SourceError, UnknownBatchError
from distill_assets.records import Collection, Document, fingerprint
from distill_assets.sources.archives import ZIP, is_archive, unpacked
from distill_assets.sources.base import (
    DEFAULT_RULES,
    AskedQuery,
    Parts,
    Reader,
    Rules,
    collect,
    require_batch_name,
    require_known_batch,
)
from distill_assets.sources.clicks import parts_of_clicks, read_clicks
from distill_assets.sources.files import GZIP, PARQUET, cannot_read, digest, is_ready, shown, stamp
from distill_assets.sources.parsing import is_run, read_judgements, read_texts

# Raised whenever the same files would give other documents, queries, splits or labels, so that stored batches count as stale.
READER_VERSION = "4"
_CORPUS, _QUERIES, _QRELS = "corpus.jsonl", "queries.jsonl", "qrels"
_TABLES = (".tsv", ".csv", ".tsv.gz", ".csv.gz", PARQUET)  # how a file of judgements ends
_PARTS = ("corpus", "queries")
_FORMS = {  # of a part: names at the root; files in a folder of its name come to these
    name: (name, f"{name}{GZIP}", f"{name.removesuffix('.jsonl')}{PARQUET}") for name in (_CORPUS, _QUERIES)
}
_CLICKS = tuple(f"clicks{ending}{gz}" for ending in (".tsv", ".csv", ".jsonl") for gz in ("", GZIP))
_NAMES_OF_TEXTS = ("corpus", "collection", "doc", "passage", "quer", "question", "topic")  # as other tools name them
_EXPECTED = f"expected {_CORPUS}, {_QUERIES} and {_QRELS}/*.tsv"
_DATA_ENDINGS = (".json", ".jsonl", ".tsv", ".csv", ".txt", ".gz", ".zip", ".parquet", ".xlsx", ".trec", ".run")


@dataclass(frozen=True)
class BeirSource:
    """A BEIR folder or its archive, or an inbox of them.

    A root that holds `corpus.jsonl` or `queries.jsonl` is one batch, named after the folder. Any other root is an
    inbox: each sub-folder with one of the two files, or with judgements, is a batch, and may bring documents alone, queries
    alone that are judged against the documents that stand already, or judgements alone. One with a `source.toml`, or with files
    of another format that is recognised (`sources/inbox.py`), is a batch as well. Hidden folders are skipped, so a
    batch that is still being copied is safe under a name like `.incoming` until it is renamed; a file `_READY`, written last,
    says the same of a batch that is copied in place. A folder that cannot be looked into is a batch that cannot be read. An archive
    `NAME.zip` is the batch NAME.

    Which split a query is in: `sources/base.given_splits`.

    Attributes:
        root: the folder or archive.
        name: what the leaderboard calls the collection; `beir:` and the folder's or archive's name when empty.
    """

    root: Path
    rules: Rules = DEFAULT_RULES
    name: str = ""

    def __post_init__(self) -> None:
        """Fill in the name."""
        if not self.name:
            object.__setattr__(self, "name", f"beir:{_batch_of(self.root.resolve())}")

    @property
    def is_inbox(self) -> bool:
        """Whether each sub-folder is a batch."""
        at_root = map(self.root.joinpath, chain(*_FORMS.values()))
        is_batch = any(_is_a(stat.S_ISREG, path) for path in at_root) or any(
            _shards(self.root, name) for name in _FORMS
        )
        return not is_archive(self.root) and not is_batch

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
        reasons = {shown(path.name): self._fault(path) for path in _data_folders(self.root)}
        return {name: reason for name, reason in sorted(reasons.items()) if reason}

    def look(self, batch: str) -> str | None:
        """Names, sizes and times of the batch's files as one hash; None where a `_READY` came after all of them."""
        return self._seen(batch).look()

    def fingerprint(self, batch: str) -> str:
        """Hash of the bytes of the batch's files, and of what else decides whether and how they are read."""
        return fingerprint(self._seen(batch).fingerprint(), self.rules)

    def read(self, batch: str) -> Collection:
        """Read one batch.

        Raises:
            MalformedRecordError: a line is not what the format says.
            SourceError: a file is empty or cannot be opened, an id occurs twice, a text is empty.
            UnknownJudgementError: too many judgements name an unknown id.
        """
        place = self._folder(batch)
        if is_archive(place):
            with unpacked(place) as folder:
                return collect(BeirFolder(folder).read(), batch, self.rules, where=str(place))
        return collect(self._reader(place).read(), batch, self.rules, where=str(place))

    def _reader(self, folder: Path) -> Reader:
        return (_find_reader(folder) if self.is_inbox else None) or BeirFolder(folder)

    def _seen(self, batch: str) -> "Reader | _Archive":
        place = self._folder(batch)
        return _Archive(place) if is_archive(place) else self._reader(place)

    def _folder(self, batch: str) -> Path:
        # Looked at by itself: a sensor asks of every batch, and listing all folders for each grows with their square.
        if _name_fault(batch) is None and _is_a(stat.S_ISDIR, self.root) and self.is_inbox:
            for path in (self.root / batch, self.root / f"{batch}{ZIP}"):
                if _batch_of(path) == batch and _is_data_folder(path):
                    return path
        folders = self._folders()
        return folders[require_known_batch(batch, folders)]

    def _fault(self, path: Path) -> str | None:
        if is_archive(path) and _is_data_folder(self.root / _batch_of(path)):
            return f"there is a folder {_batch_of(path)!r} as well, which is read: remove one of the two"
        return _name_fault(_batch_of(path))

    def _folders(self) -> dict[str, Path]:
        if is_archive(self.root):
            return {require_batch_name(_batch_of(self.root.resolve())): self.root}
        if not _is_a(stat.S_ISDIR, self.root):
            raise SourceError(
                f"no folder or {ZIP} archive at {self.root}: {_EXPECTED} in it or in its sub-folders; correct the path"
            )
        if not self.is_inbox:
            return {require_batch_name(self.root.resolve().name): self.root}
        found = {_batch_of(path): path for path in _data_folders(self.root) if not self._fault(path)}
        if not found:
            for reason in self.refused().values():
                raise UnknownBatchError(reason)
            raise SourceError(
                f"nothing to read in {self.root}: {_EXPECTED} in it or in its sub-folders; "
                "put a BEIR folder there (at least one of the three) or correct the path"
            )
        return found


@dataclass(frozen=True)
class _Archive:
    """What tells whether an archive has changed: it is looked into only when it is read."""

    path: Path

    def look(self) -> str:
        return fingerprint(stamp(self.path))

    def fingerprint(self) -> str:
        return fingerprint(READER_VERSION, digest(self.path))


@dataclass(frozen=True)
class BeirFolder:
    """One BEIR folder."""

    folder: Path

    def look(self) -> str | None:
        """Names, sizes and times of the files as one hash; None where a `_READY` came after all of them."""
        if is_ready(self.folder, lambda: _batch_files(self.folder)):
            return None
        return fingerprint(*_of_each_file(self.folder, stamp))

    def fingerprint(self) -> str:
        """Hash of the bytes of the files."""
        return fingerprint(READER_VERSION, *_of_each_file(self.folder, digest))

    def read(self) -> Parts:
        """Read the folder. Raises as `BeirSource.read`."""
        corpus, queries = (_texts(self.folder, name) for name in _FORMS)
        judgements = [path for path in _judgement_files(self.folder) if not is_run(path)]
        clicks = [path for path in judgements if _is_clicks(path)]
        qrels, judged = read_judgements([path for path in judgements if path not in clicks])
        parts = Parts(
            documents=_Corpus(tuple(corpus)),
            queries=[AskedQuery(key, text, label) for key, _, text, label in _records_of(queries, has_labels=True)],
            qrels=qrels,
            judged=judged,
            unread=_unread(self.folder, [*corpus, *queries, *judgements]),
        )
        return parts_of_clicks(chain.from_iterable(map(read_clicks, clicks)), parts) if clicks else parts


@dataclass(frozen=True)
class _Corpus:
    """The documents in these files, read from the start each time they are gone through."""

    files: tuple[Path, ...]

    def __iter__(self) -> Iterator[Document]:
        return (Document(doc_id, title, text) for doc_id, title, text, _ in _records_of(self.files))


def holds_beir(folder: Path) -> bool:
    """Whether this is a BEIR folder, or one of them lies in it. Raises `SourceError` where it cannot be listed."""
    below = (folder / name for name in _list(folder) if not name.startswith(".") and _is_a(stat.S_ISDIR, folder / name))
    return any(_batch_files(each) for each in (folder, *below))


def _data_folders(inbox: Path) -> list[Path]:
    return [inbox / name for name in _list(inbox) if _is_data_folder(inbox / name)]


def _is_data_folder(path: Path) -> bool:
    """Whether the folder holds a batch. One that cannot be looked into does: passed over, it would seem to be taken away."""
    if path.name.startswith(".") or not os.path.lexists(path):
        return False
    try:
        return is_archive(path) or (stat.S_ISDIR(path.stat().st_mode) and _find_reader(path) is not None)
    except (OSError, SourceError):
        return True


def _find_reader(folder: Path) -> Reader | None:
    """How a folder of an inbox is read: by its source.toml, as a BEIR folder, or as what the catalog recognises."""
    from distill_assets.sources import inbox  # which opens every kind of source, this one too

    try:
        return inbox.find_source_file(folder) or (
            BeirFolder(folder) if _batch_files(folder) else inbox.recognise(folder)
        )
    except (OSError, SourceError):
        return BeirFolder(folder)  # it cannot be looked into, and says so when it is read


def _batch_of(path: Path) -> str:
    """Name of the batch that a folder or archive is."""
    return path.name[: -len(ZIP)] if is_archive(path) else path.name


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
    return [path for name in _FORMS for path in _texts(folder, name)] + _judgement_files(folder)


def _texts(folder: Path, name: str) -> list[Path]:
    """The files of documents or of queries. Where there are lines, Parquet of the same part is left unread."""
    names = _list(folder)
    *lines, table = _FORMS[name]
    found = [folder / form for form in lines if form in names]
    return found or [folder / form for form in [table] if form in names] + _shards(folder, name)


def _shards(folder: Path, name: str) -> list[Path]:
    """Parquet files in a folder with the name of the part, as the hub has them."""
    place = folder / name.removesuffix(".jsonl")
    if not _is_a(stat.S_ISDIR, place):
        return []
    return [place / name for name in sorted(_list(place)) if name.endswith(PARQUET) and not name.startswith(".")]


def _judgement_files(folder: Path) -> list[Path]:
    names = _list(folder)
    if _QRELS in names:
        # Hidden ones are left out: macOS archives bring a binary `._test.tsv` beside each `test.tsv`.
        shown = sorted(name for name in _list(folder / _QRELS) if _is_table(name) and not name.startswith("."))
        judgements = [folder / _QRELS / name for name in shown]
    else:
        at_root = {f"{_QRELS}{ending}" for ending in _TABLES}
        judgements = [folder / name for name in sorted(names) if name.casefold() in at_root]
    return judgements + [folder / name for name in sorted(names) if name.casefold() in _CLICKS]


def _is_clicks(path: Path) -> bool:
    return path.name.casefold() in _CLICKS and path.parent.name != _QRELS


def _is_table(name: str) -> bool:
    return name.casefold().endswith(_TABLES)  # Windows writes Test.TSV and does not mind


def _unread(folder: Path, files: Sequence[Path]) -> dict[str, str]:
    """Files that look like data and are not read, with the reason: what a misnamed file holds would be missed in silence."""
    entries = [folder / name for name in _list(folder)]
    for part in (_QRELS, *_PARTS):
        if _is_a(stat.S_ISDIR, folder / part):
            entries += [folder / part / name for name in _list(folder / part)]
    found = {}
    for path in sorted(set(entries) - set(files)):
        if path.name.casefold().endswith(_DATA_ENDINGS) and not path.name.startswith(".") and _is_a(stat.S_ISREG, path):
            found[shown(path.relative_to(folder).as_posix())] = _why_unread(path)
    return found


def _why_unread(path: Path) -> str:
    name, is_judgements = path.name.casefold(), path.parent.name == _QRELS
    if is_run(path):
        return (
            f"ranked results (qid Q0 docid rank score tag) are no judgements: take it out, or put qrels into {_QRELS}/"
        )
    for part in _PARTS:
        if name.endswith(PARQUET) and part in (name.removesuffix(PARQUET), path.parent.name):
            return f"{part} is read from {part}.jsonl, which is there as well: remove one of the two"
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


def _records_of(files: Sequence[Path], *, has_labels: bool = False) -> Iterator[tuple[str, str, str, str]]:
    """Records of a batch's corpus or queries; nothing where it brings none."""
    if len(files) > 1 and not all(path.name.endswith(PARQUET) and path.parent == files[0].parent for path in files):
        raise SourceError(
            f"{files[0].parent}: {files[0].name} is there twice, also as {files[1].name}; expected one: remove the other"
        )
    for path in files:
        yield from read_texts(path, has_labels=has_labels)


def _of_each_file(folder: Path, tell: Callable[[Path], str]) -> list[str]:
    """Name of each file of a batch, then what `tell` says of it; the reason alone where the folder cannot be listed."""
    try:
        files = _batch_files(folder)
    except SourceError as error:
        return [str(error)]
    return [part for path in files for part in (shown(path.relative_to(folder).as_posix()), tell(path))]
