"""What happens without a click: conditions, sensors, the retraining schedule, alerts.

Cheap work follows its data by itself: a batch that lands is read, mined and scored. Training does not: it waits for the
schedule, or for somebody who starts the job `retraining`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from distill_assets.alerts import send_alert
from distill_assets.core.errors import DistillError
from distill_assets.core.records import fingerprint
from distill_assets.partitions import batches
from distill_assets.provenance import git_tags
from distill_assets.resources import Project
from distill_assets.settings import BUNDLED
from distill_assets.stages import INGEST, STAGES, Stage, due_for_retraining, is_stale, next_work

RETRAINING = "retraining"
RETRAINING_TAG = "distill/retraining"
QUARANTINE_CHECK = "batches_readable"
_WARN_AFTER, _FAIL_AFTER = timedelta(days=10), timedelta(days=30)  # retraining is weekly by default


def with_automation(assets: Sequence[dg.AssetsDefinition], project: Project) -> list[dg.AssetsDefinition]:
    """The assets with their automation conditions, and a freshness policy for what users read."""
    conditions = {
        # Other batches' corpora may be missing; its own comes with its queries, in one run. A teacher may not.
        "hard_negatives": _follows_own_batch(ignored="corpus", may_be_missing=True),
        "teacher_scores": _follows_own_batch(ignored="teacher_checkpoint", may_be_missing=False),
    }
    if is_teacher_free(project):
        conditions["teacher_checkpoint"] = _when_missing()
    policy = dg.FreshnessPolicy.time_window(fail_window=_FAIL_AFTER, warn_window=_WARN_AFTER)

    def complete(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name in ("leaderboard", "champion"):
            return spec.replace_attributes(freshness_policy=policy)
        condition = conditions.get(name)
        return spec if condition is None else spec.replace_attributes(automation_condition=condition)

    return [asset.map_asset_specs(complete) for asset in assets]


def _follows_own_batch(*, ignored: str, may_be_missing: bool) -> dg.AutomationCondition:
    """Requested once when the batch's own inputs are new, complete and checked; updates of `ignored` request nothing.

    Plain `eager()` would mine every older batch again whenever the corpus of a new one arrives, and would hold all batches up
    for one that cannot be read: every batch's corpus is an input of every batch's negatives.
    """
    condition = dg.AutomationCondition
    other = dg.AssetSelection.assets(ignored)
    is_first = condition.initial_evaluation() & condition.missing()
    missing = condition.any_deps_missing()
    if may_be_missing:
        missing = missing.ignore(other)
    return (
        (is_first | condition.newly_missing() | condition.any_deps_updated().ignore(other)).since_last_handled()
        & ~missing
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
        & condition.all_deps_blocking_checks_passed().ignore(other)
    ).with_label("follows_own_batch")


def _when_missing() -> dg.AutomationCondition:
    """Requested while there is no teacher, each time that a batch was mined: the first may have no dev queries to judge on."""
    condition = dg.AutomationCondition
    mined = dg.AssetSelection.assets("hard_negatives")
    return (
        condition.missing()
        & (condition.initial_evaluation() | condition.any_deps_updated().allow(mined)).since_last_handled()
        & condition.any_deps_match(~condition.missing()).allow(mined)
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    ).with_label("when_missing")


def is_teacher_free(project: Project) -> bool:
    """Whether the teacher costs no training: the bundled one, or a local cross-encoder, used as it is.

    A hub name is not looked up while definitions load: such a teacher is made by the first `run`, `retrain` or click.
    """
    if project.teacher_choice != BUNDLED and not Path(project.teacher_choice).expanduser().is_dir():
        return False
    try:
        return not project.is_teacher_trained
    except DistillError:  # a broken folder is the asset's to report
        return False


def make_jobs(recipes: dg.StaticPartitionsDefinition) -> dict[str, Any]:
    """One job per stage, and `retraining`, which asks for all of them."""
    partitions = {"batch": batches, "recipe": recipes, "none": None}

    def make(stage: Stage) -> "dg.UnresolvedAssetJobDefinition":
        return dg.define_asset_job(
            stage.name,
            selection=list(stage.assets),
            partitions_def=partitions[stage.by],
            description=stage.description,
            tags={"distill/stage": stage.name} | git_tags(),
        )

    @dg.op(description="Leaves the request; the sensor retraining_steps carries it out, stage by stage.")
    def request_retraining(context: dg.OpExecutionContext) -> None:
        context.log.info("retraining is asked for: the sensor retraining_steps starts its first stage within 30 s")

    @dg.job(
        name=RETRAINING,
        description="Retrain now: mine and score what is due, train every recipe, compare, let the gate decide.",
        tags=git_tags(),
        executor_def=dg.in_process_executor,
    )
    def retraining() -> None:
        request_retraining()

    return {stage.name: make(stage) for stage in STAGES} | {RETRAINING: retraining}


def make_schedules(project: Project, jobs: Mapping[str, Any]) -> list[dg.ScheduleDefinition]:
    """The retraining schedule."""

    @dg.schedule(
        name=RETRAINING,
        job=jobs[RETRAINING],
        cron_schedule=project.settings.retrain_cron,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Retrains every recipe on all scores to date; skips when nothing new has come since the last training.",
    )
    def retraining(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            reason = reason_not_to_retrain(project)
        except DistillError as error:  # an empty inbox, a disk that is not mounted
            reason = str(error)
        return dg.SkipReason(reason) if reason else dg.RunRequest(run_key=str(context.scheduled_execution_time))

    return [retraining]


def reason_not_to_retrain(project: Project) -> str | None:
    """Why a retraining would do nothing; None when it would do something.

    Raises:
        DistillError: the collection cannot be read.
    """
    if not project.batches():
        return "no batch has been read yet"
    if next_work(project, due_for_retraining) is not None:
        return None
    trained = max(project.warehouse.slices("checkpoints")[n].written_at for n in project.settings.all_recipes)
    return f"no new scores, labels or documents since the last training ({trained:%Y-%m-%d %H:%M} UTC)"


def make_sensors(project: Project, jobs: Mapping[str, Any]) -> list[dg.SensorDefinition]:
    """Batches that arrive, the steps of a retraining, and two alerts."""
    return [
        _make_batch_sensor(project, jobs),
        _make_retraining_sensor(project, jobs),
        _make_failure_alert(project),
        _make_champion_note(project),
    ]


def make_automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions; on by default, for nothing that it starts trains a model."""
    return dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        run_tags=git_tags(),
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )


def _make_batch_sensor(project: Project, jobs: Mapping[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name="new_batches",
        job=jobs["ingest"],
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Registers batches that arrive and has them read; reads a changed one again; leaves broken ones alone.",
    )
    def new_batches(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            found = project.source.batches()
        except DistillError as error:  # an empty inbox, a disk that is not mounted
            return dg.SkipReason(str(error))
        cursor: dict[str, str] = json.loads(context.cursor or "{}")
        plan = plan_ingestion(project, found, cursor, now=time.time())
        known = set(context.instance.get_dynamic_partitions("batches"))
        registered = {*plan.requests, *plan.current}
        # A batch that never was readable leaves the partitions again: a fan-in over all of them would wait for it for ever.
        dropped = sorted(batch for batch in known if batch not in {*registered, *plan.waiting})
        changes: list[Any] = []
        if registered - known:
            changes.append(batches.build_add_request(sorted(registered - known)))
        if dropped:
            changes.append(batches.build_delete_request(dropped))
        judged = next(iter(context.instance.fetch_materializations(dg.AssetKey("corpus"), limit=1).records), None)
        told = fingerprint(*sorted(plan.quarantined.items()), judged.storage_id if judged else "")
        events = [] if cursor.get("") == told else [quarantine_evaluation(plan.quarantined, judged)]
        requests = [
            dg.RunRequest(partition_key=batch, tags={"distill/batch": batch, "distill/source": key[:12]})
            for batch, key in plan.requests.items()
        ]
        new_cursor = {batch: key for batch, key in cursor.items() if batch in found} | plan.requests | {"": told}
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else plan.describe(),
            dynamic_partitions_requests=changes,
            asset_events=events,
            cursor=json.dumps(new_cursor, sort_keys=True),
        )

    return new_batches


@dataclass
class IngestionPlan:
    """What a look at the source says of each batch.

    Attributes:
        requests: batches to read now, with the content they have.
        current: batches whose stored slices are those of today.
        waiting: batches that are still being copied, or whose run has been asked for.
        quarantined: batches and folders that cannot be read, with the reason.
    """

    requests: dict[str, str] = field(default_factory=dict)
    current: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """One line for the tick."""
        parts = [f"{len(self.current)} batches are up to date"]
        parts += [f"{batch}: {reason}" for batch, reason in sorted(self.waiting.items())]
        parts += [f"{batch} is in quarantine: {reason}" for batch, reason in sorted(self.quarantined.items())]
        return "; ".join(parts)[:2000]


def plan_ingestion(
    project: Project, found: Sequence[str], requested: Mapping[str, str], *, now: float
) -> IngestionPlan:
    """Decide for each batch of the source whether it is to be read now.

    Args:
        project: where the batches come from and what has been read.
        found: batches that the source has.
        requested: batch -> content that a run was asked for before; asked for once only, whatever became of the run.
        now: seconds since 1970.
    """
    plan, settle_s = IngestionPlan(), project.settings.inbox_settle_s
    plan.quarantined.update(project.source.refused())
    quarantined, read = project.quarantined(), set(project.batches())
    for batch in found:
        age_s = now - project.source.last_change(batch)
        if 0 <= age_s < settle_s:
            plan.waiting[batch] = (
                f"changed {age_s:.0f} s ago, read after {settle_s:g} s without a change or with a _READY file"
            )
            continue
        key = project.source.fingerprint(batch)
        refused = quarantined.get(batch)
        if refused is not None and refused["source_fingerprint"] == key:
            plan.quarantined[batch] = refused["reason"]
            if batch in read:
                plan.current.append(batch)  # as it was read before it broke
        elif not any(is_stale(project, asset, batch) for asset in INGEST.assets):
            plan.current.append(batch)
        elif requested.get(batch) == key:
            plan.waiting[batch] = "its run has been asked for; if it failed, start it again or change the batch"
        else:
            plan.requests[batch] = key
    return plan


def quarantine_evaluation(
    quarantined: Mapping[str, str], judged: dg.EventLogRecord | None = None
) -> dg.AssetCheckEvaluation:
    """The check `corpus: batches_readable` as the sensor reports it.

    `judged` is the newest materialisation of the corpus: the UI calls a check "not evaluated" that names another one or none.
    """
    target = None
    if judged is not None:
        target = AssetCheckEvaluationTargetMaterializationData(
            storage_id=judged.storage_id, run_id=judged.run_id, timestamp=judged.timestamp
        )
    return dg.AssetCheckEvaluation(
        target_materialization_data=target,
        asset_key=dg.AssetKey("corpus"),
        check_name=QUARANTINE_CHECK,
        passed=not quarantined,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=quarantine_metadata(quarantined),
        description=f"cannot be read: {len(quarantined)}" if quarantined else "every batch could be read",
    )


def quarantine_metadata(quarantined: Mapping[str, str]) -> dict[str, Any]:
    """Number of quarantined batches and the reason of each."""
    reasons = {batch: dg.MetadataValue.text(reason) for batch, reason in sorted(quarantined.items())[:50]}
    return {"num_quarantined": len(quarantined), **reasons}


def make_quarantine_check(project: Project) -> dg.AssetChecksDefinition:
    """The same check as something that can be run."""

    @dg.asset_check(asset="corpus", name=QUARANTINE_CHECK, description="No batch is in quarantine.")
    def batches_readable() -> dg.AssetCheckResult:
        found = project.unreadable()
        return dg.AssetCheckResult(
            passed=not found, severity=dg.AssetCheckSeverity.WARN, metadata=quarantine_metadata(found)
        )

    return batches_readable


def _make_retraining_sensor(project: Project, jobs: Mapping[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name="retraining_steps",
        jobs=[jobs[stage.name] for stage in STAGES],
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Carries out what the job retraining asked for: starts each stage when the one before has finished.",
    )
    def retraining_steps(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        wanted = dg.RunsFilter(job_name=RETRAINING, statuses=[dg.DagsterRunStatus.SUCCESS])
        newest = next(iter(context.instance.get_runs(wanted, limit=1)), None)
        if newest is None or newest.run_id == context.cursor:
            return dg.SensorResult(skip_reason="no retraining is asked for", cursor=context.cursor)
        return advance_retraining(project, context.instance, newest.run_id, context.cursor)

    return retraining_steps


def advance_retraining(
    project: Project, instance: dg.DagsterInstance, request: str, cursor: str | None
) -> dg.SensorResult:
    """Start the next stage of a retraining, or say what it waits for; the cursor becomes `request` when it is over."""
    runs = instance.get_runs(dg.RunsFilter(tags={RETRAINING_TAG: request}))
    unfinished = [run for run in runs if not run.is_finished]
    if unfinished:
        names = ", ".join(sorted({run.job_name for run in unfinished}))
        return dg.SensorResult(skip_reason=f"waiting for {len(unfinished)} runs of {names}", cursor=cursor)
    work = next_work(project, due_for_retraining)
    if work is None:
        return dg.SensorResult(skip_reason=f"retraining {request[:8]} is done", cursor=request)
    stage, partitions = work
    if any(run.job_name == stage.name for run in runs):  # its runs are over, and it is still due
        failed = [run.run_id[:8] for run in runs if run.job_name == stage.name and not run.is_success]
        reason = f"retraining {request[:8]} stops at {stage.name}: failed runs {', '.join(failed) or '(none)'}"
        return dg.SensorResult(
            skip_reason=f"{reason}; mend the cause and start the job retraining again", cursor=request
        )
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{request}:{stage.name}:{partition}",
                job_name=stage.name,
                partition_key=partition or None,
                tags={RETRAINING_TAG: request} | ({f"distill/{stage.by}": partition} if partition else {}),
            )
            for partition in partitions
        ],
        cursor=cursor,
    )


def _make_failure_alert(project: Project) -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name="failure_alert",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Says that a run has failed: in the daemon's log, and to alert_webhook where it is set.",
    )
    def failure_alert(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        subject = run.tags.get("dagster/partition", "")
        text = f"{run.job_name}{f' [{subject}]' if subject else ''} failed (run {run.run_id[:8]}): {context.failure_event.message}"
        send_alert(project.settings.alert_webhook, text, context.log)

    return failure_alert


def _make_champion_note(project: Project) -> dg.SensorDefinition:
    @dg.asset_sensor(
        asset_key=dg.AssetKey("champion"),
        name="champion_note",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Says that the champion has moved: in the daemon's log, and to alert_webhook where it is set.",
    )
    def champion_note(context: dg.SensorEvaluationContext, event: dg.EventLogEntry) -> dg.SkipReason:
        made = event.asset_materialization
        told = {name: value.value for name, value in (made.metadata if made else {}).items()}
        text = f"champion {told.get('champion')}: {told.get('verdict')}: {told.get('reason')}"
        if told.get("verdict") == "promoted":
            send_alert(project.settings.alert_webhook, text, context.log)
        return dg.SkipReason(text)

    return champion_note
