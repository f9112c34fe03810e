"""Groups of queries: what a mean over all queries hides. A rule gives each query one label; a group is the queries of one label."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill_assets.evaluation.comparison import Comparison, PerSystem, compare_family
from distill_assets.evaluation.significance import bootstrap_interval
from distill_assets.evaluation.tables import MISSING, Cells, format_difference, format_interval, format_p, format_score
from distill_assets.records import MIN_QUERIES, UNTOUCHED_STUDENT, Query, Rule
from distill_assets.retrieval.words import has_unspaced_script, words

Groups = Mapping[str, Mapping[str, str]]  # rule -> query_id -> label
_SHORT, _MEDIUM = 5, 12  # words at most; public docstrings and web questions lie around the middle one
_LENGTHS = (
    f"short (up to {_SHORT} words)",
    f"medium ({_SHORT + 1} to {_MEDIUM})",
    f"long ({_MEDIUM + 1} or more)",
)
# Backticks, a bracket that prose does not use, read_csv, np.abs (no e.g.), readCsv and DataFrame (no mRNA).
_CODE = re.compile(r"`|[\[\]{}]|\(\)|[^\W_]_[^\W_]|[A-Za-z_]\w+\.[A-Za-z_]\w+|[a-z]{2}[A-Z][a-z]")
_MAX_COLUMNS = 8
_FEW = "few"


@dataclass(frozen=True)
class GroupTable:
    """One rule: systems by the largest groups. `num_more` groups have no column."""

    rule: str
    cells: Cells
    num_more: int


def groups_of(
    rules: Sequence[Rule], queries: Sequence[Query], origins: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, str]]:
    """The label of each query, by rule. A rule that puts all queries into one group is left out.

    Args:
        rules: ``source``: the label that came with the query. ``batch``: the one that brought it. ``length``: by number of words.
            ``code``: whether it holds a code token.
        queries: all that are to be grouped.
        origins: query_id -> batch, and label of the source, empty where it gave none.
    """
    found = {rule: {q.query_id: _label(rule, q, *origins[q.query_id]) for q in queries} for rule in rules}
    return {rule: labels for rule, labels in found.items() if len(set(labels.values())) > 1}


def _label(rule: Rule, query: Query, batch: str, given: str) -> str:
    match rule:
        case "source":
            return given or "(no label)"
        case "batch":
            return batch
        case "code":
            return "code token" if _CODE.search(query.text) else "plain words"
        case "length":
            return _LENGTHS[sum(_num_words(query.text) > most for most in (_SHORT, _MEDIUM))]


def _num_words(text: str) -> int:
    """Words between spaces; in a script without spaces two letters count as one."""
    return (len(words(text)) + 1) // 2 if has_unspaced_script(text) else len(text.split())


def lost_groups(groups: Groups, candidate: Mapping[str, float], champion: Mapping[str, float]) -> dict[str, Comparison]:
    """Groups in which the candidate is significantly worse than the champion, by rule and label.

    Paired randomisation tests, Holm-corrected over all groups of all rules with at least `MIN_QUERIES` queries.

    Args:
        groups: of the queries of the other two.
        candidate: nDCG@10 by query_id.
        champion: the same queries.
    """
    members = {f"{rule}: {label}": ids for rule, labels in groups.items() for label, ids in _members(labels).items()}
    columns = {
        name: (np.array([candidate[q] for q in ids]), np.array([champion[q] for q in ids]))
        for name, ids in members.items()
        if len(ids) >= MIN_QUERIES
    }
    return {name: found for name, found in compare_family(columns).items() if found.is_worse}


def loss_sentence(lost: Mapping[str, Comparison]) -> str:
    """For the gate's decision, with a space before it; empty where no group is lost."""
    if not lost:
        return ""
    listed = "; ".join(
        f"{name} ({format_difference(x.difference)}, p {format_p(x.p_holm)})" for name, x in sorted(lost.items())
    )
    return f" It is significantly worse than the present champion on these groups of dev queries: {listed}. p is Holm-corrected."


def group_table(rule: str, labels: Mapping[str, str], systems: Sequence[str], measured: PerSystem) -> GroupTable | None:
    """Mean nDCG@10 of each system in each group, and its difference from the untouched student with a 95 % interval, not corrected.

    Args:
        rule: what made the groups.
        labels: query_id -> label, of the queries of `measured`.
        systems: one line each, in this order.
        measured: nDCG@10 by system and query.

    Returns:
        None where no group has `MIN_QUERIES` queries.
    """
    members = _members(labels)
    if max(map(len, members.values()), default=0) < MIN_QUERIES:
        return None
    shown = dict(list(members.items())[:_MAX_COLUMNS])
    header = ["system", *(f"{label}: {len(ids):,} queries" for label, ids in shown.items())]
    lines = [[name, *(_cell(name, ids, measured) for ids in shown.values())] for name in systems]
    return GroupTable(rule, [header, *lines], len(members) - len(shown))


def _members(labels: Mapping[str, str]) -> dict[str, list[str]]:
    """Label -> query ids, the largest group first; of equal ones the first by name."""
    found: dict[str, list[str]] = {}
    for query_id, label in sorted(labels.items()):
        found.setdefault(label, []).append(query_id)
    size_of = Counter(labels.values())
    return {label: found[label] for label in sorted(found, key=lambda label: (-size_of[label], label))}


def _cell(system: str, query_ids: Sequence[str], measured: PerSystem) -> str:
    if system not in measured:
        return MISSING
    if len(query_ids) < MIN_QUERIES:
        return _FEW
    own = [measured[system][query_id] for query_id in query_ids]
    mean = format_score(sum(own) / len(own))
    if system == UNTOUCHED_STUDENT or UNTOUCHED_STUDENT not in measured:
        return mean
    gains = [value - measured[UNTOUCHED_STUDENT][query_id] for value, query_id in zip(own, query_ids, strict=True)]
    return f"{mean} ({format_difference(sum(gains) / len(gains))}, {format_interval(*bootstrap_interval(gains))})"
