"""The assets of the line, in data-flow order."""

from distill_assets.assets.collection import CORPUS, QRELS, QUERIES
from distill_assets.assets.evaluation import EVAL_METRICS, LEADERBOARD
from distill_assets.assets.line import Asset
from distill_assets.assets.negatives import HARD_NEGATIVES
from distill_assets.assets.release import CHAMPION
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
