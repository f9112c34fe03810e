"""Runs whose process is gone, although Dagster calls them started: killed from outside, or lost with the machine.

Dagster's code server reports a run that dies under it. Nobody reports a killed `distill-assets run`, nor what a machine was
running when it went down: such a run would stay "started", and keep its pool slots from all others, for ever.

Only the machine that a run is on can tell whether its process is gone. Several may share one instance, and containers and
cloned machines may share a host name, so each run is tagged with an identity that no two of them share (`machine_tags`).
"""

import json
import platform
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.storage.tags import GRPC_INFO_TAG

from distill_assets.records import fingerprint

HOST_TAG = "distill/host"  # for people
MACHINE_TAG, BOOT_TAG = "distill/machine", "distill/boot"
_BOOT_ID, _MACHINE_ID = Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of Linux: that of the machine itself, no container's
_CLOCK_S = 2.0  # a process may count as started this much later than it wrote its first event


COMMAND_TAG = "distill/command"


def command_tags(command: str) -> dict[str, str]:
    """Tags of a run that the command line makes in its own process."""
    return {COMMAND_TAG: command, HOST_TAG: platform.node(), **machine_tags()}


@cache
def machine_tags() -> dict[str, str]:
    """Which machine this process is on, and which of its boots this is; a container is a machine of its own.

    A machine is known by its machine-id and host name, a boot by its boot-id. In a container both ids may be the host's or the
    image's. There boot-id and namespace of process numbers make up the machine: two containers that run at the same time differ.
    Without these files (macOS) host name and network card decide.
    """
    boot, machine_id = _read(_BOOT_ID), _read(_MACHINE_ID)
    namespace = platform.node()
    with suppress(OSError):
        namespace = str(_PID_NAMESPACE.readlink())
    if not boot:
        machine = fingerprint(platform.node(), uuid.getnode())
    elif machine_id and namespace == _FIRST_PID_NAMESPACE:
        machine = fingerprint(platform.node(), machine_id)  # hashed: a machine-id is not to be published
    else:
        machine, boot = fingerprint(boot, namespace), ""
    return {MACHINE_TAG: machine, BOOT_TAG: boot}


def _read(path: Path) -> str:
    with suppress(OSError, ValueError):
        return path.read_text(encoding="ascii").strip()
    return ""


def end_lost_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Mark every lost run as failed, free its pool slots, and return them.

    What such a run had committed stays (slices are whole or absent, scored pairs are kept); the next run goes on from there.
    """
    started = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    for run in started:
        # Dagster does not say where a code server's run is. While its process is there, it can be seen.
        if MACHINE_TAG not in run.tags and _is_below_its_code_server(run, _processes(instance, run)):
            instance.add_run_tags(run.run_id, machine_tags())
    lost = [run for run in started if _is_lost(instance, run)]
    for run in lost:
        instance.report_run_failed(
            run, "the process of this run is gone: it was killed, or the machine went down; start the run again"
        )
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return lost


def _is_lost(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the run's process was on this machine and is not there any more."""
    here = machine_tags()
    if run.tags.get(MACHINE_TAG) != here[MACHINE_TAG]:
        return False  # another machine's, or started by hand
    if run.tags.get(BOOT_TAG) != here[BOOT_TAG]:
        return True
    processes = _processes(instance, run)
    return bool(processes) and _find_process(*processes[-1]) is None


def _processes(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[tuple[int, float]]:
    """(pid, time) of each process that reported itself as the one that works on the run."""
    found = []
    for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        data = event.get_dagster_event().engine_event_data
        pid = data.metadata.get("pid")
        if pid is not None and str(pid.value).isdigit():
            found.append((int(str(pid.value)), event.timestamp))
    return found


def _is_below_its_code_server(run: dg.DagsterRun, processes: Sequence[tuple[int, float]]) -> bool:
    """Whether the run's process is here: below a code server that listens on the socket which Dagster tagged the run with."""
    socket = json.loads(run.tags.get(GRPC_INFO_TAG, "{}")).get("socket")
    process = _find_process(*processes[-1]) if socket and processes else None
    try:
        return process is not None and any(socket in parent.cmdline() for parent in process.parents())
    except psutil.Error:  # it ends at this moment
        return False


def _find_process(pid: int, told_at: float) -> psutil.Process | None:
    """The process of this machine with that number which was there at that time, seconds since 1970; None where it has ended."""
    try:
        process = psutil.Process(pid)
        # A number is given again: a process that is younger than the event is another one.
        is_same = process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= told_at + _CLOCK_S
    except psutil.NoSuchProcess:
        return None
    return process if is_same else None


def make_lost_run_sensor(name: str) -> dg.SensorDefinition:
    """Ends lost runs while the daemon runs."""

    @dg.sensor(
        name=name,
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
