"""Judging by people: which texts they are shown, what they answered, and what that can show. Answers lie in `page_judgements`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from distill_assets.errors import EvaluationError
from distill_assets.evaluation.judging import (
    BAD_QUERY,
    DEPTH,
    Answer,
    JudgedByPeople,
    Pool,
    choose_pools,
    describe_power,
    summarise_answers,
)
from distill_assets.evaluation.metrics import evaluate_run, values_of
from distill_assets.handles.collection import PAGE_JUDGEMENTS
from distill_assets.handles.project import Project
from distill_assets.handles.retrieval import Corpus, Retrieval
from distill_assets.records import BM25, MIN_QUERIES, UNTOUCHED_STUDENT, Query, Split, fingerprint, hash_text, normalise
from distill_assets.retrieval.passages import documents_of
from distill_assets.storage.collection import Collection
from distill_assets.storage.tables import schema_of
from distill_assets.storage.warehouse import utc_now
from distill_assets.training.lists import choose_queries

MAX_GRADE = 3
_MOST_QUERIES = 300  # where no setting limits them: more than a person judges in a week
Ranked = Mapping[str, Sequence[str]]  # query_id -> doc_ids, best first


@dataclass(frozen=True)
class Sheet:
    """What people judge of a split, in the order in which they should.

    Attributes:
        queries: text by query_id.
        documents: title, text and content_hash by doc_id.
        rankings: of each system that the pools are made of. The last two are those whose difference is asked about.
    """

    split: Split
    pools: Sequence[Pool]
    queries: Mapping[str, str]
    documents: Mapping[str, Mapping[str, str]] = field(repr=False)
    rankings: Mapping[str, Ranked] = field(repr=False)
    min_relevance: int = 1


def open_sheet(project: Project, split: Split) -> Sheet:
    """The sheet of a split. Stored rankings are read; queries that have none are searched for, which may open the student.

    Raises:
        EvaluationError: the split has no query, or the collection was not read yet.
    """
    there = project.collection.batches() if project.places.warehouse.exists() else []
    if not there:
        raise EvaluationError(
            f"nothing of {project.collection.source.name!r} was read yet: run distill-assets run --until qrels first, then judge"
        )
    with project.collection.snapshot() as collection:
        queries = _choose(project, collection, split)
        if not queries:
            other = "dev" if split == "test" else "test"
            raise EvaluationError(
                f"{project.collection.source.name!r} has no {split} query to judge: bring queries.jsonl, or judge --split {other}"
            )
    rankings = _rankings(project, split, queries)
    pools = choose_pools(list(rankings.values()))
    with project.collection.snapshot() as collection:
        documents = collection.shown(sorted({doc_id for pool in pools for doc_id in pool.doc_ids}))
    texts = {query.query_id: query.text for query in queries}
    return Sheet(split, _of_documents(pools, documents), texts, documents, rankings, project.collection.min_relevance)


def record_answer(
    project: Project, sheet: Sheet, judge: str, query_id: str, doc_id: str, relevance: int | None
) -> None:
    """Write one answer at once. None takes the person's answer back; an empty `doc_id` with -1 calls the query bad.

    Raises:
        EvaluationError: the sheet has no such pair, or no such grade.
        WarehouseBusyError: another process held the warehouse for too long; nothing was written.
    """
    is_on_sheet = any(pool.query_id == query_id and doc_id in ("", *pool.doc_ids) for pool in sheet.pools)
    if not is_on_sheet or relevance not in (None, *(range(MAX_GRADE + 1) if doc_id else (BAD_QUERY,))):
        raise EvaluationError(
            f"cannot write {relevance!r} for query {query_id!r} and document {doc_id!r}: expected a pair of the page and a grade "
            f"from 0 to {MAX_GRADE}; load the page again"
        )
    row = {
        "query_id": query_id,
        "doc_id": doc_id,
        "relevance": relevance,
        "judge": judge,
        "judged_at": utc_now(),
        "query_hash": hash_text(sheet.queries[query_id]),
        "doc_hash": sheet.documents[doc_id]["content_hash"] if doc_id else "",
    }
    rows = pa.Table.from_pylist([row], schema=schema_of(PAGE_JUDGEMENTS))
    # Views have their own versions; this one says only that something was added.
    project.places.warehouse.append(PAGE_JUDGEMENTS, rows, inputs={}, data_version=fingerprint(*row.values()))


def read_answers(project: Project, split: str) -> list[Answer]:
    """Each person's answers that stand, oldest first."""
    with project.collection.snapshot() as collection:
        return [Answer(**row) for row in collection.answers(split)]


def judged_by_people(project: Project, split: str) -> JudgedByPeople:
    """What people judged of a split on the page."""
    answers = read_answers(project, split) if project.places.warehouse.exists() else []
    return summarise_answers(split, answers, project.collection.min_relevance)


def count_left(sheet: Sheet, answers: Sequence[Answer], judge: str) -> tuple[int, int]:
    """Pairs, and queries with such a pair, that a person has not judged; a query that anybody called bad has none."""
    bad = {answer.query_id for answer in answers if not answer.doc_id}
    own = {(answer.query_id, answer.doc_id) for answer in answers if answer.judge == judge}
    left = [sum((p.query_id, d) not in own for d in p.doc_ids) for p in sheet.pools if p.query_id not in bad]
    return sum(left), sum(map(bool, left))


def tell_power(project: Project, sheet: Sheet) -> str:
    """What the judged queries of the sheet can show, in words; while the teacher judges the split, how many are missing."""
    with project.collection.snapshot() as collection:
        is_of_people = collection.judges().get(sheet.split) == "people"
        judged = collection.judgements((sheet.split,), labels="measured")
        answers = collection.answers(sheet.split)
    if not is_of_people:
        found = {row["query_id"] for row in answers if row["relevance"] >= sheet.min_relevance}
        return (
            f"{len(found)} queries have a relevant document. From {MIN_QUERIES} on these judgements decide, and until then the "
            "teacher's."
        )
    judged = {query_id: judged[query_id] for query_id in sheet.queries if query_id in judged}
    values = []
    for ranked in list(sheet.rankings.values())[-2:]:
        run = {query_id: [(d, -float(i)) for i, d in enumerate(ranked[query_id])] for query_id in judged}
        values.append(values_of(evaluate_run(run, judged, sheet.min_relevance), "ndcg_at_10"))
    return describe_power(*values)


def _choose(project: Project, collection: Collection, split: Split) -> list[Query]:
    """The queries that are measured, or would be if they were judged: judged ones first, one for each text."""
    settings = project.settings
    limit = (settings.test_queries if split == "test" else settings.dev_queries) or _MOST_QUERIES
    queries = list({normalise(query.text): query for query in reversed(collection.queries((split,)))}.values())
    judged = choose_queries(queries, collection.judgements((split,)), limit)
    known = {query.query_id for query in judged}
    others = {query.query_id: query for query in queries if query.query_id not in known}
    return [*judged, *choose_queries(queries, others, limit - len(judged))]


def _rankings(project: Project, split: Split, queries: Sequence[Query]) -> dict[str, Ranked]:
    """BM25, the untouched student and the recipe's student that is best on dev: hybrids are fused from these."""
    warehouse = project.places.warehouse
    paths: dict[str, Callable[[], Path] | None] = {BM25: None, UNTOUCHED_STUDENT: lambda: project.models.student_path}
    # Dev chooses, so that what is judged of test does not move the pools.
    dev = """
        SELECT system FROM eval_metrics WHERE split = 'dev' AND system = recipe
        GROUP BY system ORDER BY avg(ndcg_at_10) DESC, system
    """
    trained = [name for name in warehouse.query(dev)["system"].to_pylist() if name in project.settings.all_recipes]
    if trained:
        paths[trained[0]] = lambda: project.places.checkpoint_path(trained[0])
    sql = """
        SELECT system, query_id, list(doc_id ORDER BY rank) AS doc_ids FROM rankings
        WHERE split = $split AND rank <= $depth GROUP BY system, query_id
    """
    found: dict[str, dict[str, Sequence[str]]] = {system: {} for system in paths}
    for row in warehouse.query(sql, {"split": split, "depth": DEPTH}).to_pylist():
        if row["system"] in found:
            found[row["system"]][row["query_id"]] = row["doc_ids"]
    missing = {system: [q for q in queries if q.query_id not in ranked] for system, ranked in found.items()}
    if any(missing.values()):
        retrieval = _retrieval(project, split)
        for system, path in paths.items():
            if not (asked := missing[system]):
                continue
            run = retrieval.bm25(asked, DEPTH) if path is None else retrieval.dense(path(), asked, DEPTH)
            parent_of = retrieval.corpus.parent_of
            found[system] |= {q: [d for d, _ in documents_of(ranking, parent_of)] for q, ranking in run.items()}
    return {system: {q.query_id: ranked[q.query_id] for q in queries} for system, ranked in found.items()}


def _retrieval(project: Project, split: Split) -> Retrieval:
    state = project.collection.state()
    with project.collection.snapshot() as collection:
        version = state.versions("corpus", state.batches)
        corpus = Corpus(*collection.documents(), version, collection.parents())
        return Retrieval(corpus, project.places.lexical, project.vectors, collection.judgements((split,)))


def _of_documents(pools: Sequence[Pool], documents: Mapping[str, object]) -> list[Pool]:
    """The pools without documents that are gone since they were ranked."""
    kept = (replace(pool, doc_ids=tuple(d for d in pool.doc_ids if d in documents)) for pool in pools)
    return [pool for pool in kept if pool.doc_ids]
