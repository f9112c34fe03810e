"""The leaderboard as values: one row per system, which of them the champion is, and the cells of its table."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from distill_assets.evaluation.comparison import BASELINES, comparison_columns
from distill_assets.evaluation.metrics import METRIC_NAMES, QueryMetrics, mean_of, values_of
from distill_assets.evaluation.significance import ALPHA, bootstrap_interval
from distill_assets.evaluation.tables import (
    MISSING,
    Cells,
    as_text,
    format_difference,
    format_interval,
    format_number,
    format_score,
    format_share,
)
from distill_assets.records import BM25, MIN_QUERIES, RESERVED_SYSTEMS, TEACHER, is_hybrid

CHAMPION_MARK = "*"
SIGNIFICANT = "†"
_FIGURE_SPACE = "\u2007"  # instead of the mark, so that digits stay below digits
_HEADER = (
    "system,nDCG@10,95 % interval,vs untouched,vs hard_labels,MRR@10,recall@100,MAP,gap closed,ms p50,ms p95,docs/s,MB"
)


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """One system on one split, as the table `leaderboard` keeps it: means over the judged queries, and what a query costs.

    Attributes:
        split: ``test``, or ``dev`` where a collection has no test queries: there recipes were chosen on what they are shown on.
        model_fingerprint: content of the student's folder; None for other systems, and in rows of older versions.
        prompts: of a bi-encoder, and where they are from; None for other systems, and in rows of older versions.
        ndcg_at_10_low: lower end of the 95 % bootstrap interval of the mean; `ndcg_at_10_high` is the upper end.
        gap_closed: see `significance.gap_closed`, with its 95 % interval; None for systems that are no recipe's student, and where
            the teacher is not significantly above the untouched student.
        query_ms_p50: median time of one query end to end; for the teacher, of reranking that query's pool.
        documents_per_s: documents encoded a second; None for systems that encode none.
        p_vs_hard_labels: paired randomisation test against that recipe, Holm-corrected over all rows that are tested against it
            (recipes, baselines, hybrids); None where nothing was tested. `p_vs_untouched` likewise.
        detectable_vs_hard_labels: true difference that this test finds with 80 % probability; `detectable_vs_untouched`
            likewise.
        judged_by: people, or the teacher: then the numbers say how far a system ranks as the teacher does; None in rows of older
            versions, which people judged.
    """

    split: str = "test"
    system: str
    model_fingerprint: str | None = None
    ndcg_at_10: float
    ndcg_at_10_low: float
    ndcg_at_10_high: float
    mrr_at_10: float
    recall_at_100: float
    map: float
    gap_closed: float | None = None
    gap_closed_low: float | None = None
    gap_closed_high: float | None = None
    query_ms_p50: float | None = None
    query_ms_p95: float | None = None
    documents_per_s: float | None = None
    model_mb: float | None = None
    num_queries: int
    p_vs_hard_labels: float | None = None
    p_vs_untouched: float | None = None
    detectable_vs_hard_labels: float | None = None
    detectable_vs_untouched: float | None = None
    prompts: str | None = None
    judged_by: str | None = None

    @property
    def is_judged_by_teacher(self) -> bool:
        """Whether no person judged the queries. Then there is no row of the teacher and no gap to close."""
        return self.judged_by == "teacher"

    @property
    def is_student(self) -> bool:
        """Whether this is a bi-encoder: a recipe's student, the untouched one or a baseline."""
        return self.system not in (BM25, TEACHER) and not is_hybrid(self.system)


def compare_systems(
    split: str,
    per_system: Mapping[str, Mapping[str, QueryMetrics]],
    speeds: Mapping[str, Mapping[str, float]],
    models: Mapping[str, str],
    baselines: Collection[str] = (),
) -> list[LeaderboardRow]:
    """One row per system. Fewer than `MIN_QUERIES` queries are not tested.

    Args:
        split: of the queries.
        per_system: system -> query_id -> metrics, on the same queries.
        speeds: system -> columns of what a query costs.
        models: bi-encoder -> content of its folder.
        baselines: systems that are published models as they are.
    """
    ndcg = {system: values_of(found, "ndcg_at_10") for system, found in per_system.items()}
    others = [system for system in ndcg if is_hybrid(system) or system in baselines]
    recipes = [system for system in ndcg if system not in {*RESERVED_SYSTEMS, *others}]
    num_queries = len(next(iter(ndcg.values())))
    compared = comparison_columns(ndcg, recipes, others) if num_queries >= MIN_QUERIES else {}
    rows = []
    for system, found in per_system.items():
        low, high = bootstrap_interval([value for _, value in sorted(ndcg[system].items())])
        means = {name: mean_of(found, name) for name in METRIC_NAMES}
        columns: dict[str, Any] = {**means, **speeds.get(system, {}), **compared.get(system, {})}
        rows.append(
            LeaderboardRow(
                split=split,
                system=system,
                model_fingerprint=models.get(system),
                ndcg_at_10_low=low,
                ndcg_at_10_high=high,
                num_queries=len(found),
                **columns,
            )
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The checkpoint that search uses, and the decision that made it champion: a promotion or a roll back.

    Attributes:
        recipe: what it was trained by. A later student of that recipe has the same name and is another checkpoint.
        model_fingerprint: content of its folder.
        dev_ndcg_at_10: mean on the dev queries of the time when the gate promoted it.
        decided_at: UTC.
    """

    recipe: str
    model_fingerprint: str
    dev_ndcg_at_10: float
    decided_at: datetime

    @classmethod
    def from_mapping(cls, row: Mapping[str, Any]) -> "Champion":
        """Build from a row of `champion_history`; columns that are no field are left out."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def checkpoint(self) -> str:
        """The first 8 digits of the fingerprint, for people."""
        return self.model_fingerprint[:8]


def find_champion_row(rows: Sequence[LeaderboardRow], champion: Champion | None) -> LeaderboardRow | None:
    """The row that measures the champion's checkpoint; None where no row does, or there is no champion.

    Rows of older versions hold no fingerprint: among them, and only among them, the recipe's name decides.
    """
    if champion is None:
        return None
    own_name_first = sorted(rows, key=lambda row: row.system != champion.recipe)  # two recipes may make equal models
    same = (row for row in own_name_first if row.model_fingerprint == champion.model_fingerprint)
    unknown = (row for row in rows if row.model_fingerprint is None and row.system == champion.recipe)
    return next(same, None) or next(unknown, None)


def champion_note(rows: Sequence[LeaderboardRow], champion: Champion | None) -> str | None:
    """Which checkpoint is champion, as sentences, where it is not a row of the leaderboard; else None."""
    if champion is None or find_champion_row(rows, champion) is not None:
        return None
    newer = find_row(rows, champion.recipe)
    if newer is None or newer.model_fingerprint is None:
        other = f"The leaderboard has no student of {champion.recipe}."
    else:
        other = f"The leaderboard's {champion.recipe} is another student: checkpoint {newer.model_fingerprint[:8]}."
    return (
        f"The champion, which search uses, is not on this leaderboard. It is checkpoint {champion.checkpoint} of "
        f"{champion.recipe}: nDCG@10 {champion.dev_ndcg_at_10:.3f} on dev when it was promoted, champion since "
        f"{champion.decided_at:%Y-%m-%d %H:%M} UTC. {other}"
    )


def versus(row: LeaderboardRow, rows: Iterable[LeaderboardRow], suffix: str) -> str:
    """Difference of a system from a baseline, marked where significant: `+0.071†`; `-` where nothing was tested.

    `suffix` names the baseline in columns, see `BASELINES`.
    """
    p_value, other = getattr(row, f"p_vs_{suffix}"), find_row(rows, BASELINES[suffix])
    if p_value is None or other is None:
        return MISSING
    return format_difference(row.ndcg_at_10 - other.ndcg_at_10) + (SIGNIFICANT if p_value <= ALPHA else _FIGURE_SPACE)


def legend_of_tests(rows: Sequence[LeaderboardRow]) -> list[str]:
    """What the marks mean and what the tests could see, as sentences; empty where nothing was tested."""
    if not rows:
        return []
    num_queries = rows[0].num_queries
    if num_queries < MIN_QUERIES:
        return [f"{num_queries:,} queries are too few to compare systems: {MIN_QUERIES} are the least, 200 are usual."]
    sentences = []
    for suffix, baseline in BASELINES.items():
        # 0 where all values are equal: that says nothing about what could be seen. Hybrids differ more from query to query.
        found: dict[str, float] = {}
        for row in (row for row in rows if getattr(row, f"detectable_vs_{suffix}")):
            kind = "hybrid" if is_hybrid(row.system) else "bi-encoder"
            found[kind] = max(found.get(kind, 0.0), getattr(row, f"detectable_vs_{suffix}"))
        if found:
            told = " and ".join(f"{value:.3f} or more of a {kind}" for kind, value in sorted(found.items()))
            sentences.append(
                f"Against {baseline}, {num_queries:,} queries find a true difference of {told} with 80 % probability; smaller ones may "
                "be there and not be seen."
            )
    if not sentences:
        return []
    test = f"two-sided paired randomisation test, p ≤ {ALPHA:g}, Holm-corrected over the rows that are compared"
    return [f"{SIGNIFICANT} significantly different: {test}.", *sentences]


def sort_rows(rows: Iterable[LeaderboardRow]) -> list[LeaderboardRow]:
    """Best nDCG@10 first; equal values by name, so that two runs print the same table."""
    return sorted(rows, key=lambda row: (-row.ndcg_at_10, row.system))


def find_row(rows: Iterable[LeaderboardRow], system: str) -> LeaderboardRow | None:
    """The row of that system, or None."""
    return next((row for row in rows if row.system == system), None)


def table_cells(rows: Sequence[LeaderboardRow]) -> Cells:
    """The header and one line per row, in the order of `rows`: for a terminal and the report alike."""
    cells = [
        [
            row.system,
            format_score(row.ndcg_at_10),
            format_interval(row.ndcg_at_10_low, row.ndcg_at_10_high),
            *(versus(row, rows, suffix) for suffix in BASELINES),
            *map(format_score, (row.mrr_at_10, row.recall_at_100, row.map)),
            format_share(row.gap_closed, row.gap_closed_low, row.gap_closed_high),
            *map(format_number, (row.query_ms_p50, row.query_ms_p95, row.documents_per_s, row.model_mb)),
        ]
        for row in rows
    ]
    table = [_HEADER.split(","), *cells]
    if any(row.is_judged_by_teacher for row in rows):
        told = ["judged by", *(row.judged_by or "people" for row in rows)]
        return [[*line, who] for line, who in zip(table, told, strict=True)]
    return table


def format_table(rows: Sequence[LeaderboardRow], champion: Champion | None) -> str:
    """A plain-text table for terminals, best system first, with the champion marked or described below; no trailing newline."""
    if not rows:
        return "no system has been evaluated yet: run `distill-assets run`"
    rows = sort_rows(rows)
    marked, note = find_champion_row(rows, champion), champion_note(rows, champion)
    marks = ["", *(CHAMPION_MARK if row is marked else "" for row in rows)]
    cells = [[mark, *line] for mark, line in zip(marks, table_cells(rows), strict=True)]
    lines = [as_text(cells, num_left=2)]
    if rows[0].split != "test":
        lines.append(
            "There are no judged test queries: these are dev queries, on which steps and champion are chosen, so all students look "
            "better than they are. Bring qrels/test.tsv."
        )
    if rows[0].is_judged_by_teacher:
        lines.append("The teacher judged these queries, not people: the numbers say how far a system ranks as it does.")
    lines += legend_of_tests(rows)
    if marked is not None:
        lines.append(f"{CHAMPION_MARK} champion: what search uses")
    return "\n".join([*lines, note] if note else lines)
