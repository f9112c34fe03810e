"""Pairs to teacher logits: each member scores what it has not scored yet, chunk by chunk; the members are joined on reading.

one teacher            cross-encoder, bi_encoder/ where it brings one, ensemble.json where a cosine joins it
several                teacher-0/, teacher-1/, ... of these, in the order of the setting; teachers.json: what each is multiplied by
imported scores        imported.json instead of the cross-encoder: whose scores, and their scorer id
one behind a server    remote.json instead of the cross-encoder: what is served, not where; canary.json: its logits of fixed pairs
a cross-fitted one     fold-0/, fold-1/, ... of these, each with trained_on.txt; folds.json
"""

import fcntl
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distill_assets.errors import ScoreSetError
from distill_assets.handles.models import Models
from distill_assets.handles.places import IMPORTED_FILE, Places
from distill_assets.handles.vectors import Vectors
from distill_assets.models.catalog import (
    BI_ENCODER_FOLDER,
    fingerprint_model,
    fold_folders,
    member_folders,
    read_trained_on,
)
from distill_assets.models.cross_fitting import shares_of
from distill_assets.models.folders import read_json
from distill_assets.models.scoring import PairScorer, score_in_chunks, window_of
from distill_assets.progress import Progress, tell
from distill_assets.records import fingerprint, hash_text
from distill_assets.settings.values import IMPORTED, Settings
from distill_assets.storage.checkpoints import CANARY_FILE
from distill_assets.storage.folders import read_json_object
from distill_assets.storage.missing_pairs import MissingPairs, WantedPairs, read_query_texts
from distill_assets.storage.pair_scores import JoinRule, Part
from distill_assets.storage.warehouse import utc_now

if TYPE_CHECKING:
    from distill_assets.models.encoders import Precision
    from distill_assets.models.remote import Served

ENSEMBLE_FILE = "ensemble.json"  # in a teacher's folder: the weight with which a bi-encoder's cosine joins its logit
FOLDS_FILE = "folds.json"  # in a cross-fitted teacher's folder: what each fold's scores are multiplied by
TEACHERS_FILE = "teachers.json"  # in the folder of several teachers: the weight of each one's logit
REMOTE_FILE = "remote.json"  # in the folder of a teacher behind a server: the identity of what is served
# What lies in a teacher's folder beside the cross-encoder and is no part of what the cross-encoder says of a pair.
_NOT_THE_CROSS_ENCODER = frozenset({BI_ENCODER_FOLDER, ENSEMBLE_FILE, FOLDS_FILE, "trained_on.txt"})


@dataclass(frozen=True)
class Member:
    """One model of a teacher: who it is, what its logit weighs, and how it is opened."""

    scorer_id: str
    weight: float
    fold: int
    open: Callable[[], PairScorer] = field(repr=False)
    is_cross_encoder: bool = True
    is_imported: bool = False  # scores of another tool: what they lack, nobody can be asked for
    is_served: bool = False


@dataclass(frozen=True)
class Teacher:
    """The members of a teacher and, per fold, the keys of the queries whose labels it saw (`models/cross_fitting.py`)."""

    fingerprint: str
    members: tuple[Member, ...]
    trained_on: tuple[frozenset[str], ...] = (frozenset(),)

    @property
    def is_imported(self) -> bool:
        """Whether it is scores of another tool, which may lack pairs."""
        return any(member.is_imported for member in self.members)

    def rule(self, text_of: dict[str, str]) -> JoinRule:
        """How the members are joined for these queries (query_hash -> text)."""
        parts = tuple(Part(member.scorer_id, member.weight, member.fold) for member in self.members)
        if len(self.trained_on) == 1:
            return JoinRule(parts)
        shares = shares_of(list(text_of.values()), self.trained_on)
        columns = {f"share_{fold}": pa.array(shares[:, fold]) for fold in range(len(self.trained_on))}
        return JoinRule(parts, pa.table({"query_hash": pa.array(list(text_of), pa.string()), **columns}))

    def wanted_of(self, member: Member, wanted: WantedPairs, rule: JoinRule) -> WantedPairs:
        """The pairs that a member has to score: those of the queries that its fold may score."""
        if rule.shares is None:
            return wanted
        may_score = pc.greater(rule.shares[f"share_{member.fold}"], 0.0)
        return wanted.of_queries(rule.shares.filter(may_score).select(["query_hash"]))


@dataclass(frozen=True)
class Logits:
    """The teacher's folder as something that scores pairs of the collection."""

    settings: Settings
    places: Places
    models: Models
    vectors: Vectors
    payer: tuple[str, str] = ("other", "")  # asset and partition that the cost of scoring is written down for

    def teacher(self, path: Path) -> Teacher:
        """The members of the teacher at `path`. Opens a model only where its folder does not say how it scores."""
        folders, content = fold_folders(path), fingerprint_model(path)
        if several := member_folders(path):
            weights = read_json(path / TEACHERS_FILE)["weights"]
            found = [m for folder, w in zip(several, weights, strict=True) for m in self._members(folder, 0, w)]
            return Teacher(content, tuple(found))
        if not folders:
            return Teacher(content, tuple(self._members(path, 0, 1.0)))
        scales = read_json(path / FOLDS_FILE)["scales"]
        members = [
            member
            for fold, (folder, scale) in enumerate(zip(folders, scales, strict=True))
            for member in self._members(folder, fold, scale)
        ]
        return Teacher(content, tuple(members), tuple(read_trained_on(folder) for folder in folders))

    def score(self, teacher: Teacher, wanted: WantedPairs) -> tuple[pa.Table, int]:
        """The rows of `wanted` with `teacher_logit`, and how many forward passes of a cross-encoder that took.

        The texts of pairs are read from the tables `queries` and `corpus` by hash. A kill costs at most one chunk. Another run that
        scores with the same member is waited for, and what it scored is not scored again. A pair that imported scores lack has NULL.
        """
        if teacher.is_imported:
            return self.places.pair_scores.join(teacher.rule({}), wanted, is_partial=True), 0
        text_of = read_query_texts(self.places.warehouse, wanted) if len(teacher.trained_on) > 1 else {}
        rule, num_scored, store = teacher.rule(text_of), 0, self.places.pair_scores
        for member in teacher.members:
            with (
                _alone(store.home.path.with_name(f".scoring-{member.scorer_id}.lock")),
                store.missing(member.scorer_id, teacher.wanted_of(member, wanted, rule)) as missing,
            ):
                if missing.num_pairs:
                    self._score_missing(teacher, member, missing)
                    num_scored += missing.num_pairs if member.is_cross_encoder else 0
        return store.join(rule, wanted), num_scored

    def score_texts(self, teacher: Teacher, texts: Sequence[tuple[str, str]]) -> tuple[list[float], int]:
        """Teacher logits of (query, document) texts of the collection, in order, and how many forward passes that took.

        NaN stands for a pair that imported scores lack. Ranking refuses it, unless `place_unscored_last` has placed it.
        """
        pairs = {
            "position": pa.array(range(len(texts)), pa.int64()),
            "query_hash": pa.array([hash_text(query) for query, _ in texts], pa.string()),
            "doc_hash": pa.array([hash_text(document) for _, document in texts], pa.string()),
        }
        rows, num_scored = self.score(teacher, WantedPairs.of_table(pa.table(pairs)))
        return rows["teacher_logit"].fill_null(math.nan).to_pylist(), num_scored

    def score_alone(self, path: Path, texts: Sequence[tuple[str, str]]) -> np.ndarray:
        """Logits of the cross-encoder at `path` alone, float32 (len(texts),), kept in the store like any other's."""
        member = next(self._members(path, 0, 1.0))
        logits, _ = self.score_texts(Teacher(fingerprint_model(path), (member,)), texts)
        return np.asarray(logits, dtype=np.float32)

    def open(self, path: Path) -> PairScorer:
        """The whole teacher as one scorer that keeps nothing: for timing, and for texts that are not of the collection."""
        teacher = self.teacher(path)
        scorers = [member.open() for member in teacher.members]

        def score(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
            shares = shares_of([query for query, _ in pairs], teacher.trained_on)
            total = np.zeros(len(pairs))
            for member, scorer in zip(teacher.members, scorers, strict=True):
                rows = np.flatnonzero(shares[:, member.fold])
                logits = scorer([pairs[row] for row in rows.tolist()]) if len(rows) else np.empty(0)
                total[rows] += shares[rows, member.fold] * member.weight * logits
            return total.astype(np.float32)

        return score

    def open_cross_encoder(self, path: Path) -> PairScorer:
        """The cross-encoder at `path` alone: on its servers, or in the precision of this machine where it can have it.

        Raises:
            ScoreSetError: the teacher is imported scores: there is no model.
        """
        if (path / IMPORTED_FILE).is_file():
            raise ScoreSetError(
                f"{IMPORTED}{read_json(path / IMPORTED_FILE)['name']} has no score of this pair and cannot be asked: score the pair "
                "where the others were scored and import them again, or set teacher to a model"
            )
        if (path / REMOTE_FILE).is_file():
            from distill_assets.models.remote import RemoteScorer

            number = int(path.name.rsplit("-", 1)[1]) if _is_part(path) else 0
            return RemoteScorer(self.models.open_servers(number), read_served(path))
        return self.models.open_scorer(self.models.load_teacher(path))

    def cross_encoder_id(self, path: Path) -> str:
        """What decides the logits of the cross-encoder at `path`: content, length, precision that it really runs in, prompt if set.

        Of one behind a server: what is served, and no address. Of imported scores: what they were imported as.
        """
        if (path / IMPORTED_FILE).is_file():
            return str(read_json(path / IMPORTED_FILE)["scorer_id"])
        if (path / REMOTE_FILE).is_file():
            return fingerprint("served", *sorted(read_json(path / REMOTE_FILE).items()))
        content, prompt = fingerprint_model(path, _NOT_THE_CROSS_ENCODER), self.settings.teacher_prompt
        chosen = () if prompt is None else (prompt,)
        return fingerprint("cross_encoder", content, self.settings.teacher_max_length, self._precision(path), *chosen)

    def cosine_id(self, path: Path) -> str:
        """The same for the cosine of a bi-encoder."""
        return fingerprint("cosine", self.models.encoder_id(path), self.models.student_precision)

    def way(self, path: Path) -> str:
        """Which way through `models/fast/scorer.py` the cross-encoder at `path` takes: as its checkpoint says, else it is opened."""
        for name, way in ((REMOTE_FILE, "served"), (IMPORTED_FILE, "imported")):
            if (path / name).is_file():
                return way
        is_part = _is_part(path)
        manifest = read_json_object((path.parent if is_part else path) / "manifest.json") or {}
        told = manifest.get("ways", {}).get(path.name if is_part else "")
        if told is not None:
            return str(told)
        key = (path, fingerprint_model(path), self.settings.teacher_prompt)
        if key not in _ways:
            from distill_assets.models.fast import open_scorer

            _ways[key] = open_scorer(self.models.load_teacher(path), "fp32").way
        return _ways[key]

    def _members(self, path: Path, fold: int, scale: float) -> Iterator[Member]:
        yield Member(
            self.cross_encoder_id(path),
            scale,
            fold,
            lambda: self.open_cross_encoder(path),
            is_imported=(path / IMPORTED_FILE).is_file(),
            is_served=(path / REMOTE_FILE).is_file(),
        )
        if (path / ENSEMBLE_FILE).is_file():
            weight = scale * read_json(path / ENSEMBLE_FILE)["cosine_weight"]
            encoder = self.models.teacher_bi_encoder(path)
            yield Member(
                self.cosine_id(encoder), weight, fold, lambda: self._open_cosine(encoder), is_cross_encoder=False
            )

    def _open_cosine(self, path: Path) -> PairScorer:
        load = cache(lambda: self.models.load_student(path, self.models.student_precision))  # once, not per window
        return lambda pairs: self.vectors.cosines(path, pairs, load)

    def _precision(self, path: Path) -> "Precision":
        """The precision in which the cross-encoder really computes on this machine."""
        from distill_assets.models.fast import used_precision

        if self.models.scoring_precision == "fp32":
            return "fp32"
        return used_precision(self.way(path), self.models.scoring_precision)

    def _score_missing(self, teacher: Teacher, member: Member, missing: MissingPairs) -> None:
        settings, started, scorer = self.settings, time.perf_counter(), member.open()
        windows = missing.windows(min(settings.chunk_size, window_of(scorer)))
        progress = Progress("teacher scores", missing.num_pairs, "pairs")
        chunks = score_in_chunks(
            windows,
            scorer,
            chunk_size=settings.chunk_size,
            chunk_seconds=settings.chunk_seconds,
            texts_of=lambda w: w.texts,
        )
        try:
            for part, logits in chunks:
                hashes = {
                    "query_hash": [h for window in part for h in window.query_hashes],
                    "doc_hash": [h for window in part for h in window.doc_hashes],
                }
                rows = pa.table({**hashes, "teacher_logit": pa.array(logits, pa.float32())})
                self.places.pair_scores.commit(member.scorer_id, rows)
                progress.advance(len(logits))
        finally:  # what was committed before a kill has been paid for
            if member.is_cross_encoder and progress.num_done:
                self._record_cost(teacher, progress.num_done, time.perf_counter() - started)

    def _record_cost(self, teacher: Teacher, num_pairs: int, seconds: float) -> None:
        asset, partition = self.payer
        row = {
            "scored_at": [utc_now()],
            "asset": [asset],
            "partition_key": [partition],
            "teacher_fingerprint": [teacher.fingerprint],
            "num_pairs": [num_pairs],
            "seconds": [seconds],
        }
        self.places.warehouse.append("scoring_costs", pa.table(row))


def _is_part(path: Path) -> bool:
    """Whether a folder is a fold of a teacher, or one of several."""
    return path.name.startswith(("fold-", "teacher-"))


def write_served(folder: Path, served: "Served") -> None:
    """Keep in a teacher's folder what a server serves, and its canary."""
    (folder / REMOTE_FILE).write_text(json.dumps(served.as_json(), indent=2) + "\n", encoding="utf-8")
    (folder / CANARY_FILE).write_text(json.dumps(served.logits) + "\n", encoding="utf-8")


def read_served(folder: Path) -> "Served":
    """What `write_served` kept."""
    from distill_assets.models import remote

    return remote.read_served(read_json(folder / REMOTE_FILE), read_json(folder / CANARY_FILE))


# Opening a teacher to ask takes seconds: once per process, content and prompt.
_ways: dict[tuple[Path, str, str | None], str] = {}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold `path` as a lock that ends with this process, so that two runs never pay for the same pairs at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another run is scoring with this teacher: waiting for it, to use what it scores")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
