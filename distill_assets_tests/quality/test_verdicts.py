"""The judgements behind the asset checks, each provoked with hand-worked numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest

from distill_assets.evaluation.comparison import compare_teacher
from distill_assets.evaluation.splits import find_twins
from distill_assets.quality.verdicts import (
    MAX_SAMPLES,
    FoundPositives,
    ScoredPair,
    Verdict,
    judge_coverage,
    judge_duplicates,
    judge_empty_documents,
    judge_files,
    judge_gate,
    judge_identity,
    judge_leakage,
    judge_logits,
    judge_losses,
    judge_missing_positives,
    judge_negatives_above,
    judge_positives_found,
    judge_splits,
    judge_spread,
    judge_teacher,
    mean_pairwise_cosine,
)
from distill_assets.records import SPLITS, Query, Split

NAN = math.nan


def pair(query_id: str, doc_id: str, label: int, logit: float) -> ScoredPair:
    """A scored pair whose texts are its ids."""
    return ScoredPair(query_id, f"text of {query_id}", doc_id, f"text of {doc_id}", label, logit)


def test_documents_of_signs_alone_are_found() -> None:
    """Their vectors are noise that some query will find: 2 of 100 is above 1 %, 1 of 100 is not."""
    two = judge_empty_documents(100, 2, [("a", "---"), ("b", " \n")])
    assert not two.passed and two.figures == {"num_empty": 2, "share_empty": 0.02}
    assert [row["doc_id"] for row in two.samples] == ["a", "b"]
    assert judge_empty_documents(100, 1, [("a", "---")]).passed


def test_copies_are_counted_within_and_across_batches() -> None:
    """A share of the wrong number, or a sample that does not say in which batch the other one is, sends nobody to the copies."""
    verdict = judge_duplicates(4, 3, [("a", "", "b"), ("b", "", "a"), ("c", "other", "x")])
    assert not verdict.passed
    assert verdict.figures == {"num_duplicates": 3, "share_duplicates": 0.75}
    assert [row["same as"] for row in verdict.samples] == ["b", "a", "x"]
    assert [row["of batch"] for row in verdict.samples] == ["this one", "this one", "other"]


def test_one_copy_in_a_hundred_is_no_warning() -> None:
    """A check that is always yellow is read by nobody."""
    assert judge_duplicates(201, 2, []).passed


def test_coverage_is_per_split() -> None:
    """Nine judged train queries in ten would hide a test split that nobody judged."""
    split_of = {f"q{i}": "train" for i in range(9)} | {"t1": "test", "t2": "test", "t3": "test"}
    verdict = judge_coverage(split_of, frozenset({*(f"q{i}" for i in range(9)), "t1"}))
    assert not verdict.passed
    assert verdict.figures == {"share_judged_test": pytest.approx(1 / 3), "share_judged_train": 1.0}
    assert [row["query_id"] for row in verdict.samples] == ["t2", "t3"]
    assert judge_coverage(split_of, frozenset({*(f"q{i}" for i in range(9)), "t1", "t2"})).passed
    assert judge_coverage({}, frozenset()).passed


def test_judgements_of_documents_that_nobody_brought() -> None:
    """They are dropped when read, without a word: recall would be counted over what is left."""
    verdict = judge_missing_positives([("q1", "a"), ("q1", "gone"), ("q2", "a")], frozenset({"a", "b"}))
    assert not verdict.passed and verdict.figures["num_missing"] == 1
    assert verdict.samples == [{"query_id": "q1", "doc_id": "gone"}]
    assert judge_missing_positives([("q1", "a")], frozenset({"a"})).passed


def split_queries(name: str, **counts: int) -> list[Query]:
    """So many queries of each split; no two have a word in common."""
    return [Query(f"{name}-{s}-{i}", f"{name}{s}{i}", s) for s in SPLITS for i in range(counts.get(s, 0))]


def repeat(queries: list[Query], split: Split) -> list[Query]:
    """The same texts under other ids in another split."""
    return [Query(f"{split}-copy-of-{query.query_id}", query.text, split) for query in queries]


def leakage_of(batch: list[Query], limit: float = 0.05) -> Verdict:
    """The verdict on a batch."""
    return judge_leakage(batch, find_twins(batch, jaccard=0.9), limit=limit)


@pytest.mark.parametrize("leaks_into", ["train", "dev"])
def test_clean_queries_beside_it_do_not_hide_a_wrong_split(leaks_into: Split) -> None:
    """20 test queries that all stand in train are 2 % of a thousand: divided by all of them, that batch went through."""
    tests, clean = split_queries("a", test=20), split_queries("clean", dev=980)
    verdict = leakage_of([*tests, *repeat(tests, leaks_into), *clean])
    assert not verdict.passed and "20 of 20 test queries" in verdict.found
    assert verdict.figures == {"num_left_out": 20, "share_of_batch": 1.0}


def test_train_queries_that_repeat_test_queries_are_refused_above_the_limit() -> None:
    """6 of 100 train queries repeat test queries, which are 6 of 1,000 there; 5 of 100 are within the limit and told."""
    tests = split_queries("old", test=1000)
    refused = leakage_of([*tests, *split_queries("new", train=94), *repeat(tests[:6], "train")])
    assert not refused.passed and "6 of 100 train queries" in refused.found
    assert refused.figures == {"num_left_out": 6, "share_of_batch": 0.06}
    within = [*tests, *split_queries("new", train=95), *repeat(tests[:5], "train")]
    told = leakage_of(within)
    assert told.passed and told.figures["num_left_out"] == 5
    assert told.samples[0] == {
        "left out": "train train-copy-of-old-test-0: oldtest0",
        "repeats": "test old-test-0: oldtest0",
    }
    assert len(told.samples) == 5
    assert not leakage_of(within, limit=0.0).passed, "who allows none wants to hear of one"


def test_a_batch_without_twins_passes() -> None:
    """A sound batch, or one without queries, must not be refused."""
    sound = leakage_of(split_queries("a", train=8, dev=1, test=1))
    assert sound.passed and sound.figures["num_left_out"] == 0 and not sound.samples
    assert leakage_of([]).passed


def test_a_teacher_that_gives_one_number_is_refused() -> None:
    """Margins of 0 train a student to like nothing; the loss falls all the same. Above half of the queries is refused."""
    flat = [pair(q, d, int(d == "p"), 0.5) for q in ("q1", "q2") for d in ("p", "n")]
    varied = [pair("q3", "p", 1, 2.0), pair("q3", "n", 0, 1.0)]
    verdict = judge_logits([*flat, *varied])
    assert not verdict.passed and verdict.figures["share_undecided"] == pytest.approx(2 / 3)
    assert judge_logits([*flat[:2], *varied]).passed
    assert judge_logits([]).passed


@pytest.mark.parametrize("broken", [NAN, math.inf])
def test_one_logit_that_is_no_number_is_refused(broken: float) -> None:
    """A NaN among thousands reaches every weight with the first batch that holds it."""
    pairs = [pair(f"q{i}", d, 0, float(i + j)) for i in range(50) for j, d in enumerate("ab")]
    verdict = judge_logits([*pairs, pair("last", "a", 1, broken)])
    assert not verdict.passed and verdict.figures["num_not_finite"] == 1


def test_negatives_above_the_best_positive_are_counted_and_shown() -> None:
    """A negative above the worse of two positives is no mistake of label or teacher; above both it is.

    q1: best positive 2.0; n1 3.0 is above, n2 1.9 is not. q2: n3 is above by 4.0. 2 of 3 negatives.
    """
    pairs = [
        pair("q1", "p1", 1, 0.0),
        pair("q1", "p2", 2, 2.0),
        pair("q1", "n1", 0, 3.0),
        pair("q1", "n2", 0, 1.9),
        pair("q2", "p3", 1, -1.0),
        pair("q2", "n3", 0, 3.0),
        pair("q3", "n4", 0, 9.0),  # no positive: nothing to be above
    ]
    verdict = judge_negatives_above(pairs)
    assert not verdict.passed and verdict.figures == {"num_above": 2, "share_above": pytest.approx(2 / 3)}
    assert [(row["hard negative"], row["by"]) for row in verdict.samples] == [("text of n3", 4.0), ("text of n1", 1.0)]
    assert judge_negatives_above([*pairs[:4], pair("q1", "n5", 0, 0.1), pair("q1", "n6", 0, 0.2)]).passed  # 1 of 4


def test_a_teacher_that_was_not_measured_does_not_look_well() -> None:
    """Without dev queries nothing is known of it: a check that passes there lets any model teach."""
    assert not judge_teacher(None).passed


def test_the_check_of_a_teacher_says_what_the_leaderboard_says() -> None:
    """Two notions of "fit to teach" contradict each other on one page."""
    dev = {"teacher": dict.fromkeys("abcdefgh", 0.6), "bm25": dict.fromkeys("abcdefgh", 0.4)}
    fit, equal = compare_teacher(dev), compare_teacher(dev | {"bm25": dev["teacher"]})
    assert fit is not None and equal is not None
    verdict = judge_teacher(fit)
    assert verdict.passed and verdict.found == fit.sentence
    assert verdict.figures == {
        "num_dev_queries": 8,
        "dev_ndcg_at_10_teacher": pytest.approx(0.6),
        "dev_ndcg_at_10_bm25": pytest.approx(0.4),
    }
    assert not judge_teacher(equal).passed


def test_a_loss_curve_must_be_there_and_finite() -> None:
    """A training that never logged, or diverged between two logs, leaves a model like any other."""
    assert not judge_losses([]).passed
    broken = judge_losses([(1, 2.0), (2, NAN), (3, 1.0)])
    assert not broken.passed and "first at step 2" in broken.found
    assert judge_losses([(1, 2.0), (2, 1.0)]).passed


def test_mean_cosine_by_hand() -> None:
    """Three unit vectors at 0, 90 and 180 degrees: cosines 0, -1, 0; mean -1/3. The diagonal must not count."""
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert mean_pairwise_cosine(vectors) == pytest.approx(-1 / 3)


def fan(half_angle: float) -> np.ndarray:
    """Two unit vectors whose cosine is cos(2 * half_angle)."""
    return np.array([[math.cos(half_angle), s * math.sin(half_angle)] for s in (1, -1)])


def test_a_collapse_is_told_from_documents_that_sound_alike() -> None:
    """Absolute limits alone refuse a good student of a narrow collection, or pass one that answers everything the same.

    1 - cos: 0.18 before. After: 0.02 passes, 0.018 is collapsed. From 0.02 before: 0.011 passes, 0.009 is collapsed.
    """

    def spread(value: float) -> np.ndarray:
        return fan(math.acos(1 - value) / 2)

    assert judge_spread(spread(0.0201), spread(0.18)).passed
    assert not judge_spread(spread(0.018), spread(0.18)).passed
    assert judge_spread(spread(0.011), spread(0.02)).passed
    assert not judge_spread(spread(0.009), spread(0.02)).passed
    assert not judge_spread(spread(0.00001), spread(0.00001)).passed
    assert not judge_spread(np.full((2, 2), NAN), spread(0.18)).passed
    assert judge_spread(fan(1.0)[:1], fan(1.0)[:1]).passed


def test_judged_documents_that_search_does_not_find_are_seen_coming() -> None:
    """Training on them makes search worse, and nothing else says so before it is paid for.

    First query: 1 of 2 found; of its 4 pairs 2 are above and 1 ties, 2.5 / 4 = 0.625. Second: 1 of 4 found, 0 of 4 pairs, 0.
    """
    one = FoundPositives(query="one", num_found=1, positives=[0.5, 0.3], negatives=[0.3, 0.2])
    two = FoundPositives(query="two", num_found=1, positives=[0.1] * 4, negatives=[0.2])
    found = judge_positives_found([one, two])
    assert not found.passed
    assert found.figures == {"num_queries": 2, "share_found": 0.375, "area_under_curve": pytest.approx(0.4375)}
    assert found.samples[0] == {"query": "two", "judged": 4, "found": 1}
    good = replace(one, num_found=2, positives=[0.5, 0.4])
    assert judge_positives_found([good]).passed
    assert not judge_positives_found([replace(good, negatives=[0.9])]).passed, "found, and unlike the query"
    assert not judge_positives_found([replace(good, num_found=0)]).passed, "like the query, and not found"


def test_without_judged_queries_there_is_nothing_to_see_coming() -> None:
    """A batch of documents alone must not warn of judgements that it does not have."""
    assert judge_positives_found([]).passed and judge_positives_found([]).figures["num_queries"] == 0
    alone = judge_positives_found([FoundPositives(query="q", num_found=1, positives=[0.5], negatives=[])])
    assert alone.passed and alone.figures["area_under_curve"] == 1.0


def test_the_gate_warns_when_a_candidate_is_kept_out() -> None:
    """A weekly retraining that never gets through must show; a champion that stays best must not."""
    assert judge_gate("promoted", "first", is_champion=True).passed
    assert judge_gate("kept", "a is the champion already", is_champion=True).passed
    kept = judge_gate("kept", "p = 0.4", is_champion=False)
    assert not kept.passed and kept.found == "kept: p = 0.4"


def test_samples_stay_short() -> None:
    """A table of a million rows in an event log takes the UI down with it."""
    assert len(judge_empty_documents(1000, 1000, [(f"d{i}", "-") for i in range(1000)]).samples) == MAX_SAMPLES


def test_ids_that_stand_for_other_documents() -> None:
    """Two help desks that number alike overwrote each other, 29 of 30 documents, and no check said so."""
    kettle, edited, sofa = "the kettle is in the attic", "the kettle is in the cellar", "every sofa has a guarantee"
    changed = [("1", sofa, "north", kettle), ("1", sofa, "east", kettle), ("2", edited, "north", kettle)]
    verdict = judge_identity(30, 2, changed)
    assert not verdict.passed
    assert verdict.found == (
        "1 of 30 ids stand for another document in another batch (in east, north), 1 for an edited text"
    )
    assert verdict.samples[0] == {"doc_id": "1", "here": sofa, "batch": "north", "there": kettle}
    assert judge_identity(30, 1, changed[2:]).passed and judge_identity(0, 0, []).passed
    sampled = judge_identity(30, 9, changed)
    assert sampled.found.endswith("; 2 of 9 ids with two texts were compared") and sampled.figures["num_changed"] == 9


def test_files_that_are_not_read_and_blank_texts_are_told() -> None:
    """What a misnamed file holds is missing in silence."""
    assert judge_files({}, 0).passed and not judge_files({}, 1).passed
    verdict = judge_files({"test.csv": "move it"}, 0)
    assert not verdict.passed and verdict.samples == [{"file": "test.csv", "reason": "move it"}]


def test_what_each_split_has_is_said_at_reading() -> None:
    """A collection without train queries stopped after mining; with 12 pairs a champion was promoted on one test query."""
    split_of = {f"{split}{i}": split for split in ("dev", "test") for i in range(25)}
    verdict = judge_splits(split_of, frozenset(split_of) - {"dev0"})
    assert not verdict.passed
    assert verdict.found == (
        "judged queries: train 0, dev 24, test 25; fewer than 20 of a split say little; without train queries nothing can be trained"
    )
    told = judge_splits(split_of, frozenset(), may_teacher_judge=True)
    assert (
        not told.passed
        and "the teacher judges train, dev, test" in told.found
        and "nothing can be trained" not in told.found
    )
    assert judge_splits(split_of | {f"train{i}": "train" for i in range(20)}, frozenset(split_of)).passed is False
    everything = split_of | {f"train{i}": "train" for i in range(20)}
    assert judge_splits(everything, frozenset(everything)).passed
