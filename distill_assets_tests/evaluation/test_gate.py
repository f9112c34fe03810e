"""The gate: what it lets through, what it stops, and what it says."""

import numpy as np
import numpy.typing as npt
import pytest

from distill_assets.errors import NonFiniteError, PromotionError
from distill_assets.evaluation.gate import Decision, choose_candidate, decide_promotion, held_back
from distill_assets.records import UNTOUCHED_STUDENT

Scores = dict[str, float]


def by_query(values: npt.ArrayLike) -> Scores:
    """Per-query nDCG@10 by query_id."""
    return {f"q{i}": float(value) for i, value in enumerate(np.asarray(values))}


def shifted(scores: Scores, by: float) -> Scores:
    """The same queries, each better by `by`."""
    return {query_id: value + by for query_id, value in scores.items()}


def decide(
    candidates: dict[str, Scores],
    present: Scores,
    best: Scores | None = None,
    *,
    untouched: Scores | None = None,
    margin: float = 0.01,
    alpha: float = 0.05,
) -> Decision:
    """The gate with the settings' defaults; the untouched student is far below everybody unless given."""
    below = dict.fromkeys(present, 0.0) if untouched is None else untouched
    return decide_promotion(candidates, below, present, best, margin=margin, alpha=alpha)


def test_the_untouched_student_gives_way_only_to_what_is_better() -> None:
    """Without it every first student became champion, however much training had harmed it.

    Six queries, each 0.5 better: the most likely student that is no better has 2/3 of such queries, so p = (2 / 3) ** 6 = 0.0878.
    """
    untouched = by_query([0.25] * 6)
    better = decide_promotion({"kl": shifted(untouched, 0.5)}, untouched, margin=0.01, alpha=0.1)
    assert better.promote and better.p_value == pytest.approx((2 / 3) ** 6)
    assert better.reason == (
        "kl is promoted: better than the untouched student (+0.5000, p = 0.0878). Differences are in dev nDCG@10, p at most 0.1 is "
        "asked for. Dev queries: 6; students to choose from: 1."
    )
    for gain in (0.0, -0.1):
        found = decide_promotion({"kl": shifted(untouched, gain)}, untouched, margin=0.2, alpha=0.05)
        assert (found.promote, found.p_value) == (False, 1.0)
        assert "not shown to be better than the untouched student" in found.reason


@pytest.mark.parametrize("num_candidates", [1, 3, 10])
def test_a_student_equal_to_the_untouched_one_is_promoted_at_the_stated_level(num_candidates: int) -> None:
    """The level is the promise "do no harm": 300 times 5 % is 15, and 26 is 3 standard deviations more.

    A tenth of 100 queries goes from rank 1 to rank 2 and as many the other way: truly equal.
    """
    rng, promoted = np.random.default_rng(num_candidates), 0
    for _ in range(300):
        first = rng.random((100, 1)) < 0.5
        moved = rng.random((100, num_candidates)) < 0.2
        untouched = np.where(first, 1.0, 0.63093)
        values = np.where(moved, np.where(first, 0.63093, 1.0), untouched)
        candidates = {f"r{j}": by_query(values[:, j]) for j in range(num_candidates)}
        promoted += decide_promotion(candidates, by_query(untouched[:, 0]), margin=0.01, alpha=0.05).promote
    assert promoted <= 26


def test_a_trained_champion_that_is_worse_than_the_untouched_student_gives_way_to_it() -> None:
    """A champion of an older version was promoted untested, or the documents changed: the harm must end by itself."""
    untouched, harmed = by_query([0.5] * 400), by_query([0.45] * 400)
    candidates = {"kl": by_query([0.4] * 400), "untouched_student": untouched}
    found = decide_promotion(candidates, untouched, harmed, margin=0.01, alpha=0.05)
    assert (found.candidate, found.promote) == ("untouched_student", True)
    assert "than the untouched student" not in found.reason, "it is not compared with itself"
    stays = decide_promotion(candidates, untouched, by_query([0.55] * 400), margin=0.01, alpha=0.05)
    assert (stays.candidate, stays.promote) == ("untouched_student", False)


def test_a_candidate_must_beat_the_untouched_student_and_match_the_champion() -> None:
    """Not worse than a champion that has become worse than the untouched student is not good enough."""
    untouched, champion = by_query([0.5] * 400), by_query([0.3] * 400)
    found = decide_promotion({"kl": by_query([0.5] * 400)}, untouched, champion, margin=0.01, alpha=0.05)
    assert not found.promote and found.reason.startswith(
        "kl is not promoted: not shown to be better than the untouched student ("
    )
    assert "a loss of 0.01 or more is ruled out against the present champion" in found.reason


def test_by_hand() -> None:
    """Six queries, each 0.5 better: the most likely loser has 0.66 of such queries, so p = 0.66 ** 6 = 0.0827.

    Of two recipes one was picked: 0.1653. Without the factor, noise of the luckier recipe would pass as quality.
    """
    champion = by_query([0.25] * 6)
    better = shifted(champion, 0.5)
    found = decide({"kl": better}, champion, alpha=0.1)
    assert found.promote
    assert found.p_value == pytest.approx(0.0827, abs=5e-5)
    assert found.reason == (
        "kl is promoted: better than the untouched student (+0.7500, p = 0.0348); a loss of 0.01 or more is ruled out against the "
        "present champion (+0.5000, p = 0.0827). Differences are in dev nDCG@10, p at most 0.1 is asked for. Dev queries: 6; students "
        "to choose from: 1."
    )
    of_two = decide({"kl": better, "hard": champion}, champion, alpha=0.1)
    assert not of_two.promote
    assert of_two.p_value == pytest.approx(0.1653, abs=5e-5)


def test_the_teacher_alone_promotes_nobody() -> None:
    """A student of a weak teacher ranks as it does: on SciFact it was better by the teacher and worse by people."""
    untouched = by_query([0.25] * 400)
    better = decide_promotion({"kl": shifted(untouched, 0.5)}, untouched, margin=0.01, alpha=0.05)
    found = held_back(better)
    assert better.promote and not found.promote and found.p_value == better.p_value
    assert (
        found.reason.startswith("kl is not promoted: no person judged the dev queries.")
        and "kl is promoted" not in found.reason
    )
    assert "it is better than the untouched student (+0.5000" in found.reason
    worse = decide_promotion({"kl": untouched}, shifted(untouched, 0.5), margin=0.01, alpha=0.05)
    assert held_back(worse) == worse
    trained = by_query([0.1] * 400)
    back = decide_promotion({UNTOUCHED_STUDENT: untouched}, untouched, trained, margin=0.01, alpha=0.05)
    assert held_back(back) == back and back.promote, "the model as it was published needs no proof"


def test_both_champions_are_matched_or_nothing_moves() -> None:
    """A candidate above the present champion may be far below the best one: small losses would add up unseen.

    50 queries, +0.5 against the present champion; against the best one -0.25. The larger p decides.
    """
    present, candidate, best = (by_query([value] * 50) for value in (0.0, 0.5, 0.75))
    found = decide({"kl": candidate}, present, best)
    assert (found.promote, found.p_value) == (False, 1.0)
    assert found.reason.startswith(
        "kl is not promoted: a loss of 0.01 or more is not ruled out against the best champion so far (-0.2500, p = 1.0000); better "
        "than the untouched student"
    )
    swapped = decide({"kl": candidate}, best, present)
    assert (swapped.promote, swapped.p_value) == (False, 1.0)
    assert "not ruled out against the present champion (" in swapped.reason
    passed = decide({"kl": best}, present, candidate)
    assert passed.promote
    assert "ruled out against the present champion (" in passed.reason
    assert "ruled out against the best champion so far (" in passed.reason


def test_so_few_queries_can_never_pass_and_the_reason_says_so() -> None:
    """Four queries from 0 to 1: p = 0.5 ** 4 = 0.0625 against the untouched student. Without the hint a user would train for ever."""
    four, five = (decide({"kl": by_query([1.0] * n)}, by_query([0.0] * n)) for n in (4, 5))
    assert (four.promote, five.promote) == (False, True)
    assert four.p_value == pytest.approx(0.0625, abs=5e-5)
    assert four.reason.endswith("No result on so few queries could pass.")
    assert "so few" not in five.reason


@pytest.mark.parametrize(
    ("gain", "promote"),
    [
        (0.05, True),  # better
        (0.0, True),  # the same on every query
        (-0.005, False),  # worse on every query by half the margin; 500 queries are too few to tell
        (-0.015, False),  # worse by more than the margin
    ],
)
def test_uniform_changes(gain: float, promote: bool) -> None:
    """A superiority test would stop an equal model, and fresh data would never move in."""
    champion = by_query(0.8 * np.random.default_rng(0).random(500) + 0.1)
    assert decide({"kl": shifted(champion, gain)}, champion).promote is promote


def losing_candidates(num_candidates: int, rng: np.random.Generator) -> tuple[dict[str, Scores], Scores]:
    """50 queries of a champion, and candidates that are truly 0.01 worse, with mostly equal queries and rare large losses.

    The champion has the relevant document at rank 1 or 3 (nDCG 1 or 0.5) with equal chances. Of the queries at rank 3 a
    candidate finds 40 % at rank 2 (0.6309), of those at rank 1 it loses 7.237 %: 0.5 x (0.4 x 0.1309 - 0.07237) = -0.01.
    Half of the chance that decides is common to all candidates.
    """
    first = rng.random((50, 1)) < 0.5
    chance = np.where(rng.random((50, 1)) < 0.5, rng.random((50, 1)), rng.random((50, num_candidates)))
    values = np.where(first, np.where(chance < 0.07237, 0.0, 1.0), np.where(chance < 0.4, 0.63093, 0.5))
    return {f"r{j}": by_query(values[:, j]) for j in range(num_candidates)}, by_query(np.where(first, 1.0, 0.5)[:, 0])


@pytest.mark.parametrize("num_candidates", [1, 3, 10])
def test_a_candidate_that_loses_the_margin_is_promoted_at_the_stated_level(num_candidates: int) -> None:
    """The level is the gate's promise: 300 times 5 % is 15, and 26 is 3 standard deviations more.

    Signs of shifted differences, flipped for the best candidate as if it were the only one, promote many more.
    """
    rng = np.random.default_rng(num_candidates)
    promoted = sum(decide(*losing_candidates(num_candidates, rng)).promote for _ in range(300))
    assert promoted <= 26


def test_a_gain_of_three_margins_is_found() -> None:
    """A gate that never opens holds every level. 23 % of 200 queries go from rank 3 to 2: 0.23 x 0.1309 = 0.03."""
    rng = np.random.default_rng(3)
    moved = [np.where(rng.random((200, 3)) < 0.23, 0.63093, 0.5) for _ in range(20)]
    decisions = [decide({f"r{j}": by_query(v[:, j]) for j in range(3)}, by_query([0.5] * 200)) for v in moved]
    assert sum(decision.promote for decision in decisions) >= 18


def weekly_students(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """500 new dev queries of 27 students, each truly 0.004 worse than the one before it, (500, 27).

    Student k has the relevant document at rank 1 on a share 0.85 - 0.01084 k of the queries, else at rank 2 (0.63093):
    0.36907 x 0.01084 = 0.004. Which ones is the query's difficulty and a little noise, so that neighbours mostly agree.
    """
    difficulty = rng.random((500, 1)) + rng.uniform(-0.01, 0.01, (500, 27))
    return np.where(difficulty < 0.85 - 0.01084 * np.arange(27), 1.0, 0.63093)


def test_small_losses_do_not_add_up() -> None:
    """26 weeks, each candidate within the margin of the one before it, must not walk the champion down.

    Compared with the present champion alone, the last one of these walks is 0.024 to 0.084 worse than the first. Compared
    with the best so far too, a loss above the margin is an error of the level, 5 %: at most one walk of five.
    """
    ends = []
    for seed in range(5):
        rng, present, best = np.random.default_rng(seed), 0, 0
        for week in range(1, 27):
            students = weekly_students(rng)
            others = None if best == present else by_query(students[:, best])
            if decide({"kl": by_query(students[:, week])}, by_query(students[:, present]), others).promote:
                present = week
            best = max(best, present, key=lambda student: students[:, student].mean())
        ends.append(0.004 * present)
    assert sum(loss > 0.01 for loss in ends) <= 1


def test_queries_are_paired_by_id_not_by_position() -> None:
    """A second run lists queries in another order; paired by position, equal models would look noisy and stay out."""
    champion = by_query(np.random.default_rng(0).random(400))
    found = decide({"kl": dict(reversed(champion.items()))}, champion, dict(reversed(champion.items())))
    assert found.p_value == pytest.approx(0.99**400)


def test_different_queries_are_refused() -> None:
    """The common queries alone would be another measure: a candidate that skipped the hard ones would win."""
    pair = {"q1": 0.1, "q2": 0.5}
    with pytest.raises(PromotionError, match=r"1 only by kl \['q3'\], 1 only by the untouched student \['q1'\]"):
        decide({"kl": {"q2": 0.5, "q3": 0.9}}, pair)
    with pytest.raises(PromotionError, match=r"kl and the best champion so far .* 1 only by kl \['q2'\], 0 only"):
        decide({"kl": pair}, pair, {"q1": 0.1})
    with pytest.raises(PromotionError, match=r"kl and hard were .* 0 only by hard \[\]"):
        decide({"kl": pair, "hard": {"q1": 1.0}}, pair)
    with pytest.raises(PromotionError, match="kl has no dev query"):
        decide({"kl": {}}, {})
    with pytest.raises(PromotionError, match="materialise eval_metrics"):
        decide({}, pair)


def test_numbers_that_decide_nothing_are_refused() -> None:
    """NaN compares false with every level, and a level of 5 (per cent) would promote everything."""
    with pytest.raises(NonFiniteError, match="of kl is not finite"):
        decide({"kl": {"q": float("nan")}}, {"q": 0.5})
    with pytest.raises(NonFiniteError):
        decide({"kl": {"q": 0.5}}, {"q": float("nan")})
    with pytest.raises(ValueError, match="alpha must be above 0 and below 1, got 5"):
        decide({"kl": {"q": 0.5}}, {"q": 0.5}, alpha=5)


def test_choose_candidate_is_a_total_order() -> None:
    """Equal means: the name decides, not the order in which recipes were read."""
    assert choose_candidate({"b": 0.6, "a": 0.6, "c": 0.5}) == "a"
    assert choose_candidate({"a": 0.5, "c": 0.7}) == "c"
    with pytest.raises(PromotionError, match="materialise eval_metrics"):
        choose_candidate({})
    with pytest.raises(NonFiniteError, match="of b is not finite"):
        choose_candidate({"a": 0.5, "b": float("nan")})
