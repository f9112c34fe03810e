"""The query side alone is trained: documents must keep their vectors to the last bit, also after saving and loading."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from distill_assets.errors import TrainingError
from distill_assets.evaluation.metrics import DevList
from distill_assets.models.encoders import encode_texts, load_student
from distill_assets.models.query_tower import is_split, split_towers
from distill_assets.training.lists import Epochs, TrainList
from distill_assets.training.recipes import Recipe
from distill_assets.training.trainer import TrainingRun, train_student
from distill_assets_tests.conftest import ACTIONS, TOPICS

RECIPE = Recipe(
    name="tower",
    loss={"margin_mse": 1.0, "info_nce": 1.0},
    num_negatives=2,
    train="query_tower",
    epochs=3,
    batch_size=8,
    learning_rate=3e-3,
)


def make_lists(count: int) -> list[TrainList]:
    """Query (topic, action); negatives share one of the two."""
    lists = []
    for i in range(count):
        topic, action = TOPICS[i % 10], ACTIONS[(i // 10 + i) % 12]
        other_topic, other_action = TOPICS[(i + 3) % 10], ACTIONS[(i // 10 + i + 5) % 12]
        pairs = ((topic, action), (topic, other_action), (other_topic, action))
        documents = tuple(f"{t} {a} every value of the {t} along one axis" for t, a in pairs)
        lists.append(TrainList(f"q{i}", f"how to {action} a {topic}", documents, (6.0, -2.0, -3.0)))
    return lists


LISTS = make_lists(40)
TEXTS = sorted({d for g in LISTS for d in g.documents})
QUERIES = [g.query for g in LISTS]
DEV = [DevList(g.query_id, g.query, g.documents, (1, 0, 0)) for g in LISTS]


def test_only_queries_move_and_the_saved_folder_loads_as_it_is(tiny_encoder: Path, tmp_path: Path) -> None:
    """One document vector that moved makes the index that is not rebuilt a wrong one; no score would show it at once."""
    untouched = load_student(tiny_encoder, device="cpu")
    documents, queries = encode_texts(untouched, TEXTS, "document"), encode_texts(untouched, QUERIES, "query")
    model = split_towers(load_student(tiny_encoder, device="cpu"))
    report = train_student(model, Epochs([LISTS] * 3), DEV, RECIPE, TrainingRun(tmp_path / "work", "cpu"))
    assert np.array_equal(encode_texts(model, TEXTS, "document"), documents)
    trained = encode_texts(model, QUERIES, "query")
    assert np.abs(trained - queries).max() > 1e-3
    losses = [loss for _, loss in report.losses]
    assert sum(losses[-3:]) < sum(losses[:3])
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    plain = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    plain_queries = plain.encode_query(QUERIES, normalize_embeddings=True)
    assert np.allclose(plain_queries, trained, atol=1e-6)
    assert np.allclose(plain.encode_document(TEXTS, normalize_embeddings=True), documents, atol=1e-6)


def test_prompts_and_length_survive_the_split(tiny_encoder: Path) -> None:
    """Documents cut at another length or under another prompt would be other documents."""
    model = load_student(tiny_encoder, device="cpu", max_length=12)
    model.prompts = {"query": "rank ", "document": "array "}
    long = ["sum every value of the array along one axis of the frame and rank the series again"]
    expected = [encode_texts(model, long, role) for role in ("query", "document")]
    split = split_towers(model)
    assert is_split(split) and split.max_seq_length == 12
    assert all(
        np.allclose(encode_texts(split, long, role), vectors, atol=1e-6)
        for role, vectors in zip(("query", "document"), expected, strict=True)
    )


def test_a_loaded_split_is_split_once_and_frozen_again(tiny_encoder: Path, tmp_path: Path) -> None:
    """The second round starts from a folder, where nothing is frozen: its documents would be trained along."""
    split_towers(load_student(tiny_encoder, device="cpu")).save_pretrained(str(tmp_path / "m"), create_model_card=False)
    again = load_student(tmp_path / "m", device="cpu", max_length=16)
    assert all(p.requires_grad for p in again.parameters())
    model = split_towers(again)
    assert model is again and model.max_seq_length == 16
    assert {p.requires_grad for p in model[0].sub_modules["document"].parameters()} == {False}
    assert {p.requires_grad for p in model[0].sub_modules["query"].parameters()} == {True}


def test_a_model_that_is_not_split_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    """Trained as one tower under this recipe's name, it would be served with vectors that are not its own."""
    with pytest.raises(TrainingError, match="split_towers first"):
        run = TrainingRun(tmp_path, "cpu")
        train_student(load_student(tiny_encoder, device="cpu"), Epochs([LISTS] * 3), DEV, replace(RECIPE), run)
