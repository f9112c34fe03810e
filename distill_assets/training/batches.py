"""Batches: which lists make up each step of a training, and their texts as token ids.

A text is tokenised once for a whole training and stands in a batch once, however many lists hold it.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from distill_assets.errors import TrainingError
from distill_assets.models.encoders import Role, encode_texts, prompt_of
from distill_assets.models.query_tower import require_split
from distill_assets.training.lists import TrainList
from distill_assets.training.recipes import Recipe

_TOKENISED_AT_ONCE = 2048
_MIN_ROWS = 8  # of a bucket: below it a matrix product loses more than the padding costs
Step = tuple[TrainList, ...]


def plan_steps(epochs: Sequence[Sequence[TrainList]], *, batch_size: int, seed: int) -> list[Step]:
    """The lists of each step, over all epochs: shuffled within an epoch by seed, an incomplete last batch left out.

    A training set smaller than a batch is one batch.

    Raises:
        TrainingError: an epoch has no list, or its lists have no negative or differ in width.
    """
    steps = []
    for number, lists in enumerate(epochs or [()]):
        widths = {len(train_list.documents) for train_list in lists}
        if len(widths) != 1 or min(widths) < 2:
            raise TrainingError(
                f"{len(lists)} training lists with {sorted(widths)} documents each: expected at least one list, all of the same "
                "width and with a negative; lower num_negatives or mine more"
            )
        order = list(range(len(lists)))
        random.Random(f"{seed}/{number}").shuffle(order)
        size = min(batch_size, len(lists))
        steps += [tuple(lists[i] for i in order[at : at + size]) for at in range(0, len(lists) - size + 1, size)]
    return steps


def num_buckets_on(device: str) -> int:
    """Buckets of like length that a step's texts are cut into: a card waits for each launch, a CPU for each token of padding."""
    return 1 if device == "cuda" else 4


class TokenCache:
    """Texts of one role as the features that a model reads, each tokenised once, with the model's own prompt for that role.

    Where a model's features are no rows of tokens (static embeddings, for one), each batch goes through the model's own
    `preprocess`.
    """

    def __init__(self, model: SentenceTransformer, role: Role, texts: Iterable[str]) -> None:
        self.model = model
        self.role = role
        self.rows: dict[str, dict[str, Tensor]] = {}
        self.constants: dict[str, Any] = {}
        unique = sorted(
            set(texts), key=lambda text: (len(text), text)
        )  # like lengths together: little padding to cut off
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
        tokenizer = self.model.tokenizer
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        padded = {}
        for name in self.rows[texts[0]]:
            rows = [self.rows[text][name] for text in texts]
            padded[name] = pad_sequence(
                rows, batch_first=True, padding_value=fill.get(name, 0), padding_side=tokenizer.padding_side
            )
        return {**self.constants, **padded}

    def _preprocess(self, texts: Sequence[str]) -> dict[str, Any]:
        return dict(self.model.preprocess(list(texts), prompt=prompt_of(self.model, self.role), task=self.role))

    def _add(self, texts: Sequence[str]) -> bool:
        """Tokenise texts; False where the features are not a row of tokens for each."""
        features = self._preprocess(texts)
        mask = features.get("attention_mask")
        tensors = {name: value for name, value in features.items() if isinstance(value, Tensor)}
        if not isinstance(mask, Tensor) or any(value.shape != mask.shape for value in tensors.values()):
            return False
        self.constants = {name: value for name, value in features.items() if name not in tensors}
        for row, text in enumerate(texts):
            is_token = mask[row].bool()
            self.rows[text] = {name: value[row][is_token] for name, value in tensors.items()}
        return True


class StudentSteps(Dataset[dict[str, Any]]):
    """The steps of a student's training as tensors.

    Each is a dictionary:
        queries, documents: lists of features, one for each bucket of texts of like length; every text stands there once.
        query_rows: (batch,), which of the queries; document_rows: (batch, width), which of the documents.
        document_vectors: (num_documents, hidden), in place of documents where those are not trained.
        left_out: (batch, num_documents), bool: documents known to answer a query, but for its own positive.
        teacher_logits: (batch, 1 + num_negatives), float32, where the recipe reads them.

    Raises:
        TrainingError: the recipe trains the query tower alone, and the model's document side is not apart and frozen.
    """

    def __init__(self, model: SentenceTransformer, steps: Sequence[Step], recipe: Recipe, *, num_buckets: int) -> None:
        self.steps = steps
        self.recipe = recipe
        self.num_buckets = num_buckets
        self.queries = TokenCache(model, "query", (found.query for step in steps for found in step))
        texts = sorted({text for step in steps for found in step for text in found.documents})
        self.document_vectors: dict[str, Tensor] = {}
        if recipe.train == "query_tower":
            require_split(model)
            vectors = torch.from_numpy(encode_texts(model, texts, "document"))  # once: this side is not trained
            self.document_vectors = dict(zip(texts, vectors, strict=True))
        self.documents = TokenCache(model, "document", () if self.document_vectors else texts)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.steps)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One step."""
        lists = self.steps[index]
        step: dict[str, Any] = {}
        step["queries"], query_row = self._bucketed(self.queries, [found.query for found in lists])
        texts = [text for found in lists for text in found.documents]
        if self.document_vectors:
            document_row = {text: row for row, text in enumerate(dict.fromkeys(texts))}
            step["document_vectors"] = torch.stack([self.document_vectors[text] for text in document_row])
        else:
            step["documents"], document_row = self._bucketed(self.documents, texts)
        step["query_rows"] = torch.tensor([query_row[found.query] for found in lists])
        step["document_rows"] = torch.tensor([[document_row[text] for text in found.documents] for found in lists])
        step["left_out"] = _known_answers(lists, document_row)
        if self.recipe.uses_teacher:
            step["teacher_logits"] = torch.tensor([found.teacher_logits for found in lists], dtype=torch.float32)
        return step

    def _bucketed(self, cache: TokenCache, texts: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Features of the distinct texts, shortest first, cut into buckets; and the row of each text."""
        unique = sorted(set(texts))
        lengths = dict(zip(unique, cache.lengths(unique), strict=True))
        ordered = sorted(unique, key=lambda text: lengths[text])
        count = max(1, min(self.num_buckets, len(ordered) // _MIN_ROWS))
        if self.recipe.mini_batch_size is not None:
            count = max(count, -(-len(ordered) // self.recipe.mini_batch_size))
        bounds = [round(i * len(ordered) / count) for i in range(count + 1)]
        buckets = [cache.features(ordered[start:end]) for start, end in pairwise(bounds) if end > start]
        return buckets, {text: row for row, text in enumerate(ordered)}


def _known_answers(lists: Step, document_row: dict[str, int]) -> Tensor:
    """Documents of the batch that are known to answer each query, also by another list of the same query text."""
    relevant: dict[str, set[str]] = {}
    for found in lists:
        relevant.setdefault(found.query, set()).update((found.documents[0], *found.relevant))
    left_out = torch.zeros(len(lists), len(document_row), dtype=torch.bool)
    for row, found in enumerate(lists):
        left_out[row, [document_row[text] for text in relevant[found.query] if text in document_row]] = True
        left_out[row, document_row[found.documents[0]]] = False
    return left_out
