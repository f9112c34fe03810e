"""The weight with which cosines join a cross-encoder's logits."""

import pytest

from distill_assets.errors import TrainingError
from distill_assets.models.ensemble import balance_spreads, spread_within


def test_balance_is_the_ratio_of_spreads_within_queries() -> None:
    """Spread over all pairs would count how queries differ from each other, which changes no ranking.

    Logits vary by +-2 within both queries whatever their level (variance 4), cosines by +-0.1 (variance 0.01): 2 / 0.1 = 20.
    """
    assert balance_spreads([[1.0, 5.0], [101.0, 105.0]], [[0.4, 0.6], [0.8, 0.6]]) == pytest.approx(20.0)


def test_spread_is_the_root_of_the_mean_variance() -> None:
    """The mean of standard deviations, (0 + 2) / 2 = 1, would let a query without spread count as much as the others.

    By hand: variances 0 and 4, their mean 2, its root 1.414.
    """
    assert spread_within([[3.0, 3.0, 3.0], [1.0, 5.0]]) == pytest.approx(2.0**0.5)


def test_collapsed_cosines_are_refused() -> None:
    """A weight of infinity would rank by rounding noise."""
    with pytest.raises(TrainingError, match="collapsed"):
        balance_spreads([[1.0, 2.0]], [[0.5, 0.5]])
