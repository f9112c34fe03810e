"""Materialising what is missing or stale, in order, in one process, recorded in the Dagster instance.

The command line's `run` and `retrain`: what Dagster's UI does click by click. An asset is materialised only if its stored inputs
differ from today's (`orchestration/stages.py`), so a second run with nothing changed does no forward pass and no training.
"""

import ctypes
import gc
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError

from distill_assets.assets import CHECKS
from distill_assets.assets.manifests import git_tags
from distill_assets.assets.reporting import INBOX
from distill_assets.assets.upstream import batches_due
from distill_assets.errors import CheckFailedError, DistillError, SourceError
from distill_assets.handles.project import Project
from distill_assets.orchestration.lost_runs import command_tags
from distill_assets.orchestration.stages import (
    INGEST,
    NO_BATCH,
    IsStale,
    Stage,
    groups_of,
    is_stale,
    partitions_of,
    require_batches,
)
from distill_assets.orchestration.terminal import NAME

_KEPT = (
    "The slice is kept to look at, its checks in the Dagster UI have samples; nothing is made from it, and the next run makes it "
    "again"
)


OnStart = Callable[[tuple[str, ...], str], None]  # told of the assets and the partition


@dataclass(frozen=True, slots=True)
class Step:
    """Assets that share a run, and one partition: materialised, or up to date before (`seconds` 0).

    `refusal` says why an inbox batch was left out: it is quarantined (cannot be read) or rejected (a blocking check).
    `warnings` are sentences about its checks that did not pass and stop nothing.
    """

    assets: tuple[str, ...]
    partition: str
    seconds: float
    was_up_to_date: bool
    refusal: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def was_materialised(self) -> bool:
        """Whether the step did its work: neither up to date before, nor left out."""
        return self.outcome == "made"

    @property
    def outcome(self) -> Literal["made", "up to date", "refused"]:
        """What became of it."""
        return "up to date" if self.was_up_to_date else "made" if self.refusal is None else "refused"


def run_line(
    definitions: dg.Definitions,
    project: Project,
    instance: dg.DagsterInstance,
    *,
    until: str = "champion",
    is_stale: IsStale = is_stale,
    on_start: OnStart = lambda assets, partition: None,
) -> Iterator[Step]:
    """Yield each step as it is done, up to and with the asset `until`.

    A batch of an inbox that is quarantined or rejected holds up no other; in any other collection it is an error.

    Raises:
        CheckFailedError: a blocking check failed; nothing is made from its slice, and the next run makes it again.
        DistillError: a step failed; the error is the step's own.
    """
    groups, source = groups_of(project, until), project.collection.source
    _ = project.models.baselines  # one that is nowhere is told now, not after hours of training
    batches = yield from _arrived(definitions, project, instance, on_start)
    if not batches:
        raise SourceError(NO_BATCH.format(source=source.name))
    instance.add_dynamic_partitions(str(project.batch_partitions.name), batches)
    for stage, group in groups:
        for partition in partitions_of(project, stage):
            stale = tuple(asset for asset in group if is_stale(project, asset, partition))
            if stale:
                on_start(stale, partition)
                yield _run_step(definitions, project, instance, stage, stale, partition)
            else:
                yield Step(group, partition, 0.0, was_up_to_date=True)
        if stage is INGEST:
            require_batches(project)


def _arrived(
    definitions: dg.Definitions, project: Project, instance: dg.DagsterInstance, on_start: OnStart
) -> Generator[Step, None, list[str]]:
    """Put into the inbox what a team's own assets hold, and return the batches that the source has then."""
    refusals: list[str] = []
    due = batches_due(project, instance)
    instance.add_dynamic_partitions(str(project.batch_partitions.name), due)
    for batch in due:
        on_start((INBOX,), batch)
        step = _run_step(definitions, project, instance, INGEST, (INBOX,), batch)
        refusals += [step.refusal] if step.refusal else []
        yield step
    try:
        return project.collection.source.batches()
    except SourceError as error:
        if refusals:  # why it is empty
            raise SourceError("; ".join(refusals)) from error
        if project.upstream is not None:
            names = ", ".join(sorted({asset.name for asset in project.upstream.assets.values()}))
            raise SourceError(
                f"{names}: no materialisation in the Dagster instance {instance.root_directory}; materialise the assets first, and set "
                "DAGSTER_HOME to the instance where that was done"
            ) from error
        raise


def _run_step(
    definitions: dg.Definitions,
    project: Project,
    instance: dg.DagsterInstance,
    stage: Stage,
    assets: tuple[str, ...],
    partition: str,
) -> Step:
    started, refusal = time.perf_counter(), None
    warnings: tuple[str, ...] = ()
    try:
        warnings = _materialise(definitions, project, instance, assets, partition)
    except DistillError as error:
        if stage is not INGEST or not project.collection.source.is_inbox:
            raise
        refusal = str(error)
    # Return what the step has freed to the system: glibc keeps it in pieces, and the steps of a run share a process.
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return Step(assets, partition, time.perf_counter() - started, False, refusal, warnings)


def _materialise(
    definitions: dg.Definitions, project: Project, instance: dg.DagsterInstance, assets: tuple[str, ...], partition: str
) -> tuple[str, ...]:
    """Materialise, and return a sentence for each check that did not pass and stops nothing."""
    run_id = str(uuid.uuid4())  # known beforehand: what its checks found is read back from the instance
    try:
        definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[project.key(asset) for asset in assets],
            partition_key=partition or None,
            raise_on_error=True,
            run_id=run_id,
            tags=command_tags("run") | git_tags(),
            run_config={"loggers": {NAME: {}}},
        )
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, DistillError | DagsterAssetCheckFailedError):
            cause = cause.__cause__
        if cause is None:
            raise
        if isinstance(cause, DagsterAssetCheckFailedError):
            blocking = _explain_checks(instance, run_id, partition, dg.AssetCheckSeverity.ERROR)
            raise CheckFailedError(f"{' '.join(blocking)} {_KEPT}") from error
        raise cause from error
    return tuple(_explain_checks(instance, run_id, partition, dg.AssetCheckSeverity.WARN))


def _explain_checks(
    instance: dg.DagsterInstance, run_id: str, partition: str, severity: dg.AssetCheckSeverity
) -> list[str]:
    """Check, asset and partition, what was found, and the next step, of each check of that severity that failed in a run."""
    lines = []
    for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        found = record.get_dagster_event().asset_check_evaluation_data
        asset = found.asset_key.path[-1]
        # `batches_readable` is no check of the line: it is of the whole inbox, and each quarantined batch is told by itself.
        check = CHECKS.get((asset, found.check_name))
        if check is None or found.passed or found.severity is not severity:
            continue
        where = f"{asset}{f'[{partition}]' if partition else ''}"
        lines.append(f"check {check.name} of {where} failed: {found.description}. {check.next_step}")
    return lines
