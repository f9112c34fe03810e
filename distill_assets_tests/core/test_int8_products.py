"""Products in 8-bit integers."""

import pytest
import torch

from distill_assets.core.errors import ModelError
from distill_assets.core.int8_products import has_int8, make_int8_product

needs_engine = pytest.mark.skipif(not has_int8(), reason="this build of torch has no 8-bit kernels")


@needs_engine
def test_a_product_by_hand() -> None:
    """Weights and activations on the 8-bit grid are exact: rows [127, 0] and [1, -1], each token with its own scale, bias kept."""
    product = make_int8_product(torch.tensor([[127.0, 0.0], [1.0, -1.0]]), torch.tensor([0.5, -0.25]))
    found = product(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert found.tolist() == [pytest.approx([127.5, 0.75], rel=0.01), pytest.approx([0.5, -1.25], rel=0.01)]


@needs_engine
def test_a_small_channel_beside_a_large_one_keeps_its_digits() -> None:
    """One scale for all channels would round every weight of a small channel to zero."""
    weight = torch.tensor([[1000.0, -500.0], [0.001, 0.0005]])
    found = make_int8_product(weight, torch.zeros(2))(torch.tensor([[1.0, 0.5]]))
    assert found[0, 1].item() == pytest.approx(0.00125, rel=0.02)


@needs_engine
def test_a_channel_of_zeros_is_its_bias() -> None:
    """A scale of zero divides by zero, and one NaN spoils every later layer."""
    assert make_int8_product(torch.zeros(1, 3), torch.tensor([2.0]))(torch.ones(2, 3)).tolist() == [[2.0], [2.0]]


@needs_engine
def test_a_token_beside_a_huge_one_keeps_every_bit() -> None:
    """With one scale for all tokens, an outlier rounds its neighbours away, and a pair's logit depends on what is scored beside it."""
    product = make_int8_product(torch.tensor([[1.0, 0.5]]), torch.zeros(1))
    alone = product(torch.tensor([[0.2, 0.1]]))
    beside = product(torch.tensor([[1000.0, 0.0], [0.2, 0.1], [0.0, 0.0]]))
    assert alone[0, 0].item() == pytest.approx(0.25, rel=0.02)
    assert beside[1].tolist() == alone[0].tolist()
    assert beside[2, 0].item() == pytest.approx(0.0, abs=1e-30)


def test_a_build_without_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """On such a machine the reason must be readable, not an operator that is missing."""
    monkeypatch.setattr("distill_assets.core.int8_products.has_int8", lambda: False)
    with pytest.raises(ModelError, match="int8 needs oneDNN's 8-bit kernels"):
        make_int8_product(torch.ones(1, 1), torch.zeros(1))
