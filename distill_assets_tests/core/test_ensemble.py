"""Joining a cross-encoder's logits with cosines."""

import numpy as np
import pytest

from distill_assets.core.ensemble import CosineEnsemble, balance_spreads
from distill_assets.core.errors import TrainingError


def test_balance_is_the_ratio_of_spreads_within_queries() -> None:
    """Spread over all pairs would count how queries differ from each other, which changes no ranking.

    Logits vary by +-2 within both queries whatever their level (variance 4), cosines by +-0.1 (variance 0.01): 2 / 0.1 = 20.
    """
    assert balance_spreads([[1.0, 5.0], [101.0, 105.0]], [[0.4, 0.6], [0.8, 0.6]]) == pytest.approx(20.0)


def test_joined_score_is_logit_plus_weighted_cosine_in_order() -> None:
    """A join in another order, or in float64, would store other scores than a later run computes."""
    joined = CosineEnsemble(lambda pairs: np.array([1.0, -2.0], np.float32), lambda pairs: np.array([0.5, 0.25]), 8.0)
    scores = joined([("q", "a"), ("q", "b")])
    assert scores.dtype == np.float32
    assert scores.tolist() == [5.0, 0.0]


def test_collapsed_cosines_are_refused() -> None:
    """A weight of infinity would rank by rounding noise."""
    with pytest.raises(TrainingError, match="collapsed"):
        balance_spreads([[1.0, 2.0]], [[0.5, 0.5]])
