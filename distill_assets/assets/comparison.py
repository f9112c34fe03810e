"""What the leaderboard's means are made of, per query: rankings, agreement with the teacher, and the teacher's own test on dev."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distill_assets.assets.fitness import ndcg_on_dev, step_lists
from distill_assets.assets.inputs import Inputs
from distill_assets.evaluation.agreement import kendall_tau_b, overlap_at_k
from distill_assets.evaluation.metrics import QueryMetrics
from distill_assets.records import TEACHER, UNTOUCHED_STUDENT, Query
from distill_assets.retrieval.mining import pool_candidates
from distill_assets.retrieval.rankings import Run, rank
from distill_assets.storage.collection import Qrels
from distill_assets.training.lists import pairs_of


@dataclass(frozen=True)
class ScoredPool:
    """What the teacher reranks and what it says of it: per query the documents that BM25 and the untouched student find.

    `logits` runs parallel to `pairs`, the (query, document) texts of all queries one after the other.
    """

    queries: Sequence[Query]
    doc_ids: Mapping[str, Sequence[str]]
    pairs: Sequence[tuple[str, str]]
    logits: Sequence[float]
    num_scored: int

    def per_query(self, scores: Sequence[float] | np.ndarray) -> list[np.ndarray]:
        """Scores of `pairs` as one array per query, float64."""
        bounds = np.cumsum([len(self.doc_ids[q.query_id]) for q in self.queries])[:-1]
        return np.split(np.asarray(scores, dtype=np.float64), bounds)

    def reranked(self, depth: int) -> Run:
        """The teacher's ranking."""
        ids = [q.query_id for q in self.queries]
        return {
            i: rank(self.doc_ids[i], scores, depth) for i, scores in zip(ids, self.per_query(self.logits), strict=True)
        }

    def recall(self, qrels: Qrels) -> float:
        """Mean share of a query's relevant documents that are in its pool: what reranking cannot exceed."""
        shares = [len(set(self.doc_ids[q]) & set(judged)) / len(judged) for q, judged in qrels.items()]
        return float(np.mean(shares)) if shares else 0.0


def score_pool(inputs: Inputs, queries: Sequence[Query], bm25: Run, untouched: Run) -> ScoredPool:
    """Have the teacher score the pool of the two first-stage runs; pairs that it has scored before are looked up.

    The pool holds nothing that a student of a recipe found: what the teacher is worth does not depend on which recipes there are.
    """
    content_of, depth = inputs.documents.content_of, inputs.settings.pool_depth
    doc_ids = {}
    for query in queries:
        lexical, similar = ([doc_id for doc_id, _ in run[query.query_id]] for run in (bm25, untouched))
        doc_ids[query.query_id] = [found.doc_id for found in pool_candidates(lexical, similar, depth)]
    pairs = [(q.text, content_of[d]) for q in queries for d in doc_ids[q.query_id]]
    logits, num_scored = inputs.logits_handle.score_texts(inputs.teacher, pairs, inputs.log.info)
    return ScoredPool(queries, doc_ids, pairs, logits, num_scored)


def result_rows(
    inputs: Inputs,
    split: str,
    pool: ScoredPool,
    students: Mapping[str, Path],
    per_query: Mapping[str, Mapping[str, QueryMetrics]],
) -> pa.Table:
    """Rows of `query_results`: nDCG@10, and for each student its agreement with the teacher on the pool.

    The students' vectors are in their store by now: nothing is encoded again.
    """
    agreement = _agreement(inputs, pool, students)
    rows = [
        {
            "split": split,
            "system": system,
            "query_id": query_id,
            "ndcg_at_10": found.ndcg_at_10,
            "kendall_tau": agreement.get((system, query_id), (None, None))[0],
            "overlap_at_10": agreement.get((system, query_id), (None, None))[1],
        }
        for system, metrics in per_query.items()
        for query_id, found in metrics.items()
    ]
    return pa.Table.from_pylist(rows, schema=_RESULT_SCHEMA)


def fitness_rows(inputs: Inputs) -> tuple[pa.Table, int]:
    """Rows of `teacher_fitness`: nDCG@10 of the teacher, of the untouched student and of every other one; and forward passes.

    All rerank the same dev candidates, those of `assets/fitness.py`. The queries also choose the students' training steps, so the
    students had an advantage on them. A teacher that still wins is really better.
    """
    lists = step_lists(inputs)
    pairs = pairs_of(lists)
    logits, num_scored = inputs.logits_handle.score_texts(inputs.teacher, pairs, inputs.log.info)
    scores: dict[str, Any] = {TEACHER: logits}
    students = {UNTOUCHED_STUDENT: inputs.student_path} | {n: inputs.checkpoint_path(n) for n in inputs.recipes}
    scores |= {name: inputs.project.vectors.cosines(path, pairs) for name, path in students.items()}
    rows = [
        {"system": system, "query_id": query_id, "ndcg_at_10": found}
        for system, values in ndcg_on_dev(lists, scores).items()
        for query_id, found in values.items()
    ]
    return pa.Table.from_pylist(rows, schema=_FITNESS_SCHEMA), num_scored


def _agreement(
    inputs: Inputs, pool: ScoredPool, students: Mapping[str, Path]
) -> dict[tuple[str, str], tuple[float | None, float]]:
    """(system, query_id) -> (Kendall's tau-b, overlap@10) of each student with the teacher, on the query's whole pool."""
    found = {}
    for system, path in students.items():
        cosines = pool.per_query(inputs.project.vectors.cosines(path, pool.pairs))
        for query, teacher, student in zip(pool.queries, pool.per_query(pool.logits), cosines, strict=True):
            overlap = overlap_at_k(pool.doc_ids[query.query_id], teacher, student)
            found[system, query.query_id] = (kendall_tau_b(teacher, student), overlap)
    return found


_RESULT_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("system", pa.string()),
        ("query_id", pa.string()),
        ("ndcg_at_10", pa.float64()),
        ("kendall_tau", pa.float64()),
        ("overlap_at_10", pa.float64()),
    ]
)
_FITNESS_SCHEMA = pa.schema([("system", pa.string()), ("query_id", pa.string()), ("ndcg_at_10", pa.float64())])
