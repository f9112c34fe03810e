"""What a run would do and cost, before anything is paid: the first line of `run`, and `distill-assets plan`."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import dagster as dg

from distill_assets.assets import ASSETS
from distill_assets.errors import DistillError
from distill_assets.handles.project import Project
from distill_assets.models.catalog import weights_mb
from distill_assets.orchestration.estimate import Measured, Sizes, Work, measure, overhead_s, work_of
from distill_assets.orchestration.lost_runs import COMMAND_TAG
from distill_assets.orchestration.rehearsal import Due, Rehearsal, StandIn, rehearse, standing_in
from distill_assets.orchestration.stages import INGEST, IsStale, stages_of
from distill_assets.progress import as_duration
from distill_assets.settings.values import AUTO, RULES

NOTHING = "nothing to do: all is up to date"
TELLS_PLAN = " The first event of a run says what it does and costs; `distill-assets plan` says it before."
SEARCH_LIMIT_S = 60.0  # of searching, that a plan does by itself
_SHOWN = 5  # partitions of a reason
_PAIR_BYTES = 35  # of a stored score: 24 to 33 were measured with 100,000 and 300,000 pairs


@dataclass(frozen=True)
class PlannedAsset:
    """Partitions of one asset that a run would make.

    Attributes:
        reasons: why, each with the partitions that it is true of.
        work: what is left to do.
        most_pairs: how many pairs are scored at most; where `is_exact`, they are counted, and it is `work.pairs`.
        seconds: on this machine, with what else runs on it now; without what servers take.
    """

    asset: str
    reasons: Mapping[str, Sequence[str]]
    work: Work
    most_pairs: float
    is_exact: bool
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run would do up to one asset.

    Attributes:
        measured: None where there is nothing to do.
        num_encoded: texts that were encoded to make this plan; their vectors are kept.
        num_served: pairs that servers score, at most where they are not counted; `num_requests` are known where they are.
        disk_mb: what is needed, by what it is for; `free_mb` are free where it goes.
        refused: batches that are left out, with the reason.
    """

    assets: tuple[PlannedAsset, ...]
    measured: Measured | None
    num_encoded: int
    num_served: int
    num_requests: int
    disk_mb: Mapping[str, float]
    free_mb: float
    refused: Mapping[str, str]

    @property
    def work(self) -> Work:
        """Of all assets."""
        return sum((each.work for each in self.assets), start=Work())

    @property
    def seconds(self) -> float:
        """Of all assets."""
        return sum(each.seconds for each in self.assets)

    @property
    def num_exact(self) -> int:
        """Pairs that are counted."""
        return round(sum(each.work.pairs for each in self.assets if each.is_exact))

    @property
    def num_uncounted(self) -> int:
        """Pairs beside these, at most."""
        return math.ceil(sum(each.most_pairs for each in self.assets if not each.is_exact))

    @property
    def num_tokens(self) -> int:
        """That students and teachers read, about; a pass with its gradient counts once."""
        if self.measured is None:
            return 0
        work = self.work
        pairs = work.pairs + work.timed_pairs + work.trained_pairs
        return round(self.measured.text_tokens * (work.texts + work.trained_texts) + self.measured.pair_tokens * pairs)

    @property
    def warnings(self) -> list[str]:
        """What to mend before the run."""
        need = sum(self.disk_mb.values())
        told = [f"left out: {batch}: {' '.join(reason.split())}" for batch, reason in self.refused.items()]
        if need > self.free_mb:
            told.append(
                f"the disk has {self.free_mb:,.0f} MB free, and the run needs about {need:,.0f} MB: make room, or set data_folder to a "
                "folder on another disk"
            )
        return told

    @property
    def sentence(self) -> str:
        """What `run` says first."""
        if self.measured is None:
            return NOTHING
        speeds = f"{1 / self.measured.text_s:,.0f} texts"
        speeds += f" and {1 / self.measured.pair_s:,.0f} pairs" if self.measured.pair_s else ""
        served = f"; and what a server takes for {self.num_served:,} pairs" if self.num_served else ""
        return f"about {as_duration(self.seconds)} from here on this machine: {speeds} a second, measured now{served}"

    @property
    def text(self) -> str:
        """What `distill-assets plan` prints."""
        if self.measured is None:
            return NOTHING
        work, uncounted = self.work, self.num_uncounted
        beside = f", and at most {uncounted:,} that are not counted (estimated)" if uncounted else " (exact)"
        trained = f"; to train on, about {work.trained_texts:,.0f} texts"
        trained += f" and {work.trained_pairs:,.0f} pairs" if work.trained_pairs else ""
        requests = f"; about {self.num_requests:,} requests to servers" if self.num_requests else ""
        disk = ", ".join(f"{what} {mb:,.0f} MB" for what, mb in self.disk_mb.items() if mb >= 1)
        lines = [
            *(line for each in self.assets for line in _lines_of(each)),
            f"pairs to score: {self.num_exact:,}{beside}{requests}",
            f"texts to encode: about {work.texts:,.0f}{trained}; about {self.num_tokens:,} tokens in all",
            f"disk: {disk or 'less than 1 MB'}; {self.free_mb:,.0f} MB are free",
            f"time: {self.sentence}",
        ]
        if self.num_encoded:
            lines.append(
                f"{self.num_encoded:,} texts were encoded to count pairs: their vectors are kept, and nothing else"
            )
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The same as a document; counts that are no integers are estimates."""
        totals = (
            "seconds",
            "num_exact",
            "num_uncounted",
            "num_tokens",
            "num_requests",
            "num_served",
            "num_encoded",
            "disk_mb",
            "free_mb",
        )
        return {
            "assets": [asdict(each) for each in self.assets],
            **{name: getattr(self, name) for name in totals},
            "measured": self.measured and asdict(self.measured),
            "refused": dict(self.refused),
            "warnings": self.warnings,
        }


def _lines_of(planned: PlannedAsset) -> Iterator[str]:
    work = planned.work
    counts = {
        "pairs" if planned.is_exact else "pairs at most": planned.most_pairs,
        "texts": work.texts,
        "texts to train on": work.trained_texts,
        "pairs to train on": work.trained_pairs,
    }
    told = "".join(f", {count:,.0f} {what}" for what, count in counts.items() if count)
    yield f"{planned.asset:20}{as_duration(planned.seconds):>12}{told}"
    for reason, partitions in planned.reasons.items():
        several = f" and {len(partitions) - _SHOWN:,} more" if len(partitions) > _SHOWN else ""
        where = f"{', '.join(partitions[:_SHOWN])}{several}: " if any(partitions) else ""
        yield f"    {where}{reason}"


def make_plan(project: Project, is_stale: IsStale, until: str, limit_s: float = SEARCH_LIMIT_S) -> Plan:
    """Rehearse the run, and say what it would do and cost. The warehouse stays as it is; vectors are kept.

    Where searching would take longer than `limit_s` seconds it is left to the run, and pairs are told as the most that there can be.
    0: nothing that searches is rehearsed, and no teacher is opened.

    Raises:
        DistillError: what the run would raise before it trains.
    """
    with standing_in(project) as stand_in:
        measured = cache(lambda: measure(stand_in))

        @cache
        def is_affordable() -> bool:
            return _num_missing(stand_in) * measured().text_s <= limit_s

        def may_search(asset: str) -> bool:
            if asset == "generated_queries" and project.settings.query_generator not in (AUTO, RULES):
                return False  # a model's work
            return is_affordable() if limit_s else asset in ("teacher_scores", "teacher_judgements")

        found = rehearse(stand_in, is_stale, until, may_search)
        assets = tuple(_planned(stand_in, found, measured())) if found.due else ()
        counted = stand_in.counted.values()
        num_served = sum(each.num_served for each in counted)
        if not found.is_counted:
            num_served = round(mean(project.models.are_teachers_served) * sum(each.most_pairs for each in assets))
        return Plan(
            assets,
            measured() if found.due else None,
            num_encoded=sum(stand_in.encoded),
            num_served=num_served,
            num_requests=sum(each.num_requests for each in counted),
            disk_mb=_disk_mb(project, assets, measured()) if found.due else {},
            free_mb=shutil.disk_usage(project.places.folder).free / 1e6,
            refused=found.refused,
        )


def _num_missing(project: StandIn, path: Path | None = None) -> int:
    """Documents that a bi-encoder, the untouched student by default, has not encoded."""
    with project.collection.snapshot() as collection:
        _, contents = collection.documents()
    return project.vectors.num_missing(path or project.models.student_path, contents, "document")


def _planned(project: StandIn, found: Rehearsal, measured: Measured) -> Iterator[PlannedAsset]:
    by_asset: dict[str, list[Due]] = {}
    for each in found.due:
        by_asset.setdefault(each.asset, []).append(each)
    for asset, due in by_asset.items():
        reasons: dict[str, list[str]] = {}
        for each in due:
            reasons.setdefault(", ".join(each.reasons), []).append(each.partition)
        work, most_pairs = _work(project, asset, due, found, measured.sizes)
        # Encoding was paid for by the rehearsal.
        made_s = sum(max(0.0, each.seconds - each.num_encoded * measured.text_s) for each in due)
        num_steps = len(due) if asset not in INGEST.assets[1:] else 0  # those of a batch share one
        made_s += overhead_s(asset, num_steps, measured, is_made=all(each.is_made for each in due))
        seconds = work.seconds(measured.text_s, measured.pair_s) + made_s
        is_exact = found.is_counted or all(each.is_made for each in due) or not most_pairs
        yield PlannedAsset(asset, reasons, work, most_pairs, is_exact, seconds)


def _work(project: StandIn, asset: str, due: list[Due], found: Rehearsal, sizes: Sizes) -> tuple[Work, float]:
    """What is left to do for an asset, and how many pairs are scored at most."""
    counted = [project.counted[asset, each.partition] for each in due]
    num_pairs = sum(each.num_pairs for each in counted)
    if all(each.is_made for each in due):
        num_texts = sum(each.num_cosine_documents + sizes.query_share * each.num_cosine_queries for each in counted)
        return Work(texts=num_texts, pairs=num_pairs), num_pairs
    parts = due if ASSETS[asset].by == "recipe" else due[:1]
    work = sum((work_of(asset, each.partition, sizes, project) for each in parts), Work())
    if asset in ("generated_queries", "hard_negatives"):
        work = replace(work, texts=work.texts - sizes.documents + _num_missing(project))
    if asset == "eval_metrics":  # of a student that is not trained anew
        trained = {each.partition for each in found.due if each.asset == "student_checkpoint"}
        for each in due:
            if each.partition not in trained:
                num_missing = _num_missing(project, project.places.checkpoint_path(each.partition))
                work = replace(work, texts=max(0.0, work.texts - sizes.documents) + num_missing)
    if found.is_counted:
        return replace(work, pairs=num_pairs), num_pairs
    most = sum(work_of(asset, each.partition, sizes, project, in_pool=2).pairs for each in parts)
    if asset == "teacher_scores":  # a query whose label no fold saw is scored by all of them
        most = max(
            most,
            project.models.num_teacher_folds * sizes.num_train_pairs(project.settings),
        )
    return work, most


def _disk_mb(project: Project, assets: Sequence[PlannedAsset], measured: Measured) -> dict[str, float]:
    """What is kept, by what it is for, in MB (10^6 bytes)."""
    models = project.models
    names = {each.asset: sum(map(len, each.reasons.values())) for each in assets}
    student_mb = weights_mb(models.student_path)
    teacher_mb = models.num_teacher_folds * sum(weights_mb(path) for _, path in models.local_teachers)
    return {
        "vectors": sum(each.work.texts for each in assets) * (4 * measured.num_dimensions + 16) / 1e6,
        "scores": sum(each.most_pairs for each in assets) * _PAIR_BYTES / 1e6,
        # Beside each student that trains lie its saves.
        "checkpoints": names.get("student_checkpoint", 0) * student_mb + teacher_mb * ("teacher_checkpoint" in names),
    }


def before_run(project: Project, asset: str) -> Callable[[dg.AssetExecutionContext], None]:
    """What logs the plan of a run that nobody asked at the command line for, as its first event: Dagster shows nothing before a run.

    Of the first asset of a job that trains or compares. Batches are many, and their work is small.
    """

    def tell(context: dg.AssetExecutionContext) -> None:
        stage = next(stage for stage in stages_of(project) if asset in stage.assets)
        if stage.by == "batch" or asset != stage.assets[0] or COMMAND_TAG in context.run.tags:
            return
        partition = context.partition_key if context.has_partition_key else ""

        def is_of_run(_: Project, name: str, key: str) -> bool:
            return name in stage.assets and key == partition

        try:
            found = make_plan(project, is_of_run, stage.assets[-1], 0)
        except DistillError as error:  # the asset's own body says it once more, and fails
            context.log.warning(f"what this run costs is not known: {error}")
            return
        context.log.info("\n".join([found.text, *found.warnings]))

    return tell
