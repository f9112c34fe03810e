"""What a query costs: latency of each system, encoding speed and size. What is computed while timing is not stored."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from distill_assets.assets.inputs import Inputs
from distill_assets.models.catalog import weights_mb
from distill_assets.progress import Progress
from distill_assets.records import BM25, TEACHER, Query
from distill_assets.retrieval.rankings import Run

# What is timed: enough for a p95 of students; one rerank of 100 by the teacher takes as long as a hundred student queries.
TIMED_QUERIES, TIMED_BY_TEACHER, TIMED_DOCUMENTS = 40, 6, 256
QUICK_QUERIES = 40  # with fewer test queries the run is a quick one, and timing must not be most of it
Speed = dict[str, float]


def measure_speeds(
    inputs: Inputs, queries: Sequence[Query], reranked: Run, students: Mapping[str, Path]
) -> dict[str, Speed]:
    """Per system: query latency in ms (p50, p95), documents encoded per second, size in MB. One query at a time."""
    corpus = inputs.documents
    share = 1 if len(queries) >= QUICK_QUERIES else 3
    timed, timed_by_teacher = queries[:TIMED_QUERIES], queries[: TIMED_BY_TEACHER // share]
    sample = corpus.contents[:: max(1, len(corpus.contents) * share // TIMED_DOCUMENTS)][: TIMED_DOCUMENTS // share]
    index = inputs.retrieval.index()  # at hand, as a server would hold it
    speeds = {BM25: _latency(timed, lambda query: index.search([query.text], 10))}
    speeds |= {name: _student_speed(inputs, path, timed, sample) for name, path in students.items()}
    return speeds | {TEACHER: _teacher_speed(inputs, timed_by_teacher, reranked)}


def _latency(queries: Sequence[Query], search: Callable[[Query], object], *, warm_up: bool = True) -> Speed:
    if warm_up:
        search(queries[0])  # the first call pays for set-up that later queries do not
    times, progress = [], Progress("timing", len(queries), "queries")
    for query in queries:
        started = time.perf_counter()
        search(query)
        times.append(1000 * (time.perf_counter() - started))
        progress.advance()
    return {"query_ms_p50": float(np.percentile(times, 50)), "query_ms_p95": float(np.percentile(times, 95))}


def _student_speed(inputs: Inputs, path: Path, queries: Sequence[Query], sample: Sequence[str]) -> Speed:
    from distill_assets.models.encoders import encode_texts
    from distill_assets.retrieval.dense import search_dense

    corpus, project = inputs.documents, inputs.project
    documents = project.vectors.embed(path, corpus.contents, "document")[:]
    model = project.models.load_student(path, project.models.student_precision)
    speed = _latency(
        queries, lambda q: search_dense(encode_texts(model, [q.text], "query"), documents, corpus.doc_ids, k=10)
    )
    started = time.perf_counter()
    encode_texts(model, sample, "document", batch_size=project.settings.batch_size)
    speed["documents_per_s"] = len(sample) / (time.perf_counter() - started)
    return speed | {"model_mb": weights_mb(path)}


def _teacher_speed(inputs: Inputs, queries: Sequence[Query], reranked: Run) -> Speed:
    if inputs.teacher.is_imported:
        return {}  # nobody knows what a query would cost
    scorer, content_of = inputs.logits_handle.open(inputs.teacher_path), inputs.documents.content_of
    pairs = {q.query_id: [(q.text, content_of[d]) for d, _ in reranked[q.query_id]] for q in queries}
    scorer([pair for found in pairs.values() for pair in found[:1]])  # set-up, which need not take a whole rerank
    speed = _latency(queries, lambda q: scorer(pairs[q.query_id]), warm_up=False)
    size = weights_mb(inputs.teacher_path)  # none here where all of it is behind servers
    return speed | ({"model_mb": size} if size else {})
