"""Lists: a query with its candidates as texts, the form in which models are trained and their steps are judged."""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distill_assets.errors import MissingPartitionError, TrainingError
from distill_assets.evaluation.metrics import DevList
from distill_assets.records import Query, fingerprint, hash_text
from distill_assets.retrieval.passages import ANSWERS_PER_DOCUMENT, standing_for
from distill_assets.training.recipes import Recipe, TeacherRecipe

LogitOf = Mapping[tuple[str, str], float]  # (query_id, doc_id) -> raw teacher logit


@dataclass(frozen=True, slots=True)
class TrainList:
    """One query with its candidates as texts: the positive first, then mined negatives, then random documents.

    Attributes:
        teacher_logits: raw logits of the first documents, in the same order; random documents have none. None where no teacher is
            used.
        relevant: texts of every document that is judged above 0; none of them is ever a negative in the batch.
    """

    query_id: str
    query: str
    documents: tuple[str, ...]
    teacher_logits: tuple[float, ...] | None = None
    relevant: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labels:
    """What lists are made from.

    Attributes:
        judged: query_id -> doc_id -> relevance, above 0; 0 of a document that may be neither positive nor negative.
        candidates: query_id -> doc_ids that search finds, best first; judged ones are among them.
        content_of: doc_id -> text.
        min_relevance: a document of a lower grade is neither a positive nor a negative.
        parent_of: the document of each passage; empty where none was cut. A judged document has all its passages in `judged`.
    """

    judged: Mapping[str, Mapping[str, int]]
    candidates: Mapping[str, Sequence[str]]
    content_of: Mapping[str, str]
    min_relevance: int = 1
    parent_of: Mapping[str, str] = field(default_factory=dict)

    def of_scored(self, logit_of: LogitOf) -> "Labels":
        """The same where only documents with a teacher logit are positives and candidates; judged ones stay judged, at grade 0."""
        judged = {
            q: {d: grade if (q, d) in logit_of else 0 for d, grade in of.items()} for q, of in self.judged.items()
        }
        candidates = {q: [d for d in found if (q, d) in logit_of] for q, found in self.candidates.items()}
        return replace(self, judged=judged, candidates=candidates)

    def judged_of(self, query_id: str) -> list[str]:
        """Doc_ids of a query that are in `judged`, sorted: none of them is a negative."""
        return sorted(self.judged.get(query_id, ()))

    def answers_of(self, query_id: str) -> list[str]:
        """The judged doc_ids of a query, sorted; of a document that was cut the passages that stand for it (`standing_for`)."""
        if not self.parent_of:  # asked for each query of each epoch
            return self.judged_of(query_id)
        candidates = self.candidates.get(query_id, ())
        return sorted(standing_for(self.judged.get(query_id, {}), candidates, self.parent_of, ANSWERS_PER_DOCUMENT))

    def positives_of(self, query_id: str) -> list[str]:
        """Relevant doc_ids among `answers_of` a query, sorted."""
        judged = self.judged.get(query_id, {})
        return [d for d in self.answers_of(query_id) if judged[d] >= self.min_relevance]

    def best_of(self, query_id: str, doc_ids: Sequence[str], logit_of: LogitOf | None = None) -> list[str]:
        """One passage of each document of `doc_ids`, sorted: the teacher's first where it scored them, else search's first (MaxP)."""
        if not self.parent_of:
            return sorted(doc_ids)
        ranked = standing_for(doc_ids, self.candidates.get(query_id, ()), {}, 1)
        if logit_of:
            ranked.sort(key=lambda d: logit_of.get((query_id, d), -math.inf), reverse=True)
        return sorted(standing_for(ranked, ranked, self.parent_of, 1))

    def found_of(self, query_id: str) -> list[str]:
        """Relevant doc_ids that search finds for a query, best first, each once."""
        relevant = {*self.positives_of(query_id)}
        return [d for d in dict.fromkeys(self.candidates.get(query_id, ())) if d in relevant]

    def negatives_of(self, query_id: str) -> list[str]:
        """Candidates of a query, best first, each once, without those whose text is a judged answer's.

        A later batch may judge a document relevant that an earlier batch mined, and may bring its text under another id.
        """
        answers = {self.content_of[d] for d in self.judged_of(query_id)}
        return [d for d in dict.fromkeys(self.candidates.get(query_id, ())) if self.content_of[d] not in answers]


class Epochs(list[list[TrainList]]):
    """The lists of each epoch.

    `left_out` counts the queries that no epoch holds, by reason:
        no_positive: no judged answer, or none that the teacher scored where the recipe lets the teacher choose.
        too_few_negatives: fewer mined negatives than the recipe's list holds.
        too_few_documents: the corpus had too few other documents to fill the list.
    """

    def __init__(self, epochs: Sequence[list[TrainList]], left_out: Mapping[str, int] | None = None) -> None:
        super().__init__(epochs)
        self.left_out = dict(left_out or {})


def choose_queries(queries: Sequence[Query], judged: Mapping[str, object], limit: int | None) -> list[Query]:
    """Judged queries, at most `limit` of them; sorted by id. `judged` holds a key for each query that has a judgement.

    They are chosen by hash of their id, so that a larger limit only adds.
    """
    found = sorted((q for q in queries if q.query_id in judged), key=lambda q: hash_text(q.query_id))
    return sorted(found[:limit], key=lambda q: q.query_id)


def choose_train_queries(
    queries: Sequence[Query], judged: Mapping[str, object], limit: int | None, *, reads_unjudged: bool
) -> list[Query]:
    """The train queries of one batch that are mined and scored, at most `limit`; sorted by id.

    Judged ones come first, so that none is lost for the sake of another. Queries without a judgement follow only where
    `reads_unjudged` says that a recipe takes the teacher's first candidate as positive.
    """
    train = [q for q in queries if q.split == "train"]
    chosen = choose_queries(train, judged, limit)
    if not reads_unjudged:
        return chosen
    others = {q.query_id: q for q in train if q.query_id not in judged}
    rest = choose_queries(train, others, None if limit is None else limit - len(chosen))
    return sorted([*chosen, *rest], key=lambda q: q.query_id)


def build_student_epochs(
    queries: Sequence[Query], labels: Labels, recipe: Recipe, logit_of: LogitOf | None = None
) -> Epochs:
    """The lists of each epoch of `recipe`, drawn as its fields say (`Recipe`).

    Every draw is seeded by recipe, epoch and query. Queries that cannot fill a list are left out and counted (`Epochs`).

    Raises:
        MissingPartitionError: a pair that the recipe reads has no teacher logit.
        TrainingError: every query was left out.
    """
    if recipe.uses_teacher and logit_of is None:
        raise MissingPartitionError(
            f"recipe {recipe.name!r} reads teacher logits and none were given: materialise teacher_scores"
        )
    return _draw_epochs(queries, labels, recipe, logit_of if recipe.uses_teacher else None)


def build_teacher_epochs(queries: Sequence[Query], labels: Labels, recipe: TeacherRecipe) -> Epochs:
    """The lists of each epoch of `recipe`: one per query with a positive, sampled hard and random negatives, drawn anew each epoch.

    Raises:
        TrainingError: every query was left out; those that cannot fill a list are, and are counted (`Epochs`).
    """
    return _draw_epochs(queries, labels, recipe, None)


def _draw_epochs(
    queries: Sequence[Query], labels: Labels, recipe: Recipe | TeacherRecipe, logit_of: LogitOf | None
) -> Epochs:
    """The lists of each epoch that are as wide as its widest, and the queries that are then in none, by reason."""
    doc_ids = sorted(labels.content_of) if recipe.num_random else []
    drawn, epochs = [], []
    for epoch in range(recipe.epochs):
        lists = []
        for query in queries:
            # A generator of its own per query: adding a query does not change what the others draw.
            rng = random.Random(int(fingerprint(recipe.seed, epoch, query.query_id), 16))
            if isinstance(recipe, Recipe):
                lists += _student_lists(query, labels, recipe, logit_of, doc_ids, rng)
            else:
                lists += _teacher_lists(query, labels, recipe, doc_ids, rng)
        width = max((len(found.documents) for found in lists), default=0)
        drawn.append(lists)
        epochs.append([found for found in lists if len(found.documents) == width])
    had_a_list, trained = ({found.query_id for lists in of for found in lists} for of in (drawn, epochs))

    def reason(query_id: str) -> str:
        if query_id in had_a_list:
            return "too_few_documents"
        return "too_few_negatives" if _eligible(query_id, labels, recipe, logit_of) else "no_positive"

    left_out = dict(sorted(Counter(reason(q.query_id) for q in queries if q.query_id not in trained).items()))
    if not trained:
        counts = ", ".join(f"{name} {count}" for name, count in left_out.items())
        raise TrainingError(
            f"none of {len(queries)} training queries can be trained on ({counts or 'there is none'}): expected a positive and "
            "enough mined negatives for at least one; add judgements, mine more negatives, or lower the recipe's number"
        )
    return Epochs(epochs, left_out)


def _student_lists(
    query: Query,
    labels: Labels,
    recipe: Recipe,
    logit_of: LogitOf | None,
    doc_ids: Sequence[str],
    rng: random.Random,
) -> list[TrainList]:
    """The lists of one query in one epoch: one for each of its positives that are drawn."""
    judged, mined = labels.judged_of(query.query_id), labels.negatives_of(query.query_id)
    positives = _eligible(query.query_id, labels, recipe, logit_of)
    if recipe.positives != "teacher":
        positives = rng.sample(positives, min(recipe.num_positives, len(positives)))
    lists = []
    for positive in positives:
        candidates = [d for d in mined if labels.content_of[d] != labels.content_of[positive]]
        if len(candidates) < recipe.num_negatives:
            continue
        negatives = _draw_negatives(query.query_id, candidates, recipe, logit_of, rng)
        logits = None if logit_of is None else _logits(logit_of, query.query_id, [positive, *negatives])
        easy = _draw_random(doc_ids, labels, [positive, *judged, *negatives], recipe.num_random, rng)
        texts = tuple(labels.content_of[d] for d in [positive, *negatives, *easy])
        known = tuple(labels.content_of[d] for d in dict.fromkeys([positive, *judged]))
        lists.append(TrainList(query.query_id, query.text, texts, logits, known))
    return lists


def _teacher_lists(
    query: Query, labels: Labels, recipe: TeacherRecipe, doc_ids: Sequence[str], rng: random.Random
) -> list[TrainList]:
    """The list of one query in one epoch; none where it has no positive or too few mined negatives."""
    eligible, mined = _eligible(query.query_id, labels, recipe, None), labels.negatives_of(query.query_id)
    if len(mined) < recipe.num_hard or not eligible:
        return []
    hard = rng.sample(mined, recipe.num_hard)
    easy = _draw_random(doc_ids, labels, [*labels.judged_of(query.query_id), *hard], recipe.num_random, rng)
    chosen = [rng.choice(eligible), *hard, *easy]
    return [TrainList(query.query_id, query.text, tuple(labels.content_of[d] for d in chosen))]


def _eligible(query_id: str, labels: Labels, recipe: Recipe | TeacherRecipe, logit_of: LogitOf | None) -> list[str]:
    """What may be the positive of a list, as `Recipe.positives` says; sorted by id.

    Of equal logits the first in the one total order counts. Where the teacher chooses and nothing was scored there is none.
    """
    relevant = labels.positives_of(query_id)
    if recipe.positives == "human":
        return labels.best_of(query_id, relevant, logit_of)
    if recipe.positives == "found":
        return labels.best_of(query_id, labels.found_of(query_id) or relevant, logit_of)
    known = logit_of or {}
    candidates = [*relevant, *labels.negatives_of(query_id)]
    scored = [(known[query_id, d], d) for d in candidates if (query_id, d) in known]
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
    repeat that. The whole range of scores teaches more than its top (arXiv 2604.04734).
    """
    free = sorted(zip(logits, doc_ids, strict=True), reverse=True)
    high, low = free[0][0], free[-1][0]
    chosen = []
    for part in range(count):
        point = high - (high - low) * (part + rng.random()) / count
        nearest = min(range(len(free)), key=lambda i: abs(free[i][0] - point))
        chosen.append(free.pop(nearest)[1])
    return chosen


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


def _logits(logit_of: LogitOf, query_id: str, doc_ids: Sequence[str]) -> tuple[float, ...]:
    missing = [doc_id for doc_id in doc_ids if (query_id, doc_id) not in logit_of]
    if missing:
        raise MissingPartitionError(
            f"query {query_id!r}: {len(missing)} of its {len(doc_ids)} documents have no teacher logit, first {missing[0]!r}: "
            "materialise teacher_scores, or raise scored_negatives to the recipe's num_negatives"
        )
    return tuple(logit_of[query_id, doc_id] for doc_id in doc_ids)


def build_dev_lists(queries: Sequence[Query], labels: Labels) -> list[DevList]:
    """One list per judged query that has candidates: those alone, as search finds them, with their grades."""
    lists = []
    for query in queries:
        judged, found = labels.judged.get(query.query_id, {}), labels.candidates.get(query.query_id, ())
        if judged and found:
            candidates, parent_of = list(dict.fromkeys(found)), labels.parent_of
            seen = {parent_of.get(d, d) for d in candidates}
            grades = dict[str, int]()  # of documents
            for d, grade in judged.items():
                grades[parent_of.get(d, d)] = max(grade, grades.get(parent_of.get(d, d), 0))
            missed = [d for d in labels.answers_of(query.query_id) if parent_of.get(d, d) not in seen]
            dev_list = DevList(
                query.query_id,
                query.text,
                documents=tuple(labels.content_of[d] for d in candidates),
                relevances=tuple(grades.get(parent_of.get(d, d), 0) for d in candidates),
                missed=tuple(judged[d] for d in missed),
                missed_documents=tuple(labels.content_of[d] for d in missed),
                parents=tuple(parent_of.get(d, d) for d in [*candidates, *missed]) if parent_of else (),
            )
            lists.append(dev_list)
    return lists


def pairs_of(lists: Sequence[DevList]) -> list[tuple[str, str]]:
    """(query, document) texts of all lists, one after the other."""
    return [(dev_list.query, document) for dev_list in lists for document in dev_list.documents]


def per_list(lists: Sequence[DevList], scores: Sequence[float] | npt.NDArray[np.floating[Any]]) -> list[list[float]]:
    """Scores of `pairs_of(lists)` as one list of numbers per list."""
    bounds = np.cumsum([len(dev_list.documents) for dev_list in lists])[:-1]
    return [part.tolist() for part in np.split(np.asarray(scores), bounds)]
