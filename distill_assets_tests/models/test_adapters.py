"""Adapters: a trained cross-encoder to a few small files and back, and nothing of the machine in them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distill_assets.errors import ModelError
from distill_assets.models.adapters import load_adapted_student, load_adapted_teacher
from distill_assets.models.encoders import encode_texts, grow_cross_encoder, load_student, load_teacher
from experiments.adapters import add_adapter, save_adapter

PAIRS = [
    ("how to sum a array", "sum every value of the array"),
    ("how to sum a array", "sort the index along one axis"),
    ("merge", "merge every value of the frame along one axis of the index"),
    ("a", "kernel"),
]


def predict(model: Any) -> np.ndarray:
    """Raw logits of the pairs."""
    return model.predict(PAIRS, show_progress_bar=False)


@pytest.fixture
def adapted(tiny_encoder: Path, tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A saved adapter whose weights are far from their start; logits before and after."""
    model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
    plain = predict(model)
    wrapped = add_adapter(model, rank=2)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(
                    0.3 * torch.randn_like(parameter) if "lora" in name else 0.5 * torch.randn_like(parameter)
                )
    logits = predict(model)
    save_adapter(wrapped, model, tmp_path / "adapter")
    return tmp_path / "adapter", plain, logits


def test_a_new_adapter_changes_nothing(tiny_encoder: Path) -> None:
    """LoRA starts at zero: a start elsewhere throws away what the encoder knows."""
    model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
    plain = predict(model)
    add_adapter(model, rank=2)
    assert predict(model) == pytest.approx(plain, abs=1e-4)


def test_only_adapter_and_head_are_trained(tiny_encoder: Path) -> None:
    """A base weight that moves is not in the adapter's file and is lost on saving.

    2 layers x 6 linear layers, 2 matrices each: 24 (peft leaves out the pooler, which the head never reads). The head has 4.
    """
    model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
    add_adapter(model, rank=2)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sum("lora_" in name for name in trained) == 24
    assert sorted(name for name in trained if "lora_" not in name) == [
        "1.linear.bias",
        "1.linear.weight",
        "1.pooled_scale",
        "1.token_scale",
    ]


def test_round_trip(adapted: tuple[Path, np.ndarray, np.ndarray], tiny_encoder: Path) -> None:
    """An adapter that is read but not merged, or a head at its start, gives plausible logits of the untrained model.

    Saved in half precision: 11 bits, relative error 2^-11 a weight; 0.1 on logits that moved by more than 1.
    """
    folder, plain, logits = adapted
    loaded = load_adapted_teacher(tiny_encoder, folder, device="cpu", max_length=48)
    assert np.abs(logits - plain).max() > 1.0
    assert predict(loaded) == pytest.approx(logits, abs=0.1)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_the_loaded_teacher_is_a_plain_model(
    adapted: tuple[Path, np.ndarray, np.ndarray], tiny_encoder: Path, tmp_path: Path
) -> None:
    """Left-over adapter layers would be saved under names that a later load takes for missing weights."""
    loaded = load_adapted_teacher(tiny_encoder, adapted[0], device="cpu", max_length=48)
    assert not [name for name, _ in loaded.named_parameters() if "lora" in name]
    loaded.save_pretrained(str(tmp_path / "merged"))
    again = load_teacher(tmp_path / "merged", device="cpu", max_length=48)
    assert predict(again) == pytest.approx(predict(loaded), abs=1e-5)


def test_no_path_of_this_machine_is_saved(adapted: tuple[Path, np.ndarray, np.ndarray], tiny_encoder: Path) -> None:
    """Peft writes the base model's local path: useless elsewhere, and it tells who trained it."""
    for file in adapted[0].iterdir():
        if file.suffix != ".safetensors":
            text = file.read_text(encoding="utf-8")
            assert str(tiny_encoder) not in text and str(tiny_encoder.parent.parent) not in text
    config = json.loads((adapted[0] / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] is None


def test_files_are_half_precision(adapted: tuple[Path, np.ndarray, np.ndarray]) -> None:
    """fp32 would double what the package carries."""
    for name in ("adapter_model.safetensors", "head.safetensors"):
        assert {value.dtype for value in load_file(str(adapted[0] / name)).values()} == {torch.float16}


def test_another_base_is_refused(adapted: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """An adapter on a foreign encoder would score at random; the message must name both."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from benchmarks.tiny import save_bert

    source = save_bert(tmp_path / "source", num_labels=None)
    config = AutoConfig.from_pretrained(str(source), hidden_size=16, intermediate_size=32)
    AutoModel.from_config(config).save_pretrained(str(tmp_path / "narrow"))
    AutoTokenizer.from_pretrained(str(source)).save_pretrained(str(tmp_path / "narrow"))
    with pytest.raises(ModelError, match="adapter at .*/adapter does not fit .*/narrow"):
        load_adapted_teacher(tmp_path / "narrow", adapted[0], device="cpu", max_length=48)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "head.safetensors"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_damaged_adapters_are_refused(
    name: str, how: str, adapted: tuple[Path, np.ndarray, np.ndarray], tiny_encoder: Path, tmp_path: Path
) -> None:
    """Peft asks the hub for a missing file, by a name that is a local path."""
    copy = Path(shutil.copytree(adapted[0], tmp_path / "damaged"))
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    if how == "truncated":
        (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="/damaged does not fit"):
        load_adapted_teacher(tiny_encoder, copy, device="cpu", max_length=48)


def test_a_new_adapter_starts_alike_each_time(tiny_encoder: Path) -> None:
    """Its random half came from wherever the process stood: after a kill no training was known again, and none could be repeated."""
    starts = []
    for _ in range(2):
        model = load_student(tiny_encoder, device="cpu")
        state = torch.random.get_rng_state()
        add_adapter(model, rank=2)
        assert torch.equal(torch.random.get_rng_state(), state)
        starts.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
        torch.rand(17)
    assert starts[0] and all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())


def test_a_cross_encoder_without_the_head_cannot_be_saved_as_adapter(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    """Its classification layer would not be in the folder."""
    model = load_teacher(tiny_cross_encoder, device="cpu")
    wrapped = add_adapter(model, rank=2)
    with pytest.raises(ModelError, match="expected JointInteraction"):
        save_adapter(wrapped, model, tmp_path / "adapter")


def test_round_trip_of_a_bi_encoder(tiny_encoder: Path, tmp_path: Path) -> None:
    """A bi-encoder whose adapter is read and not merged embeds as the untouched one does, at a plausible quality."""
    texts = [text for pair in PAIRS for text in pair]
    model = load_student(tiny_encoder, device="cpu")
    plain = encode_texts(model, texts, "document")
    wrapped = add_adapter(model, rank=2)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    moved = encode_texts(model, texts, "document")
    save_adapter(wrapped, model, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "head.safetensors").exists()
    loaded = load_adapted_student(tiny_encoder, tmp_path / "adapter", device="cpu", max_length=32)
    assert np.abs(moved - plain).max() > 0.1
    assert encode_texts(loaded, texts, "document") == pytest.approx(moved, abs=0.01)
    loaded.save_pretrained(str(tmp_path / "merged"), create_model_card=False)
    again = load_student(tmp_path / "merged", device="cpu")
    assert encode_texts(again, texts, "document") == pytest.approx(moved, abs=0.01)
