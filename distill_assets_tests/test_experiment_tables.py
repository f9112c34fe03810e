"""The results table over several seeds, against numbers worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.errors import ShapeError
from distill_assets.evaluation.significance import paired_randomisation_test
from distill_assets.evaluation.tables import as_markdown
from experiments.tables import mean_over_seeds, results_table

QUERIES = [f"q{i:03d}" for i in range(100)]


def constant(value: float) -> dict[str, float]:
    """The same value on every query."""
    return dict.fromkeys(QUERIES, value)


def noisy(mean: float, seed: int) -> dict[str, float]:
    """Values around a mean that differ per query."""
    rng = np.random.default_rng(seed)
    return dict(zip(QUERIES, (mean + rng.normal(0, 0.1, len(QUERIES))).tolist(), strict=True))


def cells_of(table: str) -> dict[str, dict[str, str]]:
    """System -> heading -> cell."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def p_of(table: str, system: str) -> float:
    """The corrected p-value that stands in a system's row."""
    return float(cells_of(table)[system]["p (Holm)"].strip("*"))


def test_table_by_hand() -> None:
    """Seeds 0.60 and 0.64 average 0.62: +0.02 on the baseline 0.60, sd 0.0283, 0.12 of the gap of 0.20 closed = 60 %.

    Counting seeds as queries, or dividing by the teacher, gives other numbers.
    """
    board = {
        "untouched_student": {0: constant(0.50)},
        "teacher": {0: constant(0.70)},
        "hard_labels": {1: constant(0.60)},
        "distilled": {1: constant(0.60), 2: constant(0.64)},
    }
    assert results_table(board, "hard_labels").splitlines() == [
        "| system | seeds | nDCG@10 | 95 % interval | sd of seeds | vs hard_labels | p (Holm) | detectable | gap closed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| teacher | 1 | 0.700 | 0.700 to 0.700 | - | +0.100 | - | - | - |",
        "| distilled | 2 | 0.620 | 0.620 to 0.620 | 0.028 | +0.020 | **< 0.001** | 0.000 | 60 % (60 to 60) |",
        "| hard_labels | 1 | 0.600 | 0.600 to 0.600 | - | - | - | - | 50 % (50 to 50) |",
        "| untouched_student | 1 | 0.500 | 0.500 to 0.500 | - | -0.100 | - | - | - |",
        "",
        "100 queries. Per-query values are means over seeds. p: two-sided paired randomisation test against `hard_labels`, "
        "Holm-corrected over 1 systems, bold from 0.05 down. Detectable: true difference found with 80 % probability; what is smaller "
        "may be there and not be seen.",
    ]


def test_references_are_outside_the_family() -> None:
    """BM25, teacher and untouched student are not claims: counted in, they would double every recipe's p."""
    board = {
        "hard_labels": {0: noisy(0.5, 1)},
        "a": {0: noisy(0.52, 2)},
        "bm25": {0: noisy(0.3, 3)},
        "teacher": {0: noisy(0.6, 4)},
        "untouched_student": {0: noisy(0.4, 5)},
    }
    alone = results_table(board, "hard_labels")
    assert [cells_of(alone)[system]["p (Holm)"] for system in ("bm25", "teacher", "untouched_student")] == ["-"] * 3
    assert cells_of(alone)["a"]["p (Holm)"].startswith("**"), "significant: bold"
    with_equal_b = results_table(board | {"b": board["a"]}, "hard_labels")
    assert p_of(with_equal_b, "a") == pytest.approx(2 * p_of(alone, "a"), abs=0.002)
    widened = results_table(board, "hard_labels", ["a", "bm25"])
    assert p_of(widened, "a") == p_of(alone, "a"), "the second step of Holm multiplies by 1"
    assert cells_of(widened)["bm25"]["p (Holm)"] == "**< 0.001**"


def test_different_queries_are_refused_by_name() -> None:
    """A mean over seeds of other queries is another measure."""
    fewer = {query: 0.5 for query in QUERIES[1:]}
    with pytest.raises(ShapeError, match=r"seed 2 has 99 queries, the first seed 100"):
        results_table({"a": {1: constant(0.5), 2: fewer}}, "a")


def test_order_of_queries_and_systems_changes_nothing() -> None:
    """Dictionaries come in any order from a warehouse: a second run would print other p-values."""
    board = {"a": {0: noisy(0.5, 1)}, "b": {0: noisy(0.52, 2)}, "c": {0: noisy(0.51, 3)}}
    turned = {name: {0: dict(reversed(list(board[name][0].items())))} for name in reversed(list(board))}
    assert results_table(board, "a") == results_table(turned, "a")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1, width=16), min_size=3, max_size=3), min_size=2, max_size=4))
def test_nothing_prints_nan(values: list[list[float]]) -> None:
    """Equal systems, a single seed, a teacher that is not ahead: 0 / 0 must show as a dash."""
    names = ["untouched_student", "teacher", "a", "b"]
    board = {name: {0: dict(zip("xyz", column, strict=True))} for name, column in zip(names, values, strict=False)}
    text = results_table(board, "untouched_student").lower()
    assert "nan" not in text and "inf" not in text


def test_seeds_are_averaged_per_query() -> None:
    """0.2 and 0.6 on q1, 0.8 and 0.4 on q2: 0.4 and 0.6; a mean per seed (0.5, 0.5) would pair seeds, not queries."""
    found = mean_over_seeds({1: {"q1": 0.2, "q2": 0.8}, 2: {"q2": 0.4, "q1": 0.6}})
    assert found == pytest.approx({"q1": 0.4, "q2": 0.6})
    with pytest.raises(ShapeError, match="seed 2 has 1 queries, the first seed 2, 1 in both"):
        mean_over_seeds({1: {"q1": 0.2, "q2": 0.8}, 2: {"q1": 0.6}})
    with pytest.raises(ShapeError, match="no seed"):
        mean_over_seeds({})


def test_counting_seeds_as_queries_would_invent_significance() -> None:
    """Why `mean_over_seeds`: 3 identical seeds bring no evidence; as 3 x 14 observations they cut p from 0.25 to 0.03."""
    rng = np.random.default_rng(2)
    differences = rng.normal(0.03, 0.08, 14)
    honest = paired_randomisation_test(differences, np.zeros(14), seed=0)
    pooled = paired_randomisation_test(np.tile(differences, 3), np.zeros(42), seed=0)
    assert pooled < honest / 2
    per_seed = {s: {str(i): d for i, d in enumerate(differences.tolist())} for s in range(3)}
    averaged = list(mean_over_seeds(per_seed).values())
    assert paired_randomisation_test(averaged, np.zeros(14), seed=0) == pytest.approx(honest)


def test_markdown_cells_cannot_break_out_of_their_column() -> None:
    """A pipe in a name shifts every number under another heading; a line end cuts the table in two."""
    assert as_markdown([["system", "ms"], ["a|b\nc", "1"]]).splitlines() == [
        "| system | ms |",
        "| --- | ---: |",
        "| a\\|b c | 1 |",
    ]
