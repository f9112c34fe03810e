"""Training of students and teachers on transformers' trainer: seeded, resumable, best dev step kept.

The model as it is before training is step 0. Where no later step is better on dev, training ends with it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch.utils.data import SequentialSampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import rotate_checkpoints

from distill_assets.errors import TrainingError
from distill_assets.evaluation.metrics import DevList, rerank_ndcg, search_ndcg
from distill_assets.models.encoders import CrossEncoderScorer, encode_texts, has_fast_bf16
from distill_assets.progress import Progress
from distill_assets.records import fingerprint
from distill_assets.training.batches import Step, StudentSteps, num_buckets_on, plan_steps
from distill_assets.training.lists import Epochs, TrainList, pairs_of, per_list
from distill_assets.training.losses import (
    SCALE_RATE,
    StudentLoss,
    TeacherLoss,
    TeacherStatistics,
    measure_logits,
    require_soft,
)
from distill_assets.training.recipes import Recipe, TeacherRecipe
from distill_assets.training.saves import keep_saves_of, mark_whole, newest_save

_DEV_METRIC = "eval_dev_ndcg_at_10"  # transformers asks for the prefix
_SAVES_KEPT = 2  # the newest and the best
# What decides the dev value of step 0. Students of all recipes start from one model: a process measures it once.
_START = frozenset({"device", "dev_lists", "max_length", "prompts", "start_weights"})
_dev_of_start: dict[str, float] = {}
_PATIENCE = 2  # dev evaluations in a row that are not better than the best so far: then training stops


@dataclass(frozen=True)
class TrainingRun:
    """Where and how often: nothing here changes what is learned, but for the number of dev evaluations.

    Attributes:
        work_folder: holds resumable state; the same call after a kill goes on from its last whole save. Saves of a call with
            another recipe, data, start weights or device are removed.
        num_evaluations: dev evaluations and saves over the whole run, beside that of step 0; 0 leaves the last weights, unsaved.
    """

    work_folder: Path
    device: str
    num_evaluations: int = 2


@dataclass(frozen=True)
class TrainingReport:
    """What training did; a manifest holds it under these names.

    Attributes:
        num_groups: lists of the first epoch.
        losses: (step, value).
        dev_curve: (step, nDCG@10): a student searches for it (`search_dev`), a teacher reranks the candidates.
        best_step: 0 where no step was better than the model before training, which was kept.
        teacher: statistics of the logits that were trained on.
        learned_margin_scale: where a learned scale ended.
        num_queries_left_out: queries that no epoch trained on, by reason (`training.lists.Epochs`).
    """

    num_groups: int
    num_steps: int
    losses: list[tuple[int, float]]
    dev_curve: list[tuple[int, float]]
    best_step: int
    best_dev_ndcg_at_10: float
    resumed_from_step: int
    teacher: TeacherStatistics | None = None
    learned_margin_scale: float | None = None
    num_queries_left_out: dict[str, int] = field(default_factory=dict)


def train_student(
    model: SentenceTransformer, epochs: Epochs, dev_lists: Sequence[DevList], recipe: Recipe, run: TrainingRun
) -> TrainingReport:
    """Train `model` in place by `recipe` on the lists of each epoch; afterwards it holds the weights of the best dev step.

    Step 0 is one of them. Training stops early where two dev evaluations in a row are not better than the best so far.
    For a recipe that trains the query tower alone, `model` is one that `split_towers` gave.

    Raises:
        TrainingError: no list, lists without teacher logits where the recipe needs them, a teacher that ranks nothing, or a loss
            that is not finite.
    """
    trainer = make_student_trainer(model, epochs, recipe, run, dev_lists)
    report = _train(trainer, epochs)
    scale = trainer.model.log_margin_scale
    learned = None if scale is None else float(scale.detach().exp())
    return replace(report, teacher=trainer.model.statistics, learned_margin_scale=learned)


def make_student_trainer(
    model: SentenceTransformer,
    epochs: Sequence[Sequence[TrainList]],
    recipe: Recipe,
    run: TrainingRun,
    dev_lists: Sequence[DevList] = (),
) -> "StepTrainer":
    """The trainer of a student, seeded and ready; without dev evaluations where the run asks for none."""
    set_seed(recipe.seed)
    statistics = _teacher_statistics(epochs, recipe)
    steps = plan_steps(epochs, batch_size=recipe.batch_size, seed=recipe.seed)
    data = StudentSteps(model, steps, recipe, num_buckets=num_buckets_on(run.device))
    objective = StudentLoss(model, recipe, statistics)
    return StepTrainer(objective, data, steps, dev_lists, recipe, run)


def affordable_evaluations(epochs: Sequence[Sequence[TrainList]], dev_lists: Sequence[DevList], at_most: int) -> int:
    """How many searches of dev take about a third of a student's training, from 1 to `at_most`.

    With its gradient a text costs three times as much as without. On two cores three searches took 42 % of `make run`'s training.
    """
    num_trained = sum(1 + len(found.documents) for lists in epochs for found in lists)
    return min(at_most, max(1, num_trained // max(1, len(dev_texts(dev_lists)) + len(dev_lists))))


def train_teacher(
    model: CrossEncoder, epochs: Epochs, dev_lists: Sequence[DevList], recipe: TeacherRecipe, run: TrainingRun
) -> TrainingReport:
    """Fine-tune a cross-encoder in place on the lists of each epoch; afterwards it holds the weights of the best dev step.

    Raises:
        TrainingError: no list, or a loss that is not finite.
    """
    set_seed(recipe.seed)
    steps = plan_steps(epochs, batch_size=recipe.batch_size, seed=recipe.seed)
    data = [{"lists": step} for step in steps]
    return _train(StepTrainer(TeacherLoss(model), data, steps, dev_lists, recipe, run), epochs)


def _teacher_statistics(epochs: Sequence[Sequence[TrainList]], recipe: Recipe) -> TeacherStatistics | None:
    """Statistics of the logits that the recipe trains on; None where it reads none."""
    logits = []
    for found in (found for lists in epochs for found in lists if recipe.uses_teacher):
        if found.teacher_logits is None or len(found.teacher_logits) != 1 + recipe.num_negatives:
            raise TrainingError(
                f"recipe {recipe.name!r} needs one teacher logit for the positive and each of {recipe.num_negatives} negatives, "
                f"query {found.query_id!r} has {len(found.teacher_logits or ())}: materialise teacher_scores"
            )
        logits.append(found.teacher_logits)
    if not logits:
        return None
    statistics = measure_logits(logits)
    if "kl" in recipe.loss_weights:
        unit = statistics.spread if recipe.teacher_logits == "standardised" else 1.0
        require_soft(statistics, recipe.teacher_temperature * unit)
    return statistics


def _arguments(run: TrainingRun, recipe: Recipe | TeacherRecipe, num_steps: int) -> TrainingArguments:
    every = max(1, num_steps // max(1, run.num_evaluations))
    saves = "steps" if run.num_evaluations else "no"
    arguments = TrainingArguments(
        output_dir=str(run.work_folder),
        num_train_epochs=1,  # the data hold the steps of all epochs in order
        per_device_train_batch_size=1,  # one item of the data is one step
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_share,
        seed=recipe.seed,
        data_seed=recipe.seed,
        bf16=has_fast_bf16(run.device),
        use_cpu=run.device == "cpu",
        eval_strategy=saves,
        eval_steps=every,
        save_strategy=saves,
        save_steps=every,
        load_best_model_at_end=run.num_evaluations > 0,
        metric_for_best_model=_DEV_METRIC,
        greater_is_better=True,
        logging_steps=max(1, num_steps // 20),
        logging_nan_inf_filter=False,  # on, it writes the average of the other losses for a NaN, and `_Watch` sees none
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
    )
    # With two, transformers would put two steps into one and split the step's tensors.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _train(trainer: "StepTrainer", epochs: Epochs) -> TrainingReport:
    """Train from the newest save that is there, else from the start; report what came of it."""
    keep_saves_of(trainer.run.work_folder, trainer.description)
    last = newest_save(trainer.run.work_folder) or trainer.save_start()
    trainer.go_on_from(last)
    state = trainer.state
    return TrainingReport(
        num_groups=len(epochs[0]),
        num_steps=state.global_step,
        losses=[(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry],
        dev_curve=_dev_curve(state.log_history),
        best_step=state.best_global_step,
        best_dev_ndcg_at_10=state.best_metric,
        resumed_from_step=int(last.name.rsplit("-", 1)[1]),
        num_queries_left_out=epochs.left_out,
    )


def _dev_curve(history: Sequence[dict[str, float]]) -> list[tuple[int, float]]:
    """(step, nDCG@10) of every dev evaluation in a trainer's history."""
    return [(int(entry["step"]), entry[_DEV_METRIC]) for entry in history if _DEV_METRIC in entry]


def _has_stopped(history: Sequence[dict[str, float]]) -> bool:
    """Whether the last `_PATIENCE` dev evaluations are no better than the best one before them."""
    values = [value for _, value in _dev_curve(history)]
    before, recent = values[:-_PATIENCE], values[-_PATIENCE:]
    return bool(before) and max(recent) <= max(before)


def _fingerprint_weights(model: torch.nn.Module) -> str:
    """Changes when any weight or buffer of a model changes by a bit. A second for about 1 GB."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def search_dev(model: SentenceTransformer, lists: Sequence[DevList]) -> float:
    """nDCG@10 of a student that searches, for each dev query, among the candidates and judged documents of all of them.

    A search among all documents of the collection would encode them anew at each evaluation. On a collection of topics this one
    puts two students in the same order and 0.006 apart from it (docs/results.md).
    """
    texts = dev_texts(lists)
    documents = encode_texts(model, texts, "document")
    queries = encode_texts(model, [dev_list.query for dev_list in lists], "query")
    return search_ndcg(lists, texts, queries @ documents.T)


def dev_texts(lists: Sequence[DevList]) -> list[str]:
    """Candidates and judged documents of all dev queries, each once, sorted."""
    return sorted({text for dev_list in lists for text in (*dev_list.documents, *dev_list.missed_documents)})


def rerank_dev(model: CrossEncoder, lists: Sequence[DevList]) -> float:
    """nDCG@10 of a teacher that reranks each dev query's candidates."""
    return rerank_ndcg(lists, per_list(lists, CrossEncoderScorer(model)(pairs_of(lists))))


class StepTrainer(Trainer):
    """transformers' trainer over planned steps: one item of the data is one step, the model is a loss of `training/losses.py`.

    What is saved and loaded is what the loss trains, by name: all weights and the learned scale, or adapters alone.
    """

    _file_name = "trained.safetensors"
    control: Any

    def __init__(
        self,
        objective: StudentLoss | TeacherLoss,
        data: Any,
        steps: Sequence[Step],
        dev_lists: Sequence[DevList],
        recipe: Recipe | TeacherRecipe,
        run: TrainingRun,
    ) -> None:
        super().__init__(
            model=objective,
            args=_arguments(run, recipe, len(steps)),
            train_dataset=data,
            eval_dataset=dev_lists,
            data_collator=_the_step,
            callbacks=[_Watch(), _Told(len(steps))],
        )
        self.remove_callback(PrinterCallback)  # it writes to stdout, where --json has its document
        self.steps, self.dev_lists, self.recipe, self.run = steps, list(dev_lists), recipe, run

    @cached_property
    def description(self) -> dict[str, object]:
        """What decides the result of a training, to the last bit; texts, logits and weights, before any step, as fingerprints."""
        model: Any = self.model.model
        return {
            "recipe": asdict(self.recipe),
            "num_steps": len(self.steps),
            "num_evaluations": self.run.num_evaluations,
            "device": self.run.device,
            "is_bf16": self.args.bf16,
            "steps": fingerprint(*self.steps),
            "dev_lists": fingerprint(*self.dev_lists),
            "max_length": model.max_seq_length,
            "prompts": model.prompts,
            "start_weights": _fingerprint_weights(model),
        }

    def measure_dev(self) -> float:
        """nDCG@10 on dev of the model as it stands; what decides the best step."""
        measure: Any = search_dev if isinstance(self.recipe, Recipe) else rerank_dev
        return float(measure(self.model.model, self.dev_lists))

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss of one step."""
        return model(inputs)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW; a learned scale has a rate of its own, without which it would stay where it starts."""
        optimizer = super().create_optimizer(model)
        scale = getattr(self.model, "log_margin_scale", None)
        if scale is not None and not any(group.get("is_scale") for group in optimizer.param_groups):
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if p is not scale]
            rate = SCALE_RATE * self.args.learning_rate
            optimizer.add_param_group({"params": [scale], "lr": rate, "weight_decay": 0.0, "is_scale": True})
        return optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The dev metric of the model as it stands."""
        metrics = {_DEV_METRIC: self.measure_dev()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_start(self) -> Path:
        """Measure the model as it is and save it as step 0, from which training then goes on."""
        key = fingerprint(*(f"{name} {value}" for name, value in self.description.items() if name in _START))
        if key not in _dev_of_start:
            _dev_of_start[key] = self.measure_dev()
        folder, value = Path(self.args.output_dir) / "checkpoint-0", _dev_of_start[key]
        state = self.state  # as it is born: it holds the states of the callbacks
        state.log_history = [{"epoch": 0.0, "step": 0, _DEV_METRIC: value}]
        state.epoch, state.best_metric, state.best_global_step = 0.0, value, 0
        state.best_model_checkpoint = str(folder)
        for field_name in ("train_batch_size", "logging_steps", "eval_steps", "save_steps"):
            setattr(state, field_name, getattr(self.args, field_name))
        self._save(str(folder))
        state.save_to_json(str(folder / "trainer_state.json"))
        mark_whole(folder)
        return folder

    def go_on_from(self, save: Path) -> None:
        """Train from a save to the end. One that is the end already, because training stopped there, is not gone on from."""
        state = TrainerState.load_from_json(str(save / "trainer_state.json"))
        if _has_stopped(state.log_history):
            self.state = state
            self._load_best_model()
        else:
            self.train(resume_from_checkpoint=str(save))

    def _trained(self) -> dict[str, torch.Tensor]:
        """What training changes: parameters with a gradient; buffers too where every parameter has one."""
        parameters = dict(self.model.named_parameters())
        if all(p.requires_grad for p in parameters.values()):
            return dict(self.model.state_dict())
        return {name: p for name, p in parameters.items() if p.requires_grad}

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """A save, marked as whole; older ones are removed after that, so that a kill at any moment leaves one to go on from."""
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir)
        mark_whole(folder / f"checkpoint-{self.state.global_step}")
        rotate_checkpoints(str(folder), _SAVES_KEPT, self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.detach().clone().contiguous() for name, value in self._trained().items()},
            folder / self._file_name,
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        trained = load_file(Path(resume_from_checkpoint) / self._file_name)
        unknown = self.model.load_state_dict(trained, strict=False).unexpected_keys
        if unknown:
            raise TrainingError(
                f"{resume_from_checkpoint} holds {len(unknown)} weights that the model has not: clear the work folder"
            )

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


def _the_step(items: list[dict[str, Any]]) -> dict[str, Any]:
    if len(items) != 1:
        raise TrainingError(
            f"{len(items)} planned steps came as one, expected 1: the others would not be trained on; let one GPU be visible "
            "(CUDA_VISIBLE_DEVICES=0)"
        )
    return items[0]


class _Watch(TrainerCallback):
    """Refuses the first loss that is not finite, and stops where dev no longer rises."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """A save of what a NaN left would rank at random."""
        loss = (logs or {}).get("loss")
        if loss is not None and not abs(loss) < float("inf"):
            raise TrainingError(f"loss is {loss} at step {state.global_step}: lower the learning rate or margin_scale")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What follows costs time and is not kept."""
        control.should_training_stop = control.should_training_stop or _has_stopped(state.log_history)


class _Told(TrainerCallback):
    """Steps done and time left, dev evaluations included."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The clock starts with the first step of this process, which a resumed training does not count from 0."""
        self.progress = Progress("training", self.num_steps - state.global_step, "steps")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the step."""
        self.progress.advance()
