"""From rows to what the Dagster UI shows: schemas, lineage, counts, data versions, small tables.

All metadata of assets and checks passes `shown` here: NaN and the infinities are no JSON, and a page that gets them stays empty.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa

from distill_assets.records import fingerprint_rows
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


def derive_lineage(table: str, upstream: Iterable[str]) -> dg.TableColumnLineage:
    """A column comes from the columns of the same name upstream: one name means one quantity in this project."""
    tables = {asset: _table_of(asset) for asset in upstream}
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(dg.AssetKey(asset), column)
                for asset, other in tables.items()
                if column in TABLES[other].columns
            ]
            for column in TABLES[table].columns
        }
    )


def _table_of(asset: str) -> str:
    return {
        "teacher_checkpoint": "checkpoints",
        "student_checkpoint": "checkpoints",
        "champion": "champion_history",
    }.get(asset, asset)


def shown(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata in which every number can be shown: NaN and infinities, at any depth, as the words that JSON has not."""
    return {name: _without_nan(value) for name, value in metadata.items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dg.FloatMetadataValue):
        return _without_nan(value.value)
    if isinstance(value, dg.JsonMetadataValue):
        return dg.MetadataValue.json(_without_nan(value.data))
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, np.floating):
        return _without_nan(float(value))
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


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
