"""The scoring engine: each pair once and in order, chunk by chunk, and nothing damaged handed on."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.models.scoring import PairScorer, score_in_chunks

PAIRS = [(f"query {i}", "x" * i) for i in range(10)]


class LengthScorer:
    """Scores a pair by the length of its document; remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """One logit per pair."""
        self.calls.append(len(pairs))
        return np.array([len(document) for _, document in pairs], dtype=np.float64)


def chunks_of(scorer: PairScorer, *, window: int, chunk_size: int = 100, chunk_seconds: float = 1e9) -> Iterator[Any]:
    """PAIRS in windows, through the engine; as (pairs of the chunk, logits)."""
    windows = (PAIRS[start : start + window] for start in range(0, len(PAIRS), window))
    found = score_in_chunks(windows, scorer, chunk_size=chunk_size, chunk_seconds=chunk_seconds, texts_of=list)
    return (([pair for window in part for pair in window], logits) for part, logits in found)


@pytest.mark.parametrize(
    ("window", "chunk_size", "sizes"),
    [
        (4, 4, [4, 4, 2]),
        (2, 4, [2, 4, 4]),
        (2, 5, [2, 4, 4]),
        (3, 99, [3, 7]),
        (10, 4, [10]),
        (99, 99, [10]),
        (1, 1, [1] * 10),
    ],
)
def test_every_pair_is_scored_once_in_order(window: int, chunk_size: int, sizes: list[int]) -> None:
    """A boundary off by one scores a pair twice or never, and shifts every later logit to another pair."""
    scorer = LengthScorer()
    found = list(chunks_of(scorer, window=window, chunk_size=chunk_size))
    assert scorer.calls == sizes
    assert [pair for part, _ in found for pair in part] == PAIRS
    assert np.concatenate([logits for _, logits in found]).tolist() == list(range(10))
    assert all(logits.dtype == np.float32 for _, logits in found)


def test_a_slow_teacher_commits_after_every_window() -> None:
    """At one pair a second a chunk of 65,536 pairs would lose 18 hours to a kill."""
    scorer = LengthScorer()
    list(chunks_of(scorer, window=2, chunk_seconds=1e-12))
    assert scorer.calls == [2] * 5


def test_no_pairs_need_no_model() -> None:
    """A scorer called with nothing fails inside torch."""
    scorer = LengthScorer()
    assert list(score_in_chunks([], scorer, chunk_size=4, chunk_seconds=1.0, texts_of=list)) == []
    assert scorer.calls == []


def test_each_chunk_is_handed_over_before_the_next_is_paid_for() -> None:
    """Scoring everything first would lose hours to a kill: the store commits between two chunks."""
    scorer = LengthScorer()
    chunks = chunks_of(scorer, window=4, chunk_size=4)
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
        for part, logits in chunks_of(scorer, window=4, chunk_size=4):
            found.append((part, logits.tolist()))
    assert found == [(PAIRS[:4], [1.0] * 4)]


@pytest.mark.parametrize("shape", [(3,), (4, 1), (4, 2)])
def test_a_scorer_with_another_number_of_logits_is_refused(shape: tuple[int, ...]) -> None:
    """Three logits for four pairs would be committed to the first three, whichever they belong to."""
    with pytest.raises(ShapeError, match="expected"):
        list(chunks_of(lambda pairs: np.ones(shape), window=4))
