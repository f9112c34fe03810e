"""Texts to vectors: what is known is not encoded again, and a vector is never another encoder's."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_assets.handles.models import Models
from distill_assets.handles.vectors import Vectors
from distill_assets.records import fingerprint
from distill_assets.settings.values import load_settings
from distill_assets.storage.embeddings import EmbeddingStore

TEXTS = ["sum every value of the array", "sort a matrix", "join the frame along one axis", "how to clip a signal"]


def open_vectors(folder: Path, student: Path, **overrides: Any) -> Vectors:
    """The handle as a new process would have it."""
    values: dict[str, Any] = {
        "student": str(student),
        "student_max_length": 32,
        "device": "cpu",
        "student_precision": "fp32",
    }
    settings = load_settings(None, **{"data_folder": str(folder), **values, **overrides})
    return Vectors(settings, Models(settings), EmbeddingStore(folder / "embeddings"))


@pytest.fixture
def vectors(tmp_path: Path, tiny_encoder: Path) -> Vectors:
    """The tiny encoder over an empty store."""
    return open_vectors(tmp_path, tiny_encoder)


def files(vectors: Vectors) -> dict[str, bytes]:
    """Every file of the store with its content."""
    return {path.name: path.read_bytes() for path in vectors.store.root.rglob("*") if path.is_file()}


def no_model() -> Any:
    """Stands for loading a model where none may be loaded."""
    raise AssertionError("a model was loaded")


def test_look_up_gives_what_embed_gives_and_writes_nothing(vectors: Vectors, tiny_encoder: Path) -> None:
    """A search that stores its queries fills the disk; one that puts stored and new vectors in the wrong order finds nonsense."""
    alone = vectors.look_up(tiny_encoder, TEXTS, "query")
    assert not vectors.store.root.exists()
    vectors.embed(tiny_encoder, TEXTS[2:3], "query")
    before = files(vectors)
    asked = [TEXTS[3], TEXTS[2], TEXTS[0], TEXTS[3], TEXTS[1]]
    found = vectors.look_up(tiny_encoder, asked, "query")
    assert files(vectors) == before
    assert found.shape == (5, 32)
    assert np.allclose(found, alone[[3, 2, 0, 3, 1]], atol=1e-6)
    embedded = vectors.embed(tiny_encoder, asked, "query")[:]
    assert np.allclose(found, embedded, atol=1e-6)
    assert np.array_equal(vectors.look_up(tiny_encoder, asked, "query"), embedded)  # all known: the same bytes
    assert np.allclose(np.linalg.norm(embedded, axis=1), 1.0, atol=1e-5)


def test_what_is_known_loads_no_model(vectors: Vectors, tiny_encoder: Path) -> None:
    """A second run that loads a model for nothing takes seconds; one that encodes again takes hours. Roles share no vector."""
    vectors.embed(tiny_encoder, TEXTS, "document")
    assert len(vectors.embed(tiny_encoder, TEXTS[::-1], "document", no_model)) == 4
    with pytest.raises(AssertionError, match="a model was loaded"):
        vectors.embed(tiny_encoder, TEXTS, "query", no_model)


def test_what_was_encoded_before_a_kill_is_kept(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Committed only at the end, a killed run of a million texts pays for all of them again. 64 batches of 1 make a part."""
    vectors = open_vectors(tmp_path, tiny_encoder, batch_size=1)
    texts = [f"text {i}" for i in range(70)]
    encoded: list[int] = []
    encode = Vectors._encode

    def dying(self: Vectors, model: Any, part: list[str], role: Any) -> np.ndarray:
        if encoded:
            raise KeyboardInterrupt
        encoded.append(len(part))
        return encode(self, model, part, role)

    monkeypatch.setattr(Vectors, "_encode", dying)
    with pytest.raises(KeyboardInterrupt):
        vectors.embed(tiny_encoder, texts, "document")
    assert encoded == [64]
    assert len(vectors.embed(tiny_encoder, texts[:64], "document", no_model)) == 64


def test_cosines_are_of_their_own_pair(vectors: Vectors, tiny_encoder: Path) -> None:
    """A cosine of the neighbour's document is a plausible number. A text that stands in two pairs is stored once."""
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[1]), (TEXTS[0], TEXTS[3])]
    found = vectors.cosines(tiny_encoder, pairs)
    queries = vectors.look_up(tiny_encoder, [q for q, _ in pairs], "query")
    documents = vectors.look_up(tiny_encoder, [d for _, d in pairs], "document")
    assert found == pytest.approx([float(q @ d) for q, d in zip(queries, documents, strict=True)], abs=1e-6)
    assert len(set(found.round(4).tolist())) == 3
    assert vectors.cosines(tiny_encoder, []).shape == (0,)


class _Recorder(EmbeddingStore):
    """A store that knows everything and remembers under what key it was asked."""

    def missing(self, fingerprint: str, text_hashes: Sequence[str]) -> list[str]:
        self.key = fingerprint
        return []

    def view(self, fingerprint: str, text_hashes: Sequence[str]) -> Any:
        assert fingerprint == self.key
        return np.zeros((len(text_hashes), 2), np.float32)


def key_of(folder: Path, student: Path, path: Path, role: Any, **overrides: Any) -> str:
    """Under what the vector of a text is kept."""
    vectors = open_vectors(folder, student, **overrides)
    store = _Recorder(folder / "recorder")
    Vectors(vectors.settings, vectors.models, store).embed(path, ["text"], role, no_model)
    return store.key


@pytest.fixture
def tower(tmp_path: Path, tiny_encoder: Path) -> Path:
    """A folder that says of itself that it is a query tower of the tiny encoder; nobody opens it here."""
    path = tmp_path / "tower"
    shutil.copytree(tiny_encoder, path)
    (path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Router"}]), encoding="utf-8")
    return path


def test_query_towers_in_bf16_have_another_key(tmp_path: Path, tiny_encoder: Path, tower: Path) -> None:
    """An older version pooled them in bf16: found again, those vectors rank by rounding. No other vector may be paid for again."""
    for path, precision, is_new in ((tower, "bf16", True), (tower, "fp32", False), (tiny_encoder, "bf16", False)):
        settings = {"student_precision": precision}
        encoder_id = open_vectors(tmp_path, tiny_encoder, **settings).models.encoder_id(path)
        former = fingerprint(encoder_id, "query", precision)
        assert (key_of(tmp_path, tiny_encoder, path, "query", **settings) != former) is is_new


def test_what_changes_a_vector_has_a_key_of_its_own(tmp_path: Path, tiny_encoder: Path, tower: Path) -> None:
    """Vectors of two lengths, roles, precisions or models under one key are mixed without any error."""
    keys = [
        key_of(tmp_path, tiny_encoder, tiny_encoder, "query"),
        key_of(tmp_path, tiny_encoder, tiny_encoder, "document"),
        key_of(tmp_path, tiny_encoder, tiny_encoder, "query", student_max_length=16),
        key_of(tmp_path, tiny_encoder, tiny_encoder, "query", student_precision="bf16"),
        key_of(tmp_path, tiny_encoder, tower, "query"),
    ]
    assert len(set(keys)) == 5
    assert key_of(tmp_path, tiny_encoder, tiny_encoder, "query", batch_size=7) == keys[0]


def test_a_query_tower_has_the_document_vectors_of_its_student(tmp_path: Path, tiny_encoder: Path, tower: Path) -> None:
    """Encoding a corpus again for a student that changed no document takes hours; another student's vectors would be wrong."""

    def tell(train: str, student: str) -> str:
        manifest = {"recipe": {"train": train}, "student": {"fingerprint": student}}
        (tower / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        return key_of(tmp_path, tiny_encoder, tower, "document")

    own = open_vectors(tmp_path, tiny_encoder).models.student_id
    of_student = key_of(tmp_path, tiny_encoder, tiny_encoder, "document")
    assert tell("query_tower", own) == of_student
    assert tell("query_tower", "another student") != of_student
    assert tell("all", own) != of_student
    assert key_of(tmp_path, tiny_encoder, tower, "query") != key_of(tmp_path, tiny_encoder, tiny_encoder, "query")


def test_only_a_chosen_precision_makes_stale(tmp_path: Path, tiny_encoder: Path) -> None:
    """With what `auto` finds in the id, a project that is moved to another machine would mine and train everything again."""
    ids = {
        precision: open_vectors(tmp_path, tiny_encoder, student_precision=precision).models.student_id
        for precision in ("auto", "fp32", "bf16")
    }
    assert len(set(ids.values())) == 3
    elsewhere = open_vectors(tmp_path, tiny_encoder, student_precision="auto").models
    elsewhere.__dict__["student_precision"] = "bf16"  # what another machine would find
    assert elsewhere.student_id == ids["auto"]
