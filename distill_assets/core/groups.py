"""Groups: a query with its candidates as texts, the form in which models are trained and their steps are judged."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill_assets.core.errors import MissingPartitionError
from distill_assets.core.records import Query, fingerprint


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """One query with its candidates as texts: the positive first, then negatives.

    `teacher_logits` has one raw logit per document, in the same order; None where no teacher is used.
    """

    query_id: str
    query: str
    documents: tuple[str, ...]
    teacher_logits: tuple[float, ...] | None = None


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


def build_student_groups(
    queries: Sequence[Query],
    labels: Labels,
    *,
    num_negatives: int,
    seed: int,
    logit_of: Mapping[tuple[str, str], float] | None = None,
) -> list[TrainingGroup]:
    """One group per query: a positive chosen by seed and the query, and its first `num_negatives` mined negatives.

    With `logit_of` ((query_id, doc_id) -> raw logit) the group carries the teacher's view of each document. Queries with
    fewer mined negatives are left out.

    Raises:
        MissingPartitionError: a pair of a group has no teacher logit.
    """
    groups = []
    for query in queries:
        mined = list(labels.negatives.get(query.query_id, ()))[:num_negatives]
        positives = sorted(labels.positives.get(query.query_id, ()))
        if len(mined) < num_negatives or not positives:
            continue
        chosen = [_rng(seed, query.query_id).choice(positives), *mined]
        logits = None if logit_of is None else _logits(logit_of, query.query_id, chosen)
        groups.append(TrainingGroup(query.query_id, query.text, tuple(labels.content_of[d] for d in chosen), logits))
    return groups


def build_teacher_groups(
    queries: Sequence[Query], labels: Labels, *, num_hard: int, num_random: int, epochs: int, seed: int
) -> list[TrainingGroup]:
    """`epochs` groups per query, one after another over all queries: a positive, sampled hard and random negatives.

    Each epoch draws anew, so that a query meets other negatives each time. Queries with fewer than `num_hard` mined
    negatives are left out.
    """
    groups = []
    doc_ids = sorted(labels.content_of)
    for epoch in range(epochs):
        for query in queries:
            rng = _rng(seed + epoch, query.query_id)
            positives = sorted(labels.positives.get(query.query_id, ()))
            mined = list(labels.negatives.get(query.query_id, ()))
            if len(mined) < num_hard or not positives:
                continue
            hard = rng.sample(mined, num_hard)
            easy = _draw_random(doc_ids, {*positives, *hard}, num_random, rng)
            chosen = [rng.choice(positives), *hard, *easy]
            groups.append(TrainingGroup(query.query_id, query.text, tuple(labels.content_of[d] for d in chosen)))
    width = max((len(group.documents) for group in groups), default=0)
    return [group for group in groups if len(group.documents) == width]


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


def _rng(seed: int, query_id: str) -> random.Random:
    """A generator of its own per query: adding a query does not change what the others draw."""
    return random.Random(int(fingerprint(seed, query_id), 16))
