"""What only a CUDA card can show; skipped where there is none (`pytest -m gpu`)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distill_assets.evaluation.agreement import kendall_tau_b
from distill_assets.evaluation.metrics import DevList
from distill_assets.models.encoders import CrossEncoderScorer, load_student, load_teacher, resolve_precision
from distill_assets.models.fast.scorer import FastScorer
from distill_assets.retrieval.dense import search_dense
from distill_assets.training.lists import Epochs, TrainList
from distill_assets.training.recipes import Recipe
from distill_assets.training.trainer import TrainingRun, train_student
from distill_assets_tests.conftest import ACTIONS, TOPICS
from distill_assets_tests.models import families

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card here")]


@pytest.mark.parametrize(
    "make",
    [families.tiny_bert, families.tiny_modernbert, families.tiny_modernbert_mean, families.tiny_modernbert_modular],
)
def test_pairs_of_all_lengths_score_as_predict_does(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """The attention kernel of a card is another one: a wrong bound or window ranks at random, at full speed."""
    path = make(tmp_path / "model")
    pairs = [(f"how to {action} a {topic}", " ".join([action, topic] * (1 + i % 20))) for i, (action, topic) in _PAIRS]
    expected = CrossEncoderScorer(load_teacher(path, device="cuda"))(pairs)
    scorer = FastScorer(load_teacher(path, device="cuda"), resolve_precision("auto", "cuda"))
    found = scorer(pairs)
    assert scorer.way == "packed"
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    assert (kendall_tau_b(found, expected) or 0) > 0.9


def test_dense_search_finds_the_same_on_a_card() -> None:
    """A card may multiply float32 in TF32: without the bound for it, near documents change places."""
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((5000, 64)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    ids = [f"d{i}" for i in range(len(documents))]
    cpu, card = (search_dense(documents[:50], documents, ids, k=20, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(cpu.rows, card.rows)
    np.testing.assert_array_equal(cpu.scores, card.scores)


def test_a_student_learns_on_a_card(tiny_encoder: Path, tmp_path: Path) -> None:
    """Tensors of two devices in one loss end a training at its first step."""
    lists = [
        TrainList(f"q{i}", f"how to {action} a {topic}", (f"{action} {topic}", f"{action} other"), (4.0, -2.0))
        for i, (action, topic) in _PAIRS
    ]
    recipe = Recipe(name="card", loss={"kl": 1.0, "info_nce": 1.0}, batch_size=8, epochs=4, learning_rate=3e-3)
    dev = [DevList(found.query_id, found.query, found.documents, (1, 0)) for found in lists[:8]]
    run = TrainingRun(tmp_path, "cuda", num_evaluations=1)
    report = train_student(load_student(tiny_encoder, device="cuda"), Epochs([lists] * 4), dev, recipe, run)
    assert report.losses[-1][1] < report.losses[0][1]


_PAIRS = list(enumerate((action, topic) for topic in TOPICS[:6] for action in ACTIONS[:8]))
