"""New low-rank adapters, and how they are written: what `distill_assets/models/adapters.py` reads."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder, SentenceTransformer

from distill_assets.models.adapters import HEAD_FILE, head_of

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
        weights = {name: value.half().contiguous() for name, value in head_of(model).state_dict().items()}
        save_file(weights, str(folder / HEAD_FILE))
