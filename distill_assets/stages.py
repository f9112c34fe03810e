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


STAGES: tuple[Stage, ...] = (
    Stage("ingest", "batch", ("corpus", "queries", "qrels"), "Read one batch."),
    Stage("mine", "batch", ("hard_negatives",), "Mine one batch against all documents."),
    Stage(
        "teacher", "none", ("teacher_checkpoint",), "Make the teacher ready; fine-tune it where the settings say so."
    ),
    Stage("score", "batch", ("teacher_scores",), "Score one batch's pairs; known pairs are not scored again."),
    Stage("train", "recipe", ("student_checkpoint", "eval_metrics"), "Train and evaluate one recipe on all scores."),
    Stage("release", "none", ("leaderboard", "champion"), "Compare all systems and let the gate decide."),
)

Todo = Callable[[Project, Stage, str], tuple[str, ...]]


def partitions_of(project: Project, stage: Stage) -> list[str]:
    """Partition keys that a stage has now; one empty key where it has no partitions."""
    if stage.by == "batch":
        return project.source.batches() if stage.name == "ingest" else project.batches()
    return sorted(project.settings.all_recipes) if stage.by == "recipe" else [""]


def stale(project: Project, stage: Stage, partition: str) -> tuple[str, ...]:
    """Assets of the stage that were made from something else than what is there now, or not at all."""
    return tuple(asset for asset in stage.assets if not is_fresh(project, asset, partition))


def due_for_retraining(project: Project, stage: Stage, partition: str) -> tuple[str, ...]:
    """Assets of the stage that a retraining has to make.

    Reading batches is left to who brings them. Negatives are mined where there are none, and again only where
    `remine_before_retraining` says so: they age slowly, and all that follows them would have to be paid for. The teacher stays
    as it is: another teacher makes every score worthless.
    """
    if stage.name == "ingest":
        return ()
    if stage.name == "teacher" or (stage.name == "mine" and not project.settings.remine_before_retraining):
        return tuple(asset for asset in stage.assets if not is_made(project, asset, partition))
    return stale(project, stage, partition)


def next_work(project: Project, todo: Todo) -> tuple[Stage, list[str]] | None:
    """The first stage that has something to do and the partitions it has to do it for; None when all is done."""
    for stage in STAGES:
        due = [partition for partition in partitions_of(project, stage) if todo(project, stage, partition)]
        if due:
            return stage, due
    return None
