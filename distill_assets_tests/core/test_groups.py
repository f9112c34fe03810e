"""Groups: what each query draws, and that it never depends on its neighbours."""

import pytest

from distill_assets.core.errors import MissingPartitionError
from distill_assets.core.groups import (
    DevGroup,
    Labels,
    TrainingGroup,
    build_dev_groups,
    build_student_groups,
    build_teacher_groups,
)
from distill_assets.core.records import Query

DOC_IDS = [f"d{i:02d}" for i in range(40)]
QUERIES = [Query(f"q{i}", f"query {i}", "train") for i in range(6)]


def make_labels(**changes: object) -> Labels:
    """Query i is answered by documents i and i + 6; its mined negatives are 12 .. 16, best first."""
    values = {
        "positives": {f"q{i}": [DOC_IDS[i], DOC_IDS[i + 6]] for i in range(6)},
        "negatives": {f"q{i}": DOC_IDS[12:17] for i in range(6)},
        "content_of": {doc_id: f"text of {doc_id}" for doc_id in DOC_IDS},
    }
    return Labels(**{**values, **changes})  # type: ignore[arg-type]


def test_student_groups_take_the_best_mined_negatives_in_order() -> None:
    """Negatives in another order than the teacher's logits pair each text with a foreign score."""
    labels = make_labels(positives={"q0": ["d00"]})
    logits = {("q0", "d00"): 9.0, ("q0", "d12"): 3.0, ("q0", "d13"): 2.0}
    assert build_student_groups(QUERIES[:1], labels, num_negatives=2, seed=1, logit_of=logits) == [
        TrainingGroup("q0", "query 0", ("text of d00", "text of d12", "text of d13"), (9.0, 3.0, 2.0))
    ]


def test_student_groups_without_a_teacher_carry_no_logits() -> None:
    """Zeros in place of None would be fitted as if a teacher had said them."""
    groups = build_student_groups(QUERIES, make_labels(), num_negatives=1, seed=1)
    assert len(groups) == 6 and all(group.teacher_logits is None for group in groups)


def test_student_groups_do_not_depend_on_neighbours_or_listing_order() -> None:
    """One random stream over all queries would give every later query other positives when one is added."""
    labels = make_labels()
    all_groups = {g.query_id: g for g in build_student_groups(QUERIES, labels, num_negatives=3, seed=1)}
    fewer = build_student_groups(QUERIES[3:], labels, num_negatives=3, seed=1)
    assert fewer == [all_groups[q.query_id] for q in QUERIES[3:]]
    backwards = make_labels(positives={q: list(reversed(p)) for q, p in labels.positives.items()})
    assert build_student_groups(QUERIES, backwards, num_negatives=3, seed=1) == list(all_groups.values())


def test_student_groups_choose_the_positive_by_seed() -> None:
    """A choice that always takes the first positive never trains on the second."""
    chosen = {
        g.documents[0]
        for seed in range(8)
        for g in build_student_groups(QUERIES[:1], make_labels(), num_negatives=1, seed=seed)
    }
    assert chosen == {"text of d00", "text of d06"}


def test_student_groups_leave_out_queries_that_cannot_fill_a_row() -> None:
    """A short row would shift columns or fail in the trainer after the first batches; no positive has nothing to learn."""
    labels = make_labels(
        positives={"q0": ["d00"], "q1": ["d01"], "q2": []},
        negatives={"q0": ["d12"], "q1": ["d12", "d13"], "q2": ["d12", "d13"]},
    )
    assert [g.query_id for g in build_student_groups(QUERIES, labels, num_negatives=2, seed=1)] == ["q1"]


def test_student_groups_name_missing_logits() -> None:
    """A default of 0 for a pair that was never scored would be trained on as a verdict."""
    labels = make_labels(positives={"q0": ["d00"]})
    with pytest.raises(MissingPartitionError, match=r"'q0': 2 of its 3 .* first 'd12'.*scored_negatives"):
        build_student_groups(QUERIES[:1], labels, num_negatives=2, seed=1, logit_of={("q0", "d00"): 1.0})


def test_teacher_groups_hold_a_positive_then_hard_then_random_documents() -> None:
    """A positive among the negatives, or twice the same document, teaches the teacher a contradiction."""
    labels = make_labels()
    groups = build_teacher_groups(QUERIES, labels, num_hard=3, num_random=4, epochs=2, seed=5)
    assert [g.query_id for g in groups] == [q.query_id for q in QUERIES] * 2
    for group in groups:
        doc_ids = [text.removeprefix("text of ") for text in group.documents]
        assert len(doc_ids) == len(set(doc_ids)) == 8
        assert doc_ids[0] in labels.positives[group.query_id]
        assert set(doc_ids[1:4]) <= set(DOC_IDS[12:17])
        assert not set(doc_ids[1:]) & set(labels.positives[group.query_id])


def test_teacher_groups_are_the_same_again_and_new_each_epoch() -> None:
    """The same draw in each epoch wastes the second one; another draw on each call makes the teacher unrepeatable."""
    arguments = {"num_hard": 3, "num_random": 2, "epochs": 2, "seed": 5}
    groups = build_teacher_groups(QUERIES, make_labels(), **arguments)
    assert groups == build_teacher_groups(QUERIES, make_labels(), **arguments)
    assert groups[:6] != groups[6:]
    assert groups != build_teacher_groups(QUERIES, make_labels(), **{**arguments, "seed": 50})


def test_teacher_groups_do_not_depend_on_neighbours() -> None:
    """Adding a query must leave what the others draw alone, or no two teachers could be compared."""
    everything = build_teacher_groups(QUERIES, make_labels(), num_hard=3, num_random=2, epochs=1, seed=5)
    assert (
        build_teacher_groups(QUERIES[2:4], make_labels(), num_hard=3, num_random=2, epochs=1, seed=5) == everything[2:4]
    )


def test_teacher_groups_leave_out_queries_with_too_few_mined_negatives() -> None:
    """`random.sample` would raise on the first such query and stop the whole teacher."""
    labels = make_labels(negatives={"q0": DOC_IDS[12:14], "q1": DOC_IDS[12:15]})
    assert [g.query_id for g in build_teacher_groups(QUERIES, labels, num_hard=3, num_random=0, epochs=1, seed=5)] == [
        "q1"
    ]


def test_teacher_groups_of_a_tiny_corpus_have_one_width() -> None:
    """A corpus with too few other documents must give narrower groups of one width, never a ragged table or a hang."""
    content_of = {doc_id: doc_id for doc_id in ["d00", "d12", "d13", "d14"]}
    labels = Labels({"q0": ["d00"]}, {"q0": ["d12", "d13"]}, content_of)
    groups = build_teacher_groups(QUERIES[:1], labels, num_hard=2, num_random=5, epochs=3, seed=5)
    assert len(groups) == 3
    assert all(set(group.documents) == set(content_of) and len(group.documents) == 4 for group in groups)


def test_dev_groups_hold_all_positives_and_all_mined() -> None:
    """A dev group without its second positive scores a model that finds it as if it had failed."""
    labels = make_labels(negatives={"q0": ["d12", "d13"]})
    assert build_dev_groups(QUERIES, labels) == [
        DevGroup("q0", "query 0", ("text of d00", "text of d06", "text of d12", "text of d13"), (1, 1, 0, 0))
    ]
