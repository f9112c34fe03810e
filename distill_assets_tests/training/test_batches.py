"""Steps of a training: what the model reads is what its own tokenizer gives, each text once."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from distill_assets.models.encoders import load_student
from distill_assets.training.batches import StudentSteps, TokenCache
from distill_assets.training.lists import TrainList
from distill_assets.training.recipes import Recipe

TEXTS = ["sum", "sort the array along one axis", "merge every value of the frame", "clip", "rank the series"]


@pytest.fixture
def model(tiny_encoder: Path) -> SentenceTransformer:
    """The tiny encoder."""
    return load_student(tiny_encoder, device="cpu")


def tensors(features: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among the features."""
    return {name: value for name, value in features.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("prompt", ["", "query the series "])
def test_cached_features_are_those_of_the_model(side: str, prompt: str, model: SentenceTransformer) -> None:
    """A pad id, a prompt or a padding side that is not the model's trains on texts that it never meets in a search."""
    model.prompts = {"query": prompt, "document": ""}
    model.tokenizer.padding_side = side
    cache = TokenCache(model, "query", TEXTS)
    assert cache.rows
    for texts in (TEXTS, TEXTS[::-1], TEXTS[:1], TEXTS[3:]):
        found, expected = cache.features(texts), model.preprocess(texts, prompt=prompt or None, task="query")
        assert found.keys() == expected.keys()
        assert {n: v for n, v in found.items() if n not in tensors(found)} == {
            n: v for n, v in expected.items() if n not in tensors(expected)
        }
        assert all(torch.equal(value, expected[name]) for name, value in tensors(found).items())


def test_each_text_is_tokenised_once(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenised at every step, a card waits for the tokenizer."""
    seen: list[str] = []
    preprocess = model.preprocess

    def count(texts: list[str], **kwargs: Any) -> dict[str, Any]:
        seen.extend(texts)
        return preprocess(texts, **kwargs)

    monkeypatch.setattr(model, "preprocess", count)
    steps = StudentSteps(model, [STEP, STEP], RECIPE, num_buckets=4)
    for index in range(2):
        _ = steps[index]
    assert sorted(seen) == sorted({g.query for g in STEP} | {d for g in STEP for d in g.documents})


def test_models_without_rows_of_tokens_go_through_their_own_preprocess() -> None:
    """Static embeddings read a flat list of tokens with offsets: cut into rows it would be another text."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", *dict.fromkeys(" ".join(TEXTS).split())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    cache = TokenCache(model, "document", TEXTS)
    assert not cache.rows
    vectors = model(cache.features(TEXTS))["sentence_embedding"]
    assert torch.allclose(vectors, torch.as_tensor(model.encode(TEXTS)), atol=1e-6)


RECIPE = Recipe(name="r", loss="margin_mse", num_negatives=2)


def make_list(number: int, query: str, *documents: str, relevant: tuple[str, ...] = ()) -> TrainList:
    """A list with logits 3, 2, 1 plus its number."""
    return TrainList(f"q{number}", query, documents, (3.0 + number, 2.0 + number, 1.0 + number), relevant)


# Queries 0 and 2 have the same text; documents "sum" and "clip" stand in several lists.
STEP = (
    make_list(0, "how to sum", "sum", "sort the array", "clip"),
    make_list(1, "how to sort", "sort the array along one axis", "sum", "merge the frame", relevant=("clip",)),
    make_list(2, "how to sum", "sum every value", "clip", "rank"),
)


@pytest.fixture
def step(model: SentenceTransformer) -> Iterator[dict[str, Any]]:
    """The step of the three lists, with a bucket for every few texts."""
    yield StudentSteps(model, [STEP], RECIPE, num_buckets=1)[0]


def test_each_document_stands_in_a_batch_once(step: dict[str, Any], model: SentenceTransformer) -> None:
    """Encoded once for each list that holds it, a document costs a multiple and its copies meet as negatives."""
    texts = model.tokenizer.batch_decode(step["documents"][0]["input_ids"], skip_special_tokens=True)
    assert len(texts) == len(set(texts)) == 7
    assert [[texts[i] for i in row] for row in step["document_rows"].tolist()] == [list(g.documents) for g in STEP]
    queries = model.tokenizer.batch_decode(step["queries"][0]["input_ids"], skip_special_tokens=True)
    assert [queries[i] for i in step["query_rows"].tolist()] == [g.query for g in STEP] and len(queries) == 2
    assert step["teacher_logits"].tolist() == [[3.0, 2.0, 1.0], [4.0, 3.0, 2.0], [5.0, 4.0, 3.0]]


def test_known_answers_are_left_out_also_those_of_the_same_query_elsewhere(
    step: dict[str, Any], model: SentenceTransformer
) -> None:
    """An answer of the query in another list of the batch is pushed away as an in-batch negative."""
    texts = model.tokenizer.batch_decode(step["documents"][0]["input_ids"], skip_special_tokens=True)
    left_out = [{texts[i] for i, out in enumerate(row) if out} for row in step["left_out"].tolist()]
    assert left_out == [{"sum every value"}, {"clip"}, {"sum"}]


@pytest.mark.parametrize(("num_buckets", "mini_batch_size"), [(1, None), (3, None), (1, 4), (2, 100)])
def test_buckets_hold_like_lengths_and_no_more_texts_than_asked(
    num_buckets: int, mini_batch_size: int | None, model: SentenceTransformer
) -> None:
    """Cut at random, buckets would pad as much as one batch does."""
    words = ["sum", "sort", "split", "join", "shift", "scale", "clip", "round", "merge", "drop", "fill", "rank"]
    lists = tuple(
        make_list(i, f"{words[i]} a", *(f"{words[i]} {'of the axis ' * (3 * (i % 4) + j)}" for j in range(3)))
        for i in range(12)
    )
    recipe = Recipe(name="r", loss="margin_mse", num_negatives=2, mini_batch_size=mini_batch_size)
    buckets = StudentSteps(model, [lists], recipe, num_buckets=num_buckets)[0]["documents"]
    assert sum(len(b["input_ids"]) for b in buckets) == 36
    if mini_batch_size is not None:
        assert all(len(b["input_ids"]) <= mini_batch_size for b in buckets)
    lengths = [b["attention_mask"].sum(dim=1) for b in buckets]
    assert all(first.max() <= second.min() for first, second in pairwise(lengths))
    assert all(int(length.max()) == b["attention_mask"].shape[1] for length, b in zip(lengths, buckets, strict=True))
