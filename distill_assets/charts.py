"""Figures as small PNG files, for metadata in the Dagster UI and for the report.

matplotlib is imported inside the functions, so that loading definitions stays light, and only its object-oriented
interface is used: `pyplot` keeps global state that several materialisations in one process would share.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill_assets.core.errors import NonFiniteError, ShapeError
from distill_assets.core.leaderboard import LeaderboardRow, sort_rows
from distill_assets.core.recipes import BM25, TEACHER, UNTOUCHED_STUDENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
WIDTH_IN, HEIGHT_IN = 6.5, 3.5
COLOURS = 96  # of the PNG palette: a third of the size of true colour, no visible loss on flat shapes
MAX_BARS = 24  # a taller figure passes the 60 kB that UI metadata should stay under
MAX_POINTS = 1500  # of a scatter: more only cover each other
MAX_NAMES = 10  # more names beside points overlap; the other points stay, unnamed
MAX_CURVES = 8  # more dev curves in one panel cannot be told apart
MAX_NAME_LENGTH = 28  # a recipe name may have 50 characters, which would leave no room for bars
SMOOTHING_STEPS = 15

Rows = Sequence[LeaderboardRow | Mapping[str, Any]]
Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of one scheme; contrast of `text` and `muted` on `background` is above 4.5 (WCAG AA)."""

    background: str
    text: str
    muted: str
    grid: str
    bm25: str
    untouched: str
    teacher: str
    accent: str
    champion: str
    loss: str
    series: tuple[str, ...]

    def of_system(self, system: str, champion: str | None) -> str:
        """The colour of a system's role."""
        reserved = {BM25: self.bm25, UNTOUCHED_STUDENT: self.untouched, TEACHER: self.teacher}
        return reserved.get(system, self.champion if system == champion else self.accent)


LIGHT = Theme(
    background="#ffffff",
    text="#1c2430",
    muted="#5b6675",
    grid="#e4e8ee",
    bm25="#b4b9c1",
    untouched="#8fa3bd",
    teacher="#27344a",
    accent="#5aa9a3",
    champion="#0f766e",
    loss="#b45309",
    series=("#27344a", "#b45309", "#7c5cbf", "#5b8def", "#c2456b", "#6b7c2f", "#8fa3bd"),
)
DARK = Theme(
    background="#171c24",
    text="#e6eaf0",
    muted="#9aa6b6",
    grid="#2b3340",
    bm25="#6c737e",
    untouched="#7389a8",
    teacher="#dfe5ee",
    accent="#3f938c",
    champion="#2dd4bf",
    loss="#f0a04b",
    series=("#dfe5ee", "#f0a04b", "#b39ddb", "#82aaff", "#f07c9b", "#b5c46a", "#7389a8"),
)


def leaderboard_chart(rows: Rows, champion: str | None = None, *, theme: Theme = LIGHT) -> bytes:
    """Horizontal nDCG@10 bars with their 95 % intervals, best first, as PNG.

    Past `MAX_BARS` systems the weakest recipes are left out, and the title says how many.

    Raises:
        ShapeError: there is no row.
        NonFiniteError: an nDCG@10 or an end of its interval is NaN or infinite.
    """
    everything = _as_rows(rows, "leaderboard_chart")
    shown = _most_telling(everything, champion, MAX_BARS)
    figure, axes = _new_figure(theme, height_in=max(2.2, min(9.0, 1.15 + 0.36 * len(shown))))
    _draw_bars(axes, shown, champion, theme)
    left_out = len(everything) - len(shown)
    _title(axes, "Ranking quality" + (f" ({left_out} weaker systems not shown)" if left_out else ""), theme)
    return _to_png(figure)


def training_curve_chart(losses: Curve, dev_curve: Curve, *, title: str = "Training", theme: Theme = LIGHT) -> bytes:
    """Training loss above dev nDCG@10, one panel each over the same steps, as PNG.

    Two panels and not two axes in one: where two scales cross means nothing. An empty `dev_curve` (training without
    a dev split) leaves the lower panel out.

    Raises:
        ShapeError: `losses` is empty.
        NonFiniteError: a value is NaN or infinite.
    """
    _require_values("training_curve_chart", "losses", [value for _, value in losses])
    if dev_curve:
        _require_values("training_curve_chart", "dev_curve", [value for _, value in dev_curve])
    figure = _bare_figure(theme, HEIGHT_IN)
    panels = figure.subplots(2 if dev_curve else 1, 1, sharex=True, squeeze=False)[:, 0]
    for panel in panels:
        _style(panel, theme)
    steps, values = zip(*losses, strict=True)
    is_long = len(values) > 2 * SMOOTHING_STEPS
    marker = "o" if len(values) == 1 else None
    panels[0].plot(steps, values, color=theme.accent, linewidth=1.0, alpha=0.45 if is_long else 1.0, marker=marker)
    if is_long:
        panels[0].plot(steps, _smooth(values), color=theme.champion, linewidth=1.8, label="running mean")
        _legend(panels[0], theme)
    panels[0].set_ylabel("training loss")
    _title(panels[0], title, theme)
    if dev_curve:
        _draw_dev_curve(panels[1], dev_curve, theme)
    panels[-1].set_xlabel("optimiser step")
    return _to_png(figure)


def score_histogram_chart(
    positive_logits: Sequence[float], negative_logits: Sequence[float], *, theme: Theme = LIGHT
) -> bytes:
    """Raw teacher logits of positives and of hard negatives as two overlaid step histograms, as PNG.

    Bars are shares of their own kind: there are many more negatives, and counts would hide the positives.

    Raises:
        ShapeError: one of the two is empty.
        NonFiniteError: a logit is NaN or infinite.
    """
    import numpy as np

    _require_values("score_histogram_chart", "positive_logits", positive_logits)
    _require_values("score_histogram_chart", "negative_logits", negative_logits)
    figure, axes = _new_figure(theme)
    edges = np.histogram_bin_edges(np.concatenate([positive_logits, negative_logits]).astype(np.float64), bins=50)
    for name, logits, colour in (
        ("hard negatives", negative_logits, theme.muted),
        ("positives", positive_logits, theme.champion),
    ):
        values = np.asarray(logits, dtype=np.float64)
        shares = np.histogram(values, bins=edges)[0] / len(values)
        median = float(np.median(values))
        label = f"{name} ({len(values):,} pairs, median {median:.2f})"
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.22)
        axes.stairs(shares, edges, color=colour, linewidth=1.6, label=label)
        axes.axvline(median, color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)  # room for the legend
    axes.set_xlabel("teacher logit (raw)")
    axes.set_ylabel("share of pairs")
    _title(axes, "What the teacher thinks of positives and hard negatives", theme)
    _legend(axes, theme)
    return _to_png(figure)


def score_scatter_chart(points: Sequence[tuple[float, float, bool]], *, theme: Theme = LIGHT) -> bytes:
    """Student cosine against raw teacher logit, one point per pair, as PNG. Past `MAX_POINTS` every n-th is drawn.

    `points` are (teacher logit, student cosine, whether the pair is a positive).

    Raises:
        ShapeError: there is no point.
        NonFiniteError: a score is NaN or infinite.
    """
    _require_values("score_scatter_chart", "teacher logits", [logit for logit, _, _ in points])
    _require_values("score_scatter_chart", "student cosines", [cosine for _, cosine, _ in points])
    drawn = points[:: math.ceil(len(points) / MAX_POINTS)]
    figure, axes = _new_figure(theme)
    for name, colour, wanted in (("hard negatives", theme.muted, False), ("positives", theme.champion, True)):
        own = [(logit, cosine) for logit, cosine, is_positive in drawn if is_positive is wanted]
        if own:
            label = f"{name} ({len(own):,} pairs)"
            axes.scatter(
                [x for x, _ in own], [y for _, y in own], s=12, color=colour, alpha=0.55, linewidths=0, label=label
            )
    axes.set_xlabel("teacher logit (raw)")
    axes.set_ylabel("student cosine")
    _title(axes, "What the student made of the teacher's scores", theme)
    _legend(axes, theme)
    return _to_png(figure)


def quality_latency_chart(rows: Rows, champion: str | None = None, *, theme: Theme = LIGHT) -> bytes:
    """nDCG@10 against the median query time on a logarithmic axis, as PNG. Rows without a time are left out.

    Raises:
        ShapeError: no row has a query time above 0.
        NonFiniteError: a value is NaN or infinite.
    """
    timed = [
        (row.query_ms_p50, row)
        for row in _as_rows(rows, "quality_latency_chart")
        if row.query_ms_p50 is not None and row.query_ms_p50 > 0
    ]
    times = [time for time, _ in timed]
    _require_values("quality_latency_chart", "query_ms_p50", times)
    shown = [row for _, row in timed]
    values = [row.ndcg_at_10 for row in shown]
    colours = [theme.of_system(row.system, champion) for row in shown]
    figure, axes = _new_figure(theme)
    axes.set_xscale("log")
    axes.errorbar(
        times, values, yerr=_interval_arms(shown), fmt="none", ecolor=theme.untouched, elinewidth=0.9, zorder=2
    )
    axes.scatter(times, values, s=64, color=colours, edgecolors=theme.background, linewidths=1.0, zorder=3)
    axes.set_xlim(min(times) / 2.5, max(times) * 2.5)
    bottom, top = min(row.ndcg_at_10_low for row in shown), max(row.ndcg_at_10_high for row in shown)
    margin = 0.08 * (top - bottom) or 0.05
    axes.set_ylim(bottom - margin, top + margin)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set_xlabel("median time of one query (ms, logarithmic)")
    axes.set_ylabel("mean nDCG@10")
    _title(axes, "Quality against speed: up and left is better", theme)
    named = _most_telling(shown, champion, MAX_NAMES)
    _name_points(axes, [(time, row) for time, row in timed if row in named], champion, theme)
    return _to_png(figure)


def difference_chart(differences: Sequence[float], system: str, baseline: str, *, theme: Theme = LIGHT) -> bytes:
    """nDCG@10 of `system` minus `baseline`, one bar per query, largest gain first, as PNG.

    Raises:
        ShapeError: there is no query.
        NonFiniteError: a difference is NaN or infinite.
    """
    from matplotlib.ticker import MaxNLocator

    _require_values("difference_chart", "differences", differences)
    values = sorted(differences, reverse=True)
    wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
    figure, axes = _new_figure(theme, height_in=2.6)
    edges = [place + 0.5 for place in range(len(values) + 1)]
    for colour, part in ((theme.champion, [max(v, 0.0) for v in values]), (theme.loss, [min(v, 0.0) for v in values])):
        axes.stairs(part, edges, fill=True, color=colour, linewidth=0, zorder=2)
    axes.axhline(0, color=theme.muted, linewidth=1.0)
    axes.axhline(sum(values) / len(values), color=theme.text, linewidth=1.2, linestyle=(0, (4, 3)), zorder=3)
    axes.annotate(
        f"mean {sum(values) / len(values):+.3f}",
        (1, sum(values) / len(values)),
        (-2, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=theme.text,
    )
    axes.set_xlim(0.5, len(values) + 0.5)
    limit = 1.15 * max(map(abs, values)) or 1.0
    axes.set_ylim(-limit, limit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"queries, sorted: {wins:,} won, {len(values) - wins - losses:,} tied, {losses:,} lost")
    axes.set_ylabel("nDCG@10 difference")
    _title(axes, f"{_label(system, None)} against {_label(baseline, None)}, query by query", theme)
    return _to_png(figure)


def dev_curves_chart(curves: Mapping[str, Curve], champion: str | None = None, *, theme: Theme = LIGHT) -> bytes:
    """Dev nDCG@10 of several recipes over the share of their training, as PNG; the best `MAX_CURVES` of them.

    Shares and not steps: recipes differ in epochs and batch sizes.

    Raises:
        ShapeError: no recipe has a dev curve.
        NonFiniteError: a value is NaN or infinite.
    """
    drawn = {name: curve for name, curve in curves.items() if curve}
    _require_values("dev_curves_chart", "curves", [value for curve in drawn.values() for _, value in curve])
    best = sorted(drawn, key=lambda name: (name != champion, -max(value for _, value in drawn[name]), name))[
        :MAX_CURVES
    ]
    figure, axes = _new_figure(theme)
    colours = iter(theme.series)
    for name in best:
        steps, values = zip(*sorted(drawn[name]), strict=True)
        is_champion = name == champion
        axes.plot(
            [step / (max(steps) or 1) for step in steps],
            values,
            color=theme.champion if is_champion else next(colours),
            linewidth=2.2 if is_champion else 1.4,
            marker="o",
            markersize=4,
            label=_label(name, champion),
        )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of the recipe's training")
    axes.set_ylabel("dev nDCG@10")
    left_out = len(drawn) - len(best)
    _title(axes, "Learning curves on dev" + (f" ({left_out} recipes not shown)" if left_out else ""), theme)
    _legend(axes, theme)
    return _to_png(figure)


def as_markdown_image(png: bytes, alt: str) -> str:
    """The picture as a Markdown image with a data URI, for `MetadataValue.md`."""
    safe = " ".join(alt.split()).translate({ord(character): f"\\{character}" for character in "\\[]`<>!"})
    return f"![{safe}]({as_data_uri(png)})"


def as_data_uri(png: bytes) -> str:
    """The picture as a data URI: no file beside the page that shows it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _as_rows(rows: Rows, chart: str) -> list[LeaderboardRow]:
    """Best first, checked to be drawable."""
    typed = [row if isinstance(row, LeaderboardRow) else LeaderboardRow.from_mapping(row) for row in rows]
    ends = [end for row in typed for end in (row.ndcg_at_10, row.ndcg_at_10_low, row.ndcg_at_10_high)]
    _require_values(chart, "nDCG@10", ends)
    return sort_rows(typed)


def _require_values(chart: str, name: str, values: Sequence[float]) -> None:
    """Raise unless there is at least one value and all are finite."""
    if len(values) == 0:
        raise ShapeError(f"{chart}: {name} is empty, expected at least one value: materialise what it is drawn from")
    wrong = sum(not math.isfinite(value) for value in values)
    if wrong:
        raise NonFiniteError(f"{chart}: {wrong} of {len(values)} values of {name} are NaN or infinite, expected none")


def _most_telling(rows: list[LeaderboardRow], champion: str | None, limit: int) -> list[LeaderboardRow]:
    """At most `limit` rows of `rows` (best first): the references and the champion always stay."""
    kept = {row.system for row in rows if row.system in (BM25, UNTOUCHED_STUDENT, TEACHER, champion)}
    for row in rows:
        if len(kept) >= limit:
            break
        kept.add(row.system)
    return [row for row in rows if row.system in kept]


def _interval_arms(rows: Iterable[LeaderboardRow]) -> list[list[float]]:
    """Lengths below and above the mean. Rounding can leave -1e-17, which matplotlib refuses."""
    pairs = [(row.ndcg_at_10 - row.ndcg_at_10_low, row.ndcg_at_10_high - row.ndcg_at_10) for row in rows]
    return [[max(0.0, low) for low, _ in pairs], [max(0.0, high) for _, high in pairs]]


def _label(system: str, champion: str | None) -> str:
    short = system if len(system) <= MAX_NAME_LENGTH else f"{system[:16]}…{system[17 - MAX_NAME_LENGTH :]}"
    return f"★ {short}" if system == champion else short


def _draw_bars(axes: "Axes", shown: Sequence[LeaderboardRow], champion: str | None, theme: Theme) -> None:
    places = range(len(shown))
    values = [row.ndcg_at_10 for row in shown]
    colours = [theme.of_system(row.system, champion) for row in shown]
    axes.barh(places, values, height=0.66, color=colours, zorder=2)
    for colour, width in ((theme.background, 4.0), (theme.text, 1.4)):  # a halo: the bars are dark and light
        axes.errorbar(values, places, xerr=_interval_arms(shown), fmt="none", ecolor=colour, elinewidth=width, zorder=3)
    for place, row in zip(places, shown, strict=True):
        right = max(row.ndcg_at_10, row.ndcg_at_10_high)
        axes.annotate(
            f"{row.ndcg_at_10:.3f}",
            (right, place),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=theme.text,
            fontsize=8.5,
        )
    axes.set_yticks(places, [_label(row.system, champion) for row in shown])
    for tick, row in zip(axes.get_yticklabels(), shown, strict=True):
        tick.set_fontweight("bold" if row.system == champion else "normal")
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(row.ndcg_at_10_high for row in shown) * 1.14 or 1.0)
    axes.tick_params(axis="y", length=0, labelcolor=theme.text)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"mean nDCG@10 over {shown[0].num_queries:,} queries, with 95 % interval")


def _name_points(
    axes: "Axes", timed: Sequence[tuple[float, LeaderboardRow]], champion: str | None, theme: Theme
) -> None:
    """Write each system beside its point, with space between names: students take the same time, so points stack."""
    bottom, top = axes.get_ylim()
    gap = (top - bottom) * 0.075
    middle = math.sqrt(math.prod(axes.get_xlim()))
    for is_right in (False, True):
        side = [(time, row) for time, row in timed if (time > middle) == is_right]
        heights = _spread([row.ndcg_at_10 for _, row in side], gap)
        for (time, row), height in zip(side, heights, strict=True):
            axes.annotate(
                _label(row.system, champion),
                (time, row.ndcg_at_10),
                (-12 if is_right else 12, height),
                textcoords=("offset points", "data"),
                ha="right" if is_right else "left",
                fontsize=8.5,
                va="center",
                color=theme.text,
                fontweight="bold" if row.system == champion else "normal",
                arrowprops={"arrowstyle": "-", "color": theme.grid, "shrinkA": 0, "shrinkB": 5, "linewidth": 0.8},
            )


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move descending heights apart to at least `gap`; each crowd keeps its centre, the others stay where they are."""
    crowds: list[tuple[float, int]] = []  # (centre, members)
    for height in heights:
        centre, members = height, 1
        while crowds and crowds[-1][0] - centre < gap * (crowds[-1][1] + members) / 2:
            above, count = crowds.pop()
            centre = (above * count + centre * members) / (count + members)
            members += count
        crowds.append((centre, members))
    return [centre + gap * ((members - 1) / 2 - place) for centre, members in crowds for place in range(members)]


def _draw_dev_curve(axes: "Axes", dev_curve: Curve, theme: Theme) -> None:
    steps, values = zip(*dev_curve, strict=True)
    axes.plot(steps, values, color=theme.champion, linewidth=1.6, marker="o", markersize=4)
    # The first of equal steps, as training keeps it.
    best_step, best = max(dev_curve, key=lambda point: (point[1], -point[0]))
    axes.scatter([best_step], [best], s=80, facecolors="none", edgecolors=theme.text, linewidths=1.4, zorder=4)
    axes.margins(y=0.2)
    axes.set_ylabel("dev nDCG@10")
    axes.set_title(f"kept: step {best_step:,}, dev nDCG@10 {best:.3f}", loc="right", fontsize=8.5, color=theme.muted)


def _smooth(values: Sequence[float]) -> list[float]:
    """Mean of the last `SMOOTHING_STEPS` values; the first ones are means of fewer."""
    windows = (values[max(0, end - SMOOTHING_STEPS) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _bare_figure(theme: Theme, height_in: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained", facecolor=theme.background)
    FigureCanvasAgg(figure)
    return figure


def _new_figure(theme: Theme, height_in: float = HEIGHT_IN) -> "tuple[Figure, Axes]":
    figure = _bare_figure(theme, height_in)
    axes = figure.subplots()
    _style(axes, theme)
    return figure, axes


def _style(axes: "Axes", theme: Theme) -> None:
    """Colours and sizes without rcParams, which are global to the process."""
    axes.set_facecolor(theme.background)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
    axes.tick_params(colors=theme.muted, labelsize=8.5, which="both", length=3)
    axes.grid(visible=True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set(color=theme.muted, fontsize=8.5)
    axes.yaxis.label.set(color=theme.muted, fontsize=8.5)


def _title(axes: "Axes", text: str, theme: Theme) -> None:
    axes.set_title(text, loc="left", fontsize=10.5, fontweight="bold", color=theme.text)


def _legend(axes: "Axes", theme: Theme) -> None:
    axes.legend(fontsize=8.5, labelcolor=theme.text, loc="best", facecolor=theme.background, edgecolor="none")


def _to_png(figure: "Figure") -> bytes:
    """PNG with no version or time inside, so that equal numbers give equal bytes."""
    from PIL import Image  # matplotlib requires it

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        palette = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    palette.save(packed, format="PNG", optimize=True)
    return packed.getvalue()
