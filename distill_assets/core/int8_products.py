"""Matrix products in 8-bit integers, for encoders on a CPU: weights quantised once, activations as they come.

Weights are symmetric per output channel, activations symmetric per token: a token's result does not depend on the tokens beside
it, and the largest of them takes no digits from the others (`docs/decisions.md`, 37, has both figures).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from distill_assets.core.encoders import cpu_has
from distill_assets.core.errors import ModelError

Product = Callable[[Tensor], Tensor]
_ZERO_POINT = 128  # the kernels read activations as unsigned bytes


def make_int8_product(weight: Tensor, bias: Tensor) -> Product:
    """`x @ weight.T + bias` for fp32 x (tokens, in), with weight (out, in) and bias (out,) in fp32; gives fp32 (tokens, out).

    Raises:
        ModelError: this build of torch has no 8-bit kernels for the processor.
    """
    if not has_int8():
        raise ModelError("int8 needs oneDNN's 8-bit kernels, which this build of torch lacks for this processor")
    scales = (weight.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    levels = (weight / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(levels, None)
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    # Without VNNI, sums of two 8-bit products saturate at 16 bits: activations then take 7.
    top = 127 if cpu_has("_is_vnni_supported", "_is_avx512_vnni_supported") else 63

    def product(values: Tensor) -> Tensor:
        largest = values.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        unsigned = (values * (top / largest)).round_().add_(_ZERO_POINT).to(torch.uint8)
        found = torch.ops.onednn.qlinear_pointwise(
            unsigned, 1 / top, _ZERO_POINT, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return torch.addcmul(bias, found, largest)

    return product


def has_int8() -> bool:
    """Whether this build of torch multiplies 8-bit integers on this processor."""
    return bool(torch._C._has_mkldnn) and hasattr(torch.ops.onednn, "qlinear_prepack")
