"""Encoding through the project: paid once, in chunks, and never in a mixture of precisions."""

from typing import Any

import numpy as np
import pytest

from distill_assets import resources
from distill_assets.core import encoders
from distill_assets.core.records import fingerprint, hash_text
from distill_assets_tests.conftest import make_project

TEXTS = [f"sum every value of the array {word}" for word in ("one", "a", "axis", "along", "sort", "clip", "rank")]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The texts of each call of the encoder; the third call is a kill."""
    calls: list[list[str]] = []
    encode = encoders.encode_texts

    def spy(model: Any, texts: list[str], *args: Any, **kwargs: Any) -> np.ndarray:
        calls.append(list(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(model, texts, *args, **kwargs)

    monkeypatch.setattr(encoders, "encode_texts", spy)
    monkeypatch.setattr(resources, "_CHUNK_BATCHES", 2)
    return calls


def test_a_kill_costs_one_chunk(project: Any, encoded: list[list[str]]) -> None:
    """Vectors kept until the end would make a killed run of hours begin anew."""
    small = project.model_copy(update={"overrides": {**project.overrides, "batch_size": 1}})
    with pytest.raises(KeyboardInterrupt):
        small.embedded(small.student_path, TEXTS, "document")
    assert [len(texts) for texts in encoded] == [2, 2, 2]
    vectors, num_encoded = small.embedded(small.student_path, TEXTS, "document")
    assert num_encoded == 3 and encoded[3:] == [TEXTS[4:6], TEXTS[6:]]
    whole = encoders.encode_texts(small.load_student(small.student_path, small.student_precision), TEXTS, "document")
    assert vectors[:] == pytest.approx(whole, abs=0.01 if small.student_precision == "bf16" else 1e-5)
    assert small.embedded(small.student_path, TEXTS, "document")[1] == 0


def test_precisions_do_not_mix(project: Any, tmp_path: Any) -> None:
    """Half a corpus in bf16 and half in fp32 under one key would rank by precision wherever scores are close."""
    vectors = {}
    for precision in ("fp32", "bf16"):
        chosen = project.model_copy(update={"overrides": {**project.overrides, "student_precision": precision}})
        vectors[precision], num_encoded = chosen.embed(chosen.student_path, TEXTS, "document")
        assert num_encoded == len(TEXTS)
    assert not np.array_equal(vectors["fp32"], vectors["bf16"])
    auto = project.student_precision
    key = fingerprint(project.encoder_fingerprint(project.student_path), "document", auto)
    project.embed(project.student_path, TEXTS[:1], "document")
    assert project.embeddings.missing(key, [hash_text(TEXTS[0])]) == []


def test_only_a_chosen_precision_makes_stale(
    beir_folder: Any, tiny_encoder: Any, tiny_cross_encoder: Any, tmp_path: Any
) -> None:
    """With what `auto` finds in the key, a project moved to another machine would mine and train everything again."""
    prints = {
        precision: make_project(
            beir_folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", student_precision=precision
        ).student_fingerprint
        for precision in ("auto", "fp32", "bf16")
    }
    assert len(set(prints.values())) == 3
    project = make_project(beir_folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data")
    project.__dict__["student_precision"] = "bf16"
    assert project.student_fingerprint == prints["auto"]
