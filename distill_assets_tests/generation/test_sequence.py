"""A sequence-to-sequence model as generator, on a tiny random T5."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distill_assets.errors import ModelError
from distill_assets.generation import generate, open_generator
from distill_assets.generation.chat import ChatGenerator
from distill_assets.generation.rules import RuleGenerator
from distill_assets.generation.sampling import Draw, Sampler
from distill_assets.generation.sequence import SequenceGenerator
from distill_assets.records import Document
from distill_assets_tests.layouts import LAYOUTS
from distill_assets_tests.models.families import tiny_bert

DOCUMENTS = [Document(f"d{i}", "", "sort the frame " * (1 + i % 5) + "abcdefghij"[i % 10]) for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 whose tokenizer knows words and letters."""
    from tokenizers import decoders
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer: Any = LAYOUTS["xlm-roberta"]()
    tokenizer.backend_tokenizer.decoder = decoders.Metaspace()
    torch.manual_seed(3)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.sep_token_id}
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "n_positions": 20}
    config = T5Config(**shape, **ids, vocab_size=len(tokenizer), decoder_start_token_id=tokenizer.pad_token_id)
    path = tmp_path_factory.mktemp("t5")
    T5ForConditionalGeneration(config).save_pretrained(str(path))
    tokenizer.save_pretrained(str(path))
    return path


@pytest.fixture(scope="module")
def generator(folder: Path) -> SequenceGenerator:
    """The same, opened as the setting names it."""
    opened = open_generator(str(folder))
    assert isinstance(opened, SequenceGenerator)
    return opened


def test_a_document_draws_the_same_whatever_stands_beside_it(generator: SequenceGenerator) -> None:
    """From one random stream, a document that is added changes the queries of all that follow: all of them are scored anew."""
    drawn = list(generator.queries_of(DOCUMENTS, 2, 0))
    assert list(generator.queries_of(DOCUMENTS[::-1], 2, 0))[::-1] == drawn
    assert [*generator.queries_of(DOCUMENTS[7:8], 2, 0)] == drawn[7:8] != [*generator.queries_of(DOCUMENTS[7:8], 2, 1)]
    assert len({*drawn[7]}) == 2, "two texts of a document are two draws"
    assert {query.kind for query in generate(DOCUMENTS, generator, 2, 0)} == {"model"}


def test_draws_follow_the_model_s_shares_within_top_k_and_top_p() -> None:
    """Noise that is wrong by a sign draws the least probable words. Shares 0.60, 0.30, 0.08: the fourth stands beyond 95 %."""
    shares = torch.tensor([0.30, 0.02, 0.60, 0.08])
    drawn = Draw(range(4000))(torch.zeros(4000, 1), shares.log().repeat(4000, 1)).argmax(-1)
    found = torch.bincount(drawn, minlength=4) / 4000
    expected = torch.tensor([0.30, 0.0, 0.60, 0.08]) / 0.98
    assert found[1] == 0 and torch.allclose(found, expected, atol=0.03)


def test_texts_are_cut_at_the_model_s_own_length(folder: Path, generator: SequenceGenerator) -> None:
    """A text beyond the positions of a model fails in the middle of a batch, or is read as noise."""
    assert Sampler(folder, device="cpu", is_trusted=False).max_tokens == 20
    head, tail = "sort the frame " * 10, "sort " * 300
    both = [Document("a", "", head), Document("a", "", head + tail)]
    assert len({tuple(next(iter(generator.queries_of([document], 2, 0)))) for document in both}) == 1


def test_the_identity_is_the_content_of_the_model(folder: Path, generator: SequenceGenerator, tmp_path: Path) -> None:
    """With a path in it, a copied model makes every query anew; without the content, another model's queries stay."""
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    assert SequenceGenerator(tmp_path / "copy").identity == generator.identity
    config = tmp_path / "copy" / "config.json"
    config.write_text(
        config.read_text(encoding="utf-8").replace('"n_positions": 20', '"n_positions": 30'), encoding="utf-8"
    )
    assert SequenceGenerator(tmp_path / "copy").identity != generator.identity


def test_another_kind_of_model_or_a_pickle_is_refused(folder: Path, tmp_path: Path) -> None:
    """A cross-encoder as generator fails deep in transformers; a pickle runs code."""
    with pytest.raises(ModelError, match="of the type bert, expected a sequence-to-sequence model"):
        generate(DOCUMENTS, open_generator(str(tiny_bert(tmp_path / "bert"))), 1, 0)
    (folder / "model.safetensors").rename(tmp_path / "kept")
    try:
        (folder / "pytorch_model.bin").write_bytes(b"")
        with pytest.raises(ModelError, match="is a pickle"):
            open_generator(str(folder))
    finally:
        (folder / "pytorch_model.bin").unlink()
        (tmp_path / "kept").rename(folder / "model.safetensors")


def test_the_name_decides_what_is_opened() -> None:
    """A URL that is taken for a hub name would be asked of the hub."""
    assert isinstance(open_generator("rules"), RuleGenerator)
    opened = open_generator("http://127.0.0.1:9/v1", model="m")
    assert isinstance(opened, ChatGenerator) and (opened.model, opened.server.urls) == ("m", ("http://127.0.0.1:9/v1",))
