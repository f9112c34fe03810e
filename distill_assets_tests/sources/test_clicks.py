"""Clicks: which become positives, and that none reaches dev or test."""

from pathlib import Path

import pytest

from distill_assets.errors import MalformedRecordError
from distill_assets.records import Qrel, hash_text
from distill_assets.sources.base import DEFAULT_RULES, AskedQuery, Parts, collect
from distill_assets.sources.beir import BeirSource
from distill_assets.sources.clicks import parts_of_clicks
from distill_assets_tests.sources.test_beir import write_batch

PARTS = Parts(queries=[AskedQuery("q1", "Sort  a list"), AskedQuery("q2", "join"), AskedQuery("q3", "join ")])


def row(query: str, doc_id: str, shown: object, clicked: object, query_id: str = "") -> dict[str, object]:
    """One row."""
    return {"query_id": query_id, "query": query, "doc_id": doc_id, "shown": shown, "clicked": clicked}


def clicked(*rows: dict[str, object], parts: Parts = PARTS) -> Parts:
    """The parts with these rows."""
    return parts_of_clicks([(f"clicks.csv, row {number}", found) for number, found in enumerate(rows, start=2)], parts)


def test_clicks_at_half_of_the_best_rate_are_positives() -> None:
    """Rates with 10 more shown: a 200/1010 = 0.198, b 1/11 = 0.091, c 10/100 = 0.1, d 0. Half of the best is 0.099."""
    parts = clicked(
        row("", "a", 1000, 200, "q1"),
        row("", "b", 1, 1, "q1"),
        row("", "c", 40, 4, "q1"),
        row("", "c", "50", "6.0", "q1"),  # counts add up
        row("", "d", 500, 0, "q1"),
    )
    assert parts.qrels == [Qrel("q1", "a", 1), Qrel("q1", "c", 1)]
    assert parts.train_only == {"q1"} and parts.queries == PARTS.queries


def test_a_query_is_found_by_its_text_and_a_new_one_is_made_once() -> None:
    """Under another id the same question would be a query of its own, and stand in two splits."""
    parts = clicked(
        row("SORT a list", "a", 9, 3), row("new", "b", 9, 3), row(" New", "c", 9, 3, "n9"), row("join", "a", 9, 3, "q2")
    )
    assert parts.queries == [*PARTS.queries, AskedQuery(hash_text("new"), "new")]
    assert set(parts.qrels) == {
        Qrel("q1", "a", 1),
        Qrel(hash_text("new"), "b", 1),
        Qrel(hash_text("new"), "c", 1),
        Qrel("q2", "a", 1),
    }
    assert parts.train_only == {"q1", "q2", "q3", hash_text("new")}, "the twin q3 must not be tested"


def test_a_query_that_nobody_clicked_on_brings_no_positive() -> None:
    """Half of a best rate of 0 is 0: every document that was shown would be one."""
    assert clicked(row("", "a", 9, 0, "q1"), row("", "b", 5, 0, "q1")).qrels == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (row("", "a", 3, 4, "q1"), r"clicks\.csv, row 3: 'a' was shown 3 times and clicked 4 times"),
        (row("", "a", 3, -1, "q1"), r"row 3: .*clicked -1 times"),
        (row("", "a", 0, 0, "q1"), r"row 3: .*shown 0 times"),
        (row("", "a", None, 1, "q1"), r"row 3: expected query or query_id, doc_id, and whole numbers under shown"),
        (row("", "a", "2.5", 1, "q1"), r"row 3: expected query .*'2\.5'"),
        (row("", "", 3, 1, "q1"), r"row 3: expected query"),
        (row("", "a", 3, 1), r"row 3: expected query"),
        (row("", "a", 3, 1, "q99"), r"row 3: the query 'q99' is not among those of this batch; .*add the text"),
    ],
)
def test_a_wrong_row_is_named(bad: dict[str, object], error: str) -> None:
    """A click on a document that was not shown is a join gone wrong; taken as rate 1, it would be the best positive."""
    with pytest.raises(MalformedRecordError, match=error):
        clicked(row("join", "a", 9, 3), bad)


def test_clicks_reach_neither_dev_nor_test_under_any_id(tmp_path: Path) -> None:
    """A clicked document graded 1 in test would reward what stood on top; the tested question under another id would be trained on."""
    folder = write_batch(
        tmp_path / "b",
        {"d1": "one", "d2": "two"},
        {
            "t": "What is tested?",
            "t2": "what is  TESTED?",
            "6": "6",
            "11": "11",
        },  # 6 and 11 fall in test and dev by hash
        train="11 d1 1\n",
        test="t d1 1\n",
    )
    before = BeirSource(folder).read("b")
    assert {query.query_id: query.split for query in before.queries}["6"] == "test"
    rows = [
        "t,,d2,9,9",
        "t2,,d2,9,9",
        ",WHAT is tested?,d2,9,9",
        "new,what is tested?,d2,9,9",
        "6,,d2,9,9",
        ",other,d2,9,9",
    ]
    (folder / "clicks.csv").write_text("query_id,query,doc_id,shown,clicked\n" + "\n".join(rows), encoding="utf-8")
    found = BeirSource(folder).read("b")
    splits = {query.query_id: query.split for query in found.queries}
    assert splits == {query.query_id: query.split for query in before.queries} | {
        "6": "train",
        hash_text("other"): "train",
    }
    by_clicks = {qrel for qrel in found.qrels if qrel.doc_id == "d2"}
    assert by_clicks == {Qrel("6", "d2", 1), Qrel(hash_text("other"), "d2", 1)}
    assert {qrel for qrel in found.qrels if qrel.doc_id == "d1"} == {Qrel("11", "d1", 1), Qrel("t", "d1", 1)}


def test_judgements_of_people_hold_against_clicks() -> None:
    """A judged query with clicks beside would train on grades that nobody gave."""
    judged = Parts(queries=PARTS.queries, qrels=[Qrel("q3", "a", 0)], judged=[("train", {"q3"})])
    parts = clicked(row("join", "b", 9, 9), row("sort a list", "b", 9, 9), parts=judged)
    assert parts.qrels == [Qrel("q3", "a", 0), Qrel("q1", "b", 1)] and parts.train_only == {"q1"}


def test_queries_of_clicks_alone_all_train() -> None:
    """The hash split would put a tenth of them into test, judged by clicks."""
    parts = clicked(*(row(f"query {n}", "d1", 9, 3) for n in range(50)), parts=Parts())
    assert {query.split for query in collect(parts, "b", DEFAULT_RULES, where="b").queries} == {"train"}


def test_clicks_change_the_fingerprint_of_their_folder(tmp_path: Path) -> None:
    """New clicks would never be read."""
    folder = write_batch(tmp_path / "b", {"d1": "one"}, {"1": "what"}, train="1 d1 1\n")
    before = BeirSource(folder).fingerprint("b")
    (folder / "clicks.jsonl").write_text('{"query": "x", "doc_id": "d1", "shown": 3, "clicked": 1}\n', encoding="utf-8")
    assert BeirSource(folder).fingerprint("b") != before and not BeirSource(folder).read("b").unread
