"""The report: one self-contained HTML page that says how good the champion is, how fast, and how it came to be.

Query and document texts are other people's words: the template escapes everything, and a content security policy
in the page forbids scripts and every request.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from distill_assets.errors import ShapeError
from distill_assets.evaluation.fitness import TeacherFitness, fitness_sentence
from distill_assets.evaluation.leaderboard import (
    Champion,
    LeaderboardRow,
    champion_note,
    find_champion_row,
    find_row,
    legend_of_tests,
    sort_rows,
    table_cells,
)
from distill_assets.evaluation.tables import MISSING, format_number, format_p, format_score, format_share
from distill_assets.records import TEACHER, UNTOUCHED_STUDENT
from distill_assets.report.charts import (
    as_data_uri,
    dev_curves_chart,
    difference_chart,
    leaderboard_chart,
    quality_latency_chart,
    score_histogram_chart,
    training_curve_chart,
)

TEMPLATE = "report.html.j2"


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
        champion: the checkpoint that search uses; None before the first decision. It need not be one of `rows`.
        champion_history: rows of the table of that name, in any order.
        steps: (asset, seconds) in data-flow order.
        facts: label to value: teacher, student, counts, versions.
        fitness: whether the teacher is fit to teach; None where no dev numbers exist.
        ways: fine-tuning and distillation side by side.
        contests: the champion against its baselines, query by query; only where the champion is one of `rows`.
        agreement: each student with the teacher.
        logits: raw teacher logits of positives and of hard negatives.
        curves: one per trained student.
        conclusion: whether training helped, and what follows, as sentences.
    """

    collection: str
    split: str
    rows: Sequence[LeaderboardRow]
    champion: Champion | None
    champion_history: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[tuple[str, float]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    fitness: TeacherFitness | None = None
    ways: Sequence[Way] = ()
    contests: Sequence[Contest] = ()
    agreement: Sequence[Agreement] = ()
    logits: tuple[Sequence[float], Sequence[float]] = ((), ())
    curves: Sequence[LearningCurve] = ()
    conclusion: Sequence[str] = ()


Picture = tuple[str, str]  # data URI, description


def render_report(context: ReportContext) -> str:
    """The page as HTML. Equal contexts give equal pages: no clock is read.

    Raises:
        ShapeError: `context.rows` is empty.
    """
    if not context.rows:
        raise ShapeError("render_report: rows is empty, expected one per system: materialise leaderboard first")
    rows = sort_rows(context.rows)
    champion, teacher = find_champion_row(rows, context.champion), find_row(rows, TEACHER)
    header, *lines = table_cells(rows)
    return _template().render(
        context=context,
        champion=champion,
        champion_note=champion_note(rows, context.champion),
        teacher=teacher,
        untouched=find_row(rows, UNTOUCHED_STUDENT),
        speed=describe_speed(champion, teacher),
        header=header,
        lines=list(zip(rows, lines, strict=True)),
        pictures=_leaderboard_pictures(rows, champion),
        legend=legend_of_tests(rows),
        ways=_compare_ways(context, rows),
        contests=[(contest, _contest_picture(contest)) for contest in context.contests],
        training=_training_pictures(context, champion),
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
        temporary.write_text(html, encoding="utf-8")
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
        loader=PackageLoader("distill_assets.report", "templates"),
        autoescape=True,  # whatever the file is called: select_autoescape would not know `.j2`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "share": format_share,
        "seconds": format_seconds,
        "score": format_score,
        "p": format_p,
        "sentence": fitness_sentence,
    }
    return environment.get_template(TEMPLATE)


def _compare_ways(context: ReportContext, rows: Sequence[LeaderboardRow]) -> dict[str, list[str]]:
    """The table "fine-tuning vs distillation": label to one cell per way."""
    header, *lines = table_cells(rows)
    measured = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    own, teacher = [find_row(rows, way.recipe) for way in context.ways], find_row(rows, TEACHER)
    on_pool = "not evaluated" if teacher is None else f"nDCG@10 {format_score(teacher.ndcg_at_10)} on the pool"
    shown = ("nDCG@10", "95 % interval", "vs untouched", "vs hard_labels", "gap closed", "ms p50")
    return {
        "Training signal": [way.signal for way in context.ways],
        "Labels used": [way.labels for way in context.ways],
        **{label: [measured.get(way.recipe, {}).get(label, MISSING) for way in context.ways] for label in shown},
        "p against hard_labels (Holm)": [format_p(row.p_vs_hard_labels if row else None) for row in own],
        "Ceiling": [way.ceiling or f"the teacher: {on_pool}" for way in context.ways],
        "Cost: teacher pairs and time": [_describe_cost(way.cost) for way in context.ways],
    }


def _describe_cost(cost: Cost | None) -> str:
    if cost is None:
        return "no teacher pair, no teacher second"
    if not cost.num_pairs:
        return f"{cost.num_scores:,} pairs, scored before times were recorded"
    speed = f" ({format_number(cost.num_pairs / cost.seconds)} pairs/s)" if cost.seconds > 0 else ""
    return f"{cost.num_pairs:,} pairs scored in {format_seconds(cost.seconds)}{speed}"


def _leaderboard_pictures(rows: Sequence[LeaderboardRow], champion: LeaderboardRow | None) -> list[Picture]:
    """Quality, and quality against time where times were measured."""
    marked = champion.system if champion else None
    pictures = [(as_data_uri(leaderboard_chart(rows, marked)), "nDCG@10 of every system with its 95 % interval")]
    if any(row.query_ms_p50 for row in rows):
        chart = quality_latency_chart(rows, marked)
        pictures.append((as_data_uri(chart), "nDCG@10 against the median time of a query"))
    return pictures


def _contest_picture(contest: Contest) -> Picture:
    values = contest.differences
    wins, losses = sum(v > 0 for v in values), sum(v < 0 for v in values)
    alt = f"nDCG@10 of {contest.system} minus {contest.baseline} per query: {wins} won, {losses} lost of {len(values)}"
    return as_data_uri(difference_chart(values, contest.system, contest.baseline)), alt


def _training_pictures(context: ReportContext, champion: LeaderboardRow | None) -> list[Picture]:
    """Teacher logits; dev curves of all recipes in one panel; losses of the recipes that the page compares."""
    pictures = []
    positives, negatives = context.logits
    if positives and negatives:
        alt = f"Raw teacher logits of {len(positives):,} positives and {len(negatives):,} hard negatives"
        pictures.append((as_data_uri(score_histogram_chart(positives, negatives)), alt))
    marked = champion.system if champion else None
    dev = {curve.recipe: curve.dev_curve for curve in context.curves if curve.dev_curve}
    if dev:
        alt = f"dev nDCG@10 during training of {', '.join(dev)}"
        pictures.append((as_data_uri(dev_curves_chart(dev, marked)), alt))
    for curve in context.curves:
        if curve.recipe in {marked, *(way.recipe for way in context.ways)}:
            chart = training_curve_chart(curve.losses, curve.dev_curve, title=f"Training of {curve.recipe}")
            pictures.append((as_data_uri(chart), f"Training loss and dev nDCG@10 of {curve.recipe}"))
    return pictures
