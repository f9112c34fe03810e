"""Several students to choose from: a trial each, and the line goes on with the one that dev chooses."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.definitions import build_definitions
from distill_assets.errors import SettingsError
from distill_assets.orchestration.explanation import explain
from distill_assets.orchestration.running import run_line
from distill_assets.orchestration.stages import status_of
from distill_assets.settings.values import load_settings
from distill_assets_tests.conftest import make_project


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory."""
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def students(tiny_encoder: Path, tmp_path: Path) -> tuple[str, str]:
    """A model whose word vectors were shuffled, so that it finds nothing, and the tiny encoder. The worse one stands first."""
    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny_encoder, broken)
    weights = load_file(broken / "model.safetensors")
    for name, value in weights.items():
        if "word_embeddings" in name:
            weights[name] = torch.zeros_like(value)  # each text is the same text
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    return str(broken), str(tiny_encoder)


@pytest.fixture
def chosen(beir_folder: Path, students: tuple[str, str], tiny_cross_encoder: Path, tmp_path: Path) -> Any:
    """A project with these students to choose from."""
    overrides = {"students": students, "trial_queries": 16}
    return make_project(beir_folder, Path(students[0]), tiny_cross_encoder, tmp_path / "data", **overrides)


def made(steps: Any) -> list[str]:
    """Names of the assets that a run made."""
    return [asset for step in steps if step.was_materialised for asset in step.assets]


def test_dev_chooses_and_the_line_goes_on_with_it(
    chosen: Any, students: tuple[str, str], instance: dg.DagsterInstance
) -> None:
    """A choice that nothing reads would be a table in the UI while the first model of the list is distilled."""
    steps = list(run_line(build_definitions(chosen), chosen, instance, until="student_checkpoint"))
    assert made(steps).index("student_choice") < made(steps).index("hard_negatives")
    rows = {row["student"]: row for row in chosen.places.warehouse.read("student_trials").to_pylist()}
    assert {name: row["is_chosen"] for name, row in rows.items()} == {students[0]: False, students[1]: True}
    worse, better = (max(rows[s]["untrained_ndcg_at_10"], rows[s]["trained_ndcg_at_10"]) for s in students)
    assert worse < better
    assert rows[students[1]]["num_trial_queries"] == 16 and rows[students[1]]["trial_seconds"] > 0
    assert chosen.models.student_path == Path(students[1]).resolve()
    manifest = chosen.places.checkpoints.read_manifest(chosen.places.checkpoint_path("hard_labels"))
    assert manifest["student"] == {"model": students[1], "fingerprint": rows[students[1]]["encoder_id"]}


def test_a_choice_stands_while_the_collection_moves(
    chosen: Any, students: tuple[str, str], instance: dg.DagsterInstance, beir_folder: Path
) -> None:
    """Chosen anew with each batch, one better dev query would throw away all negatives, scores and students."""
    list(run_line(build_definitions(chosen), chosen, instance, until="hard_negatives"))
    with (beir_folder / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"_id": "new", "title": "", "text": "a new document of the matrix"}\n')
    steps = made(run_line(build_definitions(chosen), chosen, instance, until="hard_negatives"))
    assert "student_choice" not in steps and "hard_negatives" in steps
    assert status_of(chosen, "student_choice").condition == "aged"
    [answer] = explain(chosen, "student_choice")
    assert "retrain --fresh-student chooses anew" in answer.sentence


def test_other_students_are_tried_and_one_alone_needs_no_trial(
    chosen: Any, students: tuple[str, str], instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A trial of models that are not set any more would decide what is distilled."""
    list(run_line(build_definitions(chosen), chosen, instance, until="student_choice"))
    third = shutil.copytree(students[1], tmp_path / "third")
    (third / "README.md").write_text("the same model")
    shutil.copy(tmp_path / "broken" / "model.safetensors", third / "model.safetensors")
    other = type(chosen)(overrides={**chosen.overrides, "students": (students[0], str(third))})
    assert status_of(other, "student_choice").condition == "stale"
    assert other.models.student_name == students[0], "a choice that is not on the list any more is none"
    alone = type(chosen)(overrides={**chosen.overrides, "students": (), "student": students[0]})
    assert alone.models.student_name == students[0]
    steps = made(run_line(build_definitions(alone), alone, instance, until="hard_negatives"))
    assert steps == ["hard_negatives"]


def test_a_killed_choice_goes_on_with_the_next_trial(
    chosen: Any, students: tuple[str, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five trials of minutes each would begin with the first again."""
    from distill_assets.handles.models import Models
    from distill_assets.training import trainer

    load, steps = Models.load_student, list[int]()
    begin = trainer.StudentLoss.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return begin(self, *args, **kwargs)

    def kill(self: Models, path: Path, *rest: Any, **named: Any) -> Any:
        if path == Path(students[1]).resolve() and len(steps) > 0:
            raise KeyboardInterrupt
        return load(self, path, *rest, **named)

    monkeypatch.setattr(trainer.StudentLoss, "forward", counted)
    list(run_line(build_definitions(chosen), chosen, instance, until="qrels"))
    with monkeypatch.context() as patched:
        patched.setattr(Models, "load_student", kill)
        with pytest.raises(KeyboardInterrupt):
            list(run_line(build_definitions(chosen), chosen, instance, until="student_choice"))
    first = len(steps)
    list(run_line(build_definitions(chosen), chosen, instance, until="student_choice"))
    assert first > 0 and len(steps) == 2 * first, "each student trained once"


def test_what_cannot_be_chosen_from_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One name, or one twice, is a slip of the pen; a prompt for all would be the wrong one for all but one."""
    monkeypatch.chdir(tmp_path)
    for students in (("a",), ("a", "a")):
        with pytest.raises(SettingsError, match="expected two or more names, each once"):
            load_settings(students=students)
    with pytest.raises(SettingsError, match="each of several students reads with its own prompts"):
        load_settings(students=("a", "b"), query_prompt="query: ")
