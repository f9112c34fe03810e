"""From rows to what the Dagster UI shows: schemas, counts, data versions, small tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.core.records import fingerprint_rows
from distill_assets.storage.warehouse import TABLES

OWNERS = ["team:search"]


def table_schema(table: str) -> dg.TableSchema:
    """Columns of a warehouse table with types and meaning."""
    columns = [
        dg.TableColumn(name=name, type=spec.sql_type, description=spec.description)
        for name, spec in TABLES[table].columns.items()
    ]
    return dg.TableSchema(columns=columns)


def content_version(rows: pa.Table) -> str:
    """Data version of a slice: the same rows in any order give the same version."""
    columns = [rows.column(name).to_pylist() for name in sorted(rows.column_names)]
    return fingerprint_rows(zip(*columns, strict=True))


def materialised(version: str, num_rows: int, metadata: Mapping[str, Any] | None = None) -> dg.MaterializeResult:
    """The result of an asset: row count, metadata, and the content as data version."""
    return dg.MaterializeResult(
        metadata={"dagster/row_count": num_rows, **(metadata or {})}, data_version=dg.DataVersion(version)
    )


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """A small table; numbers with four decimals, missing values as a dash."""
    if not rows:
        return dg.MetadataValue.md("(no rows)")
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")[:200]
