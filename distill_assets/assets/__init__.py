"""The assets of the line, in data-flow order."""

from collections.abc import Collection

from distill_assets.assets.checks import Check
from distill_assets.assets.collection import CORPUS, QRELS, QUERIES
from distill_assets.assets.evaluation import EVAL_METRICS, LEADERBOARD
from distill_assets.assets.generated_queries import GENERATED_QUERIES
from distill_assets.assets.line import Asset
from distill_assets.assets.negatives import HARD_NEGATIVES
from distill_assets.assets.release import CHAMPION
from distill_assets.assets.reporting import INBOX
from distill_assets.assets.student import STUDENT_CHECKPOINT
from distill_assets.assets.student_choice import STUDENT_CHOICE
from distill_assets.assets.teacher import TEACHER_CHECKPOINT, TEACHER_SCORES
from distill_assets.assets.teacher_judgements import TEACHER_JUDGEMENTS
from distill_assets.handles.project import Project

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        CORPUS,
        QUERIES,
        QRELS,
        GENERATED_QUERIES,
        STUDENT_CHOICE,
        HARD_NEGATIVES,
        TEACHER_CHECKPOINT,
        TEACHER_SCORES,
        TEACHER_JUDGEMENTS,
        STUDENT_CHECKPOINT,
        EVAL_METRICS,
        LEADERBOARD,
        CHAMPION,
    )
}
# (asset, name of the check) -> the check
CHECKS: dict[tuple[str, str], Check] = {(a.name, check.name): check for a in ASSETS.values() for check in a.checks}


def assets_of(project: Project) -> dict[str, Asset]:
    """The assets of a line."""
    return {name: asset for name, asset in ASSETS.items() if project.has_asset(name)}


def dependencies_of(name: str, project: Project) -> dict[str, bool]:
    """What Dagster is told that an asset depends on: upstream asset -> whether it is its partition of the same key.

    An edge that a longer path implies is left out, but for a partition's own: with all of them nobody can read the lineage.
    Where a team's own assets bring the batches, what reads a batch comes after the asset that puts it there.
    """
    there = assets_of(project)
    upstream = {other: is_own for other, is_own in ASSETS[name].reads.upstream.items() if other in there}
    if project.upstream is not None and "source" in ASSETS[name].reads.inputs:
        return {INBOX: True, **upstream}
    implied = {further for other in upstream for further in _ancestors(other, there)}
    return {other: is_own for other, is_own in upstream.items() if is_own or other not in implied}


def _ancestors(name: str, there: Collection[str]) -> set[str]:
    # A choice is kept when the collection moves, and no query is generated where batches bring them: what these two were made from
    # moves nothing through them.
    if name in (STUDENT_CHOICE.name, GENERATED_QUERIES.name):
        return set()
    upstream = set(ASSETS[name].reads.upstream) & set(there)
    return upstream.union(*(_ancestors(other, there) for other in upstream))
