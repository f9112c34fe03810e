"""Numbers as text, and tables of text: cells are made once and laid out for a terminal or by the report."""

from collections.abc import Sequence

Cells = Sequence[Sequence[str]]  # the header, then the lines; all of one length

MISSING = "-"


def as_text(cells: Cells, *, num_left: int = 1) -> str:
    """For terminals: a rule below the header, the first `num_left` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < num_left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def as_markdown(cells: Cells) -> str:
    """A Markdown table, the first column to the left. Pipes and line ends in a cell would begin another cell or line."""
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in cells]
    lines.insert(1, ["---", *["---:"] * (len(cells[0]) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_score(value: float | None) -> str:
    """Three decimals; `-` for None."""
    return MISSING if value is None else f"{value:.3f}"


def format_interval(low: float, high: float) -> str:
    """Both ends in three decimals: `0.412 to 0.498`."""
    return f"{low:.3f} to {high:.3f}"


def format_number(value: float | None) -> str:
    """Three significant digits or more, never an exponent: 0.12, 4.56, 78.9, 1,234; `-` for None."""
    if value is None:
        return MISSING
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def format_share(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A share as whole per cent, with its interval where there is one: `50 %`, `50 % (41 to 58)`; `-` for None."""
    if value is None:
        return MISSING
    interval = "" if low is None or high is None else f" ({low * 100:.0f} to {high * 100:.0f})"
    return f"{value * 100:.0f} %{interval}"


def format_p(value: float | None) -> str:
    """A p-value in three decimals, `< 0.001` below that, `-` where nothing was tested."""
    return "< 0.001" if value is not None and value < 0.001 else format_score(value)


def format_difference(value: float | None) -> str:
    """A signed difference in three decimals; one that rounds to nothing has no sign; `-` for None."""
    if value is None:
        return MISSING
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0 else text
