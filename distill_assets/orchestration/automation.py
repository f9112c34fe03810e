"""What happens without a click: conditions, sensors, the retraining schedule, alerts.

Cheap work follows its data by itself: a batch that lands is read, mined and scored. Training does not: it waits for the
schedule, or for somebody who starts the job `retraining`.
"""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from distill_assets.assets import ASSETS, assets_of
from distill_assets.assets.line import By
from distill_assets.assets.manifests import git_tags
from distill_assets.assets.reporting import INBOX
from distill_assets.assets.upstream import READ_UPSTREAM, batches_due, find_arrivals
from distill_assets.errors import DistillError, SourceError, UnknownBatchError
from distill_assets.handles.project import Project
from distill_assets.orchestration.alerts import send_alert
from distill_assets.orchestration.lost_runs import make_lost_run_sensor
from distill_assets.orchestration.plan import TELLS_PLAN
from distill_assets.orchestration.stages import (
    INGEST,
    is_stale,
    is_stale_for_automation,
    is_stale_for_retraining,
    next_work,
    stages_of,
)
from distill_assets.records import fingerprint
from distill_assets.settings.values import AUTO, BUNDLED, PYTHON_API, RULES

RETRAINING = "retraining"
RETRAINING_TAG = "distill/retraining"
QUARANTINE_CHECK = "batches_readable"
_WARN_AFTER, _FAIL_AFTER = timedelta(days=10), timedelta(days=30)  # retraining is weekly by default


def with_automation(assets: Sequence[dg.AssetsDefinition], project: Project) -> list[dg.AssetsDefinition]:
    """The assets with their automation conditions, and a freshness policy for what users read."""
    is_generator_free = project.settings.query_generator in (AUTO, RULES)  # a model's work is asked for
    followed = [
        *(["generated_queries"] if is_generator_free else []),
        "hard_negatives",
        "teacher_scores",
        "teacher_judgements",
        *(["teacher_checkpoint"] if is_teacher_free(project) else []),
    ]
    policy = dg.FreshnessPolicy.time_window(fail_window=_FAIL_AFTER, warn_window=_WARN_AFTER)

    def complete(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.path[-1]
        if name == INBOX:
            return spec.replace_attributes(automation_condition=_when_due(_HasArrived(project)))
        if name in ("leaderboard", "champion"):
            return spec.replace_attributes(freshness_policy=policy)
        if name in followed:
            return spec.replace_attributes(automation_condition=_when_due(_IsStale(project, name)))
        return spec

    return [asset.map_asset_specs(complete) for asset in assets]


class _IsStale(dg.AutomationCondition):
    """True for the partitions that `is_stale_for_automation` names. Dagster's own conditions look at events, not at what was read."""

    def __init__(self, project: Project, asset: str) -> None:
        self.project, self.asset = project, asset

    @property
    def name(self) -> str:
        """What the UI shows."""
        return "is_due"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Ask of each candidate partition."""
        candidates, stale = context.candidate_subset, context.get_empty_subset()
        with suppress(DistillError):  # an empty inbox, a disk that is not mounted
            if ASSETS[self.asset].by != "none":
                there = candidates.expensively_compute_partition_keys() & set(self.project.collection.batches())
                keys = {key for key in there if is_stale_for_automation(self.project, self.asset, key)}
                stale = candidates.compute_intersection_with_partition_keys(keys)
            elif not candidates.is_empty and is_stale_for_automation(self.project, self.asset, ""):
                stale = candidates
        return dg.AutomationResult(context, stale)


class _HasArrived(dg.AutomationCondition):
    """True for the batches whose folder in the inbox is not what is upstream now."""

    def __init__(self, project: Project) -> None:
        self.project = project

    @property
    def name(self) -> str:
        """What the UI shows."""
        return "has_arrived"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Ask once for all candidates."""
        due = context.get_empty_subset()
        with suppress(DistillError):  # the sensor new_batches tells it
            found = set(batches_due(self.project, context.asset_graph_view.instance))
            due = context.candidate_subset.compute_intersection_with_partition_keys(
                found & context.candidate_subset.expensively_compute_partition_keys()
            )
        return dg.AutomationResult(context, due)


def _when_due(is_due: dg.AutomationCondition) -> dg.AutomationCondition:
    """Requested once for each event upstream that left it due; a failed run is not asked for again before something moves."""
    condition = dg.AutomationCondition
    is_first = condition.initial_evaluation() & condition.missing()
    moved = condition.newly_missing() | condition.any_deps_updated()
    return (
        # Beside `since_last_handled`, which the first look resets: a batch that was read before it would never be asked for.
        (is_first | moved.since_last_handled()) & is_due & ~condition.any_deps_in_progress() & ~condition.in_progress()
    ).with_label("when_due")


def is_teacher_free(project: Project) -> bool:
    """Whether the teacher costs no training: the bundled one, a local cross-encoder used as it is, or imported scores.

    A hub name is not looked up while definitions load: such a teacher is made by the first `run`, `retrain` or click. So is one whose
    choice depends on what is stored.
    """
    if project.settings.teacher == "auto" and project.settings.collection != PYTHON_API:
        return False
    if project.models.is_teacher_imported:
        return True
    if project.models.teacher_choice != BUNDLED and not Path(project.models.teacher_choice).expanduser().is_dir():
        return False
    try:
        return not project.models.is_teacher_trained
    except DistillError:  # a broken folder is the asset's to report
        return False


def make_jobs(project: Project, partitions: Mapping[By, dg.PartitionsDefinition | None]) -> dict[str, Any]:
    """One job per stage, and `retraining`, which asks for all of them."""

    @dg.op(
        name=project.named("request_retraining"),
        description="Leaves the request; the sensor retraining_steps carries it out, stage by stage.",
    )
    def request_retraining(context: dg.OpExecutionContext) -> None:
        context.log.info("retraining is asked for: the sensor retraining_steps starts its first stage within 30 s")

    @dg.job(
        name=project.named(RETRAINING),
        description="Retrain now: mine and score what is missing or stale, train every recipe, compare, let the gate decide.",
        tags=git_tags(),
        executor_def=dg.in_process_executor,
    )
    def retraining() -> None:
        request_retraining()

    stages = {
        stage.name: dg.define_asset_job(
            project.named(stage.name),
            selection=[project.key(asset) for asset in stage.assets],
            partitions_def=partitions[stage.by],
            executor_def=dg.in_process_executor,  # a team's own would start a process, and load torch, for each asset
            description=stage.description + (TELLS_PLAN if stage.by != "batch" else ""),
            tags={"distill/stage": stage.name} | git_tags(),
        )
        for stage in stages_of(project)
    }
    jobs = stages | {RETRAINING: retraining}
    if project.upstream is not None:
        jobs[READ_UPSTREAM] = dg.define_asset_job(
            project.named(READ_UPSTREAM),
            selection=[project.key(INBOX)],
            partitions_def=partitions["batch"],
            description="Put one batch of the team's own assets into the inbox.",
            tags=git_tags(),
        )
    return jobs


def own_keys(project: Project) -> set[dg.AssetKey]:
    """Keys of the line's assets."""
    return {project.key(name) for name in (*assets_of(project), *([INBOX] if project.upstream else []))}


def make_schedule(project: Project, jobs: Mapping[str, Any]) -> dg.ScheduleDefinition:
    """The retraining schedule."""

    @dg.schedule(
        name=project.named(RETRAINING),
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

    return retraining


def reason_not_to_retrain(project: Project) -> str | None:
    """Why a retraining would do nothing; None when it would do something.

    Raises:
        DistillError: the collection cannot be read.
    """
    if not project.collection.batches():
        return "no batch has been read yet"
    if next_work(project, is_stale_for_retraining) is not None:
        return None
    trained = max(project.places.warehouse.slices("checkpoints")[n].written_at for n in project.settings.all_recipes)
    return f"no new scores, labels or documents since the last training ({trained:%Y-%m-%d %H:%M} UTC)"


def make_sensors(project: Project, jobs: Mapping[str, Any]) -> list[dg.SensorDefinition]:
    """Batches that arrive, the conditions, the steps of a retraining, two alerts, and lost runs."""
    return [
        _make_batch_sensor(project, jobs),
        _make_automation_sensor(project),
        _make_retraining_sensor(project, jobs),
        *_make_alerts(project, jobs),
        make_lost_run_sensor(project.named("lost_runs")),
    ]


def _make_automation_sensor(project: Project) -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions; on by default, for nothing that it starts trains a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=dg.BetaWarning)  # of use_user_code_server
        return dg.AutomationConditionSensorDefinition(
            project.named("automation"),
            target=dg.AssetSelection.assets(*own_keys(project)),
            use_user_code_server=True,  # a condition of this package's own looks into the warehouse
            run_tags=git_tags(),
            minimum_interval_seconds=5,
            default_status=dg.DefaultSensorStatus.RUNNING,
        )


def _make_batch_sensor(project: Project, jobs: Mapping[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=project.named("new_batches"),
        job=jobs["ingest"],
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Registers batches that arrive and has them read; reads a changed one again; leaves broken ones alone.",
    )
    def new_batches(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        batches = project.batch_partitions
        known = set(context.instance.get_dynamic_partitions(str(batches.name)))
        try:
            arriving = set(find_arrivals(project.upstream, context.instance)) if project.upstream else set[str]()
        except DistillError as error:
            return dg.SkipReason(str(error))
        try:
            found = project.collection.source.batches()
        except DistillError as error:  # an empty inbox, a disk that is not mounted
            if not arriving:
                return dg.SkipReason(str(error))
            new = sorted(arriving - known)
            return dg.SensorResult(
                skip_reason=f"waiting for the inbox: {', '.join(sorted(arriving))}"[:2000],
                dynamic_partitions_requests=[batches.build_add_request(new)] if new else [],
            )
        cursor = json.loads(context.cursor or "{}")
        if not isinstance(cursor.get("looks"), dict):  # none yet, or one of an older version
            cursor = {"told": "", "requested": {}, "looks": {}}
        plan = plan_ingestion(project, found, cursor["requested"], cursor["looks"], now=time.time())
        registered = {*plan.requests, *plan.current, *arriving}
        new, dropped = sorted(registered - known), sorted(known - registered - set(plan.waiting))
        changes: list[Any] = [batches.build_add_request(new)] if new else []
        # A batch that never was readable leaves the partitions again: a fan-in over all of them would wait for it for ever.
        changes += [batches.build_delete_request(dropped)] if dropped else []
        judged = next(iter(context.instance.fetch_materializations(project.key("corpus"), limit=1).records), None)
        told = fingerprint(*sorted(plan.quarantined.items()), judged.storage_id if judged else "")
        events = [] if cursor["told"] == told else [quarantine_evaluation(project, plan.quarantined, judged)]
        requests = [
            dg.RunRequest(partition_key=batch, tags={"distill/batch": batch, "distill/source": key[:12]})
            for batch, key in plan.requests.items()
        ]
        requested = {batch: key for batch, key in cursor["requested"].items() if batch in found} | plan.requests
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else plan.describe(),
            dynamic_partitions_requests=changes,
            asset_events=events,
            cursor=json.dumps({"told": told, "requested": requested, "looks": plan.looks}, sort_keys=True),
        )

    return new_batches


Look = tuple[str, float]  # what a batch looked like, and since when: seconds since 1970 by the clock of this machine


@dataclass
class IngestionPlan:
    """What a look at the source says of each batch.

    Attributes:
        requests: batches to read now, with the content they have.
        current: batches whose stored slices are those of today.
        waiting: batches that are still being copied, or whose run has been asked for.
        quarantined: batches and folders that cannot be read, with the reason.
        looks: what each batch looks like that is not known to be complete, and since when.
    """

    requests: dict[str, str] = field(default_factory=dict)
    current: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    looks: dict[str, Look] = field(default_factory=dict)

    def describe(self) -> str:
        """One line for the tick."""
        parts = [f"{len(self.current)} batches are up to date"]
        parts += [f"{batch}: {reason}" for batch, reason in sorted(self.waiting.items())]
        parts += [f"{batch} is in quarantine: {reason}" for batch, reason in sorted(self.quarantined.items())]
        return "; ".join(parts)[:2000]


def plan_ingestion(
    project: Project,
    found: Sequence[str],
    requested: Mapping[str, str],
    looks: Mapping[str, Look] | None = None,
    *,
    now: float,
) -> IngestionPlan:
    """Decide for each batch of the source whether it is to be read now.

    A batch is complete when the source says so, or when it looks the same in two plans that are `inbox_settle_s` apart. The
    clock of this machine measures that: the times of the files may come from another one.

    Args:
        project: where the batches come from and what has been read.
        found: batches that the source has.
        requested: batch -> content that a run was asked for before; asked for once only, whatever became of the run.
        looks: those of the plan before.
        now: seconds since 1970.
    """
    plan = IngestionPlan(quarantined=dict(project.collection.source.refused()))
    rows, read = project.collection.quarantined(), set(project.collection.batches())
    for batch in found:
        try:
            waits = _wait_until_settled(project, plan, batch, (looks or {}).get(batch), now)
            key = None if waits else project.collection.source.fingerprint(batch)
            if key is None:
                plan.waiting[batch] = str(waits)
            elif batch in rows and rows[batch]["source_fingerprint"] == key:
                plan.quarantined[batch] = rows[batch]["reason"]
            elif not any(is_stale(project, asset, batch) for asset in INGEST.assets):
                plan.current.append(batch)
            elif requested.get(batch) == key:
                plan.waiting[batch] = "its run has been asked for; if it failed, start it again or change the batch"
            else:
                plan.requests[batch] = key
        except (SourceError, UnknownBatchError) as error:  # the other batches go on
            plan.quarantined[batch] = str(error)
        if batch in plan.quarantined and batch in read:
            plan.current.append(batch)  # as it was read before it broke
    return plan


def _wait_until_settled(
    project: Project, plan: IngestionPlan, batch: str, before: Look | None, now: float
) -> str | None:
    """Note what the batch looks like, and say why it waits; None when it is complete."""
    look, settle_s = project.collection.source.look(batch), project.settings.inbox_settle_s
    if look is None:
        return None
    # A look from the future is one from before this machine's clock was set back.
    since = before[1] if before and before[0] == look and before[1] <= now else now
    plan.looks[batch] = (look, since)
    if now - since >= settle_s:
        return None
    return f"the same for {now - since:.0f} s, read after {settle_s:g} s without a change or with a _READY file"


def quarantine_evaluation(
    project: Project, quarantined: Mapping[str, str], judged: dg.EventLogRecord | None = None
) -> dg.AssetCheckEvaluation:
    """The check `corpus: batches_readable` as the sensor reports it.

    `judged` is the newest materialisation of the corpus: the UI calls a check "not evaluated" that names another one or none.
    """
    target = judged and AssetCheckEvaluationTargetMaterializationData(
        storage_id=judged.storage_id, run_id=judged.run_id, timestamp=judged.timestamp
    )
    return dg.AssetCheckEvaluation(
        target_materialization_data=target,
        asset_key=project.key("corpus"),
        check_name=QUARANTINE_CHECK,
        passed=not quarantined,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=_reasons(quarantined),
        description=f"cannot be read: {len(quarantined)}" if quarantined else "every batch could be read",
    )


def _reasons(quarantined: Mapping[str, str]) -> dict[str, Any]:
    """Number of quarantined batches and the reason of each."""
    reasons = {batch: dg.MetadataValue.text(reason) for batch, reason in sorted(quarantined.items())[:50]}
    return {"num_quarantined": len(quarantined), **reasons}


def make_quarantine_check(project: Project) -> dg.AssetChecksDefinition:
    """The same check as something that can be run."""

    @dg.asset_check(asset=project.key("corpus"), name=QUARANTINE_CHECK, description="No batch is in quarantine.")
    def batches_readable() -> dg.AssetCheckResult:
        found = project.collection.unreadable()
        return dg.AssetCheckResult(passed=not found, severity=dg.AssetCheckSeverity.WARN, metadata=_reasons(found))

    return batches_readable


def _make_retraining_sensor(project: Project, jobs: Mapping[str, Any]) -> dg.SensorDefinition:
    @dg.sensor(
        name=project.named("retraining_steps"),
        jobs=[jobs[stage.name] for stage in stages_of(project)],
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Carries out what the job retraining asked for: starts each stage when the one before has finished.",
    )
    def retraining_steps(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        wanted = dg.RunsFilter(job_name=project.named(RETRAINING), statuses=[dg.DagsterRunStatus.SUCCESS])
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
    work = next_work(project, is_stale_for_retraining)
    if work is None:
        return dg.SensorResult(skip_reason=f"retraining {request[:8]} is done", cursor=request)
    stage, partitions = work
    job = project.named(stage.name)
    if any(run.job_name == job for run in runs):  # its runs are over, and it is still stale
        failed = [run.run_id[:8] for run in runs if run.job_name == job and not run.is_success]
        reason = f"retraining {request[:8]} stops at {stage.name}: failed runs {', '.join(failed) or '(none)'}"
        return dg.SensorResult(
            skip_reason=f"{reason}; mend the cause and start the job retraining again", cursor=request
        )
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{request}:{stage.name}:{partition}",
                job_name=job,
                partition_key=partition or None,
                tags={RETRAINING_TAG: request} | ({f"distill/{stage.by}": partition} if partition else {}),
            )
            for partition in partitions
        ],
        cursor=cursor,
    )


def _make_alerts(project: Project, jobs: Mapping[str, Any]) -> list[dg.SensorDefinition]:
    """A run of the line has failed, its champion has moved: told in the daemon's log, and to `alert_webhook` where it is set."""
    webhook, names, own = project.settings.alert_webhook, {job.name for job in jobs.values()}, own_keys(project)
    where = "in the daemon's log, and to alert_webhook where it is set."
    shared: dict[str, Any] = {"default_status": dg.DefaultSensorStatus.RUNNING, "minimum_interval_seconds": 30}

    @dg.run_failure_sensor(
        name=project.named("failure_alert"), description=f"Says that a run has failed: {where}", **shared
    )
    def failure_alert(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        if run.job_name not in names and not own & set(run.asset_selection or ()):  # of the team's own assets
            return
        subject = f" [{run.tags['dagster/partition']}]" if run.tags.get("dagster/partition") else ""
        text = f"{run.job_name}{subject} failed (run {run.run_id[:8]}): {context.failure_event.message}"
        send_alert(webhook, text, context.log)

    @dg.asset_sensor(
        project.key("champion"),
        name=project.named("champion_note"),
        description=f"Says that the champion has moved: {where}",
        **shared,
    )
    def champion_note(context: dg.SensorEvaluationContext, event: dg.EventLogEntry) -> dg.SkipReason:
        made = event.asset_materialization
        told = {name: value.value for name, value in (made.metadata if made else {}).items()}
        text = f"champion {told.get('champion')}: {told.get('verdict')}: {told.get('reason')}"
        if told.get("verdict") == "promoted":
            send_alert(webhook, text, context.log)
        return dg.SkipReason(text)

    return [failure_alert, champion_note]
