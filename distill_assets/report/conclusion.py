"""What a run comes to, in words: whether training helped, probably why not, what to try, and which way is ahead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill_assets.evaluation.comparison import Comparison, TeacherComparison
from distill_assets.evaluation.judging import JudgedByPeople
from distill_assets.evaluation.leaderboard import Champion, LeaderboardRow, find_champion_row, find_row
from distill_assets.evaluation.significance import ALPHA
from distill_assets.evaluation.tables import format_difference, format_interval, format_p, format_score
from distill_assets.evaluation.ways import Answer, Rival
from distill_assets.quality.verdicts import MIN_AREA_UNDER_CURVE, MIN_POSITIVES_FOUND
from distill_assets.records import MIN_QUERIES, UNTOUCHED_STUDENT

_FEW_QUERIES = 200


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What there was to learn from and to choose by.

    Attributes:
        dev_judge: who judged the dev queries when the gate decided last.
        share_found, area_under_curve: see `quality.verdicts.judge_positives_found`; None where no train query has an answer.
    """

    num_train_queries: int
    num_dev_queries: int
    share_found: float | None
    area_under_curve: float | None
    dev_judge: str = "people"


def on_judge(teacher: str, num_queries: int, num_by_rules: int) -> list[str]:
    """What comes first where a teacher of that name judged so many queries, of which so many were made by rules."""
    by_rules = (
        f"{num_by_rules:,} of these queries were made by rules from the documents' own words. That favours word search: they do not "
        "tell whether BM25 or a hybrid is better than a student at what people ask."
    )
    return [
        f"Judged by the teacher {teacher}, not by people: it says how far students rank as it does on {num_queries:,} queries, "
        "and not whether it is right; `distill-assets judge` makes a test set of people.",
        *([by_rules] if num_by_rules else []),
    ]


def conclude(
    rows: Sequence[LeaderboardRow],
    champion: Champion | None,
    decision: str,
    data: TrainingData,
    teacher: TeacherComparison | None,
    answer: Answer | None = None,
) -> list[str]:
    """Sentences for the end of a run and the head of the report.

    Args:
        rows: of the leaderboard.
        champion: what search uses.
        decision: the gate's last one, in words.
        data: what there was to learn from.
        teacher: whether it is fit to teach.
        answer: which way is ahead, on the queries of `rows`; None where there are not two.
    """
    if rows and not any(row.ndcg_at_10 for row in rows):
        return [
            "Every system has nDCG@10 0.000: the judgements name other documents than search returns. Compare the ids of corpus, "
            "queries and qrels."
        ]
    untouched, row = find_row(rows, UNTOUCHED_STUDENT), find_champion_row(rows, champion)
    found = []
    if champion and untouched and champion.model_fingerprint == untouched.model_fingerprint:
        found = _on_untouched(decision, data, teacher)
    elif row and untouched:
        found = [_on_champion(row, untouched)]
    if not found or answer is None:
        return found
    return [*found, *_on_baselines(answer.baselines, rows[0].split), _on_ways(answer, rows[0].split)]


def _on_untouched(decision: str, data: TrainingData, teacher: TeacherComparison | None) -> list[str]:
    if data.dev_judge == "teacher":  # the gate waits for people, whatever training brought
        return [f"Search uses the untouched student. The gate says: {decision}"]
    return [
        f"Training was not shown to help on these documents: search uses the untouched student. The gate says: {decision}",
        f"Why, probably: {'; '.join(_why_not(data, teacher))}.",
    ]


def tell_judgements(judged: JudgedByPeople, rows: Sequence[LeaderboardRow]) -> list[str]:
    """Who judged the leaderboard's queries on the page, how many queries decide, and what they can show; empty where nobody did."""
    if not judged or not rows:
        return []
    if rows[0].is_judged_by_teacher:
        return [
            *judged.sentences,
            f"From {MIN_QUERIES} judged queries with a relevant document on they decide, and not the teacher.",
        ]
    deciding = f"{rows[0].num_queries:,} {rows[0].split} queries with a relevant document decide this leaderboard"
    detectable = [row.detectable_vs_untouched for row in rows if row.detectable_vs_untouched is not None]
    if not detectable:
        return [*judged.sentences, f"{deciding}: below {MIN_QUERIES} nothing is tested."]
    return [
        *judged.sentences,
        f"{deciding}. Four times out of five they find a true difference of {format_score(max(detectable))} from the untouched one.",
    ]


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


def _on_baselines(against_champion: Mapping[str, Comparison], split: str) -> list[str]:
    """The published models that are above the champion, each with its test."""
    return [
        f"The baseline {name} is {'significantly ahead of' if found.is_better else 'above'} the champion on {split}, by "
        f"{format_score(found.difference)}{'' if found.is_better else ', which may be chance'} (p {format_p(found.p_holm)}, Holm over "
        f"{len(against_champion)})."
        for name, found in against_champion.items()
        if found.difference > 0
    ]


def _on_ways(answer: Answer, split: str) -> str:
    """Which way is ahead, by how much, and what these queries cannot tell."""
    queries = f"{answer.num_queries:,} {split} queries"
    if not answer.rivals:
        return f"{queries} are too few to say which way is best: {MIN_QUERIES} are the least, {_FEW_QUERIES} are usual."
    chosen = "dev" if answer.is_chosen_apart else "these same queries"
    told = [
        f"Best of all ways on {chosen}: {answer.way} ({answer.leader}), which needs {'' if answer.needs_training else 'no '}training; "
        f"nDCG@10 {format_score(answer.mean)} on {queries}."
    ]
    ahead = [rival for rival in answer.rivals if rival.comparison.is_better]
    behind = [rival for rival in answer.rivals if rival.comparison.is_worse]
    unclear = [rival for rival in answer.rivals if rival not in ahead and rival not in behind]
    if ahead:
        told.append(f"There it is significantly ahead of: {_listed(ahead)}.")
    if behind:
        told.append(f"There it is significantly behind: {_listed(behind)}.")
    if unclear:
        visible = max(rival.comparison.detectable for rival in unclear)
        told.append(
            f"These queries cannot tell it from: {_listed(unclear)}. They show differences of {format_score(visible)} or more."
        )
    if answer.is_chosen_apart:
        told.append(
            f"Each way is its best system on dev; {split} chose nothing. p is Holm-corrected over the {len(answer.rivals)} ways."
        )
    else:
        told.append("Nothing else was there to choose on, so the lead looks larger than it is.")
    return " ".join(told)


def _listed(rivals: Sequence[Rival]) -> str:
    """Each rival with the leader's lead on it, the interval of that, and p."""
    return "; ".join(
        f"{rival.way} ({rival.system}: {format_difference(rival.comparison.difference)}, 95 % interval "
        f"{format_interval(rival.low, rival.high)}, p {format_p(rival.comparison.p_holm)})"
        for rival in rivals
    )
