"""A teacher of several members, scaled to the same spread: a cross-encoder and a bi-encoder's cosine, or several cross-encoders.

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


def mean_weights(scores: Sequence[Sequence[Sequence[float]]]) -> list[float]:
    """The weights with which several scorers' logits add up to the mean of standardised ones, in the units of the first.

    weight_i = spread_0 / spread_i / n. What divides all of them changes no ranking; so it is the first one's spread, and temperatures
    mean what they mean for that one alone. In another order, the mean is the same but for its unit.

    Args:
        scores: of each scorer, one list of candidate scores per query, in the same order.

    Raises:
        TrainingError: a scorer gives all candidates of every query the same score.
    """
    spreads = [spread_within(of_one) for of_one in scores]
    for number, spread in enumerate(spreads, start=1):
        if not spread > 0:
            raise TrainingError(
                f"teacher {number} of {len(spreads)} gives all dev candidates of a query the same score: there is nothing to join; "
                "leave it out"
            )
    return [spreads[0] / spread / len(spreads) for spread in spreads]


def spread_within(scores: Sequence[Sequence[float] | np.ndarray]) -> float:
    """Root mean variance of the scores of one query: how far a scorer pulls its documents apart. One list per query."""
    return float(np.sqrt(np.mean([np.var(group) for group in scores])))
