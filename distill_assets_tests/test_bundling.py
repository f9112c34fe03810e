"""The bundled teacher: grown per fold as adapters, opened by the line and by studies. Tiny models stand for the packaged encoder."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from distill_assets.assets.reading import read_corpus, read_queries, read_train_queries
from distill_assets.bundling import Growth, grow_teacher
from distill_assets.core.cross_fitting import fold_of, query_key
from distill_assets.core.model_folders import read_json
from distill_assets.definitions import build_definitions
from distill_assets.running import run_line
from distill_assets.sources.beir import BeirSource
from distill_assets.sources.python_api import PythonApiSource
from distill_assets.storage.models import BUNDLED_TEACHER, fold_folders, read_trained_on

GROWTH = Growth(folds=2, rank=2, num_queries=None, epochs=1, learning_rate=1e-3)


def _run(project: Any, until: str) -> None:
    for _ in run_line(build_definitions(project), project, dg.DagsterInstance.ephemeral(), until=until):
        pass


def _seen(teacher: Path) -> list[frozenset[str]]:
    return [read_trained_on(folder) for folder in fold_folders(teacher)]


@pytest.fixture
def bundle(project: Any, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A teacher grown on the tiny collection, in the place of the one that comes with the package."""
    _run(project, "hard_negatives")
    grow_teacher(project, tmp_path / "bundle", GROWTH, say=lambda line: None)
    for module in ("distill_assets.resources", "distill_assets.study.teachers"):
        monkeypatch.setattr(f"{module}.BUNDLED_TEACHER", tmp_path / "bundle")
    for module in ("distill_assets.assets.teacher_building", "distill_assets.study.teachers"):
        monkeypatch.setattr(f"{module}.packaged_encoder", lambda: tiny_encoder)
    return tmp_path / "bundle"


def test_a_fold_is_grown_on_the_labels_of_the_others(project: Any, bundle: Path) -> None:
    """A fold that saw its own queries' labels would repeat them, in a teacher that says it is cross-fitted."""
    seen = _seen(bundle)
    train = read_train_queries(project)
    assert [{query_key(q.text) for q in train if fold_of(q.text, 2) != fold} for fold in (0, 1)] == seen
    assert not seen[0] & seen[1]
    for folder in fold_folders(bundle):
        for member in ("cross_encoder", "bi_encoder"):
            provenance = read_json(folder / member / "provenance.json")
            assert provenance["member"] == member
            assert provenance["training"]["losses"]
            assert provenance["recipe"]["seed"] == {"cross_encoder": 7, "bi_encoder": 13}[member] + int(folder.name[-1])


def test_what_is_grown_already_is_kept(project: Any, bundle: Path) -> None:
    """A kill in the last fold would cost the hours of all others."""
    kept = bundle / "fold-0" / "cross_encoder" / "adapter_model.safetensors"
    before = kept.stat().st_mtime_ns
    shutil.rmtree(bundle / "fold-1" / "cross_encoder")
    said: list[str] = []
    grow_teacher(project, bundle, GROWTH, say=said.append)
    assert kept.stat().st_mtime_ns == before
    assert sum("is there already" in line for line in said) == 3
    assert (bundle / "fold-1" / "cross_encoder" / "provenance.json").is_file()


@pytest.mark.parametrize("is_trained", [False, True])
def test_line_scores_each_train_query_by_the_bundled_fold_that_never_saw_it(
    is_trained: bool, project: Any, bundle: Path, tiny_encoder: Path
) -> None:
    """Opened without its folds, or fine-tuned on every label, the bundled teacher would repeat what it was trained on."""
    from distill_assets_tests.conftest import make_project

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
    path = Path(bundled.warehouse.read("checkpoints", slice_keys=["teacher"]).column("path")[0].as_py())
    manifest = read_json(path / "manifest.json")
    assert manifest["source"] == "bundled"
    assert [("training" in fold) for fold in manifest["folds"]] == [is_trained, is_trained]
    assert _seen(path) == _seen(bundle)
    assert len(manifest["joined"]["members"]) == 2
    scales = read_json(path / "folds.json")["scales"]
    assert manifest["joined"]["scales"] == scales
    content_of, text_of = read_corpus(bundled).content_of, {q.query_id: q.text for q in read_queries(bundled)}
    folds = [bundled.fold_scorer(folder) for folder in fold_folders(path)]
    for row in bundled.warehouse.read("teacher_scores").to_pylist()[::7]:
        text = text_of[row["query_id"]]
        fold = fold_of(text, 2)
        expected = scales[fold] * folds[fold]([(text, content_of[row["doc_id"]])])[0]
        assert row["teacher_logit"] == pytest.approx(expected, rel=1e-3, abs=2e-3)


def test_study_opens_the_bundled_teacher_by_folds(
    project: Any, bundle: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """A study whose folds were exchanged would score every query by the member that was trained on it."""
    from distill_assets.study.collection import read_study_collection
    from distill_assets.study.experiments import Study

    collection = read_study_collection(BeirSource(Path(project.settings.collection.removeprefix("beir:"))))
    study = Study(collection, tiny_encoder, "cpu", 32, tmp_path / "study", 5)
    teacher = study.make_teacher(None, [])
    train = collection.queries["train"]
    assert teacher.labelled == {q.query_id for q in train}
    query = next(q for q in train if fold_of(q.text, 2) == 1)
    candidates = {query.query_id: study.labels.negatives[query.query_id]}
    own = {
        kind: members[1].score([query], candidates)[query.query_id] / teacher.spreads[kind][1]
        for kind, members in teacher.members.items()
    }
    assert set(own) == {"cross_encoder", "bi_encoder"}
    found = teacher.score([query], candidates)[query.query_id]
    assert np.allclose(found, np.mean(list(own.values()), axis=0), atol=1e-6)


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
