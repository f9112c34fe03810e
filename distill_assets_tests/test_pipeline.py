"""The whole line on a tiny collection with tiny local models, through Dagster."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.assets import CHECKS
from distill_assets.assets.manifests import chosen_sizes
from distill_assets.definitions import build_definitions
from distill_assets.errors import MissingPartitionError
from distill_assets.handles.logits import FOLDS_FILE
from distill_assets.handles.project import Project
from distill_assets.models.folders import read_json
from distill_assets.orchestration.running import Step, run_line
from distill_assets_tests.conftest import make_project


def _run(project: Any, instance: dg.DagsterInstance, until: str = "champion") -> list[Step]:
    return list(run_line(build_definitions(project), project, instance, until=until))


def count_pairs(project: Any) -> int:
    """Stored logits."""
    return int(project.places.warehouse.query("SELECT count(*) AS n FROM pair_scores")["n"][0].as_py())


@pytest.fixture
def instance() -> dg.DagsterInstance:
    """An instance in memory."""
    return dg.DagsterInstance.ephemeral()


def test_corpus_to_champion_and_a_second_run_that_does_nothing(
    beir_folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """A line that ends without a champion, or that pays twice for the same inputs, would look like success.

    The gate asks for p at most 0.9: twenty dev queries show nothing at 0.05.
    """
    from sentence_transformers import SentenceTransformer

    from distill_assets.report.publishing import current_champion, read_history

    project = make_project(beir_folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", promotion_alpha=0.9)
    first = _run(project, instance)
    assert not any(step.was_up_to_date for step in first)
    rows = {row["system"]: row for row in project.places.warehouse.read("leaderboard").to_pylist()}
    fused = {"hybrid", "hybrid:hard_labels", "hybrid:margin_mse"}
    assert set(rows) == {"bm25", "untouched_student", "teacher", "hard_labels", "margin_mse"} | fused
    assert {row["num_queries"] for row in rows.values()} == {12}
    champion = current_champion(project)
    assert (
        champion is not None
        and champion["verdict"] == "promoted"
        and champion["recipe"] in project.settings.all_recipes
    )
    assert [row["recipe"] for row in read_history(project)] == ["untouched_student", champion["recipe"]]
    assert SentenceTransformer(champion["checkpoint_path"], device="cpu").encode("sum a matrix").shape == (32,)
    assert (project.places.folder / "report" / "index.html").stat().st_size > 10_000
    _assert_events_are_whole(project, instance)
    num_pairs = count_pairs(project)

    costs = project.places.warehouse.read("scoring_costs").to_pylist()
    assert sum(row["num_pairs"] for row in costs) == num_pairs
    paid = {(row["asset"], row["partition_key"]) for row in costs}
    assert paid == {("teacher_checkpoint", ""), ("teacher_scores", "tiny"), ("leaderboard", "")}

    second = _run(project, instance)
    assert all(step.was_up_to_date for step in second)
    assert count_pairs(project) == num_pairs
    assert project.places.warehouse.read("scoring_costs").num_rows == len(costs)


@pytest.mark.whole
def test_query_results_are_what_the_leaderboard_averages(
    beir_folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """Wins and losses from another ranking than the means would explain numbers that nobody measured.

    Agreement is there for the students alone, within its bounds; the stored rankings give the same nDCG@10.
    """
    project = make_project(beir_folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", test_queries=20)
    _run(project, instance, until="leaderboard")
    board = {row["system"]: row for row in project.places.warehouse.read("leaderboard").to_pylist()}
    results: dict[str, list[dict[str, Any]]] = {}
    for row in project.places.warehouse.read("query_results").to_pylist():
        if row["split"] == "test":
            results.setdefault(row["system"], []).append(row)
    assert results.keys() == board.keys()
    for system, rows in results.items():
        assert sum(row["ndcg_at_10"] for row in rows) / len(rows) == pytest.approx(board[system]["ndcg_at_10"])
        is_student = system in ("untouched_student", "hard_labels", "margin_mse")
        assert all((row["overlap_at_10"] is not None) is is_student for row in rows)
        assert all(-1 <= row["kendall_tau"] <= 1 and 0 <= row["overlap_at_10"] <= 1 for row in rows if is_student)
        ranked = [
            r
            for r in project.places.warehouse.read("rankings", slice_keys=[system]).to_pylist()
            if r["split"] == "test"
        ]
        rank_of = {r["query_id"]: r["rank"] for r in ranked if f"q-{r['doc_id']}" == r["query_id"]}
        for row in rows:  # one judged document each: its rank gives nDCG@10 = 1 / log2(1 + rank)
            rank = rank_of.get(row["query_id"])
            expected = 0.0 if rank is None or rank > 10 else 1 / math.log2(1 + rank)
            assert row["ndcg_at_10"] == pytest.approx(expected)
    dev = {row["system"] for row in project.places.warehouse.read("teacher_fitness").to_pylist()}
    assert dev == {"teacher", "untouched_student", "hard_labels", "margin_mse"}
    assert board["margin_mse"]["p_vs_hard_labels"] is not None and board["hard_labels"]["p_vs_hard_labels"] is None


def _assert_events_are_whole(project: Any, instance: dg.DagsterInstance) -> None:
    """Every check has a result, metadata is JSON, and the way back from the champion is there."""
    metadata = {}
    for asset in ("hard_negatives", "teacher_scores", "student_checkpoint", "eval_metrics", "leaderboard", "champion"):
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        metadata[asset] = event.asset_materialization.metadata
        assert {"dagster/row_count", "dagster/column_lineage"} <= set(metadata[asset]), asset
    for (asset, name), check in CHECKS.items():
        key = dg.AssetCheckKey(dg.AssetKey(asset), name)
        [record] = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        found = record.event.dagster_event.asset_check_evaluation_data
        json.dumps({name: value.value for name, value in found.metadata.items()}, allow_nan=False, default=str)
        assert found.description and found.blocking == check.is_blocking, check.name
    told = metadata["champion"]
    assert told["recipe"].value == asdict(project.settings.recipe(told["champion"].value))
    assert told["seed"].value == 13 and told["previous_champion"].value.startswith("untouched_student ")
    for table in ("queries", "qrels", "hard_negatives"):
        version = project.places.warehouse.slice_info(table, "tiny").data_version
        assert told["data_versions"].value[table] == {"tiny": version}
    teacher = project.places.warehouse.slice_info("checkpoints", "teacher").data_version
    assert told["teacher_fingerprint"].value in (teacher, "(this recipe reads no teacher)")
    assert "torch" in told["packages"].value
    picture = metadata["student_checkpoint"]["student_against_teacher"].value
    assert "data:image/png" in picture and len(picture) < 60_000


def test_changed_document_rescores_only_its_pairs(
    project: Any, instance: dg.DagsterInstance, beir_folder: Path
) -> None:
    """Re-scoring everything for one changed document is what every peer does and nobody notices but the bill."""
    _run(project, instance, until="teacher_scores")
    before = count_pairs(project)
    corpus = beir_folder / "corpus.jsonl"
    text = corpus.read_text(encoding="utf-8")
    corpus.write_text(
        text.replace("sum every value of the array along", "sum up every value of the array along"), encoding="utf-8"
    )
    steps = _run(project, instance, until="teacher_scores")
    assert not steps[0].was_up_to_date
    added = count_pairs(project) - before
    new_hash = {
        row["content_hash"]
        for row in project.places.warehouse.read("corpus").to_pylist()
        if row["doc_id"] == "array-sum"
    }
    rescored = project.places.warehouse.query(
        "SELECT doc_hash, count(*) AS n FROM pair_scores GROUP BY ALL"
    ).to_pylist()
    assert 0 < added < before / 4
    assert any(row["doc_hash"] in new_hash for row in rescored)


def test_killed_scoring_keeps_what_was_paid_for(
    project: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that dies in its third chunk must not take the first two with it."""
    from distill_assets.models.fast.scorer import FastScorer

    _run(project, instance, until="teacher_checkpoint")
    measured = count_pairs(project)  # on dev, for the teacher's check
    original, calls = FastScorer.__call__, []

    def dying(self: Any, pairs: Any) -> Any:
        calls.append(len(pairs))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, pairs)

    monkeypatch.setattr(FastScorer, "__call__", dying)
    with pytest.raises(BaseException):  # noqa: B017 - Dagster wraps an interrupt in its own type
        _run(project, instance, until="teacher_scores")
    assert count_pairs(project) == measured + 128
    costs = project.places.warehouse.read("scoring_costs").column("num_pairs").to_pylist()
    assert costs == [measured, 128], "paid for, so counted"
    monkeypatch.undo()
    monkeypatch.setattr(
        FastScorer, "__call__", lambda self, pairs: (calls.append(len(pairs)), original(self, pairs))[1]
    )
    del calls[:]
    _run(project, instance, until="teacher_scores")
    assert sum(calls) == count_pairs(project) - measured - 128


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


def test_sizes_say_what_was_chosen_and_what_was_asked_for(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 tokens that were set for another collection read like 64 that the model cannot exceed."""
    monkeypatch.chdir(tmp_path)  # no distill.toml
    given = {"collection": f"beir:{tmp_path}", "student": str(tiny_encoder)}
    assert chosen_sizes(Project(overrides=given)) == {
        "student_tokens": "64 (all that the model can)",
        "student_prompts": "none",
        "teacher_tokens": "512",
        "train_queries": "all",
        "dev_queries": "all",
        "test_queries": "all",
        "passes": "as each recipe says",
    }
    asked = {"student_max_length": 16, "teacher_max_length": 64, "train_queries": 1200, "student_epochs": 1}
    found = chosen_sizes(Project(overrides=given | asked))
    assert (found["student_tokens"], found["teacher_tokens"]) == ("16 (as set)", "64 (as set)")
    assert (found["train_queries"], found["passes"]) == ("at most 1,200 (as set)", "1 (as set)")


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
    manifest = grown.places.checkpoints.read_manifest(grown.places.checkpoint_path("teacher"))
    assert manifest["training"]["num_groups"] > 20
    assert manifest["training"]["losses"]
    assert manifest["sizes"] == chosen_sizes(grown)
    logits = grown.places.warehouse.read("teacher_scores").column("teacher_logit").to_pylist()
    assert len(set(logits)) > 10


def test_cross_fitted_teacher_scores_a_query_by_the_fold_that_never_saw_its_label(
    project: Any, instance: dg.DagsterInstance, tiny_encoder: Path
) -> None:
    """Scored by the fold that learned its label, a query's soft labels repeat the hard one and nothing shows it."""
    from distill_assets.models.catalog import fold_folders, read_trained_on
    from distill_assets.models.cross_fitting import fold_of, query_key
    from distill_assets.records import SPLITS
    from distill_assets_tests.conftest import make_project

    grown = make_project(
        Path(project.settings.collection.removeprefix("beir:")),
        tiny_encoder,
        tiny_encoder,
        project.settings.data_folder,
        teacher_folds=2,
        precision="fp32",
    )
    _run(grown, instance, until="teacher_scores")
    path = grown.places.checkpoint_path("teacher")
    folders = fold_folders(path)
    assert [folder.name for folder in folders] == ["fold-0", "fold-1"]
    seen = [read_trained_on(folder) for folder in folders]
    with grown.collection.snapshot() as collection:
        queries = {q.query_id: q.text for q in collection.queries(SPLITS)}
        train = {q.text for q in collection.queries(("train",))}
        content_of = dict(zip(*collection.documents(), strict=True))
    others = set(queries.values()) - train
    assert not {query_key(text) for text in others} & (seen[0] | seen[1]), "a dev or test query was trained on"
    assert {query_key(text) for text in train} == seen[0] | seen[1]
    members = [grown.logits().open(folder) for folder in folders]
    scale = read_json(path / FOLDS_FILE)["scales"]
    assert scale[0] == 1.0
    rows = grown.places.warehouse.read("teacher_scores").to_pylist()
    assert {fold_of(queries[row["query_id"]], 2) for row in rows} == {0, 1}
    for row in rows:
        text = queries[row["query_id"]]
        fold = fold_of(text, 2)
        assert query_key(text) not in seen[fold]
        own = scale[fold] * members[fold]([(text, content_of[row["doc_id"]])])[0]
        assert row["teacher_logit"] == pytest.approx(own, abs=2e-4)
    text, document = sorted(others)[0], next(iter(content_of.values()))
    both = [factor * member([(text, document)])[0] for factor, member in zip(scale, members, strict=True)]
    assert grown.logits().open(path)([(text, document)])[0] == pytest.approx(sum(both) / 2, abs=2e-4)


def test_deleted_checkpoint_is_made_again(project: Any, instance: dg.DagsterInstance) -> None:
    """A row without its folder would count as up to date and fail at the first search."""
    import shutil

    _run(project, instance, until="teacher_checkpoint")
    path = project.places.checkpoint_path("teacher")
    shutil.rmtree(path)
    steps = _run(project, instance, until="teacher_checkpoint")
    assert [step.assets for step in steps if not step.was_up_to_date] == [("teacher_checkpoint",)]
    assert (path / "manifest.json").is_file()
