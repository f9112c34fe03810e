"""Systems compared on the same queries: differences with corrected tests, what the tests can see; and is a teacher fit to teach?

Input is `{system: {query_id: nDCG@10}}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from distill_assets.errors import ShapeError
from distill_assets.evaluation.significance import (
    ALPHA,
    SEED,
    detectable_difference,
    gap_closed,
    holm_correction,
    paired_randomisation_test,
)
from distill_assets.evaluation.tables import format_p
from distill_assets.records import HARD_LABELS, TEACHER, UNTOUCHED_STUDENT

PerSystem = Mapping[str, Mapping[str, float]]
Column = npt.NDArray[np.float64]
# Column suffix: system. The untouched student comes first: whether training helps at all is the first question.
BASELINES = {"untouched": UNTOUCHED_STUDENT, "hard_labels": HARD_LABELS}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One system against a baseline on the same queries.

    Attributes:
        difference: mean of system - baseline over the queries.
        p_value: two-sided paired randomisation test, uncorrected.
        p_holm: corrected over the family that was tested together.
        detectable: smallest true difference that this test finds with 80 % probability at the family's strictest step.
    """

    difference: float
    p_value: float
    p_holm: float
    detectable: float

    @property
    def turned(self) -> "Comparison":
        """The baseline against the system: the tests are two-sided."""
        return replace(self, difference=-self.difference)

    @property
    def is_better(self) -> bool:
        """Significantly above the baseline, corrected."""
        return self.difference > 0 and self.p_holm <= ALPHA

    @property
    def is_worse(self) -> bool:
        """Significantly below the baseline, corrected."""
        return self.difference < 0 and self.p_holm <= ALPHA


def compare_with_baseline(
    per_system: PerSystem, baseline: str, family: Sequence[str], *, seed: int = SEED
) -> dict[str, Comparison]:
    """Test each system of `family` against `baseline`, paired by query, corrected over the family: what is claimed about together.

    The baseline is taken out of the family where it is in it.

    Raises:
        ShapeError: a system is missing, or was evaluated on other queries than the baseline.
        NonFiniteError: a value is NaN or infinite.
    """
    columns = columns_of_queries(per_system, [baseline, *family])
    base = columns.pop(baseline)
    return compare_family({name: (values, base) for name, values in columns.items()}, seed=seed)


def compare_family(family: Mapping[str, tuple[Column, Column]], *, seed: int = SEED) -> dict[str, Comparison]:
    """Test the first of each two columns, (num_queries,) each, against the second, corrected over the family.

    Raises:
        NonFiniteError: a value is NaN or infinite.
    """
    p_values = {name: paired_randomisation_test(ours, theirs, seed=seed) for name, (ours, theirs) in family.items()}
    corrected = holm_correction(p_values)
    return {
        name: Comparison(
            difference=float((ours - theirs).mean()),
            p_value=p_values[name],
            p_holm=corrected[name],
            detectable=detectable_difference(ours - theirs, len(family)),
        )
        for name, (ours, theirs) in family.items()
    }


def comparison_columns(
    per_system: PerSystem, recipes: Sequence[str], others: Sequence[str] = ()
) -> dict[str, dict[str, float | None]]:
    """Per system the columns of its row that compare it: `p_vs_*`, `detectable_vs_*`, and for recipes `gap_closed*`.

    The gap is told only where the teacher is significantly above the untouched student: a share of a gap that may be none says
    nothing. A system that was not evaluated brings no column. The tests are two families, one per baseline: is a
    system better than plain fine-tuning; is it better than no training at all. Each is corrected over the recipes and `others`
    (published models and hybrids), because a reader looks for marks in the whole column.
    """
    columns: dict[str, dict[str, float | None]] = {name: {} for name in (*recipes, *others)}
    for suffix, baseline in BASELINES.items():
        if baseline in per_system:
            for name, found in compare_with_baseline(per_system, baseline, [*recipes, *others]).items():
                columns[name] |= {f"p_vs_{suffix}": found.p_holm, f"detectable_vs_{suffix}": found.detectable}
    if UNTOUCHED_STUDENT not in per_system or TEACHER not in per_system:
        return columns
    if compare_with_baseline(per_system, UNTOUCHED_STUDENT, [TEACHER])[TEACHER].is_better:
        values = columns_of_queries(per_system, [UNTOUCHED_STUDENT, TEACHER, *recipes])
        for name in recipes:
            share = gap_closed(values[name], values[UNTOUCHED_STUDENT], values[TEACHER])
            columns[name] |= dict(zip(("gap_closed", "gap_closed_low", "gap_closed_high"), share, strict=True))
    return columns


def columns_of_queries(per_system: PerSystem, systems: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    """Values of each system, (num_queries,) each, all in one order of the queries.

    Raises:
        ShapeError: a system is missing, or was evaluated on other queries than the first.
    """
    missing = [name for name in systems if name not in per_system]
    if missing:
        raise ShapeError(f"no values of {', '.join(missing)}: there are {', '.join(per_system)}")
    first = per_system[systems[0]].keys()
    for name in systems:
        if per_system[name].keys() != first:
            raise ShapeError(
                f"{name} has {len(per_system[name])} queries and {systems[0]} {len(first)}, "
                f"{len(per_system[name].keys() & first)} in both: a paired comparison needs the same queries; "
                "evaluate both on one split"
            )
    return {name: np.array([per_system[name][q] for q in sorted(first)], dtype=np.float64) for name in systems}


@dataclass(frozen=True, kw_only=True)
class TeacherComparison:
    """The teacher against systems that rank the same dev candidates.

    Attributes:
        mean: nDCG@10 of each system, by name; the teacher's is among them.
        against: per other system its value minus the teacher's, corrected over the systems.
    """

    mean: Mapping[str, float]
    against: Mapping[str, Comparison]
    num_queries: int

    @property
    def not_beaten(self) -> list[str]:
        """Systems that the teacher is not significantly ahead of, best first."""
        names = [name for name, found in self.against.items() if not found.is_worse]
        return sorted(names, key=lambda name: (-self.mean[name], name))

    @property
    def is_fit(self) -> bool:
        """Whether the teacher is fit to teach: significantly ahead of every other system."""
        return not self.not_beaten

    @property
    def sentence(self) -> str:
        """For people: fit to teach, or not and against whom."""
        on = f"on {self.num_queries:,} dev queries, reranking what BM25 and the untouched student find"
        teacher = f"{self.mean[TEACHER]:.3f}"
        if self.is_fit:
            closest = max(self.against, key=lambda name: self.against[name].p_holm)
            return (
                f"The teacher is fit to teach: {on}, its nDCG@10 {teacher} is significantly above that of every other system "
                f"(closest: {closest} {self.mean[closest]:.3f}, p {format_p(self.against[closest].p_holm)}, Holm)."
            )
        listed = ", ".join(
            f"{name} {self.mean[name]:.3f} (p {format_p(self.against[name].p_holm)})" for name in self.not_beaten
        )
        return (
            f"The teacher is not fit to teach: {on}, its nDCG@10 {teacher} is not significantly above {listed}; Holm-corrected. "
            f"On so many queries only differences of {max(found.detectable for found in self.against.values()):.3f} or more show. "
            "Train or choose a stronger teacher, or raise step_queries."
        )


def compare_teacher(dev: PerSystem) -> TeacherComparison | None:
    """Test the teacher against each other system on the same dev queries and candidates.

    A new teacher is compared with BM25 and the untouched student (check `better_than_baselines`), after training with every student.

    Returns:
        None where there is nothing to compare: no teacher, no other system, or no dev query.

    Raises:
        ShapeError: systems were evaluated on different queries.
    """
    others = sorted(set(dev) - {TEACHER})
    if not dev.get(TEACHER) or not others:
        return None
    against = compare_with_baseline(dev, TEACHER, others)
    mean = {name: float(np.mean(list(dev[name].values()))) for name in (TEACHER, *against)}
    return TeacherComparison(mean=mean, against=against, num_queries=len(dev[TEACHER]))
