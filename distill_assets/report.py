"""The report: one self-contained HTML page that says how good the champion is, how fast, and how it came to be.

Query and document texts are other people's words: the template escapes everything, and a content security policy
in the page forbids scripts and every request.
"""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from distill_assets.charts import (
    DARK,
    LIGHT,
    as_data_uri,
    dev_curves_chart,
    difference_chart,
    leaderboard_chart,
    quality_latency_chart,
    score_histogram_chart,
    training_curve_chart,
)
from distill_assets.core.errors import ShapeError
from distill_assets.core.evidence import format_p
from distill_assets.core.leaderboard import (
    MISSING,
    LeaderboardRow,
    find_row,
    format_number,
    format_share,
    legend_of_tests,
    sort_rows,
    teacher_finding,
    versus,
)
from distill_assets.core.recipes import HARD_LABELS, TEACHER, UNTOUCHED_STUDENT

TEMPLATE = "report.html.j2"
MAX_TEXT_LENGTH = 400  # of a query or document in the examples


class Example(TypedDict):
    """One query on which a system and its baseline differ. Texts may hold anything; `*_found` are the first documents."""

    query: str
    outcome: Literal["win", "loss"]
    relevant: list[str]
    system_found: list[str]
    baseline_found: list[str]
    system_rank: int | None
    baseline_rank: int | None
    system_ndcg_at_10: float
    baseline_ndcg_at_10: float


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A system against a baseline on the same queries: nDCG@10 differences, one per query, and the largest in full."""

    system: str
    baseline: str
    differences: Sequence[float]
    examples: Sequence[Example]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Mean agreement of a system with the teacher on the pools; `kendall_tau` is None where every pool ties throughout."""

    system: str
    kendall_tau: float | None
    overlap_at_10: float
    num_queries: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Teacher scores that training reads, and what scoring took: pairs with a forward pass, seconds of wall time.

    `num_pairs` is less than `num_scores` where pairs were known already, or were scored before costs were recorded.
    """

    num_scores: int
    num_pairs: int
    seconds: float
    evaluation_pairs: int
    evaluation_seconds: float


@dataclass(frozen=True, kw_only=True)
class Way:
    """One column of "fine-tuning vs distillation". Without a `ceiling` the teacher is it; without a `cost` no teacher is paid."""

    title: str
    recipe: str
    signal: str
    labels: str
    ceiling: str | None
    cost: Cost | None


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """(step, training loss) and (step, dev nDCG@10) of one recipe; the second may be empty."""

    recipe: str
    losses: Sequence[tuple[int, float]]
    dev_curve: Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What the page shows.

    Attributes:
        rows: one per system, in any order; at least one.
        champion: the recipe that search uses; None before the first promotion.
        champion_history: rows of the table of that name, in any order.
        steps: (asset, seconds) in data-flow order.
        facts: label to value: teacher, student, counts, versions.
        fitness: one sentence: whether the teacher is fit to teach; None where no dev numbers exist.
        is_teacher_fit: what it says.
        ways: fine-tuning and distillation side by side.
        contests: the champion against its baselines, query by query.
        agreement: each student with the teacher.
        logits: raw teacher logits of positives and of hard negatives.
        curves: one per trained student.
    """

    collection: str
    split: str
    rows: Sequence[LeaderboardRow]
    champion: str | None
    champion_history: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[tuple[str, float]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    fitness: str | None = None
    is_teacher_fit: bool = True
    ways: Sequence[Way] = ()
    contests: Sequence[Contest] = ()
    agreement: Sequence[Agreement] = ()
    logits: tuple[Sequence[float], Sequence[float]] = ((), ())
    curves: Sequence[LearningCurve] = ()


@dataclass(frozen=True)
class Picture:
    """One chart in both colour schemes, as data URIs."""

    light: str
    dark: str
    alt: str


def render_report(context: ReportContext) -> str:
    """The page as HTML. Equal contexts give equal pages: no clock is read.

    Raises:
        ShapeError: `context.rows` is empty.
    """
    if not context.rows:
        raise ShapeError("render_report: rows is empty, expected one per system: materialise leaderboard first")
    rows = sort_rows(context.rows)
    champion = find_row(rows, context.champion)
    teacher = find_row(rows, TEACHER)
    return _template().render(
        context=context,
        rows=rows,
        champion=champion,
        teacher=teacher,
        untouched=find_row(rows, UNTOUCHED_STUDENT),
        speed=describe_speed(champion, teacher),
        finding=teacher_finding(rows),
        pictures=_pictures(rows, context.champion),
        versus={row.system: [versus(row, rows, name) for name in (UNTOUCHED_STUDENT, HARD_LABELS)] for row in rows},
        legend=legend_of_tests(rows),
        ways=[(way, find_row(rows, way.recipe)) for way in context.ways],
        contests=[(contest, _contest_picture(contest)) for contest in context.contests],
        histogram=_histogram(context),
        curves=_curve_pictures(context),
        history=sorted(context.champion_history, key=lambda entry: str(entry["decided_at"]), reverse=True),
        total_s=sum(seconds for _, seconds in context.steps),
        longest_s=max((seconds for _, seconds in context.steps), default=0.0),
    )


def write_report(path: Path, context: ReportContext) -> None:
    """Render, then write under a temporary name and rename: readers see the old page or the new one, whole.

    Raises:
        ShapeError: `context.rows` is empty; the old page stays.
    """
    html = render_report(context)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(html)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def describe_speed(student: LeaderboardRow | None, teacher: LeaderboardRow | None) -> str:
    """How much faster the student answers than the teacher reranks, at the median: `52x faster`; `-` if not known."""
    if student is None or teacher is None or not student.query_ms_p50 or not teacher.query_ms_p50:
        return MISSING
    ratio = teacher.query_ms_p50 / student.query_ms_p50
    word = "faster" if ratio >= 1 else "slower"
    ratio = max(ratio, 1 / ratio)
    return f"{ratio:,.1f}x {word}" if ratio < 10 else f"{ratio:,.0f}x {word}"


def format_seconds(seconds: float) -> str:
    """`0.4 s`, `12 s`, `2 min 5 s`, `1 h 2 min`: the two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("distill_assets", "templates"),
        autoescape=True,  # whatever the file is called: select_autoescape would not know `.j2`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=format_number, share=format_share, seconds=format_seconds, score=_format_score)
    environment.filters.update(clip=_clip, place=_format_place, p=format_p)
    return environment.get_template(TEMPLATE)


def _pictures(rows: Sequence[LeaderboardRow], champion: str | None) -> list[Picture]:
    """Quality, and quality against time where times were measured."""
    charts = [(leaderboard_chart, "nDCG@10 of every system with its 95 % interval")]
    if any(row.query_ms_p50 for row in rows):
        charts.append((quality_latency_chart, "nDCG@10 against the median time of a query"))
    return [_draw(partial(chart, rows, champion), alt) for chart, alt in charts]


def _draw(chart: Callable[..., bytes], alt: str) -> Picture:
    return Picture(light=as_data_uri(chart(theme=LIGHT)), dark=as_data_uri(chart(theme=DARK)), alt=alt)


def _contest_picture(contest: Contest) -> Picture:
    values = contest.differences
    wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
    alt = f"nDCG@10 of {contest.system} minus {contest.baseline} per query: {wins} won, {losses} lost of {len(values)}"
    return _draw(partial(difference_chart, values, contest.system, contest.baseline), alt)


def _histogram(context: ReportContext) -> Picture | None:
    positives, negatives = context.logits
    if not positives or not negatives:
        return None
    alt = f"Raw teacher logits of {len(positives):,} positives and {len(negatives):,} hard negatives"
    return _draw(partial(score_histogram_chart, positives, negatives), alt)


def _curve_pictures(context: ReportContext) -> list[Picture]:
    """Dev curves of all recipes in one panel; losses of those that the page compares."""
    dev = {curve.recipe: curve.dev_curve for curve in context.curves if curve.dev_curve}
    pictures = []
    if dev:
        alt = f"dev nDCG@10 during training of {', '.join(dev)}"
        pictures.append(_draw(partial(dev_curves_chart, dev, context.champion), alt))
    shown = {context.champion, *(way.recipe for way in context.ways)}
    for curve in context.curves:
        if curve.recipe in shown:
            pictures.append(_loss_picture(curve))
    return pictures


def _loss_picture(curve: LearningCurve) -> Picture:
    title = f"Training of {curve.recipe}"
    chart = partial(training_curve_chart, curve.losses, curve.dev_curve, title=title)
    return _draw(chart, f"Training loss and dev nDCG@10 of {curve.recipe}")


def _format_place(rank: int | None) -> str:
    """Where the first relevant document stands."""
    return "not in the first 100" if rank is None else f"rank {rank}"


def _format_score(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT_LENGTH else f"{text[:MAX_TEXT_LENGTH]}…"
