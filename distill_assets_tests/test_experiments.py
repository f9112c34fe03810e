"""Studies and the growing of the bundled teacher, on the assets' own functions. Tiny models stand for the packaged encoder."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from distill_assets.definitions import build_definitions
from distill_assets.errors import DistillError, SettingsError
from distill_assets.models.catalog import BUNDLED_TEACHER, fold_folders, read_trained_on
from distill_assets.models.cross_fitting import fold_of, query_key
from distill_assets.models.folders import read_json
from distill_assets.orchestration.running import run_line
from distill_assets.records import Collection, Document, Qrel, Query, Split
from distill_assets.sources.beir import BeirSource
from distill_assets.sources.python_api import PythonApiSource
from distill_assets.storage.collection import TRAINING
from distill_assets_tests.conftest import make_project
from experiments import study
from experiments.__main__ import app
from experiments.growing import Growth, grow_teacher
from experiments.hidden import _compared, write_variants
from experiments.plans import Plan, read_plan
from experiments.shares import LabelShare
from experiments.study import run_study

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "experiments" / "results").glob("*.json"))
GROWTH = Growth(folds=2, rank=2, num_queries=None, epochs=3, learning_rate=5e-2)  # each member gets better on dev
MARGIN = {"batch_size": 8, "num_negatives": 2, "sampling": "top", "epochs": 1}
HARD = {"loss": "hard_labels", "batch_size": 8, "epochs": 1}
FREE = {"positives": "teacher", "batch_size": 8, "num_negatives": 2, "epochs": 1}


def _run(project: Any, until: str) -> None:
    for _ in run_line(build_definitions(project), project, dg.DagsterInstance.ephemeral(), until=until):
        pass


def _plan(project: Any, recipes: dict[str, Any], **more: Any) -> Plan:
    """A plan with the settings of a tiny project."""
    left_out = ("recipes", "skip_recipes", "data_folder")
    settings = {name: value for name, value in project.overrides.items() if name not in left_out}
    return Plan(recipes=recipes, settings=settings | more.pop("settings", {}), **more)


def _ignore(document: dict[str, Any]) -> None:
    """A study that is not saved."""


# --- studies -----------------------------------------------------------------------------------------------------------


def test_a_study_measures_what_the_line_makes(project: Any, tmp_path: Path) -> None:
    """A study that measured another teacher or student than the line makes would choose recipes for something that never ships."""
    recipes = {"margin_mse": MARGIN}
    line = type(project)(overrides={**project.overrides, "recipes": recipes, "skip_recipes": ("kl", "hard_labels")})
    _run(line, "leaderboard")
    systems = run_study(_plan(project, recipes), tmp_path / "study", _ignore)["systems"]
    warehouse = line.places.warehouse
    for name, seed in (("margin_mse", "13"), ("bm25", "0"), ("untouched_student", "0")):
        rows = [row for row in warehouse.read("eval_metrics").to_pylist() if row["system"] == name]
        for split, count in (("dev", 20), ("test", 12)):
            expected = {row["query_id"]: row["ndcg_at_10"] for row in rows if row["split"] == split}
            assert len(expected) == count
            assert systems[name][seed][split] == expected
    rows = [row for row in warehouse.read("query_results").to_pylist() if row["system"] == "teacher"]
    assert systems["teacher"]["0"]["test"] == {row["query_id"]: row["ndcg_at_10"] for row in rows}
    assert systems["margin_mse"]["13"]["test"] != systems["untouched_student"]["0"]["test"]


def test_a_hidden_label_is_seen_by_nobody(
    project: Any, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher, candidates or student from before the labels were hidden would answer for a share with what it must not know.

    The whole share runs first in the same folder: the line itself calls a teacher of other labels old, and keeps it.
    """
    seen: dict[str, Any] = {}
    rerank = study._rerank

    def look(document: dict[str, Any], project: Any, label: str) -> None:
        with project.collection.snapshot() as collection:
            train = [q for q in collection.queries(TRAINING) if q.split == "train"]
            judged, candidates = collection.judgements(TRAINING), collection.candidates()
        manifest = project.places.checkpoints.read_manifest(project.places.checkpoint_path("teacher"))
        trained = [fold["training"]["num_groups"] for fold in manifest["folds"]]
        seen[label] = (train, judged, candidates, trained)
        rerank(document, project, label)

    monkeypatch.setattr(study, "_rerank", look)
    grown = {"teacher": str(tiny_encoder), "teacher_folds": 2, "teacher_queries": 1000}
    plan = _plan(project, {"hard_labels": HARD, "free": FREE}, shares=(1.0, 0.5), settings=grown)
    document = run_study(plan, tmp_path / "study", _ignore)

    train, everything, _, trained_on_all = seen["100%"]
    _, kept, candidates, trained = seen["50%"]
    ids = {query.query_id for query in train}
    hidden = ids - set(kept)
    assert document["num_labelled"] == {"100%": len(ids), "50%": len(ids) - len(hidden)}
    assert 0.3 * len(ids) < len(hidden) < 0.7 * len(ids)
    assert set(everything) - ids == set(kept) - ids  # dev keeps its labels
    # Where the label is known, the answer that search finds stands beside the negatives; where it is hidden, it is one of them.
    answers_found = {q: q.removeprefix("q-") in candidates[q] for q in ids}
    assert sum(answers_found[q] for q in hidden) > len(hidden) / 2
    num_negatives = project.settings.negatives_per_query
    assert {len(candidates[q]) for q in hidden} == {num_negatives}
    assert all(len(candidates[q]) == num_negatives + answers_found[q] for q in ids - hidden)
    assert sum(trained_on_all) == len(ids)  # each of two folds learns from the other's queries
    assert sum(trained) == len(ids) - len(hidden)
    trainings = document["trainings"]
    assert trainings["hard_labels 50%"]["13"]["num_groups"] == len(ids) - len(hidden)
    assert trainings["free 50%"]["13"]["num_groups"] == len(ids)  # the teacher names a positive for everybody


class _TwoBatches:
    """Queries in one batch, their judgements in another."""

    name, is_inbox = "two", False

    def __init__(self, queries: list[Query]) -> None:
        self.queries = queries

    def batches(self) -> list[str]:
        return ["asked", "judged"]

    def refused(self) -> dict[str, str]:
        return {}

    def look(self, batch: str) -> str | None:
        return None

    def fingerprint(self, batch: str) -> str:
        return f"{batch} {self.queries if batch == 'asked' else ''}"

    def read(self, batch: str) -> Collection:
        from distill_assets.records import Qrel

        qrels = [Qrel(query.query_id, "d", 1) for query in self.queries]
        return Collection([], self.queries, []) if batch == "asked" else Collection([], [], qrels)


def test_a_judgement_is_hidden_in_whichever_batch_it_comes() -> None:
    """A judgement of another batch's query would stay, and a label that should be hidden would be known."""

    def queries(split: Split) -> list[Query]:
        return [Query(f"{split}-{i}", f"question {i} of {split}", split) for i in range(200)]

    source = LabelShare(_TwoBatches([*queries("train"), *queries("dev")]), 0.25)
    kept = Counter(qrel.query_id.split("-")[0] for qrel in source.read("judged").qrels)
    assert kept["dev"] == 200
    assert 30 <= kept["train"] <= 70
    more = {qrel.query_id for qrel in replace(source, share=0.5).read("judged").qrels}
    assert {qrel.query_id for qrel in source.read("judged").qrels} < more
    moved = LabelShare(_TwoBatches(queries("dev")), 0.25)
    assert moved.fingerprint("judged") != source.fingerprint("judged")
    assert replace(source, share=0.5).fingerprint("judged") != source.fingerprint("judged")


def test_after_a_kill_a_study_goes_on_and_pays_nothing_twice(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of scoring and training would be paid again, or the killed student be left out of the document."""
    import distill_assets.training.trainer as training

    trained: list[str] = []
    train = training.train_student

    def train_two(model: Any, epochs: Any, groups: Any, recipe: Any, run: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(recipe.name)
        return train(model, epochs, groups, recipe, run)

    plan = _plan(project, {"hard_labels": HARD, "margin_mse": MARGIN}, num_seeds=2)
    saved: list[dict[str, Any]] = []
    monkeypatch.setattr(training, "train_student", train_two)
    with pytest.raises(KeyboardInterrupt):
        run_study(plan, tmp_path / "study", lambda document: saved.append(json.loads(json.dumps(document))))
    assert set(saved[-1]["systems"]) == {"bm25", "untouched_student", "hard_labels", "margin_mse"}

    def train_on(model: Any, epochs: Any, groups: Any, recipe: Any, run: Any) -> Any:
        trained.append(recipe.name)
        return train(model, epochs, groups, recipe, run)

    monkeypatch.setattr(training, "train_student", train_on)
    document = run_study(plan, tmp_path / "study", _ignore)
    names = [f"{recipe}_seed_{seed}" for seed in (13, 14) for recipe in ("hard_labels", "margin_mse")]
    assert trained == names
    for recipe in ("hard_labels", "margin_mse"):
        assert set(document["systems"][recipe]) == {"13", "14"}
        assert document["systems"][recipe]["13"] == saved[-1]["systems"][recipe]["13"]
        assert document["systems"][recipe]["13"] != document["systems"][recipe]["14"]

    [(_, last)] = plan.variants(tmp_path / "study")
    costs = last.places.warehouse.read("scoring_costs").to_pylist()
    stored = last.places.warehouse.read("pair_scores")
    assert sum(row["num_pairs"] for row in costs) == stored.num_rows > 0
    before = len(costs)
    run_study(plan, tmp_path / "study", _ignore)
    assert trained == names
    assert last.places.warehouse.read("scoring_costs").num_rows == before


def test_plans_of_teachers_give_a_table_each(project: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    """Two teachers under one name would hide which of them the students learned from."""
    lines = [
        f"{name} = {json.dumps(value)}"
        for name, value in _plan(project, {"margin_mse": MARGIN}).settings.items()
        if name != "teacher"
    ]
    margin = [f"{name} = {json.dumps(value)}" for name, value in MARGIN.items()]
    teachers = [
        f'[teachers.given]\nteacher = "{project.settings.teacher}"',
        f'[teachers.grown]\nteacher = "{tiny_encoder}"',
    ]
    path, out = tmp_path / "plan.toml", tmp_path / "out.json"
    path.write_text("\n".join(["seeds = 1", "[settings]", *lines, *teachers, "[recipes.margin_mse]", *margin]), "utf-8")
    result = CliRunner().invoke(app, ["study", str(path), str(out), "--seeds", "2", "--work", str(tmp_path / "study")])
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text("utf-8"))
    assert {name: set(seeds) for name, seeds in document["systems"].items()} == {
        "bm25": {"0"},
        "untouched_student": {"0"},
        **{f"margin_mse {teacher}": {"13", "14"} for teacher in ("given", "grown")},
        **{f"teacher {teacher}": {"0"} for teacher in ("given", "grown")},
    }
    assert document["systems"]["margin_mse given"] != document["systems"]["margin_mse grown"]
    printed = CliRunner().invoke(app, ["tables", str(out), "--split", "dev"]).output
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("####")] == ["given", "grown"]
    assert printed.count("| margin_mse | 2 |") == 2
    refused = CliRunner().invoke(app, ["tables", str(out), "--against", "nobody"])
    assert "no system 'nobody'" in str(refused.exception)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"recipes": {}}, "at least one"),
        ({"shares": (0.5,), "teachers": {"a": {}}}, "write two plans"),
        ({"shares": (0.0,)}, "above 0"),
        ({"settings": {"recipes": {}}}, "sets itself"),
        ({"teachers": {"a": {"student": "x"}}}, "sets student"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(change: dict[str, Any], told: str) -> None:
    """A plan that sets what the study overrides, or varies what its tables do not tell apart, would give other numbers than it says."""
    with pytest.raises(SettingsError, match=told):
        Plan(**{"recipes": {"hard_labels": HARD}, **change})


def test_labels_are_not_hidden_from_a_teacher_that_saw_them(tmp_path: Path) -> None:
    """The bundled teacher was trained on the labels of `python_api`: a study of few labels would distil the hidden ones."""
    plan = Plan(recipes={"hard_labels": HARD}, shares=(0.1,), settings={"collection": "python_api", "teacher": "auto"})
    with pytest.raises(SettingsError, match="bundled teacher was trained"):
        list(plan.variants(tmp_path))


def test_two_studies_do_not_share_a_folder(project: Any, tmp_path: Path) -> None:
    """Each would read the metrics that the other has just replaced."""
    with study._alone(tmp_path / "study"), pytest.raises(DistillError, match="another study works"):
        run_study(_plan(project, {"hard_labels": HARD}), tmp_path / "study", _ignore)


def test_the_plans_that_are_kept_can_be_read(tmp_path: Path) -> None:
    """A plan with a field that recipes or settings have lost would be found out when somebody wants its numbers again."""
    plans = sorted((ROOT / "experiments" / "plans").glob("*.toml"))
    assert len(plans) == 10
    for path in plans:
        plan = read_plan(path)
        labels = [label for label, _ in plan.variants(tmp_path)]
        assert len(labels) == max(1, len(plan.shares)), path


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_published_tables_are_those_of_the_documents(path: Path) -> None:
    """A document that is read otherwise than when it was published would show that its tables were never what it says."""
    result = CliRunner().invoke(app, ["tables", str(path)])
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if line.startswith("|")]
    assert len(rows) > 5
    published = set((ROOT / "docs" / "results.md").read_text("utf-8").splitlines())
    assert [row for row in rows if row not in published] == []


# --- the bundled teacher -----------------------------------------------------------------------------------------------


def _seen(teacher: Path) -> list[frozenset[str]]:
    return [read_trained_on(folder) for folder in fold_folders(teacher)]


def _grow(project: Any, out: Path, growth: Growth = GROWTH) -> list[str]:
    said: list[str] = []
    grow_teacher(project, out, growth, say=said.append)
    return said


@pytest.fixture
def bundle(project: Any, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A teacher grown on the tiny collection, in the place of the one that comes with the package."""
    _grow(project, tmp_path / "bundle")
    monkeypatch.setattr("distill_assets.handles.models.BUNDLED_TEACHER", tmp_path / "bundle")
    monkeypatch.setattr("distill_assets.assets.teacher_building.packaged_encoder", lambda: tiny_encoder)
    join = tmp_path / "join.json"
    join.write_text(json.dumps({"joined": {"scales": [1.0, 1.5], "cosine_weights": [2.0, 3.0]}}), "utf-8")
    monkeypatch.setattr("distill_assets.assets.teacher_building.BUNDLED_JOIN", join)
    return tmp_path / "bundle"


def _weights(bundle: Path) -> dict[str, tuple[int, bytes]]:
    """When each member's adapter was written, and what is in it."""
    paths = bundle.rglob("adapter_model.safetensors")
    return {str(path.relative_to(bundle)): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def test_a_fold_is_grown_on_the_labels_of_the_others(project: Any, bundle: Path) -> None:
    """A fold that saw its own queries' labels would repeat them, in a teacher that says it is cross-fitted."""
    seen = _seen(bundle)
    with project.collection.snapshot() as collection:
        train = [query for query in collection.queries(TRAINING) if query.split == "train"]
    assert [{query_key(q.text) for q in train if fold_of(q.text, 2) != fold} for fold in (0, 1)] == seen
    assert seen[0] and seen[1] and not seen[0] & seen[1]
    for folder in fold_folders(bundle):
        for member in ("cross_encoder", "bi_encoder"):
            provenance = read_json(folder / member / "provenance.json")
            assert provenance["member"] == member
            training = provenance["training"]
            assert training["best_step"] > 0 and training["best_dev_ndcg_at_10"] > training["dev_curve"][0][1]
            assert provenance["recipe"]["seed"] == {"cross_encoder": 7, "bi_encoder": 13}[member] + int(folder.name[-1])


def test_what_is_grown_already_is_kept(project: Any, bundle: Path) -> None:
    """A kill in the last fold would cost the hours of all others.

    The member that is made anew ends with the weights that it had. No two members have the same: none is an untrained adapter.
    """
    before = _weights(bundle)
    assert len({content for _, content in before.values()}) == len(before) == 4
    (bundle / "fold-1" / "cross_encoder" / "provenance.json").unlink()  # as a kill before the last file leaves it
    said = _grow(project, bundle)
    after = _weights(bundle)
    changed = {path for path, (at, _) in after.items() if at != before[path][0]}
    assert changed == {"fold-1/cross_encoder/adapter_model.safetensors"}
    assert all(content == before[path][1] for path, (_, content) in after.items())
    assert sum("is there already" in line for line in said) == 3


def _other_recipe(project: Any, folder: Path) -> tuple[Any, Growth]:
    return project, replace(GROWTH, learning_rate=2e-3)


def _other_labels(project: Any, folder: Path) -> tuple[Any, Growth]:
    path = folder / "qrels" / "train.tsv"
    path.write_text("\n".join(path.read_text("utf-8").splitlines()[:-1]) + "\n", "utf-8")
    return type(project)(overrides=project.overrides), GROWTH


@pytest.mark.parametrize("change", [_other_recipe, _other_labels])
def test_members_of_another_recipe_or_other_data_are_not_kept(
    change: Callable[[Any, Path], tuple[Any, Growth]], project: Any, bundle: Path, beir_folder: Path
) -> None:
    """Folds of two recipes would be shipped as one teacher, under the provenance of the second."""
    before = _weights(bundle)
    changed, growth = change(project, beir_folder)
    said = _grow(changed, bundle, growth)
    assert not any("is there already" in line for line in said)
    after = _weights(bundle)
    assert after.keys() == before.keys()
    assert all(after[path][0] != before[path][0] for path in before)
    assert any(after[path][1] != before[path][1] for path in before), "written anew, and trained on what was before"


def test_a_killed_recipe_is_not_gone_on_with_by_another(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saves of a kill held another recipe's weights: at their last step nothing was trained, and they were shipped."""

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.adapters.save_adapter", die)
    with pytest.raises(KeyboardInterrupt):
        _grow(project, tmp_path / "bundle")  # trained to its last save, and not written
    assert list((project.places.folder / "grow-teacher").rglob("checkpoint-*"))
    monkeypatch.undo()
    other = replace(GROWTH, learning_rate=2e-3)
    _grow(project, tmp_path / "bundle", other)
    _grow(
        type(project)(overrides={**project.overrides, "data_folder": str(tmp_path / "fresh")}),
        tmp_path / "clean",
        other,
    )
    for member in ("bi_encoder", "cross_encoder"):
        found, clean = (
            read_json(tmp_path / name / "fold-0" / member / "provenance.json") for name in ("bundle", "clean")
        )
        assert found["training"]["resumed_from_step"] == 0
        assert found["training"]["losses"] == clean["training"]["losses"]
    _grow(project, tmp_path / "bundle")  # the killed recipe itself does go on
    assert (
        read_json(tmp_path / "bundle" / "fold-0" / "bi_encoder" / "provenance.json")["training"]["resumed_from_step"]
        > 0
    )


@pytest.mark.parametrize("is_trained", [False, True])
def test_line_scores_each_train_query_by_the_bundled_fold_that_never_saw_it(
    is_trained: bool, project: Any, bundle: Path, tiny_encoder: Path
) -> None:
    """Opened without its folds, or fine-tuned on every label, the bundled teacher would repeat what it was trained on."""
    settings = project.settings
    bundled = make_project(
        Path(settings.collection.removeprefix("beir:")),
        tiny_encoder,
        Path("bundled"),
        settings.data_folder,
        precision="fp32",
        teacher_finetune=is_trained,
        teacher_queries=1000,
    )
    _run(bundled, "teacher_scores")
    path = bundled.places.checkpoint_path("teacher")
    manifest = read_json(path / "manifest.json")
    assert manifest["source"] == "bundled"
    assert [("training" in fold) for fold in manifest["folds"]] == [is_trained, is_trained]
    assert _seen(path) == _seen(bundle)
    scales = read_json(path / "folds.json")["scales"]
    weights = [read_json(folder / "ensemble.json")["cosine_weight"] for folder in fold_folders(path)]
    if is_trained:  # weighed on this collection's dev candidates
        assert manifest["joined"]["scales"] == scales
        assert [member["cosine_weight"] for member in manifest["joined"]["members"]] == weights
    else:  # it brings its own
        assert (scales, weights) == ([1.0, 1.5], [2.0, 3.0])
    with bundled.collection.snapshot() as collection:
        text_of, content_of = {q.query_id: q.text for q in collection.queries(TRAINING)}, collection.texts()
    folds = [bundled.logits().open(folder) for folder in fold_folders(path)]
    for row in bundled.places.warehouse.read("teacher_scores").to_pylist()[::7]:
        text = text_of[row["query_id"]]
        fold = fold_of(text, 2)
        expected = scales[fold] * folds[fold]([(text, content_of[row["doc_id"]])])[0]
        assert row["teacher_logit"] == pytest.approx(expected, rel=1e-3, abs=2e-3)


def test_shipped_teacher_saw_no_dev_or_test_query_and_each_train_query_in_one_fold_alone() -> None:
    """What is shipped could have been grown on other splits: every figure of the embedded collection would be leaked."""
    seen = _seen(BUNDLED_TEACHER)
    assert len(seen) == 2
    queries = PythonApiSource(("numpy",)).read("numpy").queries
    found = {split: [q for q in queries if q.split == split] for split in ("train", "dev", "test")}
    assert not {query_key(q.text) for q in found["dev"] + found["test"]} & (seen[0] | seen[1])
    known = [q for q in found["train"] if query_key(q.text) in seen[0] | seen[1]]
    assert len(known) > 0.9 * len(found["train"])  # another version of the package brings a few other sentences
    assert all(query_key(q.text) not in seen[fold_of(q.text, 2)] for q in known)
    size = sum(file.stat().st_size for file in BUNDLED_TEACHER.rglob("*") if file.is_file())
    assert size < 5_000_000


def test_no_variant_without_judgements_sees_a_test_query(tmp_path: Path) -> None:
    """A test query among those that a teacher judges would let people's judgements measure what the student has seen."""
    texts = {f"q{number}": f"what is number {number}" for number in range(60)}
    splits: tuple[Split, ...] = ("train", "dev", "test")
    queries = [Query(query_id, text, splits[int(query_id[1:]) % 3]) for query_id, text in texts.items()]
    documents = [Document(f"d{number}", "", f"number {number} is a number") for number in range(60)]
    judged = [Qrel(f"q{number}", f"d{number}", 1) for number in range(60)]
    folders = write_variants(Collection(documents, queries, judged), tmp_path, "numbers")
    read = {variant: BeirSource(path).read("numbers") for variant, path in folders.items()}
    assert {len([*each.documents]) for each in read.values()} == {60}
    assert {(q.query_id, q.split) for q in read["all judgements"].queries} == {(q.query_id, q.split) for q in queries}
    assert len(read["all judgements"].qrels) == 60
    asked = read["queries alone"]
    assert {q.query_id for q in asked.queries} == {q.query_id for q in queries if q.split != "test"} and not asked.qrels
    assert {q.split for q in asked.queries} == {"train", "dev", "test"}, "without dev queries no step can be chosen"
    assert not read["documents alone"].queries and not read["documents alone"].qrels


def test_a_student_is_compared_with_the_untouched_one_query_by_query() -> None:
    """A difference of two means alone was called a loss, and nobody knew whether 300 queries can show it."""
    assert _compared({"a": 1.0, "b": 0.5, "c": 0.5}, {"c": 0.2, "b": 0.5, "a": 0.4}) == {
        "people": pytest.approx(2 / 3),
        "against_untouched": {"mean": pytest.approx(0.3), "low": 0.0, "high": pytest.approx(0.6), "p_value": 0.5},
    }
