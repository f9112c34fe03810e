"""The line as stages: what may share a run, in the order of the data, and what is still to be done.

A job of the Dagster UI, a step of `distill-assets run` and a step of a retraining are the same stage. What is stale is decided here
once, for `run`, `retrain`, conditions, sensors and `why`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill_assets.assets import ASSETS
from distill_assets.assets.line import Asset, By
from distill_assets.assets.reads import Moment
from distill_assets.errors import MissingPartitionError
from distill_assets.handles.project import Project


@dataclass(frozen=True, slots=True)
class Stage:
    """Assets with the same partitions that follow each other; `name` is that of their job."""

    name: str
    assets: tuple[str, ...]
    description: str

    @property
    def by(self) -> By:
        """How its assets are cut."""
        return ASSETS[self.assets[0]].by


INGEST = Stage("ingest", ("corpus", "queries", "qrels"), "Read one batch.")
STAGES: tuple[Stage, ...] = (
    INGEST,
    Stage("mine", ("hard_negatives",), "Mine one batch against all documents."),
    Stage("teacher", ("teacher_checkpoint",), "Make the teacher ready; fine-tune it where the settings say so."),
    Stage("score", ("teacher_scores",), "Score one batch's pairs; known pairs are not scored again."),
    Stage("train", ("student_checkpoint", "eval_metrics"), "Train and evaluate one recipe on all scores."),
    Stage("release", ("leaderboard", "champion"), "Compare all systems and let the gate decide."),
)

# missing: was never made, or its folder is gone; refused: a blocking check failed; blocked: something upstream is missing;
# stale: an input has changed; aged: what changed was read as of making (`Reads.as_of_making`); fresh: none of these.
Condition = Literal["missing", "refused", "blocked", "stale", "aged", "fresh"]


@dataclass(frozen=True, slots=True)
class Status:
    """Whether an asset's partition is up to date, and why not."""

    condition: Condition
    reasons: tuple[str, ...] = ()


Todo = Callable[[Project, str, str], bool]  # whether an asset's partition is to be made


def partitions_of(project: Project, stage: Stage) -> list[str]:
    """Partition keys that a stage has now; one empty key where it has no partitions."""
    if stage.by == "batch":
        return project.collection.source.batches() if stage is INGEST else project.collection.batches()
    return sorted(project.settings.all_recipes) if stage.by == "recipe" else [""]


def status_of(project: Project, name: str, partition: str = "") -> Status:
    """What the asset's stored slice was made from against what is there now."""
    asset, state = ASSETS[name], project.collection.state()
    info = state.slices.get((asset.table, asset.slice_key(partition)))
    if info is None or not _has_files(project, asset, partition):
        return Status("missing", ("it was never made" if info is None else "its folder is gone",))
    if not info.input_fingerprint:
        return Status("refused", ("a blocking check did not pass",))
    moment = Moment(project, state, partition)
    try:
        now = asset.versions(asset.reads.versions(moment))
    except MissingPartitionError as error:
        return Status("blocked", (str(error),))
    then = info.inputs
    if then is None:
        return Status("stale", ("an older version of this package made it",))
    changed = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    reasons = tuple(_told(name, then.get(name), now.get(name)) for name in changed)
    if not changed:
        return Status("fresh")
    return Status("aged" if set(changed) <= set(asset.reads.as_of_making) else "stale", reasons)


def due(project: Project, asset: str, partition: str) -> bool:
    """Whether `run` makes it: all that is not fresh, but a teacher that was made and is only old."""
    condition = status_of(project, asset, partition).condition
    return condition != "fresh" and not (condition == "aged" and asset == "teacher_checkpoint")


def due_for_retraining(project: Project, asset: str, partition: str) -> bool:
    """Whether a retraining makes it.

    A retraining does not read batches; the sensor does. Old negatives are mined again only where `remine_before_retraining` says
    so, because all that follows them would have to be paid for.
    """
    if asset in INGEST.assets:
        return False
    condition = status_of(project, asset, partition).condition
    is_left = condition == "aged" and not project.settings.remine_before_retraining
    return not is_left and due(project, asset, partition)


def due_by_itself(project: Project, asset: str, partition: str) -> bool:
    """Whether the automation makes it: what is missing or wrong, once everything that it reads is there."""
    return status_of(project, asset, partition).condition in ("missing", "stale") and not _is_blocked(
        project, asset, partition
    )


def next_work(project: Project, todo: Todo) -> tuple[Stage, list[str]] | None:
    """The first stage that has something to do and the partitions it has to do it for; None when all is done."""
    for stage in STAGES:
        wanted = [p for p in partitions_of(project, stage) if any(todo(project, asset, p) for asset in stage.assets)]
        if wanted:
            return stage, wanted
    return None


def _is_blocked(project: Project, name: str, partition: str) -> bool:
    try:
        ASSETS[name].reads.versions(Moment(project, project.collection.state(), partition))
    except MissingPartitionError:
        return True
    return False


def _told(name: str, then: str | None, now: str | None) -> str:
    """A setting with its values, another input by its name alone: a hash tells nobody anything."""
    if name.startswith("settings.") or name == "code":
        return f"{name}: {then} -> {now}"
    return f"{name} {'is read now' if then is None else 'is no longer read' if now is None else 'changed'}"


def _has_files(project: Project, asset: Asset, partition: str) -> bool:
    """Whether the folder that a checkpoint's row names is still there, whole. Other assets are rows alone."""
    if asset.table != "checkpoints":
        return True
    path: Path = project.places.checkpoint_path(asset.slice_key(partition))
    return (path / "manifest.json").is_file()
