"""What a training step minimises: the loss of one batch as a module that holds the model and whatever is trained along with it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from distill_assets.errors import ShapeError
from distill_assets.training import losses
from distill_assets.training.losses import TeacherStatistics
from distill_assets.training.recipes import INFO_NCE, LEARNED, LISTWISE_LOSSES, Recipe

SCALE_RATE = (
    100  # times the learning rate, for the learned scale: at 5e-5 its logarithm would move by 0.05 in 1,000 steps
)
_FIRST_SCALE = 10.0  # times the logits' spread: cosines within a list of an untouched encoder spread over about 0.1


class StudentLoss(nn.Module):
    """The weighted losses of one recipe over a step of `training.batches.StudentSteps`.

    `log_margin_scale` is a parameter where the recipe learns its scale, else None.
    """

    def __init__(self, model: SentenceTransformer, recipe: Recipe, statistics: TeacherStatistics | None = None) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.statistics = statistics
        self.unit = statistics.spread if statistics and recipe.teacher_logits == "standardised" else 1.0
        self.log_margin_scale: nn.Parameter | None = None
        if recipe.margin_scale == LEARNED and statistics:
            first = _FIRST_SCALE * statistics.spread / self.unit
            self.log_margin_scale = nn.Parameter(torch.tensor(math.log(first), device=model.device))

    @property
    def margin_scale(self) -> Tensor | float:
        """What cosines are multiplied with before margins are compared."""
        return float(self.recipe.margin_scale) if self.log_margin_scale is None else self.log_margin_scale.exp()

    def forward(self, step: dict[str, Any]) -> Tensor:
        """Loss of one step, a scalar in float32 whatever the model runs in."""
        queries = self._embed(step["queries"])
        documents = step["document_vectors"] if "document_vectors" in step else self._embed(step["documents"])
        with torch.autocast(queries.device.type, enabled=False):  # bf16 has 3 digits: margins of cosines need more
            queries, documents = (functional.normalize(e.float(), dim=-1) for e in (queries, documents))
            cosines = queries[step["query_rows"]] @ documents.T  # (batch, num_documents)
            return self._total(cosines, step)

    def _total(self, cosines: Tensor, step: dict[str, Any]) -> Tensor:
        """Sum of the recipe's losses, weighted."""
        rows, logits = step["document_rows"], step.get("teacher_logits")
        if self.recipe.uses_teacher and logits is None:
            raise ShapeError(f"recipe {self.recipe.name!r} needs teacher logits and got none")
        total = cosines.new_zeros(())
        for name, weight in self.recipe.loss_weights.items():
            if name == INFO_NCE:
                left_out = self._left_out(step)
                value = losses.info_nce(self.recipe.cosine_scale * cosines, rows[:, 0], left_out)
            else:
                assert logits is not None
                value = self._listwise()[name](cosines.gather(1, rows[:, : logits.shape[1]]), logits / self.unit)
            total = total + weight * value
        return total

    def _listwise(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        student, teacher = self.recipe.student_temperature, self.recipe.teacher_temperature
        temperatures = {"student_temperature": student, "teacher_temperature": teacher}
        found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "margin_mse": lambda cosines, logits: losses.margin_mse(self.margin_scale * cosines, logits),
            "kl": lambda cosines, logits: losses.kl(cosines, logits, **temperatures),
            "ranknet": lambda cosines, logits: losses.ranknet(cosines, logits, **temperatures),
            "adr_mse": lambda cosines, logits: losses.adr_mse(cosines, logits, student_temperature=student),
        }
        assert found.keys() == set(LISTWISE_LOSSES)
        return found

    def _left_out(self, step: dict[str, Any]) -> Tensor:
        """What is no in-batch negative: known answers, and what the teacher takes for one where the recipe asks it."""
        left_out: Tensor = step["left_out"]
        if self.recipe.mask_above is None or self.statistics is None:
            return left_out
        found = losses.likely_positives(step["teacher_logits"], self.recipe.mask_above, self.statistics)
        columns = step["document_rows"][:, : found.shape[1]]
        left_out = left_out | torch.zeros_like(left_out, dtype=torch.int32).scatter_add(1, columns, found.int()).bool()
        return left_out.scatter(1, columns[:, :1], False)

    def _embed(self, buckets: Sequence[dict[str, Any]]) -> Tensor:
        """Sentence embeddings (num_texts, hidden) of all buckets."""
        if self.recipe.mini_batch_size is None or not torch.is_grad_enabled():
            return torch.cat([self._encode(bucket) for bucket in buckets])
        return torch.cat([checkpoint(self._encode, bucket, use_reentrant=False) for bucket in buckets])

    def _encode(self, features: dict[str, Any]) -> Tensor:
        return self.model(dict(features))[
            "sentence_embedding"
        ]  # a copy: modules write their outputs into what they are given


class TeacherLoss(nn.Module):
    """Listwise softmax over a step of `training.batches.TeacherSteps`, for a cross-encoder."""

    num_length_buckets = 2  # of the pairs of a batch, sorted by length: short pairs are not padded to the longest

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, step: dict[str, Any]) -> Tensor:
        """Loss of one step."""
        queries, documents = step["queries"], step["documents"]
        pairs = [(query, document) for column in documents for query, document in zip(queries, column, strict=True)]
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        size = -(-len(order) // self.num_length_buckets)
        scores = [self._score([pairs[i] for i in order[start : start + size]]) for start in range(0, len(order), size)]
        logits = torch.empty(len(pairs), device=scores[0].device)
        logits = logits.scatter(0, torch.tensor(order, device=logits.device), torch.cat(scores))
        return losses.listwise_softmax(logits.view(len(documents), len(queries)).T)

    def _score(self, pairs: list[tuple[str, str]]) -> Tensor:
        features = self.model.preprocess(pairs)
        features = {k: v.to(self.model.device) if isinstance(v, Tensor) else v for k, v in features.items()}
        return self.model(features)["scores"].squeeze(-1).float()
