"""Loading and applying the two kinds of model: the cross-encoder teacher and the bi-encoder student."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Module, Transformer
from sentence_transformers.util import batch_to_device, truncate_embeddings

from distill_assets.errors import ModelError, NonFiniteError
from distill_assets.models.folders import (
    is_cross_encoder,
    read_json,
    require_model_folder,
    require_safe,
    unreadable,
)
from distill_assets.models.interaction import JointInteraction
from distill_assets.models.prompts import Prompts, find_prompts
from distill_assets.progress import Progress

logger = logging.getLogger(__name__)
Device = Literal["auto", "cpu", "cuda", "mps"]
Role = Literal["query", "document"]
Precision = Literal["fp32", "bf16"]  # of matrix products; vectors, logits and weights are fp32

# oneDNN keeps a compiled kernel per shape of a matrix product, 1,024 by default, and batches cut by tokens have as many shapes.
# 64 of them are as fast, and `make run` peaks 0.3 to 0.6 GB lower. It is read when the first product runs.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

# transformers 5 loads weights in the precision that they were saved in. Trained in half precision, all-MiniLM-L6-v2 fell from nDCG@10
# 0.65 to 0.10 on SciFact in two epochs: AdamW's steps vanish in 16 bits.
_FULL_PRECISION = {"dtype": torch.float32}
_FORMER_HEAD = (
    "distill_assets.core.interaction.JointInteraction"  # in folders that were saved before rooms were renamed
)
_TOKENS_PER_TEXT = 128
_CUDA_BATCH_TOKENS = 65_536
_SLAB_TEXTS = 512  # tokenised at once: 8 MB of ids at 512 tokens
_KNOWN_FEATURES = {"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length"}


def pick_device(device: Device) -> str:
    """The torch device to use: what was asked for, or CUDA, then MPS, then CPU."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_fast_bf16(device: str) -> bool:
    """Whether bf16 matrix products run in hardware. Emulated bf16 is 45 times slower than fp32 (measured on AVX2)."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu" or not _may_use_bf16(os.environ.get("ONEDNN_MAX_CPU_ISA", "")):
        return False
    return cpu_has("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def _may_use_bf16(limit: str) -> bool:
    """Whether oneDNN may use bf16 instructions where ONEDNN_MAX_CPU_ISA holds this (its names: CPU Dispatcher Control)."""
    return limit.upper() in ("", "ALL", "DEFAULT") or any(
        isa in limit.upper() for isa in ("BF16", "FP16", "AMX", "AVX10")
    )


def resolve_precision(precision: Literal["auto"] | Precision, device: str) -> Precision:
    """What `auto` means on this device: bf16 where its matrix products run in hardware, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16(device) else "fp32"


def cpu_has(*probes: str) -> bool:
    """Whether one of these private probes of `torch.cpu` says yes; those that this version of torch lacks say no."""
    return any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe))


def load_student(
    path: Path,
    *,
    device: str,
    max_length: int | None = None,
    precision: Precision = "fp32",
    prompts: Prompts | None = None,
    is_trusted: bool = False,
) -> SentenceTransformer:
    """Load a sentence-transformers bi-encoder from a local folder, with its prompts: those given, else what `find_prompts` says.

    In bf16 every transformer of the model computes in bf16, on both sides of a split model too; pooling and what follows stay in
    fp32. A model without a transformer (static embeddings, for one) stays in fp32: `used_precision` says what it is.
    `is_trusted`: its folder may bring pickled weights and Python code, which runs.

    Raises:
        ModelError: not a folder, not a model, not safe, weights that cannot be read (truncated, for one), or a prompt that fills
            all tokens that the model reads.
    """
    require_model_folder(path)
    require_safe(path, is_trusted=is_trusted)
    try:
        prompts = prompts or find_prompts(path)
        model = SentenceTransformer(
            str(path),
            device=device,
            local_files_only=True,
            trust_remote_code=is_trusted,
            model_kwargs=_FULL_PRECISION,
        )
    except Exception as error:
        raise unreadable(path, "a sentence-transformers model", error) from error
    limit = model.max_seq_length
    if max_length is not None:
        model.max_seq_length = max_length if limit is None else min(limit, max_length)
    model.prompts |= {"query": prompts.query, "document": prompts.document}
    _require_room(model, path)
    if prompts.warning:
        _warn(prompts.warning)
    if precision == "bf16":
        for transformer in (module for module in model.modules() if isinstance(module, Transformer)):
            transformer.to(torch.bfloat16).register_forward_hook(_as_float32)
    return model


def _require_room(model: SentenceTransformer, path: Path) -> None:
    limit = model.max_seq_length
    for role in get_args(Role):
        prompt = prompt_of(model, role)
        if limit is None or prompt is None:
            continue
        mask = model.preprocess([prompt], task=role).get("attention_mask")
        if isinstance(mask, torch.Tensor) and int(mask.sum()) >= limit:
            raise ModelError(
                f"{path} reads {limit} tokens, and its {role} prompt {prompt[:60]!r} fills them all: shorten {role}_prompt, or raise "
                "student_max_length"
            )


@cache  # a process loads a model many times
def _warn(sentence: str) -> None:
    logger.warning(sentence)


def used_precision(model: SentenceTransformer) -> Precision:
    """What a loaded bi-encoder's transformer computes in."""
    return "bf16" if any(p.dtype == torch.bfloat16 for p in model.parameters()) else "fp32"


def _as_float32(module: torch.nn.Module, inputs: object, output: Any) -> Any:
    """Pooling averages many tokens: 8 bits would be too few for the sum."""
    if isinstance(output, Mapping):
        return {name: _as_float32(module, inputs, value) for name, value in output.items()}
    if isinstance(output, tuple):  # the layers' outputs, where the pooling reads several
        return tuple(_as_float32(module, inputs, value) for value in output)
    return output.float() if _is_tensor(output) and output.is_floating_point() else output


def load_teacher(
    path: Path,
    *,
    device: str,
    max_length: int | None = None,
    prompt: str | None = None,
    is_trusted: bool = False,
) -> CrossEncoder:
    """Load a cross-encoder with one output from a local folder; its scores are raw logits.

    Args:
        path: its folder.
        device: torch device.
        max_length: tokens of a pair, fewer where the model reads fewer.
        prompt: takes the place of the model's own; empty for none.
        is_trusted: its folder may bring pickled weights and Python code, which runs.

    Raises:
        ModelError: not a folder, not a cross-encoder with one output, not safe, weights that cannot be read, or a prompt that
            leaves no room for the texts.
    """
    require_model_folder(path)
    if not is_cross_encoder(path):
        raise ModelError(
            f"{path} is an encoder without a scoring head: expected a cross-encoder (…ForSequenceClassification or a saved "
            "CrossEncoder); set teacher.finetune = true to grow one from it"
        )
    require_safe(path, is_trusted=is_trusted)
    try:
        modules = _modules_with_own_head(path)
        if modules is None:
            model = CrossEncoder(
                str(path),
                device=device,
                local_files_only=True,
                trust_remote_code=is_trusted,
                activation_fn=torch.nn.Identity(),
                model_kwargs=_FULL_PRECISION,
            )
        else:
            model = CrossEncoder(modules=modules, device=device, activation_fn=torch.nn.Identity())
    except Exception as error:
        raise unreadable(path, "a cross-encoder", error) from error
    if model.num_labels != 1:
        raise ModelError(
            f"{path} has {model.num_labels} outputs: a teacher needs one relevance logit; choose a ranking cross-encoder "
            "such as cross-encoder/ms-marco-MiniLM-L6-v2"
        )
    if max_length is not None:
        model.max_length = max_length if model.max_length is None else min(model.max_length, max_length)
    set_prompt(model, prompt)
    return model


def set_prompt(model: CrossEncoder, prompt: str | None) -> None:
    """Let a cross-encoder read `prompt` before every query, in place of its own; empty for none, None for its own.

    Raises:
        ModelError: the prompt leaves no room for the texts.
    """
    if prompt is not None:
        model.prompts, model.default_prompt_name = ({"teacher": prompt}, "teacher") if prompt else ({}, None)
    read, limit = model.prompts.get(model.default_prompt_name or ""), model.max_seq_length
    if not read or limit is None:
        return
    room = limit - model.tokenizer.num_special_tokens_to_add(pair=True)
    num_tokens = len(model.tokenizer(read, add_special_tokens=False)["input_ids"])
    if num_tokens >= room // 2:
        raise ModelError(
            f"the prompt {read[:60]!r} has {num_tokens} tokens, expected fewer than {room // 2}: a long document takes the other "
            f"half of the {room} that the teacher reads, and the query after the prompt would be cut off; shorten teacher_prompt, or "
            "raise teacher_max_length"
        )


def grow_cross_encoder(encoder_path: Path, *, device: str, max_length: int, is_trusted: bool = False) -> CrossEncoder:
    """A cross-encoder on top of any encoder: joint reading, `JointInteraction` head, no training yet.

    It reads `max_length` tokens, fewer where the encoder has fewer positions. Its second token type is set equal to its first,
    because sentence encoders have never seen the second.
    """
    require_model_folder(encoder_path)
    require_safe(encoder_path, is_trusted=is_trusted)
    trust = {"trust_remote_code": is_trusted}
    try:
        transformer = Transformer(
            str(encoder_path),
            max_seq_length=max_length,
            config_kwargs={"num_labels": 1, **trust},
            model_kwargs={**_FULL_PRECISION, **trust},
            processor_kwargs=dict(trust),
        )
    except Exception as error:
        raise unreadable(encoder_path, "an encoder", error) from error
    tokenizer, encoder = transformer.tokenizer, transformer.auto_model
    if tokenizer is None or tokenizer.sep_token_id is None:
        raise ModelError(f"{encoder_path} has no separator token: a cross-encoder needs one between query and document")
    embeddings = getattr(encoder, "embeddings", None)
    positions = getattr(embeddings, "position_embeddings", None)
    if positions is not None:  # those of RoBERTa begin behind the padding's
        offset = 0 if positions.padding_idx is None else positions.padding_idx + 1
        transformer.max_seq_length = min(max_length, positions.num_embeddings - offset)
    types = getattr(embeddings, "token_type_embeddings", None)
    if types is not None and types.num_embeddings > 1:
        with torch.no_grad():
            types.weight[1] = types.weight[0]
    special = sorted(
        {i for i in (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id) if i is not None}
    )
    head = JointInteraction(encoder.config.hidden_size, tokenizer.sep_token_id, special)
    return CrossEncoder(modules=[transformer, head], device=device, activation_fn=torch.nn.Identity())


def _modules_with_own_head(path: Path) -> list[Module] | None:
    """The modules of a folder that holds exactly a transformer and this package's head; None for any other folder.

    sentence-transformers 6 asks for trust_remote_code even for classes of installed packages, and that trust would reach
    modelling code that config.json or tokenizer_config.json name. Loaded one by one, the two modules need none.
    """
    if not (path / "modules.json").is_file():
        return None
    entries = read_json(path / "modules.json")
    own = f"{JointInteraction.__module__}.{JointInteraction.__qualname__}"
    is_own = len(entries) == 2 and entries[0]["type"].startswith("sentence_transformers.") and entries[1]["type"] == own
    folders = [(path / entry["path"]).resolve() for entry in entries]
    if not is_own or not all(folder.is_relative_to(path.resolve()) for folder in folders):
        return None
    transformer = Transformer.load(
        str(path),
        subfolder=entries[0]["path"],
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs=dict(_FULL_PRECISION),
    )
    return [transformer, JointInteraction.load(str(path), subfolder=entries[1]["path"], local_files_only=True)]


def encode_texts(model: SentenceTransformer, texts: Sequence[str], role: Role, *, batch_size: int = 32) -> np.ndarray:
    """Embed texts as unit vectors, float32 (len(texts), dimension), in the order given.

    `role` picks the model's prompt for queries or documents (`prompt_of`). Batches
    hold as many tokens as `batch_size` texts of 128 tokens (more on a GPU), texts of like length together: least padding.

    Raises:
        NonFiniteError: the model gave a NaN or an infinity, which would rank at random.
    """
    model.eval()
    num_tokens = max(_TOKENS_PER_TEXT * batch_size, _CUDA_BATCH_TOKENS if model.device.type == "cuda" else 0)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = np.empty((len(texts), model.get_embedding_dimension() or 0), np.float32)
    progress = Progress("texts encoded", len(texts), "texts")
    for start in range(0, len(texts), _SLAB_TEXTS):
        slab = order[start : start + _SLAB_TEXTS]
        vectors[slab] = _encode_slab(model, [texts[i] for i in slab], role, num_tokens)
        progress.advance(len(slab))
    num_bad = int((~np.isfinite(vectors).all(axis=1)).sum())
    if num_bad:
        raise NonFiniteError(
            f"{num_bad} of {len(vectors)} embeddings are not finite: the model's weights are damaged or training diverged"
        )
    return vectors


@torch.inference_mode()
def _encode_slab(model: SentenceTransformer, texts: list[str], role: Role, num_tokens: int) -> np.ndarray:
    """Unit vectors of a few hundred texts, tokenised once, then cut into batches of `num_tokens` tokens."""
    features = model.preprocess(texts, prompt=prompt_of(model, role), task=role)
    if not _is_sliceable(features, len(texts)):
        encode = model.encode_query if role == "query" else model.encode_document
        return np.asarray(encode(texts, normalize_embeddings=True, show_progress_bar=False), dtype=np.float32)
    lengths = features["attention_mask"].sum(dim=1)
    order = torch.argsort(lengths, stable=True)
    vectors: list[torch.Tensor] = []
    for batch in _token_batches(lengths[order].tolist(), num_tokens):
        rows, width = order[batch], int(lengths[order[batch.stop - 1]])
        part = {name: v[rows, :width] if _is_tensor(v) else v for name, v in features.items()}
        output = model(batch_to_device(part, model.device), task=role)["sentence_embedding"]
        vectors.append(truncate_embeddings(output, model.truncate_dim).float())
    joined = torch.nn.functional.normalize(torch.cat(vectors), p=2, dim=1)
    return joined[torch.argsort(order).to(joined.device)].cpu().numpy()


def prompt_of(model: SentenceTransformer, role: Role) -> str | None:
    """What stands before each text of this role in mining, training, evaluation and search; as `load_student` set it."""
    return model.prompts.get(role) or None


def _is_sliceable(features: Mapping[str, object], num_texts: int) -> bool:
    """Whether rows and columns of the features can be cut: text tokens, padded on the right, and nothing that is not known."""
    mask = features.get("attention_mask")
    if not isinstance(mask, torch.Tensor) or not set(features) <= _KNOWN_FEATURES:
        return False
    tensors = [value for value in features.values() if isinstance(value, torch.Tensor)]
    is_on_the_left = bool((mask[:, 1:] <= mask[:, :-1]).all())
    return is_on_the_left and all(value.shape == mask.shape and len(value) == num_texts for value in tensors)


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _token_batches(lengths: Sequence[int], num_tokens: int) -> Iterator[slice]:
    """Runs of ascending lengths that hold at most `num_tokens` tokens once padded to their longest, or a single text."""
    start = 0
    for stop, length in enumerate(lengths):
        if stop > start and length * (stop + 1 - start) > num_tokens:
            yield slice(start, stop)
            start = stop
    if start < len(lengths):
        yield slice(start, len(lengths))


class CrossEncoderScorer:
    """Scores pairs with a loaded cross-encoder; a `models.scoring.PairScorer`."""

    def __init__(self, model: CrossEncoder, *, batch_size: int = 32) -> None:
        self.model = model
        self.batch_size = batch_size

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Raw logits, float32 (len(pairs),), in the order given."""
        logits = self.model.predict(
            list(pairs),
            batch_size=self.batch_size,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
            convert_to_tensor=True,  # else each logit is copied from the device by itself
        )
        return logits.float().cpu().numpy()
