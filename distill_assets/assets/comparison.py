"""What the leaderboard's means are made of, per query: rankings, agreement with the teacher, and the teacher's own test on dev."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distill_assets.assets.reading import Qrels, read_corpus, read_labels, read_step_groups
from distill_assets.assets.scoring import score_texts
from distill_assets.core.agreement import kendall_tau_b, overlap_at_k
from distill_assets.core.groups import DevGroup
from distill_assets.core.metrics import QueryMetrics, evaluate_run
from distill_assets.core.recipes import BM25, TEACHER, UNTOUCHED_STUDENT
from distill_assets.core.records import Query
from distill_assets.core.retrieval import Run
from distill_assets.resources import Project

_TOP = 3  # documents of each ranking that the report shows


def write_query_results(
    project: Project,
    context: Any,
    queries: Sequence[Query],
    qrels: Qrels,
    runs: Mapping[str, Run],
    per_query: Mapping[str, Mapping[str, QueryMetrics]],
) -> None:
    """Fill `query_results`: nDCG@10, what was found, and for each student its agreement with the teacher on the pool.

    The teacher's logits and the students' vectors are in their stores by now: nothing is scored or encoded again.
    """
    agreement = _agreement(project, context, queries, runs)
    rows = [
        {
            "split": "test",
            "system": system,
            "query_id": query_id,
            "ndcg_at_10": found.ndcg_at_10,
            "relevant_rank": _relevant_rank(runs[system][query_id], qrels[query_id]),
            "top_doc_ids": json.dumps([doc_id for doc_id, _ in runs[system][query_id][:_TOP]]),
            "kendall_tau": agreement.get((system, query_id), (None, None))[0],
            "overlap_at_10": agreement.get((system, query_id), (None, None))[1],
        }
        for system, metrics in per_query.items()
        for query_id, found in metrics.items()
    ]
    project.warehouse.replace_slice("query_results", pa.Table.from_pylist(rows, schema=_RESULT_SCHEMA))


def write_fitness(project: Project, context: Any, recipes: Sequence[str]) -> int:
    """Fill `teacher_fitness`: nDCG@10 of the teacher and of every student reranking the same dev candidates.

    Returns how many pairs needed a teacher's forward pass.

    On the `step_queries` dev queries that also choose the students' training steps, which favours the students: a teacher that is
    called fit is so all the more.
    """
    groups = read_step_groups(project, read_labels(project))
    pairs = [(group.query, document) for group in groups for document in group.documents]
    logits, num_scored = score_texts(project, context, pairs)
    scores: dict[str, Sequence[float]] = {TEACHER: logits}
    scores |= {name: _cosines(project, _checkpoint(project, name), pairs) for name in recipes}
    rows = [
        {"system": system, "query_id": query_id, "ndcg_at_10": found.ndcg_at_10}
        for system, values in scores.items()
        for query_id, found in _rerank(groups, values).items()
    ]
    project.warehouse.replace_slice("teacher_fitness", pa.Table.from_pylist(rows, schema=_FITNESS_SCHEMA))
    return num_scored


def _agreement(
    project: Project, context: Any, queries: Sequence[Query], runs: Mapping[str, Run]
) -> dict[tuple[str, str], tuple[float | None, float]]:
    """(system, query_id) -> (Kendall's tau-b, overlap@10) of each student with the teacher, on the query's whole pool."""
    content_of, depth = read_corpus(project).content_of, project.settings.pool_depth
    first_stage = [run for system, run in runs.items() if system != TEACHER]
    pools = {q.query_id: sorted({d for run in first_stage for d, _ in run[q.query_id][:depth]}) for q in queries}
    pairs = [(q.text, content_of[d]) for q in queries for d in pools[q.query_id]]
    bounds = np.cumsum([len(pools[q.query_id]) for q in queries])[:-1]
    logits = np.split(np.asarray(score_texts(project, context, pairs)[0]), bounds)
    found = {}
    for system in runs:
        if system in (BM25, TEACHER):  # BM25 scores only what shares a word
            continue
        path = project.student_path if system == UNTOUCHED_STUDENT else _checkpoint(project, system)
        cosines = np.split(_cosines(project, path, pairs), bounds)
        for query, teacher, student in zip(queries, logits, cosines, strict=True):
            overlap = overlap_at_k(pools[query.query_id], teacher, student)
            found[system, query.query_id] = (kendall_tau_b(teacher, student), overlap)
    return found


def _cosines(project: Project, path: Path, pairs: Sequence[tuple[str, str]]) -> Any:
    """Cosine of each (query, document) by the bi-encoder at `path`, (len(pairs),); each text is looked up once."""
    query_row = {text: i for i, text in enumerate(dict.fromkeys(query for query, _ in pairs))}
    document_row = {text: i for i, text in enumerate(dict.fromkeys(document for _, document in pairs))}
    queries, _ = project.embed(path, list(query_row), "query")
    documents, _ = project.embed(path, list(document_row), "document")
    left = queries[[query_row[query] for query, _ in pairs]]
    return (left * documents[[document_row[document] for _, document in pairs]]).sum(axis=1)


def _rerank(groups: Sequence[DevGroup], scores: Sequence[float]) -> dict[str, QueryMetrics]:
    run, qrels, start = {}, {}, 0
    for group in groups:
        ids = [f"{i:06d}" for i in range(len(group.documents))]
        values = scores[start : start + len(ids)]
        run[group.query_id] = [(key, float(value)) for key, value in zip(ids, values, strict=True)]
        qrels[group.query_id] = dict(zip(ids, group.relevances, strict=True))
        start += len(ids)
    return evaluate_run(run, qrels)


def _relevant_rank(ranking: Sequence[tuple[str, float]], judged: Mapping[str, int]) -> int | None:
    return next((place for place, (doc_id, _) in enumerate(ranking, start=1) if judged.get(doc_id, 0) > 0), None)


def _checkpoint(project: Project, name: str) -> Path:
    return Path(project.warehouse.read("checkpoints", slice_keys=[name], columns=["path"]).column("path")[0].as_py())


_RESULT_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("system", pa.string()),
        ("query_id", pa.string()),
        ("ndcg_at_10", pa.float64()),
        ("relevant_rank", pa.int32()),
        ("top_doc_ids", pa.string()),
        ("kendall_tau", pa.float64()),
        ("overlap_at_10", pa.float64()),
    ]
)
_FITNESS_SCHEMA = pa.schema([("system", pa.string()), ("query_id", pa.string()), ("ndcg_at_10", pa.float64())])
