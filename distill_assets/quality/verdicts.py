"""Judgements on data, scores and models: numbers in, a verdict out. The asset checks show what is found here.

A check of an empty batch passes, and its message says that there was nothing to check.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from distill_assets.evaluation.comparison import TeacherComparison
from distill_assets.evaluation.splits import gives_way
from distill_assets.quality.identity import is_same_document
from distill_assets.quality.reading import Reading
from distill_assets.records import MIN_QUERIES, SPLITS, Query

MAX_SAMPLES = 8  # rows of a sample table: enough to see the pattern, short enough to read
MAX_DUPLICATE_SHARE = 0.01  # any large collection has some copies; from here on they move metrics and negatives
MAX_EMPTY_SHARE = 0.01  # the readers refuse blank texts; this is for texts of signs alone
MIN_JUDGED_SHARE = 0.5
MIN_ANSWERED_SHARE, MIN_GENERATED = 0.2, 60  # 60: with the hash split 48 train, and 6 each are left for dev and test
MIN_POSITIVES_FOUND, MIN_AREA_UNDER_CURVE = 0.5, 0.5  # a collection that training harmed: 0.32 and 0.16 to 0.33
# A teacher of random weights puts half of the negatives above the positive; good ones found 70 % of the unlabelled top passages
# of MS MARCO to be relevant (Qu et al. 2021, RocketQA), so a high share may also be the labels' fault: a warning, with the pairs.
MAX_NEGATIVES_ABOVE = 0.3
MAX_UNDECIDED_QUERIES = 0.5
# Unit vectors: collapsed ones have a mean cosine of 1. Encoders trained at a low temperature stay near 0.8 and rank well.
# Documents that all sound alike start above that: then a training may not halve the spread that they had.
MAX_MEAN_COSINE, MAX_MEAN_COSINE_EVER = 0.98, 0.9999
_SAME_LOGIT = 1e-6
_NEEDED_FOR = {
    "train": "nothing can be trained",
    "dev": "no step and no champion can be chosen",
    "test": "the leaderboard shows dev",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found.

    Attributes:
        passed: whether all is well.
        found: one sentence with the numbers behind it.
        figures: the numbers by name, for plots over time.
        samples: at most `MAX_SAMPLES` rows that show what is meant, all with the same keys.
    """

    passed: bool
    found: str
    figures: Mapping[str, float | int] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A train query with one of its documents; `label` above 0 is a positive, `logit` is the teacher's, raw."""

    query_id: str
    query: str
    doc_id: str
    document: str
    label: int
    logit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPositives:
    """A train query's judged documents: how many search finds, and their cosines with the query beside the hard negatives'."""

    query: str
    num_found: int
    positives: Sequence[float]
    negatives: Sequence[float]


def judge_empty_documents(num_documents: int, num_empty: int, empty: Sequence[tuple[str, str]]) -> Verdict:
    """Documents without a single letter or digit: their vectors mean nothing. `empty` are id and content of some of them."""
    share = _share(num_empty, num_documents)
    return Verdict(
        share <= MAX_EMPTY_SHARE,
        f"{num_empty:,} of {num_documents:,} documents hold no letter and no digit ({share:.1%}); allowed {MAX_EMPTY_SHARE:.0%}",
        {"num_empty": num_empty, "share_empty": share},
        _sample({"doc_id": doc_id, "content": content[:80]} for doc_id, content in empty),
    )


def judge_duplicates(num_documents: int, num_copies: int, copies: Sequence[tuple[str, str, str]]) -> Verdict:
    """Documents of a batch that say exactly what another document says.

    `copies` are (id, batch of the other one or empty where it is this batch, id of the other one) of some of them.
    """
    share = _share(num_copies, num_documents)
    return Verdict(
        share <= MAX_DUPLICATE_SHARE,
        f"{num_copies:,} of {num_documents:,} documents have the content of another one ({share:.1%}); "
        f"warned above {MAX_DUPLICATE_SHARE:.0%}",
        {"num_duplicates": num_copies, "share_duplicates": share},
        _sample(
            {"doc_id": doc_id, "same as": other, "of batch": batch or "this one"} for doc_id, batch, other in copies
        ),
    )


def judge_files(unread: Mapping[str, str], num_blank: int) -> Verdict:
    """Whether everything was read that a batch's folder holds; `unread` says why a file was not."""
    return Verdict(
        not unread and not num_blank,
        f"files that look like data and were not read: {len(unread)}; blank texts that were dropped: {num_blank}",
        {"num_unread_files": len(unread), "num_blank": num_blank},
        _sample({"file": name, "reason": reason} for name, reason in unread.items()),
    )


def judge_reading(reading: Reading) -> Verdict:
    """Whether the student reads nearly all of the documents' text: an answer in what it does not read is not found."""
    limit = "no limit" if reading.max_tokens is None else f"{reading.max_tokens:,} tokens"
    return Verdict(
        reading.is_read_whole,
        f"{reading.share_longer:.0%} of the documents are longer than the student reads ({limit}), {reading.share_unread:.0%} of the "
        "text is not read",
        {"share_longer": reading.share_longer, "share_unread": reading.share_unread},
    )


def judge_identity(num_documents: int, num_changed: int, changed: Sequence[tuple[str, str, str, str]]) -> Verdict:
    """Whether the ids of a batch stand for the same documents in the other batches.

    `changed` are (doc_id, the batch's text, the other batch, its text) of ids with two texts; of `num_changed` ids, or of a sample of
    these. An edit may be meant. Another document
    under the same id replaces that of the batch which is first by name, and judgements of the replaced one do not count any more.
    """
    other = [row for row in changed if not is_same_document(row[1], row[3])]
    other_ids, batches = {row[0] for row in other}, sorted({row[2] for row in other})
    num_compared = len({row[0] for row in changed})
    num_edited = num_compared - len(other_ids)
    told = f" (in {', '.join(batches[:3])})" if batches else ""
    sampled = (
        f"; {num_compared:,} of {num_changed:,} ids with two texts were compared" if num_compared < num_changed else ""
    )
    return Verdict(
        not other,
        f"{len(other_ids):,} of {num_documents:,} ids stand for another document in another batch{told}, "
        f"{num_edited:,} for an edited text{sampled}",
        {"num_other_documents": len(other_ids), "num_changed": num_changed},
        _sample({"doc_id": d, "here": text[:80], "batch": b, "there": there[:80]} for d, text, b, there in other),
    )


def judge_coverage(split_of: Mapping[str, str], judged: frozenset[str]) -> Verdict:
    """Share of each split's queries (query_id -> split) that have a positive judgement."""
    total, with_judgement = Counter(split_of.values()), Counter(s for q, s in split_of.items() if q in judged)
    shares = {split: _share(with_judgement[split], count) for split, count in sorted(total.items())}
    told = ", ".join(f"{split} {share:.0%}" for split, share in shares.items()) or "there are none"
    unjudged = sorted(query_id for query_id in split_of if query_id not in judged)
    return Verdict(
        all(share >= MIN_JUDGED_SHARE for share in shares.values()),
        f"queries with a positive judgement: {told}; warned below {MIN_JUDGED_SHARE:.0%} of a split",
        {f"share_judged_{split}": share for split, share in shares.items()},
        _sample({"query_id": query_id, "split": split_of[query_id]} for query_id in unjudged),
    )


def judge_splits(split_of: Mapping[str, str], judged: frozenset[str], *, may_teacher_judge: bool = False) -> Verdict:
    """Whether each split has judged queries enough, over all batches: what there is to train on, to choose by, and to compare on.

    `may_teacher_judge`: the teacher takes a split in hand of which people judged nothing.
    """
    counts: dict[str, int] = {split: sum(s == split and q in judged for q, s in split_of.items()) for split in SPLITS}
    told = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    empty = [split for split, count in counts.items() if not count]
    if empty and may_teacher_judge:
        lacks = f"; the teacher judges {', '.join(empty)}, so figures tell how far a student ranks as it does, not who is right"
    else:
        lacks = "".join(f"; without {split} queries {_NEEDED_FOR[split]}" for split in empty)
    return Verdict(
        min(counts.values()) >= MIN_QUERIES,
        f"judged queries: {told}; fewer than {MIN_QUERIES} of a split say little{lacks}",
        {f"num_judged_{split}": count for split, count in counts.items()},
    )


def judge_generated(num_documents: int, num_answered: int, num_queries: int, nothing: str = "") -> Verdict:
    """Whether enough documents have a generated query that finds them.

    Args:
        num_documents: that queries were asked of.
        num_answered: those that have a query left.
        num_queries: that stand.
        nothing: why none was asked for; empty where some were.
    """
    if nothing or not num_documents:
        return Verdict(True, nothing or "the batch has no documents: nothing is made")
    share = _share(num_answered, num_documents)
    return Verdict(
        share >= MIN_ANSWERED_SHARE and num_queries >= MIN_GENERATED,
        f"{num_answered:,} of {num_documents:,} documents have a query that finds them ({share:.0%}), {num_queries:,} queries stand; "
        f"expected {MIN_ANSWERED_SHARE:.0%} and {MIN_GENERATED}",
        {"share_answered": share, "num_queries": num_queries},
    )


def judge_missing_positives(positives: Sequence[tuple[str, str]], known: frozenset[str]) -> Verdict:
    """Positive judgements (query_id, doc_id) of documents that no batch has brought: they count nowhere."""
    missing = sorted(pair for pair in positives if pair[1] not in known)
    share = _share(len(missing), len(positives))
    return Verdict(
        not missing,
        f"{len(missing):,} of {len(positives):,} positive judgements name a document that no batch has brought ({share:.1%})",
        {"num_missing": len(missing), "share_missing": share},
        _sample({"query_id": query_id, "doc_id": doc_id} for query_id, doc_id in missing),
    )


def judge_leakage(batch: Sequence[Query], twins: Mapping[str, Query], *, limit: float) -> Verdict:
    """Whether few queries of each of a batch's splits stand in another of its splits as well.

    Each split is counted by itself: 20 test queries that all stand in train are a wrong split, however many clean queries there
    are beside them. `twins` is what `find_twins` says of the batch, `limit` a share of a split, from 0 to 1.
    """
    own = [(query, twins[query.query_id]) for query in batch if query.query_id in twins]
    total, with_twin = Counter(query.split for query in batch), Counter(query.split for query, _ in own)
    shares = {split: _share(with_twin[split], total[split]) for split in reversed(SPLITS)}
    worst = max(shares, key=lambda split: shares[split])
    num_left_out = sum(gives_way(query, twin) for query, twin in own)
    pairs = {(query, twin) if gives_way(query, twin) else (twin, query) for query, twin in own}
    return Verdict(
        shares[worst] <= limit,
        f"{with_twin[worst]:,} of {total[worst]:,} {worst} queries stand in another split too, equal or nearly so "
        f"({shares[worst]:.1%}); allowed {limit:.1%} (setting max_leaked_queries); "
        f"{num_left_out:,} of the batch's {len(batch):,} queries are left out",
        {"num_left_out": num_left_out, "share_of_batch": shares[worst]},
        _sample(
            {"left out": _told(left_out), "repeats": _told(stays)}
            for left_out, stays in sorted(pairs, key=lambda pair: (pair[0].query_id, pair[1].query_id))
        ),
    )


def judge_positives_found(queries: Sequence[FoundPositives]) -> Verdict:
    """Whether training could learn that documents which look less like the query are right.

    It can where search finds few of the judged documents while every negative is one that search found. Two figures see it coming:

    - the share of a query's judged documents that search finds, averaged over queries;
    - the area under the ROC curve of the untouched similarity, averaged over queries: the chance that a judged document is more
      similar to its query than a hard negative is. Below one half, the less similar document is the right one more often.
    """
    shares = [_share(found.num_found, len(found.positives)) for found in queries]
    areas = [_area_under_curve(f.positives, f.negatives) for f in queries if f.positives and f.negatives]
    share, area = (float(np.mean(values)) if values else 1.0 for values in (shares, areas))
    worst = sorted(zip(shares, queries, strict=True), key=lambda found: (found[0], found[1].query))
    return Verdict(
        share >= MIN_POSITIVES_FOUND and area >= MIN_AREA_UNDER_CURVE,
        f"search finds {share:.0%} of the judged documents of {len(queries):,} train queries (warned below "
        f"{MIN_POSITIVES_FOUND:.0%}); a judged document is more similar to its query than a hard negative in {area:.0%} of the cases "
        f"(warned below {MIN_AREA_UNDER_CURVE:.0%}, where the less similar one would be right)",
        {"num_queries": len(queries), "share_found": share, "area_under_curve": area},
        _sample({"query": f.query[:80], "judged": len(f.positives), "found": f.num_found} for _, f in worst),
    )


def judge_logits(pairs: Sequence[ScoredPair]) -> Verdict:
    """Whether the teacher tells the documents of a query apart: finite logits, and not one number for all of them."""
    logits = np.array([pair.logit for pair in pairs], dtype=np.float64)
    num_broken = int((~np.isfinite(logits)).sum())
    lists = [found for found in _by_query(pairs).values() if len(found) > 1]
    spreads = [max(p.logit for p in found) - min(p.logit for p in found) for found in lists]
    # A NaN is undecided, too.
    flat = [found[0] for found, spread in zip(lists, spreads, strict=True) if not spread > _SAME_LOGIT]
    share, finite = _share(len(flat), len(lists)), [spread for spread in spreads if math.isfinite(spread)]
    return Verdict(
        num_broken == 0 and share <= MAX_UNDECIDED_QUERIES,
        f"{num_broken:,} of {len(pairs):,} logits are not finite; all documents of a query have the same logit in "
        f"{len(flat):,} of {len(lists):,} queries ({share:.1%}, allowed {MAX_UNDECIDED_QUERIES:.0%})",
        {
            "num_not_finite": num_broken,
            "share_undecided": share,
            "mean_spread": math.fsum(finite) / len(finite) if finite else 0.0,
        },
        _sample({"query": pair.query[:80], "logit of all": pair.logit} for pair in flat),
    )


def judge_negatives_above(pairs: Sequence[ScoredPair]) -> Verdict:
    """Share of the hard negatives that the teacher ranks above the query's best positive, with those it is surest of."""
    above, num_negatives = [], 0
    for found in _by_query(pairs).values():
        best = max((pair for pair in found if pair.label > 0), key=lambda pair: pair.logit, default=None)
        if best is not None:
            negatives = [pair for pair in found if pair.label <= 0]
            num_negatives += len(negatives)
            above += [(pair.logit - best.logit, pair, best) for pair in negatives if pair.logit > best.logit]
    above.sort(key=lambda found: (-found[0], found[1].query_id, found[1].doc_id))
    share = _share(len(above), num_negatives)
    return Verdict(
        share <= MAX_NEGATIVES_ABOVE,
        f"the teacher ranks {len(above):,} of {num_negatives:,} hard negatives above the positive ({share:.1%}); "
        f"warned above {MAX_NEGATIVES_ABOVE:.0%}",
        {"num_above": len(above), "share_above": share},
        _sample(
            {"query": p.query[:80], "positive": best.document[:80], "hard negative": p.document[:80], "by": margin}
            for margin, p, best in above
        ),
    )


def judge_teacher(compared: TeacherComparison | None) -> Verdict:
    """Whether the teacher is significantly ahead of every system that ranks the same dev candidates."""
    if compared is None:
        return Verdict(
            False,
            "not measured: no dev query that people judged has mined negatives with a score, so nothing says what it is worth",
        )
    means = {f"dev_ndcg_at_10_{system}": value for system, value in compared.mean.items()}
    return Verdict(compared.is_fit, compared.sentence, {"num_dev_queries": compared.num_queries, **means})


def judge_losses(losses: Sequence[tuple[int, float]]) -> Verdict:
    """Whether a training left a loss curve ((step, loss)) and every point of it is a number."""
    if not losses:
        return Verdict(False, "the training left no loss curve: nothing says that anything was learned")
    broken = [step for step, loss in losses if not math.isfinite(loss)]
    if broken:
        told = f"{len(broken)} of {len(losses)} losses are not finite, first at step {broken[0]}"
        return Verdict(False, told, {"num_not_finite": len(broken)})
    (start, first), (end, last) = losses[0], losses[-1]
    return Verdict(
        True,
        f"loss {first:.4g} at step {start}, {last:.4g} at step {end}, all {len(losses)} finite",
        {"num_not_finite": 0, "first_loss": first, "last_loss": last},
    )


def judge_spread(vectors: npt.NDArray[np.floating], untouched: npt.NDArray[np.floating]) -> Verdict:
    """Whether embeddings have collapsed: the mean cosine of every two of a sample of documents.

    Args:
        vectors: (n, dim) unit vectors of the student.
        untouched: the same documents in the model it was trained from, to compare with.
    """
    if len(vectors) < 2:
        return Verdict(True, f"{len(vectors)} documents: no two to compare")
    cosine, before = mean_pairwise_cosine(vectors), mean_pairwise_cosine(untouched)
    return Verdict(
        cosine <= MAX_MEAN_COSINE or (cosine <= MAX_MEAN_COSINE_EVER and 1 - cosine >= (1 - before) / 2),
        f"mean cosine of any two of {len(vectors):,} documents {cosine:.4f}, before training {before:.4f}; "
        f"collapsed above {MAX_MEAN_COSINE:g}, or where documents sound alike, when training halves their spread",
        {"mean_cosine": cosine, "mean_cosine_untouched": before},
    )


def mean_pairwise_cosine(vectors: npt.NDArray[np.floating]) -> float:
    """Mean cosine over all pairs of two different rows of (n, dim) unit vectors, n at least 2; in O(n dim).

    The squared length of the sum of n unit vectors is n plus the cosines of all ordered pairs. NaN where a vector is.
    """
    total = np.asarray(vectors, dtype=np.float64).sum(axis=0)
    count = len(vectors)
    return float((total @ total - count) / (count * (count - 1)))


def judge_gate(verdict: str, reason: str, *, is_champion: bool) -> Verdict:
    """The gate's decision. A candidate that is kept out is a warning; one that is the champion already is none."""
    return Verdict(verdict == "promoted" or is_champion, f"{verdict}: {reason}")


def _sample(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return list(islice(rows, MAX_SAMPLES))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _told(query: Query) -> str:
    return f"{query.split} {query.query_id}: {query.text[:80]}"


def _area_under_curve(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Share of (positive, negative) pairs in which the positive has the higher value; ties count half (Mann and Whitney 1947)."""
    above = np.subtract.outer(np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64))
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def _by_query(pairs: Sequence[ScoredPair]) -> dict[str, list[ScoredPair]]:
    found: dict[str, list[ScoredPair]] = {}
    for pair in pairs:
        found.setdefault(pair.query_id, []).append(pair)
    return found
