"""Figures as small PNG files, for metadata in the Dagster UI and for the report.

matplotlib is imported inside the functions, so that loading definitions stays light, and only its object-oriented
interface is used: `pyplot` keeps global state that several materialisations in one process would share.

Every chart raises `ShapeError` where there is nothing to draw, and `NonFiniteError` where a value is NaN or infinite.
"""

import base64
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.evaluation.leaderboard import LeaderboardRow, sort_rows
from distill_assets.evaluation.tables import format_number
from distill_assets.records import BM25, HYBRID, TEACHER, UNTOUCHED_STUDENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Sequence[tuple[int, float]]

# On white; the report inverts its pictures where the reader's screen is dark.
BACKGROUND, TEXT, MUTED, GRID = "#ffffff", "#1c2430", "#5b6675", "#e4e8ee"  # contrast of texts above 4.5 (WCAG AA)
CHAMPION, RECIPE, LOSS = "#0f766e", "#5aa9a3", "#b45309"
REFERENCES = {BM25: "#b4b9c1", HYBRID: "#a5a9b0", UNTOUCHED_STUDENT: "#8fa3bd", TEACHER: "#27344a"}
SERIES = ("#b45309", "#7c5cbf", "#5b8def", "#c2456b", "#6b7c2f", "#a16207", "#0891b2", "#475569")
PALETTE = 96  # colours of the PNG: a third of the size of true colour, no visible loss on flat shapes
SMOOTHING_STEPS = 15


def leaderboard_chart(rows: Sequence[LeaderboardRow], champion: str | None = None) -> bytes:
    """Horizontal nDCG@10 bars with their 95 % intervals, best first, as PNG. `champion`: the marked system."""
    rows = _checked(rows, "leaderboard_chart")
    places, values = range(len(rows)), [row.ndcg_at_10 for row in rows]
    figure, (axes,) = _new_figure("Ranking quality", height_in=1.2 + 0.36 * len(rows))
    colours = [REFERENCES.get(row.system, CHAMPION if row.system == champion else RECIPE) for row in rows]
    axes.barh(places, values, height=0.66, color=colours)
    for colour, width in ((BACKGROUND, 4.0), (TEXT, 1.4)):  # a halo: the bars are dark and light
        axes.errorbar(values, places, xerr=_interval_arms(rows), fmt="none", ecolor=colour, elinewidth=width)
    for place, row in zip(places, rows, strict=True):
        end = max(row.ndcg_at_10, row.ndcg_at_10_high)
        axes.text(end, place, f"  {row.ndcg_at_10:.3f}", va="center", color=TEXT)
    axes.set_yticks(places, [_label(row.system, champion) for row in rows], color=TEXT)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max(row.ndcg_at_10_high for row in rows) * 1.14 or 1.0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"mean nDCG@10 over {rows[0].num_queries:,} queries, with 95 % interval")
    return _to_png(figure)


def training_curve_chart(losses: Curve, dev_curve: Curve, *, title: str = "Training") -> bytes:
    """Training loss above dev nDCG@10, one panel each over the same steps, as PNG.

    Two panels and not two axes in one: where two scales cross means nothing. An empty `dev_curve` (training without
    a dev split) leaves the lower panel out.
    """
    import numpy as np

    _require_values("training_curve_chart", "losses", [value for _, value in losses])
    if dev_curve:
        _require_values("training_curve_chart", "dev_curve", [value for _, value in dev_curve])
    figure, (panel, *below) = _new_figure(title, panels=2 if dev_curve else 1)
    steps, values = zip(*losses, strict=True)
    is_long = len(values) > 2 * SMOOTHING_STEPS
    panel.plot(steps, values, color=RECIPE, alpha=0.45 if is_long else 1, marker=None if is_long else ".")
    if is_long:
        means = np.convolve(values, np.full(SMOOTHING_STEPS, 1 / SMOOTHING_STEPS), mode="valid")
        panel.plot(steps[SMOOTHING_STEPS - 1 :], means, color=CHAMPION, label=f"mean of {SMOOTHING_STEPS} steps")
        panel.legend(edgecolor="none")
    panel.set_ylabel("training loss")
    for lower in below:
        lower.plot(*zip(*dev_curve, strict=True), color=CHAMPION, marker="o", markersize=4)
        # The first of equal steps, as training keeps it.
        step, best = max(dev_curve, key=lambda point: (point[1], -point[0]))
        lower.scatter([step], [best], s=80, facecolors="none", edgecolors=TEXT, linewidths=1.4, zorder=4)
        lower.margins(y=0.2)
        lower.set_ylabel("dev nDCG@10")
        lower.set_title(f"kept: step {step:,}, dev nDCG@10 {best:.3f}", loc="right", color=MUTED)
    (below or [panel])[-1].set_xlabel("optimiser step")
    return _to_png(figure)


def score_histogram_chart(positive_logits: Sequence[float], negative_logits: Sequence[float]) -> bytes:
    """Raw teacher logits of positives and of hard negatives as two overlaid step histograms, as PNG.

    Bars are shares of their own kind: there are many more negatives, and counts would hide the positives.
    """
    import numpy as np

    _require_values("score_histogram_chart", "positive_logits", positive_logits)
    _require_values("score_histogram_chart", "negative_logits", negative_logits)
    figure, (axes,) = _new_figure("What the teacher thinks of positives and hard negatives")
    edges = np.histogram_bin_edges(np.concatenate([positive_logits, negative_logits]).astype(np.float64), bins=50)
    for name, logits, colour in (("hard negatives", negative_logits, MUTED), ("positives", positive_logits, CHAMPION)):
        shares, median = np.histogram(logits, bins=edges)[0] / len(logits), float(np.median(logits))
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.22)
        label = f"{name} ({len(logits):,} pairs, median {median:.2f})"
        axes.stairs(shares, edges, color=colour, linewidth=1.6, label=label)
        axes.axvline(median, color=colour, linewidth=1.2, linestyle="--")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)  # room for the legend
    axes.set_xlabel("teacher logit (raw)")
    axes.set_ylabel("share of pairs")
    axes.legend(edgecolor="none")
    return _to_png(figure)


def score_scatter_chart(points: Sequence[tuple[float, float, bool]]) -> bytes:
    """Student cosine against raw teacher logit, one point per pair, as PNG.

    `points` are (teacher logit, student cosine, whether the pair is a positive).
    """
    _require_values("score_scatter_chart", "scores", [score for *scores, _ in points for score in scores])
    figure, (axes,) = _new_figure("What the student made of the teacher's scores")
    for name, colour, wanted in (("hard negatives", MUTED, False), ("positives", CHAMPION, True)):
        own = [(logit, cosine) for logit, cosine, is_positive in points if is_positive is wanted]
        if own:
            label = f"{name} ({len(own):,} pairs)"
            logits, cosines = zip(*own, strict=True)
            axes.scatter(logits, cosines, s=12, color=colour, alpha=0.55, linewidths=0, label=label)
    axes.set_xlabel("teacher logit (raw)")
    axes.set_ylabel("student cosine")
    axes.legend(edgecolor="none")
    return _to_png(figure)


def quality_latency_chart(rows: Sequence[LeaderboardRow], champion: str | None = None) -> bytes:
    """nDCG@10 against the median query time on a logarithmic axis, as PNG. Rows without a time are left out."""
    timed = [(row.query_ms_p50, row) for row in _checked(rows, "quality_latency_chart") if row.query_ms_p50]
    _require_values("quality_latency_chart", "query_ms_p50", [time for time, _ in timed])
    figure, (axes,) = _new_figure("Quality against speed", num_names=len(timed))
    colours = _colours((row.system for _, row in timed), champion)
    for time, row in timed:
        arms, label = _interval_arms([row]), f"{_label(row.system, champion)}, {format_number(time)} ms"
        axes.errorbar(
            [time], [row.ndcg_at_10], yerr=arms, fmt="o", color=colours[row.system], markersize=7, label=label
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("median time of one query (ms, logarithmic): up and left is better")
    axes.set_ylabel("mean nDCG@10")
    figure.legend(loc="outside right center", frameon=False)
    return _to_png(figure)


def difference_chart(differences: Sequence[float], system: str, baseline: str) -> bytes:
    """nDCG@10 of `system` minus `baseline`, one bar per query, largest gain first, as PNG."""
    _require_values("difference_chart", "differences", differences)
    values, mean = sorted(differences, reverse=True), sum(differences) / len(differences)
    wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
    figure, (axes,) = _new_figure(f"{system} against {baseline}, query by query", height_in=2.6)
    edges = range(len(values) + 1)
    axes.stairs([max(v, 0.0) for v in values], edges, fill=True, color=CHAMPION)
    axes.stairs([min(v, 0.0) for v in values], edges, fill=True, color=LOSS)
    axes.axhline(mean, color=TEXT, linewidth=1.2, linestyle="--", label=f"mean {mean:+.3f}")
    axes.set_xlabel(f"queries, sorted: {wins:,} won, {len(values) - wins - losses:,} tied, {losses:,} lost")
    axes.set_ylabel("nDCG@10 difference")
    axes.legend(edgecolor="none", loc="upper right")
    return _to_png(figure)


def dev_curves_chart(curves: Mapping[str, Curve], champion: str | None = None) -> bytes:
    """Dev nDCG@10 of several recipes over the share of their training, as PNG; the best first in the legend.

    Shares and not steps: recipes differ in epochs and batch sizes.
    """
    best = {name: max(value for _, value in curve) for name, curve in curves.items() if curve}
    _require_values("dev_curves_chart", "curves", [value for curve in curves.values() for _, value in curve])
    figure, (axes,) = _new_figure("Learning curves on dev", num_names=len(best))
    names = sorted(best, key=lambda name: (-best[name], name))
    for name, colour in _colours(names, champion).items():
        steps, values = zip(*sorted(curves[name]), strict=True)
        shares, width = [step / (max(steps) or 1) for step in steps], 2.2 if name == champion else 1.4
        label = f"{_label(name, champion)}, {best[name]:.3f}"
        axes.plot(shares, values, color=colour, linewidth=width, marker="o", markersize=4, label=label)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of the recipe's training")
    axes.set_ylabel("dev nDCG@10")
    figure.legend(loc="outside right center", frameon=False)
    return _to_png(figure)


def as_markdown_image(png: bytes, alt: str) -> str:
    """The picture as a Markdown image with a data URI, for `MetadataValue.md`."""
    safe = " ".join(alt.split()).translate({ord(character): f"\\{character}" for character in "\\[]`<>!"})
    return f"![{safe}]({as_data_uri(png)})"


def as_data_uri(png: bytes) -> str:
    """The picture as a data URI: no file beside the page that shows it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _checked(rows: Sequence[LeaderboardRow], chart: str) -> list[LeaderboardRow]:
    """Best first, checked to be drawable."""
    ends = [end for row in rows for end in (row.ndcg_at_10, row.ndcg_at_10_low, row.ndcg_at_10_high)]
    _require_values(chart, "nDCG@10", ends)
    return sort_rows(rows)


def _require_values(chart: str, name: str, values: Sequence[float]) -> None:
    """Raise unless there is at least one value and all are finite."""
    if len(values) == 0:
        raise ShapeError(f"{chart}: {name} is empty, expected at least one value: materialise what it is drawn from")
    wrong = sum(not math.isfinite(value) for value in values)
    if wrong:
        raise NonFiniteError(f"{chart}: {wrong} of {len(values)} values of {name} are NaN or infinite, expected none")


def _interval_arms(rows: Sequence[LeaderboardRow]) -> list[list[float]]:
    """Lengths below and above the mean. Rounding can leave -1e-17, which matplotlib refuses."""
    pairs = [(row.ndcg_at_10 - row.ndcg_at_10_low, row.ndcg_at_10_high - row.ndcg_at_10) for row in rows]
    return [[max(0.0, low) for low, _ in pairs], [max(0.0, high) for _, high in pairs]]


def _label(system: str, champion: str | None) -> str:
    return f"★ {system}" if system == champion else system


def _colours(systems: Iterable[str], champion: str | None) -> dict[str, str]:
    """One colour each: those of the references and of the champion are the same in every chart."""
    series = itertools.cycle(SERIES)
    return {name: CHAMPION if name == champion else REFERENCES.get(name) or next(series) for name in systems}


def _new_figure(
    title: str, *, panels: int = 1, height_in: float = 4.1, num_names: int = 0
) -> "tuple[Figure, list[Axes]]":
    """Panels one below the other over one x axis, high enough for a legend of `num_names` names beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, max(height_in, 0.25 * num_names)), dpi=102, layout="constrained")
    every = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    for axes in every:  # no rcParams: they are global to the process
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
        axes.tick_params(colors=MUTED)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.xaxis.label.set_color(MUTED)
        axes.yaxis.label.set_color(MUTED)
    every[0].set_title(title, loc="left", fontweight="bold", color=TEXT)
    return figure, every


def _to_png(figure: "Figure") -> bytes:
    """PNG with no version or time inside, so that equal numbers give equal bytes."""
    from PIL import Image  # matplotlib requires it

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        palette = image.convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
    palette.save(packed, format="PNG", optimize=True)
    return packed.getvalue()
