"""Which documents people should judge first, and what their judgements can show.

Pooling: documents that no system ranks high are not judged. Every kind of system puts its first documents into the pool, because a
document that is not judged counts as not relevant: a system outside the pool would look worse than it is.

Carterette, Allan & Sitaraman 2006, "Minimal test collections for retrieval evaluation": judge first what can change the
difference of two systems most. The weight of a document is the difference of its discounts in the two rankings; here, of more
systems, the largest one.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

import numpy as np

from distill_assets.errors import EvaluationError
from distill_assets.evaluation.agreement import cohen_kappa
from distill_assets.evaluation.significance import detectable_difference
from distill_assets.records import hash_text

DEPTH = 10  # nDCG@10 sees no further
POOLED = 5  # documents of each system; at ranks 6 to 10 a document adds at most 0.36 of what one at rank 1 adds
ROUND = 40  # queries; with a spread of 0.25 per query they show a difference of 0.11
BAD_QUERY = -1  # relevance of an answer about the query itself
_FEW = 5  # judged queries: fewer say nothing about the spread


@dataclass(frozen=True, slots=True)
class Pool:
    """What a person judges of one query: the documents in an order that tells nothing, how much they can change, and the round."""

    query_id: str
    doc_ids: tuple[str, ...]
    weight: float
    number_of_round: int


def choose_pools(rankings: Sequence[Mapping[str, Sequence[str]]]) -> list[Pool]:
    """The pools of all queries in the order in which they should be judged.

    Queries come in rounds of `ROUND`, by hash of their id: a round that is done stands for all queries. In a round the queries
    on which systems disagree most come first. The documents of a query are in the order of a hash, which hides who found them.

    Args:
        rankings: of each system, query_id -> doc_ids, best first.

    Raises:
        EvaluationError: the systems did not rank the same queries, or there is no system.
    """
    if not rankings or any(each.keys() != rankings[0].keys() for each in rankings):
        raise EvaluationError(
            "pools need rankings of the same queries by one system or more: run distill-assets run first"
        )
    by_hash = sorted(rankings[0], key=hash_text)
    rounds = (by_hash[start : start + ROUND] for start in range(0, len(by_hash), ROUND))
    pools = []
    for number, query_ids in enumerate(rounds, start=1):
        found = [_pool(query_id, [each[query_id] for each in rankings], number) for query_id in query_ids]
        pools += sorted((pool for pool in found if pool.doc_ids), key=lambda pool: (-pool.weight, pool.query_id))
    return pools


def _pool(query_id: str, rankings: Sequence[Sequence[str]], number: int) -> Pool:
    doc_ids = {doc_id for ranking in rankings for doc_id in ranking[:POOLED]}
    discounts = [{doc_id: 1 / math.log2(rank + 1) for rank, doc_id in enumerate(r[:DEPTH], start=1)} for r in rankings]
    weight = 0.0
    for doc_id in sorted(doc_ids):
        values = [found.get(doc_id, 0.0) for found in discounts]
        weight += max(values) - min(values)
    in_no_order = tuple(sorted(doc_ids, key=lambda doc_id: hash_text(f"{query_id} {doc_id}")))
    return Pool(query_id, in_no_order, weight, number)


def describe_power(first: Mapping[str, float], second: Mapping[str, float]) -> str:
    """What the judged queries can show, in words: nDCG@10 of two systems by query_id, of the same queries."""
    count = len(first)
    if count < _FEW:
        return f"{count} judged queries with a relevant document: {_FEW} are the least to say what they can show."
    differences = np.asarray([first[query_id] - second[query_id] for query_id in sorted(first)])
    now = detectable_difference(differences)
    # The square root law of `detectable_difference`: four times the queries halve the difference.
    return (
        f"{count} judged queries with a relevant document find a true difference of {now:.2f} in nDCG@10 four times out of five; "
        f"{4 * count} would find {now / 2:.2f}."
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """One person's last answer about a pair, or about the query where `doc_id` is empty."""

    query_id: str
    doc_id: str
    relevance: int
    judge: str
    judged_at: datetime


@dataclass(frozen=True, kw_only=True)
class JudgedByPeople:
    """What people judged of a split on the page.

    Attributes:
        num_pairs: distinct (query, document) pairs.
        num_bad_queries: queries that were called bad.
        judges: per person the number of pairs, the first and the last day, as ISO dates.
        num_twice: times that two persons judged the same pair.
        kappa: Cohen's kappa of those, relevant or not; None where it says nothing.
    """

    split: str
    num_pairs: int
    num_queries: int
    num_bad_queries: int
    judges: Mapping[str, tuple[int, str, str]]
    num_twice: int
    kappa: float | None

    def __bool__(self) -> bool:
        """Whether anything was judged."""
        return bool(self.num_pairs or self.num_bad_queries)

    @property
    def sentences(self) -> list[str]:
        """The same in words."""
        if not self:
            return [f"Nobody has judged queries of {self.split} on the page yet: distill-assets judge opens it."]
        people = "; ".join(
            f"{name} {count:,} ({first if first == last else f'{first} to {last}'})"
            for name, (count, first, last) in self.judges.items()
        )
        bad = f", and called {_queries(self.num_bad_queries)} bad" if self.num_bad_queries else ""
        told = [
            f"On the page people judged {self.num_pairs:,} pairs of {_queries(self.num_queries, self.split)}{bad}: {people}."
        ]
        if self.num_twice:
            agreed = "it leaves chance no room" if self.kappa is None else f"Cohen's kappa is {self.kappa:.2f}"
            told.append(f"Two people judged the same pair {self.num_twice:,} times, relevant or not: {agreed}.")
        return told


def summarise_answers(split: str, answers: Sequence[Answer], min_relevance: int = 1) -> JudgedByPeople:
    """What people judged of a split; grades from `min_relevance` on are relevant."""
    by_pair: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    by_judge: dict[str, list[Answer]] = defaultdict(list)
    for answer in sorted(answers, key=lambda answer: (answer.judge, answer.judged_at)):
        by_judge[answer.judge].append(answer)
        if answer.doc_id:
            by_pair[answer.query_id, answer.doc_id].append(answer)
    twice = [
        (a.relevance >= min_relevance, b.relevance >= min_relevance)
        for own in by_pair.values()
        for a, b in combinations(own, 2)
    ]
    return JudgedByPeople(
        split=split,
        num_pairs=len(by_pair),
        num_queries=len({query_id for query_id, _ in by_pair}),
        num_bad_queries=len({answer.query_id for answer in answers if not answer.doc_id}),
        judges={name: _told_of(own) for name, own in by_judge.items()},
        num_twice=len(twice),
        kappa=cohen_kappa([a for a, _ in twice], [b for _, b in twice]),
    )


def _told_of(own: Sequence[Answer]) -> tuple[int, str, str]:
    """Pairs, first and last day of one person's answers, which are in the order of their times."""
    return sum(bool(a.doc_id) for a in own), f"{own[0].judged_at:%Y-%m-%d}", f"{own[-1].judged_at:%Y-%m-%d}"


def _queries(count: int, split: str = "") -> str:
    return f"{count:,} {f'{split} ' if split else ''}{'query' if count == 1 else 'queries'}"
