"""Whether a teacher is fit to teach: on dev it must be significantly ahead of every system that it is compared with.

A new teacher is compared with BM25 and the untouched student (check `better_than_baselines`), after training with every student too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distill_assets.evaluation.comparison import Comparison, compare_with_baseline
from distill_assets.evaluation.tables import format_p
from distill_assets.records import TEACHER

_SEED = 2026  # of the sampled sign patterns


@dataclass(frozen=True, kw_only=True)
class TeacherFitness:
    """The judgement and what it rests on.

    Attributes:
        mean: nDCG@10 of each system on the dev queries, by name; the teacher's is among them.
        against: per other system, its value minus the teacher's, corrected over the systems.
    """

    mean: Mapping[str, float]
    against: Mapping[str, Comparison]
    num_queries: int
    alpha: float

    @property
    def not_beaten(self) -> list[str]:
        """Systems that the teacher is not significantly ahead of, best first."""
        names = [name for name, found in self.against.items() if not found.is_worse(self.alpha)]
        return sorted(names, key=lambda name: (-self.mean[name], name))

    @property
    def is_fit(self) -> bool:
        """Whether the teacher is significantly ahead of every other system."""
        return not self.not_beaten

    @property
    def detectable(self) -> float:
        """The largest of the smallest differences that the tests could find."""
        return max(found.detectable for found in self.against.values())


def judge_teacher(
    dev: Mapping[str, Mapping[str, float]], *, seed: int = _SEED, alpha: float = 0.05
) -> TeacherFitness | None:
    """Test the teacher against each other system on the same dev queries and candidates.

    Args:
        dev: system -> query_id -> nDCG@10 of ranking the same candidates; with `TEACHER` among the systems.
        seed: of the sampled sign patterns.
        alpha: level of the family of all tests.

    Returns:
        None where there is nothing to compare: no teacher, no other system, or no dev query.

    Raises:
        ShapeError: systems were evaluated on different queries.
    """
    others = sorted(set(dev) - {TEACHER})
    if not dev.get(TEACHER) or not others:
        return None
    against = compare_with_baseline(dev, TEACHER, others, seed=seed, alpha=alpha)
    mean = {name: float(np.mean(list(dev[name].values()))) for name in (TEACHER, *against)}
    return TeacherFitness(mean=mean, against=against, num_queries=len(dev[TEACHER]), alpha=alpha)


def fitness_sentence(fitness: TeacherFitness) -> str:
    """One or two sentences for people: fit, or not and against whom."""
    on = f"on {fitness.num_queries:,} dev queries, reranking what BM25 and the untouched student find"
    teacher = f"{fitness.mean[TEACHER]:.3f}"
    if fitness.is_fit:
        closest = max(fitness.against.values(), key=lambda found: found.p_holm)
        return (
            f"The teacher is fit to teach: {on}, its nDCG@10 {teacher} is significantly above that of every other system "
            f"(closest: {closest.system} {fitness.mean[closest.system]:.3f}, "
            f"p {format_p(closest.p_holm)}, Holm)."
        )
    listed = ", ".join(
        f"{name} {fitness.mean[name]:.3f} (p {format_p(fitness.against[name].p_holm)})" for name in fitness.not_beaten
    )
    return (
        f"The teacher is not fit to teach: {on}, its nDCG@10 {teacher} is not significantly above {listed}; Holm-corrected. "
        f"On so many queries only differences of {fitness.detectable:.3f} or more show. "
        "Train or choose a stronger teacher, or raise step_queries."
    )
