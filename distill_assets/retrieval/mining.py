"""What search finds for a query: hard negatives, which no one judged relevant, and the judged answers among the candidates."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Literal

from distill_assets.retrieval.rankings import fuse_reciprocal_rank
from distill_assets.retrieval.words import words

Source = Literal["bm25", "dense", "both", "judged"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One document that may become a hard negative of a query.

    All ranks are 1-based: `rank` in the fused ranking or among what is kept of it, the other two in the two rankings, None outside.
    """

    doc_id: str
    rank: int
    source: Source
    bm25_rank: int | None
    dense_rank: int | None
    rrf_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningRules:
    """What decides which candidates become hard negatives.

    Args:
        num_negatives: hard negatives kept per query, at least 1.
        near_identical_jaccard: Jaccard similarity of token shingles, in (0, 1], from which it is a positive's twin.
        shingle_size: tokens per shingle, at least 1.
        rrf_k: constant of reciprocal-rank fusion, at least 1.
    """

    num_negatives: int = 10
    near_identical_jaccard: float = 0.9
    shingle_size: int = 3
    rrf_k: int = 60

    def __post_init__(self) -> None:
        """Refuse values that would keep nothing, or drop everything."""
        for name in ("num_negatives", "shingle_size", "rrf_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.near_identical_jaccard <= 1:
            raise ValueError(f"near_identical_jaccard must be above 0 and at most 1, got {self.near_identical_jaccard}")


def mine_hard_negatives(
    bm25_ranking: Sequence[str],
    dense_ranking: Sequence[str],
    *,
    positives: Set[str],
    rejected: Sequence[str] = (),
    texts: Mapping[str, str],
    rules: MiningRules,
) -> list[Candidate]:
    """Hard negatives of one query and the judged answers that search finds, in the order of the fusion.

    What a person judged not relevant comes first, found or not: no other negative is known to be one.
    The answers found are kept because training takes its positives among them (`Recipe.positives`).

    Args:
        bm25_ranking: doc_ids, best first, distinct; without the query itself (`retrieval.rankings.without_own`).
        dense_ranking: doc_ids, best first, distinct.
        positives: doc_ids judged relevant (relevance above 0) for this query.
        rejected: doc_ids judged not relevant for this query; distinct.
        texts: what encoders read of a document, by doc_id; must hold every ranked document. A positive that it does
            not hold is no longer in the corpus and has no twin.
        rules: how many to keep, and what counts as near-identical.

    Returns:
        At most `rules.num_negatives` hard negatives, fewer where the rankings run out, and every positive of the rankings;
        ranked anew from 1.

    Raises:
        ValueError: a ranking holds a document twice, or a ranked document has no text.
    """
    fused = _fuse(bm25_ranking, dense_ranking, rules.rrf_k)
    found = {candidate.doc_id: candidate for candidate in fused}
    named = [found.get(d) or Candidate(d, 0, "judged", None, None, 0.0) for d in rejected if d not in positives]
    named = named[: rules.num_negatives]
    judged = positives | {candidate.doc_id for candidate in named}
    positive_texts = [texts[p] for p in sorted(positives) if p in texts]
    # Lazy: no more candidates are compared with the positives than are needed to fill the list.
    negatives = (c for c in fused if c.doc_id not in judged and not _is_twin(c.doc_id, positive_texts, texts, rules))
    kept = {candidate.doc_id for candidate in islice(negatives, rules.num_negatives - len(named))}
    rest = (candidate for candidate in fused if candidate.doc_id in kept or candidate.doc_id in positives)
    return [replace(candidate, rank=position) for position, candidate in enumerate([*named, *rest], start=1)]


def pool_candidates(bm25_ranking: Sequence[str], dense_ranking: Sequence[str], depth: int) -> list[Candidate]:
    """What a teacher reranks for a query, on dev and on test alike: the first `depth` documents of each ranking, fused."""
    return _fuse(bm25_ranking[:depth], dense_ranking[:depth])


def _fuse(bm25_ranking: Sequence[str], dense_ranking: Sequence[str], rrf_k: int = 60) -> list[Candidate]:
    """Every document of the two rankings, fused by reciprocal rank, with its place in each."""
    bm25_ranks = {doc_id: position for position, doc_id in enumerate(bm25_ranking, start=1)}
    dense_ranks = {doc_id: position for position, doc_id in enumerate(dense_ranking, start=1)}
    candidates = []
    for position, (doc_id, score) in enumerate(fuse_reciprocal_rank([bm25_ranking, dense_ranking], k=rrf_k), start=1):
        bm25_rank, dense_rank = bm25_ranks.get(doc_id), dense_ranks.get(doc_id)
        source: Source = "dense" if bm25_rank is None else "bm25" if dense_rank is None else "both"
        candidates.append(Candidate(doc_id, position, source, bm25_rank, dense_rank, score))
    return candidates


def _is_twin(doc_id: str, positive_texts: Sequence[str], texts: Mapping[str, str], rules: MiningRules) -> bool:
    """Whether a document says the same as a positive: an unjudged copy is a positive that nobody labelled."""
    text = texts.get(doc_id)
    if text is None:
        raise ValueError(
            f"document {doc_id!r} is ranked but has no text: the index and the corpus differ, build the index again"
        )
    return any(is_near_identical(text, positive, rules) for positive in positive_texts)


def is_near_identical(text: str, other: str, rules: MiningRules) -> bool:
    """Whether two texts are equal, or their token shingles have a Jaccard similarity of at least the rule's."""
    if text == other:
        return True
    first, second = shingles(text, rules.shingle_size), shingles(other, rules.shingle_size)
    smaller, larger = sorted((len(first), len(second)))
    # The intersection has at most `smaller` elements and the union at least `larger`: most pairs end here, uncompared.
    if smaller == 0 or smaller < rules.near_identical_jaccard * larger:
        return False
    num_common = len(first & second)
    return num_common >= rules.near_identical_jaccard * (len(first) + len(second) - num_common)


@lru_cache(maxsize=8192)  # about 100 MB at 200 words a text; SciFact's 5,183 documents fit
def shingles(text: str, size: int) -> frozenset[int]:
    """Hashes of every run of `size` lower-cased words; of all words together where there are fewer; empty with none.

    Remembered per text, because the same documents are hard for many queries. The hashes have 64 bits, so shingles of two texts
    collide with a chance below 1e-14. They mean nothing outside this process.
    """
    found = words(text.lower())  # one word for NumPy and numpy: case tells no copies apart
    if not found:
        return frozenset()
    last = max(1, len(found) - size + 1)
    return frozenset(hash(tuple(found[start : start + size])) for start in range(last))
