"""The scoring engine: pairs in, raw teacher logits out, in bounded memory, chunk by chunk."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from distill_assets.errors import NonFiniteError, ShapeError

W = TypeVar("W")
DEFAULT_WINDOW = 1024


class PairScorer(Protocol):
    """Anything that scores (query text, document text) pairs with raw logits, float32 (len(pairs),)."""

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Score the pairs, in the order given."""
        ...


def window_of(scorer: PairScorer) -> int:
    """How many pairs the scorer sorts by length together: windows of this size give the same logits in every run."""
    return int(getattr(scorer, "window", DEFAULT_WINDOW))


def score_in_chunks(
    windows: Iterable[W],
    scorer: PairScorer,
    *,
    chunk_size: int,
    chunk_seconds: float,
    texts_of: Callable[[W], Sequence[tuple[str, str]]],
) -> Iterator[tuple[list[W], np.ndarray]]:
    """Yield the windows of each chunk with their logits, so that the caller can commit each before the next is paid for.

    A chunk is as many whole windows as were scored in `chunk_seconds` at the speed so far, `chunk_size` pairs at the most and
    one window at the least. Chunks end where windows end, so a run that goes on after a kill sees the windows it would
    have seen.

    Raises:
        NonFiniteError: a logit is NaN or infinite; nothing of its chunk is yielded.
        ShapeError: the scorer gave another number of logits than it got pairs.
    """
    part: list[W] = []
    pairs: list[tuple[str, str]] = []
    limit, pairs_per_s = 1, 0.0
    for window in windows:
        texts = texts_of(window)
        if pairs and len(pairs) + len(texts) > limit:
            logits, pairs_per_s = _score_chunk(pairs, scorer)
            yield part, logits
            limit, part, pairs = min(chunk_size, int(pairs_per_s * chunk_seconds)), [], []
        part.append(window)
        pairs.extend(texts)
    if part:
        yield part, _score_chunk(pairs, scorer)[0]


def _score_chunk(pairs: Sequence[tuple[str, str]], scorer: PairScorer) -> tuple[np.ndarray, float]:
    """Checked logits, and pairs per second."""
    started = time.perf_counter()
    logits = np.asarray(scorer(pairs), dtype=np.float32)
    if logits.shape != (len(pairs),):
        raise ShapeError(
            f"the teacher gave logits of shape {logits.shape} for {len(pairs)} pairs: expected ({len(pairs)},)"
        )
    if not np.isfinite(logits).all():
        first = pairs[int(np.flatnonzero(~np.isfinite(logits))[0])]
        raise NonFiniteError(
            f"{(~np.isfinite(logits)).sum()} of {len(pairs)} teacher logits are not finite, first for query {first[0][:80]!r}: "
            "the teacher's weights are damaged, or it overflows in half precision"
        )
    return logits, len(pairs) / max(1e-9, time.perf_counter() - started)
