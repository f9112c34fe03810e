"""The leaderboard's values and its table for terminals."""

from dataclasses import fields, replace
from datetime import datetime

import pytest

from distill_assets.evaluation.comparison import comparison_columns
from distill_assets.evaluation.leaderboard import (
    Champion,
    LeaderboardRow,
    champion_note,
    compare_systems,
    find_champion_row,
    format_table,
    legend_of_tests,
    sort_rows,
    versus,
)
from distill_assets.evaluation.metrics import QueryMetrics
from distill_assets.storage.tables import schema_of


def make_row(system: str, ndcg_at_10: float, **changes: float | str | None) -> LeaderboardRow:
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


NOW, BEFORE = "11111111" * 8, "22222222" * 8  # fingerprints of two students of one recipe


def make_champion(model_fingerprint: str, recipe: str = "margin_mse") -> Champion:
    """Promoted in March with 0.612 on dev."""
    return Champion(
        recipe=recipe,
        model_fingerprint=model_fingerprint,
        dev_ndcg_at_10=0.612,
        decided_at=datetime(2025, 3, 1, 9, 30),
    )


def test_a_newer_student_of_the_champions_recipe_is_not_the_champion() -> None:
    """The gate keeps the old checkpoint, or a roll back brings it back: by name, the refused student's numbers become its."""
    rows = [make_row("bm25", 0.3), make_row("margin_mse", 0.5, model_fingerprint=NOW)]
    assert find_champion_row(rows, make_champion(NOW)) is rows[1]
    assert find_champion_row(rows, make_champion(BEFORE)) is None
    table = format_table(rows, make_champion(BEFORE))
    assert "*" not in table
    assert table.splitlines()[-1] == (
        "The champion, which search uses, is not on this leaderboard. It is checkpoint 22222222 of margin_mse: nDCG@10 "
        "0.612 on dev when it was promoted, champion since 2025-03-01 09:30 UTC. "
        "The leaderboard's margin_mse is another student: checkpoint 11111111."
    )
    assert champion_note(rows, make_champion(NOW)) is None


def test_a_champion_whose_recipe_left_the_leaderboard_is_described() -> None:
    """A recipe may be skipped or removed while its student still serves: no mark and no word would say "no champion"."""
    rows = [make_row("hard_labels", 0.5, model_fingerprint=NOW)]
    note = champion_note(rows, make_champion(BEFORE))
    assert note is not None and note.endswith("The leaderboard has no student of margin_mse.")


def test_rows_without_a_fingerprint_are_matched_by_name() -> None:
    """The leaderboard of an older version holds no fingerprint: its champion would lose its mark by an update alone."""
    rows = [make_row("bm25", 0.3), make_row("margin_mse", 0.5)]
    assert find_champion_row(rows, make_champion(BEFORE)) is rows[1]
    assert find_champion_row(rows, make_champion(BEFORE, "hard_labels")) is None
    assert find_champion_row(rows, None) is None and champion_note(rows, None) is None


def test_of_two_equal_models_the_champions_own_recipe_is_marked() -> None:
    """Two recipes that differ in nothing train one checkpoint: the mark must not wander with the order of rows."""
    rows = [make_row("a_copy", 0.5, model_fingerprint=NOW), make_row("margin_mse", 0.5, model_fingerprint=NOW)]
    for order in (rows, rows[::-1]):
        found = find_champion_row(order, make_champion(NOW))
        assert found is not None and found.system == "margin_mse"


def test_champion_is_built_from_a_row_of_its_history() -> None:
    """The table has columns more; one that is missing must fail here and not show an empty checkpoint."""
    row = {**make_champion(NOW).__dict__, "verdict": "promoted", "p_value": None, "checkpoint_path": "x", "reason": "r"}
    assert Champion.from_mapping(row) == make_champion(NOW)
    with pytest.raises(KeyError, match="model_fingerprint"):
        Champion.from_mapping({"recipe": "margin_mse"})


def test_rows_of_equal_quality_have_one_order() -> None:
    """Without a second key the table would change between runs that measured the same."""
    rows = [make_row("zeta", 0.5), make_row("alpha", 0.5), make_row("best", 0.6)]
    assert [row.system for row in sort_rows(rows)] == ["best", "alpha", "zeta"]


def test_a_row_has_the_columns_of_the_table() -> None:
    """A column that the row lacks fails only where a leaderboard is stored already; a field that the table lacks is lost."""
    assert [field.name for field in fields(LeaderboardRow)] == schema_of("leaderboard").names


def test_few_queries_are_not_tested() -> None:
    """With 19 queries a p-value may be small and says nothing; with 20 the same differences are told."""
    for num_queries, is_told in ((19, False), (20, True)):
        systems = {"untouched_student": 0.1, "kl": 0.2, "teacher": 0.3}
        found = {s: {f"q{i}": QueryMetrics(v, v, v, v) for i in range(num_queries)} for s, v in systems.items()}
        rows = {row.system: row for row in compare_systems("test", found, {"kl": {"model_mb": 9.0}}, {"kl": NOW})}
        kl = rows["kl"]
        assert (kl.p_vs_untouched is not None, kl.gap_closed is not None) == (is_told, is_told)
        assert (kl.model_mb, kl.model_fingerprint, kl.num_queries, kl.split) == (9.0, NOW, num_queries, "test")
        assert (kl.ndcg_at_10, kl.ndcg_at_10_low, kl.ndcg_at_10_high, kl.map) == pytest.approx((0.2, 0.2, 0.2, 0.2))
        assert rows["teacher"].gap_closed is None and rows["untouched_student"].p_vs_untouched is None


def test_table_lines_up_and_marks_the_champion() -> None:
    """Misaligned columns put a number under the wrong heading; the mark on the wrong row names the wrong model."""
    student = {"gap_closed": 0.876, "gap_closed_low": 0.7, "gap_closed_high": 1.05, "query_ms_p50": 5.25}
    rows = [make_row("bm25", 0.3), make_row("margin_mse", 0.6, model_fingerprint=NOW, **student)]
    *table, legend = format_table(rows, make_champion(NOW)).splitlines()
    assert len({len(line) for line in table}) == 1
    header, _, first, second = table
    end = header.index("nDCG@10") + len("nDCG@10")
    assert first[:end].endswith("0.600")
    assert second[:end].endswith("0.300")
    assert first.startswith("*  margin_mse")
    assert second.startswith("   bm25")
    assert "0.580 to 0.620" in first
    assert "88 % (70 to 105)" in first
    assert "5.25" in first
    assert legend.startswith("* champion")


def test_table_without_champion_has_no_mark() -> None:
    """A legend or a mark with nothing promoted would claim a champion."""
    assert "*" not in format_table([make_row("bm25", 0.3)], None)
    assert "hampion" not in format_table([make_row("bm25", 0.3)], None)


def test_table_of_nothing_says_what_to_run() -> None:
    """An empty table prints nothing, which reads like a crash."""
    assert "distill-assets run" in format_table([], None)


def test_comparison_columns_are_corrected_per_baseline() -> None:
    """q1..q3 with differences 0.1, 0.2, 0.3 give p = 2/8 exactly; against the untouched student two recipes are tested (0.5).

    Against `hard_labels` it is one (0.25): counting the baseline itself, or both families as one, would double p again.
    """
    low, high = {"q1": 0.0, "q2": 0.0, "q3": 0.0}, {"q1": 0.1, "q2": 0.2, "q3": 0.3}
    higher = {"q1": 0.2, "q2": 0.4, "q3": 0.6}
    per_query = {"untouched_student": low, "hard_labels": high, "margin_mse": higher}
    found = comparison_columns(per_query, ["hard_labels", "margin_mse"])
    assert found["margin_mse"]["p_vs_untouched"] == found["hard_labels"]["p_vs_untouched"] == 0.5
    assert found["margin_mse"]["p_vs_hard_labels"] == 0.25
    assert set(found["hard_labels"]) == {"p_vs_untouched", "detectable_vs_untouched"}
    # (1.95996 + 0.84162) x 0.1 / sqrt(3): one test, sd of the differences 0.1
    assert found["margin_mse"]["detectable_vs_hard_labels"] == pytest.approx(0.16175, abs=1e-5)


def test_baselines_and_hybrids_are_of_the_family_and_close_no_gap() -> None:
    """One recipe of p 2/8, tested alone, is told with 0.25. With a published model and a hybrid beside it three marks are looked for.

    A family without them would find one of twenty useless models significant by chance.
    """
    low, high = {"q1": 0.0, "q2": 0.0, "q3": 0.0}, {"q1": 0.1, "q2": 0.2, "q3": 0.3}
    per_query = {"untouched_student": low, "kl": high, "bge-small": high, "hybrid:kl": high, "teacher": high}
    found = comparison_columns(per_query, ["kl"], ["bge-small", "hybrid:kl"])
    assert [found[name]["p_vs_untouched"] for name in ("kl", "bge-small", "hybrid:kl")] == [0.75, 0.75, 0.75]
    values = {
        s: {f"q{i}": QueryMetrics(v, v, v, v) for i in range(20)}
        for s, v in zip(per_query, (0, 1, 1, 1, 1), strict=True)
    }
    rows = {row.system: row for row in compare_systems("test", values, {}, {}, ["bge-small"])}
    assert rows["kl"].gap_closed == 1.0 and rows["kl"].p_vs_untouched == rows["bge-small"].p_vs_untouched is not None
    assert rows["bge-small"].gap_closed is rows["hybrid:kl"].gap_closed is rows["teacher"].p_vs_untouched is None
    assert (rows["bge-small"].is_student, rows["hybrid:kl"].is_student) == (True, False)


def test_gap_closed_is_compared_on_the_same_queries() -> None:
    """Half way on each query is 50 % in every draw; sorting queries by value, or a teacher row, would give another share."""
    queries = [f"q{i}" for i in range(6)]  # six queries better: p = 2 / 64
    per_query = {
        "untouched_student": {q: 0.1 * i for i, q in enumerate(queries)},
        "margin_mse": {q: 0.1 * i + 0.05 * (1 + i % 3) for i, q in reversed([*enumerate(queries)])},
        "teacher": {q: 0.1 * i + 0.1 * (1 + i % 3) for i, q in enumerate(queries)},
    }
    found = comparison_columns(per_query, ["margin_mse"])["margin_mse"]
    shares = [found[name] for name in ("gap_closed", "gap_closed_low", "gap_closed_high")]
    assert shares == pytest.approx([0.5, 0.5, 0.5])


def test_no_gap_is_told_where_the_teacher_is_not_significantly_ahead() -> None:
    """A gap closed of -764 % was printed for a teacher 0.003 ahead: a share of a gap that may be none says nothing.

    Five queries better give p = 2 / 32 = 0.0625, six give 0.031.
    """
    for num_queries, is_told in ((5, False), (6, True)):
        low = {f"q{i}": 0.1 for i in range(num_queries)}
        per_query = {
            "untouched_student": low,
            "margin_mse": dict.fromkeys(low, 0.2),
            "teacher": dict.fromkeys(low, 0.3),
        }
        found = comparison_columns(per_query, ["margin_mse"])["margin_mse"]
        assert ("gap_closed" in found) is is_told


def test_tests_without_a_baseline_bring_no_column() -> None:
    """`skip_recipes = ["hard_labels"]` is allowed: a p-value against nothing must not be made up."""
    found = comparison_columns({"margin_mse": {"q": 0.5}, "untouched_student": {"q": 0.4}}, ["margin_mse"])
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
    assert "+0.060†" in lines[2] and "+0.050\u2007" in lines[3] and "-0.010\u2007" in lines[3]
    assert lines[2].index("0.060") == lines[3].index("0.050")
    assert lines[5].startswith(
        "† significantly different: two-sided paired randomisation test, p ≤ 0.05, Holm-corrected"
    )
    assert "Against untouched_student, 500 queries find a true difference of 0.050" in lines[6]
    assert "Against hard_labels, 500 queries find a true difference of 0.030" in lines[7]


def test_what_a_hybrid_hides_is_not_what_a_student_hides() -> None:
    """Fusing moves every query: the largest difference of all rows would say that no gain of a student can be seen."""
    rows = [
        make_row("kl", 0.6, p_vs_untouched=0.9, detectable_vs_untouched=0.04),
        make_row("margin_mse", 0.6, p_vs_untouched=0.9, detectable_vs_untouched=0.03),
        make_row("hybrid:kl", 0.6, p_vs_untouched=0.9, detectable_vs_untouched=0.09),
    ]
    assert "0.040 or more of a bi-encoder and 0.090 or more of a hybrid" in legend_of_tests(rows)[1]


def test_versus_is_open_where_nothing_was_tested() -> None:
    """A row of an older file has no p: a difference without a test must not look like one that was not significant."""
    rows = [make_row("untouched_student", 0.5), make_row("margin_mse", 0.55)]
    assert versus(rows[1], rows, "untouched") == "-"
    assert versus(rows[0], rows, "hard_labels") == "-"
    assert legend_of_tests(rows) == []


def test_too_few_queries_and_equal_values_claim_nothing() -> None:
    """That 1 query finds a true difference of 1.000 is no statement about anything."""
    row = replace(make_row("kl", 0.5), num_queries=12)
    assert legend_of_tests([row]) == ["12 queries are too few to compare systems: 20 are the least, 200 are usual."]
    equal = replace(make_row("kl", 0.5), num_queries=40, detectable_vs_untouched=0.0, p_vs_untouched=1.0)
    assert legend_of_tests([equal]) == []


def test_a_table_of_dev_queries_says_so() -> None:
    """On dev the champion was chosen: shown as if it were test, every student looks better than it is."""
    assert "There are no judged test queries" in format_table([replace(make_row("kl", 0.5), split="dev")], None)
    assert "no judged test" not in format_table([make_row("kl", 0.5)], None)
