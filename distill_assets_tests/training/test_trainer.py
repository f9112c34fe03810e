"""Training on tiny models: it learns, it repeats, it resumes, it keeps the best step, and it refuses what cannot work."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerState

from distill_assets.errors import TrainingError
from distill_assets.evaluation.metrics import DevList
from distill_assets.models.encoders import grow_cross_encoder, load_student, load_teacher
from distill_assets.training import trainer
from distill_assets.training.lists import Epochs, TrainList
from distill_assets.training.recipes import Recipe, TeacherRecipe
from distill_assets.training.trainer import TrainingReport, TrainingRun, train_student, train_teacher
from distill_assets_tests.conftest import ACTIONS, TOPICS

RECIPE = Recipe(
    name="tiny",
    loss={"margin_mse": 1.0, "info_nce": 1.0},
    num_negatives=2,
    epochs=2,
    batch_size=8,
    learning_rate=3e-3,
)
TEACHER_RECIPE = TeacherRecipe(epochs=2, batch_size=8, learning_rate=3e-3)


def text_of(topic: str, action: str) -> str:
    """One document."""
    return f"{topic} {action} every value of the {topic} along one axis"


def make_lists(count: int = 48) -> list[TrainList]:
    """Query (topic, action); negatives have the same topic or the same action; the teacher gives 6 to the positive."""
    lists = []
    for i in range(count):
        topic, action = TOPICS[i % 10], ACTIONS[(i // 10 + i) % 12]
        other_topic, other_action = TOPICS[(i + 3) % 10], ACTIONS[(i // 10 + i + 5) % 12]
        documents = (text_of(topic, action), text_of(topic, other_action), text_of(other_topic, action))
        lists.append(TrainList(f"q{i}", f"how to {action} a {topic}", documents, (6.0, -2.0, -3.0)))
    return lists


LISTS = make_lists()
DEV_LISTS = [DevList(g.query_id, g.query, g.documents, (1, 0, 0)) for g in make_lists(60)[48:]]


def student(
    path: Path, lists: list[TrainList], run: TrainingRun, recipe: Recipe = RECIPE
) -> tuple[Any, TrainingReport]:
    """A fresh student, trained."""
    model = load_student(path, device="cpu")
    return model, train_student(model, Epochs([lists] * recipe.epochs), DEV_LISTS, recipe, run)


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(autouse=True)
def _nothing_measured_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that put dev values in place of the measured ones start from one model."""
    monkeypatch.setattr(trainer, "_dev_of_start", {})


@pytest.fixture
def run(tmp_path: Path) -> TrainingRun:
    """A work folder of its own."""
    return TrainingRun(tmp_path / "work", "cpu")


class ScriptedDev:
    """Gives the dev evaluations in turn from a list and keeps the weights at each; an exception in it is raised.

    Step 0 is not in the list: it gets `start`, and its weights are `begun`.
    """

    def __init__(self, values: list[float | Exception], start: float = 0.0) -> None:
        self.values, self.start = values, start
        self.seen: list[dict[str, torch.Tensor]] = []
        self.begun: dict[str, torch.Tensor] = {}
        self.is_start = False

    def measure(self, model: Any) -> float:
        """Stand in for `StepTrainer.measure_dev`."""
        if self.is_start:
            self.begun = weights(model)
            return self.start
        self.seen.append(weights(model))
        value = self.values[len(self.seen) - 1]
        if isinstance(value, Exception):
            raise value
        return value

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "ScriptedDev":
        """Replace the trainer's measure, and know the one of step 0."""
        save_start = trainer.StepTrainer.save_start

        def save(trainer: Any) -> Path:
            self.is_start = True
            try:
                return save_start(trainer)
            finally:
                self.is_start = False

        monkeypatch.setattr(trainer.StepTrainer, "save_start", save)
        monkeypatch.setattr(trainer.StepTrainer, "measure_dev", lambda trainer: self.measure(trainer.model.model))
        return self


def test_student_learns(tiny_encoder: Path, run: TrainingRun) -> None:
    """A detached loss trains without an error and changes nothing: the loss falls and the dev queries rank better than before.

    48 lists in batches of 8 for 2 epochs are 12 steps.
    """
    _, report = student(tiny_encoder, LISTS, run, replace(RECIPE, teacher_logits="standardised", margin_scale=5.0))
    assert report.num_steps == 12 and report.num_groups == 48 and report.resumed_from_step == 0
    losses = [loss for _, loss in report.losses]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert [step for step, _ in report.dev_curve] == [0, 6, 12]
    assert report.best_dev_ndcg_at_10 == max(value for _, value in report.dev_curve) <= 1.0
    before = report.dev_curve[0][1]
    assert report.best_step > 0 and report.best_dev_ndcg_at_10 > before + 0.05


def test_hard_labels_need_no_logits(tiny_encoder: Path, run: TrainingRun) -> None:
    """The baseline must run where no teacher ever did, and must not read logits where one did."""
    recipe = replace(RECIPE, loss="hard_labels")
    model, _ = student(tiny_encoder, [replace(g, teacher_logits=None) for g in LISTS], run, recipe)
    other, _ = student(tiny_encoder, LISTS, replace(run, work_folder=run.work_folder / "other"), recipe)
    assert same(weights(model), weights(other))


def test_teacher_learns(tiny_encoder: Path, run: TrainingRun) -> None:
    """The same for the cross-encoder that is grown from the student's encoder."""
    model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
    before = weights(model)
    report = train_teacher(model, Epochs([LISTS] * 2), DEV_LISTS, TEACHER_RECIPE, run)
    losses = [loss for _, loss in report.losses]
    assert report.num_steps == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert not torch.equal(before["1.linear.weight"], model.state_dict()["1.linear.weight"])
    assert report.best_step > 0 and report.best_dev_ndcg_at_10 > report.dev_curve[0][1] + 0.05


def test_a_published_cross_encoder_can_be_fine_tuned(tiny_cross_encoder: Path, run: TrainingRun) -> None:
    """teacher_finetune trains a classification head, which another code path saves and loads again."""
    model = load_teacher(tiny_cross_encoder, device="cpu", max_length=48)
    before = weights(model)
    assert train_teacher(model, Epochs([LISTS[:16]] * 2), DEV_LISTS, TEACHER_RECIPE, run).num_steps == 4
    assert not same(before, weights(model))


def test_the_same_seed_gives_the_same_weights(tiny_encoder: Path, run: TrainingRun) -> None:
    """Without it no two recipes can be compared. Another seed must differ, or the seed reaches nothing."""
    first, _ = student(tiny_encoder, LISTS, run)
    torch.rand(17)  # the state that a caller leaves must not matter
    second, _ = student(tiny_encoder, LISTS, replace(run, work_folder=run.work_folder / "b"))
    third, _ = student(tiny_encoder, LISTS, replace(run, work_folder=run.work_folder / "c"), replace(RECIPE, seed=99))
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(third))


@pytest.mark.parametrize(
    ("values", "best"),
    [([0.9, 0.1], 0), ([0.1, 0.9], 1), ([0.5, 0.5], 0)],
    ids=["first", "last", "tie goes to the first"],
)
def test_the_best_dev_step_is_kept(
    values: list[float], best: int, tiny_encoder: Path, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step is what a trainer leaves by default: over-trained weights would be saved as the best ones."""
    dev = ScriptedDev([*values]).install(monkeypatch)
    model, report = student(tiny_encoder, LISTS, run)
    assert same(weights(model), dev.seen[best])
    assert not same(dev.seen[0], dev.seen[1])
    assert (report.best_step, report.best_dev_ndcg_at_10) == ([6, 12][best], max(values))


def test_the_best_dev_step_of_a_teacher_is_kept(
    tiny_encoder: Path, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The own head must come back from the checkpoint too, although the trainer has to import its class by name."""
    dev = ScriptedDev([0.9, 0.1]).install(monkeypatch)
    model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
    train_teacher(model, Epochs([LISTS] * 2), DEV_LISTS, TEACHER_RECIPE, run)
    assert same(weights(model), dev.seen[0])
    assert not torch.equal(dev.seen[0]["1.linear.weight"], dev.seen[1]["1.linear.weight"])


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_the_best_dev_step_of_an_adapter_is_kept(
    kind: str, tiny_encoder: Path, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stock trainers cannot load what they saved of a model with adapters: they log it and go on with the last step."""
    from experiments.adapters import add_adapter

    dev = ScriptedDev([0.9, 0.1]).install(monkeypatch)
    if kind == "student":
        model: Any = load_student(tiny_encoder, device="cpu")
        add_adapter(model, rank=2)
        train_student(model, Epochs([LISTS] * 2), DEV_LISTS, RECIPE, run)
    else:
        model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
        add_adapter(model, rank=2)
        train_teacher(model, Epochs([LISTS] * 2), DEV_LISTS, TEACHER_RECIPE, run)
    assert same(weights(model), dev.seen[0])
    assert not same(dev.seen[0], dev.seen[1])


def test_training_that_is_never_better_gives_the_model_back(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student that training harms would be shipped as "the best step" of those that harm: step 0 is one of them.

    A tie goes to step 0. After a kill the start is not measured again, and its weights are still there.
    """
    with monkeypatch.context() as patch:
        dev = ScriptedDev([0.5, 0.4], start=0.5).install(patch)
        model, report = train(tmp_path / "whole", 2)
        assert same(weights(model), dev.begun) and not same(dev.begun, dev.seen[0])
        assert (report.best_step, report.best_dev_ndcg_at_10, report.dev_curve[0]) == (0, 0.5, (0, 0.5))
    with monkeypatch.context() as patch:
        begun = ScriptedDev([0.5, KilledError()], start=0.5).install(patch).begun
        with pytest.raises(KilledError):
            train(tmp_path / "killed", 2)
    with monkeypatch.context() as patch:
        rest = ScriptedDev([0.4], start=0.9).install(patch)
        model, report = train(tmp_path / "killed", 2)
        assert (report.best_step, report.resumed_from_step, report.dev_curve[0]) == (0, 6, (0, 0.5))
        assert same(weights(model), dev.begun) and not begun and not rest.begun


def test_training_stops_where_dev_no_longer_rises(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps after the stop cost time; steps that a resume adds after it give a model that no run without a kill gives.

    Evaluations at 3, 6, 9 and 12; neither 6 nor 9 is better than 3, so 9 is the end.
    """
    with monkeypatch.context() as patch:
        dev = ScriptedDev([0.3, 0.2, 0.3]).install(patch)
        model, report = train(tmp_path / "work", 4)
        assert (report.num_steps, report.best_step) == (9, 3)
        assert same(weights(model), dev.seen[0])
    with monkeypatch.context() as patch:
        again = ScriptedDev([]).install(patch)
        model, resumed = train(tmp_path / "work", 4)
        assert resumed == replace(report, resumed_from_step=9) and not again.seen
        assert same(weights(model), dev.seen[0])
    with monkeypatch.context() as patch:
        ScriptedDev([0.3, 0.2, 0.31, 0.2]).install(patch)
        _, report = train(tmp_path / "rises", 4)
        assert (report.num_steps, report.best_step) == (12, 9)


class KilledError(Exception):
    """What interrupts training in these tests."""


@pytest.fixture(params=["student", "teacher"])
def train(request: pytest.FixtureRequest, tiny_encoder: Path) -> Iterator[Any]:
    """Train either kind of model, fresh, in a work folder."""

    def train_fresh(work_folder: Path, num_evaluations: int) -> tuple[Any, TrainingReport]:
        run = TrainingRun(work_folder, "cpu", num_evaluations=num_evaluations)
        if request.param == "student":
            return student(tiny_encoder, LISTS, run)
        model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
        return model, train_teacher(model, Epochs([LISTS] * 2), DEV_LISTS, TEACHER_RECIPE, run)

    yield train_fresh


@pytest.mark.parametrize(
    ("num_evaluations", "killed_at"), [(3, 1), (3, 2), (2, 1)], ids=["in epoch 1", "in epoch 2", "between epochs"]
)
def test_resuming_ends_where_an_uninterrupted_run_does(
    num_evaluations: int, killed_at: int, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume that draws other batches, other dropout or a fresh optimiser gives a model that nobody can repeat.

    12 steps, 6 an epoch: 3 saves are at 4, 8 and 12, 2 at 6 and 12. Killed in the evaluation after the given save.
    """
    values = [0.1, 0.2, 0.3][:num_evaluations]
    with monkeypatch.context() as patch:
        ScriptedDev([*values]).install(patch)
        expected, expected_report = train(tmp_path / "whole", num_evaluations)
    with monkeypatch.context() as patch:
        ScriptedDev([*values[:killed_at], KilledError()]).install(patch)
        with pytest.raises(KilledError):
            train(tmp_path / "work", num_evaluations)
    with monkeypatch.context() as patch:
        rest = ScriptedDev([*values[killed_at:]]).install(patch)
        model, report = train(tmp_path / "work", num_evaluations)
    assert report.resumed_from_step == 12 // num_evaluations * killed_at
    assert len(rest.seen) == num_evaluations - killed_at
    assert (report.dev_curve, report.losses) == (expected_report.dev_curve, expected_report.losses)
    assert same(weights(model), weights(expected))


def test_resuming_keeps_a_best_step_from_before_the_kill(
    tiny_encoder: Path, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best step may lie before the kill: its score and its weights must both survive."""
    before = ScriptedDev([0.9, KilledError()]).install(monkeypatch)
    with pytest.raises(KilledError):
        student(tiny_encoder, LISTS, run)
    ScriptedDev([0.2]).install(monkeypatch)
    model, report = student(tiny_encoder, LISTS, run)
    assert (report.best_step, report.best_dev_ndcg_at_10) == (6, 0.9)
    assert same(weights(model), before.seen[0])


@pytest.mark.parametrize("written_last", ["trained.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_kill_in_the_middle_of_a_save_costs_the_steps_since_the_one_before(
    written_last: str, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half save has the highest number: every later run died with a FileNotFoundError until someone emptied the folder.

    Saves at 4, 8 and 12; killed while the file is written for step 8: half of it is there, and nothing that comes after it.
    """
    method = {
        "trained.safetensors": (trainer.StepTrainer, "_save"),
        "optimizer.pt": (trainer.StepTrainer, "_save_optimizer_and_scheduler"),
        "rng_state.pth": (trainer.StepTrainer, "_save_rng_state"),
        "trainer_state.json": (TrainerState, "save_to_json"),
    }[written_last]
    with monkeypatch.context() as patch:
        ScriptedDev([0.1, 0.2, 0.3]).install(patch)
        expected, expected_report = train(tmp_path / "whole", 3)
    half = tmp_path / "work" / "checkpoint-8" / written_last
    write = getattr(*method)

    def write_and_die(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        if half.is_file():
            half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
            raise KilledError

    with monkeypatch.context() as patch:
        ScriptedDev([0.1, 0.2]).install(patch)
        patch.setattr(*method, write_and_die)
        with pytest.raises(KilledError):
            train(tmp_path / "work", 3)
    with monkeypatch.context() as patch:
        ScriptedDev([0.2, 0.3]).install(patch)
        model, report = train(tmp_path / "work", 3)
    assert report == replace(expected_report, resumed_from_step=4)
    assert same(weights(model), weights(expected))


@pytest.mark.parametrize("kept", [(0.1, 0.2, 0.3), (0.9, 0.2, 0.3)], ids=["last is best", "first is best"])
def test_the_newest_and_the_best_save_are_kept_no_more(
    kept: tuple[float, ...], tiny_encoder: Path, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three copies of a large model and its optimiser fill a disk; without the best one its score outlives its weights."""
    ScriptedDev([*kept]).install(monkeypatch)
    student(tiny_encoder, LISTS, replace(run, num_evaluations=3))
    expected = {"checkpoint-8", "checkpoint-12"} if kept[0] < kept[2] else {"checkpoint-4", "checkpoint-12"}
    assert {path.name for path in run.work_folder.glob("checkpoint-*")} == expected


def test_a_best_step_whose_weights_are_lost_is_trained_again(
    tiny_encoder: Path, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer forgets the lost weights and keeps their score: the last step's weights are reported with the best step's."""
    first = ScriptedDev([0.9, 0.2, KilledError()]).install(monkeypatch)
    run = replace(run, num_evaluations=3)
    with pytest.raises(KilledError):
        student(tiny_encoder, LISTS, run)
    shutil.rmtree(run.work_folder / "checkpoint-4")
    ScriptedDev([0.9, 0.2, 0.3]).install(monkeypatch)
    model, report = student(tiny_encoder, LISTS, run)
    assert (report.resumed_from_step, report.best_step) == (0, 4)
    assert same(weights(model), first.seen[0])


OTHER_RUNS = ["recipe", "logits", "weights", "evaluations", "length"]


@pytest.mark.parametrize("what", OTHER_RUNS)
def test_a_work_folder_of_another_run_is_not_gone_on_from(
    what: str, tiny_encoder: Path, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone on from its last step, a foreign save trains 0 steps and returns foreign weights under this recipe's name."""
    ScriptedDev([0.1, 0.2, 0.3, 0.4] * 3).install(monkeypatch)

    def other(run: TrainingRun) -> tuple[Any, TrainingReport]:
        recipe = replace(RECIPE, learning_rate=1e-3) if what == "recipe" else RECIPE
        lists = [replace(g, teacher_logits=(7.0, -2.0, -3.0)) for g in LISTS] if what == "logits" else LISTS
        run = replace(run, num_evaluations=4) if what == "evaluations" else run
        model = load_student(tiny_encoder, device="cpu", max_length=5 if what == "length" else None)
        if what == "weights":
            with torch.no_grad():
                next(model.parameters())[7, 3] += 0.5
        return model, train_student(model, Epochs([lists] * recipe.epochs), DEV_LISTS, recipe, run)

    student(tiny_encoder, LISTS, run)
    model, report = other(run)
    expected, _ = other(replace(run, work_folder=run.work_folder.with_name("empty")))
    assert report.resumed_from_step == 0
    assert same(weights(model), weights(expected))


def test_two_visible_gpus_train_every_step(
    tiny_encoder: Path, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer takes as many items at once as there are GPUs: every second step was dropped, and the report looked the same."""
    expected, _ = student(tiny_encoder, LISTS, run)

    class TwoGpus(trainer.TrainingArguments):
        def __post_init__(self) -> None:
            super().__post_init__()
            self._n_gpu = 2

    monkeypatch.setattr(trainer, "TrainingArguments", TwoGpus)
    model, report = student(tiny_encoder, LISTS, replace(run, work_folder=run.work_folder.with_name("two")))
    assert report.num_steps == 12
    assert same(weights(model), weights(expected))


def test_two_steps_in_one_are_refused() -> None:
    """The second one would be dropped: a run on half of the data looks like a run on all."""
    with pytest.raises(TrainingError, match="2 planned steps came as one, expected 1"):
        trainer._the_step([{}, {}])


def test_the_report_says_which_queries_were_left_out(tiny_encoder: Path, run: TrainingRun) -> None:
    """A student of a tenth of the queries otherwise differs in nothing from a student of all."""
    model = load_student(tiny_encoder, device="cpu")
    report = train_student(model, Epochs([LISTS[:8]] * 2, {"no_positive": 3}), DEV_LISTS, RECIPE, run)
    assert report.num_queries_left_out == {"no_positive": 3}


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_loss_that_is_not_finite_is_refused(
    kind: str, tiny_encoder: Path, run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer replaces NaN losses by the average of the others in its log: the curve looks fine, the model is noise."""
    ScriptedDev([0.5, 0.5]).install(monkeypatch)
    target = "margin_mse" if kind == "student" else "listwise_softmax"
    monkeypatch.setattr(f"distill_assets.training.losses.{target}", lambda scores, *logits: scores.sum() * float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        if kind == "student":
            student(tiny_encoder, LISTS, run)
        else:
            model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
            train_teacher(model, Epochs([LISTS] * 2), DEV_LISTS, TEACHER_RECIPE, run)
    assert [save.name for save in run.work_folder.glob("checkpoint-*")] == ["checkpoint-0"]


@pytest.mark.parametrize("logits", [None, (1.0, 2.0), (1.0, 2.0, 3.0, 4.0)])
def test_lists_without_their_logits_are_refused(logits: Any, tiny_encoder: Path, run: TrainingRun) -> None:
    """The batch would train without the teacher, or pair each logit with another document."""
    lists = [*LISTS[:7], replace(LISTS[7], teacher_logits=logits)]
    with pytest.raises(TrainingError, match="query 'q7' has"):
        student(tiny_encoder, lists, run)


@pytest.mark.parametrize(
    "lists",
    [
        [],
        [replace(g, documents=g.documents[:1]) for g in LISTS],
        [LISTS[0], replace(LISTS[1], documents=LISTS[1].documents[:2])],
    ],
    ids=["none", "no negative", "ragged"],
)
def test_lists_that_make_no_table_are_refused(lists: list[TrainList], tiny_encoder: Path, run: TrainingRun) -> None:
    """An empty list was an IndexError deep inside; a ragged one lost columns."""
    recipe = replace(RECIPE, loss="hard_labels")
    with pytest.raises(TrainingError, match="expected at least one list"):
        student(tiny_encoder, lists, run, recipe)
    with pytest.raises(TrainingError, match="expected at least one list"):
        model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
        train_teacher(model, Epochs([lists] if lists else []), DEV_LISTS, TEACHER_RECIPE, run)


@pytest.mark.parametrize("count", [1, 5, 8, 9])
def test_fewer_lists_than_a_batch_still_train(count: int, tiny_encoder: Path, run: TrainingRun) -> None:
    """A dropped incomplete batch would leave no step at all, and a report without a dev score."""
    _, report = student(tiny_encoder, LISTS[:count], run)
    assert report.num_steps == 2 and [step for step, _ in report.dev_curve] == [0, 1, 2]


def test_lists_that_share_their_positive(tiny_encoder: Path, run: TrainingRun) -> None:
    """No text may meet itself as in-batch negative; a sampler that keeps such queries apart found no full batch here."""
    shared = [replace(g, documents=(LISTS[0].documents[0], *g.documents[1:])) for g in LISTS]
    _, report = student(tiny_encoder, shared, run)
    assert report.num_steps == 12


def test_every_group_is_seen_once_an_epoch(tiny_encoder: Path) -> None:
    """A sampler that drops or repeats lists trains another set than the report counts."""
    steps = trainer.plan_steps([LISTS, LISTS[:16]], batch_size=8, seed=3)
    assert [len(step) for step in steps] == [8] * 8
    assert sorted(g.query_id for step in steps[:6] for g in step) == sorted(g.query_id for g in LISTS)
    assert sorted(g.query_id for step in steps[6:] for g in step) == sorted(g.query_id for g in LISTS[:16])
    assert steps == trainer.plan_steps([LISTS, LISTS[:16]], batch_size=8, seed=3)
    assert steps != trainer.plan_steps([LISTS, LISTS[:16]], batch_size=8, seed=4)


def test_warm_up_is_a_share_of_the_steps(run: TrainingRun) -> None:
    """Read as a number of steps, 0.1 is no warm-up at all: AdamW's first steps at full rate undo what the encoder knows."""
    assert trainer._arguments(run, RECIPE, 200).get_warmup_steps(200) == 20


def test_a_learned_scale_moves_is_reported_and_survives_a_kill(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale that the optimiser does not know, or a resume that starts it anew, trains at a scale that nobody wrote down."""
    recipe = replace(RECIPE, margin_scale="learned", loss="margin_mse")
    values = [0.1, 0.2]
    with monkeypatch.context() as patch:
        ScriptedDev([*values]).install(patch)
        whole, expected = student(tiny_encoder, LISTS, TrainingRun(tmp_path / "whole", "cpu"), recipe)
    with monkeypatch.context() as patch:
        ScriptedDev([values[0], KilledError()]).install(patch)
        with pytest.raises(KilledError):
            student(tiny_encoder, LISTS, TrainingRun(tmp_path / "work", "cpu"), recipe)
    with monkeypatch.context() as patch:
        ScriptedDev(values[1:]).install(patch)
        model, report = student(tiny_encoder, LISTS, TrainingRun(tmp_path / "work", "cpu"), recipe)
    assert report.teacher is not None and report.learned_margin_scale is not None
    assert report.resumed_from_step == 6 and report.learned_margin_scale == expected.learned_margin_scale
    assert abs(report.learned_margin_scale / (10 * report.teacher.spread) - 1) > 0.01
    assert same(weights(model), weights(whole))


def test_a_teacher_whose_softmax_is_one_hot_is_refused(tiny_encoder: Path, run: TrainingRun) -> None:
    """At temperature 0.05 a range of 9 is 180: exp(-180) is 0 in float32 and the list teaches its top alone, as hard labels do."""
    recipe = replace(RECIPE, loss="kl", teacher_temperature=0.05)
    with pytest.raises(TrainingError, match="range over 9.*set teacher_temperature above 0.11"):
        student(tiny_encoder, LISTS, run, recipe)


@pytest.mark.parametrize("loss", ["margin_mse", "kl", "ranknet", "adr_mse"])
def test_every_list_loss_teaches_the_order_of_the_teacher(loss: str, tiny_encoder: Path, run: TrainingRun) -> None:
    """A loss with a swapped sign trains without an error, away from the teacher.

    The teacher prefers the second document, the labels the first: after training the second must win more often than before.
    """
    lists = [replace(g, teacher_logits=(-2.0, 6.0, -3.0)) for g in LISTS]
    recipe = replace(RECIPE, loss=loss, teacher_logits="standardised", margin_scale=5.0, epochs=4)
    dev = [DevList(g.query_id, g.query, g.documents, (0, 1, 0)) for g in LISTS]
    model = load_student(tiny_encoder, device="cpu")
    before = trainer.search_dev(model, dev)
    report = train_student(model, Epochs([lists] * 4), dev, recipe, run)
    assert report.best_dev_ndcg_at_10 > before + 0.05


def test_dev_evaluation_of_a_teacher_by_hand(tiny_encoder: Path) -> None:
    """What decides the best step: scores of all pairs are cut apart again, and lists of unequal width show a cut that is off."""
    lists = [DevList("a", "sum", ("sum", "sort", "rank"), (1, 0, 0)), DevList("b", "sort", ("sum", "sort"), (0, 1))]
    teacher = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
    found = []
    for dev_list in lists:
        scores = teacher.predict([(dev_list.query, d) for d in dev_list.documents], show_progress_bar=False).tolist()
        rank = sorted(scores, reverse=True).index(scores[dev_list.relevances.index(1)]) + 1
        found.append(1 / math.log2(1 + rank))
    assert trainer.rerank_dev(teacher, lists) == pytest.approx(sum(found) / 2)


def test_dev_evaluation_of_a_student_searches_all_candidates_and_what_was_missed(tiny_encoder: Path) -> None:
    """Ranked among its own candidates alone, a student gets nothing for finding what the untouched one missed.

    Each text is most like itself. "rank" was missed for query a: found, it is the first of five.
    """
    lists = [
        DevList("a", "rank", ("sum", "sort"), (0, 0), (1,), ("rank",)),
        DevList("b", "sort", ("sum", "sort"), (0, 1)),
    ]
    model = load_student(tiny_encoder, device="cpu")
    assert trainer.search_dev(model, lists) == pytest.approx(1.0)
    hidden = [replace(lists[0], query="sum"), lists[1]]  # its own text comes before the one that is relevant
    assert 0.5 < trainer.search_dev(model, hidden) < 0.9


def test_the_model_that_all_recipes_start_from_is_measured_once(
    tiny_encoder: Path, run: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its search of dev took as long as a recipe's other one; another start must not be taken for it."""
    measured = []
    measure = trainer.search_dev
    monkeypatch.setattr(trainer, "search_dev", lambda *args: measured.append(measure(*args)) or measured[-1])
    _, first = student(tiny_encoder, LISTS[:16], replace(run, num_evaluations=1))
    others = replace(RECIPE, learning_rate=1e-3), TrainingRun(tmp_path / "other", "cpu", num_evaluations=1)
    _, second = student(tiny_encoder, LISTS[:16], others[1], others[0])
    assert len(measured) == 3
    assert first.dev_curve[0] == second.dev_curve[0] == (0, measured[0])
    model = load_student(tiny_encoder, device="cpu", max_length=8)
    train_student(model, Epochs([LISTS[:16]] * 2), DEV_LISTS, RECIPE, TrainingRun(tmp_path / "short", "cpu"))
    assert len(measured) == 6  # its start, and two steps


def test_dev_is_not_searched_for_longer_than_training_is_worth() -> None:
    """48 lists of 4 texts in 2 epochs train 384 texts. A search of 30 queries with 2 documents each encodes 90: 4 are affordable."""
    lists = [DevList(f"q{i}", f"query {i}", (f"a {i}", f"b {i}"), (1, 0)) for i in range(30)]
    assert trainer.affordable_evaluations([LISTS] * 2, lists, 9) == 4
    assert trainer.affordable_evaluations([LISTS] * 2, lists, 3) == 3
    assert trainer.affordable_evaluations([LISTS[:1]], lists, 3) == 1  # without any, training could only make worse
