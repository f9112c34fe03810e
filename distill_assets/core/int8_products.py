"""Matrix products in 8-bit integers, for encoders on a CPU: weights quantised once, activations as they come.

Weights are symmetric per output channel; activations are quantised per product over all tokens of a batch, so a pair's logit
depends a little on the pairs that are scored beside it: the same pairs in the same order give the same bits.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from distill_assets.core.errors import ModelError

Product = Callable[[Tensor], Tensor]
# oneDNN has the fastest kernels (benchmarks/README.md); the others are what a build without it offers.
_ENGINES = ("onednn", "x86", "fbgemm")


def make_int8_product(weight: Tensor, bias: Tensor) -> Product:
    """`x @ weight.T + bias` for fp32 x (..., in), with weight (out, in) and bias (out,) in fp32; gives fp32 (..., out).

    Raises:
        ModelError: this build of torch has no 8-bit kernels for the processor.
    """
    scales = (weight.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny).double()
    with warnings.catch_warnings():  # deprecated, with no other way to these kernels in eager mode yet (decision 37)
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        packed = _pack(torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8), bias)
    # Without VNNI, sums of two 8-bit products saturate at 16 bits: activations then take 7.
    reduce_range = not _has_vnni()
    return lambda values: torch.ops.quantized.linear_dynamic(values, packed, reduce_range)


def find_int8_engine() -> str | None:
    """The quantised engine of this build of torch that is used here, or None."""
    if not hasattr(torch, "quantize_per_channel"):
        return None
    return next((name for name in _ENGINES if name in torch.backends.quantized.supported_engines), None)


def _pack(weight: Tensor, bias: Tensor) -> object:
    engine = find_int8_engine()
    if engine is None:
        known = ", ".join(torch.backends.quantized.supported_engines)
        raise ModelError(f"int8 needs one of {', '.join(_ENGINES)}, this build of torch has {known}")
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine  # which kernels a packed weight belongs to is read when it is packed
    try:
        return torch.ops.quantized.linear_prepack(weight, bias)
    finally:
        torch.backends.quantized.engine = before


def _has_vnni() -> bool:
    probes = ("_is_vnni_supported", "_is_avx512_vnni_supported")
    return any(getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe))
