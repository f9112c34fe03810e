"""The forward pass of an encoder over pairs that lie one after the other, without padding.

Linear layers do not care where a pair ends: they read all tokens of a batch as one matrix. Attention does. On a CPU it is computed per
run of pairs of equal length, so that neither padding nor masks are needed. On CUDA in half precision one kernel reads all pairs with
their bounds (`torch.nn.attention.varlen`), where the loop would start thousands of tiny ones. The weights are the model's own; queries,
keys and values come from one matrix product. What the architectures are made of stands in `architectures.py`.
"""

import importlib.util
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distill_assets.errors import ModelError
from distill_assets.models.encoders import Precision
from distill_assets.models.fast.architectures import Layer, read_architecture
from distill_assets.models.fast.bounds import Bounds, split_runs

# Up to how many windows local attention goes by a mask, and by blocks beyond. AVX2, window 64, head size 64: 256 tokens take 2.4 ms by
# mask and 3.6 by blocks, 512 take 10.5 and 6.9, 2,048 take 152 and 38.
_MASKED_WINDOWS = 6


class PackedEncoder:
    """Token embeddings of packed pairs, from the weights of an encoder.

    Args:
        encoder: `BertModel`, `ModernBertModel` or another that `architectures.py` knows, in fp32.
        precision: of the linear layers and of what flows between them; embeddings are summed and normalised in fp32.

    Raises:
        ModelError: the encoder is of another kind, or this torch has no kernel for its attention; what lacks is named.
    """

    def __init__(self, encoder: Any, precision: Precision) -> None:
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.hidden_size: int = encoder.config.hidden_size
        self._own = read_architecture(encoder, self._dtype)
        self._attend = _attend_by_runs
        if has_varlen(encoder.device, self._dtype):
            if any(layer.window is not None for layer in self._own.layers) and not _varlen_has_windows():
                raise ModelError("this torch's varlen_attn has no window_size, which layers with local attention need")
            self._attend = _attend_varlen

    def __call__(self, ids: Tensor, types: Tensor, bounds: Bounds, *, first_only: bool = False) -> Tensor:
        """Last hidden states (num_tokens, hidden), or (num_pairs, hidden) of first tokens alone.

        Args:
            ids: int64 (num_tokens,), pairs one after the other.
            types: token types, the same shape.
            bounds: of the pairs.
            first_only: the last layer computes what a head on the first token reads, and nothing else.
        """
        hidden = self._own.embed(ids, types, bounds).to(self._dtype)
        last = len(self._own.layers) - 1
        for number, layer in enumerate(self._own.layers):
            is_first_only = first_only and number == last
            attended = self._attend(layer.qkv(hidden, bounds), bounds, layer, first_only=is_first_only)
            hidden = layer.finish(hidden[bounds.firsts] if is_first_only else hidden, attended)
        return self._own.end(hidden)


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether attention over pairs of any lengths is one kernel: on CUDA, in half precision, where this torch has it."""
    has_kernel = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and has_kernel


def _varlen_has_windows() -> bool:
    from torch.nn.attention import varlen

    return "window_size" in inspect.signature(varlen.varlen_attn).parameters


def _attend_varlen(qkv: Tensor, bounds: Bounds, layer: Layer, *, first_only: bool) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.view(len(qkv), 3, layer.heads, -1).unbind(1)
    longest = max(bounds.per_pair)
    asked, longest_asked = bounds.cumulative, longest
    window: dict[str, Any] = {} if layer.window is None else {"window_size": (layer.window, layer.window)}
    if first_only and not window:
        query, longest_asked = query[bounds.firsts], 1
        asked = torch.arange(len(bounds.per_pair) + 1, dtype=torch.int32, device=qkv.device)
    attended: Any = varlen_attn(query, key, value, asked, bounds.cumulative, longest_asked, longest, **window)
    if first_only and window:  # the kernel lays the window of fewer queries at a pair's end
        attended = attended[bounds.firsts]
    return attended.reshape(len(attended), -1)  # type: ignore[no-any-return]


def _attend_by_runs(qkv: Tensor, bounds: Bounds, layer: Layer, *, first_only: bool) -> Tensor:
    parts = []
    for rows, (count, length) in zip(split_runs(qkv, bounds.runs), bounds.runs, strict=True):
        query, key, value = rows.view(count, length, 3, layer.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if first_only:  # a window reaches as far from the first token as this cut
            reach = slice(None if layer.window is None else layer.window + 1)
            attended = functional.scaled_dot_product_attention(query[:, :, :1], key[:, :, reach], value[:, :, reach])
        elif layer.window is None or length <= layer.window + 1:
            attended = functional.scaled_dot_product_attention(query, key, value)
        else:
            attended = _attend_near(query, key, value, layer.window)
        parts.append(attended.transpose(1, 2).reshape(-1, layer.heads * attended.shape[-1]))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _attend_near(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """Attention (pairs, heads, tokens, size) of each token to those at most `window` away.

    A long pair goes in blocks as long as the window, each with the blocks beside it, so that time and memory grow with its length and
    not with the square of it.
    """
    num_pairs, _, length, _ = query.shape
    places = torch.arange(length, device=query.device)
    if length <= _MASKED_WINDOWS * window:
        is_near = (places[:, None] - places).abs() <= window
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=is_near)
    num_blocks = -(-length // window)
    end = num_blocks * window - length  # rows past the end read each other, and are cut off
    places = functional.pad(places, (window, window + end), value=-2 * length).unfold(0, 3 * window, window)
    is_near = (places[:, window : 2 * window, None] - places[:, None]).abs() <= window  # (blocks, window, 3 * window)

    def in_blocks(tokens: Tensor, size: int) -> Tensor:
        """Tokens as (pairs * blocks, heads, size, head size)."""
        aside = (size - window) // 2
        padded = functional.pad(tokens, (0, 0, aside, aside + end)).unfold(2, size, window)
        return padded.permute(0, 2, 1, 4, 3).flatten(0, 1)

    attended = functional.scaled_dot_product_attention(
        in_blocks(query, window),
        in_blocks(key, 3 * window),
        in_blocks(value, 3 * window),
        attn_mask=is_near.repeat(num_pairs, 1, 1).unsqueeze(1),
    )
    attended = attended.reshape(num_pairs, num_blocks, *attended.shape[1:])
    return attended.transpose(1, 2).flatten(2, 3)[:, :, :length]
