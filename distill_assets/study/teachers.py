"""Cross-fitted teachers: several members, each trained on the labels of the other folds, joined by standardised scores.

A train query is scored only by members that never saw its label (`core/cross_fitting.py`); a query without a label by all.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

from distill_assets.core.adapters import load_adapted_student, load_adapted_teacher
from distill_assets.core.cross_fitting import fold_of, outside_fold, query_key
from distill_assets.core.encoders import CrossEncoderScorer, encode_texts, grow_cross_encoder, load_student
from distill_assets.core.ensemble import spread_within
from distill_assets.core.errors import SettingsError
from distill_assets.core.fast_scoring import open_scorer, resolve_precision
from distill_assets.core.groups import DevGroup, Labels, build_student_epochs, build_teacher_epochs
from distill_assets.core.recipes import Recipe, TeacherRecipe
from distill_assets.core.records import Query
from distill_assets.core.scoring import PairScorer
from distill_assets.core.training import TrainingRun, train_student, train_teacher
from distill_assets.storage.models import (
    BI_ENCODER_FOLDER,
    BUNDLED_TEACHER,
    CROSS_ENCODER_FOLDER,
    fold_folders,
    packaged_encoder,
    read_trained_on,
)
from distill_assets.study.collection import FirstStage, StudyCollection

MemberKind = Literal["cross_encoder", "bi_encoder", "bm25"]
Scores = dict[str, np.ndarray]  # query_id -> one score per candidate
_BM25_DEPTH = 1000  # below it a document's BM25 score counts as 0: it is not among any query's candidates
_SPREAD_QUERIES = 200
_WARM_NEGATIVES = 20  # that a cross-encoder's own bi-encoder brings
_BATCH = 256
_BUNDLED_LENGTH = 128  # tokens, as `teacher_max_length` has it


@dataclass(frozen=True, kw_only=True)
class TeacherPlan:
    """How a study's teacher is made.

    Attributes:
        members: kinds that are joined; cross-encoders and bi-encoders are trained, `bm25` is the lexical score.
        folds: folds of the train queries; each trained kind has one member per fold. 1: one member that saw every label.
        warm_start: grow each cross-encoder from the fold's bi-encoder in place of the untouched encoder, and let it learn against that
            bi-encoder's hard negatives (Trans-Encoder, arXiv 2109.13059, goes the same way without labels).
        bi_encoder: recipe of the bi-encoder members.
        cross_encoder: recipe of the cross-encoder members.
    """

    members: tuple[MemberKind, ...] = ("cross_encoder", "bi_encoder")
    folds: int = 4
    warm_start: bool = False
    bi_encoder: Recipe = field(default_factory=lambda: Recipe(name="bi_encoder", loss="hard_labels", epochs=2))
    cross_encoder: TeacherRecipe = field(default_factory=lambda: TeacherRecipe(num_queries=None, epochs=2))

    def __post_init__(self) -> None:
        """Refuse a teacher of nobody."""
        if not self.members or self.folds < 1:
            raise SettingsError(f"teacher plan: {self.members!r} in {self.folds} folds, expected a member and a fold")


class Member(Protocol):
    """One scorer of a teacher."""

    def score(self, queries: Sequence[Query], candidates: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """query_id -> one raw score per candidate, float64, in the order of the candidates."""
        ...


@dataclass(frozen=True)
class PairMember:
    """A cross-encoder."""

    scorer: PairScorer
    content_of: Mapping[str, str]

    def score(self, queries: Sequence[Query], candidates: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """Logits of all pairs, scored in one go so that batches hold pairs of like length."""
        pairs = [(q.text, self.content_of[d]) for q in queries for d in candidates[q.query_id]]
        order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][0]) + len(pairs[i][1]), i))
        logits = np.empty(len(pairs))
        logits[order] = self.scorer([pairs[i] for i in order])
        return _split(logits, queries, candidates)


@dataclass(frozen=True)
class VectorMember:
    """A bi-encoder, with the vectors of all documents."""

    model: SentenceTransformer
    vectors: np.ndarray
    row_of: Mapping[str, int]

    def score(self, queries: Sequence[Query], candidates: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """Cosines."""
        asked = encode_queries(self.model, queries)
        return {
            q.query_id: (self.vectors[[self.row_of[d] for d in candidates[q.query_id]]] @ vector).astype(np.float64)
            for q, vector in zip(queries, asked, strict=True)
        }


@dataclass(frozen=True)
class LexicalMember:
    """BM25; it has no parameters, so it saw no label."""

    first_stage: FirstStage

    def score(self, queries: Sequence[Query], candidates: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """BM25 scores, 0 for a document below the first thousand."""
        runs = self.first_stage.search_bm25(queries, _BM25_DEPTH)
        return {
            q.query_id: np.array([dict(runs[q.query_id]).get(d, 0.0) for d in candidates[q.query_id]]) for q in queries
        }


@dataclass(frozen=True)
class StudyTeacher:
    """Members by kind and fold; a score is the mean of the members' scores, each divided by its own spread within queries."""

    members: Mapping[str, Sequence[Member]]  # kind -> one per fold, or one alone
    spreads: Mapping[str, Sequence[float]]
    folds: int
    labelled: frozenset[str]  # queries whose labels members were trained on
    seconds: float

    def score(self, queries: Sequence[Query], candidates: Mapping[str, Sequence[str]]) -> Scores:
        """query_id -> one standardised logit per candidate: the mean over the kinds of members."""
        return join_kinds(self.score_by_kind(queries, candidates))

    def score_by_kind(self, queries: Sequence[Query], candidates: Mapping[str, Sequence[str]]) -> dict[str, Scores]:
        """The same for each kind of member; a query's own fold alone scores it where its label was trained on."""
        found: dict[str, Scores] = {}
        for kind, members in self.members.items():
            total = {q.query_id: np.zeros(len(candidates[q.query_id])) for q in queries}
            for fold, (member, spread) in enumerate(zip(members, self.spreads[kind], strict=True)):
                asked = [q for q in queries if self._may_score(q, fold, len(members))]
                for query_id, scores in (member.score(asked, candidates) if asked else {}).items():
                    share = 1 if query_id in self.labelled and len(members) > 1 else len(members)
                    total[query_id] += scores / (spread * share)
            found[kind] = total
        return found

    def _may_score(self, query: Query, fold: int, num_members: int) -> bool:
        return num_members == 1 or query.query_id not in self.labelled or fold_of(query.text, self.folds) == fold


def join_kinds(by_kind: Mapping[str, Scores], kinds: Sequence[str] | None = None) -> Scores:
    """The mean over some kinds of members, by default all."""
    chosen = [scores for kind, scores in by_kind.items() if kinds is None or kind in kinds]
    return {query_id: np.mean([scores[query_id] for scores in chosen], axis=0) for query_id in chosen[0]}


@dataclass(frozen=True, kw_only=True)
class TeacherGrower:
    """What teachers are grown from; dev groups choose each member's step, dev queries measure its spread."""

    collection: StudyCollection
    first_stage: FirstStage
    labels: Labels
    step_groups: Sequence[DevGroup]
    encoder_path: Path
    device: str
    max_length: int
    work_folder: Path

    def grow(self, plan: TeacherPlan, labelled: Sequence[Query]) -> StudyTeacher:
        """Train every member of the plan on `labelled` train queries."""
        started = time.perf_counter()
        members: dict[str, list[Member]] = {kind: [] for kind in plan.members}
        for fold in range(plan.folds):
            seen = outside_fold(labelled, plan.folds, fold)
            bi_encoder = None
            if "bi_encoder" in plan.members or plan.warm_start:
                bi_encoder = self._grow_bi_encoder(plan.bi_encoder, seen, fold)
            if "bi_encoder" in plan.members and bi_encoder is not None:
                members["bi_encoder"].append(bi_encoder)
            if "cross_encoder" in plan.members:
                warm = bi_encoder if plan.warm_start else None
                members["cross_encoder"].append(self._grow_cross_encoder(plan.cross_encoder, seen, fold, warm))
        if "bm25" in plan.members:
            members["bm25"].append(LexicalMember(self.first_stage))
        return self._balanced(members, plan.folds, frozenset(q.query_id for q in labelled), started)

    def open_bundled(self) -> StudyTeacher:
        """The teacher of `python_api` that comes with the package: its train queries are scored by the folds that did not see them."""
        started, folders = time.perf_counter(), fold_folders(BUNDLED_TEACHER)
        members: dict[str, list[Member]] = {CROSS_ENCODER_FOLDER: [], BI_ENCODER_FOLDER: []}
        encoder = packaged_encoder()
        for folder in folders:
            cross_encoder = load_adapted_teacher(
                encoder, folder / CROSS_ENCODER_FOLDER, device=self.device, max_length=_BUNDLED_LENGTH
            )
            members[CROSS_ENCODER_FOLDER].append(self._pair_member(cross_encoder))
            bi_encoder = load_adapted_student(
                encoder, folder / BI_ENCODER_FOLDER, device=self.device, max_length=_BUNDLED_LENGTH
            )
            members[BI_ENCODER_FOLDER].append(self._with_vectors(bi_encoder))
        seen = {key for folder in folders for key in read_trained_on(folder)}
        labelled = frozenset(q.query_id for q in self.collection.queries["train"] if query_key(q.text) in seen)
        return self._balanced(members, len(folders), labelled, started)

    def _balanced(
        self, members: dict[str, list[Member]], folds: int, labelled: frozenset[str], started: float
    ) -> StudyTeacher:
        spreads = {kind: [self._measure_spread(member) for member in found] for kind, found in members.items()}
        return StudyTeacher(members, spreads, folds, labelled, time.perf_counter() - started)

    def _with_vectors(self, model: SentenceTransformer) -> VectorMember:
        row_of = {doc_id: row for row, doc_id in enumerate(self.collection.doc_ids)}
        return VectorMember(model, encode_documents(model, self.collection), row_of)

    def _grow_bi_encoder(self, recipe: Recipe, seen: Sequence[Query], fold: int) -> VectorMember:
        model = load_student(self.encoder_path, device=self.device, max_length=self.max_length)
        recipe = replace(recipe, seed=recipe.seed + fold)
        self._train(train_student, model, build_student_epochs(seen, self.labels, recipe), recipe, fold)
        return self._with_vectors(model)

    def _grow_cross_encoder(
        self, recipe: TeacherRecipe, seen: Sequence[Query], fold: int, warm: VectorMember | None
    ) -> PairMember:
        """A cross-encoder from the untouched encoder, or from `warm` and against what that one finds hard."""
        path, labels = self.encoder_path, self.labels
        if warm is not None:
            path = self.work_folder / f"bi-encoder-{fold}"
            warm.model.save_pretrained(str(path), create_model_card=False)
            stage = FirstStage(self.collection, warm.vectors, self.work_folder / "lexical")
            mined = stage.mine(seen, encode_queries(warm.model, seen), _WARM_NEGATIVES, labels.positives)
            labels = Labels(labels.positives, {**labels.negatives, **mined}, labels.content_of)
        recipe = replace(recipe, max_length=max(recipe.max_length, self.max_length))
        model = grow_cross_encoder(path, device=self.device, max_length=recipe.max_length)
        epochs = build_teacher_epochs(seen, labels, replace(recipe, seed=recipe.seed + fold))
        self._train(train_teacher, model, epochs, recipe, fold)
        return self._pair_member(model)

    def _pair_member(self, model: CrossEncoder) -> PairMember:
        scorer: PairScorer = (
            open_scorer(model, resolve_precision("auto", self.device))
            if self.device == "cpu"
            else CrossEncoderScorer(model, batch_size=_BATCH)
        )
        return PairMember(scorer, self.collection.content_of)

    def _train(self, train: Any, model: Any, epochs: Any, recipe: Any, fold: int) -> None:
        run = TrainingRun(self.work_folder / f"fold-{fold}", self.device)
        train(model, epochs, self.step_groups, recipe, run)
        shutil.rmtree(run.work_folder, ignore_errors=True)

    def _measure_spread(self, member: Member) -> float:
        """The member's spread within dev queries; 1 where every list is constant."""
        queries = self.collection.queries["dev"][:_SPREAD_QUERIES]
        candidates = {q.query_id: self.labels.negatives[q.query_id] for q in queries}
        return spread_within([s for s in member.score(queries, candidates).values() if len(s)]) or 1.0


def encode_documents(model: SentenceTransformer, collection: StudyCollection) -> np.ndarray:
    """Vectors of all documents, rows in the order of `doc_ids`."""
    return encode_texts(model, list(collection.content_of.values()), "document", batch_size=_BATCH)


def encode_queries(model: SentenceTransformer, queries: Sequence[Query]) -> np.ndarray:
    """Vectors of queries, in the order given."""
    return encode_texts(model, [q.text for q in queries], "query", batch_size=_BATCH)


def _split(
    values: np.ndarray, queries: Sequence[Query], candidates: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    bounds = np.cumsum([len(candidates[q.query_id]) for q in queries])[:-1]
    return {q.query_id: part for q, part in zip(queries, np.split(values, bounds), strict=True)}
