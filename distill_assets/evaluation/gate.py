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

Where the teacher alone judged the dev queries, nothing is promoted unless a person allows it: a student that learned from the teacher
ranks more as the teacher does, whatever that is worth. On SciFact with the bundled teacher such students were 0.003 to 0.054 better
by the teacher, 0.009 to 0.042 worse by people (docs/results.md, "Without judgements").

The best champion so far keeps small losses from adding up: twenty steps of 0.004 are 0.08 below it.

Levels and power are simulated by `python -m benchmarks.gate`. Whether candidate and champion are one model is the
caller's question (equal fingerprints: nothing to decide).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from distill_assets.errors import NonFiniteError, PromotionError
from distill_assets.evaluation.significance import non_inferiority_test
from distill_assets.records import UNTOUCHED_STUDENT

_PRESENT, _BEST, _UNTOUCHED = "the present champion", "the best champion so far", "the untouched student"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate decided about `candidate`, in a sentence and in numbers.

    `p_value` is the largest of the adjusted ones, which decided; None where nothing was tested. `shown` is the part of `reason` that
    says what the tests showed.
    """

    candidate: str
    promote: bool
    reason: str
    p_value: float | None
    shown: str = ""


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
        _compare(candidates[candidate], values, label, margin=margins[label], factor=len(candidates), alpha=alpha)
        for label, values in champions.items()
    ]
    p_value = max(p for p, _ in compared)
    # What failed comes first.
    claims = "; ".join(claim for _, claim in sorted(compared, key=lambda found: found[0] <= alpha))
    shown = (
        f"{claims}. Differences are in dev nDCG@10, p at most {alpha:g} is asked for. Dev queries: {len(untouched)}; students to "
        f"choose from: {len(candidates)}."
    )
    # No result says more than every query going from 0 to 1: the most likely loser has (1 - margin) / 2 of those.
    if len(candidates) * ((1 - min(margins.values())) / 2) ** len(untouched) > alpha:
        shown += " No result on so few queries could pass."
    reason = f"{candidate} is {'' if p_value <= alpha else 'not '}promoted: {shown}"
    return Decision(candidate, p_value <= alpha, reason, p_value, shown)


def held_back(decision: Decision) -> Decision:
    """The decision where the teacher alone judged the dev queries: no trained student is promoted. The untouched one may come back."""
    if not decision.promote or decision.candidate == UNTOUCHED_STUDENT:
        return decision
    reason = (
        f"{decision.candidate} is not promoted: no person judged the dev queries. Judge some (`distill-assets judge --split dev`), or "
        f"set teacher_may_promote. By the teacher's own judgement it is {decision.shown}"
    )
    return replace(decision, promote=False, reason=reason)


def _compare(
    candidate: Mapping[str, float],
    champion: Mapping[str, float],
    label: str,
    *,
    margin: float,
    factor: int,
    alpha: float,
) -> tuple[float, str]:
    """The p-value against one champion, multiplied by `factor`, and what is shown, or is not."""
    query_ids = sorted(candidate)
    ours, theirs = ([values[query_id] for query_id in query_ids] for values in (candidate, champion))
    p_value = min(1.0, factor * non_inferiority_test(ours, theirs, margin=margin))
    claim = f"a loss of {margin:g} or more is {'' if p_value <= alpha else 'not '}ruled out against {label}"
    if margin == 0:
        claim = f"{'better' if p_value <= alpha else 'not shown to be better'} than {label}"
    difference = (math.fsum(ours) - math.fsum(theirs)) / len(query_ids)
    return p_value, f"{claim} ({difference:+.4f}, p = {p_value:.4f})"


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
