"""The line as stages: what may share a run, in the order of the data, and what is still to be done.

A job of the Dagster UI, a step of `distill-assets run` and a step of a retraining are the same stage.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from distill_assets.assets.inputs import is_fresh, is_made
from distill_assets.resources import Project


@dataclass(frozen=True, slots=True)
class Stage:
    """Assets with the same partitions that follow each other; `name` is that of their job."""

    name: str
    by: Literal["batch", "recipe", "none"]
    assets: tuple[str, ...]
    description: str


INGEST = Stage("ingest", "batch", ("corpus", "queries", "qrels"), "Read one batch.")
STAGES: tuple[Stage, ...] = (
    INGEST,
    Stage("mine", "batch", ("hard_negatives",), "Mine one batch against all documents."),
    Stage(
        "teacher", "none", ("teacher_checkpoint",), "Make the teacher ready; fine-tune it where the settings say so."
    ),
    Stage("score", "batch", ("teacher_scores",), "Score one batch's pairs; known pairs are not scored again."),
    Stage("train", "recipe", ("student_checkpoint", "eval_metrics"), "Train and evaluate one recipe on all scores."),
    Stage("release", "none", ("leaderboard", "champion"), "Compare all systems and let the gate decide."),
)

Todo = Callable[[Project, str, str], bool]  # whether an asset's partition is to be made


def partitions_of(project: Project, stage: Stage) -> list[str]:
    """Partition keys that a stage has now; one empty key where it has no partitions."""
    if stage.by == "batch":
        return project.source.batches() if stage is INGEST else project.batches()
    return sorted(project.settings.all_recipes) if stage.by == "recipe" else [""]


def is_stale(project: Project, asset: str, partition: str) -> bool:
    """Whether the asset was made from something else than what is there now, or not at all."""
    return not is_fresh(project, asset, partition)


def due_for_retraining(project: Project, asset: str, partition: str) -> bool:
    """Whether a retraining has to make the asset.

    Reading batches is left to who brings them. Negatives are mined where there are none, and again only where
    `remine_before_retraining` says so: they age slowly, and all that follows them would have to be paid for. The teacher stays
    as it is: another teacher makes every score worthless.
    """
    if asset in INGEST.assets:
        return False
    if asset == "teacher_checkpoint" or (asset == "hard_negatives" and not project.settings.remine_before_retraining):
        return not is_made(project, asset, partition)
    return is_stale(project, asset, partition)


def next_work(project: Project, todo: Todo) -> tuple[Stage, list[str]] | None:
    """The first stage that has something to do and the partitions it has to do it for; None when all is done."""
    for stage in STAGES:
        due = [p for p in partitions_of(project, stage) if any(todo(project, asset, p) for asset in stage.assets)]
        if due:
            return stage, due
    return None
