"""Runs whose process is gone, although Dagster calls them started: killed from outside, or lost with the machine.

Dagster's code server reports a run that dies under it. Nobody reports a killed `distill-assets run`, nor what a machine was
running when it went down: such a run would stay "started", and keep its pool slots from all others, for ever.
"""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
import psutil
from dagster._core.storage.tags import GRPC_INFO_TAG

HOST_TAG = "distill/host"  # where a run of the command line runs; those of a code server are tagged by Dagster
_CLOCK_S = 2.0  # a process may count as started this much later than it wrote its first event


def command_tags(command: str) -> dict[str, str]:
    """Tags of a run that the command line makes in its own process."""
    return {"distill/command": command, HOST_TAG: platform.node()}


def end_lost_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Mark every lost run as failed, free its pool slots, and return them.

    What such a run had committed stays (slices are whole or absent, scored pairs are kept); the next run goes on from there.
    """
    started = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    lost = [run for run in started if _is_lost(instance, run)]
    for run in lost:
        instance.report_run_failed(
            run, "the process of this run is gone: it was killed, or the machine went down; start the run again"
        )
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return lost


def _is_lost(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the run's process was on this machine and is not there any more."""
    if run.tags.get(HOST_TAG) != platform.node() and '"socket"' not in run.tags.get(GRPC_INFO_TAG, ""):
        return False  # another machine's, or started by hand
    events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    return _is_gone(_processes(events)) if events else False


def _processes(events: Sequence[dg.EventLogEntry]) -> list[tuple[int, float]]:
    """(pid, time) of each process that reported itself as the one that works on the run."""
    found = []
    for event in events:
        data = event.get_dagster_event().engine_event_data
        pid = data.metadata.get("pid")
        if pid is not None and str(pid.value).isdigit():
            found.append((int(str(pid.value)), event.timestamp))
    return found


def _is_gone(processes: Sequence[tuple[int, float]]) -> bool:
    if not processes:
        return False
    pid, told_at = processes[-1]
    try:
        process = psutil.Process(pid)
        # A number is given again: a process that is younger than the event is another one.
        return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > told_at + _CLOCK_S
    except psutil.NoSuchProcess:
        return True


def make_lost_run_sensor() -> dg.SensorDefinition:
    """Ends lost runs while the daemon runs."""

    @dg.sensor(
        name="lost_runs",
        jobs=[],
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Marks runs as failed whose process is gone, and frees their pool slots.",
    )
    def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        names = [f"{run.job_name} {run.run_id[:8]}" for run in end_lost_runs(context.instance)]
        at = f"{datetime.now(UTC):%H:%M:%S} UTC"
        return dg.SkipReason(f"{at}: ended {', '.join(names)}" if names else f"{at}: no run has lost its process")

    return lost_runs
