"""What the teacher cost: pairs and seconds of every time it was asked, kept in the warehouse for the report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.resources import Project
from distill_assets.storage.warehouse import utc_now


@contextmanager
def recording_cost(project: Project, context: Any, teacher_fingerprint: str) -> Iterator[None]:
    """Record, at the end of the block, how many pairs of this teacher were stored meanwhile and how long it took.

    Also when the block fails: what was committed before a kill has been paid for. Counts what is stored, so that the figure
    does not depend on how scoring is organised.
    """
    before, started = project.pair_scores.count(teacher_fingerprint), time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - started
        asset, partition = _place(context)
        row = {
            "scored_at": [utc_now()],
            "asset": [asset],
            "partition_key": [partition],
            "teacher_fingerprint": [teacher_fingerprint],
            "num_pairs": [project.pair_scores.count(teacher_fingerprint) - before],
            "seconds": [seconds],
        }
        project.warehouse.append("scoring_costs", pa.table(row))


def _place(context: Any) -> tuple[str, str]:
    """Asset and partition that pay; outside an asset (a benchmark, an experiment) the cost is nobody's."""
    if not isinstance(context, dg.AssetExecutionContext):
        return "other", ""
    return context.asset_key.to_user_string(), context.partition_key if context.has_partition_key else ""
