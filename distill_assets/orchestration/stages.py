"""The line as stages: what may share a run, in the order of the data, and what is missing or stale.

A job of the Dagster UI, a step of `distill-assets run` and a step of a retraining are the same stage. What is stale is decided here
once, for `run`, `retrain`, conditions, sensors and `why`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from distill_assets.assets import ASSETS, assets_of
from distill_assets.assets.line import By
from distill_assets.assets.reads import Moment
from distill_assets.errors import MissingPartitionError
from distill_assets.handles.project import Project
from distill_assets.storage.checkpoints import MANIFEST


@dataclass(frozen=True, slots=True)
class Stage:
    """Assets with the same partitions that follow each other; `name` is that of their job."""

    name: str
    assets: tuple[str, ...]
    description: str

    @property
    def by(self) -> By:
        """How its assets are partitioned."""
        return ASSETS[self.assets[0]].by


INGEST = Stage("ingest", ("corpus", "queries", "qrels"), "Read one batch.")
_STAGES: tuple[Stage, ...] = (
    INGEST,
    Stage("generate", ("generated_queries",), "Make queries from one batch's documents."),
    Stage("choose", ("student_choice",), "Choose the student that is distilled."),
    Stage("mine", ("hard_negatives",), "Mine one batch against all documents."),
    Stage("teacher", ("teacher_checkpoint",), "Make the teacher ready; fine-tune it where the settings say so."),
    Stage("score", ("teacher_scores",), "Score one batch's pairs; known pairs are not scored again."),
    Stage(
        "label",
        ("teacher_judgements",),
        "Have the teacher judge one batch's dev and test queries, where people judged none.",
    ),
    Stage("train", ("student_checkpoint", "eval_metrics"), "Train and evaluate one recipe on all scores."),
    Stage("release", ("leaderboard", "champion"), "Compare all systems and let the gate decide."),
)

KEPT_WHEN_AGED = ("teacher_checkpoint", "student_choice")  # all that follows them would have to be paid for again


def stages_of(project: Project) -> list[Stage]:
    """The stages of a line, in the order of the data; what is not in its graph has no stage."""
    return [stage for stage in _STAGES if stage.assets[0] in assets_of(project)]


# missing: never materialised, or its folder is gone; rejected: a blocking check failed; blocked: something upstream is missing;
# stale: an input has changed; aged: what changed was read as of making (`Reads.as_of_making`); up to date: none of these.
Condition = Literal["missing", "rejected", "blocked", "stale", "aged", "up to date"]


@dataclass(frozen=True, slots=True)
class Status:
    """Whether an asset's partition is up to date, and why not; `moved` holds each input that changed, its version then and now."""

    condition: Condition
    reasons: tuple[str, ...] = ()
    moved: tuple[tuple[str, str | None, str | None], ...] = ()


IsStale = Callable[[Project, str, str], bool]  # whether an asset's partition is to be materialised


def partitions_of(project: Project, stage: Stage) -> list[str]:
    """Partition keys that a stage has now; one empty key where it has no partitions."""
    if stage.by == "batch":
        return project.collection.source.batches() if stage is INGEST else project.collection.batches()
    return sorted(project.settings.all_recipes) if stage.by == "recipe" else [""]


def status_of(project: Project, name: str, partition: str = "") -> Status:
    """What the asset's stored partition was made from against what is there now."""
    asset, state = ASSETS[name], project.collection.state()
    key = asset.slice_key(partition)
    info = state.slices.get((asset.table, key))
    if info is None:
        return Status("missing", ("it was never made",))
    if asset.table == "checkpoints" and not (project.places.checkpoint_path(key) / MANIFEST).is_file():
        return Status("missing", ("its folder is gone",))
    if not info.input_fingerprint:
        return Status("rejected", ("a blocking check did not pass",))
    try:
        now = asset.versions(asset.reads.versions(Moment(project, state, partition)))
    except MissingPartitionError as error:
        return Status("blocked", (str(error),))
    then = info.inputs
    if then is None:
        return Status("stale", ("an older version of this package made it",))
    changed = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    if not changed:
        return Status("up to date")
    moved = tuple((name, then.get(name), now.get(name)) for name in changed)
    reasons = tuple(_told(*each) for each in moved)
    return Status("aged" if set(changed) <= set(asset.reads.as_of_making) else "stale", reasons, moved)


def is_stale(project: Project, asset: str, partition: str) -> bool:
    """Whether `run` materialises it: all that is not up to date, but a teacher or a choice that is only aged."""
    condition = status_of(project, asset, partition).condition
    return condition != "up to date" and not (condition == "aged" and asset in KEPT_WHEN_AGED)


def is_stale_for_retraining(project: Project, asset: str, partition: str) -> bool:
    """Whether a retraining materialises it.

    A retraining does not read new batches; the sensor does. It mines aged negatives again only where `remine_before_retraining`
    says so, because all that follows them would have to be paid for.
    """
    if asset in INGEST.assets:
        return False
    condition = status_of(project, asset, partition).condition
    is_left = condition == "aged" and not project.settings.remine_before_retraining
    return not is_left and is_stale(project, asset, partition)


def is_stale_for_automation(project: Project, asset: str, partition: str) -> bool:
    """Whether the automation materialises it: what is missing or stale, once everything that it reads is there."""
    if status_of(project, asset, partition).condition not in ("missing", "stale"):
        return False
    try:
        ASSETS[asset].reads.versions(Moment(project, project.collection.state(), partition))
    except MissingPartitionError:
        return False
    return True


def next_work(project: Project, is_stale: IsStale) -> tuple[Stage, list[str]] | None:
    """The first stage with a stale partition and all its stale partitions; None when all is up to date."""
    for stage in stages_of(project):
        stale = [p for p in partitions_of(project, stage) if any(is_stale(project, asset, p) for asset in stage.assets)]
        if stale:
            return stage, stale
    return None


def _told(name: str, then: str | None, now: str | None) -> str:
    """A setting with its values, another input by its name alone: a hash tells nobody anything."""
    if name.startswith("settings.") or name == "code":
        return f"{name}: {then} -> {now}"
    return f"{name} {'is read now' if then is None else 'is no longer read' if now is None else 'changed'}"
