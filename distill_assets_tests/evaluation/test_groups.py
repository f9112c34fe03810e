"""Groups of queries: the rules, what a champion loses, and the table, with numbers worked by hand."""

import pytest

from distill_assets.evaluation.groups import group_table, groups_of, loss_sentence, lost_groups
from distill_assets.records import Query


def label_of(rule: str, text: str) -> str:
    """The label of one query; a second one of another kind makes two groups."""
    queries = [
        Query("q", text, "dev"),
        *(Query(f"o{i}", other, "dev") for i, other in enumerate(("a", "a `b`" + " c" * 20))),
    ]
    origins = {query.query_id: ("day", "") for query in queries}
    return groups_of([rule], queries, origins)[rule]["q"]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a b c d e", "short (up to 5 words)"),
        ("a b c d e f", "medium (6 to 12)"),
        ("a b c d e f g h i j k l", "medium (6 to 12)"),
        ("a b c d e f g h i j k l m", "long (13 or more)"),
        ("如何计算数组的累积最大值", "medium (6 to 12)"),  # 12 letters
    ],
)
def test_length_has_its_bounds(text: str, said: str) -> None:
    """A Chinese question counted between spaces is one word, however long: all of them would be short."""
    assert label_of("length", text) == said


@pytest.mark.parametrize(
    "text", ["use read_csv", "np.abs of x", "the DataFrame", "getItem twice", "call it()", "a[0]", "`x`", "{}"]
)
def test_code_tokens_are_seen(text: str) -> None:
    """A rule that sees backticks alone finds no code in queries that people type."""
    assert label_of("code", text) == "code token"


@pytest.mark.parametrize(
    "text", ["e.g. a sum, i.e. one", "mRNA in U.S. labs", "end. Next one", "two (or more)", "a_ b", "iPhone", "BM25"]
)
def test_prose_is_no_code(text: str) -> None:
    """With every dot and bracket a code token, the group says nothing about code."""
    assert label_of("code", text) == "plain words"


def test_labels_of_source_and_batch_and_rules_with_one_group() -> None:
    """A rule that puts all into one group would repeat the leaderboard; a query without a label belongs to a group, too."""
    queries = [Query("1", "same", "dev"), Query("2", "same", "dev")]
    found = groups_of(["source", "batch", "length", "code"], queries, {"1": ("a", "faq"), "2": ("b", "")})
    assert found == {"source": {"1": "faq", "2": "(no label)"}, "batch": {"1": "a", "2": "b"}}
    assert groups_of(["source", "batch"], queries, {"1": ("a", ""), "2": ("a", "")}) == {}
    assert groups_of([], queries, {}) == groups_of(["length"], [], {}) == {}


def values(long: float, short: float, few: float) -> dict[str, float]:
    """20 long, 20 short and 19 other queries, each of one value."""
    groups = (("long", 20, long), ("short", 20, short), ("few", 19, few))
    return {f"{name}{i:02d}": value for name, count, value in groups for i in range(count)}


LABELS = {query_id: query_id[:-2] for query_id in values(0, 0, 0)}


def test_only_groups_that_are_significantly_worse_and_large_enough_are_lost() -> None:
    """On average the candidate gains here; long queries lose 0.1 on each. 19 queries are too few to be named, whatever they lose.

    Two tests: p = 1 / 10,001 each, and 2 / 10,001 corrected.
    """
    groups = {"length": LABELS}
    found = lost_groups(groups, values(0.4, 0.9, 0.0), values(0.5, 0.5, 1.0))
    assert found.keys() == {"length: long"}
    assert found["length: long"].difference == pytest.approx(-0.1)
    assert found["length: long"].p_holm == pytest.approx(2 / 10_001)
    assert loss_sentence(found) == (
        " It is significantly worse than the present champion on these groups of dev queries: length: long (-0.100, p < 0.001). "
        "p is Holm-corrected."
    )
    assert lost_groups(groups, values(0.5, 0.5, 0.5), values(0.5, 0.5, 1.0)) == {} == lost_groups({}, {}, {})
    assert loss_sentence({}) == ""


def test_the_correction_runs_over_the_groups_of_all_rules() -> None:
    """Ten rules of two groups are twenty chances to find a loss. Six losses have p 2 / 64; beside a second group it is twice that."""
    base = values(0.5, 0.5, 0.5)
    ours = base | {f"long{i:02d}": 0.4 for i in range(6)}  # p = 2 / 64
    assert lost_groups({"length": LABELS | {q: "short" for q in base if q.startswith("few")}}, ours, base) == {}
    only = {q: label for q, label in LABELS.items() if label == "long"}
    (found,) = lost_groups({"length": only}, ours, base).values()
    assert found.p_holm == 2 / 64


def test_the_table_has_a_line_per_system_and_says_few() -> None:
    """A mean over 19 queries beside one over 200 reads like a finding; a difference from another system answers another question."""
    measured = {"untouched_student": values(0.5, 0.5, 0.5), "kl": values(0.4, 0.75, 1.0)}
    table = group_table("length", LABELS, ["kl", "untouched_student", "gone"], measured)
    assert table is not None and (table.rule, table.num_more) == ("length", 0)
    assert table.cells == [
        ["system", "long: 20 queries", "short: 20 queries", "few: 19 queries"],
        ["kl", "0.400 (-0.100, -0.100 to -0.100)", "0.750 (+0.250, 0.250 to 0.250)", "few"],
        ["untouched_student", "0.500", "0.500", "few"],
        ["gone", "-", "-", "-"],
    ]


def test_a_table_of_few_alone_is_none_and_many_groups_are_counted() -> None:
    """A label per query, such as an id, would make a table of a thousand columns."""
    ids = {f"q{i}": f"label {i}" for i in range(30)}
    assert group_table("source", ids, ["kl"], {"kl": dict.fromkeys(ids, 0.5)}) is None
    large = {f"r{i}": "large" for i in range(20)} | ids
    table = group_table("source", large, ["kl"], {"kl": dict.fromkeys(large, 0.5)})
    assert table is not None and (len(table.cells[0]), table.cells[0][1], table.num_more) == (
        9,
        "large: 20 queries",
        23,
    )
