"""The weight with which cosines join a cross-encoder's logits."""

import pytest

from distill_assets.errors import TrainingError
from distill_assets.models.ensemble import balance_spreads, mean_weights, spread_within


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


def test_the_mean_has_the_units_of_the_first() -> None:
    """Weights of another scale move every temperature; equal weights let the loudest teacher decide alone.

    By hand: the spreads are 2, 8 and 0.5, so the weights are 1/3, 2/8/3 and 2/0.5/3.
    """
    scores = [[[1.0, 5.0], [11.0, 15.0]], [[0.0, 16.0], [16.0, 0.0]], [[0.5, 1.5], [1.5, 0.5]]]
    assert mean_weights(scores) == pytest.approx([1 / 3, 1 / 12, 4 / 3])
    assert mean_weights(scores[:1]) == [1.0]


def test_another_order_changes_the_unit_alone() -> None:
    """If the list's order chose how much a teacher counts, two equal settings would give two teachers."""
    first, second = [[1.0, 5.0]], [[0.0, 16.0]]
    forwards, backwards = mean_weights([first, second]), mean_weights([second, first])
    assert forwards == pytest.approx([0.5, 0.125]) and backwards == pytest.approx([0.5, 2.0])
    assert forwards[0] / forwards[1] == pytest.approx(backwards[1] / backwards[0])


def test_a_teacher_that_says_the_same_of_all_is_refused() -> None:
    """Its weight would be infinite."""
    with pytest.raises(TrainingError, match="teacher 2 of 2"):
        mean_weights([[[1.0, 2.0]], [[3.0, 3.0]]])
