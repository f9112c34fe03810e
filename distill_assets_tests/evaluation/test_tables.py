"""Numbers as text, and the layouts of tables."""

from distill_assets.evaluation.tables import (
    as_text,
    format_difference,
    format_number,
    format_p,
    format_share,
)


def test_numbers_never_use_an_exponent() -> None:
    """`:.3g` prints 1234 ms as 1.23e+03."""
    written = [format_number(value) for value in (None, 0.123, 9.5, 45.678, 1234.4)]
    assert written == ["-", "0.12", "9.50", "45.7", "1,234"]


def test_small_numbers_are_written_honestly() -> None:
    """`0.000` claims certainty, and `-0.000` a loss."""
    assert [format_p(value) for value in (None, 0.0001, 0.0014, 1.0)] == ["-", "< 0.001", "0.001", "1.000"]
    assert [format_difference(value) for value in (None, -0.0001, 0.02, -0.02)] == ["-", "0.000", "+0.020", "-0.020"]


def test_a_share_has_an_interval_only_with_both_ends() -> None:
    """`50 % (0 to 0)` for an interval without bounds would claim certainty."""
    shares = [format_share(None), format_share(0.5), format_share(0.5, None, None), format_share(0.5, -0.1, 1.2)]
    assert shares == ["-", "50 %", "50 %", "50 % (-10 to 120)"]


def test_text_has_names_to_the_left_and_numbers_to_the_right() -> None:
    """A column of its own width per line puts a number under the wrong heading."""
    assert as_text([["system", "ms"], ["a", "1,234"]]).splitlines() == [
        "system     ms",
        "------  -----",
        "a       1,234",
    ]
