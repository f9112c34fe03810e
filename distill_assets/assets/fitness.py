"""Is a teacher fit to teach? nDCG@10 of reranking what search finds for dev queries, by the teacher and by what it has to beat.

The candidates are those that the teacher reranks on the leaderboard: the pool of BM25 and the untouched student. What they do not
find is not there, and counts as missed for every system.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill_assets.assets.inputs import Inputs
from distill_assets.errors import TrainingError
from distill_assets.evaluation.metrics import DevList, rerank_ndcg
from distill_assets.quality.verdicts import Verdict, judge_against_baselines
from distill_assets.records import BM25, TEACHER, UNTOUCHED_STUDENT, Query
from distill_assets.training.lists import build_dev_lists, choose_queries, pairs_of, per_list

_BM25_DEPTH = 1000  # a candidate further down counts as not found, which it would be in any search


def dev_lists(inputs: Inputs) -> list[DevList]:
    """At most `step_queries` judged dev queries with what search finds for them; none where no dev query has candidates."""
    dev = [q for q in inputs.training("dev") if inputs.candidates.get(q.query_id)]
    return build_dev_lists(choose_queries(dev, inputs.training_judgements, inputs.settings.step_queries), inputs.labels)


def step_lists(inputs: Inputs) -> list[DevList]:
    """The dev queries that judge training steps, with their candidates. Raises `TrainingError` when there is none."""
    groups = dev_lists(inputs)
    if not groups:
        raise TrainingError(
            f"no dev query with candidates among {len(inputs.training('dev'))} judged dev queries: a step can only be chosen "
            "on dev; add dev queries (qrels/dev.tsv) or more queries to split"
        )
    return groups


def measure_teacher(inputs: Inputs, path: Path) -> dict[str, Any] | None:
    """Mean nDCG@10 per system and the number of dev queries; None where there is no dev query.

    The pairs go through the store, so the leaderboard does not pay for them again.
    """
    groups = dev_lists(inputs)
    if not groups:
        return None
    logits = inputs.logits_handle
    scores, _ = logits.score_texts(logits.teacher(path), pairs_of(groups), inputs.log.info)
    cosines = inputs.project.vectors.cosines(inputs.project.models.student_path, pairs_of(groups))
    means = {
        TEACHER: rerank_ndcg(groups, per_list(groups, scores)),
        UNTOUCHED_STUDENT: rerank_ndcg(groups, per_list(groups, cosines)),
        BM25: rerank_ndcg(groups, _bm25_scores(inputs, groups)),
    }
    return {"num_queries": len(groups), "ndcg_at_10": means}


def judge_fitness(measured: dict[str, Any] | None) -> Verdict:
    """The verdict on what `measure_teacher` returned."""
    found = measured or {"num_queries": 0, "ndcg_at_10": {}}
    return judge_against_baselines(found["ndcg_at_10"], found["num_queries"], teacher=TEACHER)


def _bm25_scores(inputs: Inputs, groups: Sequence[DevList]) -> list[list[float]]:
    found = inputs.retrieval.bm25([Query(group.query_id, group.query, "dev") for group in groups], _BM25_DEPTH)
    content_of, scores = inputs.documents.content_of, []
    for group in groups:
        score_of = {content_of[doc_id]: score for doc_id, score in found[group.query_id]}
        scores.append([score_of.get(text, 0.0) for text in group.documents])
    return scores
