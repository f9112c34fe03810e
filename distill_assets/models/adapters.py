"""Low-rank adapters: a whole model as a file of a few MB on top of an encoder that is at hand anyway.

Hu et al. 2021, arXiv 2106.09685; peft's implementation. An adapter folder holds `adapter_model.safetensors` and
`adapter_config.json`; that of a cross-encoder also `head.safetensors` (the `JointInteraction` weights).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer

from distill_assets.errors import ModelError
from distill_assets.models.encoders import grow_cross_encoder, load_student
from distill_assets.models.interaction import JointInteraction

_HEAD_FILE = "head.safetensors"
_SEED = 0  # of the random half of a new adapter; the other half is 0


def add_adapter(model: CrossEncoder | SentenceTransformer, rank: int, *, start: Path | None = None) -> PeftModel:
    """Put trainable low-rank adapters on every linear layer of the encoder, in place; a scoring head stays trainable.

    They start from the adapter of the same rank in `start`, else as the encoder is. Both starts are the same each time: a training
    that is gone on from after a kill is known by its start weights.
    """
    encoder = model[0].auto_model
    if start is not None:
        return PeftModel.from_pretrained(encoder, str(start), is_trainable=True).float()
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", exclude_modules=["pooler.dense"], lora_dropout=0.0
    )
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        return get_peft_model(encoder, config)


def save_adapter(adapted: PeftModel, model: CrossEncoder | SentenceTransformer, folder: Path) -> None:
    """Write the adapter, and a cross-encoder's head, as half-precision safetensors."""
    adapted.half().save_pretrained(str(folder), safe_serialization=True)
    config_path = folder / "adapter_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None  # a path of the machine that trained it means nothing elsewhere
    config["target_modules"] = sorted(config["target_modules"])  # peft writes a set, in another order each time
    config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    if isinstance(model, CrossEncoder):
        weights = {name: value.half().contiguous() for name, value in _head(model).state_dict().items()}
        save_file(weights, str(folder / _HEAD_FILE))


def load_adapted_teacher(encoder_path: Path, adapter_path: Path, *, device: str, max_length: int) -> CrossEncoder:
    """Encoder plus adapter and head, merged into one plain cross-encoder in fp32.

    Raises:
        ModelError: the adapter's files are missing or do not fit the encoder.
    """
    model = grow_cross_encoder(encoder_path, device=device, max_length=max_length)
    with _fitting(encoder_path, adapter_path):
        _merge(model, adapter_path)
        _head(model).load_state_dict({k: v.float() for k, v in load_file(str(adapter_path / _HEAD_FILE)).items()})
    return model


def load_adapted_student(
    encoder_path: Path, adapter_path: Path, *, device: str, max_length: int
) -> SentenceTransformer:
    """Encoder plus adapter, merged into one plain bi-encoder in fp32.

    Raises:
        ModelError: the adapter's files are missing or do not fit the encoder.
    """
    model = load_student(encoder_path, device=device, max_length=max_length)
    with _fitting(encoder_path, adapter_path):
        _merge(model, adapter_path)
    return model


def _merge(model: CrossEncoder | SentenceTransformer, adapter_path: Path) -> None:
    adapted: Any = PeftModel.from_pretrained(model[0].auto_model, str(adapter_path))
    adapted.float().merge_and_unload()


@contextmanager
def _fitting(encoder_path: Path, adapter_path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"the adapter at {adapter_path} does not fit {encoder_path}: {type(error).__name__}: {str(error)[:300]}; "
            "it belongs to all-MiniLM-L6-v2"
        ) from error


def _head(model: CrossEncoder) -> JointInteraction:
    head = model[-1]
    if not isinstance(head, JointInteraction):
        raise ModelError(f"the cross-encoder ends in {type(head).__name__}, expected JointInteraction")
    return head
