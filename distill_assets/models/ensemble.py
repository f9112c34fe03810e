"""A teacher of two members: the cross-encoder's logit plus a bi-encoder's cosine, scaled to the same spread.

On short documents one vector loses little, and a cross-encoder grown from few labels makes other mistakes than the encoder it
came from. The mean of standardised scores is the usual way to join rankers without training (Hofstaetter et al. 2020 average
three cross-encoders). Within a query a common shift changes no ranking, so only the spreads matter, and those are constants of the
teacher. The pair-score store keeps what each member said; they are joined on reading (`storage/pair_scores.py`).
"""

from collections.abc import Sequence

import numpy as np

from distill_assets.errors import TrainingError


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
