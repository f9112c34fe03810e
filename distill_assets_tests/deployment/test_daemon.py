"""The real daemon over a real inbox: what a person gets who copies a folder and goes home. The tests build on each other."""

import os
import signal
import time
from typing import Any

import dagster as dg
import pytest

from benchmarks.deployment import Deployment, land, land_judgements, launch_job

# Batches of the tests: topics of the tiny vocabulary, 12 documents and queries each.
FIRST, SECOND, BROKEN, KILLED = ("array", "matrix", "frame"), ("graph",), ("index",), ("kernel", "signal", "window")


def wait_for_scores(deployment: Deployment, batch: str) -> float:
    """Seconds on the clock when the batch's scores were there."""
    deployment.wait_for(f"scores of {batch}", lambda: slice_of(deployment, "teacher_scores", batch), timeout_s=600)
    return time.time()


def slice_of(deployment: Deployment, table: str, batch: str) -> Any:
    """What is recorded of a slice, None while it is not there."""
    return (
        deployment.project.places.warehouse.slice_info(table, batch)
        if deployment.project.places.warehouse.exists()
        else None
    )


def computing_seconds(deployment: Deployment, since: float) -> float:
    """Seconds inside steps of the runs made since then."""
    with deployment.instance() as instance:
        records = instance.get_run_records(limit=50)
        runs = [r.dagster_run.run_id for r in records if r.create_timestamp.timestamp() >= since - 1]
        steps = [step for run in runs for step in instance.get_run_step_stats(run)]
    return sum(step.end_time - step.start_time for step in steps if step.start_time and step.end_time)


def test_a_batch_that_lands_is_scored_and_nobody_clicks(deployment: Deployment, capsys: pytest.CaptureFixture) -> None:
    """Conditions that hold in a unit test can still never fire: a sensor left stopped, a queue without a daemon."""
    landed = land(deployment, "first", FIRST)
    seconds = wait_for_scores(deployment, "first") - landed
    time.sleep(2)  # the run's last events
    inside = computing_seconds(deployment, landed)
    with capsys.disabled():
        print(
            f"\nfirst batch, teacher included: {seconds:.0f} s from landing to scores, {inside:.0f} s of them in steps"
        )
    rows = deployment.project.places.warehouse.read("teacher_scores", slice_keys=["first"]).to_pylist()
    # 36 queries, a sixth of them dev and a sixth test by their place; each train query has its positive and 4 negatives.
    assert len(rows) == 24 * (1 + deployment.project.settings.scored_negatives)
    with deployment.instance() as instance:
        assert instance.get_dynamic_partitions("batches") == ["first"]


def test_a_second_batch_leaves_the_first_alone(deployment: Deployment, capsys: pytest.CaptureFixture) -> None:
    """Mined again for every batch that lands, a hundred batches would cost five thousand minings."""
    before = slice_of(deployment, "hard_negatives", "first")
    landed = land(deployment, "second", SECOND)
    seconds = wait_for_scores(deployment, "second") - landed
    time.sleep(2)
    inside = computing_seconds(deployment, landed)
    with capsys.disabled():
        print(f"\nsecond batch: {seconds:.0f} s from landing to scores, {inside:.0f} s of them in steps")
    assert slice_of(deployment, "hard_negatives", "first") == before
    negatives = (
        deployment.project.places.warehouse.read("hard_negatives", slice_keys=["second"]).column("doc_id").to_pylist()
    )
    assert any(not doc_id.startswith("graph-") for doc_id in negatives), "mined against all documents"


def test_judgements_alone_are_followed_by_the_batch_of_their_queries(deployment: Deployment) -> None:
    """Only the batch that arrived is new to Dagster: labels of older queries would wait for somebody who clicks."""
    before = {batch: slice_of(deployment, "hard_negatives", batch) for batch in ("first", "second")}
    land_judgements(deployment, "judged", [("q-array-sum", "matrix-sum", 1)])

    def is_scored() -> bool:
        rows = deployment.project.places.warehouse.read("teacher_scores", slice_keys=["first"]).to_pylist()
        return any((r["query_id"], r["doc_id"], r["label"]) == ("q-array-sum", "matrix-sum", 1) for r in rows)

    deployment.wait_for("the new label's score", is_scored, timeout_s=600)
    assert slice_of(deployment, "hard_negatives", "first").written_at > before["first"].written_at
    assert slice_of(deployment, "hard_negatives", "second") == before["second"]
    with deployment.instance() as instance:
        failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    assert failed == []


def test_a_broken_batch_is_quarantined_and_the_next_goes_through(deployment: Deployment) -> None:
    """A broken folder that fails without end keeps the queue full; one that fails silently is found months later."""
    land(deployment, "broken", BROKEN, cut_off=20)
    land(deployment, "third", ("series",))
    wait_for_scores(deployment, "third")
    quarantined = deployment.wait_for("quarantine", lambda: deployment.project.collection.quarantined().get("broken"))
    assert "corpus.jsonl, line 12" in quarantined["reason"]
    check = dg.AssetCheckKey(dg.AssetKey("corpus"), "batches_readable")

    def reported() -> Any:
        with deployment.instance() as instance:
            records = instance.event_log_storage.get_asset_check_execution_history(check, limit=10)
            told = [r.event.dagster_event.event_specific_data for r in records if r.event]
            partitions = instance.get_dynamic_partitions("batches")
        judged = [e for e in told if isinstance(e, dg.AssetCheckEvaluation)]  # others are planned
        failed = [e for e in judged if not e.passed and "broken" in e.metadata]
        return failed and "broken" not in partitions

    deployment.wait_for("the check's failure, and the partition gone", reported)


def test_a_killed_run_frees_its_slot_and_the_next_goes_on_from_there(deployment: Deployment) -> None:
    """A slot that a dead run holds stops every later batch; half a table reads like a whole one."""
    warehouse, scored = deployment.project.places.warehouse, "SELECT count(*) AS n FROM pair_scores"
    before = warehouse.query(scored)["n"][0].as_py()
    land(deployment, "killed", KILLED)

    def is_scoring() -> Any:
        with deployment.instance() as instance:
            running = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
            is_started = any(run.tags.get("dagster/partition") == "killed" for run in running)
        return running if is_started and warehouse.query(scored)["n"][0].as_py() > before + 4 else None

    [run] = deployment.wait_for("the teacher at work", is_scoring, timeout_s=600)
    os.kill(worker_pid(deployment, run.run_id), signal.SIGKILL)

    deployment.wait_for("the killed run to be reported", lambda: is_over(deployment, run.run_id))
    kept = warehouse.query(scored)["n"][0].as_py() - before
    assert 4 < kept < 24 * 5, "killed half way"
    assert slice_of(deployment, "teacher_scores", "killed") is None, "nothing half written"

    def is_free() -> bool:
        with deployment.instance() as instance:
            return not instance.event_log_storage.get_concurrency_info("teacher").claimed_slots

    deployment.wait_for("the slot to be free", is_free, timeout_s=120)
    again = launch_job(deployment, "score", "killed")
    deployment.wait_for("the next run", lambda: is_over(deployment, again), timeout_s=600)
    assert slice_of(deployment, "teacher_scores", "killed").num_rows == 24 * 5
    with deployment.instance() as instance:
        [event] = instance.all_logs(again, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    metadata = event.asset_materialization.metadata
    assert metadata["num_pairs"].value == 24 * 5 and metadata["num_forward_passes"].value == 24 * 5 - kept


def is_over(deployment: Deployment, run_id: str) -> bool:
    """Whether a run has ended, well or not."""
    with deployment.instance() as instance:
        run = instance.get_run_by_id(run_id)
    return run is not None and run.is_finished


def worker_pid(deployment: Deployment, run_id: str) -> int:
    """Process that works on a run, as it reported itself."""
    with deployment.instance() as instance:
        events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    told = [e.get_dagster_event().engine_event_data.metadata.get("pid") for e in events]
    return int([pid.value for pid in told if pid is not None][-1])
