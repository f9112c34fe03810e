"""Texts from a sequence-to-sequence model, each drawn by a random stream of its own."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from distill_assets.errors import ModelError
from distill_assets.generation.sequence import MAX_NEW_TOKENS, TOP_K, TOP_P
from distill_assets.models.folders import unreadable

_USUAL_TOKENS = 512  # of T5, which has no limit of its own
_BATCH, _WINDOW = 16, 256  # texts of a forward pass; texts that are sorted by length together


class Sampler:
    """A sequence-to-sequence model from a folder that is safe (`models.folders.require_safe`).

    Args:
        path: its folder.
        device: as torch names it.
        is_trusted: the folder may bring Python code, which runs.

    Attributes:
        max_tokens: of a text that it reads; the rest is cut.

    Raises:
        ModelError: it cannot be read, or is no sequence-to-sequence model.
    """

    def __init__(self, path: Path, *, device: str, is_trusted: bool) -> None:
        given = {"local_files_only": True, "trust_remote_code": is_trusted}
        try:
            config = AutoConfig.from_pretrained(str(path), **given)
            if config.is_encoder_decoder:
                self._tokenizer: Any = AutoTokenizer.from_pretrained(str(path), **given)
                self._model: Any = AutoModelForSeq2SeqLM.from_pretrained(str(path), dtype=torch.float32, **given)
        except Exception as error:
            raise unreadable(path, "a sequence-to-sequence model", error) from error
        if not config.is_encoder_decoder:
            raise ModelError(
                f"{path} is a model of the type {config.model_type}, expected a sequence-to-sequence model such as T5 or BART: set "
                "query_generator to one, or to the address of a server for a chat model"
            )
        self._model.to(device).eval()
        self.max_tokens = _own_limit(self._tokenizer, config)

    def texts_of(self, inputs: Sequence[str], seeds: Sequence[Sequence[int]]) -> Iterator[list[str]]:
        """The texts that are drawn for each input, one per seed of it; without those that are empty."""
        for start in range(0, len(inputs), _WINDOW):
            window = inputs[start : start + _WINDOW]
            ids = self._tokenizer(list(window), truncation=True, max_length=self.max_tokens)["input_ids"]
            longest_first = sorted(range(len(window)), key=lambda row: -len(ids[row]))
            found: dict[int, list[str]] = {}
            for first in range(0, len(window), _BATCH):
                rows = longest_first[first : first + _BATCH]
                drawn = self._draw([ids[row] for row in rows], [seeds[start + row] for row in rows])
                found |= dict(zip(rows, drawn, strict=True))
            yield from (found[row] for row in range(len(window)))

    @torch.inference_mode()
    def _draw(self, ids: Sequence[list[int]], seeds: Sequence[Sequence[int]]) -> list[list[str]]:
        """An input is encoded once, whatever the number of its seeds."""
        inputs = self._tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt").to(self._model.device)
        repeats = torch.tensor([len(own) for own in seeds], device=self._model.device)
        encoded = self._model.get_encoder()(**inputs).last_hidden_state
        made = self._model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.repeat_interleave(repeats, dim=0)),
            attention_mask=inputs["attention_mask"].repeat_interleave(repeats, dim=0),
            logits_processor=LogitsProcessorList([Draw([seed for own in seeds for seed in own])]),
            do_sample=False,
            num_beams=1,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        texts = iter(self._tokenizer.batch_decode(made, skip_special_tokens=True))
        return [[text for text in (next(texts).strip() for _ in own) if text] for own in seeds]


class Draw(LogitsProcessor):
    """Leaves the token that each row draws from its most probable ones, by a random stream of its own (the Gumbel-max trick).

    Sampling as transformers has it draws for all rows from one stream: a text would depend on the documents before it.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary), minus infinity everywhere but at the drawn token."""
        values, tokens = torch.topk(scores.float(), min(TOP_K, scores.shape[-1]))
        shares = values.softmax(-1)
        is_out = shares.cumsum(-1) - shares >= TOP_P
        uniform = torch.stack([torch.rand(values.shape[-1], generator=stream) for stream in self._streams])
        noise = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7))).to(values.device)
        drawn = (values + noise).masked_fill(is_out, -torch.inf).argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens.gather(-1, drawn), 0.0)


def _own_limit(tokenizer: Any, config: Any) -> int:
    """Tokens that a model reads: its tokenizer's limit, or its positions, whichever is less."""
    names = ("n_positions", "max_position_embeddings", "max_encoder_position_embeddings")
    limits = [tokenizer.model_max_length, *(getattr(config, name, None) for name in names)]
    known = [
        limit for limit in limits if isinstance(limit, int) and limit < 1_000_000
    ]  # a tokenizer without one says 10^30
    return min(known, default=_USUAL_TOKENS)
