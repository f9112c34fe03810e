"""How much work the parts of a run are, in forward passes, and how long one takes on this machine."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from distill_assets.assets.rankings import DEPTH
from distill_assets.assets.student import MOST_EVALUATIONS
from distill_assets.assets.student_choice import TRIAL_DOCUMENTS
from distill_assets.assets.timing import QUICK_QUERIES, TIMED_BY_TEACHER, TIMED_DOCUMENTS, TIMED_QUERIES
from distill_assets.handles.collection import State
from distill_assets.handles.project import Project
from distill_assets.models.folders import own_max_tokens
from distill_assets.records import SPLITS, Split, hash_text
from distill_assets.settings.values import PYTHON_API, Settings
from distill_assets.storage.collection import EVALUATION, Collection

_SAMPLE, _WARM_UP = 96, 8  # texts and pairs that are timed, in turn where there is time for more
_MEASURED_S, _MOST_MEASURED = 2.0, 4096  # twice, of texts and of pairs
# Seconds beside forward passes: of each step of a run, and of these assets; and of the fixed piece of Python that scales them.
_STEP_S, _FIXED_S = 1.3, {"student_checkpoint": 4.0, "eval_metrics": 1.5, "leaderboard": 11.0, "champion": 7.5}
_PYTHON_S, _PYTHON_ROUNDS = 0.0034, 25  # a round, and how many are timed before, between and after the models
_WITH_GRADIENT = 3  # forward passes that one with its gradient takes (Kaplan et al. 2020, arXiv 2001.08361, table 1)
_QUERY_TOKENS = 12  # of a generated query, without special ones: 10.8 of this project's documentation, 16.0 of SciFact
_REFUSED = 0.4  # of generated train queries: 0.42 of this project's documentation, 0.30 of SciFact
_MADE_PER_KEPT = 2  # generated queries; about half of them find the document that they were made from
_IN_POOL = 1.7  # documents of a pool of BM25's and dense search's first n, over n: 51.6 at n = 30 (python_api)


@dataclass(frozen=True)
class Sizes:
    """What decides the work: documents, and queries by split that have an answer or get one, at most as many as the settings allow.

    Attributes:
        answers: documents that are judged relevant to the train queries.
        generated: queries that are still to be made from documents; they are counted in their splits, too.
        unjudged: those of dev and test whose queries the teacher judges.
        refused: train queries that are scored and not trained on, because the teacher ranks another document first.
        query_share: tokens of a query, over those of a document: what encoding it takes.
    """

    documents: int
    train: int
    dev: int
    test: int
    answers: int = 0
    generated: int = 0
    unjudged: tuple[Split, ...] = ()
    refused: int = 0
    query_share: float = 1.0

    def num_train_pairs(self, settings: Settings) -> int:
        """Pairs of the train queries that are scored, by a teacher of one fold."""
        return self.answers + self.train * settings.num_scored_negatives


@dataclass(frozen=True)
class Work:
    """Forward passes: texts of a bi-encoder, pairs of a cross-encoder; and passes over texts and pairs with their gradient.

    A query counts as the part of a text that it is (`Sizes.query_share`).

    `timed_pairs` are scored for the leaderboard's latencies, and are not kept.
    """

    texts: float = 0
    pairs: float = 0
    trained_texts: float = 0
    trained_pairs: float = 0
    timed_pairs: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    def seconds(self, text_s: float, pair_s: float) -> float:
        """Time, where a text and a pair take so many seconds."""
        texts = self.texts + _WITH_GRADIENT * self.trained_texts
        pairs = self.pairs + self.timed_pairs + _WITH_GRADIENT * self.trained_pairs
        return text_s * texts + pair_s * pairs


def work_of(asset: str, partition: str, sizes: Sizes, project: Project, in_pool: float = _IN_POOL) -> Work:
    """The forward passes of one asset's partition (of `hard_negatives` and `teacher_scores`: of all batches), from nothing.

    `in_pool` is how many documents a pool of BM25's and dense search's first n has, over n: at most 2.
    """
    settings, step_queries = project.settings, min(project.settings.step_queries, sizes.dev)
    pool = min(in_pool * settings.pool_depth, sizes.documents)
    match asset:
        case "student_choice":
            return _choosing_work(sizes, settings, step_queries)
        case "generated_queries" | "hard_negatives":
            num_queries = _MADE_PER_KEPT * sizes.generated if asset == "generated_queries" else sizes.train + sizes.dev
            return Work(texts=sizes.documents + sizes.query_share * num_queries)
        case "teacher_checkpoint" | "teacher_scores" | "teacher_judgements":
            return _asking_work(asset, sizes, project, pool)
        case "student_checkpoint":
            return _training_work(partition, sizes, settings, step_queries, step_queries * pool)
        case "eval_metrics":
            return _measuring_work(partition, sizes, settings)
        case "leaderboard":
            return _comparing_work(sizes, project, pool)
    return Work()


def _asking_work(asset: str, sizes: Sizes, project: Project, pool: float) -> Work:
    """Of what asks the teacher before students are trained: of dev, where people judged it, of train, then of what it judges."""
    on_dev = 0.0 if "dev" in sizes.unjudged else pool * min(project.settings.step_queries, sizes.dev)
    on_train = sizes.num_train_pairs(project.settings)
    if asset == "teacher_checkpoint":
        return replace(_asked(on_dev, 0, sizes, project), trained_pairs=_teacher_training(sizes, project))
    if asset == "teacher_scores":
        return _asked(on_train, on_dev, sizes, project, is_train=True)
    num_queries = sum(getattr(sizes, split) for split in sizes.unjudged)
    return _asked(num_queries * pool, on_dev + on_train, sizes, project)


def _choosing_work(sizes: Sizes, settings: Settings, step_queries: int) -> Work:
    """Of the trial of each of several students."""
    num_students, documents = len(settings.students), min(sizes.documents, TRIAL_DOCUMENTS)
    trained = (2 + sizes.query_share) * min(sizes.train - sizes.refused, settings.trial_queries)
    searched = documents + sizes.query_share * step_queries
    return Work(texts=2 * num_students * searched, trained_texts=num_students * trained)


def _measuring_work(partition: str, sizes: Sizes, settings: Settings) -> Work:
    """Of a recipe's student on dev and test."""
    is_tower = settings.recipe(partition).train == "query_tower"  # its document vectors are the untouched student's
    num_asked = sizes.query_share * (sizes.dev + sizes.test)
    return Work(texts=(0 if is_tower else sizes.documents) + num_asked)


def _teacher_training(sizes: Sizes, project: Project) -> int:
    """Pairs that its folds are trained on."""
    tuning, models = project.settings.teacher_recipe, project.models
    lists = tuning.epochs * min(sizes.train, tuning.num_queries or sizes.train)
    num_pairs = lists * (1 + tuning.num_hard + tuning.num_random)
    return models.num_teacher_folds * num_pairs if models.is_teacher_trained else 0


def _training_work(partition: str, sizes: Sizes, settings: Settings, step_queries: int, num_candidates: float) -> Work:
    """Of a recipe's student: its lists, and searches of dev."""
    recipe = settings.recipe(partition)
    num_queries = sizes.train - sizes.refused
    lists = min(num_queries, recipe.max_queries or num_queries)
    batch = max(1, min(recipe.batch_size, lists))
    # As `plan_steps`; a text stands in a batch once.
    in_batch = _distinct(batch * (1 + recipe.num_negatives + recipe.num_random), sizes.documents)
    trained = recipe.epochs * (lists // batch) * (sizes.query_share * batch + in_batch)
    searched = sizes.query_share * step_queries + _distinct(num_candidates, sizes.documents)
    # As `affordable_evaluations`, and once before the first step.
    evaluations = 1 + min(MOST_EVALUATIONS, max(1, trained // max(1.0, searched)))
    return Work(texts=evaluations * searched, trained_texts=trained)


def _comparing_work(sizes: Sizes, project: Project, pool: float) -> Work:
    """Of the leaderboard: its pool, what baselines encode, and what is timed."""
    settings, num_tested = project.settings, sizes.test or sizes.dev
    num_baselines, num_asked = len(settings.baselines), sizes.documents + sizes.query_share * (sizes.dev + sizes.test)
    share = 1 if num_tested >= QUICK_QUERIES else 3
    is_scored = ("test" if sizes.test else "dev") in sizes.unjudged  # to judge these queries
    num_to_score, num_before = 0.0 if is_scored else num_tested * pool, sizes.num_train_pairs(settings)
    num_systems = 1 + len(settings.all_recipes) + num_baselines
    return _asked(num_to_score, num_before, sizes, project) + Work(
        texts=num_systems * (sizes.query_share * TIMED_QUERIES + TIMED_DOCUMENTS // share) + num_baselines * num_asked,
        timed_pairs=project.models.num_teacher_folds * (TIMED_BY_TEACHER // share) * min(DEPTH, pool),
    )


def _asked(num_pairs: float, num_before: float, sizes: Sizes, project: Project, *, is_train: bool = False) -> Work:
    """What teachers do for pairs of a query and a document, after they were asked for other pairs.

    Each fold scores the queries whose labels it did not see; of train queries that is one fold, where all were trained on.
    """
    models = project.models
    knows_train = models.is_teacher_trained or project.settings.collection == PYTHON_API
    num_folds = 1 if is_train and knows_train else models.num_teacher_folds
    texts = 0.0
    if models.is_teacher_joined:  # its bi-encoder encodes the documents that it did not encode before
        total = _distinct(num_before + num_pairs, sizes.documents) - _distinct(num_before, sizes.documents)
        texts = models.num_teacher_folds * total
    return Work(texts=texts, pairs=num_folds * len(models.teacher_choices) * num_pairs)


def _distinct(num_drawn: float, num_all: int) -> float:
    """How many of `num_all` documents are among so many that are drawn."""
    return num_all * (1 - math.exp(-num_drawn / max(1, num_all)))


def overhead_s(asset: str, num_steps: int, measured: "Measured", *, is_made: bool) -> float:
    """Seconds beside forward passes. What a rehearsal made was timed: to that a run adds its steps alone."""
    return measured.python_s * num_steps * (_STEP_S + (0.0 if is_made else _FIXED_S.get(asset, 0.0)))


def _measure_collection(project: Project) -> tuple[Sizes, list[str], list[tuple[str, str]]]:
    """Sizes, a sample of documents, and the same documents each with a query."""
    state = project.collection.state()
    with project.collection.snapshot() as collection:
        num_documents, sample = collection.sample(_SAMPLE)
        counts, queries = _count_queries(project, state, collection), collection.queries(SPLITS)
        has_generated = collection.has_generated()
    unjudged = tuple(split for split in EVALUATION if state.judges.get(split) == "teacher")
    generated = refused = 0
    if state.generates and not has_generated:
        generated = _expected_queries(project, num_documents)
        made = generated_of_splits(generated, project.settings, len(project.collection.batches()), state.has_queries)
        for split, num_made in made.items():
            counts[split] += num_made
        counts["answers"] += made["train"]
        refused = round(_REFUSED * made["train"])
        unjudged = unjudged if state.has_queries else EVALUATION
    stands_for_one = " ".join(["word"] * _QUERY_TOKENS)
    asked = [queries[i % len(queries)].text if queries else stands_for_one for i in range(len(sample))]
    num_tokens = [sum(project.models.count_tokens(texts)) for texts in (asked, sample)]
    sizes = Sizes(documents=num_documents, **counts, generated=generated, unjudged=unjudged, refused=refused)
    sizes = replace(sizes, query_share=min(1.0, num_tokens[0] / max(1, num_tokens[1])))
    return sizes, sample, [*zip(asked, sample, strict=True)]


def _count_queries(project: Project, state: State, collection: Collection) -> dict[str, int]:
    """Queries of each split that have an answer, or get one from the teacher; and the `answers` of train queries."""
    counts = dict.fromkeys((*SPLITS, "answers"), 0)
    unjudged = [query.split for query, _ in collection.unjudged()]
    for split in SPLITS:
        limit = getattr(project.settings, f"{split}_queries")
        if split in EVALUATION and state.judges.get(split) == "teacher":
            counts[split] = unjudged.count(split)
            continue
        # The limit of train is of each batch, those of dev and test are of all.
        for batch in collection.batches if split == "train" else ("",):
            judged = collection.judgements((split,), batch)
            is_taught = split == "train" and state.is_train_unjudged
            found = [q.query_id for q in collection.queries((split,), batch)] if is_taught else [*judged]
            chosen = sorted(found, key=hash_text)[:limit]  # as `choose_queries`
            counts[split] += len(chosen)
            if split == "train":
                grades = (grade for query_id in chosen for grade in judged.get(query_id, {}).values())
                counts["answers"] += sum(grade >= project.collection.min_relevance for grade in grades)
    return counts


def generated_of_splits(num_queries: int, settings: Settings, num_batches: int, has_queries: bool) -> dict[Split, int]:
    """How many of so many generated queries are used in each split: beside queries of one's own they are for training alone."""
    shares: dict[Split, float] = {"train": 1.0} if has_queries else {"train": 0.8, "dev": 0.1, "test": 0.1}
    limits = settings.num_judged_by_teacher
    if settings.train_queries is not None:
        limits["train"] = settings.train_queries * num_batches
    return {split: min(round(share * num_queries), limits.get(split, num_queries)) for split, share in shares.items()}


def _expected_queries(project: Project, num_documents: int) -> int:
    """How many generated queries will be kept, about."""
    settings = project.settings
    num_batches = len(project.collection.batches())
    return min(
        num_documents * settings.queries_per_document // _MADE_PER_KEPT, settings.generated_queries * num_batches
    )


@dataclass(frozen=True)
class Measured:
    """What was found of the collection and of this machine's speed.

    Attributes:
        text_s: seconds that the student takes for a text, and `pair_s` the teacher for a pair; 0 where other machines score.
        python_s: seconds of what is no model's work, over what it took where `overhead_s` was measured.
        text_tokens: of a text as the student reads it, on average, and `pair_tokens` of a pair as the teacher does.
        num_dimensions: of a vector.
    """

    sizes: Sizes
    text_s: float
    pair_s: float
    python_s: float
    text_tokens: float
    pair_tokens: float
    num_dimensions: int


def measure(project: Project) -> Measured:
    """Take some seconds for texts and for the pairs of each teacher; the collection is read already."""
    from distill_assets.models.encoders import encode_texts

    models, (sizes, texts, pairs) = project.models, _measure_collection(project)
    model = models.load_student(models.student_path, models.student_precision)
    limits = (project.settings.teacher_max_length, own_max_tokens(models.student_path))

    def encode(sample: Sequence[str]) -> np.ndarray:
        return encode_texts(model, sample, "document", batch_size=project.settings.batch_size)

    rounds = _python_rounds()
    text_s = _seconds_of_each(encode, texts)
    rounds += _python_rounds()
    pair_s = _seconds_of_pair(project, pairs)
    rounds += _python_rounds()
    return Measured(
        sizes,
        text_s,
        pair_s,
        # What stops this process for a moment, as collecting garbage does, is in few rounds: one of 0.33 s was seen.
        python_s=median(rounds) / _PYTHON_S,
        text_tokens=_mean_tokens(project, texts, model.max_seq_length),
        pair_tokens=_mean_tokens(project, [" ".join(pair) for pair in pairs], min(filter(None, limits), default=None)),
        num_dimensions=model.get_embedding_dimension() or 0,
    )


def _mean_tokens(project: Project, texts: Sequence[str], limit: int | None) -> float:
    counts = [min(count, limit or count) for count in project.models.count_tokens(texts)]
    return sum(counts) / max(1, len(counts))


def _seconds_of_pair(project: Project, pairs: Sequence[tuple[str, str]]) -> float:
    """Mean of all teachers: a pair takes nothing on this machine where a server scores it, or where scores were imported."""
    models = project.models
    seconds = [_seconds_of_each(models.open_before_it_is_made(path), pairs) for _, path in models.local_teachers]
    return sum(seconds) / len(models.teacher_choices)


def _seconds_of_each(work: Callable[[Sequence[Any]], Any], sample: Sequence[Any]) -> float:
    """Seconds that `work` takes for one of the sample, given as many as take about `_MEASURED_S`; 0 of an empty sample."""

    def of(count: int) -> float:
        return _seconds(work, [sample[i % len(sample)] for i in range(count)])

    if not sample:
        return 0.0
    of(_WARM_UP)  # pays for set-up
    count = min(math.ceil(_WARM_UP * max(1.0, _MEASURED_S / of(_WARM_UP))), _MOST_MEASURED)
    return min(of(count), of(count)) / count  # what runs for a moment is in one of the two


def _seconds(work: Callable[[Sequence[Any]], Any], part: Sequence[Any]) -> float:
    started = time.perf_counter()
    work(part)
    return time.perf_counter() - started


def _python_rounds() -> list[float]:
    """Seconds that a fixed piece of Python takes, several times, with what else runs on this machine."""
    rows = [{"name": str(i), "values": [i, 0.5 * i, None]} for i in range(2000)]
    return [_seconds(lambda part: json.loads(json.dumps(part)), rows) for _ in range(_PYTHON_ROUNDS)]
