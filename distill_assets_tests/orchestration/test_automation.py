"""What happens without a click: batches that arrive, what follows them, and retraining."""

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.assets import ASSETS
from distill_assets.assets.reads import Moment
from distill_assets.definitions import build_definitions
from distill_assets.errors import SourceError
from distill_assets.orchestration.automation import advance_retraining, plan_ingestion, reason_not_to_retrain
from distill_assets.orchestration.running import run_line
from distill_assets.orchestration.stages import status_of
from distill_assets.sources.beir import BeirSource
from distill_assets_tests.conftest import make_project, write_beir


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An inbox with one batch that has been there for an hour."""
    write_beir(tmp_path / "inbox" / "first", topics=("array", "matrix", "frame", "series", "index", "kernel"))
    return tmp_path / "inbox"


@pytest.fixture
def inbox_project(inbox: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> Any:
    """A project over the inbox; a folder counts as complete at once."""
    return make_project(inbox, tiny_encoder, tiny_cross_encoder, tmp_path / "data", inbox_settle_s=0)


@pytest.fixture
def instance() -> dg.DagsterInstance:
    """An instance in memory."""
    return dg.DagsterInstance.ephemeral()


def materialise(project: Any, instance: dg.DagsterInstance, assets: tuple[str, ...], partition: str | None) -> bool:
    """One run, as the daemon would launch it; whether it ended well."""
    job = build_definitions(project).resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(asset) for asset in assets]
    return job.execute_in_process(
        instance=instance, asset_selection=keys, partition_key=partition, raise_on_error=False
    ).success


def tick(project: Any, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    """One tick of the batch sensor; its requests for partitions are carried out."""
    definitions = build_definitions(project)
    sensor = definitions.get_sensor_def("new_batches")
    context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=definitions)
    result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    for change in result.dynamic_partitions_requests or ():
        if isinstance(change, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions("batches", list(change.partition_keys))
        else:
            for key in change.partition_keys:
                instance.delete_dynamic_partition("batches", key)
    return result


INGESTED = ("corpus", "queries", "qrels")
EMPTY = ("generated_queries", "teacher_judgements")


def test_a_batch_is_registered_read_once_and_read_again_when_it_changes(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance
) -> None:
    """A sensor that asks twice pays twice; one that never asks again serves last week's documents."""
    first = tick(inbox_project, instance, None)
    assert [request.partition_key for request in first.run_requests] == ["first"]
    assert instance.get_dynamic_partitions("batches") == ["first"]
    waiting = tick(inbox_project, instance, first.cursor)
    assert not waiting.run_requests
    materialise(inbox_project, instance, INGESTED, "first")
    assert not tick(inbox_project, instance, waiting.cursor).run_requests

    file = inbox / "first" / "corpus.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("sum every", "sum up every"), encoding="utf-8")
    changed = tick(inbox_project, instance, waiting.cursor)
    assert [request.partition_key for request in changed.run_requests] == ["first"]


def test_a_folder_that_is_still_being_copied_waits(inbox: Path, inbox_project: Any) -> None:
    """Half a corpus reads like a small corpus: everything that follows would succeed on half of the documents."""
    project = make_project(inbox, *_models(inbox_project), inbox_project.settings.data_folder, inbox_settle_s=60)
    looks: dict[str, Any] = {}

    def plan_at(now: float) -> Any:
        plan = plan_ingestion(project, ["first"], {}, looks, now=now)
        looks.clear()
        looks.update(json.loads(json.dumps(plan.looks)))  # as the cursor keeps them
        return plan

    assert list(plan_at(1000).waiting) == ["first"]
    assert plan_at(1059).waiting == {
        "first": "the same for 59 s, read after 60 s without a change or with a _READY file"
    }
    assert list(plan_at(1060).requests) == ["first"]

    corpus = inbox / "first" / "corpus.jsonl"
    for now, times in ((1100, (4e9, 4e9)), (1150, (1e9, 1e9))):  # stamps of another clock: the years 2096 and 2001
        with corpus.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"_id": f"more-{now}", "text": "more"}) + "\n")
        os.utime(corpus, times)
        assert list(plan_at(now).waiting) == ["first"], "it has just changed"
    assert list(plan_at(1209).waiting) == ["first"]
    assert list(plan_at(1210).requests) == ["first"]
    assert list(plan_at(500).waiting) == ["first"], "this machine's clock was set back: counted from there on"
    assert list(plan_at(560).requests) == ["first"]

    corpus.write_bytes(corpus.read_bytes() + b"\n")
    (inbox / "first" / "_READY").touch()
    assert list(plan_at(561).requests) == ["first"]
    assert looks == {}, "nothing to wait for"


def test_the_sensor_remembers_its_looks(inbox: Path, inbox_project: Any, instance: dg.DagsterInstance) -> None:
    """Looks that are forgotten between two ticks make every batch wait for ever."""
    project = make_project(inbox, *_models(inbox_project), inbox_project.settings.data_folder, inbox_settle_s=0.2)
    first = tick(project, instance, '{"": "told by an older version", "first": "asked for by it"}')
    assert not first.run_requests and "first: the same for 0 s" in str(first.skip_reason)
    time.sleep(0.3)
    second = tick(project, instance, first.cursor)
    assert [request.partition_key for request in second.run_requests] == ["first"]


def test_a_broken_batch_is_quarantined_and_holds_up_nobody(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance
) -> None:
    """A broken folder must neither be retried for ever, nor be forgotten, nor stop the batch beside it."""
    write_beir(inbox / "second", topics=("graph", "window"))
    broken = inbox / "second" / "corpus.jsonl"
    whole = broken.read_text(encoding="utf-8")
    broken.write_text(whole[:-30], encoding="utf-8")
    (inbox / "bad name").mkdir()
    (inbox / "bad name" / "corpus.jsonl").write_text(whole, encoding="utf-8")

    first = tick(inbox_project, instance, None)
    assert {request.partition_key for request in first.run_requests} == {"first", "second"}
    for batch in ("first", "second"):
        materialise(inbox_project, instance, INGESTED, batch)
    second = tick(inbox_project, instance, first.cursor)
    assert not second.run_requests
    assert instance.get_dynamic_partitions("batches") == ["first"]
    [evaluation] = second.asset_events
    assert not evaluation.passed and set(evaluation.metadata) == {"num_quarantined", "second", "bad name"}
    assert "corpus.jsonl" in evaluation.metadata["second"].value
    assert not tick(inbox_project, instance, second.cursor).asset_events, "told once"
    materialise(inbox_project, instance, ("hard_negatives",), "first")
    assert inbox_project.places.warehouse.slice_info("hard_negatives", "first").num_rows > 0

    broken.write_text(whole, encoding="utf-8")
    third = tick(inbox_project, instance, second.cursor)
    assert [request.partition_key for request in third.run_requests] == ["second"]
    materialise(inbox_project, instance, INGESTED, "second")
    assert inbox_project.collection.quarantined() == {}


@pytest.mark.parametrize("odd", ["folder", "dangling link", "pipe"])
def test_an_entry_that_cannot_be_opened_stops_its_own_batch_alone(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance, odd: str
) -> None:
    """The tick failed for all batches, every ten seconds, and `run` with it; nothing named the folder to blame."""
    bad = write_beir(inbox / "bad", topics=("graph",)) / "qrels" / "old.tsv"
    make = {"folder": bad.mkdir, "dangling link": lambda: bad.symlink_to("gone"), "pipe": lambda: os.mkfifo(bad)}
    make[odd]()
    first = tick(inbox_project, instance, None)
    assert {request.partition_key for request in first.run_requests} == {"bad", "first"}
    steps = list(run_line(build_definitions(inbox_project), inbox_project, instance, until="qrels"))
    assert {step.partition for step in steps if step.was_materialised} == {"first"}
    second = tick(inbox_project, instance, first.cursor)
    assert not second.run_requests, "asked for once"
    [evaluation] = second.asset_events
    assert "old.tsv" in evaluation.metadata["bad"].value and "remove the entry" in evaluation.metadata["bad"].value
    assert instance.get_dynamic_partitions("batches") == ["first"]
    bad.rmdir() if odd == "folder" else bad.unlink()
    third = tick(inbox_project, instance, second.cursor)
    assert [request.partition_key for request in third.run_requests] == ["bad"]


@pytest.mark.parametrize("question", ["look", "fingerprint"])
def test_a_batch_that_the_source_cannot_even_look_at_is_quarantined(
    inbox: Path, inbox_project: Any, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """A package that is uninstalled, or a folder that is moved away during the tick, must not fail it for all others."""
    write_beir(inbox / "bad", topics=("graph",))
    ask = getattr(BeirSource, question)

    def refuse(source: BeirSource, batch: str) -> Any:
        if batch == "bad":
            raise SourceError("the disk is gone")
        return ask(source, batch)

    monkeypatch.setattr(BeirSource, question, refuse)
    plan = plan_ingestion(inbox_project, ["bad", "first", "moved-away"], {}, now=1000)
    assert list(plan.requests) == ["first"] and plan.current == []
    assert plan.quarantined == {
        "bad": "the disk is gone",
        "moved-away": "no batch 'moved-away': the source has bad, first",
    }


def test_the_failed_check_stays_in_sight_when_another_batch_is_read(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance
) -> None:
    """The UI calls a check "not evaluated" when the asset moved after it: the broken batch would be out of sight."""
    (inbox / "bad name").mkdir()
    (inbox / "bad name" / "corpus.jsonl").write_text('{"_id": "1", "text": "a"}\n', encoding="utf-8")
    first = tick(inbox_project, instance, None)
    [told] = first.asset_events
    assert not told.passed and told.target_materialization_data is None, "nothing has been read yet"
    materialise(inbox_project, instance, INGESTED, "first")
    second = tick(inbox_project, instance, first.cursor)
    [told] = second.asset_events
    newest = instance.fetch_materializations(dg.AssetKey("corpus"), limit=1).records[0]
    assert not told.passed and told.target_materialization_data.storage_id == newest.storage_id
    assert not tick(inbox_project, instance, second.cursor).asset_events


def test_an_inbox_that_was_emptied_alarms_nobody(inbox: Path, inbox_project: Any, instance: dg.DagsterInstance) -> None:
    """A reason kept of a folder that is gone fails the check for ever; a schedule that fails weekly hides the real failure."""
    corpus = inbox / "first" / "corpus.jsonl"
    corpus.write_text(corpus.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    instance.add_dynamic_partitions("batches", ["first"])
    materialise(inbox_project, instance, INGESTED, "first")
    assert set(inbox_project.collection.unreadable()) == {"first"}
    shutil.move(inbox / "first", inbox.parent / "elsewhere")
    assert inbox_project.collection.unreadable() == {}
    definitions = build_definitions(inbox_project)
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime(2026, 11, 24, tzinfo=UTC))
    found = definitions.get_schedule_def("retraining").evaluate_tick(context)
    assert not found.run_requests and "nothing to read" in str(found.skip_message)
    shutil.move(inbox.parent / "elsewhere", inbox / "first")
    assert set(inbox_project.collection.unreadable()) == {"first"}, "the same folder came back"


def test_a_file_that_was_put_back_is_no_longer_refused(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance
) -> None:
    """A batch that is up to date again named a broken line that no longer exists, for ever."""
    instance.add_dynamic_partitions("batches", ["first"])
    materialise(inbox_project, instance, INGESTED, "first")
    corpus = inbox / "first" / "corpus.jsonl"
    sound = corpus.read_bytes()
    corpus.write_bytes(sound[:-30])
    materialise(inbox_project, instance, INGESTED, "first")
    assert set(inbox_project.collection.unreadable()) == {"first"}
    corpus.write_bytes(sound)
    assert inbox_project.collection.unreadable() == {} == inbox_project.collection.quarantined()


def test_a_batch_that_was_read_before_the_automation_looked_is_mined(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance
) -> None:
    """`run --until qrels`, then the UI for the first time: the batch was never asked for."""
    instance.add_dynamic_partitions("batches", ["first"])
    materialise(inbox_project, instance, INGESTED, "first")
    daemon = Daemon(inbox_project, instance)
    assert daemon.first["hard_negatives"] == {"first"}
    assert "hard_negatives" not in daemon.tick() and "hard_negatives" not in daemon.tick()


class Daemon:
    """The automation sensor, tick by tick, with what it asks for carried out as runs."""

    def __init__(self, project: Any, instance: dg.DagsterInstance) -> None:
        self.project, self.instance, self._cursor = project, instance, None
        self._definitions = build_definitions(project)
        self.first = self.tick()

    def tick(self) -> dict[str, set[str]]:
        """Asset -> partitions that one tick asks for; one empty key where it has none."""
        found = dg.evaluate_automation_conditions(self._definitions, self.instance, cursor=self._cursor)
        self._cursor = found.cursor
        asked: dict[str, set[str]] = {}
        for name, asset in ASSETS.items():
            key = dg.AssetKey(name)
            if found.get_num_requested(key):
                asked[name] = found.get_requested_partitions(key) if asset.by != "none" else {""}
        return asked

    def follow(self) -> list[tuple[str, str]]:
        """Carry out what is asked for until nothing is; (asset, partition) in order, without what is empty where people judged."""
        done: list[tuple[str, str]] = []
        for _ in range(10):
            asked = self.tick()
            if not asked:
                return done
            for partition in sorted({key for keys in asked.values() for key in keys}):  # one run per partition
                assets = tuple(name for name, keys in asked.items() if partition in keys)
                materialise(self.project, self.instance, assets, partition or None)
                done += [(name, partition) for name in assets if name not in EMPTY]
        raise AssertionError(f"asks without end: {done}")


def ingest(project: Any, instance: dg.DagsterInstance, batch: str) -> None:
    """The batch sensor's run."""
    instance.add_dynamic_partitions("batches", [batch])
    materialise(project, instance, INGESTED, batch)


def test_a_new_batch_is_mined_and_scored_and_older_ones_are_left_alone(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance
) -> None:
    """Plain `eager()` mines every older batch again whenever the corpus grows: the bill of the whole collection each time."""
    daemon = Daemon(inbox_project, instance)
    assert daemon.tick() == {}, "no batch has been read"
    ingest(inbox_project, instance, "first")
    mined = ("generated_queries", "hard_negatives", "teacher_judgements")
    assert daemon.tick() == {name: {"first"} for name in mined}, "one run; two of them are empty where people judged"
    materialise(inbox_project, instance, mined, "first")
    assert daemon.tick() == {"teacher_checkpoint": {""}}, "without a teacher nothing is scored"
    materialise(inbox_project, instance, ("teacher_checkpoint",), None)
    assert daemon.follow() == [("teacher_scores", "first")]

    write_beir(inbox / "second", topics=("graph", "window"))
    ingest(inbox_project, instance, "second")
    assert status_of(inbox_project, "hard_negatives", "first").condition == "aged"
    assert daemon.follow() == [("hard_negatives", "second"), ("teacher_scores", "second")]
    assert inbox_project.places.warehouse.slice_info("teacher_scores", "second").num_rows > 0
    assert daemon.tick() == {}, "training never starts by itself"


def judge(folder: Path, rows: list[tuple[str, str, int]], split: str = "train") -> None:
    """A batch of judgements alone."""
    (folder / "qrels").mkdir(parents=True)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_judgements_of_an_older_batch_are_followed_by_that_batch_alone(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance
) -> None:
    """The partition that moved is not the one that has to be made: an automation by partitions would train on the old labels."""
    write_beir(inbox / "second", topics=("graph", "window"))
    daemon = Daemon(inbox_project, instance)
    for batch in ("first", "second"):
        ingest(inbox_project, instance, batch)
    daemon.follow()
    judge(inbox / "third", [("q-array-sum", "matrix-sum", 1)])
    ingest(inbox_project, instance, "third")
    assert status_of(inbox_project, "hard_negatives", "first").reasons == ("own_judgements changed",)
    assert status_of(inbox_project, "hard_negatives", "second").condition == "up to date", "it brings no document"
    done = daemon.follow()
    assert {pair for pair in done if pair[1] == "second"} == set()
    assert {pair for pair in done if pair[1] == "first"} == {("hard_negatives", "first"), ("teacher_scores", "first")}
    assert len(done) == len(set(done))
    rows = inbox_project.places.warehouse.read("teacher_scores", slice_keys=["first"]).to_pylist()
    assert {row["doc_id"] for row in rows if row["query_id"] == "q-array-sum" and row["label"] > 0} == {
        "array-sum",
        "matrix-sum",
    }
    assert daemon.tick() == {}


def test_a_failed_run_is_asked_for_again_only_when_something_moves(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A condition of what is stale alone asks every five seconds for a run that fails, until somebody looks."""
    from distill_assets.handles.retrieval import Retrieval

    daemon = Daemon(inbox_project, instance)
    ingest(inbox_project, instance, "first")
    with monkeypatch.context() as broken:
        broken.setattr(Retrieval, "bm25", lambda *_: (_ for _ in ()).throw(SourceError("the disk is gone")))
        assert set(daemon.follow()) == {("hard_negatives", "first")}
        assert inbox_project.places.warehouse.slice_info("hard_negatives", "first") is None
        for _ in range(3):
            assert daemon.tick() == {}
    corpus = inbox / "first" / "corpus.jsonl"
    corpus.write_text(corpus.read_text(encoding="utf-8").replace("sum every", "sum up every"), encoding="utf-8")
    materialise(inbox_project, instance, INGESTED, "first")
    assert daemon.follow() == [("hard_negatives", "first"), ("teacher_checkpoint", ""), ("teacher_scores", "first")]


def test_a_teacher_that_has_to_be_trained_is_not_made_unasked(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance
) -> None:
    """Fine-tuning takes hours of a machine: a folder that lands must not start it.

    What waits for it is asked for once it is there.
    """
    student, _ = _models(inbox_project)
    project = make_project(inbox, student, student, inbox_project.settings.data_folder, inbox_settle_s=0)
    daemon = Daemon(project, instance)
    ingest(project, instance, "first")
    assert daemon.follow() == [("hard_negatives", "first")]
    assert status_of(project, "teacher_scores", "first").condition == "missing"
    materialise(project, instance, ("teacher_checkpoint",), None)
    assert daemon.follow() == [("teacher_scores", "first")]


def test_a_retraining_goes_stage_by_stage_and_then_has_nothing_to_do(
    inbox_project: Any, instance: dg.DagsterInstance
) -> None:
    """A retraining that trains before the scores are there trains on part of the data; one without an end trains weekly."""
    assert reason_not_to_retrain(inbox_project) == "no batch has been read yet"
    list(run_line(build_definitions(inbox_project), inbox_project, instance, until="qrels"))
    assert reason_not_to_retrain(inbox_project) is None
    stages = []
    for _ in range(10):
        result = advance_retraining(inbox_project, instance, "request", None)
        if not result.run_requests:
            break
        stages.append(result.run_requests[0].job_name)
        for request in result.run_requests:
            stage = {
                "generate": ("generated_queries",),
                "mine": ("hard_negatives",),
                "teacher": ("teacher_checkpoint",),
                "score": ("teacher_scores",),
                "label": ("teacher_judgements",),
                "train": ("student_checkpoint", "eval_metrics"),
                "release": ("leaderboard", "champion"),
            }[request.job_name]
            assert materialise(inbox_project, instance, stage, request.partition_key), stage
    assert (inbox_project.places.report / "index.html").is_file()
    assert stages == ["generate", "mine", "teacher", "score", "label", "train", "release"]
    assert result.cursor == "request"
    assert "since the last training" in str(reason_not_to_retrain(inbox_project))


def test_a_retraining_stops_where_a_stage_fails(inbox_project: Any, instance: dg.DagsterInstance) -> None:
    """Asking again and again for a stage that cannot succeed fills the queue every 15 seconds."""
    list(run_line(build_definitions(inbox_project), inbox_project, instance, until="generated_queries"))
    tags = {"distill/retraining": "request"}
    run = instance.create_run_for_job(_job_named(inbox_project, "mine"), tags=tags)
    waiting = advance_retraining(inbox_project, instance, "request", None)
    assert "waiting for 1 runs of mine" in str(waiting.skip_reason) and waiting.cursor is None
    instance.report_run_failed(run)
    stopped = advance_retraining(inbox_project, instance, "request", None)
    assert not stopped.run_requests and stopped.cursor == "request"
    assert "stops at mine" in str(stopped.skip_reason)


def test_a_document_that_is_replaced_or_removed(inbox: Path, inbox_project: Any, instance: dg.DagsterInstance) -> None:
    """Negatives of an older batch may name a document that is gone: training would die on it, or read the old text."""
    write_beir(inbox / "second", topics=("graph", "window"))
    definitions = build_definitions(inbox_project)
    list(run_line(definitions, inbox_project, instance, until="teacher_scores"))
    victim = inbox_project.places.warehouse.read("hard_negatives", slice_keys=["first"]).column("doc_id")[0].as_py()
    owner = "second" if victim.split("-")[0] in ("graph", "window") else "first"
    other = inbox / "zz-later"
    other.mkdir()
    (other / "corpus.jsonl").write_text(json.dumps({"_id": victim, "text": "another text"}) + "\n", encoding="utf-8")
    ingest(inbox_project, instance, "zz-later")
    with inbox_project.collection.snapshot() as collection:
        assert collection.contents([victim]) == {victim: "another text"}
    assert "own_texts changed" in status_of(inbox_project, "teacher_scores", "first").reasons
    shutil.rmtree(other)

    corpus = inbox / owner / "corpus.jsonl"
    kept = [line for line in corpus.read_text(encoding="utf-8").splitlines() if json.loads(line)["_id"] != victim]
    corpus.write_text("\n".join(kept) + "\n", encoding="utf-8")
    qrels = inbox / owner / "qrels"
    for path in qrels.glob("*.tsv"):
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if victim not in line.split("\t")]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    materialise(inbox_project, instance, INGESTED, owner)
    with inbox_project.collection.snapshot() as collection:
        assert collection.contents([victim]) == {}
        assert all(victim not in ids for ids in collection.candidates().values())


def _models(project: Any) -> tuple[Path, Path]:
    return Path(project.settings.student), Path(project.settings.teacher)


def _job_named(project: Any, name: str) -> Any:
    return build_definitions(project).resolve_job_def(name)


def test_one_by_one_gives_the_same_tables_as_all_in_one(
    inbox: Path, inbox_project: Any, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A slice that depends on when it was made makes two deployments of the same data disagree, and nobody can say why."""
    write_beir(inbox / "second", topics=("graph", "window"))
    write_beir(inbox / "third", topics=("signal",))
    list(run_line(build_definitions(inbox_project), inbox_project, instance, until="teacher_scores"))
    other = make_project(inbox, *_models(inbox_project), tmp_path / "other", inbox_settle_s=0)
    clicks = dg.DagsterInstance.ephemeral()
    clicks.add_dynamic_partitions("batches", ["first", "second", "third"])
    for assets, order in (
        (("qrels",), ("third", "first", "second")),
        (("queries", "corpus"), ("second", "third", "first")),
        (("hard_negatives",), ("third", "second", "first")),
        (("teacher_checkpoint",), (None,)),
        (("teacher_scores",), ("second", "first", "third")),
    ):
        for partition in order:
            materialise(other, clicks, assets, partition)
    for table in ("corpus", "queries", "qrels", "hard_negatives", "teacher_scores"):
        assert other.places.warehouse.read(table).equals(inbox_project.places.warehouse.read(table)), table
        versions = [
            {k: v.data_version for k, v in p.places.warehouse.slices(table).items()} for p in (inbox_project, other)
        ]
        assert versions[0] == versions[1] and len(versions[0]) == 3


def test_more_than_a_hundred_batches_are_still_told_apart(
    inbox_project: Any, inbox: Path, instance: dg.DagsterInstance
) -> None:
    """From 100 upstream partitions on Dagster calls everything fresh: a project that asked it would never retrain again."""
    for i in range(101):
        (inbox / f"day-{i:03}").mkdir()
        text = json.dumps({"_id": f"d{i}", "text": f"clip the window number {i}"})
        (inbox / f"day-{i:03}" / "corpus.jsonl").write_text(text + "\n", encoding="utf-8")
    first = tick(inbox_project, instance, None)
    assert len(first.run_requests) == 102
    materialise(inbox_project, instance, INGESTED, "first")
    _record_as_read(inbox_project, [f"day-{i:03}" for i in range(101)])
    assert not tick(inbox_project, instance, first.cursor).run_requests
    materialise(inbox_project, instance, ("hard_negatives",), "first")
    assert status_of(inbox_project, "hard_negatives", "first").condition == "up to date"

    changed = inbox / "day-077" / "corpus.jsonl"
    changed.write_text(json.dumps({"_id": "d77", "text": "another text"}) + "\n", encoding="utf-8")
    assert [r.partition_key for r in tick(inbox_project, instance, first.cursor).run_requests] == ["day-077"]
    materialise(inbox_project, instance, INGESTED, "day-077")
    found = status_of(inbox_project, "hard_negatives", "first")
    assert (found.condition, found.reasons) == ("aged", ("documents changed",)), "one of 102 corpora moved"


def _record_as_read(project: Any, batches: list[str]) -> None:
    """What reading them leaves in the warehouse, in one transaction instead of a run for each."""
    state = project.collection.state()
    rows = []
    for table in INGESTED:
        for batch in batches:
            inputs = ASSETS[table].versions(ASSETS[table].reads.versions(Moment(project, state, batch)))
            told = json.dumps(inputs)
            rows.append((table, batch, 1, "read", f"v-{batch}", datetime(2026, 11, 24), told))
    with project.places.warehouse.transaction() as connection:
        connection.executemany("INSERT INTO slices VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        texts = [(batch, f"d{int(batch[4:])}", "", f"text {batch}", batch) for batch in batches]
        connection.executemany("INSERT INTO corpus VALUES (?, ?, ?, ?, ?)", texts)
