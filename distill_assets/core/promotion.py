"""The gate: when does the champion, the student that search uses, give way to a candidate?

The best recipe on dev is the candidate. The first champion is promoted without a test: there is nothing to be worse
than. After that a candidate must be shown to be *not worse*: on the same dev queries, a one-sided paired randomisation
test has to reject "the candidate loses `margin` nDCG@10 or more" at level `alpha`. It need not be better, so that a
student trained on fresher data can move in; the burden of proof is the candidate's, so that noise cannot swap
champions. With 200 dev queries whose differences have a standard deviation of 0.25 and a margin of 0.01, that asks for
a gain of about 0.02 (1.645 x 0.25 / sqrt(200) - 0.01); asking for less takes more dev queries or a wider margin.

Whether candidate and champion are one model is the caller's question (equal fingerprints: nothing to decide).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distill_assets.core.errors import NonFiniteError, PromotionError
from distill_assets.core.significance import non_inferiority_test


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided, in words and numbers.

    `mean_difference` is candidate minus champion in dev nDCG@10; it and `p_value` are None for a first champion.
    """

    promote: bool
    reason: str
    mean_difference: float | None
    p_value: float | None
    num_queries: int


def choose_candidate(dev_means: Mapping[str, float]) -> str:
    """The recipe with the highest mean dev nDCG@10; of equal ones, the first by name.

    Raises:
        PromotionError: there is no recipe.
        NonFiniteError: a mean is NaN or infinite.
    """
    if not dev_means:
        raise PromotionError("no recipe has been evaluated on dev: materialise eval_metrics first")
    broken = sorted(name for name, mean in dev_means.items() if not math.isfinite(mean))
    if broken:
        raise NonFiniteError(
            f"the dev nDCG@10 of {', '.join(broken)} is not finite: materialise eval_metrics of it again"
        )
    return min(dev_means, key=lambda name: (-dev_means[name], name))


def decide_promotion(
    candidate: Mapping[str, float],
    champion: Mapping[str, float] | None,
    *,
    margin: float = 0.01,
    alpha: float = 0.05,
    seed: int,
) -> Decision:
    """Whether the candidate becomes champion; the rule is this module's docstring.

    Args:
        candidate: dev nDCG@10 by query_id.
        champion: the same of the present champion, or None where there is no champion yet.
        margin: nDCG@10 by which a candidate may be worse, at least 0; 0 asks for a candidate that is better.
        alpha: level of the test, above 0 and below 1.
        seed: of the test's sampled sign patterns.

    Raises:
        PromotionError: no dev query, or the two were evaluated on different queries.
        NonFiniteError: a value is NaN or infinite.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be above 0 and below 1, got {alpha}")
    if not candidate:
        raise PromotionError("the candidate has no dev query: the gate cannot decide; give the collection a dev split")
    if champion is None:
        return Decision(True, "first champion: there is none to compare it with", None, None, len(candidate))
    _require_same_queries(candidate, champion)
    query_ids = sorted(candidate)
    ours = np.array([candidate[query_id] for query_id in query_ids], dtype=np.float64)
    theirs = np.array([champion[query_id] for query_id in query_ids], dtype=np.float64)
    p_value = non_inferiority_test(ours, theirs, margin=margin, seed=seed)
    difference = float((ours - theirs).mean())
    promote = p_value <= alpha
    reason = _explain(promote, difference, p_value, len(query_ids), margin, alpha)
    return Decision(promote, reason, difference, p_value, len(query_ids))


def _explain(promote: bool, difference: float, p_value: float, num_queries: int, margin: float, alpha: float) -> str:
    shown = "not worse than" if promote else "not shown to be no worse than"
    test = (
        f"dev nDCG@10 {difference:+.4f} on {num_queries} queries, margin {margin:g}, p = {p_value:.4f}, alpha {alpha:g}"
    )
    too_few = not promote and 2.0**-num_queries > alpha
    return f"{shown} the champion: {test}" + ("; no result on so few queries could pass" if too_few else "")


def _require_same_queries(candidate: Mapping[str, float], champion: Mapping[str, float]) -> None:
    """A mean over other queries is another measure: an easy query less would look like a worse model."""
    only_candidate, only_champion = sorted(set(candidate) - set(champion)), sorted(set(champion) - set(candidate))
    if only_candidate or only_champion:
        raise PromotionError(
            f"candidate and champion were evaluated on different dev queries: {len(only_candidate)} only by the "
            f"candidate {only_candidate[:3]}, {len(only_champion)} only by the champion {only_champion[:3]}; "
            "evaluate both again"
        )
