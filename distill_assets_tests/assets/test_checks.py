"""Asset checks through Dagster: what a failed one stops, what it leaves alone, and how it is told."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.assets import CHECKS
from distill_assets.assets.checks import check_results
from distill_assets.definitions import build_definitions
from distill_assets.errors import CheckFailedError, MissingPartitionError
from distill_assets.orchestration.running import Step, run_line
from distill_assets.orchestration.stages import Status, status_of
from distill_assets.quality.verdicts import Verdict
from distill_assets_tests.conftest import make_project, write_beir

DOCS = Path(__file__).parents[2] / "docs" / "checks.md"


@pytest.fixture
def instance() -> dg.DagsterInstance:
    """An instance in memory."""
    return dg.DagsterInstance.ephemeral()


def run(project: Any, instance: dg.DagsterInstance, until: str) -> list[Step]:
    """The line up to an asset."""
    return list(run_line(build_definitions(project), project, instance, until=until))


def latest_results(instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckEvaluation]:
    """The newest evaluation of every check, by name."""
    wanted = dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found: dict[str, dg.AssetCheckEvaluation] = {}
    for record in instance.event_log_storage.get_event_records(wanted, ascending=True):
        evaluation = record.event_log_entry.get_dagster_event().asset_check_evaluation_data
        found[evaluation.check_name] = evaluation
    return found


def append_lines(path: Path, *lines: str) -> None:
    """Add lines at the end of a file."""
    path.write_text(path.read_text(encoding="utf-8") + "".join(f"{line}\n" for line in lines), encoding="utf-8")


def add_document(folder: Path, doc_id: str, text: str) -> None:
    """Add one document without a title."""
    append_lines(folder / "corpus.jsonl", json.dumps({"_id": doc_id, "text": text}))


def add_query(folder: Path, query_id: str, text: str, split: str, doc_id: str) -> None:
    """Add one query with its judgement."""
    append_lines(folder / "queries.jsonl", json.dumps({"_id": query_id, "text": text}))
    append_lines(folder / "qrels" / f"{split}.tsv", f"{query_id}\t{doc_id}\t1")


def leak(folder: Path, count: int) -> None:
    """Put `count` test queries into train."""
    tests = [line.split("\t") for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    texts = {}
    for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        texts[json.loads(line)["_id"]] = json.loads(line)["text"]
    for query_id, doc_id, _ in tests[:count]:
        add_query(folder, f"leaked-{query_id}", texts[query_id].upper(), "train", doc_id)


def copy_documents(folder: Path) -> None:
    """Bring three of 120 documents again under other ids."""
    for number, line in enumerate((folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:3]):
        append_lines(folder / "corpus.jsonl", json.dumps(json.loads(line) | {"_id": f"copy-{number}"}))


def leave_unjudged(folder: Path) -> None:
    """Bring 500 queries that nobody judged; their split is hashed."""
    for number in range(500):
        append_lines(folder / "queries.jsonl", json.dumps({"_id": f"unjudged-{number}", "text": f"question {number}"}))


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (copy_documents, {"documents_distinct"}),
        (leave_unjudged, {"queries_judged"}),
    ],
)
def test_a_warning_is_told_and_stops_nothing(
    project: Any,
    instance: dg.DagsterInstance,
    beir_folder: Path,
    change: Callable[[Path], None],
    failing: set[str],
) -> None:
    """A warning that stops the line is switched off; one that is not recorded is no warning."""
    change(beir_folder)
    run(project, instance, "qrels")
    results = latest_results(instance)
    assert {name for name, result in results.items() if not result.passed} == failing
    [failed] = failing
    assert results[failed].severity is dg.AssetCheckSeverity.WARN
    assert results[failed].metadata["what to do"].value and "|" in results[failed].metadata["sample"].value
    assert project.collection.batches() == ["tiny"]


def test_positives_that_no_batch_has_brought_are_warned_of(
    tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path, instance: dg.DagsterInstance
) -> None:
    """A batch of judgements is read before the batch of its documents where its name comes first: no reason to refuse it."""
    inbox = tmp_path / "inbox"
    write_beir(inbox / "a-judgements", topics=("array", "matrix"))
    (inbox / "a-judgements" / "corpus.jsonl").unlink()
    write_beir(inbox / "b-documents", topics=("array",))
    project = make_project(inbox, tiny_encoder, tiny_cross_encoder, tmp_path / "data")
    steps = run(project, instance, "qrels")
    assert [step.refusal for step in steps] == [None, None]
    wanted = dg.AssetCheckKey(dg.AssetKey("qrels"), "positives_in_corpus")
    first = instance.event_log_storage.get_asset_check_execution_history(wanted, limit=5)[-1]
    assert first.event.dagster_event.asset_check_evaluation_data.metadata["num_missing"].value == 24
    assert project.collection.batches() == ["a-judgements", "b-documents"]


def test_leakage_stops_the_line_until_it_is_mended(
    project: Any, instance: dg.DagsterInstance, beir_folder: Path
) -> None:
    """A line that goes past a leak reports numbers that are too good; one that does not try again is stuck for ever."""
    before = (beir_folder / "queries.jsonl").read_text(encoding="utf-8")
    train = (beir_folder / "qrels" / "train.tsv").read_text(encoding="utf-8")
    leak(beir_folder, 2)  # 2 of 20 test queries: 10 %
    for _ in range(2):
        with pytest.raises(CheckFailedError) as caught:
            run(project, instance, "hard_negatives")
        message = str(caught.value)
        assert "check leakage_within_limit of queries[tiny] failed: 2 of 20 test queries" in message
        assert "max_leaked_queries" in message and "nothing is made from it" in message
    assert project.places.warehouse.slice_info("queries", "tiny").num_rows == 122, "kept to look at"
    assert project.places.warehouse.slice_info("hard_negatives", "tiny") is None
    assert project.collection.batches() == [] and project.collection.refused_by_checks() == {"tiny"}

    (beir_folder / "queries.jsonl").write_text(before, encoding="utf-8")
    (beir_folder / "qrels" / "train.tsv").write_text(train, encoding="utf-8")
    assert [step.was_materialised for step in run(project, instance, "hard_negatives")] == [True, True, True]
    assert project.collection.refused_by_checks() == set()


def test_leakage_that_is_meant_can_be_allowed(
    project: Any, instance: dg.DagsterInstance, beir_folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path
) -> None:
    """A user whose log repeats questions must have a way on that is written down."""
    leak(beir_folder, 2)
    allowing = make_project(
        beir_folder, tiny_encoder, tiny_cross_encoder, project.settings.data_folder, max_leaked_queries=0.1
    )
    run(allowing, instance, "qrels")
    found = latest_results(instance)["leakage_within_limit"]
    assert found.passed and "2 of 20 test queries" in found.description
    with allowing.collection.snapshot() as collection:
        train = {query.query_id for query in collection.queries(("train",))}
    assert len(train) == 80 and not any(query_id.startswith("leaked") for query_id in train), "left out all the same"


@pytest.fixture
def inbox_project(tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path) -> Any:
    """Two batches: `first` is sound; `second` has one of its own test queries in train, and a test query of `first`."""
    inbox = tmp_path / "inbox"
    first = write_beir(inbox / "first", topics=("array", "matrix", "frame", "series", "index", "kernel"))
    second = write_beir(inbox / "second", topics=("graph", "window"))
    leak(second, 1)
    test_query = (first / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1].split("\t")[0]
    texts = {}
    for line in (first / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        texts[json.loads(line)["_id"]] = json.loads(line)["text"]
    add_query(second, "of-first", texts[test_query], "train", "graph-sum")
    return make_project(
        inbox, tiny_encoder, tiny_cross_encoder, tmp_path / "data", inbox_settle_s=0, max_leaked_queries=0.0
    )


def test_a_refused_batch_holds_up_no_other(inbox_project: Any, instance: dg.DagsterInstance) -> None:
    """One leaking batch of a hundred must neither stop the rest nor be mined, trained on or searched with them."""
    steps = run(inbox_project, instance, "hard_negatives")
    refusals = {step.partition: step.refusal for step in steps if step.refusal}
    assert set(refusals) == {"second"} and "check leakage_within_limit of queries[second]" in refusals["second"]
    assert [step.partition for step in steps if "hard_negatives" in step.assets] == ["first"]
    with inbox_project.collection.snapshot() as collection:
        assert not any(doc_id.startswith("graph") for doc_id in collection.documents()[0])
    job = build_definitions(inbox_project).resolve_implicit_global_asset_job_def()
    with pytest.raises(dg.Failure, match=r"queries\[second\] did not pass a blocking check") as caught:
        job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("hard_negatives")], partition_key="second"
        )
    assert isinstance(caught.value.__cause__, MissingPartitionError)


def test_the_automation_passes_by_a_refused_batch(inbox_project: Any, instance: dg.DagsterInstance) -> None:
    """`eager()` launches what is downstream of a failed blocking check; the batch beside it must go on."""
    definitions = build_definitions(inbox_project)
    instance.add_dynamic_partitions("batches", ["first", "second"])
    result = dg.evaluate_automation_conditions(definitions, instance)
    job = definitions.resolve_implicit_global_asset_job_def()
    for batch in ("first", "second"):
        job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(name) for name in ("corpus", "queries", "qrels")],
            partition_key=batch,
            raise_on_error=False,
        )
    result = dg.evaluate_automation_conditions(definitions, instance, cursor=result.cursor)
    assert result.get_requested_partitions(dg.AssetKey("hard_negatives")) == {"first"}
    [record] = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("queries"), "leakage_within_limit"), limit=1
    )
    assert record.partition == "second"


def test_documents_of_signs_alone_refuse_their_batch(
    project: Any, instance: dg.DagsterInstance, beir_folder: Path
) -> None:
    """The readers let '---' through, for it is not blank; two of 122 are more than the one in a hundred that is allowed."""
    add_document(beir_folder, "signs", "---")
    add_document(beir_folder, "dots", "...")
    with pytest.raises(CheckFailedError, match=r"documents_not_empty of corpus\[tiny\] failed: 2 of 122 documents"):
        run(project, instance, "hard_negatives")
    assert project.places.warehouse.slice_info("hard_negatives", "tiny") is None


def test_a_teacher_that_gives_one_number_stops_the_training(
    project: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student of a constant teacher trains without an error and its loss falls."""
    import numpy as np

    from distill_assets.models.encoders import CrossEncoderScorer

    monkeypatch.setattr(CrossEncoderScorer, "__call__", lambda self, pairs: np.full(len(pairs), 0.5, np.float32))
    for _ in range(2):
        with pytest.raises(CheckFailedError, match=r"logits_vary of teacher_scores\[tiny\] failed"):
            run(project, instance, "student_checkpoint")
    assert not latest_results(instance)["better_than_baselines"].passed
    assert project.places.warehouse.slices("checkpoints").keys() == {"teacher"}
    assert project.places.warehouse.slice_info("teacher_scores", "tiny").num_rows > 0


def test_a_teacher_that_ranks_backwards_is_warned_of(
    project: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits vary and are finite: nothing else says that a student would learn to avoid answers, which share the query's words."""
    import numpy as np

    from distill_assets.models.encoders import CrossEncoderScorer

    def avoid(self: Any, pairs: Any) -> Any:
        return np.array([-len(set(q.split()) & set(d.split())) - len(d) / 1000 for q, d in pairs], np.float32)

    monkeypatch.setattr(CrossEncoderScorer, "__call__", avoid)
    run(project, instance, "teacher_scores")
    results = latest_results(instance)
    failing = {name for name, result in results.items() if not result.passed}
    assert failing == {"better_than_baselines", "positives_above_negatives"}
    assert "|" in results["positives_above_negatives"].metadata["sample"].value
    assert project.places.warehouse.slice_info("teacher_scores", "tiny").input_fingerprint


def collapse(model: Any) -> None:
    """Let every text have the same embedding."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith("LayerNorm.bias") else 0.0)


@pytest.mark.parametrize(
    ("losses", "is_collapsed", "failing"),
    [
        ([(1, 2.0), (2, 1.0)], True, "embeddings_spread"),
        ([(1, 2.0), (2, math.nan)], False, "loss_finite"),
        ([], False, "loss_finite"),
    ],
)
def test_a_broken_student_is_not_evaluated(
    project: Any,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    losses: list[tuple[int, float]],
    is_collapsed: bool,
    failing: str,
) -> None:
    """A student that answers every query alike still gets a leaderboard row, and its folder loads like any other."""
    import distill_assets.training.trainer as training

    def train(model: Any, groups: Any, dev_lists: Any, recipe: Any, run: Any) -> training.TrainingReport:
        if is_collapsed:
            collapse(model)
        return training.TrainingReport(len(groups), 2, losses, [(2, 0.5)], 2, 0.5, 0)

    monkeypatch.setattr(training, "train_student", train)
    run(project, instance, "teacher_scores")
    for _ in range(2):
        with pytest.raises(CheckFailedError, match=rf"{failing} of student_checkpoint\[hard_labels\] failed"):
            run(project, instance, "eval_metrics")
    assert not latest_results(instance)[failing].passed
    assert project.places.warehouse.slices("eval_metrics") == {}
    event = instance.get_latest_materialization_event(dg.AssetKey("student_checkpoint"))
    assert event is not None and event.asset_materialization is not None
    manifest = event.asset_materialization.metadata["manifest"].value
    json.dumps(manifest, allow_nan=False)


def test_a_failed_warning_leaves_the_slice_accepted(
    project: Any, instance: dg.DagsterInstance, beir_folder: Path
) -> None:
    """A warning that counts as a refusal would have its slice made again by every run, for ever."""
    copy_documents(beir_folder)
    run(project, instance, "hard_negatives")
    assert not latest_results(instance)["documents_distinct"].passed
    assert status_of(project, "corpus", "tiny").condition == "up to date"
    add_document(beir_folder, "signs", "---")
    add_document(beir_folder, "dots", "...")
    with pytest.raises(CheckFailedError):
        run(project, instance, "hard_negatives")
    assert status_of(project, "corpus", "tiny") == Status("rejected", ("a blocking check did not pass",))


def test_figures_of_a_check_can_be_shown() -> None:
    """An infinite difference in a check's metadata is no JSON: the page that should show it stays empty."""
    checks = [CHECKS["student_checkpoint", "loss_finite"]]
    [result] = check_results(checks, {"loss_finite": Verdict(False, "x", {"last_loss": math.inf})})
    assert result.metadata["last_loss"].value == "Infinity"


def test_every_check_is_in_the_table_of_the_docs() -> None:
    """The page is where a person looks when a check has failed: one that is missing there has no next step."""
    rows = [
        [cell.strip() for cell in line.strip("|\n ").split(" | ")]
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    documented = {row[0].strip("`"): (row[1].strip("`"), row[2]) for row in rows}
    expected = {name: (asset, "blocking" if c.is_blocking else "warning") for (asset, name), c in CHECKS.items()}
    assert documented == expected | {"batches_readable": ("corpus", "warning")}
