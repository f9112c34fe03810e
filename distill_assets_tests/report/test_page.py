"""The report page: what it says, what it escapes, and how it is written."""

import itertools
import re
from dataclasses import replace
from datetime import datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

from distill_assets.errors import ShapeError
from distill_assets.evaluation.fitness import TeacherFitness, judge_teacher
from distill_assets.evaluation.leaderboard import Champion, LeaderboardRow
from distill_assets.report.page import (
    Agreement,
    Contest,
    Cost,
    Example,
    LearningCurve,
    Picture,
    ReportContext,
    Way,
    describe_speed,
    format_seconds,
    render_report,
    write_report,
)
from distill_assets.report.page import _leaderboard_pictures as draw_pictures

HOSTILE = '<script>alert("x")</script>'
FINDING = "Finding: the teacher is weaker than a student"


@pytest.fixture(autouse=True)
def _draw_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real charts, but drawn once for equal rows: drawing is the only slow part of a page."""
    monkeypatch.setattr("distill_assets.report.page._leaderboard_pictures", lambda rows, row: _drawn(tuple(rows), row))


@cache
def _drawn(rows: tuple[LeaderboardRow, ...], champion: LeaderboardRow | None) -> list[Picture]:
    return draw_pictures(rows, champion)


def make_row(system: str, ndcg_at_10: float, query_ms_p50: float | None, gap: float | None = None) -> LeaderboardRow:
    """A row whose interval is 0.02 to either side."""
    return LeaderboardRow(
        system=system,
        ndcg_at_10=ndcg_at_10,
        ndcg_at_10_low=ndcg_at_10 - 0.02,
        ndcg_at_10_high=ndcg_at_10 + 0.02,
        mrr_at_10=0.5,
        recall_at_100=0.9,
        map=0.4,
        gap_closed=gap,
        query_ms_p50=query_ms_p50,
        num_queries=1500,
    )


FINGERPRINT, OLDER = "abcdef01" * 8, "12345678" * 8
CHAMPION = Champion(
    recipe="margin_mse", model_fingerprint=FINGERPRINT, dev_ndcg_at_10=0.567, decided_at=datetime(2025, 3, 1, 9, 30)
)


def judge(teacher: float, student: str = "margin_mse") -> TeacherFitness | None:
    """A teacher on 20 dev queries, against a student that has 0.5 on each."""
    queries = [f"q{number}" for number in range(20)]
    return judge_teacher({"teacher": dict.fromkeys(queries, teacher), student: dict.fromkeys(queries, 0.5)}, seed=1)


def make_context(student: float = 0.55) -> ReportContext:
    """Untouched student 0.50, teacher 0.60, one recipe."""
    rows = [
        make_row("bm25", 0.37, 1.0),
        make_row("untouched_student", 0.50, 5.0),
        make_row("teacher", 0.60, 300.0),
        replace(make_row("margin_mse", student, 6.0, gap=0.5), model_fingerprint=FINGERPRINT),
    ]
    return ReportContext(collection="python_api", split="test", rows=rows, champion=CHAMPION)


def make_example(text: str) -> Example:
    """One query whose texts are all `text`."""
    return Example(
        query=text,
        outcome="win",
        relevant=[text],
        system_found=[text, "another document"],
        baseline_found=["another document"],
        system_rank=1,
        baseline_rank=None,
        system_ndcg_at_10=1.0,
        baseline_ndcg_at_10=0.43,
    )


def make_full_context(text: str = "some text") -> ReportContext:
    """Everything that the page can show; every text that comes from outside is `text`."""
    cost = Cost(num_scores=3000, num_pairs=2400, seconds=60.0, evaluation_pairs=500, evaluation_seconds=12.0)
    ways = [
        Way(title="Fine-tuning", recipe="hard_labels", signal=text, labels=text, ceiling=text, cost=None),
        Way(title="Distillation", recipe="margin_mse", signal=text, labels=text, ceiling=None, cost=cost),
    ]
    base = make_context()
    tested = {"p_vs_untouched": 0.01, "detectable_vs_untouched": 0.03}
    rows = [replace(row, **(tested if row.system == "margin_mse" else {})) for row in base.rows]
    rows.append(replace(make_row("hard_labels", 0.54, 6.0, gap=0.4), p_vs_untouched=0.2, detectable_vs_untouched=0.02))
    return replace(
        base,
        rows=rows,
        fitness=judge(0.4, student=text),
        ways=ways,
        contests=[
            Contest(
                system="margin_mse", baseline="untouched_student", differences=[0.57], examples=[make_example(text)]
            )
        ],
        agreement=[Agreement(system="margin_mse", kendall_tau=0.71, overlap_at_10=0.8, num_queries=1500)],
        logits=([1.0, 2.0], [-1.0, 0.0]),
        curves=[LearningCurve(recipe="margin_mse", losses=[(1, 0.5)], dev_curve=[(1, 0.6)])],
        steps=[("corpus", 1.0)],
        facts={"teacher": text},
        champion_history=[
            {
                "decided_at": datetime(2025, 1, 1, 12, 0),
                "recipe": "margin_mse",
                "model_fingerprint": OLDER,
                "verdict": "kept",
                "reason": text,
                "dev_ndcg_at_10": 0.5,
                "p_value": None,
            }
        ],
    )


class Outline(HTMLParser):
    """Headings with their ids in order, tags that were never closed, and pictures without a description."""

    VOID = {"meta", "img", "br", "source"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.problems: list[str] = []
        self.feed(html)
        self.problems += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note headings and pictures, remember what has to be closed."""
        values = dict(attrs)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((tag, values.get("id")))
        if tag == "img" and not values.get("alt"):
            self.problems.append("img without alt")
        if tag == "th" and "scope" not in values:
            self.problems.append("th without scope")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Each tag closes the last one that is open."""
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}>")


def test_every_section_is_there_in_its_order_and_well_formed() -> None:
    """A section that a renamed field empties, or a tag left open, changes nothing that another test would see.

    Headings step down one level at a time and pictures have descriptions: a screen reader walks by them.
    """
    outline = Outline(render_report(make_full_context()))
    assert outline.problems == []
    ids = [key for tag, key in outline.headings if tag == "h2"]
    assert ids == ["ways", "leaderboard", "queries", "agreement", "training", "history", "time", "facts"]
    levels = [int(tag[1]) for tag, _ in outline.headings]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_fine_tuning_against_distillation_in_numbers() -> None:
    """2,400 pairs in 60 s are 40 a second; ceiling 0.600 is the teacher's; fine-tuning pays no teacher."""
    html = render_report(make_full_context())
    section = html[html.index('id="ways"') : html.index('id="leaderboard"')]
    for expected in (
        "Fine-tuning vs distillation",
        "2,400 pairs scored in 1 min 0 s (40.0 pairs/s)",
        "the teacher: nDCG@10 0.600 on the pool",
        "no teacher pair, no teacher second",
        "<td>+0.050†</td>",
        "<td>+0.040\u2007</td>",
        "took another 500 pairs and 12 s",
    ):
        assert expected in section, expected


def test_a_cost_that_was_never_recorded_is_not_zero() -> None:
    """Scores of an older file have no times: `0 pairs in 0 s` would call a teacher free."""
    context = make_full_context()
    old = replace(
        context.ways[1], cost=Cost(num_scores=3000, num_pairs=0, seconds=0, evaluation_pairs=0, evaluation_seconds=0)
    )
    html = render_report(replace(context, ways=[context.ways[0], old]))
    assert "3,000 pairs, scored before times were recorded" in html


def test_wins_show_what_was_found_and_what_was_judged() -> None:
    """The judged document among those found is marked: only then a reader sees why a query was won."""
    html = render_report(make_full_context())
    section = html[html.index('id="queries"') : html.index('id="agreement"')]
    assert "win: nDCG@10 0.430 → 1.000" in section
    assert "rank 1" in section and "not in the first 100" in section
    assert section.count('<li class="relevant">') == 1
    assert "another document</li>" in section


def test_an_unfit_teacher_is_a_finding_and_a_fit_one_a_note() -> None:
    """A warning that is always there is read by nobody."""
    context = make_full_context()
    assert "Finding: the teacher is not fit to teach" in render_report(context)
    html = render_report(replace(context, fitness=judge(0.6)))
    assert 'class="card finding"' not in html
    assert "The teacher is fit to teach: on 20 dev queries" in html


def test_no_number_is_printed_that_is_none() -> None:
    """`None` or `nan` in a table looks like a measurement that went wrong, and sorts above real ones."""
    full = make_full_context()
    bare = replace(
        full, rows=[make_row("margin_mse", 0.5, None), make_row("hard_labels", 0.5, None)], logits=((), (1.0,))
    )
    bare = replace(bare, agreement=[Agreement(system="a", kendall_tau=None, overlap_at_10=0.5, num_queries=1)])
    for context in (full, bare):
        text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", render_report(context), flags=re.S)
        assert not re.search(r"\b(nan|inf|None)\b", text)


def test_first_screen_says_what_how_good_and_how_fast() -> None:
    """The page opens before the tables: 300 ms / 6 ms = 50, gap closed 50 %, interval 0.530 to 0.570."""
    html = render_report(make_context())
    first_screen = html[html.index("<main>") : html.index("Leaderboard</h2>")]
    for expected in ("python_api", "margin_mse", "0.550", "0.530 to 0.570", "50 %", "50x faster", "1,500 test queries"):
        assert expected in first_screen, expected


def test_hostile_texts_are_escaped_everywhere() -> None:
    """Queries come from logs and documents from anyone: one unescaped text runs in the reader's browser."""
    context = replace(
        make_full_context(HOSTILE),
        collection=HOSTILE,
        champion=replace(CHAMPION, recipe=HOSTILE, model_fingerprint=HOSTILE),
        facts={HOSTILE: HOSTILE},
        steps=[(HOSTILE, 1.0)],
    )
    html = render_report(context)
    assert "<script" not in html
    escaped = "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;"
    assert html.count(escaped) >= 16
    assert f"<h4>{escaped}" in html  # the query itself is shown as it was typed


def test_page_is_self_contained() -> None:
    """A style sheet or picture from elsewhere is missing when the page is mailed, and tells others that it was read."""
    html = render_report(make_context())
    assert "http://" not in html
    assert "https://" not in html
    assert "<link" not in html
    assert html.count('src="data:image/png;base64,') == 2


def test_page_before_any_champion_and_without_times() -> None:
    """The first leaderboard may have BM25 alone: StrictUndefined or None must not fail the asset."""
    context = ReportContext(collection="x", split="dev", rows=[make_row("bm25", 0.4, None)], champion=None)
    html = render_report(context)
    assert "No champion yet" in html
    assert html.count("<figure") == 1


def test_a_champion_that_is_another_checkpoint_is_described_and_marks_nothing() -> None:
    """After "kept" or a roll back the leaderboard has a newer student of the champion's name: its numbers are not the champion's."""
    html = render_report(replace(make_full_context(), contests=[], champion=replace(CHAMPION, model_fingerprint=OLDER)))
    before_charts = html[html.index("<main>") : html.index("<img")]
    assert "checkpoint 12345678 of margin_mse: nDCG@10 0.567 on dev" in before_charts
    assert "since 2025-03-01 09:30 UTC" in before_charts
    assert "margin_mse is another student: checkpoint abcdef01" in before_charts
    assert "0.550" not in before_charts and "faster" not in before_charts
    assert '<th scope="row">margin_mse</th><td>0.550</td>' in html
    assert 'class="champion"' not in html and '<span class="tag">champion' not in html


def test_the_champions_row_is_marked() -> None:
    """One mark on the leaderboard and one among the agreements: a page without any could not say which row search uses."""
    html = render_report(make_full_context())
    assert html.count('<tr class="champion"><th scope="row">margin_mse') == 2
    assert "not on this leaderboard" not in html


def test_newest_decision_comes_first() -> None:
    """The history is append only, so its last row is what holds now."""
    entry = {"model_fingerprint": OLDER, "verdict": "promoted", "reason": "r", "dev_ndcg_at_10": 0.5, "p_value": 0.01}
    history = [
        {**entry, "recipe": "older_recipe", "decided_at": datetime(2025, 1, 1)},
        {**entry, "recipe": "newer_recipe", "decided_at": datetime(2025, 2, 1)},
    ]
    html = render_report(replace(make_context(), champion_history=history))
    assert html.index("newer_recipe") < html.index("older_recipe")


def test_equal_contexts_give_equal_pages() -> None:
    """A clock in the page would make it differ on every materialisation."""
    assert render_report(make_context()) == render_report(make_context())


def test_write_creates_the_folder_and_leaves_one_file(tmp_path: Path) -> None:
    """A temporary file that stays behind is served and kept for ever."""
    path = tmp_path / "report" / "index.html"
    write_report(path, make_context())
    write_report(path, make_context(0.58))
    assert "0.580" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]


def test_failed_render_keeps_the_old_report(tmp_path: Path) -> None:
    """Opening the target before rendering would leave an empty page after an error."""
    path = tmp_path / "index.html"
    write_report(path, make_context())
    before = path.read_bytes()
    with pytest.raises(ShapeError, match="rows is empty"):
        write_report(path, replace(make_context(), rows=[]))
    assert path.read_bytes() == before


def test_failed_write_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk shows in the middle of writing: the page must still be the old one and the temporary file gone."""
    path = tmp_path / "index.html"
    write_report(path, make_context())
    before = path.read_bytes()

    def fail(half_written: Path, text: str, encoding: str) -> None:
        half_written.write_bytes(text[: len(text) // 2].encode(encoding))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(path, make_context(0.58))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("student_ms", "said"), [(6.0, "50x faster"), (100.0, "3.0x faster"), (600.0, "2.0x slower")])
def test_speed_is_the_ratio_of_medians(student_ms: float, said: str) -> None:
    """300 ms against each; a ratio the wrong way round would call the slower one faster."""
    assert describe_speed(make_row("s", 0.5, student_ms), make_row("teacher", 0.6, 300.0)) == said


def test_speed_is_left_open_without_both_times() -> None:
    """A missing time must not become a division by zero or a made-up ratio."""
    assert describe_speed(make_row("s", 0.5, None), make_row("teacher", 0.6, 300.0)) == "-"
    assert describe_speed(make_row("s", 0.5, 0.0), make_row("teacher", 0.6, 300.0)) == "-"
    assert describe_speed(None, None) == "-"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.42, "0.4 s"), (12.3, "12 s"), (59.7, "1 min 0 s"), (125, "2 min 5 s"), (3725, "1 h 2 min")]
)
def test_seconds_are_written_in_two_units(seconds: float, said: str) -> None:
    """59.7 s must not print as 60 s."""
    assert format_seconds(seconds) == said
