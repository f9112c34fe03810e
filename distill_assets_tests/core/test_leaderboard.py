"""The leaderboard's values and its table for terminals."""

import math
from dataclasses import replace

import pytest

from distill_assets.core.errors import NonFiniteError
from distill_assets.core.leaderboard import (
    LeaderboardRow,
    format_number,
    format_table,
    gap_closed,
    legend_of_tests,
    significance_columns,
    sort_rows,
    teacher_finding,
    versus,
)


def make_row(system: str, ndcg_at_10: float, **changes: float | None) -> LeaderboardRow:
    """A row whose interval is 0.02 to either side."""
    row = LeaderboardRow(
        system=system,
        ndcg_at_10=ndcg_at_10,
        ndcg_at_10_low=ndcg_at_10 - 0.02,
        ndcg_at_10_high=ndcg_at_10 + 0.02,
        mrr_at_10=0.5,
        recall_at_100=0.9,
        map=0.4,
        num_queries=500,
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def test_gap_closed_is_the_share_of_the_way_to_the_teacher() -> None:
    """0.05 of 0.10: dividing by the student's own gain, or by the teacher, would give 1 or 0.083."""
    assert gap_closed(student=0.55, untouched=0.50, teacher=0.60) == pytest.approx(0.5)


def test_gap_closed_can_pass_the_teacher_and_fall_behind() -> None:
    """Clipping to 0..1 would hide a student that training harmed: -0.05 of 0.10, and 0.15 of 0.10."""
    assert gap_closed(student=0.45, untouched=0.50, teacher=0.60) == pytest.approx(-0.5)
    assert gap_closed(student=0.65, untouched=0.50, teacher=0.60) == pytest.approx(1.5)


@pytest.mark.parametrize("teacher", [0.50, 0.40])
def test_gap_closed_is_none_when_the_teacher_is_not_better(teacher: float) -> None:
    """A weaker teacher turns the sign of the ratio: 0.05 / -0.10 would call a gain a loss; equality divides by 0."""
    assert gap_closed(student=0.55, untouched=0.50, teacher=teacher) is None


def test_gap_closed_refuses_nan() -> None:
    """NaN <= x is False, so a teacher of NaN would pass the guard and give a gap of NaN in the report."""
    with pytest.raises(NonFiniteError, match="nan"):
        gap_closed(student=0.55, untouched=0.50, teacher=math.nan)


def test_rows_of_equal_quality_have_one_order() -> None:
    """Without a second key the table would change between runs that measured the same."""
    rows = [make_row("zeta", 0.5), make_row("alpha", 0.5), make_row("best", 0.6)]
    assert [row.system for row in sort_rows(rows)] == ["best", "alpha", "zeta"]


def test_row_from_warehouse_ignores_the_split_column() -> None:
    """The table has a column more than the row; passing it on would fail only when a leaderboard exists."""
    stored = {**make_row("bm25", 0.3).__dict__, "split": "test"}
    assert LeaderboardRow.from_mapping(stored) == make_row("bm25", 0.3)


def test_table_lines_up_and_marks_the_champion() -> None:
    """Misaligned columns put a number under the wrong heading; the mark on the wrong row names the wrong model."""
    rows = [make_row("bm25", 0.3), make_row("margin_mse", 0.6, gap_closed=0.876, query_ms_p50=5.25)]
    *table, legend = format_table(rows, "margin_mse").splitlines()
    assert len({len(line) for line in table}) == 1
    header, _, first, second = table
    end = header.index("nDCG@10") + len("nDCG@10")
    assert first[:end].endswith("0.600")
    assert second[:end].endswith("0.300")
    assert first.startswith("*  margin_mse")
    assert second.startswith("   bm25")
    assert "0.580 to 0.620" in first
    assert "88 %" in first
    assert "5.25" in first
    assert legend.startswith("* champion")


def test_table_without_champion_has_no_mark() -> None:
    """A legend or a mark with nothing promoted would claim a champion."""
    assert "*" not in format_table([make_row("bm25", 0.3)], None)
    assert "*" not in format_table([make_row("bm25", 0.3)], "removed_recipe")


def test_table_of_nothing_says_what_to_run() -> None:
    """An empty table prints nothing, which reads like a crash."""
    assert "distill-assets run" in format_table([], None)


def test_numbers_never_use_an_exponent() -> None:
    """`:.3g` prints 1234 ms as 1.23e+03."""
    written = [format_number(value) for value in (None, 0.123, 9.5, 45.678, 1234.4)]
    assert written == ["-", "0.12", "9.50", "45.7", "1,234"]


@pytest.mark.parametrize(
    ("systems", "found"),
    [
        ({"teacher": 0.60, "margin_mse": 0.59, "untouched_student": 0.50}, False),
        ({"teacher": 0.60, "margin_mse": 0.60}, False),
        ({"teacher": 0.60, "margin_mse": 0.61}, True),
        ({"teacher": 0.60, "untouched_student": 0.61}, True),
        ({"teacher": 0.60, "bm25": 0.61}, False),
        ({"margin_mse": 0.61}, False),
    ],
)
def test_finding_exactly_when_a_student_beats_the_teacher(systems: dict[str, float], found: bool) -> None:
    """A weak teacher must not be hidden; BM25 is no student, and without a teacher there is nothing to say."""
    rows = [make_row(system, value) for system, value in systems.items()]
    assert (teacher_finding(rows) is not None) is found


def test_finding_says_whether_it_may_be_chance() -> None:
    """Intervals of 0.02 to either side overlap at a distance of 0.03 and not at 0.05."""
    near = teacher_finding([make_row("teacher", 0.60), make_row("margin_mse", 0.63)])
    far = teacher_finding([make_row("teacher", 0.60), make_row("margin_mse", 0.65)])
    assert near is not None
    assert "may be chance" in near
    assert far is not None
    assert "do not overlap" in far


def test_significance_columns_are_corrected_per_baseline() -> None:
    """q1..q3 with differences 0.1, 0.2, 0.3 give p = 2/8 exactly; against the untouched student two recipes are tested (0.5).

    Against `hard_labels` it is one (0.25): counting the baseline itself, or both families as one, would double p again.
    """
    low, high = {"q1": 0.0, "q2": 0.0, "q3": 0.0}, {"q1": 0.1, "q2": 0.2, "q3": 0.3}
    higher = {"q1": 0.2, "q2": 0.4, "q3": 0.6}
    per_query = {"untouched_student": low, "hard_labels": high, "margin_mse": higher}
    found = significance_columns(per_query, ["hard_labels", "margin_mse"], seed=1)
    assert found["margin_mse"]["p_vs_untouched"] == found["hard_labels"]["p_vs_untouched"] == 0.5
    assert found["margin_mse"]["p_vs_hard_labels"] == 0.25
    assert set(found["hard_labels"]) == {"p_vs_untouched", "detectable_vs_untouched"}
    # (1.95996 + 0.84162) x 0.1 / sqrt(3): one test, sd of the differences 0.1
    assert found["margin_mse"]["detectable_vs_hard_labels"] == pytest.approx(0.16175, abs=1e-5)


def test_tests_without_a_baseline_bring_no_column() -> None:
    """`skip_recipes = ["hard_labels"]` is allowed: a p-value against nothing must not be made up."""
    found = significance_columns({"margin_mse": {"q": 0.5}, "untouched_student": {"q": 0.4}}, ["margin_mse"], seed=1)
    assert set(found["margin_mse"]) == {"p_vs_untouched", "detectable_vs_untouched"}


def test_table_marks_what_is_significant_and_says_what_could_be_seen() -> None:
    """A mark by eye or on a significant loss alone misleads; digits must stay below digits with and without a mark."""
    rows = [
        make_row("untouched_student", 0.5),
        make_row("hard_labels", 0.56, p_vs_untouched=0.05, detectable_vs_untouched=0.04),
        make_row(
            "margin_mse",
            0.55,
            p_vs_untouched=0.06,
            p_vs_hard_labels=0.9,
            detectable_vs_untouched=0.05,
            detectable_vs_hard_labels=0.03,
        ),
    ]
    lines = format_table(rows, None).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1
    assert "+0.060†" in lines[2] and "+0.050 " in lines[3] and "-0.010 " in lines[3]
    assert lines[2].index("0.060") == lines[3].index("0.050")
    assert lines[5].startswith(
        "† significantly different: two-sided paired randomisation test, p ≤ 0.05, Holm-corrected"
    )
    assert "Against hard_labels, 500 queries find a true difference of 0.030" in lines[6]
    assert "Against untouched_student, 500 queries find a true difference of 0.050" in lines[7]


def test_versus_is_open_where_nothing_was_tested() -> None:
    """A row of an older file has no p: a difference without a test must not look like one that was not significant."""
    rows = [make_row("untouched_student", 0.5), make_row("margin_mse", 0.55)]
    assert versus(rows[1], rows, "untouched_student") == "-"
    assert versus(rows[0], rows, "hard_labels") == "-"
    assert legend_of_tests(rows) == []
