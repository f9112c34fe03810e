"""Is a teacher fit to teach? nDCG@10 of reranking what search finds for dev queries, by the teacher and by what it has to beat.

The candidates are those that the teacher reranks on the leaderboard: the pool of BM25 and the untouched student. What they do not
find is not there, and counts as missed for every system.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_assets.assets.inputs import Inputs
from distill_assets.errors import TrainingError
from distill_assets.evaluation.fitness import TeacherFitness, judge_teacher
from distill_assets.evaluation.metrics import DevList, rerank_metrics, values_of
from distill_assets.records import BM25, TEACHER, UNTOUCHED_STUDENT, Query
from distill_assets.training.lists import build_dev_lists, choose_queries, pairs_of, per_list

_BM25_DEPTH = 1000  # a candidate further down counts as not found, which it would be in any search


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
            "on dev; add dev queries (qrels/dev.tsv) or more queries to split"
        )
    return lists


def ndcg_on_dev(lists: Sequence[DevList], scores: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """System -> query_id -> nDCG@10 of ranking the candidates of `lists` by its scores, one for each pair of `pairs_of`."""
    return {
        system: values_of(rerank_metrics(lists, per_list(lists, values)), "ndcg_at_10")
        for system, values in scores.items()
    }


def judge_new_teacher(inputs: Inputs, path: Path) -> TeacherFitness | None:
    """A teacher against BM25 and the untouched student, before anything is trained; None where there is no dev query.

    The pairs go through the store, so the leaderboard does not pay for them again.
    """
    lists = dev_lists(inputs)
    pairs, logits = pairs_of(lists), inputs.logits_handle
    if not lists:
        return None
    scores, _ = logits.score_texts(logits.teacher(path), pairs, inputs.log.info)
    cosines = inputs.project.vectors.cosines(inputs.project.models.student_path, pairs)
    systems: dict[str, Any] = {TEACHER: scores, UNTOUCHED_STUDENT: cosines, BM25: _bm25_scores(inputs, lists)}
    return judge_teacher(ndcg_on_dev(lists, systems))


def _bm25_scores(inputs: Inputs, lists: Sequence[DevList]) -> list[float]:
    found = inputs.retrieval.bm25([Query(each.query_id, each.query, "dev") for each in lists], _BM25_DEPTH)
    content_of, scores = inputs.documents.content_of, list[float]()
    for each in lists:
        score_of = {content_of[doc_id]: score for doc_id, score in found[each.query_id]}
        scores += [score_of.get(text, 0.0) for text in each.documents]
    return scores
