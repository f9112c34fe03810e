"""The gate: when does the champion, the student that search uses, give way to a candidate?

The untouched student is the first champion. The best recipe on dev is the candidate; once a trained student is champion, the
untouched one may be the candidate as well. A candidate must be shown, on the same dev queries, to be

- *better* than the untouched student: training that does not help must not be paid for with a new index;
- *not worse* than the present champion, and than the best champion so far. `non_inferiority_test` has to reject "the candidate
  loses `margin` nDCG@10 or more". It need not be better than they are, so that a student trained on fresher data can move in.

p-values are multiplied by the number of candidates (Bonferroni), because the best of them was picked on the same queries.
Where each test errs in a share `alpha` of the cases at most, so does the choice, however the candidates correlate.

All comparisons have to pass, so no further correction is due (Berger 1982, "Multiparameter hypothesis testing and
acceptance sampling": intersection-union test).

The best champion so far keeps small losses from adding up: twenty steps of 0.004 are 0.08 below it.

Levels and power are simulated by `python -m benchmarks.gate`. Whether candidate and champion are one model is the
caller's question (equal fingerprints: nothing to decide).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from distill_assets.errors import NonFiniteError, PromotionError
from distill_assets.evaluation.significance import non_inferiority_test
from distill_assets.records import UNTOUCHED_STUDENT

_PRESENT, _BEST, _UNTOUCHED = "the present champion", "the best champion so far", "the untouched student"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided about `candidate`, in a sentence and in numbers.

    `p_value` is the largest of the adjusted ones, which decided; None where nothing was tested.
    """

    candidate: str
    promote: bool
    reason: str
    p_value: float | None


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Candidate against one champion: the loss that would be tolerated, mean difference in nDCG@10, adjusted p-value."""

    champion: str
    margin: float
    difference: float
    p_value: float

    def told(self, alpha: float) -> str:
        """What is shown, or is not."""
        is_shown = self.p_value <= alpha
        if self.margin == 0:
            claim = f"{'better' if is_shown else 'not shown to be better'} than {self.champion}"
        else:
            claim = (
                f"a loss of {self.margin:g} or more is {'' if is_shown else 'not '}ruled out against {self.champion}"
            )
        return f"{claim} ({self.difference:+.4f}, p = {self.p_value:.4f})"


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
    untouched: Mapping[str, float],
    present: Mapping[str, float] | None = None,
    best: Mapping[str, float] | None = None,
    *,
    margin: float,
    alpha: float,
) -> Decision:
    """Whether the best of the candidates becomes champion; the rule is this module's docstring. It draws nothing at random.

    Args:
        candidates: dev nDCG@10 by query_id, of every student that could become champion; the untouched one may be among them.
        untouched: the same of the untouched student.
        present: the same of the present champion; None where that is the untouched student.
        best: the same of the best champion so far; None where that is one of the two.
        margin: nDCG@10 by which a candidate may be worse than a trained champion, at least 0 and below 1.
        alpha: level of the gate, above 0 and below 1.

    Raises:
        PromotionError: no recipe, no dev query, or students that were evaluated on different queries.
        NonFiniteError: a value is NaN or infinite.
        ValueError: `margin` or `alpha` is out of its range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be above 0 and below 1, got {alpha}")
    champions = {_UNTOUCHED: untouched} | {k: v for k, v in ((_PRESENT, present), (_BEST, best)) if v is not None}
    _require_same_queries({**candidates, **champions})
    candidate = choose_candidate(
        {name: math.fsum(values.values()) / len(values) for name, values in candidates.items()}
    )
    if candidate == UNTOUCHED_STUDENT and present is not None:
        del champions[_UNTOUCHED]
    margins = {label: 0.0 if label == _UNTOUCHED else margin for label in champions}
    compared = [
        _compare(candidates[candidate], values, label, margin=margins[label], num_candidates=len(candidates))
        for label, values in champions.items()
    ]
    p_value = max(comparison.p_value for comparison in compared)
    reason = _explain(candidate, compared, len(untouched), len(candidates), alpha)
    return Decision(candidate, p_value <= alpha, reason, p_value)


def _compare(
    candidate: Mapping[str, float], champion: Mapping[str, float], label: str, *, margin: float, num_candidates: int
) -> _Comparison:
    query_ids = sorted(candidate)
    ours, theirs = ([values[query_id] for query_id in query_ids] for values in (candidate, champion))
    difference = (math.fsum(ours) - math.fsum(theirs)) / len(query_ids)
    p_value = min(1.0, num_candidates * non_inferiority_test(ours, theirs, margin=margin))
    return _Comparison(label, margin, difference, p_value)


def _explain(candidate: str, compared: list[_Comparison], num_queries: int, num_candidates: int, alpha: float) -> str:
    """Two sentences; a refusal says first what was not shown, and the rest is still told."""
    failed_first = sorted(compared, key=lambda comparison: comparison.p_value <= alpha)
    is_promoted = all(comparison.p_value <= alpha for comparison in compared)
    claims = "; ".join(comparison.told(alpha) for comparison in failed_first)
    reason = (
        f"{candidate} is {'' if is_promoted else 'not '}promoted: {claims}. Differences are in dev nDCG@10, p at most {alpha:g} is "
        f"asked for. Dev queries: {num_queries}; students to choose from: {num_candidates}."
    )
    # No result says more than every query going from 0 to 1: the most likely loser has (1 - margin) / 2 of those.
    smallest = min(comparison.margin for comparison in compared)
    if num_candidates * ((1 - smallest) / 2) ** num_queries > alpha:
        reason += " No result on so few queries could pass."
    return reason


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
