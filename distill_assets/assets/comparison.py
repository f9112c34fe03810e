"""Systems on the same candidates: the teacher's pool and the students' agreement with it on test, and the teacher's own test on dev.

The candidates are what BM25 and the untouched student find. What they do not find counts as missed for every system.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from distill_assets.assets.inputs import Inputs
from distill_assets.errors import TrainingError
from distill_assets.evaluation.agreement import kendall_tau_b, overlap_at_k
from distill_assets.evaluation.comparison import TeacherComparison, compare_teacher
from distill_assets.evaluation.metrics import DevList, QueryMetrics, rerank_metrics, values_of
from distill_assets.handles.logits import Teacher
from distill_assets.records import BM25, TEACHER, UNTOUCHED_STUDENT, Query
from distill_assets.retrieval.mining import pool_candidates
from distill_assets.retrieval.passages import ANSWERS_PER_DOCUMENT, documents_of
from distill_assets.retrieval.rankings import Run, place_unscored_last, rank
from distill_assets.storage.collection import Qrels
from distill_assets.storage.tables import schema_of
from distill_assets.training.lists import build_dev_lists, choose_queries, pairs_of, per_list

# What dev lists are made from; an asset that reads them declares these.
DEV_INPUTS = ("training_queries", "training_judgements", "candidates")
_BM25_DEPTH = 1000  # a candidate further down counts as not found, which it would be in any search


@dataclass(frozen=True)
class ScoredPool:
    """What the teacher reranks and its raw logits: per query the documents that BM25 and the untouched student find.

    Of a document in passages each of the two brings the passage that it finds best; `parent_of` names the document of a passage.

    `logits` runs parallel to `pairs`, the (query, document) texts of all queries one after the other. NaN: imported scores lack it.
    """

    doc_ids: Mapping[str, Sequence[str]]
    pairs: Sequence[tuple[str, str]]
    logits: Sequence[float]
    num_scored: int
    parent_of: Mapping[str, str] = field(default_factory=dict)

    def per_query(self, scores: Sequence[float] | np.ndarray) -> dict[str, np.ndarray]:
        """Scores of `pairs` by query_id, float64."""
        bounds = np.cumsum([len(ids) for ids in self.doc_ids.values()])[:-1]
        return dict(zip(self.doc_ids, np.split(np.asarray(scores, dtype=np.float64), bounds), strict=True))

    @cached_property
    def _logits_of(self) -> dict[str, np.ndarray]:
        return self.per_query(self.logits)

    def reranked(self, depth: int) -> Run:
        """The teacher's ranking of passages; those without a score come last."""
        return {q: rank(self.doc_ids[q], place_unscored_last(scores), depth) for q, scores in self._logits_of.items()}

    def reranked_documents(self, depth: int) -> Run:
        """The teacher's ranking of documents, each by its best passage."""
        return {q: documents_of(found, self.parent_of) for q, found in self.reranked(depth).items()}

    @property
    def share_scored(self) -> float:
        """Share of the pairs that have a logit: 1 but for imported scores."""
        return 1.0 - float(np.isnan(self.logits).mean())

    def agreement(self, query_id: str, cosines: np.ndarray) -> dict[str, float | None]:
        """How far cosines order a query's scored documents as the teacher does; empty where none is scored."""
        logits = self._logits_of[query_id]
        scored = np.flatnonzero(~np.isnan(logits))
        if not len(scored):
            return {}
        doc_ids = [self.doc_ids[query_id][i] for i in scored.tolist()]
        logits, cosines = logits[scored], cosines[scored]
        return {
            "kendall_tau": kendall_tau_b(logits, cosines),
            "overlap_at_10": overlap_at_k(doc_ids, logits, cosines),
        }

    def recall(self, qrels: Qrels) -> float:
        """Mean share of a query's relevant documents that are in its pool: what reranking cannot exceed."""
        pooled = {q: {self.parent_of.get(d, d) for d in doc_ids} for q, doc_ids in self.doc_ids.items()}
        shares = [len(pooled[q] & set(judged)) / len(judged) for q, judged in qrels.items()]
        return float(np.mean(shares)) if shares else 0.0


def score_pool(inputs: Inputs, queries: Sequence[Query], bm25: Run, untouched: Run) -> ScoredPool:
    """Have the teacher score the pool of the two first-stage runs; pairs that it has scored before are looked up.

    The pool holds nothing that a student of a recipe found: what the teacher is worth does not depend on which recipes there are.
    """
    content_of, depth = inputs.documents.content_of, inputs.settings.pool_depth
    doc_ids = {}
    if inputs.parent_of:  # the runs name documents; the teacher reads passages
        bm25 = inputs.retrieval.bm25(queries, depth)
        untouched = inputs.retrieval.dense(inputs.student_path, queries, depth)
    for query in queries:
        lexical, similar = ([doc_id for doc_id, _ in run[query.query_id]] for run in (bm25, untouched))
        doc_ids[query.query_id] = [found.doc_id for found in pool_candidates(lexical, similar, depth)]
    pairs = [(q.text, content_of[d]) for q in queries for d in doc_ids[q.query_id]]
    logits, num_scored = inputs.logits_handle.score_texts(inputs.teacher, pairs)
    return ScoredPool(doc_ids, pairs, logits, num_scored, inputs.parent_of)


def result_rows(
    inputs: Inputs,
    split: str,
    pool: ScoredPool,
    encoders: Mapping[str, Path],
    per_system: Mapping[str, Mapping[str, QueryMetrics]],
    on_dev: Mapping[str, Mapping[str, QueryMetrics]],
) -> pa.Table:
    """Rows of `query_results`: nDCG@10, and for each bi-encoder its agreement with the teacher on the pool. Dev: nDCG@10 alone.

    The bi-encoders' vectors are in their store by now: nothing is encoded again. Agreement is on the documents that the teacher scored.
    """
    agreement: dict[tuple[str, str], dict[str, float | None]] = {}
    for system, path in encoders.items():
        for query_id, cosines in pool.per_query(inputs.project.vectors.cosines(path, pool.pairs)).items():
            agreement[system, query_id] = pool.agreement(query_id, cosines)
    rows = [
        {"split": split, "system": system, "query_id": query_id, "ndcg_at_10": found.ndcg_at_10}
        | agreement.get((system, query_id), {})
        for system, metrics in per_system.items()
        for query_id, found in metrics.items()
    ]
    rows += [
        {"split": "dev", "system": system, "query_id": query_id, "ndcg_at_10": found.ndcg_at_10}
        for system, metrics in on_dev.items()
        for query_id, found in metrics.items()
    ]
    return pa.Table.from_pylist(rows, schema=schema_of("query_results"))


def dev_lists(inputs: Inputs) -> list[DevList]:
    """At most `step_queries` judged dev queries with what search finds for them; none where no dev query has candidates."""
    dev = [q for q in inputs.training("dev") if inputs.candidates.get(q.query_id)]
    return build_dev_lists(choose_queries(dev, inputs.training_judgements, inputs.settings.step_queries), inputs.labels)


def step_lists(inputs: Inputs) -> list[DevList]:
    """The dev queries that judge training steps, with their candidates. Raises `TrainingError` when there is none."""
    lists = dev_lists(inputs)
    if not lists:
        raise TrainingError(
            f"no dev query with candidates among {len(inputs.training('dev'))} judged dev queries: a step can only be chosen "
            "on dev; add dev queries (qrels/dev.tsv), more queries to split, or more documents where queries are made from them"
        )
    return lists


def teacher_rows(inputs: Inputs, students: Mapping[str, Path]) -> tuple[pa.Table, int]:
    """Rows of `teacher_fitness`: nDCG@10 of the teacher and of every student on the dev candidates; and forward passes.

    The queries also choose the students' training steps, so the students had an advantage on them. A teacher that still wins is
    really better. Empty where there are no students: the teacher is not measured by its own judgements.
    """
    if not students:
        return pa.Table.from_pylist([], schema=schema_of("teacher_fitness")), 0
    ndcg, num_scored = _ndcg_on_dev(inputs, step_lists(inputs), inputs.teacher, students)
    rows = [
        {"system": system, "query_id": query_id, "ndcg_at_10": value}
        for system, values in ndcg.items()
        for query_id, value in values.items()
    ]
    return pa.Table.from_pylist(rows, schema=schema_of("teacher_fitness")), num_scored


def compare_new_teacher(inputs: Inputs, path: Path) -> TeacherComparison | None:
    """A teacher against BM25 and the untouched student, before anything is trained; None where there is no dev query.

    The pairs go through the store, so the leaderboard does not pay for them again.
    """
    lists = dev_lists(inputs)
    if not lists:
        return None
    students = {UNTOUCHED_STUDENT: inputs.project.models.student_path}
    ndcg, _ = _ndcg_on_dev(inputs, lists, inputs.logits_handle.teacher(path), students)
    bm25 = _rerank(lists, _bm25_scores(inputs, lists))
    return compare_teacher(ndcg | {BM25: {query_id: bm25[query_id] for query_id in ndcg.get(TEACHER, ())}})


def _ndcg_on_dev(
    inputs: Inputs, lists: Sequence[DevList], teacher: Teacher, students: Mapping[str, Path]
) -> tuple[dict[str, dict[str, float]], int]:
    """System -> query_id -> nDCG@10 of ranking the candidates of `lists`; and the teacher's forward passes.

    Candidates that imported scores lack come last. A query of which they have none is left out: it says nothing of the teacher.
    """
    logits, num_scored = inputs.logits_handle.score_texts(teacher, pairs_of(lists))
    scored = [
        (each, place_unscored_last(found).tolist())
        for each, found in zip(lists, per_list(lists, logits), strict=True)
        if not np.isnan(found).all()
    ]
    if not scored:
        return {}, num_scored
    ranked, scores = [each for each, _ in scored], [score for _, found in scored for score in found]
    ndcg = {TEACHER: _rerank(ranked, scores)}
    for name, path in students.items():
        ndcg[name] = _rerank(ranked, inputs.project.vectors.cosines(path, pairs_of(ranked)))
    return ndcg, num_scored


def _rerank(lists: Sequence[DevList], scores: Sequence[float] | np.ndarray) -> dict[str, float]:
    return values_of(rerank_metrics(lists, per_list(lists, scores)), "ndcg_at_10")


def _bm25_scores(inputs: Inputs, lists: Sequence[DevList]) -> list[float]:
    """One score for each pair of `pairs_of(lists)`."""
    asked = [Query(each.query_id, each.query, "dev") for each in lists]
    found = inputs.retrieval.bm25(asked, _BM25_DEPTH, ANSWERS_PER_DOCUMENT)
    content_of, scores = inputs.documents.content_of, list[float]()
    for each in lists:
        score_of = {content_of[doc_id]: score for doc_id, score in found[each.query_id]}
        scores += [score_of.get(text, 0.0) for text in each.documents]
    return scores
