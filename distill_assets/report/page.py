"""The report: one self-contained HTML page that says how good the champion is, how fast, and how it came to be.

Query and document texts are other people's words: the template escapes everything, and a content security policy
in the page forbids scripts and every request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from distill_assets.errors import ShapeError
from distill_assets.evaluation.comparison import TeacherComparison
from distill_assets.evaluation.groups import GroupTable
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
from distill_assets.report import charts


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page shows.

    Attributes:
        rows: of the leaderboard, one per system; at least one.
        champion: the checkpoint that search uses; None before the first decision. It need not be one of `rows`.
        history: rows of `champion_history`, oldest first.
        steps: (asset, seconds) in data-flow order.
        facts: label to value: teacher, student, counts.
        teacher_comparison: whether the teacher is fit to teach; None where no dev numbers exist.
        ways: recipe to its column of "fine-tuning vs distillation", `title` and label to text; the leaderboard adds the numbers.
        contests: the champion against a `baseline`: `differences` in nDCG@10, one per query, and `examples`. An example has `query`,
            `difference`, nDCG@10 of `system` and `baseline`, texts of `relevant` documents, and `sides`: for both the `system`, the
            `rank` of the first relevant document, and the texts of the first documents `found`. Texts may hold anything.
        agreement: per student its mean `kendall_tau` (None where every pool ties throughout) and `overlap_at_10` with the teacher.
        groups: the leaderboard by groups of queries, one table for each rule.
        logits: raw teacher logits of positives and of hard negatives.
        curves: recipe to (step, training loss) and (step, dev nDCG@10); the second may be empty.
        conclusion: whether training helped, and what follows, as sentences.
    """

    collection: str
    rows: Sequence[LeaderboardRow]
    champion: Champion | None
    history: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[tuple[str, float]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    teacher_comparison: TeacherComparison | None = None
    ways: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    contests: Sequence[Mapping[str, Any]] = ()
    agreement: Sequence[Mapping[str, Any]] = ()
    groups: Sequence[GroupTable] = ()
    logits: tuple[Sequence[float], Sequence[float]] = ((), ())
    curves: Mapping[str, tuple[charts.Curve, charts.Curve]] = field(default_factory=dict)
    conclusion: Sequence[str] = ()


def render_page(page: Page) -> str:
    """The page as HTML. Equal pages give equal text: no clock is read.

    Raises:
        ShapeError: `page.rows` is empty.
    """
    if not page.rows:
        raise ShapeError("render_page: rows is empty, expected one per system: materialise leaderboard first")
    rows = sort_rows(page.rows)
    champion, teacher = find_champion_row(rows, page.champion), find_row(rows, TEACHER)
    marked = champion.system if champion else None
    environment = Environment(
        loader=PackageLoader("distill_assets.report", "templates"),
        autoescape=True,  # whatever the file is called: select_autoescape would not know `.j2`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (format_number, format_p, format_score, format_seconds, format_share):
        environment.filters[function.__name__] = function
    header, *lines = table_cells(rows)
    return environment.get_template("report.html.j2").render(
        page=page,
        charts=charts,
        rows=rows,
        champion=champion,
        marked=marked,
        champion_note=champion_note(rows, page.champion),
        teacher=teacher,
        untouched=find_row(rows, UNTOUCHED_STUDENT),
        speed=describe_speed(champion, teacher),
        header=header,
        leaderboard={line[0]: dict(zip(header, line, strict=True)) for line in lines},
        p_values={row.system: row.p_vs_hard_labels for row in rows},
        legend=legend_of_tests(rows),
        dev_curves={recipe: dev for recipe, (_, dev) in page.curves.items() if dev},
        compared={recipe: page.curves[recipe] for recipe in page.curves if recipe in {*page.ways, marked}},
    )


def describe_cost(
    num_scores: int, *, num_pairs: int, seconds: float, evaluation_pairs: int, evaluation_seconds: float
) -> str:
    """Forward passes of the teacher and their time, for training and for evaluation.

    `num_scores` is what training reads. `num_pairs` is 0 where all of them were scored before costs were recorded.
    """
    told = f"{num_scores:,} pairs, scored before times were recorded"
    if num_pairs:
        speed = f" ({format_number(num_pairs / seconds)} pairs/s)" if seconds > 0 else ""
        told = f"{num_pairs:,} pairs scored in {format_seconds(seconds)}{speed}"
    if not evaluation_pairs:
        return told
    return f"{told}; evaluating the teacher took another {evaluation_pairs:,} pairs and {format_seconds(evaluation_seconds)}"


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
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
