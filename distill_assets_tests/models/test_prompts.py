"""A model that was trained with prompts and reads texts without them ranks worse, and no number says why."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from distill_assets.errors import ModelError
from distill_assets.handles.project import Project
from distill_assets.models.catalog import fingerprint_model
from distill_assets.models.encoders import encode_texts, load_student
from distill_assets.models.prompts import find_prompts
from distill_assets.records import fingerprint

SEARCHING = "Represent this sentence for searching relevant passages: "


def copy_as(encoder: Path, folder: Path, prompts: dict[str, str] | None = None) -> Path:
    """The tiny encoder under a published name; with prompts in its config where they are given."""
    shutil.copytree(encoder, folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))  # all its positions
    if prompts is not None:
        file = folder / "config_sentence_transformers.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"prompts": prompts}))
    return folder


@pytest.mark.parametrize(
    ("name", "query", "document"),
    [
        ("BAAI--bge-small-en-v1.5", SEARCHING, ""),
        ("BAAI--bge-large-zh", "为这个句子生成表示以用于检索相关文章：", ""),
        ("intfloat--multilingual-e5-small", "query: ", "passage: "),
        ("nomic-ai--nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("mixedbread-ai--mxbai-embed-large-v1", SEARCHING, ""),
        ("Snowflake--snowflake-arctic-embed-m", SEARCHING, ""),
        ("Snowflake--snowflake-arctic-embed-l-v2.0", "query: ", ""),
    ],
)
def test_a_published_family_gets_its_prompts(
    name: str, query: str, document: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    """The hub's cache keeps the name in a folder two levels up; sentence-transformers alone would load no prompt at all."""
    path = copy_as(tiny_encoder, tmp_path / f"models--{name}" / "snapshots" / "5c38ec7")
    found = find_prompts(path)
    assert (found.query, found.document, found.source, found.is_loaded) == (query, document, "table", False)
    model = load_student(path, device="cpu")
    assert (model.prompts["query"], model.prompts["document"]) == (query, document)


def test_families_that_need_none_and_unknown_ones_get_none(tiny_encoder: Path, tmp_path: Path) -> None:
    """A prompt that a model has never seen costs as much as one that is missing."""
    for name in ("gte-base", "bge-m3", "all-MiniLM-L6-v2", "my-model"):
        found = find_prompts(copy_as(tiny_encoder, tmp_path / name))
        assert (found.query, found.document, found.source, found.warning) == ("", "", "none", ""), name


def test_a_model_of_a_family_without_its_prompts_warns(tiny_encoder: Path, tmp_path: Path) -> None:
    """A fine-tuned BGE may have been trained with or without: nobody can know, so the user is told."""
    found = find_prompts(copy_as(tiny_encoder, tmp_path / "bge-small-en-v1.5-tickets"))
    assert not found.query and "set query_prompt" in found.warning
    taken = find_prompts(copy_as(tiny_encoder, tmp_path / "e5-base-v2"), query="", document="")
    assert (taken.query, taken.source) == ("", "none") and "the settings take it away" in taken.warning
    others = find_prompts(copy_as(tiny_encoder, tmp_path / "x", {"retrieval": "find: "}))
    assert "none of them named query or document" in others.warning


def test_the_config_wins_over_the_table_and_the_setting_over_both(tiny_encoder: Path, tmp_path: Path) -> None:
    """A table that wins over what the authors saved would change models that say how they read."""
    path = copy_as(tiny_encoder, tmp_path / "bge-base-en", {"query": "ask: ", "document": ""})
    found = find_prompts(path)
    assert (found.query, found.source, found.is_loaded) == ("ask: ", "model", True)
    found = find_prompts(path, query="find: ")
    assert (found.query, found.document, found.source, found.is_loaded) == ("find: ", "", "setting", False)


def test_a_passage_prompt_is_the_document_prompt(tiny_encoder: Path, tmp_path: Path) -> None:
    """sentence-transformers 6 adds an empty "document" first and finds that one: E5 saved with "passage" embeds bare documents."""
    path = copy_as(tiny_encoder, tmp_path / "saved", {"query": "query: ", "passage": "how to "})
    found = find_prompts(path)
    assert (found.query, found.document, found.is_loaded) == ("query: ", "how to ", False)
    model = load_student(path, device="cpu")
    plain = SentenceTransformer(str(path), device="cpu")
    given = plain.encode(["how to sum the array"], normalize_embeddings=True)
    assert encode_texts(model, ["sum the array"], "document") == pytest.approx(given, abs=1e-5)
    assert model.encode_document(["sum the array"], normalize_embeddings=True) == pytest.approx(given, abs=1e-5)


def test_a_checkpoint_reads_with_what_it_was_trained_with(tiny_encoder: Path, tmp_path: Path) -> None:
    """A recipe may be named like a family; a prompt that it was not trained with would move every vector."""
    path = copy_as(tiny_encoder, tmp_path / "bge-small-en")
    (path / "manifest.json").write_text("{}")
    assert (find_prompts(path).query, find_prompts(path).warning) == ("", "")


def test_a_prompt_without_room_for_a_text_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    """Every text would be cut behind the prompt: all vectors equal, all searches at random."""
    path = copy_as(tiny_encoder, tmp_path / "x", {"query": "how to sum the array " * 20, "document": ""})
    with pytest.raises(
        ModelError, match=r"reads 64 tokens, and its query prompt 'how to .* fills them all: shorten query_prompt"
    ):
        load_student(path, device="cpu")


def project_of(student: Path, tmp_path: Path, **overrides: Any) -> Project:
    """A project that never runs."""
    return Project(overrides={"collection": f"beir:{tmp_path}", "student": str(student), **overrides})


def test_prompts_are_part_of_the_id_of_what_they_change(tiny_encoder: Path, tmp_path: Path) -> None:
    """Vectors under two prompts in one store are two models under one name. Ids without prompts stay: they are paid for."""
    plain = project_of(tiny_encoder, tmp_path).models
    assert plain.student_id == fingerprint(fingerprint_model(tiny_encoder), None)
    asked = project_of(tiny_encoder, tmp_path, query_prompt="how to ").models
    assert asked.student_id != plain.student_id
    assert project_of(tiny_encoder, tmp_path, query_prompt="").models.student_id == plain.student_id
    named = copy_as(tiny_encoder, tmp_path / "bge-small-en")
    found = project_of(named, tmp_path).models
    assert found.student_id == fingerprint(fingerprint_model(named), None, ("prompts", SEARCHING, ""))
    assert found.load_student(named).prompts["query"] == SEARCHING
    other = copy_as(tiny_encoder, tmp_path / "other")
    assert asked.load_student(other).prompts["query"] == "", "the setting is the untouched student's alone"


def test_documents_are_counted_with_their_prompt(tiny_encoder: Path, tmp_path: Path) -> None:
    """A prompt takes tokens from each document: without them the check says that all is read while ends are cut off."""
    bare, asked = (
        project_of(tiny_encoder, tmp_path, document_prompt=prompt).models.count_tokens(["sum the array"])[0]
        for prompt in ("", "how to ")
    )
    assert asked == bare + 2
