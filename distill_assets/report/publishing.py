"""From the warehouse to `report/index.html`. No model is opened, and no file is read but the warehouse and the last run's times."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from distill_assets.evaluation.comparison import TeacherComparison, compare_teacher
from distill_assets.evaluation.groups import GroupTable, group_table
from distill_assets.evaluation.leaderboard import (
    Champion,
    LeaderboardRow,
    find_champion_row,
    find_row,
    format_table,
    sort_rows,
)
from distill_assets.evaluation.tables import format_score
from distill_assets.evaluation.ways import Answer, compare_ways, ways_of
from distill_assets.handles.judging import judged_by_people
from distill_assets.handles.project import Project
from distill_assets.models.catalog import fingerprint_model
from distill_assets.records import HARD_LABELS, TEACHER, UNTOUCHED_STUDENT, Rule
from distill_assets.report.charts import Curve
from distill_assets.report.conclusion import TrainingData, conclude, on_judge, tell_judgements
from distill_assets.report.page import Page, describe_cost, render_page
from distill_assets.storage.collection import EVALUATION
from distill_assets.storage.folders import write_text

HISTORY_PATHS = ("checkpoint_path", "best_checkpoint_path")  # what `Places.kept` writes and `Places.path_of` reads
_EXAMPLES = 5  # wins, and as many losses, per baseline
_TOP = 3  # documents of each ranking that the page shows
_SAMPLED_LOGITS = 100_000  # of each kind in the histogram


def write_project_report(project: Project, steps: Sequence[tuple[str, float]] = ()) -> Path:
    """Write the report of what the warehouse holds now, and return its path.

    `steps` are (label, seconds) of a run. Without any, the page keeps those of the last run that gave some.
    """
    rows, champion = read_rows(project), read_champion(project)
    page = Page(
        collection=project.collection.source.name,
        rows=rows,
        champion=champion,
        history=read_history(project),
        steps=_remember_steps(project.places.report / "steps.json", steps),
        facts=_facts(project),
        teacher_comparison=read_teacher_comparison(project),
        ways=_compare_ways(project, rows),
        contests=_contests(project, find_champion_row(rows, champion)),
        agreement=_agreement(project),
        logits=(_logits(project, is_positive=True), _logits(project, is_positive=False)),
        curves=_curves(project),
        groups=_groups(project, rows),
        conclusion=read_conclusion(project),
    )
    path = project.places.report / "index.html"
    write_text(path, render_page(page))
    return path


def summarise(project: Project) -> str:
    """The leaderboard and the judgement of the teacher as Markdown."""
    table, teacher = format_table(read_rows(project), read_champion(project)), read_teacher_comparison(project)
    return f"```\n{table}\n```\n\n{teacher.sentence if teacher else ''}"


def read_rows(project: Project) -> list[LeaderboardRow]:
    """The leaderboard, best first."""
    return sort_rows(LeaderboardRow(**row) for row in project.places.warehouse.read("leaderboard").to_pylist())


def read_history(project: Project) -> list[dict[str, Any]]:
    """Every decision of the gate and every roll back, oldest first."""
    rows = project.places.warehouse.read("champion_history").to_pylist()
    for row in rows:
        row |= {name: str(project.places.path_of(row[name])) for name in HISTORY_PATHS if row[name]}
    # Rows of older versions have no number: they come first, in the order of their clock.
    return sorted(rows, key=lambda row: (row["sequence"] or 0, row["decided_at"]))


def current_champion(project: Project) -> dict[str, Any] | None:
    """The row that made the present champion; None before the first decision.

    The untouched student lies where the settings find it: its row may name a place of another environment.
    """
    moves = [row for row in read_history(project) if row["verdict"] in ("promoted", "rolled_back")]
    if not moves:
        return None
    row = moves[-1]
    if row["recipe"] == UNTOUCHED_STUDENT and not Path(row["checkpoint_path"]).is_dir():
        path = project.models.student_path
        if fingerprint_model(path) == row["model_fingerprint"]:
            return row | {"checkpoint_path": str(path.resolve())}
    return row


def read_champion(project: Project) -> Champion | None:
    """The checkpoint that search uses; None before the first decision."""
    row = current_champion(project)
    return None if row is None else Champion.from_mapping(row)


def read_teacher_comparison(project: Project) -> TeacherComparison | None:
    """Whether the teacher is fit to teach, by the dev numbers of the last leaderboard; None where there are none."""
    dev: dict[str, dict[str, float]] = {}
    for row in project.places.warehouse.read("teacher_fitness").to_pylist():
        dev.setdefault(row["system"], {})[row["query_id"]] = row["ndcg_at_10"]
    return compare_teacher(dev)


def read_conclusion(project: Project) -> list[str]:
    """What the last run comes to, in words; empty before the first leaderboard."""
    rows, history = read_rows(project), read_history(project)
    if not rows or not history:
        return []
    sql = """
        SELECT sum(share_found * num_queries) / sum(num_queries) AS share_found,
            sum(area_under_curve * num_queries) / sum(num_queries) AS area_under_curve,
            (SELECT count(DISTINCT query_id) FROM eval_metrics WHERE split = 'dev') AS num_dev_queries
        FROM answers_found WHERE batch IN (SELECT unnest($batches::VARCHAR[]))
    """
    num_train = _count_labels(project)["queries"] or _count_taught(project)
    found = _query(project, sql)[0] | {"dev_judge": history[-1]["judged_by"]}
    data = TrainingData(num_train_queries=num_train, **found)
    champion, decision, teacher = read_champion(project), history[-1]["reason"], read_teacher_comparison(project)
    told = conclude(rows, champion, decision, data, teacher, _which_way(project, rows, champion))
    judge = _read_judge(project, rows[0]) if rows[0].is_judged_by_teacher else []
    return [*judge, *told, *read_judgements(project, rows)]


def _read_judge(project: Project, row: LeaderboardRow) -> list[str]:
    """What the teacher's judgement of the leaderboard's queries is worth, in words."""
    by_rules = """
        SELECT count(DISTINCT query_id) AS num FROM generated_queries
        WHERE kind <> 'model' AND batch IN (SELECT unnest($batches::VARCHAR[]))
            AND query_id IN (SELECT query_id FROM query_results WHERE split = $split)
    """
    num_by_rules = _query(project, by_rules, split=row.split)[0]["num"]
    return on_judge(project.models.teacher_choice, row.num_queries, num_by_rules)


def read_judgements(project: Project, rows: Sequence[LeaderboardRow]) -> list[str]:
    """What people judged on the page of the leaderboard's queries, in words; empty where nobody did."""
    return tell_judgements(judged_by_people(project, rows[0].split), rows)


def _read_results(project: Project) -> dict[str, dict[str, dict[str, float]]]:
    """nDCG@10 by split, system and query."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in project.places.warehouse.read("query_results").to_pylist():
        found.setdefault(row["split"], {}).setdefault(row["system"], {})[row["query_id"]] = row["ndcg_at_10"]
    return found


def _which_way(project: Project, rows: Sequence[LeaderboardRow], champion: Champion | None) -> Answer | None:
    """Which way is ahead on the queries of the leaderboard."""
    values, split, recipes = _read_results(project), rows[0].split, project.settings.all_recipes
    measured, marked = values.get(split, {}), find_champion_row(rows, champion)
    distilled = {name for name, recipe in recipes.items() if recipe.uses_teacher}
    baselines, labels = project.settings.named_baselines.keys(), recipes.keys() - distilled
    ways = ways_of(measured, baselines=baselines, labels=labels, distilled=distilled)
    # A leaderboard of an older version has no values on dev.
    dev = values.get("dev", {}) if split != "dev" else {}
    return compare_ways(ways, dev, measured, marked.system if marked else None)


def _groups(project: Project, rows: Sequence[LeaderboardRow]) -> list[GroupTable]:
    """The leaderboard by groups of queries, a table for each rule."""
    labels: dict[str, dict[str, str]] = {}
    for row in project.places.warehouse.read("query_groups").to_pylist():
        labels.setdefault(row["rule"], {})[row["query_id"]] = row["label"]
    measured, systems = _read_results(project).get(rows[0].split, {}), [row.system for row in rows]
    found = [group_table(rule, labels[rule], systems, measured) for rule in get_args(Rule) if rule in labels]
    return [table for table in found if table is not None]


def _query(project: Project, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """Rows of one SELECT, which may name `$batches`, those of the collection, and `$min_relevance` too."""
    known = {"batches": project.collection.batches(), "min_relevance": project.settings.min_relevance}
    return project.places.warehouse.query(sql, known | parameters).to_pylist()


def _facts(project: Project) -> dict[str, str]:
    batches, stored = project.collection.batches(), project.places.warehouse.all_slices()
    count = {
        table: sum(stored[table, batch].num_rows for batch in batches if (table, batch) in stored)
        for table in ("corpus", "queries", "qrels")
    }
    return {
        "documents": f"{count['corpus']:,}",
        "queries": f"{count['queries']:,}",
        "judgements": f"{count['qrels']:,}",
        "batches": ", ".join(batches),
        "teacher": project.models.teacher_choice,
        "student": project.models.student_name,
        "pool that the teacher reranks": f"top {project.settings.pool_depth} of every first-stage system",
    }


def _remember_steps(path: Path, steps: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Times of a run are not in the warehouse. They are kept beside the page, so that `report` can write it again."""
    if steps:
        write_text(path, json.dumps(list(steps)))
        return list(steps)
    return [(label, seconds) for label, seconds in json.loads(path.read_text("utf-8"))] if path.is_file() else []


def _agreement(project: Project) -> list[dict[str, Any]]:
    """Mean agreement of each student with the teacher over the test queries, closest first."""
    sql = """
        SELECT system, avg(kendall_tau) AS kendall_tau, avg(overlap_at_10) AS overlap_at_10, count(overlap_at_10) AS num_queries
        FROM query_results WHERE overlap_at_10 IS NOT NULL GROUP BY system
        ORDER BY kendall_tau DESC NULLS LAST, system
    """
    return _query(project, sql)


def _contests(project: Project, champion: LeaderboardRow | None) -> list[dict[str, Any]]:
    """The champion against the untouched student and against `hard_labels`, query by query; empty without a champion."""
    sql = """
        SELECT query_id, mine.ndcg_at_10, other.ndcg_at_10 AS baseline_ndcg_at_10, mine.ndcg_at_10 - other.ndcg_at_10 AS difference
        FROM query_results mine JOIN query_results other USING (split, query_id)
        WHERE split = 'test' AND mine.system = $system AND other.system = $baseline ORDER BY abs(difference) DESC, query_id
    """
    contests = []
    for baseline in (UNTOUCHED_STUDENT, HARD_LABELS):
        if champion is None or champion.system == baseline:
            continue
        systems = {"system": champion.system, "baseline": baseline}
        rows = _query(project, sql, **systems)
        won, lost = ([row for row in rows if sign * row["difference"] > 0][:_EXAMPLES] for sign in (1, -1))
        examples = _examples(project, [row for row in rows if row in won or row in lost], systems)
        if rows:
            contests.append({**systems, "differences": [row["difference"] for row in rows], "examples": examples})
    return contests


def _examples(project: Project, rows: list[dict[str, Any]], systems: dict[str, str]) -> list[dict[str, Any]]:
    """The queries of these rows with their texts: what is judged relevant, and what both systems rank first."""
    sql = """
        SELECT system, query_id, list(doc_id ORDER BY rank) AS found FROM rankings
        WHERE split = 'test' AND system IN ($system, $baseline) AND query_id IN (SELECT unnest($queries::VARCHAR[])) GROUP BY ALL
    """
    query_ids = [row["query_id"] for row in rows]
    rankings = _query(project, sql, queries=query_ids, **systems)
    with project.collection.snapshot() as collection:
        queries = {query.query_id: query.text for query in collection.queries(EVALUATION)}
        judgements, lowest = collection.judgements(EVALUATION, labels="measured"), collection.min_relevance
        judged = {q: sorted(d for d, grade in judgements.get(q, {}).items() if grade >= lowest) for q in query_ids}
        shown = {d for ids in [*judged.values(), *(ranking["found"][:_TOP] for ranking in rankings)] for d in ids}
        texts = {doc_id: f"({doc_id}: no longer in the corpus)" for doc_id in shown} | collection.contents(
            sorted(shown)
        )
    found = {(ranking["system"], ranking["query_id"]): ranking["found"] for ranking in rankings}
    examples = []
    for row in rows:
        query_id = row["query_id"]
        sides = []
        for system in systems.values():
            ids = found.get((system, query_id), [])
            rank = next((rank for rank, doc_id in enumerate(ids, start=1) if doc_id in judged[query_id]), None)
            sides.append({"system": system, "rank": rank, "found": [texts[doc_id] for doc_id in ids[:_TOP]]})
        relevant = [texts[doc_id] for doc_id in judged[query_id]]
        examples.append({**row, "query": queries.get(query_id, query_id), "relevant": relevant, "sides": sides})
    return examples


def _compare_ways(project: Project, rows: Sequence[LeaderboardRow]) -> dict[str, dict[str, str]]:
    """Fine-tuning (`hard_labels`) and the distilled recipe that is best on dev, each where it was trained: recipe to column."""
    manifests, labels, teacher = _student_manifests(project), _count_labels(project), find_row(rows, TEACHER)
    ways = {}
    if HARD_LABELS in manifests:
        signal = "human labels: the judged document is right, every other one is wrong"
        used = f"{labels['judged']:,} human judgements of {labels['queries']:,} train queries"
        if not labels["queries"]:  # nobody judged one
            signal = "the teacher's first document is right, every other one is wrong"
            used = f"no human judgement; answers of {_count_taught(project):,} train queries by the teacher"
        ways[HARD_LABELS] = {
            "title": f"Fine-tuning: {HARD_LABELS}",
            "Training signal": signal,
            "Labels used": used,
            "Ceiling": f"no model sets one; what the labels say: {labels['per_query'] or 0:.1f} judged documents a query",
            "Cost: teacher pairs and time": "no teacher pair, no teacher second",
        }
    sql = """
        SELECT system FROM eval_metrics WHERE split = 'dev' AND system = recipe
        GROUP BY system ORDER BY avg(ndcg_at_10) DESC, system
    """
    distilled = {name for name, recipe in project.settings.all_recipes.items() if recipe.uses_teacher} & {*manifests}
    best = next((row["system"] for row in _query(project, sql) if row["system"] in distilled), None)
    if best is not None:
        recipe = manifests[best]["recipe"]
        losses = recipe["loss"] if isinstance(recipe["loss"], str) else " + ".join(sorted(dict(recipe["loss"])))
        positives = "the teacher's first document" if recipe.get("positives") == "teacher" else "human judgements"
        scored = f"{labels['scored']:,} teacher scores of {labels['scored_queries']:,} train queries"
        ways[best] = {
            "title": f"Distillation: {best}",
            "Training signal": f"the teacher's raw score of every pair ({losses})",
            "Labels used": f"{scored}; positives: {positives}",
            "Ceiling": f"the teacher: nDCG@10 {format_score(teacher.ndcg_at_10 if teacher else None)} on the pool",
            "Cost: teacher pairs and time": describe_cost(labels["scored"], **_scoring_costs(project)),
        }
    return ways


def _count_labels(project: Project) -> dict[str, Any]:
    """What training can read: judged and mined train queries with their judgements, and what the teacher scored."""
    sql = """
        WITH used AS (
            SELECT DISTINCT query_id FROM queries SEMI JOIN hard_negatives USING (query_id)
            WHERE split = 'train' AND batch IN (SELECT unnest($batches::VARCHAR[]))
        ), judgements AS (
            SELECT DISTINCT query_id, doc_id FROM qrels SEMI JOIN used USING (query_id) WHERE relevance >= $min_relevance
        )
        SELECT count(*) AS judged, count(DISTINCT query_id) AS queries, judged / nullif(queries, 0) AS per_query,
            (SELECT count(*) FROM teacher_scores) AS scored, (SELECT count(DISTINCT query_id) FROM teacher_scores) AS scored_queries
        FROM judgements
    """
    return _query(project, sql)[0]


def _count_taught(project: Project) -> int:
    """Train queries that have an answer, by the teacher where people named none."""
    with project.collection.snapshot() as collection:
        return len(collection.judgements(("train",), labels="taught"))


def _scoring_costs(project: Project) -> dict[str, Any]:
    """What scoring for training and for evaluation took, over all runs with the present teacher: pairs and seconds of each."""
    sql = """
        SELECT coalesce(sum(num_pairs) FILTER (asset = 'teacher_scores'), 0)::BIGINT AS num_pairs,
            coalesce(sum(seconds) FILTER (asset = 'teacher_scores'), 0.0) AS seconds,
            coalesce(sum(num_pairs) FILTER (asset <> 'teacher_scores'), 0)::BIGINT AS evaluation_pairs,
            coalesce(sum(seconds) FILTER (asset <> 'teacher_scores'), 0.0) AS evaluation_seconds
        FROM scoring_costs
        WHERE teacher_fingerprint = (SELECT model_fingerprint FROM checkpoints WHERE kind = 'teacher')
    """
    return _query(project, sql)[0]


def _logits(project: Project, *, is_positive: bool) -> list[float]:
    """Teacher logits of positives or of hard negatives in `teacher_scores`; a fixed sample where there are many."""
    sql = """
        SELECT teacher_logit FROM teacher_scores
        WHERE (label > 0) = $is_positive AND batch IN (SELECT unnest($batches::VARCHAR[]))
        ORDER BY hash(query_id || doc_id), query_id, doc_id LIMIT $sampled
    """
    return [r["teacher_logit"] for r in _query(project, sql, is_positive=is_positive, sampled=_SAMPLED_LOGITS)]


def _curves(project: Project) -> dict[str, tuple[Curve, Curve]]:
    """Losses and dev curve of every student that the settings have a recipe for."""
    training = {name: manifest.get("training", {}) for name, manifest in _student_manifests(project).items()}
    return {
        name: (found["losses"], found.get("dev_curve", []))
        for name, found in training.items()
        if name in project.settings.all_recipes and found.get("losses")
    }


def _student_manifests(project: Project) -> dict[str, dict[str, Any]]:
    sql = "SELECT name, manifest_json FROM checkpoints WHERE kind = 'student' ORDER BY name"
    return {row["name"]: json.loads(row["manifest_json"]) for row in _query(project, sql)}
