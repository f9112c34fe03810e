"""The scoring engine: pairs in, raw teacher logits out, in bounded memory, chunk by chunk."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from distill_assets.core.errors import NonFiniteError, ShapeError


class PairScorer(Protocol):
    """Anything that scores (query text, document text) pairs with raw logits, float32 (len(pairs),)."""

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Score the pairs, in the order given."""
        ...


@dataclass(frozen=True, slots=True)
class ScoringProgress:
    """How far scoring is: pairs done of all, and pairs per second since the start."""

    num_done: int
    num_pairs: int
    pairs_per_s: float

    @property
    def seconds_left(self) -> float:
        """Time left at the speed so far, in seconds."""
        return (self.num_pairs - self.num_done) / self.pairs_per_s if self.pairs_per_s > 0 else float("inf")


def score_in_chunks(
    pairs: Sequence[tuple[str, str]],
    scorer: PairScorer,
    *,
    chunk_size: int,
    on_progress: Callable[[ScoringProgress], None] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, logits) per chunk of `pairs`, so that the caller can commit each before the next is paid for.

    Raises:
        NonFiniteError: a logit is NaN or infinite; nothing of its chunk is yielded.
        ShapeError: the scorer gave another number of logits than it got pairs.
    """
    started = time.perf_counter()
    for start in range(0, len(pairs), chunk_size):
        chunk = pairs[start : start + chunk_size]
        logits = np.asarray(scorer(chunk), dtype=np.float32)
        if logits.shape != (len(chunk),):
            raise ShapeError(
                f"the teacher gave logits of shape {logits.shape} for {len(chunk)} pairs: expected ({len(chunk)},)"
            )
        if not np.isfinite(logits).all():
            first = chunk[int(np.flatnonzero(~np.isfinite(logits))[0])]
            raise NonFiniteError(
                f"{(~np.isfinite(logits)).sum()} of {len(chunk)} teacher logits are not finite, first for query {first[0][:80]!r}: "
                "the teacher's weights are damaged, or it overflows in half precision"
            )
        yield start, logits
        if on_progress is not None:
            done = start + len(chunk)
            on_progress(ScoringProgress(done, len(pairs), done / max(1e-9, time.perf_counter() - started)))
