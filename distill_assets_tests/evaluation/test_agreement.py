"""Agreement of two rankings, by hand and against SciPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.evaluation.agreement import cohen_kappa, kendall_tau_b, overlap_at_k

scores = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30)


def test_tau_by_hand() -> None:
    """Orders 1 2 3 4 and 1 2 4 3: 5 of 6 pairs agree, 1 does not: 4 / 6. Ties count in neither: tau-a would give 0.5 below."""
    assert kendall_tau_b([4, 3, 2, 1], [4, 3, 1, 2]) == pytest.approx(4 / 6)
    assert kendall_tau_b([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert kendall_tau_b([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert kendall_tau_b([1, 1], [1, 2]) is None and kendall_tau_b([1], [1]) is None, "no order"
    # a ties one pair of 6, b none: 5 concordant / sqrt(5 * 6)
    assert kendall_tau_b([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(5 / math.sqrt(30))


@settings(max_examples=60, deadline=None)
@given(scores)
def test_tau_equals_scipy(pairs: list[tuple[int, int]]) -> None:
    """Ties are where formulas differ, and cosines of near twins tie; SciPy's NaN is our None, never a number."""
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    expected = kendalltau(a, b).statistic
    found = kendall_tau_b(a, b)
    if np.isnan(expected):
        assert found is None
    else:
        assert found == pytest.approx(expected)


def test_overlap_by_hand() -> None:
    """Top 2 of a: d4 d3, of b: d4 d1: half. Ties at the cut go by doc_id descending on both sides, as in every ranking."""
    ids = ["d1", "d2", "d3", "d4"]
    assert overlap_at_k(ids, [1, 2, 3, 4], [3, 2, 1, 4], k=2) == 0.5
    assert overlap_at_k(ids, [0, 0, 0, 0], [0, 0, 1, 1], k=2) == 1.0
    assert overlap_at_k(ids, [1, 2, 3, 4], [4, 3, 2, 1]) == 1.0  # fewer than 10 documents: the same ones


def test_bad_input_is_refused() -> None:
    """Broadcasting one score against many gives a tau that looks measured; NaN compares false everywhere."""
    with pytest.raises(ShapeError, match=r"shapes \(3,\) and \(1,\)"):
        kendall_tau_b([1, 2, 3], [1])
    with pytest.raises(ShapeError, match="got 1 and 2"):
        overlap_at_k(["d1"], [1, 2], [1, 2])
    with pytest.raises(NonFiniteError):
        kendall_tau_b([1, float("nan")], [1, 2])


def test_kappa_by_hand() -> None:
    """Both relevant 20, both not 15, one against the other 5 and 10 of 50: observed 0.70, expected 0.5 * 0.6 + 0.5 * 0.4 = 0.50.

    Agreement alone would say 70 % of two persons who are half as good as that.
    """
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    first, second = zip(*pairs, strict=True)
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa([0, 1], [1, 0]) == -1


def test_kappa_of_what_leaves_no_choice() -> None:
    """0 / 0 is no agreement: two persons who call everything relevant say nothing of each other."""
    assert cohen_kappa([1, 1], [1, 1]) is None and cohen_kappa([], []) is None
    with pytest.raises(ShapeError, match="2 and 1 grades"):
        cohen_kappa([1, 2], [1])
