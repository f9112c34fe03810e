"""What a run comes to, in words."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from distill_assets.evaluation.comparison import Comparison, compare_teacher
from distill_assets.evaluation.judging import Answer as PageAnswer
from distill_assets.evaluation.judging import summarise_answers
from distill_assets.evaluation.leaderboard import Champion, LeaderboardRow
from distill_assets.evaluation.ways import Answer, Rival
from distill_assets.report.conclusion import TrainingData, conclude, tell_judgements

DATA = TrainingData(num_train_queries=800, num_dev_queries=400, share_found=0.9, area_under_curve=0.7)


def row(system: str, ndcg_at_10: float, p_vs_untouched: float | None = None) -> LeaderboardRow:
    """A row whose model is named after its system."""
    return LeaderboardRow(
        system=system,
        ndcg_at_10=ndcg_at_10,
        ndcg_at_10_low=ndcg_at_10 - 0.02,
        ndcg_at_10_high=ndcg_at_10 + 0.02,
        mrr_at_10=0.5,
        recall_at_100=0.9,
        map=0.4,
        num_queries=300,
        model_fingerprint=system,
        p_vs_untouched=p_vs_untouched,
    )


def told(champion: str, *rows: LeaderboardRow, data: TrainingData = DATA, dev: dict[str, float] | None = None) -> str:
    """The sentences; `dev` are nDCG@10 of teacher and students, the same on each of 40 queries but for a little noise."""
    uses = Champion(recipe=champion, model_fingerprint=champion, dev_ndcg_at_10=0.5, decided_at=datetime(2026, 1, 1))
    values = {s: {f"q{i}": v + 0.001 * (i % 7) for i in range(40)} for s, v in (dev or {}).items()}
    teacher = compare_teacher(values)
    return " ".join(conclude([row("untouched_student", 0.5), *rows], uses, "the gate's reason.", data, teacher))


def test_a_champion_that_is_significantly_better_is_called_so() -> None:
    """Where training helped, the first thing that a user reads is by how much, against what he had before."""
    assert told("kl", row("kl", 0.6, 0.001)) == (
        "Training helped: kl, which search uses, is significantly better than the untouched student: nDCG@10 on test 0.600 against "
        "0.500."
    )


def test_better_is_said_only_where_it_is_significant() -> None:
    """A difference that chance gives as well must not be sold as a gain; one that harms must be named."""
    unclear = told("kl", row("kl", 0.51, 0.4))
    assert unclear.startswith(
        "Search uses kl, which was better than the untouched student on dev. On test the difference (+0.010)"
    )
    assert "helped" not in unclear and "is not significant" in unclear
    worse = told("kl", row("kl", 0.4, 0.001))
    assert "significantly worse than the untouched student on test: nDCG@10 on test 0.400 against 0.500" in worse
    assert "distill-assets rollback" in worse


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "the untouched student may know already what the labels say"),
        ({"share_found": 0.32}, "search finds 32% of the judged documents"),
        ({"area_under_curve": 0.19}, "more similar to its query than a hard negative in 19% of the cases"),
        ({"num_dev_queries": 60}, "with 60 dev queries small gains cannot be shown"),
        ({"num_train_queries": 128}, "there are 128 train queries only"),
        ({"share_found": None, "area_under_curve": None}, "the untouched student may know already"),
    ],
)
def test_an_untouched_champion_comes_with_the_probable_reason(changes: dict[str, float], reason: str) -> None:
    """The words "nothing was promoted" alone leave a user with nothing to try."""
    found = told("untouched_student", row("kl", 0.49, 0.3), data=replace(DATA, **changes))  # type: ignore[arg-type]
    assert found.startswith(
        "Training was not shown to help on these documents: search uses the untouched student. The gate says: the gate's reason."
    )
    assert f"Why, probably: {reason}" in found or f"; {reason}" in found or reason in found
    assert ("may know already" in found) is ("may know already" in reason)


def test_a_champion_that_waits_for_people_is_not_called_a_failure() -> None:
    """The gate holds back what the teacher alone judged: "training did not help, the teacher is weak" is not what happened."""
    judged = replace(row("untouched_student", 0.5), judged_by="teacher")
    uses = Champion(
        recipe="untouched_student",
        model_fingerprint="untouched_student",
        dev_ndcg_at_10=0.5,
        decided_at=datetime(2026, 1, 1),
    )
    data = replace(DATA, dev_judge="teacher")
    found = conclude([judged], uses, "kl is not promoted: no person judged.", data, None)
    assert found == ["Search uses the untouched student. The gate says: kl is not promoted: no person judged."]


def test_a_teacher_that_is_not_above_the_untouched_student_is_a_reason() -> None:
    """The students were taught by a model that knows no more than they did."""
    weak = told("untouched_student", dev={"teacher": 0.5, "untouched_student": 0.5})
    assert "the teacher is not above the untouched student" in weak
    strong = told("untouched_student", dev={"teacher": 0.7, "untouched_student": 0.5})
    assert "the teacher is not above" not in strong


def answer(*rivals: tuple[str, str, float, float], **changes: Any) -> Answer:
    """`kl` leads with 0.600 on 300 queries; a rival is (way, system, the leader's lead, p). Intervals are 0.02 to either side."""
    found = [
        Rival(
            way=way,
            system=system,
            comparison=Comparison(difference=lead, p_value=p, p_holm=p, detectable=0.03),
            low=lead - 0.02,
            high=lead + 0.02,
        )
        for way, system, lead, p in rivals
    ]
    leads = {"way": "distillation", "leader": "kl", "mean": 0.6, "needs_training": True, "num_queries": 300}
    return Answer(**{**leads, "rivals": found, "baselines": {}, "is_chosen_apart": True, **changes})  # type: ignore[arg-type]


def last(found: Answer, split: str = "test") -> list[str]:
    """The sentences after the one on the champion."""
    uses = Champion(recipe="kl", model_fingerprint="kl", dev_ndcg_at_10=0.5, decided_at=datetime(2026, 1, 1))
    rows = [replace(row(*each), split=split) for each in (("untouched_student", 0.5), ("kl", 0.6, 0.001))]
    return conclude(rows, uses, "", DATA, None, found)[1:]


def test_the_answer_says_who_is_ahead_by_how_much_and_what_cannot_be_told() -> None:
    """A "best" without its test sells chance; a difference that is not visible must come with what would be."""
    found = answer(
        ("untouched model", "bge-small", 0.04, 0.003),
        ("BM25", "bm25", 0.2, 0.0001),
        ("hard labels", "hard_labels", 0.01, 0.4),
        ("hybrid", "hybrid:kl", -0.05, 0.002),
    )
    assert " ".join(last(found)).split(". ") == [
        "Best of all ways on dev: distillation (kl), which needs training; nDCG@10 0.600 on 300 test queries",
        "There it is significantly ahead of: untouched model (bge-small: +0.040, 95 % interval 0.020 to 0.060, p 0.003); BM25 (bm25: "
        "+0.200, 95 % interval 0.180 to 0.220, p < 0.001)",
        "There it is significantly behind: hybrid (hybrid:kl: -0.050, 95 % interval -0.070 to -0.030, p 0.002)",
        "These queries cannot tell it from: hard labels (hard_labels: +0.010, 95 % interval -0.010 to 0.030, p 0.400)",
        "They show differences of 0.030 or more",
        "Each way is its best system on dev; test chose nothing",
        "p is Holm-corrected over the 4 ways.",
    ]


def test_the_answer_for_a_leader_without_training() -> None:
    """On SciFact BM25 is ahead of the untouched student: a team that is not told trains for nothing."""
    led = {"way": "BM25", "leader": "bm25", "needs_training": False}
    (told,) = last(answer(("distillation", "kl", 0.01, 0.5), **led))
    assert told.startswith("Best of all ways on dev: BM25 (bm25), which needs no training; ")
    assert "ahead" not in told and "behind" not in told and "cannot tell it from: distillation (kl: +0.010" in told


def test_the_answer_says_where_the_same_queries_chose() -> None:
    """A collection without test queries chooses and tests on dev: the lead is too large, and the page must not call it planned."""
    (told,) = last(answer(("BM25", "bm25", 0.1, 0.01), is_chosen_apart=False), "dev")
    assert told.startswith("Best of all ways on these same queries: ") and "on 300 dev queries" in told
    assert told.endswith("Nothing else was there to choose on, so the lead looks larger than it is.")


def test_few_queries_choose_no_way() -> None:
    """12 queries have a best system as well, and it says nothing."""
    assert last(answer(num_queries=12)) == [
        "12 test queries are too few to say which way is best: 20 are the least, 200 are usual."
    ]


def test_a_baseline_ahead_of_the_champion_is_named_with_its_test() -> None:
    """It is never champion, so nothing else would say that search could be better for nothing."""
    against = {
        "bge": Comparison(difference=0.04, p_value=0.001, p_holm=0.002, detectable=0.03),
        "e5": Comparison(difference=0.01, p_value=0.4, p_holm=0.4, detectable=0.03),
        "gte": Comparison(difference=-0.2, p_value=0.001, p_holm=0.002, detectable=0.03),
    }
    assert last(answer(num_queries=300, baselines=against))[:-1] == [
        "The baseline bge is significantly ahead of the champion on test, by 0.040 (p 0.002, Holm over 3).",
        "The baseline e5 is above the champion on test, by 0.010, which may be chance (p 0.400, Holm over 3).",
    ]


def test_nothing_is_said_before_the_first_decision() -> None:
    """Without a champion, or without its row, no sentence can be true."""
    assert conclude([row("untouched_student", 0.5)], None, "", DATA, None) == []
    assert told("of an older run", row("kl", 0.4, 0.5)) == ""


def test_a_leaderboard_says_how_many_judgements_of_people_decide() -> None:
    """Twelve queries that one person judged in an hour look, in a table of three digits, like three hundred."""
    judged = summarise_answers("test", [PageAnswer("q1", "d1", 1, "ann", datetime(2026, 11, 2))])
    rows = [
        replace(row("kl", 0.6), detectable_vs_untouched=0.08),
        replace(row("margin_mse", 0.6), detectable_vs_untouched=0.11),
    ]
    assert tell_judgements(judged, [row("untouched_student", 0.5), *rows]) == [
        "On the page people judged 1 pairs of 1 test query: ann 1 (2026-11-02).",
        "300 test queries with a relevant document decide this leaderboard. Four times out of five they find a true difference of "
        "0.110 from the untouched one.",
    ]
    assert tell_judgements(judged, [row("kl", 0.6)])[1].endswith("decide this leaderboard: below 20 nothing is tested.")
    assert tell_judgements(summarise_answers("test", []), rows) == []
    assert tell_judgements(judged, [replace(row("kl", 0.6), judged_by="teacher")])[1].startswith(
        "From 20 judged queries"
    )
