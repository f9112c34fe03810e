"""Joining a cross-encoder's logits with cosines."""

from collections.abc import Sequence

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


def test_cosines_are_asked_for_in_windows_however_many_come_at_once() -> None:
    """Embedded with other texts a vector differs in its last bits: scores would depend on how fast the machine was."""

    class Scorer:
        window = 2

        def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
            return np.array([float(document) for _, document in pairs], np.float32)

    asked: list[list[str]] = []

    def cosines(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        asked.append([document for _, document in pairs])
        return np.full(len(pairs), 0.5, np.float32)

    pairs = [("q", str(i)) for i in range(5)]
    joined = CosineEnsemble(Scorer(), cosines, 2.0)
    assert joined(pairs).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    together, asked[:] = list(asked), []
    for part in (pairs[:2], pairs[2:4], pairs[4:]):
        joined(part)
    assert together == asked == [["0", "1"], ["2", "3"], ["4"]]
    assert joined([]).shape == (0,)


def test_collapsed_cosines_are_refused() -> None:
    """A weight of infinity would rank by rounding noise."""
    with pytest.raises(TrainingError, match="collapsed"):
        balance_spreads([[1.0, 2.0]], [[0.5, 0.5]])
