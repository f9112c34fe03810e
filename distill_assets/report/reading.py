"""From the warehouse to the parts of the report: no model is opened, no file but the warehouse is read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill_assets.evaluation.fitness import TeacherFitness, judge_teacher
from distill_assets.handles.project import Project
from distill_assets.records import HARD_LABELS, UNTOUCHED_STUDENT
from distill_assets.report.conclusion import TrainingData
from distill_assets.report.page import Agreement, Contest, Cost, Example, LearningCurve, Way
from distill_assets.storage.collection import EVALUATION

_SEED = 2026
_EXAMPLES = 5  # wins, and as many losses, per baseline
_TOP = 3  # documents of each ranking that the page shows
_MAX_LOGITS = 100_000  # of each kind in the histogram


def read_fitness(project: Project) -> TeacherFitness | None:
    """Whether the teacher is fit to teach, by the dev numbers of the last leaderboard; None where there are none."""
    dev: dict[str, dict[str, float]] = {}
    for row in project.places.warehouse.read("teacher_fitness").to_pylist():
        dev.setdefault(row["system"], {})[row["query_id"]] = row["ndcg_at_10"]
    return judge_teacher(dev)


def read_training_data(project: Project) -> TrainingData:
    """How many queries trained and chose the students, and the figures of the check `positives_found`, means over queries."""
    sql = """
        SELECT sum(share_found * num_queries) / sum(num_queries) AS share_found,
            sum(area_under_curve * num_queries) / sum(num_queries) AS area_under_curve
        FROM answers_found WHERE batch IN (SELECT unnest(?::VARCHAR[]))
    """
    figures = project.places.warehouse.query(sql, [project.collection.batches()]).to_pylist()[0]
    dev = "SELECT count(DISTINCT query_id) AS n FROM eval_metrics WHERE split = 'dev'"
    num_dev = project.places.warehouse.query(dev).to_pylist()[0]["n"]
    return TrainingData(num_train_queries=_count_labels(project)["queries"], num_dev_queries=num_dev, **figures)


def read_agreement(project: Project) -> list[Agreement]:
    """Mean agreement of each student with the teacher over the test queries, closest first."""
    sql = """
        SELECT system, avg(kendall_tau) AS kendall_tau, avg(overlap_at_10) AS overlap_at_10, count(overlap_at_10) AS num_queries
        FROM query_results WHERE overlap_at_10 IS NOT NULL GROUP BY system
        ORDER BY kendall_tau DESC NULLS LAST, system
    """
    return [Agreement(**row) for row in project.places.warehouse.query(sql).to_pylist()]


def read_contests(project: Project, champion: str | None) -> list[Contest]:
    """The champion against the untouched student and against `hard_labels`, query by query; empty without a champion."""
    results: dict[str, dict[str, dict[str, Any]]] = {}
    sql = "SELECT system, query_id, ndcg_at_10 FROM query_results WHERE split = 'test' ORDER BY system, query_id"
    for row in project.places.warehouse.query(sql).to_pylist():
        results.setdefault(row["system"], {})[row["query_id"]] = row
    if champion is None or champion not in results:
        return []
    baselines = [name for name in (UNTOUCHED_STUDENT, HARD_LABELS) if name in results and name != champion]
    return [_contest(project, champion, results[champion], name, results[name]) for name in baselines]


def _contest(
    project: Project, champion: str, mine: Mapping[str, Any], baseline: str, others: Mapping[str, Any]
) -> Contest:
    difference = {q: mine[q]["ndcg_at_10"] - others[q]["ndcg_at_10"] for q in sorted(mine.keys() & others.keys())}
    gains = sorted((q for q in difference if difference[q] > 0), key=lambda q: (-difference[q], q))[:_EXAMPLES]
    losses = sorted((q for q in difference if difference[q] < 0), key=lambda q: (difference[q], q))[:_EXAMPLES]
    shown = sorted([*gains, *losses], key=lambda q: (-abs(difference[q]), q))
    found = {name: _read_found(project, name, shown) for name in (champion, baseline)}
    texts = _read_texts(
        project, shown, [doc_id for ranked in found.values() for ids in ranked.values() for doc_id in ids[:_TOP]]
    )
    examples = [
        _example(q, (mine[q]["ndcg_at_10"], found[champion][q]), (others[q]["ndcg_at_10"], found[baseline][q]), texts)
        for q in shown
    ]
    return Contest(system=champion, baseline=baseline, differences=list(difference.values()), examples=examples)


class _Texts:
    """Texts of the queries and documents of the examples, and what was judged relevant."""

    def __init__(
        self, queries: Mapping[str, str], documents: Mapping[str, str], judged: Mapping[str, list[str]]
    ) -> None:
        self.queries, self.judged = queries, judged
        self._documents = documents

    def document(self, doc_id: str) -> str:
        """Title and text; what has left the corpus since is named by its id."""
        return self._documents.get(doc_id, f"({doc_id}: no longer in the corpus)")


Found = tuple[float, list[str]]  # nDCG@10 of one query, and its ranking


def _example(query_id: str, mine: Found, other: Found, texts: _Texts) -> Example:
    judged = texts.judged.get(query_id, [])
    return Example(
        query=texts.queries.get(query_id, query_id),
        outcome="win" if mine[0] > other[0] else "loss",
        relevant=[texts.document(doc_id) for doc_id in judged],
        system_found=[texts.document(doc_id) for doc_id in mine[1][:_TOP]],
        baseline_found=[texts.document(doc_id) for doc_id in other[1][:_TOP]],
        system_rank=_first_relevant(mine[1], judged),
        baseline_rank=_first_relevant(other[1], judged),
        system_ndcg_at_10=mine[0],
        baseline_ndcg_at_10=other[0],
    )


def _first_relevant(ranking: Sequence[str], judged: Sequence[str]) -> int | None:
    return next((place for place, doc_id in enumerate(ranking, start=1) if doc_id in judged), None)


def _read_found(project: Project, system: str, query_ids: Sequence[str]) -> dict[str, list[str]]:
    """query_id -> doc_ids, best first, as the system ranked them."""
    sql = """
        SELECT query_id, doc_id FROM rankings WHERE system = $system AND split = 'test'
        AND query_id IN (SELECT unnest($queries::VARCHAR[])) ORDER BY query_id, rank
    """
    found: dict[str, list[str]] = {query_id: [] for query_id in query_ids}
    for row in project.places.warehouse.query(sql, {"system": system, "queries": list(query_ids)}).to_pylist():
        found[row["query_id"]].append(row["doc_id"])
    return found


def _read_texts(project: Project, query_ids: Sequence[str], doc_ids: Sequence[str]) -> _Texts:
    """Texts of these queries, of what is judged relevant to them, and of these documents."""
    with project.collection.snapshot() as collection:
        queries = {q.query_id: q.text for q in collection.queries(EVALUATION) if q.query_id in query_ids}
        judgements, lowest = collection.judgements(EVALUATION), collection.min_relevance
        judged = {q: sorted(d for d, grade in judgements.get(q, {}).items() if grade >= lowest) for q in query_ids}
        wanted = {*doc_ids, *(doc_id for found in judged.values() for doc_id in found)}
        return _Texts(queries, collection.contents(sorted(wanted)), judged)


def read_ways(project: Project) -> list[Way]:
    """Fine-tuning (`hard_labels`) and the distilled recipe that is best on dev, each where it was trained."""
    manifests = {
        row["name"]: json.loads(row["manifest_json"])
        for row in project.places.warehouse.read("checkpoints").to_pylist()
    }
    distilled = {
        name for name, recipe in project.settings.all_recipes.items() if recipe.uses_teacher
    } & manifests.keys()
    dev = _dev_means(project)
    best = min((name for name in distilled if name in dev), key=lambda name: (-dev[name], name), default=None)
    labels = _count_labels(project)
    ways = []
    if HARD_LABELS in manifests:
        ways.append(
            Way(
                title="Fine-tuning",
                recipe=HARD_LABELS,
                signal="human labels: the judged document is right, every other one is wrong",
                labels=f"{labels['judged']:,} human judgements of {labels['queries']:,} train queries",
                ceiling=f"no model sets one; what the labels say: {labels['per_query']:.1f} judged documents a query",
                cost=None,
            )
        )
    if best is not None:
        recipe = manifests[best].get("recipe", {})
        is_unlabelled = recipe.get("positives") == "teacher"
        human = (
            "none; the teacher's first stands for the positive"
            if is_unlabelled
            else "human judgements name the positives"
        )
        ways.append(
            Way(
                title="Distillation",
                recipe=best,
                signal=f"the teacher's raw score of every pair ({_loss_name(recipe)})",
                labels=f"{labels['scored']:,} teacher scores of {labels['scored_queries']:,} train queries; {human}",
                ceiling=None,
                cost=_read_cost(project, labels["scored"]),
            )
        )
    return ways


def _loss_name(recipe: Mapping[str, Any]) -> str:
    loss = recipe.get("loss", "its loss")
    return loss if isinstance(loss, str) else " + ".join(sorted(dict(loss)))


def _dev_means(project: Project) -> dict[str, float]:
    sql = "SELECT system, avg(ndcg_at_10) AS mean FROM eval_metrics WHERE split = 'dev' AND system = recipe GROUP BY system"
    return {row["system"]: row["mean"] for row in project.places.warehouse.query(sql).to_pylist()}


def _count_labels(project: Project) -> dict[str, Any]:
    """What training can read: judged and mined train queries with their judgements, and what the teacher scored."""
    sql = """
        WITH used AS (
            SELECT DISTINCT query_id FROM queries SEMI JOIN hard_negatives USING (query_id)
            WHERE split = 'train' AND batch IN (SELECT unnest(?::VARCHAR[]))
        ), judged AS (SELECT DISTINCT query_id, doc_id FROM qrels SEMI JOIN used USING (query_id) WHERE relevance >= ?)
        SELECT (SELECT count(*) FROM judged) AS judged, (SELECT count(DISTINCT query_id) FROM judged) AS queries,
            (SELECT count(*) FROM teacher_scores) AS scored, (SELECT count(DISTINCT query_id) FROM teacher_scores) AS scored_queries
    """
    parameters = [project.collection.batches(), project.settings.min_relevance]
    found = dict(project.places.warehouse.query(sql, parameters).to_pylist()[0])
    return found | {"per_query": found["judged"] / found["queries"] if found["queries"] else 0.0}


def _read_cost(project: Project, num_scores: int) -> Cost:
    """What scoring for training and for evaluation took, over all runs with the present teacher."""
    sql = """
        SELECT asset = 'teacher_scores' AS is_training, sum(num_pairs)::BIGINT AS pairs, sum(seconds) AS seconds FROM scoring_costs
        WHERE teacher_fingerprint = (SELECT model_fingerprint FROM checkpoints WHERE kind = 'teacher') GROUP BY ALL
    """
    found = {row["is_training"]: row for row in project.places.warehouse.query(sql).to_pylist()}
    training, rest = found.get(True, {}), found.get(False, {})
    return Cost(
        num_scores=num_scores,
        num_pairs=training.get("pairs", 0),
        seconds=training.get("seconds", 0.0),
        evaluation_pairs=rest.get("pairs", 0),
        evaluation_seconds=rest.get("seconds", 0.0),
    )


def read_logits(project: Project) -> tuple[list[float], list[float]]:
    """Teacher logits of positives and of hard negatives in `teacher_scores`, a fixed sample where there are many."""
    sql = """
        SELECT teacher_logit FROM teacher_scores WHERE (label > 0) = ? AND batch IN (SELECT unnest(?::VARCHAR[]))
        ORDER BY hash(query_id || doc_id), query_id, doc_id LIMIT ?
    """
    batches = project.collection.batches()
    found = [
        project.places.warehouse.query(sql, [kind, batches, _MAX_LOGITS])["teacher_logit"].to_pylist()
        for kind in (True, False)
    ]
    return found[0], found[1]


def read_curves(project: Project) -> list[LearningCurve]:
    """Losses and dev curve of every student on the leaderboard, from the manifests that the warehouse keeps."""
    curves = []
    rows = project.places.warehouse.query(
        "SELECT name, manifest_json FROM checkpoints WHERE kind = 'student' ORDER BY name"
    )
    for row in rows.to_pylist():
        training = json.loads(row["manifest_json"]).get("training", {})
        if row["name"] in project.settings.all_recipes and training.get("losses"):
            losses, dev = ([(int(s), float(v)) for s, v in training.get(key, [])] for key in ("losses", "dev_curve"))
            curves.append(LearningCurve(recipe=row["name"], losses=losses, dev_curve=dev))
    return curves
