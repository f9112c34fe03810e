"""Documents, queries and judgements that somebody else's assets hold, as frames: which column is what, and the folder of a batch.

A frame becomes the BEIR folder of one batch, or its file of pairs. An asset that names what it wrote becomes a `source.toml`. From
there on it is read, checked and versioned as every other batch of an inbox.
"""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from distill_assets.errors import SettingsError, SourceError
from distill_assets.sources.base import require_split
from distill_assets.sources.catalog import is_path, known_schemes
from distill_assets.sources.columns import PARTS as TABLE_PARTS
from distill_assets.sources.columns import Origin, Part, fault_of_columns
from distill_assets.sources.inbox import SOURCE_FILE
from distill_assets.sources.strings import as_strings

PARTS: tuple[Part, ...] = (*TABLE_PARTS, "pairs", "source")
_ALONE: tuple[Part, ...] = ("pairs", "source")  # each is a whole batch
_MADE_FROM = ".upstream.json"  # hidden: no part of what the batch says
_ROWS = 4096


@dataclass(frozen=True)
class UpstreamAsset:
    """One asset of a team that brings a part of the collection.

    Attributes:
        key: its asset key.
        columns: our column -> theirs, where the names differ.
        duckdb: the DuckDB file of the table that the asset names in its metadata; None where its I/O manager reads it.
    """

    key: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    duckdb: Path | None = None

    @property
    def name(self) -> str:
        """The key as people write it."""
        return "/".join(self.key)


@dataclass(frozen=True)
class Upstream:
    """What a line reads from a team's own assets.

    Attributes:
        assets: by part. A part that is missing comes with folders of the inbox, or not at all.
        is_one_batch: all partitions of the assets are one batch. By default each partition is a batch.

    Raises:
        SettingsError: no part is named, pairs or a source stand beside another part, or a column map names a column that the
            part has not.
    """

    assets: Mapping[Part, UpstreamAsset]
    is_one_batch: bool = False

    def __post_init__(self) -> None:
        if not self.assets:
            raise SettingsError(f"upstream names no asset: expected at least one of {', '.join(PARTS)}")
        for part in _ALONE:
            if part in self.assets and len(self.assets) > 1:
                others = ", ".join(other for other in self.assets if other != part)
                raise SettingsError(
                    f"upstream.{part} brings a whole batch, and {others} beside it would too: remove one"
                )
        for part, asset in self.assets.items():
            if fault := fault_of_columns(part, asset.columns):
                raise SettingsError(f"upstream.{part}.columns {fault} of {asset.name}")

    @property
    def name(self) -> str:
        """Name of the batch where the assets have no partitions: that of the first asset."""
        return next(self.assets[part].key[-1] for part in PARTS if part in self.assets)


def read_part(part: Part, asset: UpstreamAsset, frame: Any) -> pa.Table:
    """The rows of a frame (pandas, polars, Arrow, or anything with an Arrow stream) under our column names; ids and texts as strings.

    Raises:
        SourceError: it is no frame, lacks a column, or an id is null; or a `source` is no text SCHEME:REST.
    """
    if part == "source":
        return pa.table({"collection": [_require_collection(asset, frame)]})
    origin = Origin(part, asset.name, f"upstream.{part}.columns", asset.columns)
    [rows] = as_strings(origin, [_as_table(asset, frame)])
    return rows


def _require_collection(asset: UpstreamAsset, value: Any) -> str:
    scheme, _, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not rest or scheme not in known_schemes():
        raise SourceError(
            f"{asset.name} gave {value!r} as its source: expected SCHEME:REST as text, with one of {', '.join(known_schemes())}; "
            "return that from the asset"
        )
    if is_path(scheme) and not Path(rest).is_absolute():
        raise SourceError(
            f"{asset.name} gave {value!r}: expected an absolute path behind {scheme}:, for it is read from elsewhere"
        )
    return str(value)


def _as_table(asset: UpstreamAsset, frame: Any) -> pa.Table:
    if hasattr(frame, "collect") and not hasattr(frame, "__arrow_c_stream__"):  # a polars LazyFrame
        frame = frame.collect()
    if isinstance(frame, list) and all(isinstance(row, Mapping) for row in frame):
        return pa.Table.from_pylist(frame)
    if hasattr(frame, "__arrow_c_stream__"):
        return pa.table(frame)
    raise SourceError(
        f"{asset.name} gave a {type(frame).__name__}: expected a pandas, polars or Arrow table, or a list of dictionaries; return one "
        "from the asset, or name its table in its metadata (dagster/table_name, dagster/uri)"
    )


def write_batch(inbox: Path, batch: str, parts: Mapping[Part, pa.Table], made_from: Mapping[str, Any]) -> Path:
    """Put a batch's folder into the inbox in one move, in place of the one that is there; returns it.

    `made_from` is what `read_made_from` gives back. The file `_READY` says that nothing is missing.

    Raises:
        SourceError: a split is none of train, dev, validation and test; or there are several sources.
    """
    folder, coming = inbox / batch, inbox / f".{batch}.{uuid.uuid4().hex[:8]}"
    inbox.mkdir(parents=True, exist_ok=True)
    try:
        (coming / "qrels").mkdir(parents=True)
        if _has_rows(parts, "documents"):
            _write_lines(coming / "corpus.jsonl", parts["documents"], {"doc_id": "_id"})
        if _has_rows(parts, "queries"):
            _write_lines(coming / "queries.jsonl", _without_split(parts["queries"]), {"query_id": "_id"})
        if _has_rows(parts, "judgements"):
            _write_judgements(coming / "qrels", parts["judgements"], parts.get("queries"))
        if _has_rows(parts, "clicks"):
            _write_lines(coming / "clicks.jsonl", parts["clicks"], {})
        _write_whole_batch(coming, parts)
        (coming / _MADE_FROM).write_text(json.dumps(made_from), encoding="utf-8")
        (coming / "_READY").touch()
        gone = inbox / f".{batch}.{uuid.uuid4().hex[:8]}"
        with suppress(FileNotFoundError):
            folder.rename(gone)
        coming.rename(folder)
        shutil.rmtree(gone, ignore_errors=True)
    finally:
        shutil.rmtree(coming, ignore_errors=True)
    return folder


def read_made_from(inbox: Path, batch: str) -> dict[str, Any] | None:
    """What a batch's folder was made from; None where it is not there, or came from somewhere else."""
    try:
        found: dict[str, Any] = json.loads((inbox / batch / _MADE_FROM).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _has_rows(parts: Mapping[Part, pa.Table], part: Part) -> bool:
    """A file without a record is refused by the reader, for it is a mistake there. Here a day may bring nothing."""
    return part in parts and parts[part].num_rows > 0


def _write_whole_batch(folder: Path, parts: Mapping[Part, pa.Table]) -> None:
    """What pairs or a source bring, with the `source.toml` that says how it is read."""
    sources = parts["source"]["collection"].to_pylist() if "source" in parts else []
    if _has_rows(parts, "pairs"):
        _write_lines(folder / "pairs.jsonl", parts["pairs"], {})
        sources.append("pairs:pairs.jsonl")
    if len(sources) > 1:
        raise SourceError(
            f"one batch has {len(sources)} sources, first {sources[0]}: remove one_batch, or bring one partition"
        )
    for source in sources:
        text = f"collection = {json.dumps(source, ensure_ascii=False)}\n"
        (folder / SOURCE_FILE).write_text(text, encoding="utf-8")


def _write_lines(path: Path, rows: pa.Table, renamed: Mapping[str, str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in _rows(rows.rename_columns([renamed.get(name, name) for name in rows.column_names])):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _without_split(queries: pa.Table) -> pa.Table:
    return queries.select([name for name in queries.column_names if name != "split"])


def _write_judgements(folder: Path, rows: pa.Table, queries: pa.Table | None) -> None:
    """One file a split where the judgements or the queries say theirs, else one file, which is split by hash."""
    told = () if queries is None else _rows(queries)
    splits = {row["query_id"]: require_split(row.get("split", ""), "upstream.queries") for row in told}
    lines: dict[str, list[str]] = {}
    for row in _rows(rows):
        line = [row["query_id"], row["doc_id"], row.get("relevance", "1")]
        own = require_split(row.get("split", ""), "upstream.judgements") or splits.get(row["query_id"])
        lines.setdefault(own or "judgements", []).append("\t".join(line))
    for split, of_split in lines.items():
        text = "\n".join(["query-id\tcorpus-id\tscore", *of_split, ""])
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8")


def _rows(table: pa.Table) -> Iterator[dict[str, str]]:
    for batch in table.to_batches(_ROWS):
        yield from batch.to_pylist()
