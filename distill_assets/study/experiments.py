"""The experiments: which teacher, which recipe, how many labels. Each result is a plain dictionary that JSON can hold."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from distill_assets.core.encoders import load_student
from distill_assets.core.groups import DevGroup, Labels, build_dev_groups, build_student_epochs
from distill_assets.core.metrics import evaluate_run, values_of
from distill_assets.core.recipes import BM25, TEACHER, UNTOUCHED_STUDENT, Recipe
from distill_assets.core.records import Query, Split, hash_text
from distill_assets.core.retrieval import Run, pool_documents, rank
from distill_assets.core.training import TrainingRun, train_student
from distill_assets.study.collection import DEPTH, FirstStage, StudyCollection, search_all
from distill_assets.study.teachers import (
    StudyTeacher,
    TeacherGrower,
    TeacherPlan,
    encode_documents,
    encode_queries,
    join_kinds,
)

_JUDGED: tuple[Split, ...] = ("dev", "test")
_STEP_QUERIES = 100
_POOL_DEPTH = 30


@dataclass(frozen=True)
class Study:
    """What every experiment of one collection shares."""

    collection: StudyCollection
    encoder_path: Path
    device: str
    max_length: int
    work_folder: Path
    num_candidates: int = 50

    @cached_property
    def _untouched(self) -> tuple[SentenceTransformer, FirstStage]:
        model = load_student(self.encoder_path, device=self.device, max_length=self.max_length)
        vectors = encode_documents(model, self.collection)
        return model, FirstStage(self.collection, vectors, self.work_folder / "lexical")

    @property
    def first_stage(self) -> FirstStage:
        """BM25 and the untouched student over all documents."""
        return self._untouched[1]

    @cached_property
    def labels(self) -> Labels:
        """Positives and `num_candidates` mined negatives of every judged query, and all texts."""
        return self.mine({query_id: sorted(judged) for query_id, judged in self.collection.qrels.items()})

    def mine(self, positives: Mapping[str, Sequence[str]]) -> Labels:
        """The candidates of every query as one finds them who knows only these positives."""
        model, first_stage = self._untouched
        queries = [q for found in self.collection.queries.values() for q in found]
        vectors = encode_queries(model, queries)
        mined = first_stage.mine(queries, vectors, self.num_candidates, positives)
        return Labels(positives, mined, self.collection.content_of)

    @cached_property
    def step_groups(self) -> list[DevGroup]:
        """The dev queries that choose the best step of every training."""
        chosen = sorted(self.collection.queries["dev"], key=lambda q: hash_text(q.query_id))[:_STEP_QUERIES]
        return build_dev_groups(chosen, self.labels)

    def grow_teacher(self, plan: TeacherPlan, labelled: Sequence[Query]) -> StudyTeacher:
        """A teacher that saw the labels of `labelled` alone."""
        grower = TeacherGrower(
            collection=self.collection,
            first_stage=self.first_stage,
            labels=self.labels,
            step_groups=self.step_groups,
            encoder_path=self.encoder_path,
            device=self.device,
            max_length=self.max_length,
            work_folder=self.work_folder / "teacher",
        )
        return grower.grow(plan, labelled)

    def search(self, model: SentenceTransformer) -> dict[Split, Run]:
        """Exact top 100 of a bi-encoder over all documents, for the queries of dev and test."""
        return self._search(model, encode_documents(model, self.collection))

    def _search(self, model: SentenceTransformer, documents: np.ndarray) -> dict[Split, Run]:
        asked = {split: self.collection.queries[split] for split in _JUDGED}
        return {s: search_all(self.collection, q, encode_queries(model, q), documents) for s, q in asked.items()}

    def baselines(self) -> dict[Split, dict[str, Run]]:
        """BM25 and the untouched student on dev and test."""
        model, first_stage = self._untouched
        untouched = self._search(model, first_stage.doc_vectors)
        return {
            split: {
                BM25: first_stage.search_bm25(self.collection.queries[split]),
                UNTOUCHED_STUDENT: untouched[split],
            }
            for split in _JUDGED
        }

    def ndcg(self, run: Run, split: Split) -> dict[str, float]:
        """nDCG@10 per query, four decimals."""
        found = values_of(evaluate_run(run, self.collection.judgements(split)), "ndcg_at_10")
        return {query_id: round(value, 4) for query_id, value in found.items()}

    def train(
        self, recipe: Recipe, queries: Sequence[Query], labels: Labels, logit_of: Mapping[tuple[str, str], float] | None
    ) -> tuple[SentenceTransformer, dict[str, Any]]:
        """One student, and what its training says of itself."""
        started = time.perf_counter()
        model = load_student(self.encoder_path, device=self.device, max_length=self.max_length)
        epochs = build_student_epochs(queries, labels, recipe, logit_of if recipe.uses_teacher else None)
        work = self.work_folder / "student"
        report = train_student(model, epochs, self.step_groups, recipe, TrainingRun(work, self.device))
        shutil.rmtree(work, ignore_errors=True)
        return model, {
            "num_groups": report.num_groups,
            "num_steps": report.num_steps,
            "best_step": report.best_step,
            "seconds": round(time.perf_counter() - started, 1),
        }


def prepare_device(device: str) -> str:
    """Allow TF32 where a card has it (no effect elsewhere); returns the name of the device for the document."""
    torch.set_float32_matmul_precision("high")
    return torch.cuda.get_device_name() if device == "cuda" else device


def compare_teachers(study: Study, plans: Mapping[str, TeacherPlan], save: Callable[[dict[str, Any]], None]) -> None:
    """Every plan, and every subset of its members, reranking one pool: BM25 and the untouched student, top 30 of each."""
    runs = study.baselines()
    pools = _pools(runs)
    found: dict[str, Any] = {"systems": {}, "plans": {}, "teacher_seconds": {}}
    _record(found, study, runs)
    for name, plan in plans.items():
        teacher = study.grow_teacher(plan, study.collection.queries["train"])
        found["plans"][name], found["teacher_seconds"][name] = asdict(plan), round(teacher.seconds, 1)
        queries = study.collection.queries
        by_kind = {split: teacher.score_by_kind(queries[split], pools[split]) for split in _JUDGED}
        for kinds in _subsets(plan.members):
            reranked = {split: _ranked(pools[split], join_kinds(by_kind[split], kinds)) for split in _JUDGED}
            _put(found, study, f"{name}: {' + '.join(kinds)}", 0, reranked)
            save(found)


def compare_recipes(
    study: Study,
    plan: TeacherPlan,
    recipes: Mapping[str, Recipe],
    seeds: Sequence[int],
    save: Callable[[dict[str, Any]], None],
) -> None:
    """Every recipe with every seed; the teacher reranks the pool of BM25, the untouched student and each recipe's first seed."""
    train = study.collection.queries["train"]
    teacher = study.grow_teacher(plan, train)
    started = time.perf_counter()
    logit_of = _score_candidates(teacher, train, study.labels)
    found: dict[str, Any] = {
        "teacher_plan": asdict(plan),
        "teacher_seconds": round(teacher.seconds, 1),
        "num_pairs": len(logit_of),
        "scoring_seconds": round(time.perf_counter() - started, 1),
        "recipes": {name: asdict(recipe) for name, recipe in recipes.items()},
        "systems": {},
        "trainings": {},
    }
    runs = study.baselines()
    _record(found, study, runs)
    for index, seed in enumerate(seeds):
        for name, recipe in recipes.items():
            model, training = study.train(replace(recipe, seed=seed), train, study.labels, logit_of)
            searched = study.search(model)
            _put(found, study, name, seed, searched)
            found["trainings"].setdefault(name, {})[str(seed)] = training
            if index == 0:
                for split in _JUDGED:
                    runs[split][name] = searched[split]
            save(found)
        if index == 0:  # now, so that an interrupted study has its teacher
            pools = _pools(runs)
            reranked = {split: _rerank(study, teacher, split, pools[split]) for split in _JUDGED}
            _put(found, study, TEACHER, 0, reranked)
            save(found)


def compare_label_budgets(
    study: Study,
    plan: TeacherPlan,
    *,
    hard: Recipe,
    distilled: Recipe,
    shares: Sequence[float],
    seeds: Sequence[int],
    save: Callable[[dict[str, Any]], None],
) -> None:
    """Keep a share of the train labels: `hard` fine-tunes on those alone, `distilled` learns from all train queries.

    The teacher is trained on the kept labels alone, scores every train query, and gives queries without a label their positive.
    Dev labels, which choose steps, are the same for all.
    """
    train = study.collection.queries["train"]
    by_hash = sorted(train, key=lambda q: hash_text(q.query_id))
    found: dict[str, Any] = {
        "teacher_plan": asdict(plan),
        "recipes": {"hard": asdict(hard), "distilled": asdict(distilled)},
        "systems": {},
        "num_labelled": {},
    }
    runs = study.baselines()
    _record(found, study, runs)
    pools = _pools(runs)
    for share in shares:
        kept = by_hash[: max(study_minimum(hard), round(share * len(by_hash)))]
        label = f"{share:.0%}"
        found["num_labelled"][label] = len(kept)
        hidden = {q.query_id for q in train} - {q.query_id for q in kept}
        labels = study.mine({q: judged for q, judged in study.labels.positives.items() if q not in hidden})
        teacher = study.grow_teacher(plan, kept)
        logit_of = _score_candidates(teacher, train, labels)
        _put(found, study, f"{TEACHER} {label}", 0, {s: _rerank(study, teacher, s, pools[s]) for s in _JUDGED})
        for seed in seeds:
            for name, recipe, queries in (("hard", hard, kept), ("distilled", distilled, train)):
                model, _ = study.train(replace(recipe, seed=seed), queries, labels, logit_of)
                _put(found, study, f"{name} {label}", seed, study.search(model))
                save(found)


def study_minimum(recipe: Recipe) -> int:
    """The fewest labelled queries that fill two batches."""
    return 2 * recipe.batch_size


def _score_candidates(teacher: StudyTeacher, queries: Sequence[Query], labels: Labels) -> dict[tuple[str, str], float]:
    """Teacher logits of every query's known positives and mined candidates."""
    candidates = {q.query_id: [*labels.positives.get(q.query_id, ()), *labels.negatives[q.query_id]] for q in queries}
    scored = teacher.score(queries, candidates)
    return {
        (query_id, doc_id): float(logit)
        for query_id, logits in scored.items()
        for doc_id, logit in zip(candidates[query_id], logits, strict=True)
    }


def _pools(runs: Mapping[Split, Mapping[str, Run]]) -> dict[Split, dict[str, list[str]]]:
    return {split: pool_documents(list(runs[split].values()), _POOL_DEPTH) for split in _JUDGED}


def _rerank(study: Study, teacher: StudyTeacher, split: Split, pool: Mapping[str, Sequence[str]]) -> Run:
    return _ranked(pool, teacher.score(study.collection.queries[split], pool))


def _ranked(pool: Mapping[str, Sequence[str]], scores: Mapping[str, np.ndarray]) -> Run:
    return {query_id: rank(pool[query_id], values, DEPTH) for query_id, values in scores.items()}


def _subsets(members: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for bits in range(1, 2 ** len(members)):
        yield tuple(m for i, m in enumerate(members) if bits >> i & 1)


def _record(found: dict[str, Any], study: Study, runs: Mapping[Split, Mapping[str, Run]]) -> None:
    for system in runs["dev"]:
        _put(found, study, system, 0, {split: runs[split][system] for split in _JUDGED})


def _put(found: dict[str, Any], study: Study, system: str, seed: int, runs: Mapping[Split, Run]) -> None:
    per_seed = found["systems"].setdefault(system, {})
    per_seed[str(seed)] = {split: study.ndcg(run, split) for split, run in runs.items()}
