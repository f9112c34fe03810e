"""Cross-fitting: which fold scores which query, and that nothing else moves a score."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distill_assets.core.cross_fitting import CrossFittedScorer, Fold, fold_of, query_key


class _Lengths:
    """Scores a pair by the length of its texts times a factor, and remembers what it was asked."""

    def __init__(self, factor: float, window: int = 4) -> None:
        self.factor = factor
        self.window = window
        self.calls: list[list[tuple[str, str]]] = []

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        self.calls.append(list(pairs))
        return np.array([self.factor * (len(q) + len(d)) for q, d in pairs], dtype=np.float32)


def _scorer(members: Sequence[_Lengths], *seen: set[str]) -> CrossFittedScorer:
    keys = [frozenset(map(query_key, texts)) for texts in seen]
    return CrossFittedScorer([Fold(member, 1.0, found) for member, found in zip(members, keys, strict=True)])


def test_a_query_is_scored_by_the_folds_that_never_saw_its_label() -> None:
    """A fold that was trained on the label repeats it, and distillation teaches no more than the label did."""
    members = [_Lengths(1.0), _Lengths(10.0)]
    scorer = _scorer(members, {"seen by 0"}, {"seen by 1"})
    pairs = [("seen by 0", "a"), ("seen by 1", "a"), ("new", "a")]
    assert scorer(pairs).tolist() == [100.0, 10.0, (4 + 40) / 2]
    assert members[0].calls == [[("seen by 1", "a"), ("new", "a")]]
    assert members[1].calls == [[("seen by 0", "a"), ("new", "a")]]


def test_a_query_that_every_fold_saw_is_scored_by_all() -> None:
    """Divided by no fold at all, its logits would be NaN and its list lost."""
    assert _scorer([_Lengths(1.0), _Lengths(10.0)], {"q"}, {"q"})([("q", "ab")]).tolist() == [(3 + 30) / 2]


def test_scales_make_folds_spread_alike() -> None:
    """Without them the mean is the loudest fold's ranking."""
    scorer = CrossFittedScorer([Fold(_Lengths(1.0), 1.0, frozenset()), Fold(_Lengths(10.0), 0.1, frozenset())])
    assert scorer([("q", "abc")]).tolist() == [4.0]


def test_the_same_sentence_in_other_letters_counts_as_seen() -> None:
    """NumPy writes "Return x." where pandas writes "return x": one would be trained on and scored as if it were new."""
    assert query_key("Return the sum.") == query_key("return the sum")
    assert query_key("Return the sum") != query_key("Return the sums")
    assert all(fold_of(f"Return {i}.", 4) == fold_of(f"return {i}", 4) for i in range(50))
    assert {fold_of(f"Return {i}.", 4) for i in range(50)} == {0, 1, 2, 3}


def test_nothing_to_score_is_an_empty_result() -> None:
    """A batch whose pairs are all known must not fail."""
    assert _scorer([_Lengths(1.0)], set())([]).shape == (0,)


@given(st.lists(st.integers(0, 30), max_size=23), st.integers(1, 5))
def test_what_is_batched_together_does_not_depend_on_how_many_pairs_come_at_once(
    lengths: list[int], windows_at_once: int
) -> None:
    """The store keeps a score for ever: its last bits may not hang on how fast the machine was when it was computed."""
    members = [_Lengths(1.0), _Lengths(10.0)]
    scorer = _scorer(members, {f"q{i}" for i in range(0, 30, 2)}, {f"q{i}" for i in range(0, 30, 3)})
    pairs = [(f"q{n}", "d" * n) for n in lengths]
    step = windows_at_once * scorer.window
    parts = [scorer(pairs[start : start + step]) for start in range(0, len(pairs), step)]
    in_parts = [member.calls.copy() for member in members]
    for member in members:
        member.calls.clear()
    assert np.array_equal(scorer(pairs), np.concatenate([*parts, np.empty(0, np.float32)]))
    assert [member.calls for member in members] == in_parts
