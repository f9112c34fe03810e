"""Data sets in the hub's format, `hf:NAME`, `hf:NAME@REVISION` or `hf:FOLDER`, read through the package `datasets`.

Laid out as BEIR's and MTEB's are, a data set needs no settings: configs `corpus` and `queries`; judgements in the config `qrels` or
`default`, else in the data set NAME-qrels, one split each. A part that `[data.*]` names is read from its config, split and columns.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from distill_assets.errors import DistillError, SettingsError, SourceError
from distill_assets.records import fingerprint
from distill_assets.sources.base import Options, PartOptions, Parts, require_package
from distill_assets.sources.columns import PARTS, Origin, Part
from distill_assets.sources.files import digest, stamp
from distill_assets.sources.rows import Table, parts_of
from distill_assets.sources.strings import as_strings

READER_VERSION = "1"  # raised whenever the same data set would give other parts
_ROWS_PER_BATCH = 4096
_ASK_AGAIN_S = 60  # the hub is asked for the newest revision of a name this often at most
_COMMIT_LENGTH = 40
_CONFIGS: dict[Part, tuple[str, ...]] = {
    "documents": ("corpus",),
    "queries": ("queries",),
    "judgements": ("qrels", "default"),
}
# Their names where a data set is laid out as BEIR's; one that is not there may be left out.
_BEIR_COLUMNS: dict[Part, dict[str, str]] = {
    "documents": {"doc_id": "_id"},
    "queries": {"query_id": "_id"},
    "judgements": {"query_id": "query-id", "doc_id": "corpus-id", "relevance": "score"},
}

_WITHOUT_JUDGEMENTS = (
    "there are no judgements: they are read from the config qrels or default, or from this data set; name another config in "
    "[data.judgements], or go on without"
)


@dataclass(frozen=True)
class HubDataset:
    """One batch: a data set of the hub, or a folder in its format.

    Attributes:
        name: name on the hub, or path of the folder.
        revision: branch, tag or commit; the newest one where it is empty. No folder has one.
        parts: parts that are not where BEIR's are.
    """

    name: str
    revision: str = ""
    parts: tuple[tuple[Part, PartOptions], ...] = ()

    def look(self) -> str | None:
        """Names, sizes and times of a folder's files; None for the hub, whose revisions are complete."""
        files = _files(self.name)
        return fingerprint(*(told for path in files for told in (path, stamp(path)))) if files else None

    def fingerprint(self) -> str:
        """Of a folder the bytes of its files; of the hub the commit. It is asked once a minute, and never where `revision` is one."""
        names = {self.name, *(part.path for _, part in self.parts if part.path)}
        if len(self.revision) != _COMMIT_LENGTH and "judgements" not in dict(self.parts):
            names.add(f"{self.name}-qrels")
        found = [(part, options.columns, options.config, options.split) for part, options in self.parts]
        return fingerprint(READER_VERSION, *found, *(told for name in sorted(names) for told in self._seen(name)))

    def read(self) -> Parts:
        """Read the data set; documents are streamed whenever they are gone through. Raises `SourceError`."""
        named, configs = dict(self.parts), self._configs()
        found = {
            part: self._tables(part, named[part]) if part in named else self._as_beir(part, configs) for part in PARTS
        }
        if not any(found.values()):
            raise SourceError(
                f"hf:{self.name} has the configs {', '.join(configs)}: expected corpus and queries as BEIR has; say "
                "in [data.documents] which config holds documents, and which columns are what"
            )
        parts = parts_of({part: tables for part, tables in found.items() if tables})
        return parts if parts.qrels else replace(parts, unread={f"{self.name}-qrels": _WITHOUT_JUDGEMENTS})

    def _seen(self, name: str) -> list[str]:
        if files := _files(name):
            return [told for path in files for told in (str(path.relative_to(name)), digest(path))]
        try:
            return [self._commit(name)]
        except SourceError as error:
            return [f"error {type(error.__cause__).__name__}"]  # its message has another number each time

    def _commit(self, name: str) -> str:
        """The commit that is read; empty for a folder."""
        if name == self.name and len(self.revision) == _COMMIT_LENGTH:
            return self.revision
        revision = self.revision if name == self.name else ""
        return "" if _files(name) else _newest_commit(name, revision, int(time.monotonic()) // _ASK_AGAIN_S)

    def _as_beir(self, part: Part, configs: Sequence[str]) -> list[tuple[str, Table]]:
        if "corpus" not in configs:
            return []
        for config in _CONFIGS.get(part, ()):
            if config in configs:
                return self._tables(part, PartOptions(config=config), is_beir=True)
        other = f"{self.name}-qrels"
        if part != "judgements" or (_files(self.name) and not _files(other)):
            return []
        try:
            return self._tables(part, PartOptions(path=other), is_beir=True)
        except SourceError as error:
            if type(error.__cause__).__name__ == "DatasetNotFoundError":
                return []
            raise

    def _configs(self) -> list[str]:
        with _told(f"hf:{self.name}"):
            found: list[str] = _datasets().get_dataset_config_names(self.name, revision=self._commit(self.name) or None)
            return found

    def _tables(self, part: Part, options: PartOptions, *, is_beir: bool = False) -> list[tuple[str, Table]]:
        """A table for each split, under its name."""
        if options.query is not None:
            raise SettingsError(
                f"[data.{part}] has a query, and hf:{self.name} takes none: name config, split and columns"
            )
        name = options.path or self.name
        with _told(f"hf:{name}"):
            splits = _datasets().load_dataset(name, options.config, streaming=True, revision=self._commit(name) or None)
        if options.split is not None and options.split not in splits:
            raise SourceError(f"[data.{part}] split = {options.split!r}: hf:{name} has {', '.join(splits)}")
        told = f"hf:{name}{f', config {options.config}' if options.config else ''}"
        origins = {
            split: Origin(part, f"{told}, split {split}", f"data.{part}.columns", dict(options.columns))
            for split in splits
            if options.split in (None, split)
        }
        # Row group by row group: pyarrow decodes a Parquet file further and further ahead of its reader, and 10 million documents took
        # 2.1 GB. Over the network each row group would be asked for by itself, so there a whole file may be in memory.
        if _files(name) and hasattr(_datasets().IterableDataset, "reshard"):
            splits = {split: found.reshard() for split, found in splits.items()}
        return [(s, Table(o, partial(_rows, o, splits[s], is_beir=is_beir))) for s, o in origins.items()]


def open_hub(name: str, options: Options) -> HubDataset:
    """The reader of a data set. Raises `SettingsError` where the package `datasets` is missing."""
    _datasets()
    path = Path(name).expanduser()
    if path.is_dir():
        return HubDataset(str(path.resolve()), parts=options.parts)
    name, _, revision = name.partition("@")
    return HubDataset(name, revision, options.parts)


def _rows(origin: Origin, split: Any, *, is_beir: bool) -> Iterator[pa.Table]:
    with _told(origin.name):
        batches = iter(split.with_format("arrow").iter(batch_size=_ROWS_PER_BATCH))
        first = next(batches, None)
    if first is None:
        return
    names = _BEIR_COLUMNS[origin.part] if is_beir else {}
    columns = {ours: theirs for ours, theirs in names.items() if theirs in first.column_names} | {**origin.columns}
    yield from as_strings(
        Origin(origin.part, origin.name, origin.setting, columns), chain([first], _guarded(origin, batches))
    )


def _guarded(origin: Origin, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    with _told(origin.name):
        yield from batches


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever goes wrong inside is a `SourceError`: the hub, its libraries and the file formats have errors of many classes."""
    try:
        yield
    except DistillError:
        raise
    except Exception as error:
        raise SourceError(
            f"{name} cannot be read: {error}; check the name (ORGANISATION/NAME or a folder) and the network; a data set that "
            "needs an account reads HF_TOKEN of the environment; without network, name a folder that holds its files"
        ) from error


@lru_cache(maxsize=64)
def _newest_commit(name: str, revision: str, minute: int) -> str:
    from huggingface_hub import HfApi

    with _told(f"hf:{name}"):
        return str(HfApi().dataset_info(name, revision=revision or None, timeout=10).sha)


def _files(name: str) -> Sequence[Path]:
    """The files of a folder, sorted; none where the name is the hub's."""
    folder = Path(name)
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")) if folder.is_dir() else []


def _datasets() -> Any:
    return require_package("datasets", "hf:NAME", "hub")
