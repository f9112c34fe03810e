"""Which way to a better search is ahead: an untouched model, BM25, hybrid, hard labels or distillation; and can these queries tell?

Each way is represented by its best system on dev. The best of these on dev leads, and is tested against the others on the queries of
the leaderboard. Test queries have chosen nothing, so these are the tests that were planned before anything was seen.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill_assets.evaluation.comparison import Comparison, PerSystem, columns_of_queries, compare_with_baseline
from distill_assets.evaluation.significance import bootstrap_interval
from distill_assets.records import BM25, MIN_QUERIES, UNTOUCHED_STUDENT, hybrid_of

Ways = Mapping[str, Sequence[str]]  # way -> its systems


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The representative of another way, against the leader.

    Attributes:
        comparison: the leader's value minus this one's, corrected over all rivals.
        low: lower end of the 95 % bootstrap interval of the difference; `high` is the upper end. Not corrected.
    """

    way: str
    system: str
    comparison: Comparison
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Which way leads, and what the queries say of it.

    Attributes:
        leader: a system; `way` is its way.
        mean: its nDCG@10 on the queries of the tests.
        needs_training: whether the leader is trained, or fused from a trained student.
        rivals: one for each other way; none where there are fewer than `MIN_QUERIES` queries.
        baselines: the published models, each against the champion, corrected over them; none where one of the two is missing.
        is_chosen_apart: whether the representatives were chosen on other queries than those that they are tested on.
    """

    way: str
    leader: str
    mean: float
    needs_training: bool
    num_queries: int
    rivals: Sequence[Rival]
    baselines: Mapping[str, Comparison]
    is_chosen_apart: bool


def ways_of(
    systems: Collection[str], *, baselines: Collection[str], labels: Collection[str], distilled: Collection[str]
) -> Ways:
    """The ways that these systems are of, those without a system left out. A system that none of the names knows is of none.

    Args:
        systems: of a leaderboard.
        baselines: published models as they are.
        labels: recipes that read no teacher.
        distilled: recipes that do.
    """
    members = {
        "untouched model": [UNTOUCHED_STUDENT, *baselines],
        "BM25": [BM25],
        "hybrid": [hybrid_of(name) for name in (UNTOUCHED_STUDENT, *baselines, *labels, *distilled)],
        "hard labels": labels,
        "distillation": distilled,
    }
    found = {way: sorted({*names} & {*systems}) for way, names in members.items()}
    return {way: names for way, names in found.items() if names}


def compare_ways(ways: Ways, dev: PerSystem, measured: PerSystem, champion: str | None) -> Answer | None:
    """The best way on dev against the others, on the queries of `measured`; None where there are not two ways.

    Args:
        ways: see `ways_of`.
        dev: nDCG@10 on dev, by system and query; empty where there is none: then `measured` has to choose as well.
        measured: the same on the queries of the leaderboard, of every system of `ways`.
        champion: the system of `measured` that search uses; None where it is none of them.

    Raises:
        ShapeError: systems were evaluated on different queries.
    """
    if len(ways) < 2:
        return None
    chosen_by = dev or measured
    mean_of = {name: float(np.mean(list(chosen_by[name].values()))) for names in ways.values() for name in names}

    def best(names: Collection[str]) -> str:
        return min(names, key=lambda name: (-mean_of[name], name))

    way_of = {best(names): way for way, names in ways.items()}
    leader = best(way_of)
    others = [name for name in way_of if name != leader]
    columns = columns_of_queries(measured, [leader, *others])
    num_queries = len(columns[leader])
    tested = compare_with_baseline(measured, leader, others) if num_queries >= MIN_QUERIES else {}
    rivals = [
        Rival(
            way=way_of[name],
            system=name,
            comparison=found.turned,
            **dict(zip(("low", "high"), bootstrap_interval(columns[leader] - columns[name]), strict=True)),
        )
        for name, found in tested.items()
    ]
    published = [name for name in ways.get("untouched model", ()) if name != UNTOUCHED_STUDENT]
    trained = {*ways.get("hard labels", ()), *ways.get("distillation", ())}
    return Answer(
        way=way_of[leader],
        leader=leader,
        mean=float(columns[leader].mean()),
        needs_training=leader in {*trained, *map(hybrid_of, trained)},
        num_queries=num_queries,
        rivals=rivals,
        baselines=compare_with_baseline(measured, champion, published) if champion and tested else {},
        is_chosen_apart=bool(dev),
    )
