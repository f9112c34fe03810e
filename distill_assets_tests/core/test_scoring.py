"""The scoring engine: each pair once and in order, chunk by chunk, and nothing damaged handed on."""

from collections.abc import Sequence

import numpy as np
import pytest

from distill_assets.core.errors import NonFiniteError, ShapeError
from distill_assets.core.scoring import ScoringProgress, score_in_chunks

PAIRS = [(f"query {i}", "x" * i) for i in range(10)]


class LengthScorer:
    """Scores a pair by the length of its document; remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """One logit per pair."""
        self.calls.append(len(pairs))
        return np.array([len(document) for _, document in pairs], dtype=np.float64)


@pytest.mark.parametrize(("chunk_size", "sizes"), [(4, [4, 4, 2]), (5, [5, 5]), (10, [10]), (99, [10]), (1, [1] * 10)])
def test_every_pair_is_scored_once_in_order(chunk_size: int, sizes: list[int]) -> None:
    """A boundary off by one scores a pair twice or never, and shifts every later logit to another pair."""
    scorer = LengthScorer()
    found = list(score_in_chunks(PAIRS, scorer, chunk_size=chunk_size))
    assert scorer.calls == sizes
    assert [start for start, _ in found] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert np.concatenate([logits for _, logits in found]).tolist() == list(range(10))
    assert all(logits.dtype == np.float32 for _, logits in found)


def test_no_pairs_need_no_model() -> None:
    """A scorer called with nothing fails inside torch."""
    scorer = LengthScorer()
    assert list(score_in_chunks([], scorer, chunk_size=4)) == []
    assert scorer.calls == []


def test_each_chunk_is_handed_over_before_the_next_is_paid_for() -> None:
    """Scoring everything first would lose hours to a kill: the store commits between two chunks."""
    scorer = LengthScorer()
    chunks = score_in_chunks(PAIRS, scorer, chunk_size=4)
    next(chunks)
    assert scorer.calls == [4]
    next(chunks)
    assert scorer.calls == [4, 4]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_damaged_chunk_is_refused_and_names_its_pair(value: float) -> None:
    """One NaN in the store is looked up for ever; the good chunks before it must still arrive."""

    def scorer(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.array([value if query == "query 6" else 1.0 for query, _ in pairs])

    found = []
    with pytest.raises(NonFiniteError, match=r"1 of 4 .*'query 6'"):
        for start, logits in score_in_chunks(PAIRS, scorer, chunk_size=4):
            found.append((start, logits.tolist()))
    assert found == [(0, [1.0] * 4)]


@pytest.mark.parametrize("shape", [(3,), (4, 1), (4, 2)])
def test_a_scorer_with_another_number_of_logits_is_refused(shape: tuple[int, ...]) -> None:
    """Three logits for four pairs would be committed to the first three, whichever they belong to."""
    with pytest.raises(ShapeError, match="expected"):
        list(score_in_chunks(PAIRS, lambda pairs: np.ones(shape), chunk_size=4))


def test_progress_counts_to_the_end() -> None:
    """A bar that ends at 80 % or goes past 100 % tells the user to wait for nothing."""
    seen: list[ScoringProgress] = []
    list(score_in_chunks(PAIRS, LengthScorer(), chunk_size=4, on_progress=seen.append))
    assert [(p.num_done, p.num_pairs) for p in seen] == [(4, 10), (8, 10), (10, 10)]
    assert all(p.pairs_per_s > 0 for p in seen)


def test_time_left() -> None:
    """30 of 100 pairs at 2 a second leave 35 s; no speed yet must not divide by zero."""
    assert ScoringProgress(30, 100, 2.0).seconds_left == 35.0
    assert ScoringProgress(0, 100, 0.0).seconds_left == float("inf")
