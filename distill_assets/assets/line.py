"""How an asset of the line is declared, and what happens around its body: read, call it, compare, store, tell Dagster."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import dagster as dg
import pyarrow as pa

from distill_assets.assets.checks import check_results, check_specs
from distill_assets.assets.failures import retrying
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.partitions import batches
from distill_assets.assets.reads import Reads
from distill_assets.assets.reporting import OWNERS, content_version, derive_lineage, shown, table_schema
from distill_assets.errors import InputsMovedError
from distill_assets.handles.project import Project
from distill_assets.quality.verdicts import Verdict
from distill_assets.storage.tables import table_spec
from distill_assets.storage.warehouse import SliceWrite

By = Literal["batch", "recipe", "none"]
_MAX_ATTEMPTS = 5  # a batch that is copied while it is read moves a few times, not for ever


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a body made.

    Attributes:
        rows: of the asset's own table.
        verdicts: by the name of the check.
        metadata: what the UI shows.
        data_version: the content of `rows` unless given.
        beside: slices of other tables, stored in the same transaction.
        then: called once all is stored; what it returns is metadata, too.
    """

    rows: pa.Table = field(repr=False)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    data_version: str = ""
    beside: Sequence[SliceWrite] = ()
    then: Callable[[], Mapping[str, Any]] = dict


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One asset of the line: what it reads, what it does, where it is kept.

    Attributes:
        table: of the warehouse, where its rows are kept; `slice_key` is the slice, by default the partition.
        code_version: raise it when the body gives other rows from the same inputs.
        is_empty_meant: a batch may bring nothing for it.
    """

    name: str
    reads: Reads
    body: Callable[[Inputs], Made]
    table: str
    group: str
    pool: str
    kinds: frozenset[str]
    code_version: str
    by: By = "none"
    key: str = ""
    is_empty_meant: bool = False

    def slice_key(self, partition: str) -> str:
        """The slice of a partition."""
        return self.key or partition

    def versions(self, versions: Mapping[str, str]) -> dict[str, str]:
        """The versions of the inputs with that of the code."""
        return {"code": self.code_version, **versions}

    def to_dagster(self, recipes: dg.StaticPartitionsDefinition, upstream: Mapping[str, bool]) -> dg.AssetsDefinition:
        """The asset as Dagster knows it, after these assets: each with whether it is its partition of the same key."""
        partitions = {"batch": batches, "recipe": recipes, "none": None}[self.by]

        @dg.asset(
            name=self.name,
            deps=[_dependency(asset, is_own) for asset, is_own in upstream.items()],
            partitions_def=partitions,
            group_name=self.group,
            kinds=set(self.kinds),
            owners=OWNERS,
            pool=self.pool,
            code_version=self.code_version,
            description=self.body.__doc__,
            metadata={"dagster/column_schema": table_schema(self.table)},
            check_specs=check_specs(self.name, partitions),
        )
        @retrying
        def materialise(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
            return self.make(project, context.partition_key if context.has_partition_key else "", context.log)

        return materialise

    def make(self, project: Project, partition: str, log: Any) -> dg.MaterializeResult:
        """Read, call the body, store. What moved meanwhile is read again.

        Raises:
            InputsMovedError: the inputs kept moving.
        """
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                inputs = Inputs(project, self.name, self.reads, partition, log)
                made = self.body(inputs)
                results = check_results(self.name, made.verdicts)
                version = self._store(project, inputs, made, results)
            except InputsMovedError as error:
                if attempt == _MAX_ATTEMPTS:
                    raise
                log.info(f"{error}: reading again")
                continue
            told = {
                "dagster/row_count": made.rows.num_rows,
                "dagster/column_lineage": derive_lineage(self.table, self.reads.upstream),
            }
            return dg.MaterializeResult(
                metadata=shown(told | dict(made.metadata) | dict(made.then())),
                data_version=dg.DataVersion(version),
                check_results=results,
            )
        raise AssertionError("unreachable")

    def _store(self, project: Project, inputs: Inputs, made: Made, results: Sequence[dg.AssetCheckResult]) -> str:
        warehouse = project.places.warehouse
        version, versions = made.data_version or content_version(made.rows), self.versions(inputs.versions)
        if table_spec(self.table).mode == "append":
            warehouse.append(
                self.table, made.rows, inputs=versions, data_version=version, require=inputs.require_unmoved
            )
            return version
        refused = any(not result.passed and result.severity is dg.AssetCheckSeverity.ERROR for result in results)
        own = SliceWrite(
            table=self.table,
            rows=made.rows,
            slice_key=self.slice_key(inputs.partition),
            inputs=versions,
            is_accepted=not refused,
            data_version=version,
            is_empty_meant=self.is_empty_meant,
        )
        warehouse.write(own, *made.beside, require=inputs.require_unmoved)
        return version


def _dependency(asset: str, is_own: bool) -> dg.AssetDep:
    return dg.AssetDep(asset) if is_own else dg.AssetDep(asset, partition_mapping=dg.AllPartitionMapping())
