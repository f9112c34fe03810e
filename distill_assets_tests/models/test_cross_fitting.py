"""Cross-fitting: which fold scores which query, and with what share."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distill_assets.models.cross_fitting import fold_of, outside_fold, query_key, shares_of
from distill_assets.records import Query


def shares(texts: list[str], *seen: set[str]) -> list[list[float]]:
    """Shares of folds that saw the labels of these texts."""
    return shares_of(texts, [frozenset(map(query_key, found)) for found in seen]).tolist()


def test_a_query_is_scored_by_the_folds_that_never_saw_its_label() -> None:
    """A fold that was trained on the label repeats it, and distillation teaches no more than the label did."""
    texts = ["seen by 0", "seen by 1", "new", "seen by 0 and 2"]
    found = shares(texts, {"seen by 0", "seen by 0 and 2"}, {"seen by 1"}, {"seen by 0 and 2"})
    assert found == [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.0, 1.0, 0.0]]


def test_a_query_that_every_fold_saw_is_scored_by_all() -> None:
    """Divided by no fold at all, its logits would be NaN and its list lost."""
    assert shares(["q"], {"q"}, {"q"}) == [[0.5, 0.5]]


def test_the_same_sentence_in_other_letters_counts_as_seen() -> None:
    """NumPy writes "Return x." where pandas writes "return x": one would be trained on and scored as if it were new."""
    assert query_key("Return the sum.") == query_key("return the sum")
    assert query_key("Return the sum") != query_key("Return the sums")
    assert shares(["return THE sum."], {"Return the sum"}, set()) == [[0.0, 1.0]]
    assert all(fold_of(f"Return {i}.", 4) == fold_of(f"return {i}", 4) for i in range(50))
    assert {fold_of(f"Return {i}.", 4) for i in range(50)} == {0, 1, 2, 3}


def test_each_query_is_left_out_by_one_fold_and_one_fold_alone_sees_all() -> None:
    """A query that no fold leaves out is scored by models that were trained on its label."""
    queries = [Query(f"q{i}", f"Return {i}", "train") for i in range(40)]
    seen = [{query.query_id for query in outside_fold(queries, 3, fold)} for fold in range(3)]
    assert all(sum(query.query_id not in part for part in seen) == 1 for query in queries)
    assert outside_fold(queries, 1, 0) == queries


def test_no_query_has_no_shares() -> None:
    """A batch whose pairs are all known must not fail."""
    assert shares_of([], [frozenset(), frozenset()]).shape == (0, 2)


SEEN = st.lists(st.sets(st.integers(0, 8)), min_size=1, max_size=4)


@given(st.lists(st.integers(0, 8), max_size=12), SEEN)
def test_shares_are_equal_and_add_up_to_one(numbers: list[int], seen: list[set[int]]) -> None:
    """Shares that add up to less pull a query's logits together: its soft label says that nothing stands out."""
    found = shares_of([f"q{n}" for n in numbers], [frozenset(query_key(f"q{n}") for n in part) for part in seen])
    assert np.allclose(found.sum(axis=1), 1.0)
    for number, row in zip(numbers, found, strict=True):
        may_score = [number not in part for part in seen]
        expected = may_score if any(may_score) else [True] * len(seen)
        assert (row > 0).tolist() == expected and len(set(row[row > 0].tolist())) == 1
