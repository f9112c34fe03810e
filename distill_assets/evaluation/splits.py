"""Twins: queries that stand in more than one split, word by word or nearly so.

Of two twins the one in the less precious split is left out. Test is more precious than dev, and dev more than train: a model that has
seen a test query, or was chosen by it, gets a number that is too good.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from distill_assets.records import SPLITS, Query, Split, normalise
from distill_assets.retrieval.words import PUNCTUATION, has_unspaced_script, words_and_signs

_MOST_PRECIOUS_FIRST: tuple[Split, ...] = ("test", "dev", "train")
_SHINGLE_SIZE = 3
_ROUNDING = 1e-9  # 0.55 * 100 is 55.00000000000001: rounded up as it is, a pair that shares 55 of 100 would be lost


def leaked_queries(queries: Iterable[Query], *, jaccard: float) -> dict[str, str]:
    """Ids of the train and dev queries to leave out -> id of the dev or test query that each repeats; sorted by id.

    A train query that repeats a dev query is left out also where that dev query is left out for a test query. The rule looks at
    two queries at a time: a query that is added later never brings back one that was left out.

    Args:
        queries: all queries of the collection, over all batches; each id once.
        jaccard: similarity from which two queries are twins, in (0, 1]; see `find_twins`.
    """
    everything = {query.query_id: query for query in queries}
    twins = find_twins(everything.values(), jaccard=jaccard)
    return {query_id: twin.query_id for query_id, twin in twins.items() if gives_way(everything[query_id], twin)}


def gives_way(query: Query, twin: Query) -> bool:
    """Whether `query` is the one of the two that is left out: its split is the less precious one."""
    return _MOST_PRECIOUS_FIRST.index(query.split) > _MOST_PRECIOUS_FIRST.index(twin.split)


def find_twins(queries: Iterable[Query], *, jaccard: float) -> dict[str, Query]:
    """Query id -> its twin, for each query that stands in another split too, word by word or nearly so; sorted by id.

    Nearly: the shingles of three words have a Jaccard similarity of at least `jaccard`; case and punctuation do not count,
    signs do ("x < y" and "x <= y" are two questions). Of fewer than three words all must be equal. Of several twins the one in
    the most precious split is named, and there the first by id.
    """
    everything = sorted(queries, key=_by_id)
    shingles_of = {query.query_id: query_shingles(query.text) for query in everything}
    num_with = Counter(shingle for own in shingles_of.values() for shingle in own)
    rarest_of = {own: _rarest(own, num_with, jaccard) for own in shingles_of.values()}
    by_split = {split: _Index(jaccard) for split in SPLITS}
    for query in everything:
        own = shingles_of[query.query_id]
        by_split[query.split].add(query, own, rarest_of[own])
    found = {}
    for query in everything:
        own = shingles_of[query.query_id]
        others = (by_split[split].first(own, rarest_of[own]) for split in _MOST_PRECIOUS_FIRST if split != query.split)
        twin = next(filter(None, others), None)
        if twin is not None:
            found[query.query_id] = twin
    return found


def repeated_texts(texts: Sequence[str], *, jaccard: float) -> set[int]:
    """Positions of the texts that an earlier one says already, word by word or nearly so (as `find_twins`).

    An earlier one that is itself repeated does not count: what is left out leaves nothing out.
    """
    all_shingles = [query_shingles(text) for text in texts]
    num_with = Counter(shingle for own in all_shingles for shingle in own)
    kept, repeated = _Index(jaccard), set[int]()
    for position, own in enumerate(all_shingles):
        rarest = _rarest(own, num_with, jaccard)
        if kept.first(own, rarest) is not None:
            repeated.add(position)
        else:
            kept.add(Query(f"{position:012d}", texts[position], "train"), own, rarest)
    return repeated


def query_shingles(text: str) -> frozenset[int]:
    """Hashes of every run of three words, of all words where there are fewer; good within one process.

    Between spaces stand words with their signs. A text of a script without spaces is cut into words and signs instead.
    """
    asked = normalise(text)
    parts = asked.split()
    stripped = words_and_signs(asked) if has_unspaced_script(asked) else [part.strip(PUNCTUATION) for part in parts]
    found = [word for word in stripped if word] or parts
    last = max(1, len(found) - _SHINGLE_SIZE + 1)
    return frozenset(hash(tuple(found[start : start + _SHINGLE_SIZE])) for start in range(last))


def _by_id(query: Query) -> str:
    return query.query_id


def _rarest(shingles: frozenset[int], num_with: Counter[int], jaccard: float) -> list[int]:
    """The rarest shingles of a set, one of which every similar set shares: those that `_Index` reads."""
    rarest_first = sorted(shingles, key=lambda shingle: (num_with[shingle], shingle))
    return rarest_first[: len(shingles) - _at_least(jaccard * len(shingles)) + 1]


def _at_least(value: float) -> int:
    return math.ceil(value - _ROUNDING)


class _Index:
    """The queries of one split, to be found by their rarest shingles.

    Sets of n and m shingles with similarity j share at least c = ceil(j / (1 + j) * (n + m)). With the shingles of both in one
    order, rarest first, the first shared one is among the first n - c + 1 and the first m - c + 1 (the prefix filter of Chaudhuri
    et al. 2006, with the sizes of Xiao et al. 2008, PPJoin). So lists of common shingles ("how do i") are hardly ever walked.
    """

    def __init__(self, jaccard: float) -> None:
        self._jaccard = jaccard
        self._first_of: dict[frozenset[int], Query] = {}
        # number of shingles -> shingle -> sets, by first id
        self._having: dict[int, dict[int, list[frozenset[int]]]] = {}

    def add(self, query: Query, shingles: frozenset[int], rarest: Sequence[int]) -> None:
        """Queries are added in the order of their ids."""
        if shingles not in self._first_of:
            self._first_of[shingles] = query
            of_this_size = self._having.setdefault(len(shingles), {})
            for shingle in rarest:
                of_this_size.setdefault(shingle, []).append(shingles)

    def first(self, shingles: frozenset[int], rarest: Sequence[int]) -> Query | None:
        """The first query by id that is similar enough."""
        found = []
        for size, having in self._having.items():
            num_needed = _at_least(self._jaccard / (1 + self._jaccard) * (len(shingles) + size))
            if num_needed <= min(size, len(shingles)):
                for shingle in rarest[: len(shingles) - num_needed + 1]:
                    similar = (other for other in having.get(shingle, ()) if self._is_similar(shingles, other))
                    found += [self._first_of[other] for other in islice(similar, 1)]
        return min(found, key=_by_id, default=None)

    def _is_similar(self, one: frozenset[int], other: frozenset[int]) -> bool:
        num_common = len(one & other)
        return num_common / (len(one) + len(other) - num_common) >= self._jaccard
