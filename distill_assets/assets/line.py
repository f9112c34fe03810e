"""How an asset of the line is declared, and what happens around its body: read, call it, compare, store, tell Dagster."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import dagster as dg

from distill_assets.assets.checks import Check, check_results, check_specs
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.manifests import code_references
from distill_assets.assets.reads import Reads
from distill_assets.assets.reporting import content_version, derive_lineage, shown, table_schema
from distill_assets.errors import DistillError, InputsMovedError, WarehouseBusyError
from distill_assets.handles.project import Project
from distill_assets.progress import told_to
from distill_assets.quality.verdicts import Verdict
from distill_assets.storage.tables import table_spec
from distill_assets.storage.warehouse import Rows, SliceWrite

By = Literal["batch", "recipe", "none"]
_MAX_ATTEMPTS = 5  # a batch that is copied while it is read moves a few times, not for ever
# Another process holds the warehouse, a hub or a network disk does not answer, memory is short for a moment.
_TRANSIENT = (WarehouseBusyError, ConnectionError, TimeoutError, BlockingIOError)
_MAX_RETRIES, _FIRST_WAIT_S = 3, 5


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a body made.

    Attributes:
        rows: of the asset's own table.
        verdicts: one for each check that the asset declares, by name.
        metadata: what the UI shows.
        data_version: the content of `rows` unless given.
        beside: slices of other tables, stored in the same transaction.
        then: called once all is stored; what it returns is metadata, too.
    """

    rows: Rows = field(repr=False)
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    data_version: str = ""
    beside: Sequence[SliceWrite] = ()
    then: Callable[[], Mapping[str, Any]] = dict


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One asset of the line: what it reads, what it does, where it is kept, how it is checked.

    Attributes:
        table: of the warehouse, where its rows are kept; `key` names the slice, by default the partition does.
        code_version: raise it when the body gives other rows from the same inputs.
        is_empty_meant: a batch may bring nothing for it.
        when_red: what to do where its run failed.
    """

    name: str
    reads: Reads
    body: Callable[[Inputs], Made]
    table: str
    group: str
    pool: str
    kinds: frozenset[str]
    code_version: str
    checks: tuple[Check, ...] = ()
    by: By = "none"
    key: str = ""
    is_empty_meant: bool = False
    when_red: str = ""

    def slice_key(self, partition: str) -> str:
        """The slice of a partition."""
        return self.key or partition

    def versions(self, versions: Mapping[str, str]) -> dict[str, str]:
        """The versions of the inputs with that of the code."""
        return {"code": self.code_version, **versions}

    def to_dagster(
        self,
        project: Project,
        partitions: dg.PartitionsDefinition | None,
        upstream: Mapping[str, bool],
        before: Callable[[dg.AssetExecutionContext], None] = lambda _: None,
    ) -> dg.AssetsDefinition:
        """The asset as Dagster knows it, after these assets: each with whether it is its partition of the same key.

        `before` is called when a run of it starts.
        """
        every = dg.AllPartitionMapping()
        key = project.key(self.name)

        @dg.asset(
            key=key,
            deps=[
                dg.AssetDep(project.key(up), partition_mapping=None if is_own else every)
                for up, is_own in upstream.items()
            ],
            partitions_def=partitions,
            group_name=project.named(self.group),
            kinds=set(self.kinds),
            owners=list(project.settings.owners),
            tags=project.tags,
            pool=self.pool,
            code_version=self.code_version,
            description=f"{inspect.getdoc(self.body)}\n\n**If it is red:** {self.when_red}",
            metadata={"dagster/column_schema": table_schema(self.table), **code_references(self.body)},
            check_specs=check_specs(key, self.checks, partitions),
        )
        def materialise(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            with retrying(context):
                before(context)
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
                with told_to(log.info):
                    made = self.body(inputs)
                results = check_results(self.checks, made.verdicts)
                version = self._store(project, inputs, made, results)
                break
            except InputsMovedError as error:
                if attempt == _MAX_ATTEMPTS:
                    raise
                log.info(f"{error}: reading again")
        told = {
            "dagster/row_count": len(made.rows),
            "dagster/column_lineage": derive_lineage(project, self.name, self.table, self.reads.upstream),
        }
        return dg.MaterializeResult(
            metadata=shown({**told, **made.metadata, **made.then()}),
            data_version=dg.DataVersion(version),
            check_results=results,
        )

    def _store(self, project: Project, inputs: Inputs, made: Made, results: Sequence[dg.AssetCheckResult]) -> str:
        """Write the rows in one transaction, unless an input has moved; returns their data version."""
        warehouse, versions = project.places.warehouse, self.versions(inputs.versions)
        version, require = made.data_version or content_version(made.rows), inputs.require_unmoved
        if table_spec(self.table).mode == "append":
            warehouse.append(self.table, made.rows, inputs=versions, data_version=version, require=require)
            return version
        own = SliceWrite(
            table=self.table,
            rows=made.rows,
            slice_key=self.slice_key(inputs.partition),
            inputs=versions,
            is_accepted=all(result.passed or result.severity is dg.AssetCheckSeverity.WARN for result in results),
            data_version=version,
            is_empty_meant=self.is_empty_meant,
        )
        warehouse.write(own, *made.beside, require=require)
        return version


@contextmanager
def retrying(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Retry an asset after transient errors, 5, 10 and 20 s later; fail at once, with the plain message, on every other.

    Bad input stays bad: a retry would only hide the message below three more stack traces.
    """
    try:
        yield
    except _TRANSIENT as error:
        wait_s = _FIRST_WAIT_S * 2**context.retry_number
        context.log.warning(f"{type(error).__name__}: {error}; trying again in {wait_s} s")
        raise dg.RetryRequested(max_retries=_MAX_RETRIES, seconds_to_wait=wait_s) from error
    except DistillError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
