"""A rehearsal of a run: the line's own bodies on a copy of the warehouse, with a teacher that counts pairs in place of scoring them.

What is kept is vectors alone: their key is the text and the encoder, so a run that follows does not pay for them again. Nothing is
trained. Logits are made up, so what depends on their values is not known: which generated queries count, and training lists.
"""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pyarrow as pa

from distill_assets.assets import ASSETS, CHECKS
from distill_assets.assets.comparison import compare_new_teacher, dev_lists, score_pool, step_lists
from distill_assets.assets.evaluation import LEADERBOARD
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.manifests import checkpoint_row
from distill_assets.assets.rankings import DEPTH, judged_queries
from distill_assets.assets.teacher_building import labelled
from distill_assets.errors import CheckFailedError, DistillError
from distill_assets.handles.logits import Logits, Member, Teacher
from distill_assets.handles.places import Places
from distill_assets.handles.project import Project
from distill_assets.handles.vectors import Vectors
from distill_assets.models.catalog import fold_folder, fold_folders, read_trained_on, write_trained_on
from distill_assets.models.cross_fitting import query_key
from distill_assets.models.remote import CHECK_EVERY, requests_of
from distill_assets.models.scoring import PairScorer
from distill_assets.orchestration.stages import (
    INGEST,
    KEPT_WHEN_AGED,
    IsStale,
    Stage,
    groups_of,
    partitions_of,
    require_batches,
    status_of,
)
from distill_assets.quality.verdicts import judge_teacher
from distill_assets.records import fingerprint
from distill_assets.spilling import temporary_folder
from distill_assets.storage.checkpoints import MANIFEST
from distill_assets.storage.missing_pairs import MissingPairs
from distill_assets.storage.pair_scores import PairScoreStore
from distill_assets.training.lists import pairs_of

# What follows reading, before a student is trained: it searches, or asks the teacher.
SEARCHING = ("generated_queries", "hard_negatives", "teacher_checkpoint", "teacher_scores", "teacher_judgements")
if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from distill_assets.models.encoders import Role

_UNTRAINED = "untrained.json"  # in the folder of a teacher that is still to be trained: whether a cosine joins it
_WINDOW = 1 << 16
_LOG = logging.getLogger(__name__)
Slot = tuple[str, str]  # an asset's partition


@dataclass(frozen=True)
class Due:
    """An asset's partition that a run would make, and why.

    Attributes:
        is_made: whether the rehearsal made it, so that what it asks for is counted.
        seconds: that this took, and `num_encoded` the texts that were encoded for it.
    """

    asset: str
    partition: str
    reasons: tuple[str, ...]
    is_made: bool
    seconds: float = 0.0
    num_encoded: int = 0


@dataclass
class Counted:
    """What one asset's partition asks of teachers.

    Attributes:
        num_pairs: forward passes of a cross-encoder that no store has.
        num_served: of these on servers, in `num_requests`.
        num_cosine_documents: that a teacher's bi-encoder encodes, for the cosine that joins a logit; `num_cosine_queries` beside them.
    """

    num_pairs: int = 0
    num_served: int = 0
    num_requests: int = 0
    num_cosine_documents: int = 0
    num_cosine_queries: int = 0


@dataclass(eq=False)
class StandIn(Project):
    """A project whose warehouse and checkpoints are a copy, and whose teacher counts."""

    kept_in: Places = field(kw_only=True)
    counted: dict[Slot, Counted] = field(default_factory=lambda: defaultdict(Counted))
    encoded: list[int] = field(default_factory=list)  # numbers of texts
    cosine_texts: set[tuple[str, str, bool]] = field(default_factory=set)  # scorer, text, whether that is a query

    @cached_property
    def places(self) -> Places:
        """The copy."""
        return self.kept_in

    @cached_property
    def vectors(self) -> Vectors:
        """Texts to vectors, which are kept, and are counted in `encoded`."""
        return _CountingVectors(self.settings, self.models, self.places.embeddings, self.encoded)

    def logits(self, payer: tuple[str, str] = ("other", "")) -> Logits:
        """Pairs to made-up logits."""
        return _Counting(
            self.settings, self.places, self.models, self.vectors, payer, self.counted[payer], self.cosine_texts
        )


@dataclass(frozen=True)
class Rehearsal:
    """What was found.

    Attributes:
        is_counted: whether all pairs are counted; else the run searches first, or a choice of the student comes before it.
        refused: batches that cannot be read, or do not pass a blocking check, with the reason.
    """

    due: list[Due]
    is_counted: bool
    refused: Mapping[str, str]


@contextmanager
def standing_in(project: Project) -> Iterator[StandIn]:
    """The project on a copy that is gone at the end of the block. Vectors and imported scores are those of the project itself."""
    real = project.places
    real.folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(".plan-", real.folder.resolve()) as folder:
        places = Places(folder, real.shared)
        real.warehouse.copy_to(places.warehouse.path)
        real.checkpoints.link_to(places.checkpoints.root)
        for shared in ("embeddings", "imported_scores"):
            target = real.folder.resolve() / shared
            if shared == "embeddings":
                target.mkdir(exist_ok=True)
            if target.exists():
                (folder / shared).symlink_to(target, target_is_directory=True)
        yield StandIn(**{f.name: getattr(project, f.name) for f in fields(Project)}, kept_in=places)


def rehearse(project: StandIn, is_stale: IsStale, until: str, may_search: Callable[[str], bool]) -> Rehearsal:
    """Make what is due up to the asset `until`, as a run would, but for what is trained.

    `may_search` is asked of each of `SEARCHING` that is due; from the first "no" on nothing more is made.

    Raises:
        DistillError: what a run would raise: nothing to read, a check that blocks, a model or server that is not there.
    """
    _ = project.models.baselines
    due: list[Due] = []
    refused: dict[str, str] = {}
    is_counted = True
    for stage, asset, partition in _slots(project, until):
        reasons = None if partition in refused else _reasons(project, is_stale, asset, partition, due)
        if reasons is None:
            continue
        is_counted = is_counted and asset != "student_choice" and (asset not in SEARCHING or may_search(asset))
        is_made = stage is INGEST or (is_counted and asset in SEARCHING)
        found = Due(asset, partition, reasons, is_made)
        due.append(_carried_out(project, stage, found, refused) if is_made else found)
    if is_counted and any(each.asset == "leaderboard" for each in due):
        _count_pool(project)
    return Rehearsal(due, is_counted, refused)


def _slots(project: StandIn, until: str) -> Iterator[tuple[Stage, str, str]]:
    """Stage, asset and partition in the order of a run. Which batches there are is asked once they are read."""
    for stage, group in groups_of(project, until):
        for partition in partitions_of(project, stage):
            yield from ((stage, asset, partition) for asset in group)
        if stage is INGEST:
            require_batches(project)


def _carried_out(project: StandIn, stage: Stage, due: Due, refused: dict[str, str]) -> Due:
    """Make it on the copy. Why a batch of an inbox is left out goes into `refused`; any other such error is raised."""
    asset, started, num_before = ASSETS[due.asset], time.perf_counter(), sum(project.encoded)
    if due.asset == "teacher_checkpoint" and project.models.is_teacher_trained:
        asset = replace(asset, body=_untrained_teacher)
    try:
        result = asset.make(project, due.partition, _LOG)
        if stage is INGEST:
            _require_passed(asset, due.partition, result)
    except DistillError as error:
        if stage is not INGEST or not project.collection.source.is_inbox:
            raise
        refused[due.partition] = str(error)
    return replace(due, seconds=time.perf_counter() - started, num_encoded=sum(project.encoded) - num_before)


def _reasons(project: StandIn, is_stale: IsStale, asset: str, partition: str, due: list[Due]) -> tuple[str, ...] | None:
    """Why it would be made; None where it would not."""
    found = status_of(project, asset, partition)
    if is_stale(project, asset, partition):
        return ("what it reads is made first",) if found.condition == "blocked" else found.reasons or ("asked for",)
    reads = ASSETS[asset].reads
    unmade = {(each.asset, each.partition) for each in due if not each.is_made}
    for name in reads.inputs:
        if asset in KEPT_WHEN_AGED and name in reads.as_of_making:
            continue
        read = reads.read(name)
        for up in read.upstream:
            if (up, partition) in unmade if read.is_own else any(made == up for made, _ in unmade):
                return (f"{up} is made anew",)
    return None


def _require_passed(asset: Asset, partition: str, result: dg.MaterializeResult) -> None:
    for found in result.check_results or ():
        if not found.passed and found.severity is dg.AssetCheckSeverity.ERROR:
            step = CHECKS[asset.name, str(found.check_name)].next_step
            raise CheckFailedError(
                f"check {found.check_name} of {asset.name}[{partition}] would fail: {found.description}. {step}"
            )


def _count_pool(project: StandIn) -> None:
    """Count the pairs of the leaderboard. Its pool is what BM25 and the untouched student find, so no trained student decides it."""
    names = ("documents", "evaluation_queries", "evaluation_judgements", "student", "teacher", "tokeniser", "judges")
    wanted = (*names, "training_queries", "training_judgements", "candidates")
    reads = replace(LEADERBOARD.reads, inputs=tuple(name for name in LEADERBOARD.reads.inputs if name in wanted))
    inputs = Inputs(project, LEADERBOARD.name, reads, "", _LOG)
    split = "test" if judged_queries(inputs, "test")[0] else "dev"
    queries, _ = judged_queries(inputs, split)
    bm25 = inputs.retrieval.bm25(queries, DEPTH)
    score_pool(inputs, queries, bm25, inputs.retrieval.dense(inputs.student_path, queries, DEPTH))
    if inputs.judge_of("dev") == "people":
        inputs.logits_handle.score_texts(inputs.teacher, pairs_of(dev_lists(inputs)))


def _untrained_teacher(inputs: Inputs) -> Made:
    """In place of a teacher that would be trained: whose labels each of its folds would see, and the dev pairs that it would score."""
    models, store = inputs.project.models, inputs.project.places.checkpoints
    key, num_folds, logits = fingerprint("untrained"), models.num_teacher_folds, inputs.logits_handle
    with store.writing("teacher", "teacher", key) as folder:
        (folder / _UNTRAINED).write_text(json.dumps({"is_joined": models.is_teacher_joined}), encoding="utf-8")
        (folder / "config.json").write_text("{}", encoding="utf-8")  # what a fingerprint asks for
        (folder / MANIFEST).write_text("{}", encoding="utf-8")
        for fold in range(num_folds) if num_folds > 1 else ():
            fold_folder(folder, fold).mkdir()
            write_trained_on(fold_folder(folder, fold), {query_key(query.text) for query in labelled(inputs, fold)})
    path = store.path("teacher", "teacher", key)
    if num_folds > 1 or models.is_teacher_joined:  # they are joined by what they say of dev candidates
        for member in logits.teacher(path).members:
            logits.score_texts(Teacher(key, (member,)), pairs_of(step_lists(inputs)))
    with suppress(DistillError):
        compare_new_teacher(inputs, path)
    rows, version, _ = checkpoint_row(inputs.project, "teacher", "teacher", path)
    return Made(rows=rows, data_version=version, verdicts={"better_than_baselines": judge_teacher(None)})


@dataclass(frozen=True)
class _Counting(Logits):
    """Counts the pairs that no store has, and keeps a made-up logit of each in the copy, so that no pair is counted twice."""

    counted: Counted = field(default_factory=Counted)
    cosine_texts: set[tuple[str, str, bool]] = field(default_factory=set)

    def teacher(self, path: Path) -> Teacher:
        """As ever; of a teacher that is still to be trained members that have scored nothing."""
        if not (path / _UNTRAINED).is_file():
            return super().teacher(path)
        is_joined = json.loads((path / _UNTRAINED).read_text(encoding="utf-8"))["is_joined"]
        folds, members = fold_folders(path), list[Member]()
        for fold in range(max(1, len(folds))):
            members.append(Member(fingerprint("untrained", fold), 1.0, fold, _open_nothing))
            if is_joined:
                members.append(Member(fingerprint("untrained cosine", fold), 1.0, fold, _open_nothing, False))
        trained_on = tuple(read_trained_on(each) for each in folds) or (frozenset[str](),)
        return Teacher(fingerprint("untrained"), tuple(members), trained_on)

    def _score_missing(self, teacher: Teacher, member: Member, missing: MissingPairs) -> None:
        store, counted = PairScoreStore(self.places.warehouse), self.counted
        step = min(self.settings.chunk_size, CHECK_EVERY)  # as servers are asked
        for window in missing.windows(_WINDOW):
            hashes = {"query_hash": window.query_hashes, "doc_hash": window.doc_hashes}
            columns = zip(window.query_hashes, window.doc_hashes, strict=True)
            made_up = [(int(q[:6], 16) ^ int(d[:6], 16)) / 2**24 for q, d in columns]
            store.commit(member.scorer_id, pa.table({**hashes, "teacher_logit": pa.array(made_up, pa.float32())}))
            if member.is_cross_encoder:
                counted.num_pairs += len(window)
            else:
                counted.num_cosine_queries += self._count_new(member.scorer_id, window.query_hashes, is_query=True)
                counted.num_cosine_documents += self._count_new(member.scorer_id, window.doc_hashes, is_query=False)
            if member.is_served:
                counted.num_served += len(window)
                parts = (window.texts[start : start + step] for start in range(0, len(window), step))
                counted.num_requests += sum(1 for part in parts for _ in requests_of(part))

    def _count_new(self, scorer_id: str, hashes: Sequence[str], *, is_query: bool) -> int:
        """How many of the texts this bi-encoder has not encoded before, for any asset."""
        num_before = len(self.cosine_texts)
        self.cosine_texts.update((scorer_id, text, is_query) for text in hashes)
        return len(self.cosine_texts) - num_before


@dataclass(frozen=True)
class _CountingVectors(Vectors):
    encoded: list[int] = field(default_factory=list)

    def _encode(self, model: "SentenceTransformer", texts: list[str], role: "Role") -> np.ndarray:
        self.encoded.append(len(texts))
        return super()._encode(model, texts, role)


def _open_nothing() -> PairScorer:
    raise AssertionError("a teacher that counts is never opened")
