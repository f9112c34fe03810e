"""Studies: cross-fitting, pools, label budgets and the document they write."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from distill_assets.core.cross_fitting import fold_of
from distill_assets.core.errors import SourceError
from distill_assets.core.records import Query
from distill_assets.sources.beir import BeirSource
from distill_assets.study.collection import read_study_collection, write_beir
from distill_assets.study.commands import app
from distill_assets.study.experiments import Study
from distill_assets.study.teachers import StudyTeacher, join_kinds

PLAN = """
[teachers.default]
members = ["cross_encoder", "bi_encoder", "bm25"]
folds = 2
warm_start = true
bi_encoder = { epochs = 1, batch_size = 8 }
cross_encoder = { epochs = 1, batch_size = 8 }

[recipes.hard_labels]
loss = "hard_labels"
batch_size = 8
[recipes.distilled]
loss = "margin_mse"
positives = "teacher"
batch_size = 8
"""
MORE_RECIPES = """
[recipes.again]
loss = "margin_mse"
rounds = 2
batch_size = 8
[recipes.tower]
loss = "margin_mse"
train = "query_tower"
batch_size = 8
max_queries = 16
"""


class _Constant:
    """A member that gives every document the same score and remembers what it was asked."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.asked: list[str] = []

    def score(self, queries: Sequence[Query], candidates: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        self.asked += [q.query_id for q in queries]
        return {q.query_id: np.full(len(candidates[q.query_id]), self.value) for q in queries}


def _queries(count: int) -> list[Query]:
    return [Query(f"q{i}", f"text {i}", "train") for i in range(count)]


def test_a_labelled_query_is_scored_by_its_own_fold_alone() -> None:
    """A member that was trained on a query's label would repeat it: distillation would measure as good as the hard label."""
    members = [_Constant(2.0), _Constant(6.0)]
    labelled, new = _queries(20), [Query("new", "unseen text", "dev")]
    teacher = StudyTeacher(
        {"bi_encoder": members}, {"bi_encoder": [1.0, 2.0]}, 2, frozenset(q.query_id for q in labelled), 0.0
    )
    candidates = {q.query_id: ["a", "b"] for q in [*labelled, *new]}
    scored = teacher.score([*labelled, *new], candidates)
    for query in labelled:
        fold = fold_of(query.text, 2)
        assert query.query_id in members[fold].asked
        assert query.query_id not in members[1 - fold].asked
        assert scored[query.query_id].tolist() == ([2.0, 2.0] if fold == 0 else [3.0, 3.0])  # 2 / 1, 6 / 2
    assert scored["new"].tolist() == [2.5, 2.5]  # the mean of both


def test_members_are_weighed_by_their_spread() -> None:
    """Joined raw, a BM25 score of 20 would drown a cosine of 0.5."""
    teacher = StudyTeacher(
        {"bm25": [_Constant(20.0)], "bi_encoder": [_Constant(0.5)]},
        {"bm25": [10.0], "bi_encoder": [0.1]},
        1,
        frozenset(),
        0.0,
    )
    query = Query("q", "text", "dev")
    assert teacher.score([query], {"q": ["a"]})["q"].tolist() == [3.5]  # (20 / 10 + 0.5 / 0.1) / 2
    by_kind = teacher.score_by_kind([query], {"q": ["a"]})
    assert join_kinds(by_kind, ["bm25"])["q"].tolist() == [2.0]


def test_export_and_read_again_is_the_same_collection(beir_folder: Path, tmp_path: Path) -> None:
    """A study on another machine would judge other queries if splits or texts moved on the way."""
    collection = read_study_collection(BeirSource(beir_folder))
    write_beir(collection, tmp_path / "copy")
    assert read_study_collection(BeirSource(tmp_path / "copy")).fingerprint == collection.fingerprint


def test_a_split_without_judgements_is_refused(beir_folder: Path) -> None:
    """A study without a dev query would choose steps on nothing."""
    (beir_folder / "qrels").joinpath("train.tsv").unlink(missing_ok=True)
    for path in (beir_folder / "qrels").glob("*.tsv"):
        path.write_text("query-id\tcorpus-id\tscore\n" + path.read_text("utf-8").splitlines()[1] + "\n", "utf-8")
    with pytest.raises(SourceError, match="needs all three splits"):
        read_study_collection(BeirSource(beir_folder))


def test_hidden_labels_leave_no_trace_in_the_candidates(beir_folder: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    """Mining removes known positives: if a hidden label were known there, its absence would give the answer away."""
    study = Study(read_study_collection(BeirSource(beir_folder)), tiny_encoder, "cpu", 64, tmp_path)
    everything, nothing = study.labels, study.mine({})
    positives = study.collection.qrels
    assert not any(set(everything.negatives[q]) & set(positives[q]) for q in positives)
    assert sum(bool(set(nothing.negatives[q]) & set(positives[q])) for q in positives) > len(positives) / 2


@pytest.mark.parametrize("experiment", ["teachers", "recipes", "labels"])
def test_an_experiment_writes_every_system_per_query(
    experiment: str, beir_folder: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """A system that is missing, or judged on other queries than the rest, would go unseen in a table of means."""
    plan, out = tmp_path / "plan.toml", tmp_path / "out.json"
    plan.write_text(PLAN, "utf-8")
    options = ["--plan", str(plan), "--out", str(out), "--encoder", str(tiny_encoder), "--work", str(tmp_path / "work")]
    more = {"teachers": [], "recipes": ["--seeds", "2"], "labels": ["--seeds", "1", "--shares", "0.7,1"]}[experiment]
    result = CliRunner().invoke(app, [experiment, f"beir:{beir_folder}", *options, *more, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text("utf-8"))
    expected = {
        "teachers": {
            f"default: {kinds}"
            for kinds in ("cross_encoder", "bi_encoder", "bm25", "cross_encoder + bi_encoder + bm25")
        },
        "recipes": {"teacher", "hard_labels", "distilled"},
        "labels": {"teacher 70%", "hard 70%", "distilled 70%", "teacher 100%", "hard 100%", "distilled 100%"},
    }[experiment]
    assert {"bm25", "untouched_student"} | expected <= set(document["systems"])
    for split in ("dev", "test"):
        judged = {frozenset(seed[split]) for system in document["systems"].values() for seed in system.values()}
        assert len(judged) == 1
    if experiment == "recipes":
        assert set(document["systems"]["hard_labels"]) == {"13", "14"}
        table = CliRunner().invoke(app, ["tables", str(out), "--against", "distilled"]).output.splitlines()
        cells = {row[1]: row for row in ([c.strip() for c in line.split("|")] for line in table) if len(row) > 6}
        assert cells["distilled"][6] == "-"
        assert cells["hard_labels"][6].startswith(("+", "-0"))
        refused = CliRunner().invoke(app, ["tables", str(out), "--against", "nobody"])
        assert "no system 'nobody'" in str(refused.exception)
    if experiment == "labels":
        refused = CliRunner().invoke(app, ["tables", str(out), "--against", "teacher 70%"])
        assert "leave --against out" in str(refused.exception)


def test_rounds_score_new_pairs_alone_and_a_query_tower_costs_no_documents(
    beir_folder: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """A table of rounds whose cost is not that of the new pairs, or a tower whose documents moved, would mislead."""
    plan, out = tmp_path / "plan.toml", tmp_path / "out.json"
    plan.write_text(PLAN + MORE_RECIPES, "utf-8")
    options = ["--plan", str(plan), "--out", str(out), "--encoder", str(tiny_encoder), "--work", str(tmp_path / "work")]
    command = ["recipes", f"beir:{beir_folder}", *options, "--seeds", "1", "--candidates", "4", "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    trainings = {name: seeds["13"] for name, seeds in json.loads(out.read_text("utf-8"))["trainings"].items()}
    first, second = trainings["again"]["rounds"]
    num_train = trainings["distilled"]["num_groups"]
    assert first["num_new_pairs"] == 0
    assert 0 < second["num_new_pairs"] <= 4 * num_train
    assert trainings["again"]["kept_round"] in (1, 2)
    assert "rounds" not in trainings["tower"]
    assert trainings["tower"]["num_groups"] == 16 < num_train
    assert trainings["tower"]["document_encoding_s"] == 0.0
    table = CliRunner().invoke(app, ["tables", str(out)]).output
    new_pairs = f"| {second['num_new_pairs']:,} |"
    assert any(line.startswith("| again, seed 13 | 2 |") and new_pairs in line for line in table.splitlines())
    assert any(line.startswith("| tower | 2 |") and line.endswith("| 0 |") for line in table.splitlines())
    assert trainings["hard_labels"]["document_encoding_s"] >= 0.0


def test_a_study_goes_on_with_further_seeds_and_refuses_another_plan(
    beir_folder: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Seeds that are paid for would be trained again, or those of another recipe counted as this one's."""
    plan, out = tmp_path / "plan.toml", tmp_path / "out.json"
    plan.write_text(PLAN, "utf-8")
    options = ["--plan", str(plan), "--out", str(out), "--encoder", str(tiny_encoder), "--work", str(tmp_path / "work")]
    for experiment, more in (("recipes", []), ("labels", ["--shares", "1"])):
        command = [experiment, f"beir:{beir_folder}", *options, *more, "--candidates", "4", "--device", "cpu"]
        assert CliRunner().invoke(app, [*command, "--seeds", "1"]).exit_code == 0
        before = json.loads(out.read_text("utf-8"))
        marked = json.loads(out.read_text("utf-8"))
        student = "hard_labels" if experiment == "recipes" else "hard 100%"
        some_query = next(iter(marked["systems"][student]["13"]["dev"]))
        marked["systems"][student]["13"]["dev"][some_query] = 0.123  # what is kept still says so afterwards
        if experiment == "recipes":  # as a kill leaves it: the teacher had not reranked yet
            del marked["systems"]["teacher"], marked["systems"]["distilled"], marked["trainings"]["distilled"]
        out.write_text(json.dumps(marked), "utf-8")
        seeds = "2" if experiment == "recipes" else "1"
        result = CliRunner().invoke(app, [*command, "--seeds", seeds, "--go-on"])
        assert result.exit_code == 0, result.output
        after = json.loads(out.read_text("utf-8"))
        assert after["systems"][student]["13"]["dev"][some_query] == 0.123
        if experiment == "recipes":
            assert set(after["systems"][student]) == {"13", "14"}
            assert after["systems"]["distilled"]["13"] == before["systems"]["distilled"]["13"]
            assert before["pooled"] == ["bm25", "distilled", "hard_labels", "untouched_student"]
            assert after["pooled"] == ["bm25", "distilled", "untouched_student"]
            teacher = after["systems"]["teacher"]["0"]["dev"]
            teacher[some_query] = 0.456
            out.write_text(json.dumps(after), "utf-8")
            result = CliRunner().invoke(app, [*command, "--seeds", "3", "--go-on"])
            assert result.exit_code == 0, result.output
            assert [line.split("  ")[-1].split(":")[0] for line in result.output.splitlines() if " s  " in line] == [
                "hard_labels",
                "distilled",
            ]
            again = json.loads(out.read_text("utf-8"))
            assert again["systems"]["teacher"]["0"]["dev"] == teacher  # not reranked again
            assert again["pooled"] == after["pooled"]
        other = CliRunner().invoke(app, [*command, "--seeds", seeds, "--go-on", "--candidates", "5"])
        assert "another num_candidates" in str(other.exception)
        plan.write_text(PLAN.replace("[recipes.hard_labels]", "[recipes.hard_labels]\nnum_negatives = 2"), "utf-8")
        other = CliRunner().invoke(app, [*command, "--seeds", "3", "--go-on"])
        assert "another recipe hard" in str(other.exception)
        plan.write_text(PLAN.replace("folds = 2", "folds = 3"), "utf-8")
        other = CliRunner().invoke(app, [*command, "--seeds", "3", "--go-on"])
        assert "another teacher_plan" in str(other.exception)
        plan.write_text(PLAN, "utf-8")
