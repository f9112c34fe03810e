"""Every family of models gives the library's own numbers, by the way that it should take."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from distill_assets.models.encoders import load_teacher
from distill_assets.models.fast import open_scorer
from distill_assets.models.folders import is_cross_encoder
from distill_assets_tests.models import families

WORDS = ["sort", "the", "frame", "of", "kernel", "a", "window"]
# 3 to about 300 tokens: shorter than a window, longer, and truncated on either side.
PAIRS = [
    (
        " ".join(WORDS[(i + j) % 7] for j in range(1 + i * i % 23)),
        " ".join(WORDS[(i * j) % 7] for j in range(1 + i * 5 % 61)),
    )
    for i in range(48)
]
TEACHERS = {
    families.tiny_bert: "packed",
    families.tiny_xlm_roberta: "packed",
    families.tiny_modernbert: "packed",
    families.tiny_modernbert_mean: "packed",
    families.tiny_modernbert_modular: "packed",
    families.tiny_modernbert_modular_mean: "packed",
    families.tiny_bert_modular: "packed",
    families.tiny_distilbert: "packed",
    families.tiny_electra: "packed",
    families.tiny_t5_modular: "padded",
    families.tiny_decoder: "predict",
}


@pytest.mark.parametrize(("make", "way"), TEACHERS.items(), ids=lambda found: getattr(found, "__name__", found))
def test_a_teacher_gives_the_logits_of_the_library(make: Callable[[Path], Path], way: str, tmp_path: Path) -> None:
    """Another window, position, pooling or truncation gives plausible logits of something else; a slow way goes unseen."""
    path = make(tmp_path / "model")
    expected = CrossEncoder(str(path), device="cpu", activation_fn=torch.nn.Identity()).predict(PAIRS)
    assert is_cross_encoder(path)
    scorer = open_scorer(load_teacher(path, device="cpu"), "fp32", batch_tokens=500)
    found = scorer(PAIRS)
    assert scorer.way == way
    assert np.std(expected) > 0.05  # equal logits would agree with anything
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
