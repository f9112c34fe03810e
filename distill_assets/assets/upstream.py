"""The asset `inbox`: what a team's own assets hold, put into the line's inbox, a folder a batch.

It is there only for a line with `upstream`. From the folder on, a batch is read, checked and versioned as any other.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from dagster._core.definitions.assets.definition.asset_spec import SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET

from distill_assets.assets.line import retrying
from distill_assets.assets.manifests import code_references
from distill_assets.assets.reporting import INBOX, markdown_table
from distill_assets.errors import DistillError, SourceError
from distill_assets.handles.project import Project
from distill_assets.sources.columns import COLUMNS, Part
from distill_assets.sources.upstream import (
    Upstream,
    UpstreamAsset,
    read_made_from,
    read_part,
    write_batch,
)
from distill_assets.storage.team_tables import read_duckdb_table, read_parquet

READ_UPSTREAM = "read_upstream"  # its job
MAX_BATCHES = 500  # a year of days and more. Each batch is read, mined and scored by runs of its own
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]")
_MATERIALISED = dg.DagsterEventType.ASSET_MATERIALIZATION


@dataclass
class Arrival:
    """One batch as it is upstream.

    Attributes:
        partitions: of each part, the upstream partitions that it is read from; None alone where the asset has none.
        made_from: the same with the number of the newest materialisation of each: it moves with every new one.
    """

    partitions: dict[Part, list[str | None]] = field(default_factory=dict)
    made_from: dict[str, dict[str, int]] = field(default_factory=dict)


def find_arrivals(upstream: Upstream, instance: dg.DagsterInstance) -> dict[str, Arrival]:
    """The batches that upstream assets hold now, by name, sorted. Equal partitions of several assets are one batch.

    Raises:
        SourceError: there are more than `MAX_BATCHES`, or two partitions give one name.
    """
    found: dict[str, Arrival] = {}
    name_of: dict[str, str] = {}
    for part, asset in upstream.assets.items():
        for partition, moved in _newest(asset, instance).items():
            batch = upstream.name if partition is None or upstream.is_one_batch else _NO_NAME.sub("_", partition)
            if (
                not upstream.is_one_batch
                and partition is not None
                and name_of.setdefault(batch, partition) != partition
            ):
                raise SourceError(
                    f"the partitions {name_of[batch]!r} and {partition!r} of {asset.name} would both be the batch {batch!r}: rename one"
                )
            arrival = found.setdefault(batch, Arrival())
            arrival.partitions.setdefault(part, []).append(partition)
            arrival.made_from.setdefault(part, {})[partition or ""] = moved
    if len(found) > MAX_BATCHES:
        raise SourceError(
            f"upstream has {len(found):,} partitions, a batch each; expected at most {MAX_BATCHES}: each has its own runs: "
            "give the upstream asset coarser partitions (months, say), or set one_batch: true to read them all as one batch"
        )
    return dict(sorted(found.items()))


def _newest(asset: UpstreamAsset, instance: dg.DagsterInstance) -> dict[str | None, int]:
    """Number of the newest materialisation of each partition, in their order; of the whole asset where it has none."""
    key = dg.AssetKey(asset.key)
    found = instance.event_log_storage.get_latest_storage_id_by_partition(key, _MATERIALISED)
    if found:
        return dict(sorted(found.items()))
    newest = instance.fetch_materializations(key, limit=1).records
    return {None: newest[0].storage_id} if newest else {}


def batches_due(project: Project, instance: dg.DagsterInstance) -> list[str]:
    """Batches whose folder in the inbox is not what is upstream now. Raises as `find_arrivals`."""
    if project.upstream is None:
        return []
    arrivals, inbox = find_arrivals(project.upstream, instance), inbox_of(project)
    return [batch for batch, arrival in arrivals.items() if read_made_from(inbox, batch) != arrival.made_from]


def inbox_of(project: Project) -> Path:
    """The line's inbox."""
    path = project.settings.collection_path
    assert path is not None
    return path


def make_inbox(project: Project, upstream: Upstream) -> dg.AssetsDefinition:
    """The asset `inbox` of a line that reads these upstream assets."""

    @dg.asset(
        key=project.key(INBOX),
        deps=[
            dg.AssetDep(dg.AssetKey(key), partition_mapping=dg.AllPartitionMapping())
            for key in sorted({asset.key for asset in upstream.assets.values()})
        ],
        partitions_def=project.batch_partitions,
        group_name=project.named("collection"),
        kinds={"python"},
        owners=list(project.settings.owners),
        tags=project.tags,
        pool="warehouse",
        code_version="1",
        description=f"{inspect.getdoc(inbox)}\n\n**If it is red:** {_WHEN_RED}",
        metadata={"dagster/column_schema": _schema(upstream), **code_references(inbox)},
    )
    def materialise(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        with retrying(context):
            return inbox(project, upstream, context)

    return materialise


_WHEN_RED = "The error names the upstream asset, its column or row. Mend it there or in the column map. Then materialise this batch."


def inbox(project: Project, upstream: Upstream, context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Documents, queries and judgements of one batch, from the team's own assets, as a folder that the line reads."""
    batch = context.partition_key
    arrival = find_arrivals(upstream, context.instance).get(batch)
    if arrival is None:
        names = ", ".join(asset.name for asset in upstream.assets.values())
        raise SourceError(f"no materialisation of {names} gives the batch {batch!r}: materialise it upstream first")
    parts: dict[Part, pa.Table] = {}
    for part, partitions in arrival.partitions.items():
        asset = upstream.assets[part]
        if upstream.is_one_batch and asset.duckdb is not None:
            partitions = [None]  # one table holds them all
        frames = [read_part(part, asset, _load(context, asset, partition)) for partition in partitions]
        parts[part] = pa.concat_tables(frames, promote_options="default")
    folder = write_batch(inbox_of(project), batch, parts, arrival.made_from)
    samples = {f"sample of {part}": markdown_table(table.slice(0, 3).to_pylist()) for part, table in parts.items()}
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(table.num_rows for table in parts.values()),
            "dagster/column_lineage": _lineage(upstream, parts),
            "folder": dg.MetadataValue.path(str(folder)),
            **samples,
        },
        data_version=dg.DataVersion(project.collection.source.fingerprint(batch))
        if any(map(len, parts.values()))
        else None,
    )


def _load(context: dg.AssetExecutionContext, asset: UpstreamAsset, partition: str | None) -> Any:
    """An upstream asset's partition: from the table or files that its metadata names, else through its I/O manager.

    Raises:
        SourceError: the asset is not known, or what its metadata names cannot be read.
    """
    key = dg.AssetKey(asset.key)
    graph = context.job_def.asset_layer.asset_graph
    spec = dict(graph.get(key).metadata) if graph.has(key) else {}
    metadata = spec | _told(context, key, partition)
    if asset.duckdb is not None:
        return _from_duckdb(asset, asset.duckdb, metadata, partition)
    uri = metadata.get("dagster/uri")
    if uri is not None and str(uri).removesuffix("/").endswith(".parquet"):
        return read_parquet(str(uri))
    if not graph.has(key) or SYSTEM_METADATA_KEY_AUTO_CREATED_STUB_ASSET in spec:
        raise SourceError(
            f"this code location has no asset {asset.name} that it could read through its I/O manager: correct its key, or name "
            "its table (dagster/table_name and duckdb:) or its Parquet file (dagster/uri) in its metadata"
        )
    try:
        return context.load_asset_value(key, partition_key=partition)
    except DistillError:
        raise
    except Exception as error:
        raise SourceError(f"{asset.name}{f'[{partition}]' if partition else ''} cannot be read: {error}") from error


def _told(context: dg.AssetExecutionContext, key: dg.AssetKey, partition: str | None) -> dict[str, Any]:
    """Metadata of the newest materialisation."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=None if partition is None else [partition])
    for record in context.instance.fetch_materializations(wanted, limit=1).records:
        made = record.asset_materialization
        return {name: value.value for name, value in made.metadata.items()} if made else {}
    return {}


def _from_duckdb(asset: UpstreamAsset, path: Path, metadata: Mapping[str, Any], partition: str | None) -> pa.Table:
    table, column = metadata.get("dagster/table_name"), metadata.get("partition_expr")
    if table is None:
        raise SourceError(
            f"{asset.name} names no table: give its metadata dagster/table_name, or remove duckdb: to read it through its I/O manager"
        )
    if partition is not None and column is None:
        raise SourceError(
            f"{asset.name} has partitions, and its metadata does not say which column holds them: give it partition_expr, or set "
            "one_batch: true"
        )
    return read_duckdb_table(path, str(table), None if partition is None else (str(column), partition))


def _schema(upstream: Upstream) -> dg.TableSchema:
    return dg.TableSchema(
        [
            dg.TableColumn(f"{part}.{name}", "VARCHAR", f"From {asset.columns.get(name, name)} of {asset.name}.")
            for part, asset in upstream.assets.items()
            for name in COLUMNS[part]
        ]
    )


def _lineage(upstream: Upstream, parts: Mapping[Part, pa.Table]) -> dg.TableColumnLineage:
    """Our columns, each from theirs."""
    return dg.TableColumnLineage(
        {
            f"{part}.{name}": [dg.TableColumnDep(dg.AssetKey(asset.key), asset.columns.get(name, name))]
            for part, asset in upstream.assets.items()
            for name in (parts[part].column_names if part in parts else ())
            if name in COLUMNS[part]
        }
    )
