"""What the encoders that can be packed are made of, read from their own weights: embeddings, layers and a last step.

Whether a network really computes this is tested on pairs before it is used (`fast/scorer.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_assets.errors import ModelError
from distill_assets.models.fast.bounds import Bounds

Step = Callable[[Tensor], Tensor]

_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")  # their positions count from the padding id on
_BERT_LIKE = ("bert", "electra", *_FROM_PADDING)  # one set of names


class Layer(Protocol):
    """What differs between layers around attention."""

    @property
    def heads(self) -> int:
        """Heads of attention."""

    @property
    def window(self) -> int | None:
        """Tokens are attended to at this distance at most; None for all of the pair."""

    def qkv(self, hidden: Tensor, bounds: Bounds) -> Tensor:
        """Queries, keys and values (num_tokens, 3 * hidden), in this order."""

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The layer's output, from its input and from what attention gave; both (num_tokens, hidden)."""


@dataclass(frozen=True)
class Architecture:
    """An encoder, ready for packed pairs.

    Attributes:
        embed: (ids, types, bounds) -> fp32 (num_tokens, hidden).
        layers: in order.
        end: what follows the last layer.
    """

    embed: Callable[[Tensor, Tensor, Bounds], Tensor]
    layers: Sequence[Layer]
    end: Step


def read_architecture(encoder: Any, dtype: torch.dtype) -> Architecture:
    """The parts of a loaded encoder, its linear layers in `dtype`.

    Raises:
        ModelError: the encoder is of another kind; what it lacks is named.
    """
    kind = encoder.config.model_type
    if kind not in _READERS or getattr(encoder.config, "is_decoder", False):
        raise ModelError(f"{kind} is not one of {', '.join(_READERS)}")
    if getattr(encoder.config, "position_embedding_type", None) not in (None, "absolute"):
        raise ModelError(f"{kind} with relative positions")
    return _READERS[kind](encoder, dtype)


# --- BERT and its likes: learned positions, normalised after each half of a layer ---


@dataclass(frozen=True)
class _BertLayer:
    heads: int
    project: Step
    attention_out: Step
    attention_norm: nn.LayerNorm
    up: Step
    activation: Step
    down: Step
    norm: nn.LayerNorm
    window: int | None = None

    def qkv(self, hidden: Tensor, bounds: Bounds) -> Tensor:
        return self.project(hidden)

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = _normalise(self.attention_norm, self.attention_out(attended).add_(hidden))
        up = self.activation(self.up(hidden))
        return _normalise(self.norm, self.down(up).add_(hidden))


def _read_bert_like(encoder: Any, dtype: torch.dtype) -> Architecture:
    heads = encoder.config.num_attention_heads
    layers = [
        _BertLayer(
            heads,
            _joined(layer.attention.self.query, layer.attention.self.key, layer.attention.self.value, dtype=dtype),
            _product_of(layer.attention.output.dense, dtype),
            layer.attention.output.LayerNorm,
            _product_of(layer.intermediate.dense, dtype),
            layer.intermediate.intermediate_act_fn,
            _product_of(layer.output.dense, dtype),
            layer.output.LayerNorm,
        )
        for layer in encoder.encoder.layer
    ]
    return Architecture(_learned_positions(encoder), layers, nn.Identity())


def _read_distilbert(encoder: Any, dtype: torch.dtype) -> Architecture:
    heads = encoder.config.num_attention_heads
    layers = [
        _BertLayer(
            heads,
            _joined(layer.attention.q_lin, layer.attention.k_lin, layer.attention.v_lin, dtype=dtype),
            _product_of(layer.attention.out_lin, dtype),
            layer.sa_layer_norm,
            _product_of(layer.ffn.lin1, dtype),
            layer.ffn.activation,
            _product_of(layer.ffn.lin2, dtype),
            layer.output_layer_norm,
        )
        for layer in encoder.transformer.layer
    ]
    return Architecture(_learned_positions(encoder), layers, nn.Identity())


def _learned_positions(encoder: Any) -> Callable[[Tensor, Tensor, Bounds], Tensor]:
    own, config = encoder.embeddings, encoder.config
    padding_id = config.pad_token_id if config.model_type in _FROM_PADDING else None
    widen = getattr(
        encoder, "embeddings_project", nn.Identity()
    )  # ELECTRA's embeddings may be narrower than its layers

    def embed(ids: Tensor, types: Tensor, bounds: Bounds) -> Tensor:
        summed = own.word_embeddings(ids) + own.position_embeddings(_positions(ids, bounds, padding_id))
        if hasattr(own, "token_type_embeddings"):
            summed = summed + own.token_type_embeddings(types)
        embedded: Tensor = widen(own.LayerNorm(summed))
        return embedded

    return embed


def _positions(ids: Tensor, bounds: Bounds, padding_id: int | None) -> Tensor:
    if padding_id is None:
        return bounds.positions
    # RoBERTa counts from the padding id on and skips padding tokens, should a text hold their literal form.
    is_token = (ids != padding_id).long()
    counted = is_token.cumsum(dim=0)
    before = (counted - is_token)[bounds.firsts]
    return (counted - bounds.spread(before)) * is_token + padding_id


# --- ModernBERT: positions are turns of queries and keys, normalised before each half of a layer, most layers read a window ---


@dataclass(frozen=True)
class _ModernBertLayer:
    heads: int
    window: int | None
    turn: "_Turn"
    attention_norm: Step
    project: Step
    attention_out: Step
    norm: Step
    up: Step
    activation: Step
    down: Step

    def qkv(self, hidden: Tensor, bounds: Bounds) -> Tensor:
        return self.turn(self.project(self.attention_norm(hidden)), self.heads, bounds)

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = self.attention_out(attended).add_(hidden)
        up, gate = self.up(self.norm(hidden)).chunk(2, dim=-1)
        return self.down(self.activation(up).mul_(gate)).add_(hidden)


class _Turn:
    """Rotary positions of one kind of layer: pairs of numbers of a query or key are turned by an angle that grows with the position."""

    def __init__(self, frequencies: Tensor, scale: float) -> None:
        self._frequencies, self._scale = frequencies.float(), scale
        self._factors = torch.empty(0)

    def __call__(self, qkv: Tensor, heads: int, bounds: Bounds) -> Tensor:
        """Turn queries and keys; their weights were put in the order of `_in_pairs`, so that a pair is one complex number."""
        factors = self._up_to(max(bounds.per_pair))[bounds.positions]
        parts = qkv.view(len(qkv), 3, heads, -1)
        numbers = torch.view_as_complex(parts[:, :2].float().reshape(len(qkv), 2, heads, -1, 2))
        parts[:, :2] = torch.view_as_real(numbers * factors[:, None, None]).flatten(-2)
        return qkv

    def _up_to(self, length: int) -> Tensor:
        """complex64 (positions, head size / 2): kept, and made again for a longer pair than all before."""
        factors = self._factors
        if len(factors) < length:
            positions = torch.arange(length, device=self._frequencies.device, dtype=torch.float32)
            angles = torch.outer(positions, self._frequencies)
            self._factors = factors = torch.polar(torch.full_like(angles, self._scale), angles)
        return factors


def _read_modernbert(encoder: Any, dtype: torch.dtype) -> Architecture:
    config, rotary = encoder.config, encoder.rotary_emb
    if set(rotary.rope_type.values()) != {"default"}:
        raise ModelError(
            f"modernbert with rotary positions of type {', '.join(sorted(set(rotary.rope_type.values())))}"
        )
    turns = {
        kind: _Turn(getattr(rotary, f"{kind}_inv_freq"), getattr(rotary, f"{kind}_attention_scaling"))
        for kind in rotary.rope_type
    }
    heads = config.num_attention_heads
    layers = [
        _ModernBertLayer(
            heads,
            config.sliding_window if layer.attention_type == "sliding_attention" else None,
            turns[layer.attention_type],
            _norm_of(layer.attn_norm),
            _qkv_in_pairs(layer.attn.Wqkv, heads, dtype),
            _product_of(layer.attn.Wo, dtype),
            _norm_of(layer.mlp_norm),
            _product_of(layer.mlp.Wi, dtype),
            layer.mlp.act,
            _product_of(layer.mlp.Wo, dtype),
        )
        for layer in encoder.layers
    ]
    own = encoder.embeddings
    return Architecture(
        lambda ids, types, bounds: own.norm(own.tok_embeddings(ids)), layers, _norm_of(encoder.final_norm)
    )


def _qkv_in_pairs(linear: nn.Linear, heads: int, dtype: torch.dtype) -> Step:
    bias = None if linear.bias is None else _in_pairs(linear.bias, heads)
    return _product(_in_pairs(linear.weight, heads), bias, dtype)


def _in_pairs(rows: Tensor, heads: int) -> Tensor:
    """Rows of Wqkv with numbers i and i + head size / 2 of each query and key side by side.

    These two are turned together. Products of queries and keys do not depend on the order of their numbers.
    """
    parts = rows.detach().view(3, heads, 2, -1, *rows.shape[1:])
    return torch.cat([parts[:2].transpose(2, 3).reshape(-1, *rows.shape[1:]), parts[2].reshape(-1, *rows.shape[1:])])


_READERS: dict[str, Callable[[Any, torch.dtype], Architecture]] = {
    **dict.fromkeys(_BERT_LIKE, _read_bert_like),
    "distilbert": _read_distilbert,
    "modernbert": _read_modernbert,
}


# --- linear layers and norms ---


def _joined(*linears: Any, dtype: torch.dtype) -> Step:
    """One matrix product in place of several with the same input."""
    weight, bias = torch.cat([p.weight for p in linears]), torch.cat([p.bias for p in linears])
    return _product(weight, bias, dtype)


def _product_of(linear: Any, dtype: torch.dtype) -> Step:
    if type(linear) is not nn.Linear:
        raise ModelError(f"a {type(linear).__name__} where a plain linear layer was expected")
    return _product(linear.weight, linear.bias, dtype)


def _product(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Step:
    weight, bias = weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)
    return lambda values: functional.linear(values, weight, bias)


def _norm_of(norm: nn.Module) -> Step:
    return (lambda values: _normalise(norm, values)) if isinstance(norm, nn.LayerNorm) else norm


def _normalise(norm: nn.LayerNorm, values: Tensor) -> Tensor:
    weight, bias = norm.weight.to(values.dtype), None if norm.bias is None else norm.bias.to(values.dtype)
    return functional.layer_norm(values, norm.normalized_shape, weight, bias, norm.eps)
