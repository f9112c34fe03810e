"""Training losses: the mathematics as functions of score matrices, and thin modules that a trainer can call.

Scores are (batch, 1 + num_negatives) with the positive in column 0, unless said otherwise. Teacher values are raw logits,
never sigmoid outputs: a sigmoid squeezes 13 and 27 into 0.99 both (FlagEmbedding #588).
"""

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional

from distill_assets.core.errors import NonFiniteError, ShapeError
from distill_assets.core.recipes import Recipe


def margin_mse(student_scores: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean squared error between student and teacher margins: mean of ((t+ - t-) - (s+ - s-))^2.

    Hofstaetter et al. 2020, arXiv 2010.02666, eq. 8. Both inputs are (batch, 1 + num_negatives). Returns a scalar.

    Raises:
        ShapeError: the shapes differ; broadcasting would train towards a wrong margin at a plausible loss.
        NonFiniteError: a teacher logit is NaN or infinite.
    """
    _require_groups(student_scores, teacher_logits)
    teacher_margins = teacher_logits[:, :1] - teacher_logits[:, 1:]
    student_margins = student_scores[:, :1] - student_scores[:, 1:]
    return functional.mse_loss(student_margins, teacher_margins)


def info_nce(scaled_similarities: Tensor, positive_columns: Tensor) -> Tensor:
    """Cross-entropy of picking the positive among all documents of the batch (van den Oord et al. 2018, eq. 4).

    `scaled_similarities` is (batch, num_documents), cosine times scale; `positive_columns` (batch,) says which column is
    each query's positive. Returns a scalar.
    """
    if scaled_similarities.shape[0] != positive_columns.shape[0]:
        raise ShapeError(
            f"{scaled_similarities.shape[0]} rows of similarities but {positive_columns.shape[0]} positive columns: "
            "expected one per query"
        )
    return functional.cross_entropy(scaled_similarities, positive_columns)


def listwise_softmax(logits: Tensor) -> Tensor:
    """Cross-entropy of the positive (column 0) among its group; ListNet's top-one loss with one relevant document.

    Cao et al. 2007, eq. 4. `logits` is (batch, 1 + num_negatives), raw. Returns a scalar.
    """
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def _require_groups(student_scores: Tensor, teacher_logits: Tensor) -> None:
    if student_scores.shape != teacher_logits.shape or student_scores.ndim != 2 or student_scores.shape[1] < 2:
        raise ShapeError(
            f"student scores are {tuple(student_scores.shape)}, teacher logits {tuple(teacher_logits.shape)}: "
            "expected two equal shapes (batch, 1 + num_negatives)"
        )
    if not torch.isfinite(teacher_logits).all():
        raise NonFiniteError("teacher logits hold a NaN or an infinity: materialise teacher_scores again")


class StudentLoss(nn.Module):
    """The loss of one recipe over (query, positive, negative 1 .. n) columns, for sentence-transformers' trainer."""

    num_length_buckets = 4

    def __init__(self, model: SentenceTransformer, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """Loss of one batch. `labels` holds the teacher logits, (batch, 1 + num_negatives), where the recipe uses them."""
        columns = [functional.normalize(self._embed(features), dim=-1) for features in sentence_features]
        queries, documents = columns[0], torch.stack(columns[1:], dim=1)  # (batch, hidden), (batch, 1 + n, hidden)
        total = queries.new_zeros(())
        if self.recipe.uses_teacher:
            if labels is None:
                raise ShapeError(f"recipe {self.recipe.name!r} needs teacher logits and got none")
            cosines = (queries.unsqueeze(1) * documents).sum(dim=-1)
            total = total + margin_mse(self.recipe.margin_scale * cosines.float(), labels.float())
        in_batch_weight = self.recipe.in_batch_weight if self.recipe.uses_teacher else 1.0
        if in_batch_weight > 0:
            similarities = self.recipe.cosine_scale * queries @ documents.flatten(0, 1).T
            positives = torch.arange(len(queries), device=queries.device) * documents.shape[1]
            total = total + in_batch_weight * info_nce(similarities.float(), positives)
        return total

    def _embed(self, features: dict[str, Any]) -> Tensor:
        """Sentence embeddings (batch, hidden), forwarded in buckets of like length, so that short texts carry little padding."""
        mask = features.get("attention_mask")
        if not isinstance(mask, Tensor) or len(mask) < 2 * self.num_length_buckets:
            return self.model(features)["sentence_embedding"]
        if bool((mask[:, 1:] > mask[:, :-1]).any()):  # padded on the left: cutting columns would cut text
            return self.model(features)["sentence_embedding"]
        order = mask.sum(dim=1).argsort(stable=True)
        parts = []
        for rows in order.tensor_split(self.num_length_buckets):
            width = int(mask[rows].sum(dim=1).max())
            bucket = {
                name: value[rows, :width] if isinstance(value, Tensor) and value.shape == mask.shape else value
                for name, value in features.items()
            }
            parts.append(self.model(bucket)["sentence_embedding"])
        return torch.cat(parts)[order.argsort()]


class TeacherLoss(nn.Module):
    """Listwise softmax over (query, positive, negative 1 .. n) text columns, for the cross-encoder trainer."""

    num_length_buckets = 2  # of the pairs of a batch, sorted by length: short pairs are not padded to the longest

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: list[list[str]], labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Loss of one batch; `inputs[0]` are the queries, `inputs[1]` the positives, the rest negatives."""
        queries, *documents = inputs
        pairs = [(query, document) for column in documents for query, document in zip(queries, column, strict=True)]
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        size = -(-len(order) // self.num_length_buckets)
        scores = [self._score([pairs[i] for i in order[start : start + size]]) for start in range(0, len(order), size)]
        logits = torch.empty(len(pairs), device=scores[0].device)
        logits = logits.scatter(0, torch.tensor(order, device=logits.device), torch.cat(scores))
        return listwise_softmax(logits.view(len(documents), len(queries)).T)

    def _score(self, pairs: list[tuple[str, str]]) -> Tensor:
        features = self.model.preprocess(pairs)
        features = {k: v.to(self.model.device) if isinstance(v, Tensor) else v for k, v in features.items()}
        return self.model(features)["scores"].squeeze(-1).float()
