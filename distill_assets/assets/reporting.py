"""From rows to what the Dagster UI shows: schemas, lineage, data versions, small tables.

All metadata of assets and checks passes `shown` here: NaN and the infinities are no JSON, and a page that gets them stays empty.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np

from distill_assets.documents import StoredDocuments
from distill_assets.evaluation.tables import as_markdown
from distill_assets.handles.project import Project
from distill_assets.records import fingerprint_rows
from distill_assets.sources.columns import COLUMNS, Part
from distill_assets.storage.warehouse import TABLES, Rows

INBOX = "inbox"  # the asset of a line whose batches come from a team's own assets
# Assets that read a batch, and the part of an upstream batch that each is read from.
_PART_OF: dict[str, Part] = {"corpus": "documents", "queries": "queries", "qrels": "judgements"}
# Assets whose rows are in a table of another name.
_TABLE_OF = {
    "teacher_checkpoint": "checkpoints",
    "student_checkpoint": "checkpoints",
    "student_choice": "student_trials",
    "champion": "champion_history",
}


def table_schema(table: str) -> dg.TableSchema:
    """Columns of a warehouse table with types and meaning."""
    columns = TABLES[table].columns.items()
    return dg.TableSchema([dg.TableColumn(name, spec.sql_type, spec.description) for name, spec in columns])


def content_version(rows: Rows) -> str:
    """Data version of a partition: the same rows in any order give the same version."""
    if isinstance(rows, StoredDocuments):
        return rows.version
    columns = [rows.column(name).to_pylist() for name in sorted(rows.column_names)]
    return fingerprint_rows(zip(*columns, strict=True))


def derive_lineage(project: Project, asset: str, table: str, upstream: Iterable[str]) -> dg.TableColumnLineage:
    """A column comes from the columns of the same name upstream: one name means one quantity in this project."""
    columns = {up: TABLES[_TABLE_OF.get(up, up)].columns for up in upstream if project.has_asset(up)}
    found = {
        name: [dg.TableColumnDep(project.key(up), name) for up, there in columns.items() if name in there]
        for name in TABLES[table].columns
    }
    part = _PART_OF.get(asset)
    if part is not None and project.upstream is not None and part in project.upstream.assets:
        for name in COLUMNS[part].keys() & found.keys():
            found[name].append(dg.TableColumnDep(project.key(INBOX), f"{part}.{name}"))
    return dg.TableColumnLineage(found)


def shown(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata in which every number can be shown: NaN and infinities, at any depth, as the words that JSON has not."""
    return {name: _without_nan(value) for name, value in metadata.items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dg.FloatMetadataValue):
        return _without_nan(value.value)
    if isinstance(value, dg.JsonMetadataValue):
        return dg.MetadataValue.json(_without_nan(value.data))
    if isinstance(value, Mapping):
        return shown(value)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return float(value) if isinstance(value, np.floating) else value


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """A small table; numbers with four decimals, missing values as a dash, long texts cut."""
    if not rows:
        return dg.MetadataValue.md("(no rows)")
    return dg.MetadataValue.md(as_markdown([list(rows[0]), *([_cell(row[name]) for name in rows[0]] for row in rows)]))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)[:200]
