"""Figures as small PNG files, for metadata in the Dagster UI and for the report.

matplotlib is imported inside the functions, so that loading definitions stays light, and only its object-oriented
interface is used: `pyplot` keeps global state that several materialisations in one process would share.

Every chart raises `ShapeError` where there is nothing to draw, and `NonFiniteError` where a value is NaN or infinite.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.evaluation.leaderboard import LeaderboardRow, sort_rows
from distill_assets.evaluation.tables import format_number
from distill_assets.records import BM25, HYBRID, TEACHER, UNTOUCHED_STUDENT, is_hybrid

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
LOSS_POINTS = 150  # a longer run is drawn as means over neighbouring steps: single ones are noise


def leaderboard_chart(rows: Sequence[LeaderboardRow], champion: str | None = None) -> bytes:
    """Horizontal nDCG@10 bars with their 95 % intervals, best first, as PNG. `champion`: the marked system."""
    rows, places = sort_rows(rows), range(len(rows))
    values, low, high = _intervals(rows)
    figure, (axes,) = _new_figure("Ranking quality", values, low, high, height_in=1.2 + 0.36 * len(rows))
    axes.barh(places, values, height=0.66, color=[_colour(row.system, champion) or RECIPE for row in rows])
    for colour, width in ((BACKGROUND, 4.0), (TEXT, 1.4)):  # a halo: the bars are dark and light
        axes.hlines(places, low, high, color=colour, linewidth=width)
    for place, value, end in zip(places, values, high, strict=True):
        axes.text(max(value, end), place, f"  {value:.3f}", va="center", color=TEXT)
    axes.set_yticks(places, [_label(row.system, champion) for row in rows], color=TEXT)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, max(high) * 1.14 or 1.0))
    axes.set_xlabel(f"mean nDCG@10 over {rows[0].num_queries:,} queries, with 95 % interval")
    axes.grid(visible=False, axis="y")
    return _to_png(figure)


def quality_latency_chart(rows: Sequence[LeaderboardRow], champion: str | None = None) -> bytes:
    """nDCG@10 against the median query time on a logarithmic axis, as PNG. Rows without a time are left out."""
    timed = [(row.query_ms_p50, row) for row in sort_rows(rows) if row.query_ms_p50]
    drawn = _intervals([row for _, row in timed])
    figure, (axes,) = _new_figure("Quality against speed", [time for time, _ in timed], *drawn, num_names=len(timed))
    for time, row in timed:
        label, colour = f"{_label(row.system, champion)}, {format_number(time)} ms", _colour(row.system, champion)
        (point,) = axes.plot([time], [row.ndcg_at_10], "o", color=colour, markersize=7, label=label)
        axes.vlines([time], row.ndcg_at_10_low, row.ndcg_at_10_high, color=point.get_color())
    axes.set(
        xscale="log", xlabel="median time of one query (ms, logarithmic): up and left is better", ylabel="mean nDCG@10"
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.legend(loc="outside right center", frameon=False)
    return _to_png(figure)


def training_curve_chart(losses: Curve, dev_curve: Curve, *, title: str = "Training") -> bytes:
    """Training loss above dev nDCG@10, one panel each over the same steps, as PNG.

    Two panels and not two axes in one: where two scales cross means nothing. An empty `dev_curve` (training without
    a dev split) leaves the lower panel out.
    """
    import numpy as np

    curves = [losses, dev_curve] if dev_curve else [losses]
    figure, panels = _new_figure(title, *([value for _, value in curve] for curve in curves), num_panels=len(curves))
    parts = np.array_split(np.array(losses, dtype=float), min(len(losses), LOSS_POINTS))
    panels[0].plot(*zip(*(part.mean(axis=0) for part in parts), strict=True), ".-", color=CHAMPION, markersize=4)
    panels[0].set_ylabel("training loss")
    for lower in panels[1:]:
        step, best = max(dev_curve, key=lambda point: (point[1], -point[0]))  # of equal ones training keeps the first
        lower.plot(*zip(*dev_curve, strict=True), "o-", color=CHAMPION, markersize=4)
        lower.plot([step], [best], "o", color=TEXT, markersize=9, fillstyle="none")
        lower.margins(y=0.2)
        lower.set_ylabel("dev nDCG@10")
        lower.set_title(f"kept: step {step:,}, dev nDCG@10 {best:.3f}", loc="right", color=MUTED)
    panels[-1].set_xlabel("optimiser step")
    return _to_png(figure)


def dev_curves_chart(curves: Mapping[str, Curve], champion: str | None = None) -> bytes:
    """Dev nDCG@10 of several recipes over the share of their training, as PNG; the best first in the legend.

    Shares and not steps: recipes differ in epochs and batch sizes.
    """
    best = {name: max(value for _, value in curve) for name, curve in curves.items() if curve}
    drawn = [value for curve in curves.values() for _, value in curve]
    figure, (axes,) = _new_figure("Learning curves on dev", drawn, num_names=len(best))
    for name in sorted(best, key=lambda name: (-best[name], name)):
        steps, values = zip(*sorted(curves[name]), strict=True)
        shares, width = [step / (max(steps) or 1) for step in steps], 2.2 if name == champion else 1.4
        label = f"{_label(name, champion)}, {best[name]:.3f}"
        axes.plot(shares, values, "o-", color=_colour(name, champion), linewidth=width, markersize=4, label=label)
    axes.set(xlabel="share of the recipe's training", ylabel="dev nDCG@10")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.legend(loc="outside right center", frameon=False)
    return _to_png(figure)


def score_histogram_chart(positive_logits: Sequence[float], negative_logits: Sequence[float]) -> bytes:
    """Raw teacher logits of positives and of hard negatives as two overlaid step histograms, as PNG.

    Bars are shares of their own kind: there are many more negatives, and counts would hide the positives.
    """
    import numpy as np

    title = "What the teacher thinks of positives and hard negatives"
    figure, (axes,) = _new_figure(title, positive_logits, negative_logits)
    edges = np.histogram_bin_edges([*positive_logits, *negative_logits], bins=50).tolist()
    for name, logits, colour in (("hard negatives", negative_logits, MUTED), ("positives", positive_logits, CHAMPION)):
        shares, median = np.full(len(logits), 1 / len(logits)), float(np.median(logits))
        label = f"{name} ({len(logits):,} pairs, median {median:.2f})"
        axes.hist(
            logits, edges, weights=shares, histtype="stepfilled", fc=(colour, 0.22), ec=colour, lw=1.6, label=label
        )
        axes.axvline(median, color=colour, linewidth=1.2, linestyle="--")
    axes.set(
        xlabel="teacher logit (raw)", ylabel="share of pairs", ylim=(0, axes.get_ylim()[1] * 1.3)
    )  # room for the legend
    axes.legend(edgecolor="none")
    return _to_png(figure)


def score_scatter_chart(points: Sequence[tuple[float, float, bool]]) -> bytes:
    """Student cosine against raw teacher logit, one point per pair, as PNG.

    `points` are (teacher logit, student cosine, whether the pair is a positive).
    """
    title = "What the student made of the teacher's scores"
    figure, (axes,) = _new_figure(title, [score for *scores, _ in points for score in scores])
    for name, colour, wanted in (("hard negatives", MUTED, False), ("positives", CHAMPION, True)):
        own = [(logit, cosine) for logit, cosine, is_positive in points if is_positive is wanted]
        if own:
            logits, cosines = zip(*own, strict=True)
            label = f"{name} ({len(own):,} pairs)"
            axes.scatter(logits, cosines, s=12, color=colour, alpha=0.55, linewidths=0, label=label)
    axes.set(xlabel="teacher logit (raw)", ylabel="student cosine")
    axes.legend(edgecolor="none")
    return _to_png(figure)


def difference_chart(differences: Sequence[float], system: str, baseline: str) -> bytes:
    """nDCG@10 of `system` minus `baseline`, one bar per query, largest gain first, as PNG."""
    figure, (axes,) = _new_figure(f"{system} against {baseline}, query by query", differences, height_in=2.6)
    values, mean = sorted(differences, reverse=True), sum(differences) / len(differences)
    wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
    edges = range(len(values) + 1)
    axes.stairs([max(v, 0.0) for v in values], edges, fill=True, color=CHAMPION)
    axes.stairs([min(v, 0.0) for v in values], edges, fill=True, color=LOSS)
    axes.axhline(mean, color=TEXT, linewidth=1.2, linestyle="--", label=f"mean {mean:+.3f}")
    ties = len(values) - wins - losses
    axes.set(xlabel=f"queries, sorted: {wins:,} won, {ties:,} tied, {losses:,} lost", ylabel="nDCG@10 difference")
    axes.legend(edgecolor="none", loc="upper right")
    return _to_png(figure)


def as_markdown_image(png: bytes, alt: str) -> str:
    """The picture as a Markdown image with a data URI, for `MetadataValue.md`."""
    safe = " ".join(alt.split()).translate({ord(character): f"\\{character}" for character in "\\[]`<>!"})
    return f"![{safe}]({as_data_uri(png)})"


def as_data_uri(png: bytes) -> str:
    """The picture as a data URI: no file beside the page that shows it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _intervals(rows: Sequence[LeaderboardRow]) -> list[list[float]]:
    """nDCG@10, the lower and the upper ends of its 95 % intervals."""
    ends = [(row.ndcg_at_10, row.ndcg_at_10_low, row.ndcg_at_10_high) for row in rows]
    return [[end[place] for end in ends] for place in range(3)]


def _label(system: str, champion: str | None) -> str:
    return f"★ {system}" if system == champion else system


def _colour(system: str, champion: str | None) -> str | None:
    """References and the champion look the same in every chart; None is the next one of `SERIES`."""
    return CHAMPION if system == champion else REFERENCES.get(HYBRID if is_hybrid(system) else system)


def _new_figure(
    title: str, *drawn: Sequence[float], num_panels: int = 1, height_in: float = 4.1, num_names: int = 0
) -> "tuple[Figure, list[Axes]]":
    """Panels one below the other over one x axis, high enough for a legend of `num_names` names beside them.

    `drawn` are the values of the chart: refused where there are none, or where one is NaN or infinite.
    """
    from matplotlib.figure import Figure

    if any(len(values) == 0 for values in drawn):
        raise ShapeError(f"chart {title!r}: values are empty, expected at least one: materialise what it is drawn from")
    wrong = sum(not math.isfinite(value) for values in drawn for value in values)
    if wrong:
        raise NonFiniteError(f"chart {title!r}: {wrong} values are NaN or infinite, expected none")
    figure = Figure(figsize=(7.6, max(height_in, 0.25 * num_names)), dpi=102, layout="constrained")
    panels = list(figure.subplots(num_panels, 1, sharex=True, squeeze=False)[:, 0])
    for axes in panels:  # no rcParams: they are global to the process
        axes.set_prop_cycle(color=SERIES)
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
        axes.tick_params(colors=MUTED)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.xaxis.label.set_color(MUTED)
        axes.yaxis.label.set_color(MUTED)
    panels[0].set_title(title, loc="left", fontweight="bold", color=TEXT)
    return figure, panels


def _to_png(figure: "Figure") -> bytes:
    """PNG with no version or time inside, so that equal numbers give equal bytes."""
    from PIL import Image  # matplotlib requires it

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as image:
        palette = image.convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
    palette.save(packed, format="PNG", optimize=True)
    return packed.getvalue()
