"""What `distill-assets why` answers: one sentence for each asset's partition, with what to do next."""

import re
from dataclasses import dataclass

import dagster as dg

from distill_assets.assets import ASSETS, assets_of
from distill_assets.assets.checks import newest_evaluations
from distill_assets.assets.reads import READS, Moment
from distill_assets.errors import UnknownAssetError
from distill_assets.handles.project import Project
from distill_assets.orchestration.stages import INGEST, Condition, Stage, Status, partitions_of, stages_of, status_of

_RUN = "distill-assets run makes it"
_ANEW = {  # what does not follow by itself (`KEPT_WHEN_AGED`)
    "teacher_checkpoint": "distill-assets retrain --fresh-teacher makes it anew",
    "student_choice": "distill-assets retrain --fresh-student chooses anew",
}
_HASH = re.compile(r"[0-9a-f]{32,}")


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether one asset's partition is fresh, due, waiting or refused: as `Status` says it, and in one sentence."""

    asset: str
    partition: str
    condition: Condition
    reasons: tuple[str, ...]
    sentence: str


def explain(project: Project, wanted: str | None = None) -> list[Answer]:
    """Answer for an asset, for one `asset[partition]`, or for all.

    A batch that is not read yet, or lies in quarantine, is answered as well, although it is no partition.

    Raises:
        UnknownAssetError: there is no such asset or partition.
    """
    quarantined = project.collection.unreadable()
    every = [
        (stage, name, key)
        for stage in stages_of(project)
        for name in stage.assets
        for key in _keys(project, stage, quarantined)
    ]
    chosen = [each for each in every if wanted in (None, each[1], label(*each[1:]))]
    if not chosen:
        raise UnknownAssetError(
            f"no asset or partition {wanted!r}: there are {', '.join(assets_of(project))}; batches and recipes are partitions"
        )
    return [_answer(project, stage, name, key, quarantined.get(key)) for stage, name, key in chosen]


def label(asset: str, partition: str) -> str:
    """An asset's partition as a user types it."""
    return f"{asset}[{partition}]" if partition else asset


def _keys(project: Project, stage: Stage, quarantined: dict[str, str]) -> list[str]:
    if stage.by != "batch":
        return partitions_of(project, stage)
    return sorted({*partitions_of(project, INGEST), *quarantined})


def _answer(project: Project, stage: Stage, asset: str, partition: str, quarantine: str | None) -> Answer:
    found = status_of(project, asset, partition)
    if quarantine is not None and stage.by == "batch":
        told = _in_quarantine(project, stage, found, partition, quarantine)
        if told is not None:
            condition: Condition = "rejected" if stage is INGEST and found.condition == "missing" else found.condition
            return _as_answer(asset, partition, condition, (f"quarantine: {quarantine}",), told)
    reasons = found.reasons
    if found.condition == "rejected":
        reasons = _failed_checks(project, asset, partition) or reasons
    told = _sentence(project, stage, asset, partition, Status(found.condition, reasons, found.moved))
    return _as_answer(asset, partition, found.condition, reasons, told)


def _as_answer(asset: str, partition: str, condition: Condition, reasons: tuple[str, ...], told: str) -> Answer:
    """`told` follows the label; what a source or a check says may have several lines."""
    return Answer(asset, partition, condition, reasons, " ".join(f"{label(asset, partition)} {told}".split()))


def _in_quarantine(project: Project, stage: Stage, found: Status, batch: str, reason: str) -> str | None:
    """None for what was made from the batch before it broke: it stands as what was read."""
    # A name that no batch may have is no content: its reason says already to rename the folder.
    step = "" if batch in project.collection.source.refused() else "; it is read again when its content changes"
    told = f"refused (quarantine): {reason}{step}"
    if stage is not INGEST:
        return f"waits: corpus[{batch}] is {told}" if found.condition == "missing" else None
    return f"is {told}" if found.condition == "missing" else f"is kept as it was read before: what came since is {told}"


def _sentence(project: Project, stage: Stage, asset: str, partition: str, found: Status) -> str:
    """Fresh, due, waiting or refused, because of what, and the next step."""
    because = ", ".join(_change(project, asset, *each) for each in found.moved) or ", ".join(found.reasons)
    match found.condition:
        case "up to date":
            return f"is fresh: nothing that it reads has changed since {_made_at(project, asset, partition)}; nothing to do"
        case "rejected":
            return f"is refused: {because}; {_RUN} again"
        case "blocked":
            return f"waits: {_as_clause(because)}"
        case "aged":
            anew = _ANEW.get(asset, "distill-assets run makes it anew")
            return f"is kept although {because} since {_made_at(project, asset, partition)} (aged); {anew}"
        case "missing":
            lacks = _lacks(project, stage, asset, partition)
            return f"waits: {lacks}" if lacks else f"is due: {because}; {_RUN}"
        case "stale":
            return f"is due: {because}; {_RUN}"


def _lacks(project: Project, stage: Stage, asset: str, partition: str) -> str | None:
    """What upstream has to be there first."""
    state = project.collection.state()
    if stage.by != "batch" and not state.batches:  # else a view would be asked of a warehouse that is not there
        return "no batch has been read; distill-assets run reads them"
    lacks = ASSETS[asset].reads.missing_upstream(Moment(project, state, partition))
    return lacks and _as_clause(lacks)


def _as_clause(message: str) -> str:
    """A message `what: what to do` inside a sentence that has its colon already."""
    return message.replace(": ", "; ", 1)


def _change(project: Project, asset: str, name: str, then: str | None, now: str | None) -> str:
    """One input, by the asset that makes it, with the version before and after."""
    upstream = ASSETS[asset].reads.read(name).upstream if name in READS else ()
    filled = {table for (table, _), info in project.collection.state().slices.items() if info.num_rows}
    made_by = [other for other in upstream if other in assets_of(project) and ASSETS[other].table in filled]
    what = f"{name} of {', '.join(made_by)}" if made_by else name
    if then is None or now is None:
        return f"{what} is {'read now' if then is None else 'no longer read'}"
    return f"{what} changed ({_short(then)} -> {_short(now)})"


def _short(version: str) -> str:
    """The start of a hash; a setting, or a version that is a number, as it is."""
    return version[:8] if _HASH.fullmatch(version) else version


def _made_at(project: Project, asset: str, partition: str) -> str:
    slices = project.collection.state().slices
    return f"{slices[ASSETS[asset].table, ASSETS[asset].slice_key(partition)].written_at:%Y-%m-%d %H:%M} UTC"


def _failed_checks(project: Project, asset: str, partition: str) -> tuple[str, ...]:
    """Each blocking check that refused the partition, what it found, and its next step, from the Dagster instance."""
    home = project.places.dagster_home
    if not (home / "dagster.yaml").is_file():
        return ()
    told = []
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for check in (check for check in ASSETS[asset].checks if check.is_blocking):
            key = dg.AssetCheckKey(project.key(asset), check.name)
            last, _ = newest_evaluations(instance, key).get(partition, (None, 0.0))
            if last is not None and not last.passed:
                step = check.next_step[0].lower() + check.next_step[1:].rstrip(".").replace(". ", "; ")
                told.append(f"check {check.name} failed: {str(last.description).rstrip('.')}; {step}")
    return tuple(told)
