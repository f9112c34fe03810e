"""Students of every family: what they encode is what the library encodes, before and after a training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from distill_assets.models.encoders import encode_texts, load_student, used_precision
from distill_assets.models.folders import is_cross_encoder
from distill_assets.training.lists import Epochs, TrainList
from distill_assets.training.recipes import Recipe
from distill_assets.training.trainer import TrainingRun, make_student_trainer
from distill_assets_tests.models.families import STUDENTS, tiny_student

TEXTS = [
    "sort",
    "the frame of 42",
    "sort the frame " * 30,
    "frames, sorted by the_frame's 4th",
    "of",
    "a b c d e f g h",
]


@pytest.fixture(params=[*((kind, "mean") for kind in STUDENTS), ("bert", "cls"), ("modernbert", "cls")])
def student(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of each family; two of them read the first token alone."""
    kind, pooling = request.param
    return tiny_student(tmp_path / kind, kind, pooling)


def test_vectors_are_those_of_the_library(student: Path) -> None:
    """Another pooling, cut, prompt or count of positions gives vectors of the right length that rank at random."""
    assert not is_cross_encoder(student)
    model, own = load_student(student, device="cpu"), SentenceTransformer(str(student), device="cpu")
    assert model.prompts == own.prompts
    for role, encode in (("query", own.encode_query), ("document", own.encode_document)):
        found, expected = encode_texts(model, TEXTS, role, batch_size=2), encode(TEXTS, normalize_embeddings=True)  # type: ignore[arg-type]
        assert np.abs(found - expected).max() < 1e-5
    half = load_student(student, device="cpu", precision="bf16")
    assert used_precision(half) == ("fp32" if student.name == "static" else "bf16")
    assert np.abs(encode_texts(half, TEXTS, "query") - encode_texts(model, TEXTS, "query")).max() < 0.2


def test_a_trained_student_reads_as_it_was_trained(student: Path, tmp_path: Path) -> None:
    """A family whose features the trainer cannot cut would be left untrained, or be saved without its prompts."""
    model = load_student(student, device="cpu")
    before = encode_texts(model, TEXTS, "document")
    lists = [TrainList(f"q{i}", TEXTS[i], (TEXTS[(i + 1) % 6], TEXTS[(i + 2) % 6])) for i in range(4)]
    recipe = Recipe(name="short", loss="hard_labels", batch_size=4, learning_rate=1e-2)
    trainer = make_student_trainer(
        model, Epochs([lists] * 4), recipe, TrainingRun(tmp_path / "work", "cpu", num_evaluations=0)
    )
    trainer.train()
    after = encode_texts(model, TEXTS, "document")
    assert np.isfinite(after).all() and np.abs(after - before).max() > 1e-3
    model.save_pretrained(str(tmp_path / "trained"), create_model_card=False)
    again = load_student(tmp_path / "trained", device="cpu")
    assert encode_texts(again, TEXTS, "document") == pytest.approx(after, abs=1e-5)
    assert (again.prompts, again.max_seq_length) == (model.prompts, model.max_seq_length)
    assert all(p.dtype == torch.float32 for p in again.parameters())
