"""Low-rank adapters: a whole model as a file of a few MB on top of an encoder that is at hand anyway.

Hu et al. 2021, arXiv 2106.09685; peft's implementation. An adapter folder holds `adapter_model.safetensors` and
`adapter_config.json`; that of a cross-encoder also `head.safetensors` (the `JointInteraction` weights).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer

from distill_assets.errors import ModelError
from distill_assets.models.encoders import grow_cross_encoder, load_student
from distill_assets.models.interaction import JointInteraction

HEAD_FILE = "head.safetensors"


def load_adapted_teacher(encoder_path: Path, adapter_path: Path, *, device: str, max_length: int) -> CrossEncoder:
    """Encoder plus adapter and head, merged into one plain cross-encoder in fp32.

    Raises:
        ModelError: the adapter's files are missing or do not fit the encoder.
    """
    model = grow_cross_encoder(encoder_path, device=device, max_length=max_length)
    with _fitting(encoder_path, adapter_path):
        _merge(model, adapter_path)
        head_of(model).load_state_dict({k: v.float() for k, v in load_file(str(adapter_path / HEAD_FILE)).items()})
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


def head_of(model: CrossEncoder) -> JointInteraction:
    """The scoring head of a cross-encoder that was grown here. Raises `ModelError` for any other."""
    head = model[-1]
    if not isinstance(head, JointInteraction):
        raise ModelError(f"the cross-encoder ends in {type(head).__name__}, expected JointInteraction")
    return head
