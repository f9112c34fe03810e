"""What a run comes to, in words."""

from dataclasses import replace
from datetime import datetime

import pytest

from distill_assets.evaluation.comparison import compare_teacher
from distill_assets.evaluation.leaderboard import Champion, LeaderboardRow
from distill_assets.report.conclusion import TrainingData, conclude

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


def test_a_teacher_that_is_not_above_the_untouched_student_is_a_reason() -> None:
    """The students were taught by a model that knows no more than they did."""
    weak = told("untouched_student", dev={"teacher": 0.5, "untouched_student": 0.5})
    assert "the teacher is not above the untouched student" in weak
    strong = told("untouched_student", dev={"teacher": 0.7, "untouched_student": 0.5})
    assert "the teacher is not above" not in strong


def test_what_needs_no_training_is_named_where_it_is_ahead() -> None:
    """On SciFact BM25 is ahead of the untouched student: a user who looks at bi-encoders alone would ship the worse search."""
    both = told("kl", row("kl", 0.6, 0.001), row("bm25", 0.65), row("hybrid", 0.7), row("teacher", 0.9))
    assert both.endswith(
        "hybrid (0.700) and bm25 (0.650) are ahead of every bi-encoder (best: kl, 0.600) and need no training."
    )
    one = told("kl", row("kl", 0.6, 0.001), row("bm25", 0.55), row("hybrid", 0.7))
    assert one.endswith("hybrid (0.700) is ahead of every bi-encoder (best: kl, 0.600) and needs no training.")
    assert "ahead" not in told("kl", row("kl", 0.6, 0.001), row("bm25", 0.6), row("hybrid", 0.5))


def test_nothing_is_said_before_the_first_decision() -> None:
    """Without a champion, or without its row, no sentence can be true."""
    assert conclude([row("untouched_student", 0.5)], None, "", DATA, None) == []
    assert told("of an older run", row("kl", 0.4, 0.5)) == ""
