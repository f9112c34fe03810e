"""Groups: a query with its candidates as texts, the form in which models are trained and their steps are judged."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from distill_assets.errors import MissingPartitionError, TrainingError
from distill_assets.evaluation.metrics import DevGroup
from distill_assets.records import Query, fingerprint
from distill_assets.training.recipes import Recipe, TeacherRecipe


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """One query with its candidates as texts: the positive first, then mined negatives, then random documents.

    Attributes:
        teacher_logits: one raw logit for each of the first documents, in the same order; random documents have none. None where
            no teacher is used.
        relevant: texts of every document that is judged above 0; none of them is ever a negative in the batch.
    """

    query_id: str
    query: str
    documents: tuple[str, ...]
    teacher_logits: tuple[float, ...] | None = None
    relevant: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labels:
    """What groups are made from.

    Attributes:
        judged: query_id -> doc_id -> relevance, above 0.
        candidates: query_id -> doc_ids that search finds, best first; judged ones are among them.
        content_of: doc_id -> text.
        min_relevance: a document of a lower grade is neither a positive nor a negative.
    """

    judged: Mapping[str, Mapping[str, int]]
    candidates: Mapping[str, Sequence[str]]
    content_of: Mapping[str, str]
    min_relevance: int = 1

    def positives_of(self, query_id: str) -> list[str]:
        """Relevant doc_ids of a query, sorted."""
        return sorted(d for d in self.judged_of(query_id) if self._is_relevant(query_id, d))

    def judged_of(self, query_id: str) -> list[str]:
        """Doc_ids of a query that are judged above 0, sorted."""
        return sorted(self.judged.get(query_id, ()))

    def found_of(self, query_id: str) -> list[str]:
        """Relevant doc_ids that search finds for a query, best first, each once."""
        return [d for d in dict.fromkeys(self.candidates.get(query_id, ())) if self._is_relevant(query_id, d)]

    def negatives_of(self, query_id: str) -> list[str]:
        """Candidates of a query, best first, each once, without those whose text is a judged answer's.

        A later batch may judge a document relevant that an earlier batch mined, and may bring its text under another id.
        """
        answers = {self.content_of[d] for d in self.judged_of(query_id)}
        return [d for d in dict.fromkeys(self.candidates.get(query_id, ())) if self.content_of[d] not in answers]

    def _is_relevant(self, query_id: str, doc_id: str) -> bool:
        return self.judged.get(query_id, {}).get(doc_id, 0) >= self.min_relevance


@dataclass(frozen=True)
class Epochs(Sequence[list[TrainingGroup]]):
    """The groups of each epoch, and the number of queries that no epoch holds, by reason.

    The reasons in `left_out`, each only where a query was left out for it:
        no_positive: no judged answer, or none that the teacher scored where the recipe lets the teacher choose.
        too_few_negatives: fewer mined negatives than the recipe's list holds.
        too_few_documents: the corpus had too few other documents to fill the list.
    """

    groups: list[list[TrainingGroup]]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of epochs."""
        return len(self.groups)

    def __getitem__(self, index: Any) -> Any:
        """The groups of one epoch."""
        return self.groups[index]


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
) -> Epochs:
    """The groups of each epoch of `recipe`, drawn as its fields say (`Recipe`).

    Every draw is seeded by recipe, epoch and query. Queries that cannot fill a row are left out and counted (`Epochs`).

    Raises:
        MissingPartitionError: a pair that the recipe reads has no teacher logit.
        TrainingError: every query was left out.
    """
    if recipe.uses_teacher and logit_of is None:
        raise MissingPartitionError(
            f"recipe {recipe.name!r} reads teacher logits and none were given: materialise teacher_scores"
        )
    known = logit_of if recipe.uses_teacher else None
    doc_ids = sorted(labels.content_of) if recipe.num_random else []
    drawn = [
        [g for query in queries for g in _student_groups(query, labels, recipe, known, epoch, doc_ids)]
        for epoch in range(recipe.epochs)
    ]
    return _counted(queries, drawn, lambda query_id: bool(_eligible(query_id, labels, recipe, known)))


def _counted(
    queries: Sequence[Query], drawn: Sequence[Sequence[TrainingGroup]], has_positive: Callable[[str], bool]
) -> Epochs:
    """The drawn groups of each epoch that are as wide as its widest, and the queries that are then in none, by reason."""
    epochs = []
    for groups in drawn:
        width = max((len(group.documents) for group in groups), default=0)
        epochs.append([group for group in groups if len(group.documents) == width])
    had_a_group, trained = ({g.query_id for groups in found for g in groups} for found in (drawn, epochs))

    def reason(query_id: str) -> str:
        if query_id in had_a_group:
            return "too_few_documents"
        return "too_few_negatives" if has_positive(query_id) else "no_positive"

    left_out = dict(sorted(Counter(reason(q.query_id) for q in queries if q.query_id not in trained).items()))
    if not trained:
        counts = ", ".join(f"{name} {count}" for name, count in left_out.items())
        raise TrainingError(
            f"none of {len(queries)} training queries can be trained on ({counts or 'there is none'}): expected a positive and "
            "enough mined negatives for at least one; add judgements, mine more negatives, or lower the recipe's number"
        )
    return Epochs(epochs, left_out)


def _student_groups(
    query: Query, labels: Labels, recipe: Recipe, logit_of: LogitOf | None, epoch: int, doc_ids: Sequence[str]
) -> list[TrainingGroup]:
    """The groups of one query in one epoch: one for each of its positives that are drawn."""
    rng = _rng(query.query_id, recipe.seed, epoch)
    judged, mined = labels.judged_of(query.query_id), labels.negatives_of(query.query_id)
    positives = _eligible(query.query_id, labels, recipe, logit_of)
    if recipe.positives != "teacher":
        positives = rng.sample(positives, min(recipe.num_positives, len(positives)))
    groups = []
    for positive in positives:
        candidates = [d for d in mined if labels.content_of[d] != labels.content_of[positive]]
        if len(candidates) < recipe.num_negatives:
            continue
        negatives = _draw_negatives(query.query_id, candidates, recipe, logit_of, rng)
        logits = None if logit_of is None else _logits(logit_of, query.query_id, [positive, *negatives])
        easy = _draw_random(doc_ids, labels, [positive, *judged, *negatives], recipe.num_random, rng)
        texts = tuple(labels.content_of[d] for d in [positive, *negatives, *easy])
        known = tuple(labels.content_of[d] for d in dict.fromkeys([positive, *judged]))
        groups.append(TrainingGroup(query.query_id, query.text, texts, logits, known))
    return groups


def _eligible(query_id: str, labels: Labels, recipe: Recipe, logit_of: LogitOf | None) -> list[str]:
    """What may be the positive of a list, as `Recipe.positives` says.

    Of equal logits the first in the one total order counts. Where the teacher chooses and nothing was scored there is none.
    """
    relevant = labels.positives_of(query_id)
    if recipe.positives == "human":
        return relevant
    if recipe.positives == "found":
        return _found_or_all(query_id, labels)
    known = logit_of or {}
    candidates = [*relevant, *labels.negatives_of(query_id)]
    scored = [(known[query_id, d], d) for d in candidates if (query_id, d) in known]
    return [max(scored)[1]] if scored else []


def _found_or_all(query_id: str, labels: Labels) -> list[str]:
    """The judged answers that search finds; all of a query's where it finds none of them. Sorted by id."""
    return sorted(labels.found_of(query_id)) or labels.positives_of(query_id)


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


def build_teacher_epochs(queries: Sequence[Query], labels: Labels, recipe: TeacherRecipe) -> Epochs:
    """The groups of each epoch of `recipe`: one per query with a positive, sampled hard and random negatives.

    Each epoch draws anew, so that a query meets other negatives each time. Queries with fewer mined negatives than the recipe's
    `num_hard` are left out and counted (`Epochs`).

    Raises:
        TrainingError: every query was left out.
    """
    doc_ids = sorted(labels.content_of)
    drawn = []
    for epoch in range(recipe.epochs):
        groups = []
        for query in queries:
            rng = _rng(query.query_id, recipe.seed, epoch)
            positives, mined = labels.positives_of(query.query_id), labels.negatives_of(query.query_id)
            if len(mined) < recipe.num_hard or not positives:
                continue
            hard = rng.sample(mined, recipe.num_hard)
            judged = labels.judged_of(query.query_id)
            easy = _draw_random(doc_ids, labels, [*judged, *hard], recipe.num_random, rng)
            eligible = positives if recipe.positives == "human" else _found_or_all(query.query_id, labels)
            chosen = [rng.choice(eligible), *hard, *easy]
            groups.append(TrainingGroup(query.query_id, query.text, tuple(labels.content_of[d] for d in chosen)))
        drawn.append(groups)
    return _counted(queries, drawn, lambda query_id: bool(labels.positives_of(query_id)))


def build_dev_groups(queries: Sequence[Query], labels: Labels) -> list[DevGroup]:
    """One group per judged query that has candidates: those alone, as search finds them, with their grades."""
    groups = []
    for query in queries:
        judged, found = labels.judged.get(query.query_id, {}), labels.candidates.get(query.query_id, ())
        if judged and found:
            candidates = list(dict.fromkeys(found))
            texts = tuple(labels.content_of[d] for d in candidates)
            grades = tuple(judged.get(d, 0) for d in candidates)
            missed = sorted(judged.keys() - set(candidates))
            missed_grades = tuple(judged[d] for d in missed)
            missed_texts = tuple(labels.content_of[d] for d in missed)
            groups.append(DevGroup(query.query_id, query.text, texts, grades, missed_grades, missed_texts))
    return groups


def _draw_random(
    doc_ids: Sequence[str], labels: Labels, taken: Sequence[str], count: int, rng: random.Random
) -> list[str]:
    """`count` documents with other texts than those taken, fewer only where the corpus is too small to have them."""
    texts = {labels.content_of[d] for d in taken}
    drawn: list[str] = []
    for _ in range(20 * count):
        if len(drawn) == count:
            break
        candidate = doc_ids[rng.randrange(len(doc_ids))]
        if labels.content_of[candidate] not in texts:
            texts.add(labels.content_of[candidate])
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
