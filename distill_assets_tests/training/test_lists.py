"""Lists: what each query draws, and that it never depends on its neighbours."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_assets.errors import MissingPartitionError, TrainingError
from distill_assets.evaluation.metrics import DevList, rerank_ndcg
from distill_assets.records import Query
from distill_assets.training.lists import (
    Epochs,
    Labels,
    TrainList,
    build_dev_lists,
    build_student_epochs,
    build_teacher_epochs,
    draw_stratified,
    pairs_of,
    per_list,
)
from distill_assets.training.recipes import Recipe, TeacherRecipe

DOC_IDS = [f"d{i:02d}" for i in range(40)]
QUERIES = [Query(f"q{i}", f"query {i}", "train") for i in range(6)]


def make_labels(**changes: object) -> Labels:
    """Query i is answered by documents i and i + 6; its mined negatives are 12 .. 16, best first."""
    values = {
        "judged": {f"q{i}": {DOC_IDS[i]: 1, DOC_IDS[i + 6]: 2} for i in range(6)},
        "candidates": {f"q{i}": DOC_IDS[12:17] for i in range(6)},
        "content_of": {doc_id: f"text of {doc_id}" for doc_id in DOC_IDS},
    }
    return Labels(**{**values, **changes})  # type: ignore[arg-type]


def make_recipe(**changes: Any) -> Recipe:
    """Hard labels on one mined negative, one epoch."""
    return Recipe(**{"name": "r", "loss": "hard_labels", "seed": 1, **changes})


def build(labels: Labels, logit_of: Any = None, queries: list[Query] = QUERIES, **fields: Any) -> list[TrainList]:
    """The lists of a recipe's only epoch."""
    (lists,) = build_student_epochs(queries, labels, make_recipe(**fields), logit_of)
    return lists


def ids(one: TrainList) -> list[str]:
    """The documents' ids, from their texts."""
    return [text.removeprefix("text of ") for text in one.documents]


def test_student_lists_take_the_best_mined_negatives_in_order() -> None:
    """Negatives in another order than the teacher's logits pair each text with a foreign score."""
    labels = make_labels(judged={"q0": {"d00": 1}})
    logits = {("q0", "d00"): 9.0, ("q0", "d12"): 3.0, ("q0", "d13"): 2.0}
    assert build(labels, logits, loss="margin_mse", num_negatives=2) == [
        TrainList("q0", "query 0", ("text of d00", "text of d12", "text of d13"), (9.0, 3.0, 2.0), ("text of d00",))
    ]


def test_student_lists_without_a_teacher_carry_no_logits() -> None:
    """Zeros in place of None would be fitted as if a teacher had said them."""
    lists = build(make_labels(), {("q0", "d00"): 1.0})
    assert len(lists) == 6 and all(one.teacher_logits is None for one in lists)


FULL_LOGITS = {(f"q{i}", d): float((7 * j + i) % 40) for i in range(6) for j, d in enumerate(DOC_IDS)}
DRAWS: list[dict[str, Any]] = [
    {"num_negatives": 3},
    {"num_negatives": 3, "num_positives": 2},
    {"loss": "info_nce", "num_negatives": 3, "num_random": 4, "sampling": "random"},
    {"loss": "kl", "num_negatives": 3, "sampling": "stratified"},
    {"loss": "kl", "num_negatives": 3, "positives": "teacher"},
]


@pytest.mark.parametrize("fields", DRAWS)
def test_student_lists_do_not_depend_on_neighbours_or_listing_order(fields: dict[str, Any]) -> None:
    """One random stream over all queries would give every later query other documents when one is added."""
    labels = make_labels()
    all_groups = build(labels, FULL_LOGITS, **fields)
    assert build(labels, FULL_LOGITS, QUERIES[3:], **fields) == [g for g in all_groups if g.query_id >= "q3"]
    backwards = make_labels(judged={q: dict(reversed(p.items())) for q, p in labels.judged.items()})
    assert build(backwards, FULL_LOGITS, **fields) == all_groups


@pytest.mark.parametrize("fields", DRAWS)
def test_student_lists_hold_no_document_twice_and_no_answer_among_the_negatives(fields: dict[str, Any]) -> None:
    """A known answer as a negative, or a document twice, teaches a contradiction that no loss curve shows."""
    labels = make_labels(candidates={f"q{i}": [f"d{i:02d}", *DOC_IDS[12:20]] for i in range(6)})
    for one in build(labels, FULL_LOGITS, **fields):
        found = ids(one)
        assert len(found) == len(set(found)) == 4 + fields.get("num_random", 0)
        assert not set(found[1:]) & set(labels.judged[one.query_id])
        assert set(labels.judged[one.query_id]) <= {text.removeprefix("text of ") for text in one.relevant}


def test_student_lists_draw_positives_anew_each_epoch_and_by_seed() -> None:
    """A choice that always takes the first positive never trains on the second."""
    epochs = build_student_epochs(QUERIES[:1], make_labels(), make_recipe(epochs=8))
    assert {ids(one)[0] for lists in epochs for one in lists} == {"d00", "d06"}
    assert {ids(g)[0] for seed in range(8) for g in build(make_labels(), None, QUERIES[:1], seed=seed)} == {
        "d00",
        "d06",
    }


def test_several_positives_have_a_group_each() -> None:
    """Two positives in one list would be each other's negatives."""
    lists = build(make_labels(), None, QUERIES[:1], num_positives=5, num_negatives=2)
    assert sorted(ids(g)[0] for g in lists) == ["d00", "d06"]
    assert all(ids(g)[1:] == ["d12", "d13"] and set(g.relevant) == {"text of d00", "text of d06"} for g in lists)


@pytest.mark.parametrize("sampling", ["random", "stratified"])
def test_sampled_negatives_are_drawn_anew_each_epoch_from_what_the_teacher_scored(sampling: str) -> None:
    """The first k again and again would be top-k under another name; an unscored candidate has no logit to train on."""
    scored = {key: v for key, v in FULL_LOGITS.items() if key[1] not in ("d13", "d16")}
    recipe = make_recipe(loss="kl", num_negatives=2, sampling=sampling, epochs=12)
    labels = make_labels(candidates={"q0": DOC_IDS[12:20]}, judged={"q0": {"d00": 1}})
    drawn = [ids(one)[1:] for lists in build_student_epochs(QUERIES, labels, recipe, scored) for one in lists]
    assert len({tuple(d) for d in drawn}) > 3
    assert {d for found in drawn for d in found} == {"d12", "d14", "d15", "d17", "d18", "d19"}


def test_stratified_negatives_cover_the_range_of_scores() -> None:
    """Cut by rank, nine low candidates of ten fill nine of ten places: what the paper warns of.

    Logits 10, 9 and twenty from 0 to 0.19; three parts of width 3.33: the nearest to 6.67..10 is 9 or 10, to 3.33..6.67 the other
    one or a low one, to 0..3.33 a low one. Top-k by rank strata would take one of 10, 9 at most.
    """
    logits = [10.0, 9.0, *(i / 100 for i in range(20))]
    names = [f"d{i:02d}" for i in range(22)]
    both = 0
    for seed in range(50):
        chosen = draw_stratified(logits, names, 3, random.Random(seed))
        assert len(set(chosen)) == 3 and chosen[0] in ("d00", "d01") and chosen[2] not in ("d00", "d01")
        both += {"d00", "d01"} <= set(chosen)
    assert 5 < both < 45


@given(
    logits=st.lists(st.floats(-30, 30), min_size=1, max_size=30),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 1000),
)
def test_stratified_negatives_are_distinct_whatever_the_logits(logits: list[float], share: float, seed: int) -> None:
    """Ties, a range of zero or as many draws as candidates must neither fail nor repeat a document."""
    names = [f"d{i:02d}" for i in range(len(logits))]
    count = max(1, int(share * len(logits)))
    chosen = draw_stratified(logits, names, count, random.Random(seed))
    assert len(chosen) == len(set(chosen)) == count


def test_the_teacher_chooses_the_positive_of_a_query_without_labels() -> None:
    """The regime of few labels: without this a query that nobody judged is never trained on.

    q0 is not judged, its best scored candidate is d14; q1 is judged with d01, which the teacher puts below d12; q2 has no score.
    """
    labels = make_labels(judged={"q1": {"d01": 1}})
    logits = {("q0", d): v for d, v in zip(DOC_IDS[12:17], (1.0, 2.0, 5.0, 0.0, -1.0), strict=True)}
    logits |= {("q1", "d01"): 3.0, ("q1", "d12"): 4.0, ("q1", "d13"): 1.0, ("q1", "d14"): 0.0}
    lists = build(labels, logits, QUERIES[:3], loss="kl", positives="teacher", num_negatives=2)
    assert [(g.query_id, ids(g), g.teacher_logits) for g in lists] == [
        ("q0", ["d14", "d12", "d13"], (5.0, 1.0, 2.0)),
        ("q1", ["d12", "d13", "d14"], (4.0, 1.0, 0.0)),
    ]
    assert lists[1].relevant == ("text of d12", "text of d01")


def test_student_lists_leave_out_and_count_queries_that_cannot_fill_a_row() -> None:
    """A short row would shift columns or fail in the trainer; left out in silence, a student of one query looks like one of six."""
    labels = make_labels(
        judged={"q0": {"d00": 1}, "q1": {"d01": 1}, "q2": {}},
        candidates={"q0": ["d12"], "q1": ["d12", "d13"], "q2": ["d12", "d13"]},
    )
    epochs = build_student_epochs(QUERIES, labels, make_recipe(num_negatives=2, epochs=3))
    assert [[g.query_id for g in lists] for lists in epochs] == [["q1"]] * 3
    assert epochs.left_out == {"no_positive": 4, "too_few_negatives": 1}


def test_a_query_that_the_teacher_scored_nothing_of_is_counted() -> None:
    """Where the teacher chooses positives, unscored queries vanish from the training set: here five of six."""
    logits = {("q3", d): v for d, v in zip(DOC_IDS[12:17], (1.0, 2.0, 5.0, 0.0, -1.0), strict=True)}
    recipe = make_recipe(loss="kl", positives="teacher", num_negatives=2)
    epochs = build_student_epochs(QUERIES, make_labels(), recipe, logits)
    assert [g.query_id for g in epochs[0]] == ["q3"]
    assert epochs.left_out == {"no_positive": 5}


def test_a_row_that_the_corpus_cannot_fill_is_counted() -> None:
    """Queries with more answers leave fewer other documents: narrower than the widest row, they vanish.

    Four documents. q0: answer d00, negative d12, so that d13 and d14 are left for the row. q1 has d13 for an answer too: d14 alone.
    """
    labels = Labels(
        {"q0": {"d00": 1}, "q1": {"d00": 1, "d13": 1}},
        {"q0": ["d12"], "q1": ["d12"]},
        {d: f"text of {d}" for d in ["d00", "d12", "d13", "d14"]},
    )
    student = build_student_epochs(QUERIES[:2], labels, make_recipe(num_random=2, num_negatives=1))
    for epochs in (student, teacher_epochs(QUERIES[:2], labels, num_hard=1, num_random=2, epochs=1)):
        assert [g.query_id for g in epochs[0]] == ["q0"]
        assert epochs.left_out == {"too_few_documents": 1}


def test_no_query_that_can_be_trained_on_is_an_error_with_the_counts() -> None:
    """An empty training set failed later, with widths of rows that say nothing of the reason."""
    labels = make_labels(judged={"q0": {"d00": 1}, "q1": {"d01": 1}})
    message = r"none of 6 training queries can be trained on \(no_positive 4, too_few_negatives 2\)"
    with pytest.raises(TrainingError, match=message):
        build(labels, num_negatives=6)
    with pytest.raises(TrainingError, match=message):
        teacher_epochs(QUERIES, labels, num_hard=6)
    with pytest.raises(TrainingError, match=r"none of 0 .*there is none"):
        build(labels, None, [])


LATER_JUDGED = Labels(
    judged={"q0": {"d00": 1, "d13": 2}},
    candidates={"q0": ["d12", "d13", "d14", "copy", "d12", "d15"]},
    content_of={d: f"text of {d}" for d in DOC_IDS[:20]} | {"copy": "text of d13"},
)


def test_a_document_that_was_mined_before_it_was_judged_is_no_negative() -> None:
    """The teacher was trained to put an answer last, and a perfect model got a dev score of 0.63 for finding it twice.

    d13 was mined by one batch and judged by a later one; its text stands in the corpus under another id too; d12 was mined twice.
    """
    assert LATER_JUDGED.negatives_of("q0") == ["d12", "d14", "d15"]
    assert LATER_JUDGED.positives_of("q0") == ["d00", "d13"]
    assert (LATER_JUDGED.negatives_of("nobody"), LATER_JUDGED.positives_of("nobody")) == ([], [])
    assert LATER_JUDGED.found_of("q0") == ["d13"]
    for lists in teacher_epochs(QUERIES, LATER_JUDGED, num_hard=3, num_random=10, epochs=20):
        assert [sorted(ids(g)[1:4]) for g in lists] == [["d12", "d14", "d15"]]
        assert not {"d00", "d13"} & set(ids(lists[0])[1:])
    recipe = make_recipe(num_negatives=3, num_random=10, sampling="random", epochs=20)
    for lists in build_student_epochs(QUERIES, LATER_JUDGED, recipe):
        assert [sorted(ids(g)[1:4]) for g in lists] == [["d12", "d14", "d15"]]
        assert not {"d00", "d13"} & set(ids(lists[0])[1:])


def test_a_copy_of_the_positive_that_the_teacher_chose_is_no_negative() -> None:
    """The same text as first and as second of a list: the teacher's margin is 0 and a softmax is asked to tell them apart."""
    labels = Labels({}, {"q0": ["d12", "copy", "d14"]}, LATER_JUDGED.content_of | {"copy": "text of d12"})
    logits = {("q0", "d12"): 3.0, ("q0", "copy"): 2.9, ("q0", "d14"): 0.0}
    (one,) = build(labels, logits, QUERIES, loss="kl", positives="teacher", num_negatives=1)
    assert (ids(one), one.teacher_logits) == (["d12", "d14"], (3.0, 0.0))


@given(
    positives=st.dictionaries(st.sampled_from(DOC_IDS), st.integers(1, 3), max_size=6),
    mined=st.lists(st.sampled_from(DOC_IDS)),
    num_texts=st.integers(1, 40),
)
def test_negatives_are_what_was_mined_less_the_answers(
    positives: dict[str, int], mined: list[str], num_texts: int
) -> None:
    """An answer among the negatives teaches the opposite; a negative lost or moved changes every list after it in silence."""
    content_of = {d: f"text {i % num_texts}" for i, d in enumerate(DOC_IDS)}
    found = Labels({"q": positives}, {"q": mined}, content_of).negatives_of("q")
    answers = {content_of[d] for d in positives}
    assert len(found) == len(set(found))
    assert set(found) == {d for d in mined if content_of[d] not in answers}
    assert found == sorted(found, key=mined.index)


def test_student_lists_name_missing_logits() -> None:
    """A default of 0 for a pair that was never scored would be trained on as a verdict."""
    labels = make_labels(judged={"q0": {"d00": 1}})
    with pytest.raises(MissingPartitionError, match=r"'q0': 2 of its 3 .* first 'd12'.*scored_negatives"):
        build(labels, {("q0", "d00"): 1.0}, loss="kl", num_negatives=2)
    with pytest.raises(MissingPartitionError, match=r"'q0': 1 of its 5 mined negatives.*draws 2"):
        logits = {("q0", "d00"): 1.0, ("q0", "d12"): 1.0}
        build(labels, logits, loss="kl", num_negatives=2, sampling="random")
    with pytest.raises(MissingPartitionError, match="none were given"):
        build(labels, None, loss="kl")


def teacher_epochs(queries: Sequence[Query], labels: Labels, **fields: Any) -> Epochs:
    """The epochs of a teacher's recipe with these fields."""
    return build_teacher_epochs(queries, labels, TeacherRecipe(**fields))


def test_teacher_lists_hold_a_positive_then_hard_then_random_documents() -> None:
    """A positive among the negatives, or twice the same document, teaches the teacher a contradiction."""
    labels = make_labels()
    epochs = teacher_epochs(QUERIES, labels, num_hard=3, num_random=4, epochs=2, seed=5)
    assert [[g.query_id for g in lists] for lists in epochs] == [[q.query_id for q in QUERIES]] * 2
    lists = [one for epoch in epochs for one in epoch]
    for one in lists:
        doc_ids = [text.removeprefix("text of ") for text in one.documents]
        assert len(doc_ids) == len(set(doc_ids)) == 8
        assert doc_ids[0] in labels.judged[one.query_id]
        assert set(doc_ids[1:4]) <= set(DOC_IDS[12:17])
        assert not set(doc_ids[1:]) & set(labels.judged[one.query_id])


def test_teacher_lists_are_the_same_again_and_new_each_epoch() -> None:
    """The same draw in each epoch wastes the second one; another draw on each call makes the teacher unrepeatable."""
    arguments = {"num_hard": 3, "num_random": 2, "epochs": 2, "seed": 5}
    epochs = teacher_epochs(QUERIES, make_labels(), **arguments)
    assert epochs == teacher_epochs(QUERIES, make_labels(), **arguments)
    assert epochs[0] != epochs[1]
    assert epochs != teacher_epochs(QUERIES, make_labels(), **{**arguments, "seed": 50})
    # Another seed must not be the next epoch: three seeds of a report would share most of what they draw.
    assert epochs[1] != teacher_epochs(QUERIES, make_labels(), **{**arguments, "seed": 6})[0]


def test_teacher_lists_do_not_depend_on_neighbours() -> None:
    """Adding a query must leave what the others draw alone, or no two teachers could be compared."""
    arguments = {"num_hard": 3, "num_random": 2, "epochs": 1, "seed": 5}
    (everything,) = teacher_epochs(QUERIES, make_labels(), **arguments)
    assert list(teacher_epochs(QUERIES[2:4], make_labels(), **arguments)) == [everything[2:4]]


def test_teacher_lists_leave_out_and_count_queries_with_too_few_mined_negatives() -> None:
    """`random.sample` would raise on the first such query and stop the whole teacher."""
    labels = make_labels(candidates={"q0": DOC_IDS[12:14], "q1": DOC_IDS[12:15]})
    epochs = teacher_epochs(QUERIES, labels, num_hard=3, num_random=0, epochs=1, seed=5)
    assert [g.query_id for g in epochs[0]] == ["q1"]
    assert epochs.left_out == {"too_few_negatives": 5}


def test_teacher_lists_of_a_tiny_corpus_have_one_width() -> None:
    """A corpus with too few other documents must give narrower lists of one width, never a ragged table or a hang."""
    content_of = {doc_id: doc_id for doc_id in ["d00", "d12", "d13", "d14"]}
    labels = Labels({"q0": {"d00": 1}}, {"q0": ["d12", "d13"]}, content_of)
    epochs = teacher_epochs(QUERIES[:1], labels, num_hard=2, num_random=5, epochs=3, seed=5)
    assert [len(lists) for lists in epochs] == [1, 1, 1]
    assert all(set(g.documents) == set(content_of) and len(g.documents) == 4 for lists in epochs for g in lists)


def test_dev_lists_hold_what_search_finds_and_count_what_it_misses() -> None:
    """A judged document that is put in beside what search finds rewards a model for liking what search cannot find.

    d06 (grade 2) is found third, d00 (grade 1) is missed: the best order gives 2 of the 2 + 1/log2(3) there are, 0.760.
    """
    labels = make_labels(candidates={"q0": ["d12", "d13", "d06", "d12"]})
    [one] = build_dev_lists(QUERIES, labels)
    texts = ("text of d12", "text of d13", "text of d06")
    assert one == DevList("q0", "query 0", texts, (0, 0, 2), (1,), ("text of d00",))
    assert rerank_ndcg([one], [[1.0, 2.0, 3.0]]) == pytest.approx(0.76018, abs=1e-5)
    [nothing] = build_dev_lists(QUERIES, make_labels(candidates={"q0": ["d12"]}))
    assert rerank_ndcg([nothing], [[1.0]]) == 0.0, "what nobody can find counts as missed, for everyone"


@given(
    positives=st.dictionaries(st.sampled_from(DOC_IDS), st.integers(1, 3), min_size=1, max_size=6),
    found=st.lists(st.sampled_from(DOC_IDS), min_size=1),
)
def test_dev_lists_are_the_candidates_and_their_grades_are_all_there_are(
    positives: dict[str, int], found: list[str]
) -> None:
    """A grade that is lost makes the ideal ranking too easy; a candidate that is added or lost is another search."""
    labels = Labels({"q": positives}, {"q": found}, {d: f"text of {d}" for d in DOC_IDS})
    [one] = build_dev_lists([Query("q", "text", "dev")], labels)
    assert [text.removeprefix("text of ") for text in one.documents] == list(dict.fromkeys(found))
    grades = dict(zip((*one.documents, *one.missed_documents), (*one.relevances, *one.missed), strict=True))
    assert {text.removeprefix("text of "): g for text, g in grades.items() if g} == positives


FOUND = make_labels(
    judged={"q0": {"d00": 1, "d01": 1, "d02": 1}, "q1": {"d03": 1, "d04": 1}},
    candidates={"q0": ["d12", "d01", "d13", "d02", "d14"], "q1": ["d12", "d13", "d14"]},
)


def test_positives_are_those_that_search_finds_and_any_where_it_finds_none() -> None:
    """Negatives are always found by search: with positives that it does not find, "less similar" means "relevant".

    Search finds d01 and d02 for q0 and nothing for q1.
    """
    recipe = make_recipe(num_negatives=2, epochs=30)
    drawn: dict[str, set[str]] = {}
    for lists in build_student_epochs(QUERIES, FOUND, recipe):
        for one in lists:
            drawn.setdefault(one.query_id, set()).add(ids(one)[0])
    assert drawn == {"q0": {"d01", "d02"}, "q1": {"d03", "d04"}}
    any_judged = build_student_epochs(QUERIES, FOUND, make_recipe(num_negatives=2, epochs=30, positives="human"))
    assert {ids(g)[0] for lists in any_judged for g in lists if g.query_id == "q0"} == {"d00", "d01", "d02"}
    for positives, expected in (("found", {"d01", "d02"}), ("human", {"d00", "d01", "d02"})):
        epochs = teacher_epochs(QUERIES, FOUND, num_hard=2, num_random=1, epochs=30, positives=positives)
        assert {ids(g)[0] for lists in epochs for g in lists if g.query_id == "q0"} == expected


def test_a_scorer_of_dissimilarity_is_perfect_on_lists_of_any_judged_document_alone() -> None:
    """The artefact in small: similarity falls with the document's number, and the judged d20 to d29 are not among the first ten.

    Lists of a judged document against what search finds are solved by "less similar is better". Of the two that search does find
    one is more similar than all negatives and one is not.
    """
    positives = {"q": dict.fromkeys(["d05", "d00", *DOC_IDS[20:30]], 1)}
    labels = Labels(positives, {"q": DOC_IDS[:10]}, {d: f"text of {d}" for d in DOC_IDS})
    query = [Query("q", "text", "train")]

    def solved(positives: str) -> float:
        recipe = make_recipe(num_negatives=8, sampling="top", epochs=60, positives=positives)
        lists = [ids(one) for lists in build_student_epochs(query, labels, recipe) for one in lists]
        return sum(int(found[0][1:]) > max(int(d[1:]) for d in found[1:]) for found in lists) / len(lists)

    assert solved("human") > 0.7
    assert solved("found") == 0.0


def test_scores_of_all_pairs_return_to_their_lists() -> None:
    """A split that is off by one gives a query the scores of its neighbour, and a plausible dev metric."""
    lists = [DevList("a", "qa", ("d1", "d2"), (1, 0)), DevList("b", "qb", ("d3",), (1,))]
    assert pairs_of(lists) == [("qa", "d1"), ("qa", "d2"), ("qb", "d3")]
    assert per_list(lists, [1.0, 2.0, 3.0]) == [[1.0, 2.0], [3.0]]


GRADED = make_labels(
    judged={"q0": {"d00": 2, "d13": 1, "d20": 1}}, candidates={"q0": DOC_IDS[:1] + DOC_IDS[12:17]}, min_relevance=2
)


def test_a_grade_below_the_threshold_is_neither_positive_nor_negative() -> None:
    """A document that is "about the topic" would be taught as the answer, or pushed away as a wrong one."""
    assert (GRADED.positives_of("q0"), GRADED.found_of("q0")) == (["d00"], ["d00"])
    assert GRADED.negatives_of("q0") == ["d12", "d14", "d15", "d16"]
    recipe = make_recipe(num_negatives=3, sampling="random", epochs=20, num_random=2, positives="human")
    for lists in (
        build_student_epochs(QUERIES[:1], GRADED, recipe, None),
        teacher_epochs(QUERIES[:1], GRADED, num_hard=3, num_random=2, epochs=20),
    ):
        for (one,) in lists:
            texts = [text.removeprefix("text of ") for text in one.documents]
            assert texts[0] == "d00" and not {"d13", "d20"} & set(texts)
    (one,) = build_dev_lists([Query("q0", "query 0", "dev")], GRADED)
    assert (one.relevances, one.missed) == ((2, 0, 1, 0, 0, 0), (1,)), "nDCG counts lower grades"


def test_a_judged_document_without_a_score_is_neither_positive_nor_negative() -> None:
    """Imported scores lack pairs: an answer that lost its score must not be learned as wrong, by its own list or by another's."""
    labels = make_labels(candidates={"q0": ["d12", "d06", "d13", "d14"], "q1": ["d12"], "q2": ["d12", "d13"]})
    logits = {("q0", "d00"): 9.0, ("q0", "d13"): 1.0, ("q0", "d14"): 0.5, ("q1", "d12"): 1.0, ("q2", "d02"): 8.0}
    recipe = make_recipe(loss="margin_mse", num_negatives=2)
    epochs = build_student_epochs(QUERIES[:3], labels.of_scored(logits), recipe, logits)
    ((only,),) = epochs
    assert ids(only) == ["d00", "d13", "d14"] and only.teacher_logits == (9.0, 1.0, 0.5)
    assert set(only.relevant) == {"text of d00", "text of d06"}
    assert epochs.left_out == {"no_positive": 1, "too_few_negatives": 1}


PASSAGES = {f"d0{i}": "A" for i in (0, 1, 2, 3, 4, 5)}
JUDGED = {"q0": dict.fromkeys([*PASSAGES, "d09"], 1)}


def test_the_positive_of_a_long_document_is_its_best_passage() -> None:
    """Any passage of a relevant article, its references too, would be taught as the answer."""
    labels = make_labels(judged=JUDGED, parent_of=PASSAGES, candidates={"q0": ["d12", "d04", "d13", "d02", "d14"]})
    assert labels.positives_of("q0") == ["d02", "d04", "d09"]  # A by what search finds; d09 was not cut
    assert labels.negatives_of("q0") == ["d12", "d13", "d14"]  # no passage of A
    drawn = {list_ids[0] for list_ids in map(ids, build(labels, positives="human", num_positives=2))}
    assert drawn == {"d04", "d09"}, "without a teacher the passage that search ranks first"
    assert {ids(one)[0] for one in build(labels, positives="found")} == {"d04"}
    logits = {("q0", d): x for d, x in {"d02": 3.0, "d04": 1.0, "d09": 2.0, "d12": 0.0}.items()}
    with_teacher = build(labels, logits, positives="found", loss="margin_mse")
    assert {ids(one)[0] for one in with_teacher} == {"d02"}, "with a teacher the passage that it ranks first"
    unfound = make_labels(judged=JUDGED, parent_of=PASSAGES, candidates={"q0": ["d12", "d13"]})
    assert unfound.positives_of("q0") == ["d00", "d09"], "the first one stands for a document that search does not find"


def test_at_most_four_passages_of_a_document_are_answers() -> None:
    """The teacher pays for each of them, for each query."""
    labels = make_labels(judged=JUDGED, parent_of=PASSAGES, candidates={"q0": ["d05", "d04", "d03", "d02", "d01"]})
    assert labels.answers_of("q0") == ["d02", "d03", "d04", "d05", "d09"]


def test_dev_lists_of_passages_count_a_judged_document_once() -> None:
    """Six passages of one judged article, five of them not found, would make the ideal ranking unreachable."""
    labels = make_labels(judged=JUDGED, parent_of=PASSAGES, candidates={"q0": ["d12", "d04", "d02"]})
    (one,) = build_dev_lists([QUERIES[0]], labels)
    assert (one.relevances, one.missed, one.missed_documents) == ((0, 1, 1), (1,), ("text of d09",))
    assert one.parents == ("d12", "A", "A", "d09")
