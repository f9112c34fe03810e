"""Training of students and teachers on transformers' trainer: seeded, resumable, best dev step kept.

The model as it is before training is step 0. Where no later step is better on dev, training ends with it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch.utils.data import Dataset, SequentialSampler
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import rotate_checkpoints

from distill_assets.errors import TrainingError
from distill_assets.evaluation.metrics import DevGroup, rerank_ndcg, search_ndcg
from distill_assets.models.encoders import CrossEncoderScorer, encode_texts, has_fast_bf16
from distill_assets.models.query_tower import require_split
from distill_assets.records import fingerprint
from distill_assets.training.batches import StudentSteps, TeacherSteps, plan_steps
from distill_assets.training.lists import Epochs, TrainingGroup, pairs_of, per_group
from distill_assets.training.losses import TeacherStatistics, measure_logits, require_soft
from distill_assets.training.objectives import SCALE_RATE, StudentLoss, TeacherLoss
from distill_assets.training.recipes import Recipe, TeacherRecipe
from distill_assets.training.saves import keep_saves_of, mark_whole, newest_save

_DEV_METRIC = "dev_ndcg_at_10"
_SAVES_KEPT = 2  # the newest and the best
_PATIENCE = 2  # dev evaluations in a row that are not better than the best so far: then training stops


@dataclass(frozen=True)
class TrainingRun:
    """Where and how often: nothing here changes what is learned, but for the number of dev evaluations.

    Attributes:
        work_folder: holds resumable state; the same call after a kill goes on from its last whole save. Saves of a call with
            another recipe, data, start weights or device are removed.
        num_evaluations: dev evaluations and saves over the whole run, beside that of step 0; 0 leaves the last weights, unsaved.
        show_progress: a progress bar on stderr.
    """

    work_folder: Path
    device: str
    num_evaluations: int = 2
    show_progress: bool = False


@dataclass(frozen=True)
class TrainingReport:
    """What training did. `losses` and `dev_curve` are (step, value); dev is nDCG@10.

    A student searches for it (`search_dev`), a teacher reranks the candidates.

    `best_step` 0 says that no step was better than the model before training, which was kept.

    `teacher` are the statistics of the logits that were trained on, `learned_margin_scale` where a learned scale ended,
    `num_queries_left_out` the queries that no epoch trained on, by reason (`training.lists.Epochs`).
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
    model: SentenceTransformer,
    epochs: Epochs,
    dev_groups: Sequence[DevGroup],
    recipe: Recipe,
    run: TrainingRun,
) -> TrainingReport:
    """Train `model` in place by `recipe` on the groups of each epoch; afterwards it holds the weights of the best dev step.

    Step 0 is one of them. Training stops early where two dev evaluations in a row are not better than the best so far.
    For a recipe that trains the query tower alone, `model` is one that `split_towers` gave.

    Raises:
        TrainingError: no group, groups without teacher logits where the recipe needs them, a teacher that ranks nothing, or a loss
            that is not finite.
    """
    trainer = make_student_trainer(model, epochs, recipe, run, dev_groups)
    report = _train(trainer, epochs, recipe, run)
    scale = trainer.model.log_margin_scale
    learned = None if scale is None else float(scale.detach().exp())
    return replace(report, teacher=trainer.model.statistics, learned_margin_scale=learned)


def make_student_trainer(
    model: SentenceTransformer,
    epochs: Sequence[Sequence[TrainingGroup]],
    recipe: Recipe,
    run: TrainingRun,
    dev_groups: Sequence[DevGroup] = (),
) -> "StepTrainer":
    """The trainer of a student, seeded and ready; without dev evaluations where the run asks for none."""
    set_seed(recipe.seed)
    statistics = _teacher_statistics(epochs, recipe)
    steps = plan_steps(epochs, batch_size=recipe.batch_size, seed=recipe.seed)
    vectors = _frozen_vectors(model, steps) if recipe.train == "query_tower" else None
    data = StudentSteps(model, steps, recipe, num_buckets=num_buckets_on(run.device), document_vectors=vectors)
    objective = StudentLoss(model, recipe, statistics)
    return StepTrainer(objective, data, DevEvaluator(dev_groups, search_dev), _arguments(run, recipe, len(steps)))


def _frozen_vectors(model: SentenceTransformer, steps: Sequence[Sequence[TrainingGroup]]) -> dict[str, np.ndarray]:
    """Text -> unit vector of every document of the steps, from the side that is not trained: encoded once."""
    require_split(model)
    texts = sorted({d for step in steps for group in step for d in group.documents})
    return dict(zip(texts, encode_texts(model, texts, "document"), strict=True))


def num_buckets_on(device: str) -> int:
    """Buckets of like length that a step's texts are cut into: a card waits for each launch, a CPU for each token of padding."""
    return 1 if device == "cuda" else 4


def train_teacher(
    model: CrossEncoder,
    epochs: Epochs,
    dev_groups: Sequence[DevGroup],
    recipe: TeacherRecipe,
    run: TrainingRun,
) -> TrainingReport:
    """Fine-tune a cross-encoder in place on the groups of each epoch; afterwards it holds the weights of the best dev step.

    Raises:
        TrainingError: no group, or a loss that is not finite.
    """
    set_seed(recipe.seed)
    steps = plan_steps(epochs, batch_size=recipe.batch_size, seed=recipe.seed)
    evaluator = DevEvaluator(dev_groups, _rerank_dev)
    trainer = StepTrainer(TeacherLoss(model), TeacherSteps(steps), evaluator, _arguments(run, recipe, len(steps)))
    return _train(trainer, epochs, recipe, run)


def _teacher_statistics(epochs: Sequence[Sequence[TrainingGroup]], recipe: Recipe) -> TeacherStatistics | None:
    """Statistics of the logits that the recipe trains on; None where it reads none."""
    if not recipe.uses_teacher:
        return None
    lists = []
    for group in (group for groups in epochs for group in groups):
        if group.teacher_logits is None or len(group.teacher_logits) != 1 + recipe.num_negatives:
            raise TrainingError(
                f"recipe {recipe.name!r} needs one teacher logit for the positive and each of {recipe.num_negatives} negatives, "
                f"query {group.query_id!r} has {len(group.teacher_logits or ())}: materialise teacher_scores"
            )
        lists.append(group.teacher_logits)
    if not lists:
        return None
    statistics = measure_logits(lists)
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
        logging_nan_inf_filter=False,  # on, it writes the average of the other losses for a NaN, and `_FiniteLoss` sees none
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
    )
    arguments._n_gpu = min(
        1, arguments.n_gpu
    )  # with two, transformers would put two steps into one and split the step's tensors
    return arguments


def _train(trainer: Any, epochs: Epochs, recipe: Recipe | TeacherRecipe, run: TrainingRun) -> TrainingReport:
    for printer in (PrinterCallback, ProgressCallback):  # both write to stdout, where --json has its document
        trainer.remove_callback(printer)
    trainer.add_callback(_ProgressBar(is_shown=run.show_progress))
    keep_saves_of(run.work_folder, _describe(trainer, recipe, run))
    last = newest_save(run.work_folder) or trainer.save_start()
    trainer.go_on_from(last)
    history = trainer.state.log_history
    dev_curve = _dev_curve(history)
    best_step, best = max(dev_curve, key=lambda point: (point[1], -point[0]))
    return TrainingReport(
        num_groups=len(epochs[0]),
        num_steps=trainer.state.global_step,
        losses=[(entry["step"], entry["loss"]) for entry in history if "loss" in entry],
        dev_curve=dev_curve,
        best_step=best_step,
        best_dev_ndcg_at_10=best,
        resumed_from_step=int(last.name.rsplit("-", 1)[1]),
        num_queries_left_out=dict(epochs.left_out),
    )


def _dev_curve(history: Sequence[dict[str, float]]) -> list[tuple[int, float]]:
    """(step, nDCG@10) of every dev evaluation in a trainer's history."""
    name = f"eval_{_DEV_METRIC}"
    return [(int(entry["step"]), entry[name]) for entry in history if name in entry]


def _has_stopped(history: Sequence[dict[str, float]]) -> bool:
    """Whether the last `_PATIENCE` dev evaluations are no better than the best one before them."""
    values = [value for _, value in _dev_curve(history)]
    before, recent = values[:-_PATIENCE], values[-_PATIENCE:]
    return bool(before) and max(recent) <= max(before)


def _describe(trainer: Any, recipe: Recipe | TeacherRecipe, run: TrainingRun) -> dict[str, object]:
    """What decides the result of a training, to the last bit; texts, logits and weights as fingerprints."""
    model, steps = trainer.model.model, trainer.train_dataset.steps
    return {
        "recipe": asdict(recipe),
        "num_steps": len(steps),
        "num_evaluations": run.num_evaluations,
        "device": run.device,
        "is_bf16": trainer.args.bf16,
        "steps": fingerprint(*steps),
        "dev_groups": fingerprint(*trainer.evaluator.groups),
        "max_length": model.max_seq_length,
        "prompts": model.prompts,
        "start_weights": _fingerprint_weights(model),
    }


def _fingerprint_weights(model: torch.nn.Module) -> str:
    """Changes when any weight or buffer of a model changes by a bit. A second for about 1 GB."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def search_dev(model: SentenceTransformer, groups: Sequence[DevGroup]) -> float:
    """nDCG@10 of a student that searches, for each dev query, among the candidates and judged documents of all of them.

    A search among all documents of the collection would encode them anew at each evaluation. On a collection of topics this one
    puts two students in the same order and 0.006 apart from it (docs/results.md).
    """
    texts = sorted({text for group in groups for text in (*group.documents, *group.missed_documents)})
    documents = encode_texts(model, texts, "document")
    queries = encode_texts(model, [group.query for group in groups], "query")
    return search_ndcg(groups, texts, queries @ documents.T)


def _rerank_dev(model: CrossEncoder, groups: Sequence[DevGroup]) -> float:
    return rerank_ndcg(groups, per_group(groups, CrossEncoderScorer(model)(pairs_of(groups))))


class StepTrainer(Trainer):
    """transformers' trainer over planned steps: one item of the data is one step, the model is an objective.

    What is saved and loaded is what the objective trains, by name: all weights and the learned scale, or adapters alone.
    """

    _file_name = "trained.safetensors"
    control: Any

    def __init__(
        self, objective: torch.nn.Module, data: Dataset[Any], evaluator: "DevEvaluator", arguments: TrainingArguments
    ) -> None:
        super().__init__(
            model=objective,
            args=arguments,
            train_dataset=data,
            eval_dataset=evaluator.groups,
            data_collator=_the_step,
            callbacks=[_FiniteLoss(), _StopEarly()],
        )
        self.evaluator = evaluator

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)

    def compute_loss(
        self, model: torch.nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective's loss of one step."""
        loss = model(inputs)
        return (loss, {}) if return_outputs else loss

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
        found = self.evaluator(self.model.model)
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_start(self) -> Path:
        """Measure the model as it is and save it as step 0, from which training then goes on."""
        folder = Path(self.args.output_dir) / "checkpoint-0"
        name, value = f"eval_{_DEV_METRIC}", self.evaluator(self.model.model)[_DEV_METRIC]
        state = self.state  # as it is born: it holds the states of the callbacks
        state.log_history = [{"epoch": 0.0, "step": 0, name: value}]
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


class DevEvaluator:
    """nDCG@10 on dev by `measure`; what decides the best step."""

    def __init__(self, groups: Sequence[DevGroup], measure: Callable[[Any, Sequence[DevGroup]], float]) -> None:
        self.groups = list(groups)
        self.measure = measure

    def __call__(self, model: Any) -> dict[str, float]:
        """Measure the model as it stands."""
        return {_DEV_METRIC: self.measure(model, self.groups)}


class _FiniteLoss(TrainerCallback):
    """Stops at the first loss that is not finite: the checkpoint it would save ranks at random."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not abs(loss) < float("inf"):
            raise TrainingError(f"loss is {loss} at step {state.global_step}: lower the learning rate or margin_scale")


class _StopEarly(TrainerCallback):
    """Stops where dev no longer rises: what follows costs time and is not kept."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_training_stop or _has_stopped(state.log_history)


class _ProgressBar(TrainerCallback):
    """Steps done, time left and the last loss, on stderr."""

    def __init__(self, *, is_shown: bool) -> None:
        self.is_shown = is_shown
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", disable=not self.is_shown)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs and self.bar is not None:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()
