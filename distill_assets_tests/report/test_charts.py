"""Charts are PNG files of a bounded size, and refuse what they cannot draw."""

import io
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.evaluation.leaderboard import LeaderboardRow
from distill_assets.report.charts import (
    as_markdown_image,
    dev_curves_chart,
    difference_chart,
    leaderboard_chart,
    quality_latency_chart,
    score_histogram_chart,
    score_scatter_chart,
    training_curve_chart,
)

pytestmark = pytest.mark.whole
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 60_000


def make_row(system: str, ndcg_at_10: float, query_ms_p50: float | None = 5.0) -> LeaderboardRow:
    """A row whose interval is 0.02 to either side."""
    return LeaderboardRow(
        system=system,
        ndcg_at_10=ndcg_at_10,
        ndcg_at_10_low=ndcg_at_10 - 0.02,
        ndcg_at_10_high=ndcg_at_10 + 0.02,
        mrr_at_10=0.5,
        recall_at_100=0.9,
        map=0.4,
        query_ms_p50=query_ms_p50,
        num_queries=500,
    )


ROWS = [make_row("bm25", 0.37, 1.0), make_row("untouched_student", 0.5), make_row("teacher", 0.63, 300.0)]
MANY_ROWS = ROWS + [make_row(f"recipe_{number:02d}_{'x' * 40}", 0.4 + number / 500) for number in range(24)]
CURVE = [(step, 2.0 / (1 + step / 50)) for step in range(2000)]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: leaderboard_chart(ROWS, "untouched_student"),
        lambda: leaderboard_chart(MANY_ROWS, "recipe_00"),
        lambda: quality_latency_chart(MANY_ROWS),
        lambda: training_curve_chart(CURVE, [(100, 0.5), (200, 0.6)]),
        lambda: training_curve_chart([(1, 0.7)], []),
        lambda: score_histogram_chart([4.0, 5.5, 6.0], [-1.0, 0.5] * 5000),
        lambda: score_histogram_chart([1.0], [1.0]),
        lambda: score_scatter_chart([(math.sin(i), math.cos(7 * i), i % 5 == 0) for i in range(8000)]),
        lambda: score_scatter_chart([(1.0, 0.5, True)]),
        lambda: difference_chart([math.sin(i) for i in range(1500)], "x" * 50, "hard_labels"),
        lambda: difference_chart([0.0], "margin_mse", "hard_labels"),
        lambda: dev_curves_chart({f"recipe_{i}": [(1, 0.5 + i / 100), (2, 0.6)] for i in range(30)}, "recipe_0"),
        lambda: dev_curves_chart({"a": [(0, 0.5)], "b": []}),
    ],
)
def test_chart_is_a_small_png(draw: Callable[[], bytes]) -> None:
    """Metadata above 60 kB makes the event log and the UI slow; many recipes and long names make figures grow."""
    png = draw()
    assert png.startswith(PNG_MAGIC)
    assert len(png) < MAX_BYTES
    with Image.open(io.BytesIO(png)) as image:
        assert image.width > 600
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 20)) > 8  # a blank page has one colour


@pytest.mark.parametrize(
    ("draw", "with_nothing", "with_nan"),
    [
        (leaderboard_chart, [[]], [[make_row("bm25", math.nan)]]),
        (quality_latency_chart, [[make_row("bm25", 0.4, None)]], [[make_row("bm25", 0.4, math.inf)]]),
        (training_curve_chart, [[], [(1, 0.5)]], [[(1, math.nan)], []]),
        (training_curve_chart, [[], []], [[(1, 1.0)], [(1, math.nan)]]),
        (score_histogram_chart, [[], [1.0]], [[math.inf], [1.0]]),
        (score_histogram_chart, [[1.0], []], [[1.0], [math.nan]]),
        (score_scatter_chart, [[]], [[(1.0, math.nan, True)]]),
        (difference_chart, [[], "a", "b"], [[0.1, math.nan], "a", "b"]),
        (dev_curves_chart, [{"a": []}], [{"a": [(1, math.nan)]}]),
    ],
)
def test_nothing_and_non_finite_values_are_refused(
    draw: Callable[..., bytes], with_nothing: list[Any], with_nan: list[Any]
) -> None:
    """An empty chart looks like a result, and a NaN is left out without a word: a diverged loss would look like a short run."""
    with pytest.raises(ShapeError, match="empty"):
        draw(*with_nothing)
    with pytest.raises(NonFiniteError):
        draw(*with_nan)


def test_equal_numbers_give_equal_bytes() -> None:
    """A time inside the file would make every materialisation look changed."""
    assert leaderboard_chart(ROWS) == leaderboard_chart(ROWS)


@pytest.mark.parametrize(
    "draw",
    [
        lambda champion: leaderboard_chart([*ROWS, make_row("margin_mse", 0.6)], champion),
        lambda champion: quality_latency_chart([*ROWS, make_row("margin_mse", 0.6)], champion),
        lambda champion: dev_curves_chart({"margin_mse": [(1, 0.5)], "hard_labels": [(1, 0.4)]}, champion),
    ],
)
def test_champion_changes_the_picture(draw: Callable[[str | None], bytes]) -> None:
    """A champion that is not marked cannot be told from any other recipe."""
    assert draw("margin_mse") != draw(None)


def test_figure_grows_with_the_names_of_its_legend() -> None:
    """A legend higher than its figure is cut off: the weakest of 27 systems would be points without a name (25 px each)."""
    with Image.open(io.BytesIO(quality_latency_chart(MANY_ROWS))) as image:
        assert image.height >= 27 * 25


def test_markdown_alt_text_cannot_break_out() -> None:
    """A bracket in a collection name would end the alt text and start a link of its own."""
    markdown = as_markdown_image(b"abc", "a](http://x) <b>\nb")
    assert markdown == "![a\\](http://x) \\<b\\> b](data:image/png;base64,YWJj)"


def test_charts_load_without_matplotlib_and_never_load_pyplot() -> None:
    """Definitions import this module on every start of the code server; pyplot keeps figures alive for ever."""
    program = (
        "import sys, distill_assets.report.charts as charts\n"
        "assert 'matplotlib' not in sys.modules\n"
        "charts.training_curve_chart([(1, 1.0)], [])\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
