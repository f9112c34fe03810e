"""Training of students and teachers on sentence-transformers' trainers: seeded, resumable, best dev step kept."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from distill_assets.core.encoders import encode_texts, has_fast_bf16
from distill_assets.core.errors import TrainingError
from distill_assets.core.groups import DevGroup, TrainingGroup
from distill_assets.core.losses import StudentLoss, TeacherLoss
from distill_assets.core.metrics import rerank_ndcg
from distill_assets.core.recipes import Recipe, TeacherRecipe

logger = logging.getLogger(__name__)
_DEV_METRIC = "dev_ndcg_at_10"


@dataclass(frozen=True)
class TrainingRun:
    """Where and how often: nothing here changes what is learned, but for the number of dev evaluations.

    Attributes:
        work_folder: holds resumable state; the same call after a kill goes on from its last save.
        num_evaluations: dev evaluations and saves over the whole run.
        show_progress: a progress bar on stderr.
    """

    work_folder: Path
    device: str
    num_evaluations: int = 2
    show_progress: bool = False


@dataclass(frozen=True)
class TrainingReport:
    """What training did. `losses` and `dev_curve` are (step, value); dev is nDCG@10 of reranking the dev groups."""

    num_groups: int
    num_steps: int
    losses: list[tuple[int, float]]
    dev_curve: list[tuple[int, float]]
    best_step: int
    best_dev_ndcg_at_10: float
    resumed_from_step: int


def train_student(
    model: SentenceTransformer,
    groups: Sequence[TrainingGroup],
    dev_groups: Sequence[DevGroup],
    recipe: Recipe,
    run: TrainingRun,
) -> TrainingReport:
    """Train `model` in place by `recipe`; afterwards it holds the weights of the best dev step.

    Raises:
        TrainingError: no group, groups without teacher logits where the recipe needs them, or a loss that is not finite.
    """
    set_seed(recipe.seed)
    rows = _student_rows(groups, recipe)
    evaluator = _DevEvaluator(dev_groups, _student_scores)
    arguments = SentenceTransformerTrainingArguments(
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        prompts=_prompts(model, rows[0]),
        **_arguments(run, recipe, len(rows)),
    )
    trainer = (SentenceTransformerTrainer if _is_whole(model) else _StudentAdapterTrainer)(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        loss=StudentLoss(model, recipe),
        evaluator=evaluator,
        callbacks=[_FiniteLoss()],
    )
    return _train(trainer, run, len(rows))


def train_teacher(
    model: CrossEncoder,
    groups: Sequence[TrainingGroup],
    dev_groups: Sequence[DevGroup],
    recipe: TeacherRecipe,
    run: TrainingRun,
) -> TrainingReport:
    """Fine-tune a cross-encoder in place on human labels; afterwards it holds the weights of the best dev step.

    Raises:
        TrainingError: no group, or a loss that is not finite.
    """
    set_seed(recipe.seed)
    rows = [_columns(group.query, group.documents) for group in _same_width(groups)]
    arguments = CrossEncoderTrainingArguments(**_arguments(run, recipe, len(rows)))
    trainer = (CrossEncoderTrainer if _is_whole(model) else _TeacherAdapterTrainer)(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        loss=TeacherLoss(model),
        evaluator=_DevEvaluator(dev_groups, _teacher_scores),
        callbacks=[_FiniteLoss()],
    )
    return _train(trainer, run, len(rows))


def _student_rows(groups: Sequence[TrainingGroup], recipe: Recipe) -> list[dict[str, Any]]:
    rows = []
    for group in _same_width(groups):
        row = _columns(group.query, group.documents)
        if recipe.uses_teacher:
            if group.teacher_logits is None or len(group.teacher_logits) != len(group.documents):
                raise TrainingError(
                    f"recipe {recipe.name!r} needs one teacher logit per document, query {group.query_id!r} has "
                    f"{len(group.teacher_logits or ())} for {len(group.documents)}: materialise teacher_scores"
                )
            row["label"] = [float(logit) for logit in group.teacher_logits]
        rows.append(row)
    return rows


def _same_width(groups: Sequence[TrainingGroup]) -> Sequence[TrainingGroup]:
    widths = {len(group.documents) for group in groups}
    if len(widths) != 1 or min(widths) < 2:
        raise TrainingError(
            f"{len(groups)} training groups with {sorted(widths)} documents each: expected at least one group, all of the same "
            "width and with a negative; lower num_negatives or mine more"
        )
    return groups


def _columns(query: str, documents: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"query": query, "positive": documents[0]}
    row.update({f"negative_{i}": text for i, text in enumerate(documents[1:], start=1)})
    return row


def _prompts(model: SentenceTransformer, row: dict[str, Any]) -> dict[str, str] | None:
    """The model's own query and document prompts per column: training without them moves the wrong vectors."""
    wanted = {c: model.prompts.get("query" if c == "query" else "document") for c in row if c != "label"}
    return {column: prompt for column, prompt in wanted.items() if prompt} or None


def _arguments(run: TrainingRun, recipe: Recipe | TeacherRecipe, num_rows: int) -> dict[str, Any]:
    num_steps = max(1, num_rows // recipe.batch_size) * recipe.epochs
    every = max(1, num_steps // run.num_evaluations)
    return {
        "output_dir": str(run.work_folder),
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": min(recipe.batch_size, num_rows),
        "learning_rate": recipe.learning_rate,
        "warmup_steps": recipe.warmup_share,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "bf16": has_fast_bf16(run.device),
        "use_cpu": run.device == "cpu",
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": _DEV_METRIC,
        "greater_is_better": True,
        "logging_steps": max(1, num_steps // 20),
        "logging_nan_inf_filter": False,  # on, it writes the average of the other losses for a NaN, and `_FiniteLoss` sees none
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_drop_last": num_rows > recipe.batch_size,
    }


def _train(trainer: Any, run: TrainingRun, num_groups: int) -> TrainingReport:
    for printer in (PrinterCallback, ProgressCallback):  # both write to stdout, where --json has its document
        trainer.remove_callback(printer)
    trainer.add_callback(_ProgressBar(is_shown=run.show_progress))
    last = get_last_checkpoint(str(run.work_folder)) if run.work_folder.is_dir() else None
    resumed = int(last.rsplit("-", 1)[1]) if last else 0
    trainer.train(resume_from_checkpoint=last)
    history = trainer.state.log_history
    dev_curve = [(entry["step"], entry[f"eval_{_DEV_METRIC}"]) for entry in history if f"eval_{_DEV_METRIC}" in entry]
    if not dev_curve:
        raise TrainingError(
            f"training ended after {trainer.state.global_step} of {trainer.state.max_steps} steps, before its first dev "
            "evaluation: too many queries share their documents, which no batch may hold twice; lower batch_size"
        )
    best_step, best = max(dev_curve, key=lambda point: (point[1], -point[0]))
    return TrainingReport(
        num_groups=num_groups,
        num_steps=trainer.state.global_step,
        losses=[(entry["step"], entry["loss"]) for entry in history if "loss" in entry],
        dev_curve=dev_curve,
        best_step=best_step,
        best_dev_ndcg_at_10=best,
        resumed_from_step=resumed,
    )


def _student_scores(model: SentenceTransformer, groups: Sequence[DevGroup]) -> list[list[float]]:
    texts = sorted({text for group in groups for text in group.documents})
    row_of = {text: row for row, text in enumerate(texts)}
    documents = encode_texts(model, texts, "document")
    queries = encode_texts(model, [group.query for group in groups], "query")
    return [
        (documents[[row_of[text] for text in group.documents]] @ query).tolist()
        for group, query in zip(groups, queries, strict=True)
    ]


def _teacher_scores(model: CrossEncoder, groups: Sequence[DevGroup]) -> list[list[float]]:
    pairs = [(group.query, text) for group in groups for text in group.documents]
    logits = model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False).tolist()
    scores, start = [], 0
    for group in groups:
        scores.append(logits[start : start + len(group.documents)])
        start += len(group.documents)
    return scores


def _is_whole(model: torch.nn.Module) -> bool:
    return all(parameter.requires_grad for parameter in model.parameters())


class _SavesTrainedPart:
    """Mixed into a trainer: saves and loads what is trained, where that is a part of the model.

    The stock trainer loads a checkpoint by building a plain model from it, in which adapter layers have no place: it logs
    an error and goes on with the weights of the last step as if they were the best (sentence-transformers 6.2).
    """

    _file_name = "trained.safetensors"
    args: Any
    model: Any

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        trained = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        save_file(trained, str(Path(output_dir or self.args.output_dir) / self._file_name))

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        trained = load_file(str(Path(checkpoint_path) / self._file_name))
        unknown = self.model.load_state_dict(trained, strict=False).unexpected_keys
        if unknown:
            raise TrainingError(
                f"{checkpoint_path} holds {len(unknown)} weights that the model has not: clear the work folder"
            )


class _StudentAdapterTrainer(_SavesTrainedPart, SentenceTransformerTrainer):
    pass


class _TeacherAdapterTrainer(_SavesTrainedPart, CrossEncoderTrainer):
    pass


class _DevEvaluator(BaseEvaluator):
    """nDCG@10 of reranking each dev query's candidates; what decides the best step."""

    def __init__(
        self, groups: Sequence[DevGroup], score: Callable[[Any, Sequence[DevGroup]], list[list[float]]]
    ) -> None:
        super().__init__()
        self.primary_metric = _DEV_METRIC
        self.groups = list(groups)
        self.score = score

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Score the dev groups with the model as it stands."""
        return {_DEV_METRIC: rerank_ndcg(self.groups, self.score(model, self.groups))}


class _FiniteLoss(TrainerCallback):
    """Stops at the first loss that is not finite: the checkpoint it would save ranks at random."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not abs(loss) < float("inf"):
            raise TrainingError(f"loss is {loss} at step {state.global_step}: lower the learning rate or margin_scale")


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
