"""The report: one self-contained HTML page that says how good the champion is, how fast, and how it came to be.

Query and document texts are other people's words: the template escapes everything, and a content security policy
in the page forbids scripts and every request.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from distill_assets.charts import DARK, LIGHT, as_data_uri, leaderboard_chart, quality_latency_chart
from distill_assets.core.errors import ShapeError
from distill_assets.core.leaderboard import (
    MISSING,
    LeaderboardRow,
    find_row,
    format_number,
    format_share,
    sort_rows,
    teacher_finding,
)
from distill_assets.core.recipes import TEACHER, UNTOUCHED_STUDENT

TEMPLATE = "report.html.j2"
MAX_TEXT_LENGTH = 400  # of a query or document in the examples


class Example(TypedDict):
    """One query on which the champion and the untouched student differ. Texts may hold anything."""

    query: str
    outcome: Literal["win", "loss"]
    relevant: str
    champion_best: str
    untouched_best: str
    champion_ndcg_at_10: float
    untouched_ndcg_at_10: float


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What the page shows.

    Attributes:
        rows: one per system, in any order; at least one.
        champion: the recipe that search uses; None before the first promotion.
        champion_history: rows of the table of that name, in any order.
        steps: (asset, seconds) in data-flow order.
        facts: label to value: teacher, student, counts, versions.
        examples: possibly empty.
    """

    collection: str
    split: str
    rows: Sequence[LeaderboardRow]
    champion: str | None
    champion_history: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[tuple[str, float]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    examples: Sequence[Example] = ()


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
    environment.filters["clip"] = _clip
    return environment.get_template(TEMPLATE)


def _pictures(rows: Sequence[LeaderboardRow], champion: str | None) -> list[Picture]:
    """Quality, and quality against time where times were measured."""
    charts = [(leaderboard_chart, "nDCG@10 of every system with its 95 % interval")]
    if any(row.query_ms_p50 for row in rows):
        charts.append((quality_latency_chart, "nDCG@10 against the median time of a query"))
    return [
        Picture(
            light=as_data_uri(chart(rows, champion, theme=LIGHT)),
            dark=as_data_uri(chart(rows, champion, theme=DARK)),
            alt=alt,
        )
        for chart, alt in charts
    ]


def _format_score(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT_LENGTH else f"{text[:MAX_TEXT_LENGTH]}…"
