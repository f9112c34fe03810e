"""The whole line on a tiny collection with tiny local models, through Dagster."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.core.errors import MissingPartitionError
from distill_assets.definitions import build_definitions
from distill_assets.running import Step, run_line


def _run(project: Any, instance: dg.DagsterInstance, until: str = "champion") -> list[Step]:
    return list(run_line(build_definitions(project), project, instance, until=until))


@pytest.fixture
def instance() -> dg.DagsterInstance:
    """An instance in memory."""
    return dg.DagsterInstance.ephemeral()


def test_corpus_to_champion_and_a_second_run_that_does_nothing(project: Any, instance: dg.DagsterInstance) -> None:
    """A line that ends without a champion, or that pays twice for the same inputs, would look like success."""
    from sentence_transformers import SentenceTransformer

    from distill_assets.assets.publishing import current_champion

    first = _run(project, instance)
    assert not any(step.was_fresh for step in first)
    rows = {row["system"]: row for row in project.warehouse.read("leaderboard").to_pylist()}
    assert set(rows) == {"bm25", "untouched_student", "teacher", "hard_labels", "margin_mse"}
    assert {row["num_queries"] for row in rows.values()} == {12}
    champion = current_champion(project)
    assert champion is not None and champion["verdict"] == "promoted"
    assert SentenceTransformer(champion["checkpoint_path"], device="cpu").encode("sum a matrix").shape == (32,)
    assert (project.folder / "report" / "index.html").stat().st_size > 10_000
    num_pairs = project.warehouse.query("SELECT count(*) AS n FROM pair_scores").column("n")[0].as_py()

    second = _run(project, instance)
    assert all(step.was_fresh for step in second)
    assert project.warehouse.query("SELECT count(*) AS n FROM pair_scores").column("n")[0].as_py() == num_pairs


def test_changed_document_rescores_only_its_pairs(
    project: Any, instance: dg.DagsterInstance, beir_folder: Path
) -> None:
    """Re-scoring everything for one changed document is what every peer does and nobody notices but the bill."""
    _run(project, instance, until="teacher_scores")
    before = project.warehouse.query("SELECT count(*) AS n FROM pair_scores").column("n")[0].as_py()
    corpus = beir_folder / "corpus.jsonl"
    text = corpus.read_text(encoding="utf-8")
    corpus.write_text(
        text.replace("sum every value of the array along", "sum up every value of the array along"), encoding="utf-8"
    )
    steps = _run(project, instance, until="teacher_scores")
    assert not steps[0].was_fresh
    added = project.warehouse.query("SELECT count(*) AS n FROM pair_scores").column("n")[0].as_py() - before
    new_hash = {
        row["content_hash"] for row in project.warehouse.read("corpus").to_pylist() if row["doc_id"] == "array-sum"
    }
    rescored = project.warehouse.query("SELECT doc_hash, count(*) AS n FROM pair_scores GROUP BY ALL").to_pylist()
    assert 0 < added < before / 4
    assert any(row["doc_hash"] in new_hash for row in rescored)


def test_killed_scoring_keeps_what_was_paid_for(
    project: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that dies in its third chunk must not take the first two with it."""
    from distill_assets.core.fast_scoring import FastScorer

    _run(project, instance, until="teacher_checkpoint")
    original, calls = FastScorer.__call__, []

    def dying(self: Any, pairs: Any) -> Any:
        calls.append(len(pairs))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, pairs)

    monkeypatch.setattr(FastScorer, "__call__", dying)
    with pytest.raises(BaseException):  # noqa: B017 - Dagster wraps an interrupt in its own type
        _run(project, instance, until="teacher_scores")
    assert project.warehouse.query("SELECT count(*) AS n FROM pair_scores").column("n")[0].as_py() == 128
    monkeypatch.undo()
    monkeypatch.setattr(
        FastScorer, "__call__", lambda self, pairs: (calls.append(len(pairs)), original(self, pairs))[1]
    )
    del calls[:]
    _run(project, instance, until="teacher_scores")
    total = project.warehouse.query("SELECT count(*) AS n FROM pair_scores").column("n")[0].as_py()
    assert sum(calls) == total - 128


def test_missing_upstream_batch_is_named(project: Any, instance: dg.DagsterInstance) -> None:
    """A fan-in over what happens to be there would train on part of the data and succeed."""
    instance.add_dynamic_partitions("batches", ["tiny"])
    job = build_definitions(project).resolve_implicit_global_asset_job_def()
    with pytest.raises(dg.Failure, match=r"corpus.*tiny") as caught:
        job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("hard_negatives")],
            partition_key="tiny",
            raise_on_error=True,
        )
    assert isinstance(caught.value.__cause__, MissingPartitionError)


def test_teacher_is_grown_from_an_encoder(project: Any, instance: dg.DagsterInstance, tiny_encoder: Path) -> None:
    """An encoder given as teacher must be fine-tuned with a scoring head, not scored with random weights."""
    from distill_assets_tests.conftest import make_project

    grown = make_project(
        Path(project.settings.collection.removeprefix("beir:")),
        tiny_encoder,
        tiny_encoder,
        project.settings.data_folder,
    )
    _run(grown, instance, until="teacher_scores")
    row = grown.warehouse.read("checkpoints", slice_keys=["teacher"]).to_pylist()[0]
    manifest = grown.checkpoints.read_manifest(Path(row["path"]))
    assert manifest["training"]["num_groups"] > 20
    assert manifest["training"]["losses"]
    logits = grown.warehouse.read("teacher_scores").column("teacher_logit").to_pylist()
    assert len(set(logits)) > 10


def test_deleted_checkpoint_is_made_again(project: Any, instance: dg.DagsterInstance) -> None:
    """A row without its folder would count as up to date and fail at the first search."""
    import shutil

    _run(project, instance, until="teacher_checkpoint")
    path = project.warehouse.read("checkpoints", slice_keys=["teacher"]).column("path")[0].as_py()
    shutil.rmtree(path)
    steps = _run(project, instance, until="teacher_checkpoint")
    assert [step.assets for step in steps if not step.was_fresh] == [("teacher_checkpoint",)]
    assert (Path(path) / "manifest.json").is_file()
