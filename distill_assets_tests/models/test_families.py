"""Every family of models gives the library's own numbers, by the way that it should take."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from distill_assets.errors import ModelError
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


def library_logits(path: Path, prompt: str | None = None) -> np.ndarray:
    """What the library says of the pairs, loaded as its documentation says."""
    model = CrossEncoder(str(path), device="cpu", activation_fn=torch.nn.Identity())
    return np.asarray(model.predict(PAIRS, prompt=prompt))


def with_prompts(path: Path, prompt: str) -> Path:
    """The model saved again with a prompt of its own that is read by default."""
    model = CrossEncoder(str(path), device="cpu", prompts={"rank": prompt}, default_prompt_name="rank")
    model.save_pretrained(str(path.with_name("prompted")), create_model_card=False)
    return path.with_name("prompted")


@pytest.mark.parametrize("make", [families.tiny_modernbert_modular, families.tiny_bert, families.tiny_decoder])
def test_a_teacher_reads_the_prompt_that_it_was_saved_with(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Without its prompt a reranker answers another question, with scores of the same range."""
    plain = make(tmp_path / "model")
    path = with_prompts(plain, "sort the frame: ")
    scorer = open_scorer(load_teacher(path, device="cpu"), "fp32")
    found = scorer(PAIRS)
    assert scorer.way == "predict"
    np.testing.assert_allclose(found, library_logits(path), atol=1e-5)
    assert np.abs(found - library_logits(plain)).max() > 0.1


@pytest.mark.parametrize("prompt", ["window: ", ""])
def test_a_prompt_that_is_set_takes_the_place_of_the_models_own(prompt: str, tmp_path: Path) -> None:
    """Two prompts one after the other, or the wrong one, change every score and raise nothing. An empty one means none."""
    path = with_prompts(families.tiny_modernbert_modular(tmp_path / "model"), "sort the frame: ")
    scorer = open_scorer(load_teacher(path, device="cpu", prompt=prompt), "fp32")
    assert scorer.way == ("predict" if prompt else "packed")
    np.testing.assert_allclose(scorer(PAIRS), library_logits(path, prompt), atol=1e-5)


def test_a_prompt_without_room_for_the_texts_is_refused(tmp_path: Path) -> None:
    """The library cuts the longer text, which is the prompt with the query: every query of a long document would be the same.

    By hand: 23 tokens of a pair without the three special ones leave 20, so a long document takes 10. `sort the` is two tokens.
    """
    path = families.tiny_bert(tmp_path / "model")
    assert load_teacher(path, device="cpu", max_length=23, prompt="sort the " * 4).default_prompt_name == "teacher"
    with pytest.raises(
        ModelError, match=r"'sort the .* has 10 tokens, expected fewer than 10: .*raise teacher_max_length"
    ):
        load_teacher(path, device="cpu", max_length=23, prompt="sort the " * 5)


def test_five_modules_with_two_outputs_are_refused(tmp_path: Path) -> None:
    """Of two logits one would be taken, or both be flattened into the wrong pairs."""
    path = families.tiny_modernbert_modular(tmp_path / "two", num_outputs=2)
    with pytest.raises(ModelError, match="/two has 2 outputs"):
        load_teacher(path, device="cpu")
