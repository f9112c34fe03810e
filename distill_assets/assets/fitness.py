"""Is a teacher fit to teach? nDCG@10 of reranking the same dev candidates by the teacher, BM25 and the untouched student.

All three get the same candidates: every positive of a dev query and its mined negatives. Those were chosen because BM25 or the
untouched student ranks them high, so the test is a lenient one: a teacher that fails it has little to teach.
"""

from collections.abc import Callable, Sequence
from typing import Any

from distill_assets.assets.reading import read_dev_groups, read_labels, search_bm25
from distill_assets.core.errors import MissingPartitionError, SourceError
from distill_assets.core.groups import DevGroup, pairs_of, per_group
from distill_assets.core.metrics import rerank_ndcg
from distill_assets.core.quality import Verdict, judge_against_baselines
from distill_assets.core.recipes import BM25, TEACHER, UNTOUCHED_STUDENT
from distill_assets.core.records import Query
from distill_assets.core.scoring import PairScorer
from distill_assets.resources import Project

_BM25_DEPTH = 1000  # a candidate further down counts as not found, which it would be in any search


def measure_teacher(
    project: Project, manifest: dict[str, Any], open_scorer: Callable[[], PairScorer]
) -> dict[str, Any]:
    """Mean nDCG@10 per system and the number of dev queries; no means where there is no dev query, or nothing is mined yet.

    What making the teacher has measured already stands in its manifest and is not computed again: a fine-tuned or joined
    teacher costs nothing here, a published one a forward pass per candidate of `step_queries` dev queries.
    """
    try:
        labels = read_labels(project)
        groups = read_dev_groups(project, labels)
    except (MissingPartitionError, SourceError):  # a published teacher can be made before any batch is mined
        groups = []
    if not groups:
        return {"num_queries": 0, "ndcg_at_10": {}}
    teacher = _measured_already(manifest)
    if teacher is None:
        teacher = rerank_ndcg(groups, per_group(groups, open_scorer()(pairs_of(groups))))
    means = {
        TEACHER: teacher,
        UNTOUCHED_STUDENT: rerank_ndcg(
            groups, per_group(groups, project.cosines(project.student_path, pairs_of(groups)))
        ),
        BM25: rerank_ndcg(groups, _bm25_scores(project, groups, labels.content_of)),
    }
    return {"num_queries": len(groups), "ndcg_at_10": means}


def judge_fitness(measured: dict[str, Any]) -> Verdict:
    """The verdict on what `measure_teacher` returned."""
    return judge_against_baselines(measured["ndcg_at_10"], measured["num_queries"], teacher=TEACHER)


def _measured_already(manifest: dict[str, Any]) -> float | None:
    if "joined" in manifest:
        return float(manifest["joined"]["dev_ndcg_at_10_joined"])
    training = manifest.get("training")
    return None if training is None else float(training["best_dev_ndcg_at_10"])


def _bm25_scores(project: Project, groups: Sequence[DevGroup], content_of: Any) -> list[list[float]]:
    found = search_bm25(project, [Query(g.query_id, g.query, "dev") for g in groups], _BM25_DEPTH)
    scores = []
    for group in groups:
        score_of = {content_of[doc_id]: score for doc_id, score in found[group.query_id]}
        scores.append([score_of.get(text, 0.0) for text in group.documents])
    return scores
