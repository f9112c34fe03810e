"""The experiments: which teacher, which recipe, how many labels. Each result is a plain dictionary that JSON can hold."""

import copy
import json
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
from distill_assets.core.errors import SettingsError
from distill_assets.core.groups import DevGroup, Labels, build_dev_groups, build_student_epochs
from distill_assets.core.metrics import evaluate_run, values_of
from distill_assets.core.query_tower import split_towers
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
BUNDLED_TEACHER_PLAN = "bundled"


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
    def _grower(self) -> TeacherGrower:
        return TeacherGrower(
            collection=self.collection,
            first_stage=self.first_stage,
            labels=self.labels,
            step_groups=self.step_groups,
            encoder_path=self.encoder_path,
            device=self.device,
            max_length=self.max_length,
            work_folder=self.work_folder / "teacher",
        )

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

    def make_teacher(self, plan: TeacherPlan | None, labelled: Sequence[Query]) -> StudyTeacher:
        """A teacher that saw the labels of `labelled` alone; without a plan the bundled one of `python_api`."""
        return self._grower.open_bundled() if plan is None else self._grower.grow(plan, labelled)

    def search(self, model: SentenceTransformer, recipe: Recipe) -> tuple[dict[Split, Run], float]:
        """Exact top 100 of a student over all documents, for the queries of dev and test; and seconds that embedding them took.

        A student that was trained on its query side alone keeps the untouched student's vectors, at no cost.
        """
        started = time.perf_counter()
        documents = self._encode_documents(model, recipe)
        seconds = time.perf_counter() - started
        return self._search(model, documents), round(seconds, 1)

    def _encode_documents(self, model: SentenceTransformer, recipe: Recipe) -> np.ndarray:
        """Vectors of all documents; those of the untouched student where the recipe leaves that side as it is."""
        return (
            self.first_stage.doc_vectors if recipe.train == "query_tower" else encode_documents(model, self.collection)
        )

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
        self, recipe: Recipe, pairs: "Pairs", teacher: StudyTeacher
    ) -> tuple[SentenceTransformer, dict[str, Any]]:
        """One student, and what its training says of itself: the rounds as the asset `student_checkpoint` goes through them."""
        started = time.perf_counter()
        model, rounds = load_student(self.encoder_path, device=self.device, max_length=self.max_length), []
        for number in range(1, recipe.rounds + 1):
            done: dict[str, Any] = {"round": number, "num_new_pairs": 0, "mining_s": 0.0, "scoring_s": 0.0}
            if number > 1:
                pairs, cost = self._mine_again(model, recipe, pairs, teacher)
                done |= cost
            model = split_towers(model) if recipe.train == "query_tower" else model
            epochs = build_student_epochs(
                chosen_queries(pairs.queries, recipe),
                pairs.labels,
                recipe.of_round(number),
                pairs.logit_of if recipe.uses_teacher else None,
            )
            work, begun = self.work_folder / "student", time.perf_counter()
            run = TrainingRun(work, self.device)
            report = train_student(model, epochs, self.step_groups, recipe.of_round(number), run)
            shutil.rmtree(work, ignore_errors=True)
            done |= {"training_s": time.perf_counter() - begun, "dev_ndcg_at_10": report.best_dev_ndcg_at_10}
            rounds.append((report, done, copy.deepcopy(model) if recipe.rounds > 1 else model))
        report, done, model = max(rounds, key=lambda r: (r[1]["dev_ndcg_at_10"], -r[1]["round"]))
        about: dict[str, Any] = {
            "num_groups": report.num_groups,
            "num_steps": report.num_steps,
            "best_step": report.best_step,
            "seconds": round(time.perf_counter() - started, 1),
        }
        if recipe.rounds > 1:
            about |= {"rounds": [r[1] for r in rounds], "kept_round": done["round"]}
        return model, about

    def _mine_again(
        self, model: SentenceTransformer, recipe: Recipe, pairs: "Pairs", teacher: StudyTeacher
    ) -> tuple["Pairs", dict[str, Any]]:
        """The student's own candidates before those there were; the teacher scores the new pairs alone."""
        started = time.perf_counter()
        queries = chosen_queries(pairs.queries, recipe)
        stage = FirstStage(self.collection, self._encode_documents(model, recipe), self.work_folder / "lexical")
        positives, count = pairs.labels.positives, self.num_candidates
        own = stage.mine(queries, encode_queries(model, queries), count, positives, with_bm25=False)
        old = pairs.labels.negatives
        mined = {query_id: list(dict.fromkeys([*found, *old[query_id]])) for query_id, found in own.items()}
        at = time.perf_counter()
        new = {query_id: [d for d in found if (query_id, d) not in pairs.logit_of] for query_id, found in own.items()}
        asked = [q for q in queries if new[q.query_id]] if recipe.uses_teacher else []
        logit_of = dict(pairs.logit_of) | flatten(teacher.score(asked, new), new)
        cost = {
            "num_new_pairs": len(logit_of) - len(pairs.logit_of),
            "mining_s": at - started,
            "scoring_s": time.perf_counter() - at,
        }
        labels = replace(pairs.labels, negatives={**old, **mined})
        return Pairs(pairs.queries, labels, logit_of), cost


@dataclass(frozen=True)
class Pairs:
    """What a student is trained on: queries, their candidates, and what the teacher says of them."""

    queries: Sequence[Query]
    labels: Labels
    logit_of: Mapping[tuple[str, str], float]


def chosen_queries(queries: Sequence[Query], recipe: Recipe) -> list[Query]:
    """At most the recipe's `max_queries`, chosen by hash, so that a larger number only adds; in the order given."""
    kept = {q.query_id for q in sorted(queries, key=lambda q: hash_text(q.query_id))[: recipe.max_queries]}
    return [q for q in queries if q.query_id in kept]


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
        teacher = study.make_teacher(plan, study.collection.queries["train"])
        found["plans"][name], found["teacher_seconds"][name] = asdict(plan), round(teacher.seconds, 1)
        queries = study.collection.queries
        by_kind = {split: teacher.score_by_kind(queries[split], pools[split]) for split in _JUDGED}
        for kinds in _subsets(plan.members):
            reranked = {split: _ranked(pools[split], join_kinds(by_kind[split], kinds)) for split in _JUDGED}
            _put(found, study, f"{name}: {' + '.join(kinds)}", 0, reranked)
            save(found)


def compare_recipes(
    study: Study,
    plan: TeacherPlan | None,
    recipes: Mapping[str, Recipe],
    seeds: Sequence[int],
    save: Callable[[dict[str, Any]], None],
    known: Mapping[str, Any] | None = None,
) -> None:
    """Every recipe with every seed; the teacher reranks the pool of BM25, the untouched student and each recipe's first seed.

    What `known`, a document of the same study, holds is not trained again. A document holds no rankings: where `known` stopped
    before the teacher reranked, its students are not in the pool. `pooled` names the systems that are.
    """
    train = study.collection.queries["train"]
    teacher = study.make_teacher(plan, train)
    started = time.perf_counter()
    logit_of = _score_candidates(teacher, train, study.labels)
    found: dict[str, Any] = {
        "teacher_plan": _about_plan(plan),
        "teacher_seconds": round(teacher.seconds, 1),
        "num_pairs": len(logit_of),
        "scoring_seconds": round(time.perf_counter() - started, 1),
        "recipes": {name: asdict(recipe) for name, recipe in recipes.items()},
        "systems": {},
        "trainings": {},
    }
    _continue(found, known)
    runs = study.baselines()
    _record(found, study, runs)
    pairs = Pairs(train, study.labels, logit_of)
    for index, seed in enumerate(seeds):
        for name, recipe in recipes.items():
            if str(seed) in found["systems"].get(name, {}):
                continue
            model, training = study.train(replace(recipe, seed=seed), pairs, teacher)
            searched, training["document_encoding_s"] = study.search(model, recipe)
            _put(found, study, name, seed, searched)
            found["trainings"].setdefault(name, {})[str(seed)] = training
            if index == 0:
                for split in _JUDGED:
                    runs[split][name] = searched[split]
            save(found)
        if TEACHER not in found["systems"]:  # now, so that an interrupted study has its teacher
            pools, found["pooled"] = _pools(runs), sorted(runs["dev"])
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
    known: Mapping[str, Any] | None = None,
) -> None:
    """Keep a share of the train labels: `hard` fine-tunes on those alone, `distilled` learns from all train queries.

    The teacher is trained on the kept labels alone, scores every train query, and gives queries without a label their positive.
    Dev labels, which choose steps, are the same for all. A share whose students `known`, a document of the same study, holds with
    every seed is not trained again.
    """
    train = study.collection.queries["train"]
    by_hash = sorted(train, key=lambda q: hash_text(q.query_id))
    found: dict[str, Any] = {
        "teacher_plan": _about_plan(plan),
        "recipes": {"hard": asdict(hard), "distilled": asdict(distilled)},
        "systems": {},
        "num_labelled": {},
    }
    _continue(found, known)
    runs = study.baselines()
    _record(found, study, runs)
    pools = _pools(runs)
    for share in shares:
        label = f"{share:.0%}"
        students = [found["systems"].get(f"{name} {label}", {}) for name in ("hard", "distilled")]
        if all(str(seed) in student for student in students for seed in seeds):
            continue
        kept = by_hash[: max(study_minimum(hard), round(share * len(by_hash)))]
        found["num_labelled"][label] = len(kept)
        hidden = {q.query_id for q in train} - {q.query_id for q in kept}
        labels = study.mine({q: judged for q, judged in study.labels.positives.items() if q not in hidden})
        teacher = study.make_teacher(plan, kept)
        logit_of = _score_candidates(teacher, train, labels)
        _put(found, study, f"{TEACHER} {label}", 0, {s: _rerank(study, teacher, s, pools[s]) for s in _JUDGED})
        for seed in seeds:
            for name, recipe, queries in (("hard", hard, kept), ("distilled", distilled, train)):
                model, _ = study.train(replace(recipe, seed=seed), Pairs(queries, labels, logit_of), teacher)
                _put(found, study, f"{name} {label}", seed, study.search(model, recipe)[0])
                save(found)


def _about_plan(plan: TeacherPlan | None) -> Any:
    return BUNDLED_TEACHER_PLAN if plan is None else asdict(plan)


def _continue(found: dict[str, Any], known: Mapping[str, Any] | None) -> None:
    """Take over the results of `known` into `found`; recipes may have been added since.

    Raises:
        SettingsError: it is of another teacher plan, or a recipe has changed.
    """
    if known is None:
        return
    now = json.loads(json.dumps(found))
    changed = [
        f"recipe {name}" for name, recipe in now["recipes"].items() if known["recipes"].get(name, recipe) != recipe
    ]
    if now["teacher_plan"] != known["teacher_plan"]:
        changed.insert(0, "teacher_plan")
    if changed:
        raise SettingsError(f"the document to go on with has another {', '.join(changed)}: write to a new one")
    found["recipes"] = known["recipes"] | found["recipes"]
    found |= {key: known[key] for key in ("systems", "trainings", "num_labelled", "pooled") if key in known}


def study_minimum(recipe: Recipe) -> int:
    """The fewest labelled queries that fill two batches."""
    return 2 * recipe.batch_size


def _score_candidates(teacher: StudyTeacher, queries: Sequence[Query], labels: Labels) -> dict[tuple[str, str], float]:
    """Teacher logits of every query's known positives and mined candidates."""
    candidates = {q.query_id: [*labels.positives.get(q.query_id, ()), *labels.negatives[q.query_id]] for q in queries}
    return flatten(teacher.score(queries, candidates), candidates)


def flatten(scored: Mapping[str, np.ndarray], candidates: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], float]:
    """(query_id, doc_id) -> logit, from one array per query in the order of its candidates."""
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
    per_seed = found["systems"].pop(
        system, {}
    )  # put last again: what a document was last given is what its saving prints
    per_seed[str(seed)] = {split: study.ndcg(run, split) for split, run in runs.items()}
    found["systems"][system] = per_seed
