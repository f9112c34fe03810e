"""Batches: which groups make up each step of a training, and their texts as token ids.

A text is tokenised once for a whole training and stands in a batch once, however many lists hold it.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.utils.data import Dataset

from distill_assets.errors import TrainingError
from distill_assets.models.encoders import Role
from distill_assets.training.lists import TrainingGroup
from distill_assets.training.recipes import Recipe

_TOKENISED_AT_ONCE = 2048
_MIN_ROWS = 8  # of a bucket: below it a matrix product loses more than the padding costs


def plan_steps(
    epochs: Sequence[Sequence[TrainingGroup]], *, batch_size: int, seed: int
) -> list[tuple[TrainingGroup, ...]]:
    """The groups of each step, over all epochs: shuffled within an epoch by seed, an incomplete last batch left out.

    A training set smaller than a batch is one batch.

    Raises:
        TrainingError: an epoch has no group, or its groups have no negative or differ in width.
    """
    steps = []
    for number, groups in enumerate(epochs or [()]):
        _require_one_width(groups)
        order = list(range(len(groups)))
        random.Random(f"{seed}/{number}").shuffle(order)
        size = min(batch_size, len(groups))
        for start in range(0, len(groups) - size + 1, size):
            steps.append(tuple(groups[i] for i in order[start : start + size]))
    return steps


def _require_one_width(groups: Sequence[TrainingGroup]) -> None:
    widths = {len(group.documents) for group in groups}
    if len(widths) != 1 or min(widths) < 2:
        raise TrainingError(
            f"{len(groups)} training groups with {sorted(widths)} documents each: expected at least one group, all of the same "
            "width and with a negative; lower num_negatives or mine more"
        )


class TokenCache:
    """Texts of one role as the features that a model reads, each tokenised once, with the model's own prompt for that role.

    Where a model's features are no rows of tokens (static embeddings, for one), each batch goes through the model's own
    `preprocess`.
    """

    def __init__(self, model: SentenceTransformer, role: Role, texts: Iterable[str]) -> None:
        self.model = model
        self.role = role
        self.prompt = model.prompts.get(role) or None
        self.rows: dict[str, dict[str, np.ndarray]] = {}
        self.constants: dict[str, Any] = {}
        self.pad_left = False
        unique = sorted(
            set(texts), key=lambda text: (len(text), text)
        )  # like lengths together: least padding to cut off again
        for start in range(0, len(unique), _TOKENISED_AT_ONCE):
            if not self._add(unique[start : start + _TOKENISED_AT_ONCE]):
                self.rows = {}
                break

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; characters where the model's features are no rows of tokens."""
        return [len(self.rows[text]["attention_mask"]) if self.rows else len(text) for text in texts]

    def features(self, texts: Sequence[str]) -> dict[str, Any]:
        """What `model.preprocess` gives for these texts."""
        if not self.rows:
            return self._preprocess(texts)
        width = max(self.lengths(texts))
        padded = {
            name: self._pad([self.rows[text][name] for text in texts], name, width) for name in self.rows[texts[0]]
        }
        return {**self.constants, **padded}

    def _preprocess(self, texts: Sequence[str]) -> dict[str, Any]:
        return dict(self.model.preprocess(list(texts), prompt=self.prompt, task=self.role))

    def _add(self, texts: Sequence[str]) -> bool:
        """Tokenise texts; False where the features are not a row of tokens for each."""
        features = self._preprocess(texts)
        mask = features.get("attention_mask")
        tensors = {name: value for name, value in features.items() if isinstance(value, Tensor)}
        if not isinstance(mask, Tensor) or any(value.shape != mask.shape for value in tensors.values()):
            return False
        lengths = mask.sum(dim=1).tolist()
        self.pad_left = self.pad_left or bool((mask[:, 1:] > mask[:, :-1]).any())
        self.constants = {name: value for name, value in features.items() if name not in tensors}
        arrays = {name: value.numpy() for name, value in tensors.items()}
        for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            part = slice(mask.shape[1] - length, None) if self.pad_left else slice(length)
            self.rows[text] = {name: array[row, part].copy() for name, array in arrays.items()}
        return True

    def _pad(self, rows: Sequence[np.ndarray], name: str, width: int) -> Tensor:
        tokenizer = self.model.tokenizer
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}.get(name, 0)
        table = np.full((len(rows), width), fill, dtype=rows[0].dtype)
        for row, values in zip(table, rows, strict=True):
            row[slice(width - len(values), None) if self.pad_left else slice(len(values))] = values
        return torch.from_numpy(table)


class StudentSteps(Dataset[dict[str, Any]]):
    """The steps of a student's training as tensors.

    Each is a dictionary:
        queries, documents: lists of features, one for each bucket of texts of like length; every text stands there once.
        query_rows: (batch,), which of the queries; document_rows: (batch, width), which of the documents.
        document_vectors: (num_documents, hidden), in place of documents where those are not trained.
        left_out: (batch, num_documents), bool: documents known to answer a query, but for its own positive.
        teacher_logits: (batch, 1 + num_negatives), float32, where the recipe reads them.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        steps: Sequence[tuple[TrainingGroup, ...]],
        recipe: Recipe,
        *,
        num_buckets: int,
        document_vectors: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.steps = steps
        self.document_vectors = document_vectors
        self.recipe = recipe
        self.num_buckets = num_buckets
        self.queries = TokenCache(model, "query", (group.query for step in steps for group in step))
        texts = (d for step in steps for group in step for d in group.documents) if document_vectors is None else ()
        self.documents = TokenCache(model, "document", texts)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.steps)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One step."""
        groups = self.steps[index]
        queries, query_row = self._bucketed(self.queries, [group.query for group in groups])
        step: dict[str, Any] = {"queries": queries}
        texts = [d for group in groups for d in group.documents]
        if self.document_vectors is None:
            step["documents"], document_row = self._bucketed(self.documents, texts)
        else:
            document_row = {text: row for row, text in enumerate(dict.fromkeys(texts))}
            step["document_vectors"] = torch.from_numpy(
                np.stack([self.document_vectors[text] for text in document_row])
            )
        step |= {
            "query_rows": torch.tensor([query_row[group.query] for group in groups]),
            "document_rows": torch.tensor([[document_row[d] for d in group.documents] for group in groups]),
            "left_out": _known_answers(groups, document_row),
        }
        if self.recipe.uses_teacher:
            step["teacher_logits"] = torch.tensor([group.teacher_logits for group in groups], dtype=torch.float32)
        return step

    def _bucketed(self, cache: TokenCache, texts: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Features of the distinct texts, shortest first, cut into buckets; and the row of each text."""
        unique = sorted(dict.fromkeys(texts))
        lengths = dict(zip(unique, cache.lengths(unique), strict=True))
        ordered = sorted(unique, key=lambda text: lengths[text])
        count = max(1, min(self.num_buckets, len(ordered) // _MIN_ROWS))
        if self.recipe.mini_batch_size is not None:
            count = max(count, -(-len(ordered) // self.recipe.mini_batch_size))
        bounds = [round(i * len(ordered) / count) for i in range(count + 1)]
        buckets = [cache.features(ordered[start:end]) for start, end in pairwise(bounds) if end > start]
        return buckets, {text: row for row, text in enumerate(ordered)}


def _known_answers(groups: Sequence[TrainingGroup], document_row: dict[str, int]) -> Tensor:
    """Documents of the batch that are known to answer each query, also by another group of the same query text."""
    relevant: dict[str, set[str]] = {}
    for group in groups:
        relevant.setdefault(group.query, set()).update((group.documents[0], *group.relevant))
    left_out = torch.zeros(len(groups), len(document_row), dtype=torch.bool)
    for row, group in enumerate(groups):
        columns = [document_row[d] for d in relevant[group.query] if d in document_row]
        left_out[row, columns] = True
        left_out[row, document_row[group.documents[0]]] = False
    return left_out


class TeacherSteps(Dataset[dict[str, Any]]):
    """The steps of a teacher's training: (query, document) texts by column, the positives first."""

    def __init__(self, steps: Sequence[tuple[TrainingGroup, ...]]) -> None:
        self.steps = steps

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.steps)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One step: `queries` and, for each column of the groups, `documents`."""
        groups = self.steps[index]
        columns = [list(column) for column in zip(*(group.documents for group in groups), strict=True)]
        return {"queries": [group.query for group in groups], "documents": columns}
