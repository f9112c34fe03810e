"""Scores out of one line and into another: from start to champion with a teacher that nobody can ask."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_assets.cli import commands
from distill_assets.definitions import build_definitions
from distill_assets.errors import ScoreSetError, SettingsError
from distill_assets.handles.score_sets import export_scores, import_scores
from distill_assets.orchestration.running import run_line
from distill_assets.orchestration.stages import is_stale
from distill_assets.settings.values import load_settings
from distill_assets_tests.conftest import make_project, write_beir

NAME = "elsewhere"


def run(project: Any, until: str) -> list[Any]:
    """Run the line in memory."""
    return list(run_line(build_definitions(project), project, dg.DagsterInstance.ephemeral(), until=until))


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_cross_encoder: Path) -> Any:
    """A line whose own teacher has scored the train queries; no test changes it."""
    folder = tmp_path_factory.mktemp("scored")
    project = make_project(write_beir(folder / "tiny"), tiny_encoder, tiny_cross_encoder, folder / "data")
    run(project, "teacher_scores")
    return project


@pytest.fixture
def exported(scored: Any, tmp_path: Path) -> Path:
    """Its scores in a folder."""
    export_scores(scored, tmp_path / "out")
    return tmp_path / "out"


def second_line(scored: Any, data: Path, **overrides: Any) -> Any:
    """The same collection with a data folder of its own, taught by imported scores."""
    from distill_assets.handles.project import Project

    changed = {"data_folder": str(data), "teacher": f"scores:{NAME}", "promotion_alpha": 0.9}
    return Project(overrides={**scored.overrides, **changed, **overrides})


def logits_of(project: Any) -> dict[tuple[str, str], float]:
    """(query_id, doc_id) -> teacher logit of the table `teacher_scores`."""
    rows = project.places.warehouse.read("teacher_scores").to_pylist()
    return {(row["query_id"], row["doc_id"]): row["teacher_logit"] for row in rows}


def test_scores_that_leave_come_back_as_they_were(scored: Any, exported: Path, tmp_path: Path) -> None:
    """A logit that loses bits, a pair or its query on the way would be another teacher."""
    scores = pq.read_table(exported / "scores.parquet").to_pylist()
    given = logits_of(scored)
    assert {
        (row["query_id"], d): s for row in scores for d, s in zip(row["document_ids"], row["scores"], strict=True)
    } == given
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in scores)
    assert all([f"q-{d}" for d in row["positive_ids"]] == [row["query_id"]] for row in scores)
    documents = pq.read_table(exported / "documents.parquet").to_pylist()
    assert {"document_id": "array-sum", "document": "array sum every value of the array along one axis"} in documents
    told = json.loads((exported / "provenance.json").read_text("utf-8"))
    assert told["teacher"] == scored.settings.teacher and told["value_space"] == "logit"
    assert told["num_pairs"] == len(given) and told["num_queries"] == len(scores)
    assert [member["weight"] for member in told["members"]] == [1.0]

    second = second_line(scored, tmp_path / "data")
    run(second, "qrels")
    assert import_scores(second, exported, NAME)["provenance"]["teacher_fingerprint"] == told["teacher_fingerprint"]
    run(second, "teacher_scores")
    assert logits_of(second) == given
    assert second.places.warehouse.read("scoring_costs").num_rows == 0, "nothing was scored here"

    again = tmp_path / "again"
    export_scores(second, again)
    export_scores(second, again)  # an earlier export is replaced
    for table in ("documents", "queries", "scores"):
        assert pq.read_table(again / f"{table}.parquet").equals(pq.read_table(exported / f"{table}.parquet"))
    assert {path.name for path in again.iterdir()} == {path.name for path in exported.iterdir()}


def test_a_folder_of_something_else_is_left_alone(scored: Any, tmp_path: Path) -> None:
    """An export into a home folder would replace what has the same name there."""
    (tmp_path / "documents.parquet").write_text("somebody's", encoding="utf-8")
    with pytest.raises(ScoreSetError, match="something else than exported scores"):
        export_scores(scored, tmp_path)
    assert (tmp_path / "documents.parquet").read_text("utf-8") == "somebody's"


def test_nothing_scored_or_changed_since_is_no_export(
    scored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty tables look like an export, and today's texts beside scores of yesterday's are wrong labels."""
    empty = second_line(scored, tmp_path / "data", teacher=scored.settings.teacher)
    with pytest.raises(ScoreSetError, match="nothing is scored yet: run distill-assets run --until teacher_scores"):
        export_scores(empty, tmp_path / "out")
    changed = second_line(
        scored, Path(scored.settings.data_folder), teacher=scored.settings.teacher, scored_negatives=5
    )
    monkeypatch.setattr(commands, "_open_project", lambda given: changed)
    with pytest.raises(ScoreSetError, match="their texts or the teacher have changed since: tiny; run distill-assets"):
        commands.app(["export-scores", str(tmp_path / "out")], standalone_mode=False)
    assert not (tmp_path / "out").exists()


def test_a_partly_scored_set_leads_to_a_champion(scored: Any, exported: Path, tmp_path: Path) -> None:
    """Most published sets lack pairs. A pair that is made up, asked for, or taken for a negative would spoil students in silence.

    Left out: one negative of each query, the positive of one query, and all of another. The set has nothing of dev and test.
    """
    rows = pq.read_table(exported / "scores.parquet").to_pylist()
    for number, row in enumerate(rows):
        positive = row["query_id"].removeprefix("q-")
        gone = {0: {*row["document_ids"]}, 1: {positive}}.get(number) or {
            next(d for d in row["document_ids"] if d != positive)
        }
        kept = [(d, s) for d, s in zip(row["document_ids"], row["scores"], strict=True) if d not in gone]
        row |= {"document_ids": [d for d, _ in kept], "scores": [s for _, s in kept]}
    pq.write_table(pa.Table.from_pylist(rows), exported / "scores.parquet")
    num_kept = sum(len(row["scores"]) for row in rows)

    second = second_line(scored, tmp_path / "data")
    run(second, "qrels")
    import_scores(second, exported, NAME)
    instance = dg.DagsterInstance.ephemeral()
    steps = list(run_line(build_definitions(second), second, instance, until="champion"))
    assert not any(step.refusal for step in steps)

    def metadata(asset: str) -> dict[str, Any]:
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}

    assert metadata("teacher_scores")["num_pairs"] == num_kept
    assert metadata("teacher_scores")["num_unscored"] == len(logits_of(scored)) - num_kept
    assert logits_of(second).items() <= logits_of(scored).items()
    path = second.places.checkpoint_path("margin_mse")
    training = second.places.checkpoints.read_manifest(path)["training"]
    assert training["num_queries_left_out"] == {"no_positive": 2}
    board = {row["system"]: row for row in second.places.warehouse.read("leaderboard").to_pylist()}
    assert "margin_mse" in board and "teacher" not in board, (
        "of dev and test nothing is scored: there is nothing to rank by"
    )
    assert metadata("leaderboard")["share_of_pool_scored"] == 0.0
    assert second.places.warehouse.read("teacher_fitness").num_rows == 0
    assert all(step.was_up_to_date for step in run(second_line(scored, tmp_path / "data"), "champion"))

    with pytest.raises(ScoreSetError, match=rf"scores:{NAME} has no score of this pair and cannot be asked"):
        second.logits().open(second.places.checkpoint_path("teacher"))
    rows[2]["scores"] = [score + 1 for score in rows[2]["scores"]]
    pq.write_table(pa.Table.from_pylist(rows), exported / "scores.parquet")
    import_scores(second, exported, NAME)
    assert is_stale(second_line(scored, tmp_path / "data"), "teacher_checkpoint", ""), (
        "other scores under the name are another teacher"
    )


def test_on_the_pool_what_is_not_scored_comes_last(scored: Any, exported: Path, tmp_path: Path) -> None:
    """A gap that ranks by chance, or a time that nobody measured, would be told as the teacher's."""
    second = second_line(scored, tmp_path / "data", skip_recipes=("kl", "hard_labels"))
    run(second, "qrels")
    warehouse = second.places.warehouse
    documents = [f"{row['title']} {row['text']}" for row in warehouse.read("corpus").to_pylist()]
    doc_ids = [row["doc_id"] for row in warehouse.read("corpus").to_pylist()]
    queries = {row["query_id"]: row["text"] for row in warehouse.read("queries").to_pylist()}
    train = pq.read_table(exported / "scores.parquet").select(["query_id", "document_ids", "scores"]).to_pylist()
    # Of dev and test the answer alone is scored, and as badly as can be: it must be first all the same.
    others = queries.keys() - {row["query_id"] for row in train}
    rows = train + [{"query_id": q, "document_ids": [q[2:]], "scores": [-50.0]} for q in sorted(others)]
    pq.write_table(pa.Table.from_pylist(rows), exported / "scores.parquet")
    pq.write_table(pa.table({"query_id": list(queries), "query": list(queries.values())}), exported / "queries.parquet")
    pq.write_table(pa.table({"document_id": doc_ids, "document": documents}), exported / "documents.parquet")
    import_scores(second, exported, NAME)
    run(second, "leaderboard")
    teacher = next(row for row in warehouse.read("leaderboard").to_pylist() if row["system"] == "teacher")
    assert teacher["query_ms_p50"] is None and teacher["model_mb"] is None
    ranked = warehouse.read("rankings", slice_keys=["teacher"]).to_pylist()
    answers = [row for row in ranked if f"q-{row['doc_id']}" == row["query_id"]]
    assert answers and all(row["rank"] == 1 and row["score"] == -50.0 for row in answers)
    found = {row["query_id"] for row in answers}
    assert all(row["score"] == (-51.0 if row["query_id"] in found else 0.0) for row in ranked if row not in answers)


def test_a_set_without_a_pair_that_training_reads_says_so(scored: Any, exported: Path, tmp_path: Path) -> None:
    """A batch without a row looks scored, and students would be trained on nothing of it."""
    second = second_line(scored, tmp_path / "data")
    run(second, "qrels")
    texts = {row["query_id"]: row["text"] for row in second.places.warehouse.read("queries").to_pylist()}
    trained = {query_id for query_id, _ in logits_of(scored)}
    other = min(texts.keys() - trained)  # of dev or test
    pq.write_table(pa.table({"query_id": [other], "query": [texts[other]]}), exported / "queries.parquet")
    pairs = {"query_id": [other], "document_ids": [["array-sum"]], "scores": [[2.0]]}
    pq.write_table(pa.table(pairs), exported / "scores.parquet")
    import_scores(second, exported, NAME)
    with pytest.raises(ScoreSetError, match="batch tiny: the imported scores have none of its"):
        run(second, "teacher_scores")


def test_imported_scores_are_neither_trained_nor_joined() -> None:
    """`teacher_finetune` that does nothing looks like a teacher that was fitted to the collection."""
    for name in ("teacher_finetune", "teacher_with_cosine"):
        with pytest.raises(SettingsError, match=f"{name} is set and teacher = 'scores:a': imported scores are taken"):
            load_settings(teacher="scores:a", **{name: True})
    with pytest.raises(SettingsError, match="imported scores are scores:NAME"):
        load_settings(teacher="scores:../a")


def test_the_commands_take_scores_out_and_in(
    scored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that says nothing of what it left out, or whose document has no path, is of no use in a script."""
    monkeypatch.setattr(commands, "_open_project", lambda given: scored)
    commands.app(["export-scores", str(tmp_path / "out")], standalone_mode=False)
    assert f"{len(logits_of(scored)):,} scores of" in capsys.readouterr().out
    second = second_line(scored, tmp_path / "data")
    run(second, "qrels")
    monkeypatch.setattr(commands, "_open_project", lambda given: second)
    documents = pq.read_table(tmp_path / "out" / "documents.parquet").to_pylist()
    documents[0]["document"] = "changed since"
    pq.write_table(pa.Table.from_pylist(documents), tmp_path / "out" / "documents.parquet")
    given = ["import-scores", str(tmp_path / "out"), "--name", NAME]
    with pytest.raises(ScoreSetError, match="another text in the collection now"):
        commands.app(given, standalone_mode=False)
    capsys.readouterr()
    commands.app([*given, "--skip-unknown"], standalone_mode=False)
    captured = capsys.readouterr()
    assert f"scores:{NAME}" in captured.out and "left out: " in captured.err
