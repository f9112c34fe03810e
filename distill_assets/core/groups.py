"""Groups: a query with its candidates as texts, the form in which models are trained and their steps are judged."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distill_assets.core.errors import MissingPartitionError
from distill_assets.core.recipes import Recipe, TeacherRecipe
from distill_assets.core.records import Query, fingerprint


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """One query with its candidates as texts: the positive first, then mined negatives, then random documents.

    Attributes:
        teacher_logits: one raw logit for each of the first documents, in the same order; random documents have none. None where
            no teacher is used.
        relevant: texts of every document that is known to answer the query; none of them is ever a negative in the batch.
    """

    query_id: str
    query: str
    documents: tuple[str, ...]
    teacher_logits: tuple[float, ...] | None = None
    relevant: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DevGroup:
    """One dev query with candidates and their judged relevance; what a training step is judged on."""

    query_id: str
    query: str
    documents: tuple[str, ...]
    relevances: tuple[int, ...]


@dataclass(frozen=True)
class Labels:
    """What groups are made from.

    Attributes:
        positives: query_id -> relevant doc_ids.
        negatives: query_id -> mined doc_ids, best first.
        content_of: doc_id -> text.
    """

    positives: Mapping[str, Sequence[str]]
    negatives: Mapping[str, Sequence[str]]
    content_of: Mapping[str, str]


def pairs_of(groups: Sequence[DevGroup]) -> list[tuple[str, str]]:
    """(query, document) texts of all groups, one after the other."""
    return [(group.query, document) for group in groups for document in group.documents]


def per_group(groups: Sequence[DevGroup], scores: Sequence[float] | npt.NDArray[np.floating]) -> list[list[float]]:
    """Scores of `pairs_of(groups)` as one list per group."""
    bounds = np.cumsum([len(group.documents) for group in groups])[:-1]
    return [part.tolist() for part in np.split(np.asarray(scores), bounds)]


LogitOf = Mapping[tuple[str, str], float]  # (query_id, doc_id) -> raw teacher logit


def build_student_epochs(
    queries: Sequence[Query], labels: Labels, recipe: Recipe, logit_of: LogitOf | None = None
) -> list[list[TrainingGroup]]:
    """The groups of each epoch of `recipe`, drawn as its fields say (`Recipe`).

    Every draw is seeded by recipe, epoch and query. Queries that cannot fill a row are left out: no positive, or fewer candidates
    than `num_negatives`.

    Raises:
        MissingPartitionError: a pair that the recipe reads has no teacher logit.
    """
    if recipe.uses_teacher and logit_of is None:
        raise MissingPartitionError(
            f"recipe {recipe.name!r} reads teacher logits and none were given: materialise teacher_scores"
        )
    known = logit_of if recipe.uses_teacher else None
    doc_ids = sorted(labels.content_of) if recipe.num_random else []
    epochs = []
    for epoch in range(recipe.epochs):
        groups = [g for query in queries for g in _student_groups(query, labels, recipe, known, epoch, doc_ids)]
        width = max((len(group.documents) for group in groups), default=0)
        epochs.append([group for group in groups if len(group.documents) == width])
    return epochs


def _student_groups(
    query: Query, labels: Labels, recipe: Recipe, logit_of: LogitOf | None, epoch: int, doc_ids: Sequence[str]
) -> list[TrainingGroup]:
    """The groups of one query in one epoch: one for each of its positives that are drawn."""
    rng = _rng(query.query_id, recipe.seed, epoch)
    relevant = sorted(labels.positives.get(query.query_id, ()))
    mined = [d for d in labels.negatives.get(query.query_id, ()) if d not in relevant]
    if recipe.positives == "human":
        positives = rng.sample(relevant, min(recipe.num_positives, len(relevant)))
    else:
        positives = _teacher_positives(query.query_id, relevant, mined, logit_of or {})
    groups = []
    for positive in positives:
        candidates = [d for d in mined if d != positive]
        if len(candidates) < recipe.num_negatives:
            continue
        negatives = _draw_negatives(query.query_id, candidates, recipe, logit_of, rng)
        logits = None if logit_of is None else _logits(logit_of, query.query_id, [positive, *negatives])
        easy = _draw_random(doc_ids, {positive, *relevant, *negatives}, recipe.num_random, rng)
        texts = tuple(labels.content_of[d] for d in [positive, *negatives, *easy])
        known = tuple(labels.content_of[d] for d in dict.fromkeys([positive, *relevant]))
        groups.append(TrainingGroup(query.query_id, query.text, texts, logits, known))
    return groups


def _teacher_positives(query_id: str, relevant: Sequence[str], mined: Sequence[str], logit_of: LogitOf) -> list[str]:
    """The scored candidate that the teacher puts first, in the one total order; none where nothing was scored."""
    scored = [(logit_of[query_id, d], d) for d in dict.fromkeys([*relevant, *mined]) if (query_id, d) in logit_of]
    return [max(scored)[1]] if scored else []


def _draw_negatives(
    query_id: str, candidates: Sequence[str], recipe: Recipe, logit_of: LogitOf | None, rng: random.Random
) -> list[str]:
    """`num_negatives` of the candidates (mined order); which ones is `Recipe.sampling`."""
    count = recipe.num_negatives
    if recipe.sampling == "top":
        return list(candidates[:count])
    scored = [d for d in candidates if logit_of is None or (query_id, d) in logit_of]
    if len(scored) < count:
        raise MissingPartitionError(
            f"query {query_id!r}: {len(scored)} of its {len(candidates)} mined negatives have a teacher logit, recipe "
            f"{recipe.name!r} draws {count}: materialise teacher_scores, or raise scored_negatives"
        )
    if recipe.sampling == "random" or logit_of is None:
        return rng.sample(scored, count)
    return draw_stratified([logit_of[query_id, d] for d in scored], scored, count, rng)


def draw_stratified(logits: Sequence[float], doc_ids: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` documents that cover the whole range of their teacher logits, highest part first.

    The range from the highest to the lowest logit is cut into `count` intervals of equal width; a point is drawn in each and the
    nearest document that is still free is taken. Cut by width, not by rank: most candidates score low, and equal ranks would
    repeat that. Idea: arXiv 2604.04734.
    """
    free = sorted(zip(logits, doc_ids, strict=True), reverse=True)
    high, low = free[0][0], free[-1][0]
    chosen = []
    for part in range(count):
        point = high - (high - low) * (part + rng.random()) / count
        nearest = min(range(len(free)), key=lambda i: abs(free[i][0] - point))
        chosen.append(free.pop(nearest)[1])
    return chosen


def build_teacher_epochs(queries: Sequence[Query], labels: Labels, recipe: TeacherRecipe) -> list[list[TrainingGroup]]:
    """The groups of each epoch of `recipe`: one per query with a positive, sampled hard and random negatives.

    Each epoch draws anew, so that a query meets other negatives each time. Queries with fewer mined negatives than the recipe's
    `num_hard` are left out.
    """
    doc_ids = sorted(labels.content_of)
    found = []
    for epoch in range(recipe.epochs):
        groups = []
        for query in queries:
            rng = _rng(query.query_id, recipe.seed, epoch)
            positives = sorted(labels.positives.get(query.query_id, ()))
            mined = list(labels.negatives.get(query.query_id, ()))
            if len(mined) < recipe.num_hard or not positives:
                continue
            hard = rng.sample(mined, recipe.num_hard)
            easy = _draw_random(doc_ids, {*positives, *hard}, recipe.num_random, rng)
            chosen = [rng.choice(positives), *hard, *easy]
            groups.append(TrainingGroup(query.query_id, query.text, tuple(labels.content_of[d] for d in chosen)))
        width = max((len(group.documents) for group in groups), default=0)
        found.append([group for group in groups if len(group.documents) == width])
    return found


def build_dev_groups(queries: Sequence[Query], labels: Labels) -> list[DevGroup]:
    """One group per query: all its positives and all its mined negatives."""
    groups = []
    for query in queries:
        positives = sorted(labels.positives.get(query.query_id, ()))
        mined = list(labels.negatives.get(query.query_id, ()))
        if positives and mined:
            texts = tuple(labels.content_of[d] for d in [*positives, *mined])
            groups.append(DevGroup(query.query_id, query.text, texts, (1,) * len(positives) + (0,) * len(mined)))
    return groups


def _draw_random(doc_ids: Sequence[str], taken: set[str], count: int, rng: random.Random) -> list[str]:
    """`count` documents that are not taken, fewer only where the corpus is too small to have them."""
    drawn: list[str] = []
    for _ in range(20 * count):
        if len(drawn) == count:
            break
        candidate = doc_ids[rng.randrange(len(doc_ids))]
        if candidate not in taken:
            taken = {*taken, candidate}
            drawn.append(candidate)
    return drawn


def _logits(logit_of: Mapping[tuple[str, str], float], query_id: str, doc_ids: Sequence[str]) -> tuple[float, ...]:
    missing = [doc_id for doc_id in doc_ids if (query_id, doc_id) not in logit_of]
    if missing:
        raise MissingPartitionError(
            f"query {query_id!r}: {len(missing)} of its {len(doc_ids)} documents have no teacher logit, first {missing[0]!r}: "
            "materialise teacher_scores, or raise scored_negatives to the recipe's num_negatives"
        )
    return tuple(logit_of[query_id, doc_id] for doc_id in doc_ids)


def _rng(query_id: str, *seed: int) -> random.Random:
    """A generator of its own per query: adding a query does not change what the others draw."""
    return random.Random(int(fingerprint(*seed, query_id), 16))
