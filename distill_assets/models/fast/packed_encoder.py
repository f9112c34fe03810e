"""The forward pass of BERT-like encoders over pairs that lie one after the other, without padding.

Linear layers do not care where a pair ends: they read all tokens of a batch as one matrix. Attention does. On a CPU it is computed per
run of pairs of equal length, so that neither padding nor masks are needed. On CUDA in half precision one kernel reads all pairs with
their bounds (`torch.nn.attention.varlen`), where the loop would start thousands of tiny ones. The weights are the model's own; queries,
keys and values come from one matrix product instead of three.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
        device = encoder.embeddings.word_embeddings.weight.device
        self._attend = _attend_varlen if has_varlen(device, self.dtype) else _attend_by_runs
        self._padding_id = None if kind == "bert" else encoder.config.pad_token_id
        self._layers = [
            _read_layer(layer, encoder.config.num_attention_heads, self.dtype) for layer in encoder.encoder.layer
        ]

    def __call__(self, ids: Tensor, types: Tensor, bounds: "Bounds", *, first_only: bool = False) -> Tensor:
        """Last hidden states (num_tokens, hidden), or (num_pairs, hidden) of first tokens alone.

        Args:
            ids: int64 (num_tokens,), pairs one after the other.
            types: token types, the same shape.
            bounds: of the pairs.
            first_only: the last layer computes what a head on the first token reads, and nothing else.
        """
        hidden = self._embed(ids, types, bounds)
        for layer in self._layers[: -1 if first_only else None]:
            attended = self._attend(layer.qkv(hidden), bounds, layer.heads, first_only=False)
            hidden = _finish(layer, hidden, attended)
        if not first_only:
            return hidden
        layer = self._layers[-1]
        attended = self._attend(layer.qkv(hidden), bounds, layer.heads, first_only=True)
        return _finish(layer, hidden[bounds.firsts], attended)

    def _embed(self, ids: Tensor, types: Tensor, bounds: "Bounds") -> Tensor:
        own, positions = self._embeddings, self._positions(ids, bounds)
        summed = own.word_embeddings(ids) + own.token_type_embeddings(types) + own.position_embeddings(positions)
        return own.LayerNorm(summed).to(self.dtype)

    def _positions(self, ids: Tensor, bounds: "Bounds") -> Tensor:
        if self._padding_id is None:
            return torch.arange(len(ids), device=ids.device) - bounds.spread(bounds.firsts)
        # RoBERTa counts from the padding id on and skips padding tokens, should a text hold their literal form.
        is_token = (ids != self._padding_id).long()
        counted = is_token.cumsum(dim=0)
        before = (counted - is_token)[bounds.firsts]
        return (counted - bounds.spread(before)) * is_token + self._padding_id


@dataclass(frozen=True)
class Bounds:
    """Where the pairs of a batch lie among its tokens; each view of it is made once, where it is asked for.

    Attributes:
        per_pair: tokens of each pair.
        device: where the tokens are.
    """

    per_pair: Sequence[int]
    device: torch.device

    @cached_property
    def runs(self) -> Runs:
        """(number of pairs, tokens of each) of neighbouring pairs of equal length."""
        return runs_of(self.per_pair)

    @cached_property
    def lengths(self) -> Tensor:
        """int64 (num_pairs,), tokens of each pair."""
        return torch.tensor(self.per_pair, dtype=torch.int64, device=self.device)

    @cached_property
    def firsts(self) -> Tensor:
        """int64 (num_pairs,), place of each pair's first token."""
        return self.lengths.cumsum(dim=0) - self.lengths

    @cached_property
    def cumulative(self) -> Tensor:
        """int32 (num_pairs + 1,): the bounds as the varlen kernel reads them."""
        return functional.pad(self.lengths.cumsum(dim=0), (1, 0)).to(torch.int32)

    def spread(self, per_pair: Tensor) -> Tensor:
        """One value per pair as one per token."""
        return per_pair.repeat_interleave(self.lengths, output_size=sum(self.per_pair))


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


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether attention over pairs of any lengths is one kernel: on CUDA, in half precision, where this torch has it."""
    has_kernel = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and has_kernel


def _attend_varlen(qkv: Tensor, bounds: Bounds, heads: int, *, first_only: bool) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    longest = max(bounds.per_pair)
    asked, longest_asked = bounds.cumulative, longest
    if first_only:
        query, longest_asked = query[bounds.firsts], 1
        asked = torch.arange(len(bounds.per_pair) + 1, dtype=torch.int32, device=qkv.device)
    attended = varlen_attn(query, key, value, asked, bounds.cumulative, longest_asked, longest)
    return attended.reshape(len(query), -1)  # type: ignore[union-attr]


def _attend_by_runs(qkv: Tensor, bounds: Bounds, heads: int, *, first_only: bool) -> Tensor:
    parts = []
    for rows, (count, length) in zip(split_runs(qkv, bounds.runs), bounds.runs, strict=True):
        query, key, value = rows.view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        asked = query[:, :, :1] if first_only else query
        attended = functional.scaled_dot_product_attention(asked, key, value)
        parts.append(attended.transpose(1, 2).reshape(count * asked.shape[2], -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def split_runs(values: Tensor, runs: Runs) -> Sequence[Tensor]:
    """`values` (num_tokens, ...) cut at the ends of the runs."""
    return torch.split(values, [count * length for count, length in runs])  # type: ignore[no-untyped-call]
