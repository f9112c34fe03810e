"""What a run comes to, in words: whether training helped, probably why not, and what to try."""

from collections.abc import Sequence
from dataclasses import dataclass

from distill_assets.evaluation.comparison import TeacherComparison
from distill_assets.evaluation.leaderboard import Champion, LeaderboardRow, find_champion_row, find_row, sort_rows
from distill_assets.evaluation.significance import ALPHA
from distill_assets.evaluation.tables import format_difference, format_score
from distill_assets.quality.verdicts import MIN_AREA_UNDER_CURVE, MIN_POSITIVES_FOUND
from distill_assets.records import BM25, HYBRID, UNTOUCHED_STUDENT

_FEW_QUERIES = 200


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What there was to learn from and to choose by.

    Attributes:
        share_found, area_under_curve: see `quality.verdicts.judge_positives_found`; None where no train query has an answer.
    """

    num_train_queries: int
    num_dev_queries: int
    share_found: float | None
    area_under_curve: float | None


def conclude(
    rows: Sequence[LeaderboardRow],
    champion: Champion | None,
    decision: str,
    data: TrainingData,
    teacher: TeacherComparison | None,
) -> list[str]:
    """Sentences for the end of a run and the head of the report; `decision` is the gate's last one, in words."""
    if rows and not any(row.ndcg_at_10 for row in rows):
        return [
            "Every system has nDCG@10 0.000: the judgements name other documents than search returns. Compare the ids of corpus, "
            "queries and qrels."
        ]
    untouched, row = find_row(rows, UNTOUCHED_STUDENT), find_champion_row(rows, champion)
    found = []
    if champion and untouched and champion.model_fingerprint == untouched.model_fingerprint:
        found = [
            f"Training was not shown to help on these documents: search uses the untouched student. The gate says: {decision}",
            f"Why, probably: {'; '.join(_why_not(data, teacher))}.",
        ]
    elif row and untouched:
        found = [_on_champion(row, untouched)]
    return found + _on_search(sort_rows(rows))


def _on_champion(row: LeaderboardRow, untouched: LeaderboardRow) -> str:
    """A trained champion against the untouched student."""
    told = f"nDCG@10 on {row.split} {format_score(row.ndcg_at_10)} against {format_score(untouched.ndcg_at_10)}"
    difference = row.ndcg_at_10 - untouched.ndcg_at_10
    if row.p_vs_untouched is None or row.p_vs_untouched > ALPHA:
        return (
            f"Search uses {row.system}, which was better than the untouched student on dev. On {row.split} the difference "
            f"({format_difference(difference)}) is not significant: {told}."
        )
    if difference > 0:
        return f"Training helped: {row.system}, which search uses, is significantly better than the untouched student: {told}."
    return (
        f"Search uses {row.system}, which is significantly worse than the untouched student on test: {told}. Dev and test differ: look "
        "at how the queries were split, and go back with distill-assets rollback."
    )


def _why_not(data: TrainingData, teacher: TeacherComparison | None) -> list[str]:
    """Probable reasons, each with what to try."""
    found = []
    share, area = data.share_found, data.area_under_curve
    if share is not None and area is not None and (share < MIN_POSITIVES_FOUND or area < MIN_AREA_UNDER_CURVE):
        found.append(
            f"search finds {share:.0%} of the judged documents, and a judged document is more similar to its query than a hard "
            f"negative in {area:.0%} of the cases: the judgements mean something that similarity does not see; try a stronger "
            "student, or judge documents that search finds"
        )
    if teacher is not None and UNTOUCHED_STUDENT in teacher.not_beaten:
        found.append("the teacher is not above the untouched student and has little to teach; try a stronger teacher")
    if data.num_dev_queries < _FEW_QUERIES:
        found.append(f"with {data.num_dev_queries:,} dev queries small gains cannot be shown; try more dev queries")
    if data.num_train_queries < _FEW_QUERIES:
        found.append(f"there are {data.num_train_queries:,} train queries only; try more of them")
    return found or ["the untouched student may know already what the labels say; try a stronger student or teacher"]


def _on_search(best_first: Sequence[LeaderboardRow]) -> list[str]:
    """BM25 and hybrid where they are ahead of every bi-encoder."""
    best = next((row for row in best_first if row.is_student), None)
    ahead = [row for row in best_first if row.system in (BM25, HYBRID) and best and row.ndcg_at_10 > best.ndcg_at_10]
    if best is None or not ahead:
        return []
    listed = " and ".join(f"{row.system} ({format_score(row.ndcg_at_10)})" for row in ahead)
    is_ahead, need = ("is", "needs") if len(ahead) == 1 else ("are", "need")
    return [
        f"{listed} {is_ahead} ahead of every bi-encoder (best: {best.system}, {format_score(best.ndcg_at_10)}) and {need} no training."
    ]
