"""Runs whose process is gone are ended; runs that are alive are left alone."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType, EngineEventData
from dagster._core.storage.tags import GRPC_INFO_TAG

from distill_assets.orchestration import lost_runs
from distill_assets.orchestration.lost_runs import (
    BOOT_TAG,
    HOST_TAG,
    MACHINE_TAG,
    command_tags,
    end_lost_runs,
    machine_tags,
)


@dg.job
def some_job() -> None:
    """A job to make runs of."""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk: slots of pools are kept there."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def started_run(instance: dg.DagsterInstance, pid: int | None, tags: dict[str, str]) -> dg.DagsterRun:
    """A run that process `pid` has said to work on, holding the only slot of the pool `teacher`."""
    run = instance.create_run_for_job(some_job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    if pid is not None:
        instance.report_engine_event("working", run, EngineEventData.in_process(pid))
    instance.event_log_storage.set_concurrency_slots("teacher", 1)
    instance.event_log_storage.claim_concurrency_slot("teacher", run.run_id, "teacher_scores")
    return run


def ended_process() -> int:
    """Number of a process that was there and is not any more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_run_without_its_process_is_ended_and_its_slot_is_free(instance: dg.DagsterInstance) -> None:
    """A killed `distill-assets run` would hold the teacher's only slot for ever: every later batch waits, nothing says why."""
    run = started_run(instance, ended_process(), command_tags("run"))
    assert instance.event_log_storage.get_concurrency_info("teacher").claimed_slots
    assert [lost.run_id for lost in end_lost_runs(instance)] == [run.run_id]
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None and ended.status == dg.DagsterRunStatus.FAILURE
    assert not instance.event_log_storage.get_concurrency_info("teacher").claimed_slots
    assert end_lost_runs(instance) == []


def test_runs_that_may_be_alive_are_left_alone(instance: dg.DagsterInstance) -> None:
    """Ending a run that works lets a second teacher start beside it, and throws a whole training away in the UI."""
    mine = started_run(instance, os.getpid(), command_tags("run"))
    elsewhere = started_run(instance, ended_process(), {**command_tags("run"), MACHINE_TAG: "another"})
    named_alike = started_run(instance, ended_process(), {HOST_TAG: platform.node()})
    served = started_run(instance, ended_process(), {GRPC_INFO_TAG: '{"host": "localhost", "socket": "/tmp/another"}'})
    silent = started_run(instance, None, command_tags("run"))
    by_hand = started_run(instance, ended_process(), {})
    assert end_lost_runs(instance) == []
    for run in (mine, elsewhere, named_alike, served, silent, by_hand):
        found = instance.get_run_by_id(run.run_id)
        assert found is not None and found.status == dg.DagsterRunStatus.STARTED


def test_a_number_that_was_given_again_is_not_the_run(instance: dg.DagsterInstance) -> None:
    """Process numbers come round, soonest after a restart: a dead run would pass for alive because of a stranger."""
    run = started_run(instance, None, command_tags("run"))
    data = EngineEventData.in_process(os.getpid())
    entry = dg.EventLogEntry(
        error_info=None,
        user_message="",
        level=10,
        run_id=run.run_id,
        timestamp=1.0,
        step_key=None,
        job_name="some_job",
        dagster_event=DagsterEvent(DagsterEventType.ENGINE_EVENT.value, "some_job", event_specific_data=data),
    )
    instance.event_log_storage.store_event(entry)
    assert [lost.run_id for lost in end_lost_runs(instance)] == [run.run_id]


HOST, CONTAINER = "pid:[4026531836]", "pid:[4026532512]"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., dict[str, str]]]:
    """Tags of the machine that is described: what Linux says of itself, None where it says nothing."""

    def describe(
        boot: str | None, machine_id: str | None, namespace: str | None, node: str = "worker"
    ) -> dict[str, str]:
        for name, text in (("_BOOT_ID", boot), ("_MACHINE_ID", machine_id)):
            path = tmp_path / name
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(f"{text}\n", encoding="ascii")
            monkeypatch.setattr(lost_runs, name, path)
        link = tmp_path / "namespace"
        link.unlink(missing_ok=True)
        if namespace is not None:
            link.symlink_to(namespace)
        monkeypatch.setattr(lost_runs, "_PID_NAMESPACE", link)
        monkeypatch.setattr(platform, "node", lambda: node)
        machine_tags.cache_clear()
        return machine_tags()

    yield describe
    machine_tags.cache_clear()


def test_what_shares_a_host_name_is_told_apart(place: Callable[..., dict[str, str]]) -> None:
    """A container with the host's name ended the living runs of the host: their process numbers are not its own."""
    machines = [
        place("boot-1", "id-1", HOST),
        place("boot-1", "id-2", HOST),  # a clone with an id of its own
        place("boot-1", "id-1", HOST, node="clone"),  # a clone with a name of its own
        place("boot-1", "id-1", CONTAINER),
        place("boot-1", "id-1", "pid:[4026532600]"),
        place("boot-2", "id-1", CONTAINER),  # the same image on another machine
        place("boot-1", None, HOST),  # a container that sees the processes of its host, but not its id
        place("boot-1", None, None),
        place(None, None, None),
    ]
    assert len({tags[MACHINE_TAG] for tags in machines}) == len(machines)
    assert place("boot-1", "id-1", HOST) == machines[0]
    assert "id-1" not in machines[0][MACHINE_TAG]
    assert place("boot-2", "id-1", HOST) == {**machines[0], BOOT_TAG: "boot-2"}


def test_a_run_of_an_earlier_boot_is_lost(instance: dg.DagsterInstance, place: Callable[..., dict[str, str]]) -> None:
    """After a power cut the run's number may be anybody's, or the run said none: it held its slot for ever."""
    place("boot-1", "id-1", HOST)
    silent, alive_by_number = (started_run(instance, pid, command_tags("run")) for pid in (None, os.getpid()))
    place("boot-1", "id-1", CONTAINER)
    in_container = started_run(instance, ended_process(), command_tags("run"))
    assert [run.run_id for run in end_lost_runs(instance)] == [in_container.run_id]
    place("boot-2", "id-2", HOST)
    assert end_lost_runs(instance) == []
    place("boot-2", "id-1", HOST)
    assert {run.run_id for run in end_lost_runs(instance)} == {silent.run_id, alive_by_number.run_id}


CODE_SERVER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
child.wait()
"""


def test_a_run_of_a_code_server_is_known_by_its_process(instance: dg.DagsterInstance) -> None:
    """Dagster tags such a run with a socket, not with a machine: a second machine on the same instance ended it alive."""
    command = [sys.executable, "-c", CODE_SERVER, "--socket", "/tmp/of-this-server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        worker = int(server.stdout.readline())
        run, of_another = (
            started_run(instance, worker, {GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": socket})})
            for socket in ("/tmp/of-this-server", "/tmp/of-another")
        )
        assert end_lost_runs(instance) == []
        seen = instance.get_run_by_id(run.run_id)
        assert seen is not None and machine_tags().items() <= seen.tags.items()
        for pid in (server.pid, worker):
            os.kill(pid, signal.SIGKILL)
    assert [lost.run_id for lost in end_lost_runs(instance)] == [run.run_id]
    kept = instance.get_run_by_id(of_another.run_id)
    assert kept is not None and kept.status == dg.DagsterRunStatus.STARTED and MACHINE_TAG not in kept.tags
