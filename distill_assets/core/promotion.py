"""The gate: when does the champion, the student that search uses, give way to a candidate?

The best recipe on dev is the candidate. Where there is no champion yet, it is promoted without a test. After that it must
be shown to be *not worse*, on the same dev queries, than two students: the present champion, and the best champion so
far. For each of them `non_inferiority_test` has to reject "the candidate loses `margin` nDCG@10 or more". The candidate
need not be better, so that a student trained on fresher data can move in.

- p-values are multiplied by the number of recipes (Bonferroni), because the best of them was picked on the same queries.
  Where each test errs in a share `alpha` of the cases at most, so does the choice, however the recipes correlate.
- Both comparisons have to pass, so no further correction is due (Berger 1982, "Multiparameter hypothesis testing and
  acceptance sampling": intersection-union test).
- The best champion so far keeps small losses from adding up: twenty steps of 0.004 are 0.08 below it.

Levels and power are simulated by `python -m benchmarks.gate`. Whether candidate and champion are one model is the
caller's question (equal fingerprints: nothing to decide).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from distill_assets.core.errors import NonFiniteError, PromotionError
from distill_assets.core.significance import non_inferiority_test

_PRESENT, _BEST = "the present champion", "the best champion so far"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided about the recipe `candidate`, in a sentence and in numbers.

    `p_value` is the larger of the adjusted ones, which decided; it is None for a first champion.
    """

    candidate: str
    promote: bool
    reason: str
    p_value: float | None


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Candidate against one champion: mean difference in nDCG@10, adjusted p-value."""

    champion: str
    difference: float
    p_value: float


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
    candidates: Mapping[str, Mapping[str, float]],
    present: Mapping[str, float] | None,
    best: Mapping[str, float] | None,
    *,
    margin: float,
    alpha: float,
) -> Decision:
    """Whether the best of the candidates becomes champion; the rule is this module's docstring. It draws nothing at random.

    Args:
        candidates: dev nDCG@10 by query_id, of every recipe that could become champion.
        present: the same of the present champion; None where there is none yet.
        best: the same of the best champion so far; None where that is the present one.
        margin: nDCG@10 by which a candidate may be worse, at least 0 and below 1; 0 asks for one that is better.
        alpha: level of the gate, above 0 and below 1.

    Raises:
        PromotionError: no recipe, no dev query, or students that were evaluated on different queries.
        NonFiniteError: a value is NaN or infinite.
        ValueError: `margin` or `alpha` is out of its range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be above 0 and below 1, got {alpha}")
    champions = {label: values for label, values in ((_PRESENT, present), (_BEST, best)) if values is not None}
    _require_same_queries({**candidates, **champions})
    means = {name: math.fsum(values.values()) / len(values) for name, values in candidates.items()}
    candidate = choose_candidate(means)
    if not champions:
        return Decision(candidate, True, f"{candidate} is the first champion: there is none to compare it with", None)
    compared = [
        _compare(candidates[candidate], values, label, margin=margin, num_recipes=len(candidates))
        for label, values in champions.items()
    ]
    num_queries = len(candidates[candidate])
    p_value = max(comparison.p_value for comparison in compared)
    reason = _explain(candidate, compared, margin=margin, alpha=alpha)
    reason += f" Dev queries: {num_queries}; recipes to choose from: {len(candidates)}."
    # No result says more than every query going from 0 to 1: the most likely loser has (1 - margin) / 2 of those.
    if len(candidates) * ((1 - margin) / 2) ** num_queries > alpha:
        reason += " No result on so few queries could pass."
    return Decision(candidate, p_value <= alpha, reason, p_value)


def _compare(
    candidate: Mapping[str, float], champion: Mapping[str, float], label: str, *, margin: float, num_recipes: int
) -> _Comparison:
    query_ids = sorted(candidate)
    ours, theirs = ([values[query_id] for query_id in query_ids] for values in (candidate, champion))
    difference = (math.fsum(ours) - math.fsum(theirs)) / len(query_ids)
    return _Comparison(label, difference, min(1.0, num_recipes * non_inferiority_test(ours, theirs, margin=margin)))


def _explain(candidate: str, compared: list[_Comparison], *, margin: float, alpha: float) -> str:
    """One sentence; a refusal names the champions that were not matched first, and the others are still shown."""
    failed = [comparison.champion for comparison in compared if comparison.p_value > alpha]
    promoted = f"{'not promoted' if failed else 'promoted'}: a loss of {margin:g} nDCG@10 or more is"
    against = " and ".join(failed or [comparison.champion for comparison in compared])
    numbers = "; ".join(f"{c.difference:+.4f} against {c.champion}, p = {c.p_value:.4f}" for c in compared)
    return (
        f"{candidate} is {promoted} {'not ' if failed else ''}ruled out against {against} "
        f"(dev nDCG@10 {numbers}; p at most {alpha:g} is asked for)."
    )


def _require_same_queries(students: Mapping[str, Mapping[str, float]]) -> None:
    """A mean over other queries is another measure: an easy query less would look like a worse model."""
    first = next(iter(students), "")
    for name, values in students.items():
        if not values:
            raise PromotionError(f"{name} has no dev query: the gate cannot decide; give the collection a dev split")
        missing, extra = sorted(students[first].keys() - values.keys()), sorted(values.keys() - students[first].keys())
        if missing or extra:
            raise PromotionError(
                f"{first} and {name} were evaluated on different dev queries: {len(missing)} only by {first} "
                f"{missing[:3]}, {len(extra)} only by {name} {extra[:3]}; evaluate both again"
            )
