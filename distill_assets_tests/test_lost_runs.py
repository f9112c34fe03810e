"""Runs whose process is gone are ended; runs that are alive are left alone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, DagsterEventType, EngineEventData

from distill_assets.lost_runs import HOST_TAG, command_tags, end_lost_runs


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
    elsewhere = started_run(instance, ended_process(), {HOST_TAG: "another-machine"})
    silent = started_run(instance, None, command_tags("run"))
    by_hand = started_run(instance, ended_process(), {})
    assert end_lost_runs(instance) == []
    for run in (mine, elsewhere, silent, by_hand):
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
