"""The report page: what it says, what it escapes, and how it is written."""

import itertools
import re
from collections import Counter
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from distill_assets.errors import ShapeError
from distill_assets.evaluation.comparison import TeacherComparison, compare_teacher
from distill_assets.evaluation.groups import GroupTable
from distill_assets.evaluation.leaderboard import Champion
from distill_assets.report import charts
from distill_assets.report.page import Page, describe_cost, describe_speed, format_seconds, render_page
from distill_assets_tests.report.test_charts import make_row

HOSTILE = '<script>alert("x")</script>'
FINGERPRINT, OLDER = "abcdef01" * 8, "12345678" * 8
CHAMPION = Champion(
    recipe="margin_mse", model_fingerprint=FINGERPRINT, dev_ndcg_at_10=0.567, decided_at=datetime(2025, 3, 1, 9, 30)
)
DECISION: dict[str, Any] = {
    "decided_at": datetime(2025, 1, 1, 12, 0),
    "recipe": "margin_mse",
    "model_fingerprint": OLDER,
    "verdict": "kept",
    "reason": "r",
    "dev_ndcg_at_10": 0.5,
    "p_value": None,
}
REAL_CHART = charts.leaderboard_chart


@pytest.fixture(autouse=True)
def _draw_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is the only slow part of a page: these two charts are on every one of them."""
    for name in ("leaderboard_chart", "quality_latency_chart"):
        monkeypatch.setattr(charts, name, lambda rows, marked: b"png")


def judge(teacher: float, student: str = "margin_mse") -> TeacherComparison | None:
    """A teacher on 20 dev queries, against a student that has 0.5 on each."""
    queries = [f"q{number}" for number in range(20)]
    return compare_teacher({"teacher": dict.fromkeys(queries, teacher), student: dict.fromkeys(queries, 0.5)})


def make_page(**changes: Any) -> Page:
    """Untouched student 0.50, teacher 0.60, one recipe 0.55."""
    rows = [
        make_row("bm25", 0.37, 1.0),
        make_row("untouched_student", 0.50, 5.0),
        make_row("teacher", 0.60, 300.0),
        replace(make_row("margin_mse", 0.55, 6.0), gap_closed=0.5, model_fingerprint=FINGERPRINT),
    ]
    return replace(Page(collection="python_api", rows=rows, champion=CHAMPION), **changes)


def make_full_page(text: str = "some text", **changes: Any) -> Page:
    """Everything that the page can show; every text that comes from outside is `text`."""
    base = make_page()
    rows = [replace(row, p_vs_untouched=0.01 if row.system == "margin_mse" else None) for row in base.rows]
    example = {
        "query": text,
        "difference": 0.57,
        "ndcg_at_10": 1.0,
        "baseline_ndcg_at_10": 0.43,
        "relevant": [text],
        "sides": [
            {"system": "margin_mse", "rank": 1, "found": [text, "another document"]},
            {"system": "untouched_student", "rank": None, "found": ["another document"]},
        ],
    }
    contest = {"system": "margin_mse", "baseline": "untouched_student", "differences": [0.57], "examples": [example]}
    full = replace(
        base,
        rows=[*rows, replace(make_row("hard_labels", 0.54, 6.0), gap_closed=0.4, p_vs_untouched=0.2)],
        teacher_comparison=judge(0.4, student=text),
        ways={
            "hard_labels": {"title": "Fine-tuning: hard_labels", "Training signal": text},
            "margin_mse": {"title": "Distillation: margin_mse", "Training signal": text},
        },
        contests=[contest],
        agreement=[{"system": "margin_mse", "kendall_tau": 0.71, "overlap_at_10": 0.8, "num_queries": 500}],
        groups=[GroupTable("source", [["system", text], ["margin_mse", "0.550"], ["bm25", "few"]], 3)],
        logits=([1.0, 2.0], [-1.0, 0.0]),
        curves={"margin_mse": ([(1, 0.5)], [(1, 0.6)])},
        steps=[("corpus", 1.0)],
        facts={"teacher": text},
        history=[{**DECISION, "reason": text}],
    )
    return replace(full, **changes)


def test_every_section_is_there_in_its_order_and_well_formed() -> None:
    """A section that a renamed field empties, or a tag left open, changes nothing that another test would see.

    Headings step down one level at a time and pictures have descriptions: a screen reader walks by them.
    """
    html = render_page(make_full_page())
    opened = Counter(re.findall(r"<([a-z]\w*)", html))
    closed = Counter(re.findall(r"</([a-z]\w*)>", html))
    assert opened - closed == {tag: opened[tag] for tag in ("meta", "img", "br")}
    assert not re.search(r'<th(?! scope=)\b|alt=""', html)
    headings = re.findall(r'<h([1-4])(?: id="(\w+)")?', html)
    ids = [key for level, key in headings if level == "2"]
    assert ids == ["ways", "leaderboard", "groups", "queries", "agreement", "training", "history", "time", "facts"]
    assert headings[0][0] == "1" and all(int(b) <= int(a) + 1 for (a, _), (b, _) in itertools.pairwise(headings))
    assert html.count('src="data:image/png;base64,') == html.count("<figure") == html.count(' alt="') == 6


def test_fine_tuning_against_distillation_in_numbers() -> None:
    """A number in the column of the other recipe would turn the comparison round: here 0.54 and 0.55, untouched 0.50."""
    html = render_page(make_full_page())
    section = html[html.index('id="ways"') : html.index('id="leaderboard"')]
    assert '<th scope="col">Fine-tuning: hard_labels</th><th scope="col">Distillation: margin_mse</th>' in section
    assert "<td>0.540</td><td>0.550</td>" in section
    assert "<td>+0.040\u2007</td><td>+0.050†</td>" in section  # a figure space in place of the mark of significance


def test_groups_are_shown_with_those_that_are_left_out() -> None:
    """A table without its missing columns reads as if these were all groups."""
    html = render_page(make_full_page("faq: 20 queries"))
    section = html[html.index('id="groups"') : html.index('id="queries"')]
    assert '<h3 id="groups-source">source</h3>' in section and '<th scope="col">faq: 20 queries</th>' in section
    assert "3 smaller groups are not shown." in section and "<td>few</td>" in section


def test_costs_in_pairs_and_seconds() -> None:
    """2,400 pairs in 60 s are 40 a second. Scores of an older file have no times: `0 pairs in 0 s` would call a teacher free."""
    cost = {"num_pairs": 2400, "seconds": 60.0, "evaluation_pairs": 500, "evaluation_seconds": 12.0}
    told = describe_cost(3000, **cost)  # type: ignore[arg-type]
    assert (
        told == "2,400 pairs scored in 1 min 0 s (40.0 pairs/s); evaluating the teacher took another 500 pairs and 12 s"
    )
    unknown = describe_cost(3000, **dict.fromkeys(cost, 0))  # type: ignore[arg-type]
    assert unknown == "3,000 pairs, scored before times were recorded"


def test_wins_show_what_was_found_and_what_was_judged() -> None:
    """The judged document among those found is marked: only then a reader sees why a query was won."""
    html = render_page(make_full_page())
    section = html[html.index('id="queries"') : html.index('id="agreement"')]
    assert "win: nDCG@10 0.430 → 1.000" in section
    assert "rank 1" in section and "not in the first 100" in section
    assert section.count('<li class="relevant">') == 1
    assert "another document</li>" in section


def test_an_unfit_teacher_is_a_finding_and_a_fit_one_a_note() -> None:
    """A warning that is always there is read by nobody."""
    assert "Finding: the teacher is not fit to teach" in render_page(make_full_page())
    html = render_page(make_full_page(teacher_comparison=judge(0.6)))
    assert 'class="card finding"' not in html
    assert "The teacher is fit to teach: on 20 dev queries" in html


def test_no_number_is_printed_that_is_none() -> None:
    """`None` or `nan` in a table looks like a measurement that went wrong, and sorts above real ones."""
    bare = make_full_page(
        rows=[make_row("margin_mse", 0.5, None), make_row("hard_labels", 0.5, None)],
        agreement=[{"system": "a", "kendall_tau": None, "overlap_at_10": 0.5, "num_queries": 1}],
        logits=((), (1.0,)),
    )
    for page in (make_full_page(), bare):
        text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", render_page(page), flags=re.S)
        assert not re.search(r"\b(nan|inf|None)\b", text)


def test_first_screen_says_what_how_good_and_how_fast() -> None:
    """The page opens before the tables: 300 ms / 6 ms = 50, gap closed 50 %, interval 0.530 to 0.570."""
    html = render_page(make_page())
    first_screen = html[html.index("<main>") : html.index("Leaderboard</h2>")]
    for expected in ("python_api", "margin_mse", "0.550", "0.530 to 0.570", "50 %", "50x faster", "500 test queries"):
        assert expected in first_screen, expected


def test_hostile_texts_are_escaped_everywhere() -> None:
    """Queries come from logs and documents from anyone: one unescaped text runs in the reader's browser."""
    champion = replace(CHAMPION, recipe=HOSTILE, model_fingerprint=HOSTILE)
    page = make_full_page(
        HOSTILE, collection=HOSTILE, champion=champion, facts={HOSTILE: HOSTILE}, steps=[(HOSTILE, 1.0)]
    )
    html = render_page(page)
    assert "<script" not in html
    escaped = "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;"
    assert html.count(escaped) >= 15
    assert f"<h4>{escaped}" in html  # the query itself is shown as it was typed


def test_page_is_self_contained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A style sheet or picture from elsewhere is missing when the page is mailed, and tells others that it was read."""
    monkeypatch.setattr(charts, "leaderboard_chart", REAL_CHART)
    html = render_page(make_full_page())
    assert not re.search(r"https?://|<link|@import|url\(", html)
    assert "default-src 'none'" in html


def test_page_before_any_champion_and_without_times() -> None:
    """The first leaderboard may have BM25 alone: StrictUndefined or None must not fail the asset. None without any row."""
    html = render_page(Page(collection="x", rows=[make_row("bm25", 0.4, None)], champion=None))
    assert "No champion yet" in html
    assert html.count("<figure") == 1
    with pytest.raises(ShapeError, match="rows is empty"):
        render_page(make_page(rows=[]))


def test_a_champion_that_is_another_checkpoint_is_described_and_marks_nothing() -> None:
    """After "kept" or a roll back the leaderboard has a newer student of the champion's name: its numbers are not the champion's."""
    html = render_page(make_full_page(contests=[], champion=replace(CHAMPION, model_fingerprint=OLDER)))
    before_charts = html[html.index("<main>") : html.index("<img")]
    assert "checkpoint 12345678 of margin_mse: nDCG@10 0.567 on dev" in before_charts
    assert "since 2025-03-01 09:30 UTC" in before_charts
    assert "margin_mse is another student: checkpoint abcdef01" in before_charts
    assert "0.550" not in before_charts and "faster" not in before_charts
    assert '<th scope="row">margin_mse</th><td>0.550</td>' in html
    assert 'class="champion"' not in html and '<span class="tag">champion' not in html


def test_the_champions_row_is_marked() -> None:
    """One mark on the leaderboard and one among the agreements: a page without any could not say which row search uses."""
    html = render_page(make_full_page())
    assert html.count('<tr class="champion"><th scope="row">margin_mse') == 3
    assert "not on this leaderboard" not in html


def test_newest_decision_comes_first() -> None:
    """The history is append only, so its last row is what holds now."""
    html = render_page(make_page(history=[DECISION | {"recipe": "older"}, DECISION | {"recipe": "newer"}]))
    assert html.index("<td>newer</td>") < html.index("<td>older</td>")


@pytest.mark.parametrize(
    ("student_ms", "said"),
    [(6.0, "50x faster"), (100.0, "3.0x faster"), (600.0, "2.0x slower"), (None, "-"), (0.0, "-")],
)
def test_speed_is_the_ratio_of_medians(student_ms: float | None, said: str) -> None:
    """300 ms against each; a ratio the wrong way round would call the slower one faster, a missing time divide by zero."""
    assert describe_speed(make_row("s", 0.5, student_ms), make_row("teacher", 0.6, 300.0)) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.42, "0.4 s"), (12.3, "12 s"), (59.7, "1 min 0 s"), (125, "2 min 5 s"), (3725, "1 h 2 min")]
)
def test_seconds_are_written_in_two_units(seconds: float, said: str) -> None:
    """59.7 s must not print as 60 s."""
    assert format_seconds(seconds) == said
