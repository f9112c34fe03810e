"""Ranking quality per query, judged by `ir_measures` (trec_eval through pytrec_eval, RR@10 by its MS MARCO scorer).

nDCG@10 has linear gains (the relevance itself) and log2 discounts. The others ask whether a document is relevant: its relevance is at
least `min_relevance`, trec_eval's `-l`. MAP and recall see only what a run holds: a run cut at 100 gives MAP@100.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import ir_measures
import numpy as np
import numpy.typing as npt
from ir_measures import AP, RR, R, nDCG

from distill_assets.errors import NonFiniteError
from distill_assets.retrieval.rankings import rank

Qrels = dict[str, dict[str, int]]
_SEARCH_DEPTH = 10  # nDCG@10 reads no more


@dataclass(frozen=True, slots=True)
class DevList:
    """One dev query with its candidates as search finds them. Training steps and teachers are compared on such lists.

    Attributes:
        relevances: grades of the candidates, 0 where no one judged one.
        missed: relevances of the judged documents that search does not find. They count against every ranking of the candidates.
        missed_documents: their texts, for rankings of all documents (`search_ndcg`).
        parents: ids of the document of each candidate and then of each missed one, where documents were cut: those of one document are
            ranked by the best of them, with the highest grade. Empty where each is a document.
    """

    query_id: str
    query: str
    documents: tuple[str, ...]
    relevances: tuple[int, ...]
    missed: tuple[int, ...] = ()
    missed_documents: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueryMetrics:
    """The four measures, of one query or as a mean over queries; each in [0, 1]."""

    ndcg_at_10: float
    mrr_at_10: float
    recall_at_100: float
    map: float


METRIC_NAMES: tuple[str, ...] = tuple(field.name for field in fields(QueryMetrics))


def evaluate_run(
    run: Mapping[str, Sequence[tuple[str, float]]], qrels: Mapping[str, Mapping[str, int]], min_relevance: int = 1
) -> dict[str, QueryMetrics]:
    """The measures of every query that has a relevant document, in the order of `qrels`.

    A judged query that the run does not hold, or for which it returned nothing, scores 0: means are over the
    judgements, so a system cannot gain by staying silent. Queries without a relevant document say nothing about a
    system and are left out, as are queries of the run that nobody judged.

    Args:
        run: query_id -> [(doc_id, score)]; put in the one total order here, whatever order it comes in.
        qrels: query_id -> doc_id -> relevance.
        min_relevance: a document of a lower relevance counts for nDCG alone.

    Raises:
        NonFiniteError: a score is NaN or infinite.
        ValueError: a query's ranking holds a document twice.
    """
    judged = {
        query_id: dict(judgements)
        for query_id, judgements in qrels.items()
        if any(relevance >= min_relevance for relevance in judgements.values())
    }
    if not judged:
        return {}
    positions = {query_id: _positions(query_id, run[query_id]) for query_id in judged if run.get(query_id)}
    values = {query_id: dict.fromkeys(METRIC_NAMES, 0.0) for query_id in judged}
    relevant = {"rel": min_relevance}
    measures = (nDCG @ 10, RR(**relevant) @ 10, R(**relevant) @ 100, AP(**relevant))
    names = dict(zip(measures, METRIC_NAMES, strict=True))
    for metric in ir_measures.iter_calc(measures, judged, positions):
        values[metric.query_id][names[metric.measure]] = float(metric.value)
    return {query_id: QueryMetrics(**found) for query_id, found in values.items()}


def rerank_ndcg(lists: Sequence[DevList], scores: Sequence[Sequence[float]]) -> float:
    """Mean nDCG@10 of `rerank_metrics`."""
    return mean_of(rerank_metrics(lists, scores), "ndcg_at_10")


def rerank_metrics(lists: Sequence[DevList], scores: Sequence[Sequence[float]]) -> dict[str, QueryMetrics]:
    """Per query, ranking each list's candidates by its scores, in the order of its documents. Missed documents count as missed."""
    run, qrels = {}, {}
    for each, values in zip(lists, scores, strict=True):
        # A document's id is the number of its first candidate.
        first = {parent: i for i, parent in reversed(list(enumerate(each.parents)))}
        ids = [f"{first[each.parents[i]] if each.parents else i:06d}" for i in range(len(each.documents))]
        scored, grades = dict[str, float](), dict[str, int]()
        for key, value, grade in zip(ids, map(float, values), each.relevances, strict=True):
            scored[key] = max(value, scored.get(key, value))
            grades[key] = max(grade, grades.get(key, 0))
        run[each.query_id] = list(scored.items())
        found = {key: grade for key, grade in grades.items() if grade > 0}
        qrels[each.query_id] = found | {f"missed {i}": r for i, r in enumerate(each.missed)}
    return evaluate_run(run, qrels)


def search_ndcg(lists: Sequence[DevList], documents: Sequence[str], scores: npt.NDArray[np.floating]) -> float:
    """Mean nDCG@10 where each list's query searches among all `documents`: whoever finds what others miss gains by it.

    Args:
        lists: queries with what is relevant to them, found or missed.
        documents: distinct texts; those of every list and its missed ones are among them.
        scores: (len(lists), len(documents)), of each query with each document.
    """
    parent_of = {text: parent for each in lists for text, parent in zip(_texts(each), each.parents, strict=False)}
    first: dict[str, int] = {}  # document -> the place of its first text, which is its id
    places = np.array([first.setdefault(parent_of.get(text, text), i) for i, text in enumerate(documents)])
    kept, columns = np.unique(places, return_inverse=True)
    best = np.full((len(kept), len(lists)), -np.inf, dtype=scores.dtype)
    np.maximum.at(best, columns, scores.T)
    ids = [f"{place:06d}" for place in kept.tolist()]
    id_of = {text: f"{place:06d}" for text, place in zip(documents, places.tolist(), strict=True)}
    run = {each.query_id: rank(ids, row, _SEARCH_DEPTH) for each, row in zip(lists, best.T, strict=True)}
    qrels: Qrels = {}
    for each in lists:
        grades = qrels[each.query_id] = {}
        for text, relevance in zip(_texts(each), (*each.relevances, *each.missed), strict=True):
            if relevance > 0:
                grades[id_of[text]] = max(relevance, grades.get(id_of[text], 0))
    return mean_of(evaluate_run(run, qrels), "ndcg_at_10")


def _texts(each: DevList) -> tuple[str, ...]:
    return (*each.documents, *each.missed_documents)


def values_of(per_query: Mapping[str, QueryMetrics], name: str) -> dict[str, float]:
    """One measure by its name (see `METRIC_NAMES`), per query, in the same order."""
    return {query_id: getattr(metrics, name) for query_id, metrics in per_query.items()}


def mean_of(per_query: Mapping[str, QueryMetrics], name: str) -> float:
    """Mean of one measure over the queries.

    Raises:
        ValueError: there is no query.
    """
    if not per_query:
        raise ValueError("no judged query to average over: check that the split has qrels with relevance above 0")
    return float(np.mean(list(values_of(per_query, name).values())))


def _positions(query_id: str, ranking: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The ranking as the judge gets it: places counted from the end in place of scores.

    trec_eval keeps scores as float32 and would reorder by doc_id what differs only beyond that; the MS MARCO scorer
    breaks ties by input order. Places are distinct and exact in float32, so both judge the same ranking.
    """
    ordered = sorted(ranking, key=lambda scored: (scored[1], scored[0]), reverse=True)
    if not np.isfinite([score for _, score in ordered]).all():
        raise NonFiniteError(f"query {query_id!r} has a score that is not finite, so no ranking: score it again")
    positions = {doc_id: float(len(ordered) - place) for place, (doc_id, _) in enumerate(ordered)}
    if len(positions) != len(ordered):
        raise ValueError(
            f"the ranking of query {query_id!r} holds {len(ordered) - len(positions)} documents twice: "
            "a relevant one would count twice; remove the repeats"
        )
    return positions
