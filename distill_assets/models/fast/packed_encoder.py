"""The forward pass of BERT-like encoders over pairs that lie one after the other, without padding.

Linear layers do not care where a pair ends: they read all tokens of a batch as one matrix. Attention does, and is computed
per run of pairs of equal length, so that neither padding nor masks are needed. The weights are the model's own; queries,
keys and values come from one matrix product instead of three.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_assets.errors import ModelError
from distill_assets.models.encoders import Precision

# Encoders of these types share names and arithmetic; whether a model really does is tested on pairs before it is used.
BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert")
Runs = Sequence[tuple[int, int]]
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Layer:
    heads: int
    qkv: Product
    attention_out: Product
    attention_norm: nn.LayerNorm
    up: Product
    activation: Any
    down: Product
    norm: nn.LayerNorm


class PackedEncoder:
    """Token embeddings of packed pairs, from the weights of a BERT-like encoder.

    Args:
        encoder: `BertModel` or one of its likes, in fp32.
        precision: of the linear layers and of what flows between them; embeddings are summed and normalised in fp32.

    Raises:
        ModelError: the encoder is of another kind; what it lacks is named.
    """

    def __init__(self, encoder: Any, precision: Precision) -> None:
        kind = encoder.config.model_type
        if kind not in BERT_LIKE or getattr(encoder.config, "is_decoder", False):
            raise ModelError(f"{kind} is not one of {', '.join(BERT_LIKE)}")
        if getattr(encoder.config, "position_embedding_type", None) not in (None, "absolute"):
            raise ModelError(f"{kind} with relative positions")
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.hidden_size = encoder.config.hidden_size
        self._embeddings = encoder.embeddings
        self._padding_id = None if kind == "bert" else encoder.config.pad_token_id
        self._layers = [
            _read_layer(layer, encoder.config.num_attention_heads, self.dtype) for layer in encoder.encoder.layer
        ]

    def __call__(self, ids: Tensor, types: Tensor, runs: Runs, *, first_only: bool = False) -> Tensor:
        """Last hidden states (num_tokens, hidden), or (num_pairs, hidden) of first tokens alone.

        Args:
            ids: int64 (num_tokens,), pairs one after the other.
            types: token types, the same shape.
            runs: (number of pairs, tokens of each) of neighbouring pairs of equal length; covers all tokens.
            first_only: the last layer computes what a head on the first token reads, and nothing else.
        """
        hidden = self._embed(ids, types, runs)
        for layer in self._layers[: -1 if first_only else None]:
            attended = _attend(layer.qkv(hidden), runs, layer.heads)
            hidden = _finish(layer, hidden, attended)
        if not first_only:
            return hidden
        layer, firsts = self._layers[-1], _first_rows(runs, hidden.device)
        attended = _attend_first(layer.qkv(hidden), runs, layer.heads)
        return _finish(layer, hidden[firsts], attended)

    def _embed(self, ids: Tensor, types: Tensor, runs: Runs) -> Tensor:
        own = self._embeddings
        positions = torch.cat(
            [self._positions(part, *run) for part, run in zip(split_runs(ids, runs), runs, strict=True)]
        )
        summed = own.word_embeddings(ids) + own.token_type_embeddings(types) + own.position_embeddings(positions)
        return own.LayerNorm(summed).to(self.dtype)

    def _positions(self, ids: Tensor, count: int, length: int) -> Tensor:
        if self._padding_id is None:
            return torch.arange(length, device=ids.device).repeat(count)
        # RoBERTa counts from the padding id on and skips padding tokens, should a text hold their literal form.
        is_token = (ids != self._padding_id).view(count, length).long()
        return (is_token.cumsum(dim=1) * is_token + self._padding_id).flatten()


def runs_of(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours of equal length, as (how many, length)."""
    runs: list[tuple[int, int]] = []
    for length in lengths:
        if runs and runs[-1][1] == length:
            runs[-1] = (runs[-1][0] + 1, length)
        else:
            runs.append((1, length))
    return runs


def _read_layer(layer: Any, heads: int, dtype: torch.dtype) -> _Layer:
    own = layer.attention.self
    parts = (own.query, own.key, own.value)
    return _Layer(
        heads=heads,
        qkv=_product(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]), dtype),
        attention_out=_product_of(layer.attention.output.dense, dtype),
        attention_norm=layer.attention.output.LayerNorm,
        up=_product_of(layer.intermediate.dense, dtype),
        activation=layer.intermediate.intermediate_act_fn,
        down=_product_of(layer.output.dense, dtype),
        norm=layer.output.LayerNorm,
    )


def _product_of(linear: Any, dtype: torch.dtype) -> Product:
    if type(linear) is not nn.Linear:
        raise ModelError(f"a {type(linear).__name__} where a plain linear layer was expected")
    return _product(linear.weight, linear.bias, dtype)


def _product(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Product:
    weight, bias = weight.detach().to(dtype), bias.detach().to(dtype)
    return lambda values: functional.linear(values, weight, bias)


def _finish(layer: _Layer, hidden: Tensor, attended: Tensor) -> Tensor:
    hidden = _normalise(layer.attention_norm, layer.attention_out(attended).add_(hidden))
    up = layer.activation(layer.up(hidden))
    return _normalise(layer.norm, layer.down(up).add_(hidden))


def _normalise(norm: nn.LayerNorm, values: Tensor) -> Tensor:
    weight, bias = norm.weight.to(values.dtype), norm.bias.to(values.dtype)
    return functional.layer_norm(values, norm.normalized_shape, weight, bias, norm.eps)


def _attend(qkv: Tensor, runs: Runs, heads: int) -> Tensor:
    parts = []
    for rows, (count, length) in zip(split_runs(qkv, runs), runs, strict=True):
        query, key, value = rows.view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        parts.append(attended.transpose(1, 2).reshape(count * length, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend_first(qkv: Tensor, runs: Runs, heads: int) -> Tensor:
    parts = []
    for rows, (count, length) in zip(split_runs(qkv, runs), runs, strict=True):
        query, key, value = rows.view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query[:, :, :1], key, value)
        parts.append(attended.reshape(count, -1))
    return torch.cat(parts)


def split_runs(values: Tensor, runs: Runs) -> Sequence[Tensor]:
    """`values` (num_tokens, ...) cut at the ends of the runs."""
    return torch.split(values, [count * length for count, length in runs])  # type: ignore[no-untyped-call]


def _first_rows(runs: Runs, device: torch.device) -> Tensor:
    rows: list[int] = []
    start = 0
    for count, length in runs:
        rows += range(start, start + count * length, length)
        start += count * length
    return torch.tensor(rows, device=device)
