"""Materialising what is missing or stale, in order, in one process, recorded in the Dagster instance.

The command line's `run`: what Dagster's UI does click by click. A step runs only if its stored inputs differ from today's
(`assets/inputs.py`), so a second run with nothing changed does no forward pass and no training.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import dagster as dg

from distill_assets.assets.inputs import is_fresh
from distill_assets.core.errors import DistillError
from distill_assets.resources import Project

# Assets of one line may run in one run; the lines follow the data.
_STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("batch", ("corpus", "queries", "qrels")),
    ("batch", ("hard_negatives",)),
    ("none", ("teacher_checkpoint",)),
    ("batch", ("teacher_scores",)),
    ("recipe", ("student_checkpoint",)),
    ("recipe", ("eval_metrics",)),
    ("none", ("leaderboard",)),
    ("none", ("champion",)),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One materialisation that was done, or found up to date (`seconds` 0)."""

    assets: tuple[str, ...]
    partition: str
    seconds: float
    was_fresh: bool


def run_line(
    definitions: dg.Definitions,
    project: Project,
    instance: dg.DagsterInstance,
    *,
    until: str = "champion",
    on_start: Callable[[tuple[str, ...], str], None] = lambda assets, partition: None,
) -> Iterator[Step]:
    """Yield each step as it is done, up to and with the asset `until`.

    Raises:
        DistillError: a step failed; the error is the step's own.
    """
    known = [asset for _, assets in _STAGES for asset in assets]
    if until not in known:
        raise DistillError(f"no asset {until!r}: there are {', '.join(known)}")
    batches = project.source.batches()
    if not batches:
        raise DistillError(f"{project.source.name} has no batch: add packages, or folders to the inbox")
    instance.add_dynamic_partitions("batches", batches)
    partitions = {"batch": batches, "recipe": sorted(project.settings.all_recipes), "none": [""]}
    for kind, assets in _STAGES:
        for partition in partitions[kind]:
            stale = tuple(asset for asset in assets if not is_fresh(project, asset, partition))
            if not stale:
                yield Step(assets, partition, 0.0, was_fresh=True)
                continue
            on_start(stale, partition)
            started = time.perf_counter()
            _materialise(definitions, instance, stale, partition)
            yield Step(stale, partition, time.perf_counter() - started, was_fresh=False)
        if until in assets:
            return


def _materialise(
    definitions: dg.Definitions, instance: dg.DagsterInstance, assets: tuple[str, ...], partition: str
) -> None:
    job = definitions.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(asset) for asset in assets]
    tags = {"distill/command": "run"}
    try:
        job.execute_in_process(
            instance=instance,
            asset_selection=keys,
            partition_key=partition or None,
            raise_on_error=True,
            tags=tags,
            run_config={"loggers": {"console": {"config": {"log_level": "INFO"}}}},
        )
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, DistillError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from error
