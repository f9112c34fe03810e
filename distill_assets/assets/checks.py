"""The asset checks: how an asset declares them, and how a verdict of `quality/verdicts.py` reaches Dagster.

A check is judged before its partition is written. A partition whose blocking check failed is rejected: it is written all the same, so
that a person can look at it, but without the version of its inputs. The next run makes it again, and nothing is made from it
(`State.version` in `handles/collection.py`).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from distill_assets.assets.reporting import markdown_table, shown
from distill_assets.quality.verdicts import Verdict

_MAX_RESULTS = 10_000  # of one check: among them the newest of each partition is looked for


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what passing means, and the next step where it fails."""

    name: str
    meaning: str
    next_step: str
    is_blocking: bool = False


def check_specs(
    asset: dg.AssetKey, checks: Sequence[Check], partitions: dg.PartitionsDefinition | None
) -> list[dg.AssetCheckSpec]:
    """The checks as Dagster knows them. Per partition: a blocking one that failed for one batch holds up no other."""
    with warnings.catch_warnings():
        # Checks with partitions are a preview in Dagster 1.13; without them the last batch's result would stand for all.
        warnings.simplefilter("ignore", category=dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                check.name,
                asset=asset,
                description=f"{check.meaning} If not: {check.next_step}",
                blocking=check.is_blocking,
                partitions_def=partitions,
            )
            for check in checks
        ]


def newest_evaluations(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey
) -> dict[str, tuple[dg.AssetCheckEvaluation, float]]:
    """Partition -> the newest evaluation of a check and when it was recorded, seconds since 1970; the oldest partition first."""
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=_MAX_RESULTS)
    return {
        record.partition or "": (record.evaluation, record.create_timestamp)
        for record in reversed(history)  # newest first in Dagster: the last one that is written here stays
        if isinstance(record.evaluation, dg.AssetCheckEvaluation)  # and not one that a run has only planned
    }


def check_results(checks: Sequence[Check], verdicts: Mapping[str, Verdict]) -> list[dg.AssetCheckResult]:
    """What Dagster records: the verdict on each declared check, by name."""
    results = []
    for check in checks:
        verdict = verdicts[check.name]
        sample = {"sample": markdown_table(verdict.samples)} if verdict.samples else {}
        advice = {} if verdict.passed else {"what to do": check.next_step}
        severity = dg.AssetCheckSeverity.ERROR if check.is_blocking else dg.AssetCheckSeverity.WARN
        metadata = shown({**verdict.figures, **sample, **advice})
        results.append(
            dg.AssetCheckResult(
                check_name=check.name,
                passed=verdict.passed,
                severity=severity,
                description=verdict.found,
                metadata=metadata,
            )
        )
    return results
