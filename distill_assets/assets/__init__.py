"""The assets of the line, in data-flow order."""

from distill_assets.assets.checks import Check
from distill_assets.assets.collection import CORPUS, QRELS, QUERIES
from distill_assets.assets.evaluation import EVAL_METRICS, LEADERBOARD
from distill_assets.assets.line import Asset
from distill_assets.assets.negatives import HARD_NEGATIVES
from distill_assets.assets.release import CHAMPION
from distill_assets.assets.reporting import INBOX
from distill_assets.assets.student import STUDENT_CHECKPOINT
from distill_assets.assets.teacher import TEACHER_CHECKPOINT, TEACHER_SCORES

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        CORPUS,
        QUERIES,
        QRELS,
        HARD_NEGATIVES,
        TEACHER_CHECKPOINT,
        TEACHER_SCORES,
        STUDENT_CHECKPOINT,
        EVAL_METRICS,
        LEADERBOARD,
        CHAMPION,
    )
}
# (asset, name of the check) -> the check
CHECKS: dict[tuple[str, str], Check] = {(a.name, check.name): check for a in ASSETS.values() for check in a.checks}


def dependencies_of(name: str, *, has_inbox: bool = False) -> dict[str, bool]:
    """What Dagster is told that an asset depends on: upstream asset -> whether it is its partition of the same key.

    An edge that a longer path implies is left out, but for a partition's own: with all of them nobody can read the lineage.
    `has_inbox` says that a team's own assets bring the batches: what reads a batch comes after the asset that puts it there.
    """
    upstream = ASSETS[name].reads.upstream
    if has_inbox and "source" in ASSETS[name].reads.inputs:
        return {INBOX: True, **upstream}
    implied = {further for other in upstream for further in _ancestors(other)}
    return {other: is_own for other, is_own in upstream.items() if is_own or other not in implied}


def _ancestors(name: str) -> set[str]:
    upstream = set(ASSETS[name].reads.upstream)
    return upstream.union(*(_ancestors(other) for other in upstream))
