"""The results table over several seeds, against numbers worked by hand."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.evaluation.comparison import (
    compare_with_baseline,
    gap_closed,
)
from experiments.tables import format_markdown, results_table

QUERIES = [f"q{i:03d}" for i in range(100)]


def constant(value: float) -> dict[str, float]:
    """The same value on every query."""
    return dict.fromkeys(QUERIES, value)


def noisy(mean: float, seed: int) -> dict[str, float]:
    """Values around a mean that differ per query."""
    rng = np.random.default_rng(seed)
    return dict(zip(QUERIES, (mean + rng.normal(0, 0.1, len(QUERIES))).tolist(), strict=True))


def test_table_by_hand() -> None:
    """Seeds 0.60 and 0.64 average 0.62: +0.02 on the baseline 0.60, sd 0.0283, 0.12 of the gap of 0.20 closed = 60 %.

    Counting seeds as queries, or dividing by the teacher, gives other numbers.
    """
    rows = results_table(
        {
            "untouched_student": {0: constant(0.50)},
            "teacher": {0: constant(0.70)},
            "hard_labels": {1: constant(0.60)},
            "distilled": {1: constant(0.60), 2: constant(0.64)},
        },
        baseline="hard_labels",
    )
    assert [row.system for row in rows] == ["teacher", "distilled", "hard_labels", "untouched_student"]
    distilled, baseline = rows[1], rows[2]
    assert (distilled.num_seeds, distilled.num_queries) == (2, 100)
    assert distilled.ndcg_at_10 == pytest.approx(0.62)
    assert distilled.seed_sd == pytest.approx(math.sqrt(2) * 0.02)
    assert distilled.difference == pytest.approx(0.02)
    assert distilled.gap_closed == pytest.approx(0.6)
    assert (distilled.gap_closed_low, distilled.gap_closed_high) == (pytest.approx(0.6), pytest.approx(0.6))
    assert distilled.p_holm is not None and distilled.p_holm < 0.001
    assert (baseline.difference, baseline.p_holm, baseline.detectable) == (None, None, None)
    assert baseline.gap_closed == pytest.approx(0.5)
    assert rows[0].gap_closed is None and rows[3].gap_closed is None
    assert rows[0].p_holm is None and rows[0].difference == pytest.approx(0.10)


def test_references_are_outside_the_family() -> None:
    """BM25, teacher and untouched student are not claims: counted in, they would double every recipe's p."""
    board = {
        "hard_labels": {0: noisy(0.5, 1)},
        "a": {0: noisy(0.52, 2)},
        "bm25": {0: noisy(0.3, 3)},
        "teacher": {0: noisy(0.6, 4)},
        "untouched_student": {0: noisy(0.4, 5)},
    }
    row = next(row for row in results_table(board, baseline="hard_labels") if row.system == "a")
    assert row.p_holm == row.p_value
    widened = {r.system: r for r in results_table(board, baseline="hard_labels", family=["a", "bm25"])}
    assert row.p_value is not None and widened["bm25"].p_value is not None
    assert row.p_value > widened["bm25"].p_value  # so bm25's is doubled and a's is not
    assert widened["bm25"].p_holm == pytest.approx(2 * widened["bm25"].p_value)
    assert widened["a"].p_holm == pytest.approx(max(row.p_value, 2 * widened["bm25"].p_value))


def test_correction_runs_over_the_family() -> None:
    """Differences 1, 1, 1 give p 2/8 each (exact); two recipes tested together give 0.5, one alone 0.25."""
    base = {"q1": 0.0, "q2": 0.0, "q3": 0.0}
    better = {"q1": 0.1, "q2": 0.2, "q3": 0.3}
    values = {"base": base, "a": better, "b": better}
    together = compare_with_baseline(values, "base", ["base", "a", "b"], seed=0)
    assert set(together) == {"a", "b"}
    assert (together["a"].p_value, together["a"].p_holm) == (0.25, 0.5)
    assert compare_with_baseline(values, "base", ["a"], seed=0)["a"].p_holm == 0.25
    # sd of 0.1, 0.2, 0.3 is 0.1; (1.95996 + 0.84162) x 0.1 / sqrt(3) = 0.16175
    assert compare_with_baseline(values, "base", ["a"], seed=0)["a"].detectable == pytest.approx(0.16175, abs=1e-5)


def test_significance_needs_a_direction() -> None:
    """A recipe that is significantly worse has a small p, too: a mark by p alone would praise it."""
    values = {"base": constant(0.5), "up": constant(0.6), "down": constant(0.4)}
    found = compare_with_baseline(values, "base", ["up", "down"], seed=0)
    assert found["up"].is_better() and not found["up"].is_worse()
    assert found["down"].is_worse() and not found["down"].is_better()


@pytest.mark.parametrize(("student", "share"), [(0.55, 0.5), (0.45, -0.5), (0.65, 1.5)])
def test_gap_closed_is_the_share_of_the_way_to_the_teacher(student: float, share: float) -> None:
    """0.05 of 0.10: dividing by the teacher would give 0.083. Clipping to 0..1 would hide a student that training harmed."""
    found = gap_closed(np.full(9, student), np.full(9, 0.5), np.full(9, 0.6), seed=1)
    assert found == pytest.approx((share, share, share))


@pytest.mark.parametrize("teacher", [0.50, 0.40])
def test_gap_closed_is_none_when_the_teacher_is_not_better(teacher: float) -> None:
    """A weaker teacher turns the sign of the ratio: 0.05 / -0.10 would call a gain a loss; equality divides by 0."""
    assert gap_closed(np.full(9, 0.55), np.full(9, 0.5), np.full(9, teacher), seed=1) == (None, None, None)


def test_gap_closed_refuses_nan_and_other_queries() -> None:
    """NaN <= x is False, so a teacher of NaN would pass the guard and give a gap of NaN in the report."""
    with pytest.raises(NonFiniteError, match="1 nDCG@10 values are NaN"):
        gap_closed(np.full(2, 0.55), np.full(2, 0.5), np.array([0.6, math.nan]), seed=1)
    with pytest.raises(ShapeError, match="got 2, 2 and 1 values"):
        gap_closed(np.full(2, 0.55), np.full(2, 0.5), np.full(1, 0.6), seed=1)


def test_gap_without_certain_teacher_has_no_interval() -> None:
    """A teacher ahead by chance makes the ratio's denominator cross 0: an interval from those draws looks precise."""
    rng = np.random.default_rng(0)
    untouched = rng.random(20)
    teacher = untouched + rng.normal(0, 0.5, 20)
    teacher += 0.01 - (teacher - untouched).mean()  # ahead by 0.01, standard error 0.11
    share, low, high = gap_closed(untouched + 0.005, untouched, teacher, seed=1)
    assert share == pytest.approx(0.5)
    assert (low, high) == (None, None)


def test_different_queries_are_refused_by_name() -> None:
    """Pairing by position would compare query 1 of one system with query 2 of another and still print a p-value."""
    other = {**constant(0.5)}
    del other["q000"]
    with pytest.raises(ShapeError, match=r"b has 99 queries and a 100, 99 in both"):
        results_table({"a": {0: constant(0.5)}, "b": {0: other}}, baseline="a")
    with pytest.raises(ShapeError, match=r"seed 2 has 99 queries, the first seed 100"):
        results_table({"a": {1: constant(0.5), 2: other}}, baseline="a")
    with pytest.raises(ShapeError, match="no values of hard_labels: there are a"):
        results_table({"a": {0: constant(0.5)}}, baseline="hard_labels")


def test_order_of_queries_and_systems_changes_nothing() -> None:
    """Dictionaries come in any order from a warehouse: a second run would print other p-values."""
    board = {"a": {0: noisy(0.5, 1)}, "b": {0: noisy(0.52, 2)}, "c": {0: noisy(0.51, 3)}}
    turned = {name: {0: dict(reversed(list(board[name][0].items())))} for name in reversed(list(board))}
    assert results_table(board, baseline="a") == results_table(turned, baseline="a")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1, width=16), min_size=3, max_size=3), min_size=1, max_size=4))
def test_nothing_prints_nan(values: list[list[float]]) -> None:
    """Equal systems, a single seed, a teacher that is not ahead: 0 / 0 must show as a dash."""
    board = {f"s{i}": {0: dict(zip("xyz", column, strict=True))} for i, column in enumerate(values)}
    rows = results_table(board, baseline="s0", untouched="s0", teacher=f"s{len(values) - 1}")
    text = format_markdown(rows, "s0")
    assert "nan" not in text.lower() and "inf" not in text.lower().replace("infinite", "")
    numbers = [v for row in rows for v in asdict(row).values() if isinstance(v, float)]
    assert all(math.isfinite(v) for v in numbers)


def test_markdown_has_one_cell_per_column_and_marks_what_is_significant() -> None:
    """A pipe in a name shifts every number under another heading; an unmarked table makes readers compare by eye."""
    board = {
        "untouched_student": {0: constant(0.50)},
        "teacher": {0: constant(0.70)},
        "a|b": {1: constant(0.62), 2: constant(0.62)},
        "hard_labels": {1: constant(0.60)},
    }
    lines = format_markdown(results_table(board, baseline="hard_labels"), "hard_labels").splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines[:6]}) == 1
    assert lines[3] == "| a\\|b | 2 | 0.620 | 0.620 to 0.620 | 0.000 | +0.020 | **< 0.001** | 0.000 | 60 % (60 to 60) |"
    assert "100 queries" in lines[-1] and "Holm-corrected over 1 systems" in lines[-1]
