"""A teacher of two members: the cross-encoder's logit plus a bi-encoder's cosine, scaled to the same spread.

On short documents one vector loses little, and a cross-encoder grown from few labels makes other mistakes than the encoder it
came from. The mean of standardised scores is the usual way to join rankers without training (Hofstaetter et al. 2020 average
three cross-encoders). Within a query a common shift changes no ranking, so only the spreads matter, and those are constants:
the joined score of a pair stays a function of its two texts alone, and may be kept for ever in the pair-score store.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distill_assets.core.errors import TrainingError
from distill_assets.core.scoring import PairScorer, window_of

Cosines = Callable[[Sequence[tuple[str, str]]], np.ndarray]


@dataclass(frozen=True)
class CosineEnsemble:
    """Scores a pair as logit + cosine_weight * cosine; a `PairScorer`, in the units of the logit."""

    scorer: PairScorer
    cosines: Cosines
    cosine_weight: float

    @property
    def window(self) -> int:
        """Pairs that the cross-encoder sorts together."""
        return window_of(self.scorer)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Joined scores, float32 (len(pairs),), in the order given.

        Cosines are asked for window by window: which texts an encoder embeds together moves the last bits of their vectors, and how
        many windows come at once depends on the time that scoring takes.
        """
        windows = [pairs[start : start + self.window] for start in range(0, len(pairs), self.window)]
        cosines = np.concatenate([self.cosines(window) for window in windows]) if windows else np.empty(0, np.float32)
        return np.asarray(self.scorer(pairs) + self.cosine_weight * cosines, dtype=np.float32)


def balance_spreads(logits: Sequence[Sequence[float]], cosines: Sequence[Sequence[float]]) -> float:
    """The weight that gives cosines the spread of logits: ratio of their root mean within-query variances.

    Both hold one list of candidate scores per query, in the same order.

    Raises:
        TrainingError: the cosines of every query are constant: there is nothing to join.
    """
    logit_spread, cosine_spread = spread_within(logits), spread_within(cosines)
    if not cosine_spread > 0:
        raise TrainingError(
            "the student's cosines are equal for all candidates of a query: the encoder's output has collapsed"
        )
    return logit_spread / cosine_spread


def spread_within(scores: Sequence[Sequence[float] | np.ndarray]) -> float:
    """Root mean variance of the scores of one query: how far a scorer pulls its documents apart. One list per query."""
    return float(np.sqrt(np.mean([np.var(group) for group in scores])))
