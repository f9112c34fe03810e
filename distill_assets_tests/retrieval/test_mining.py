"""Hard negatives, one filter at a time and together."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.retrieval.mining import (
    Candidate,
    MiningRules,
    is_near_identical,
    mine_hard_negatives,
    pool_candidates,
    shingles,
)

RULES = MiningRules(num_negatives=2)
TEN = "one two three four five six seven eight nine ten"


def ids(candidates: Sequence[Candidate]) -> list[str]:
    """The documents, in order."""
    return [candidate.doc_id for candidate in candidates]


def test_a_pool_keeps_where_each_came_from() -> None:
    """Document b is second in BM25 and first in dense: swapped or 0-based ranks would mislead the reader."""
    fused = pool_candidates(["a", "b"], ["b", "c"], 2)
    assert fused[0] == Candidate("b", 1, "both", 2, 1, 1 / 62 + 1 / 61)
    assert fused[1] == Candidate("a", 2, "bm25", 1, None, 1 / 61)
    assert fused[2] == Candidate("c", 3, "dense", None, 2, 1 / 62)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        # 8 shingles of 3; the last word changed leaves 7 common of 9: 0.778.
        ("one two three four five six seven eight nine TWELVE", False),
        # Case and punctuation are no difference: 8 of 8.
        ("One, two: three four (five) six seven eight nine ten.", True),
        # An eleventh word: 8 common of 9, 0.889, just below 0.9.
        (TEN + " eleven", False),
        # The same words in another order share no shingle; a bag of words would say 1.0.
        ("ten nine eight seven six five four three two one", False),
    ],
)
def test_is_near_identical_by_hand(other: str, expected: bool) -> None:
    """The cut decides which unjudged copies of the answer stay in as negatives."""
    assert is_near_identical(TEN, other, RULES) is expected
    assert is_near_identical(other, TEN, RULES) is expected


def test_is_near_identical_includes_the_threshold_itself() -> None:
    """19 shingles against 18 of them: 18 / 19 exactly; float rounding at the boundary must not exclude it."""
    words = [chr(ord("a") + i) * 3 for i in range(21)]
    rules = MiningRules(near_identical_jaccard=18 / 19)
    assert len(shingles(" ".join(words), 3)) == 19
    assert is_near_identical(" ".join(words), " ".join(words[:-1]), rules)
    assert not is_near_identical(" ".join(words), " ".join(words[:-2]), rules)


def test_is_near_identical_of_short_and_wordless_texts() -> None:
    """Two texts without words share nothing and are not twins; equal texts always are; two words are one shingle."""
    assert not is_near_identical("+++", "---", RULES)
    assert is_near_identical("+++", "+++", RULES)
    assert is_near_identical("numpy cummax", "NumPy Cummax", RULES)
    assert not is_near_identical("numpy cummax", "numpy cummin", RULES)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from("abc"), max_size=12),
    st.lists(st.sampled_from("abc"), max_size=12),
    st.sampled_from([0.25, 0.5, 0.75, 0.9, 1.0]),
)
def test_is_near_identical_equals_plain_jaccard(first: list[str], second: list[str], cut: float) -> None:
    """The early exit by size must never decide otherwise than the full comparison."""

    def triples(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))} if words else set()

    a, b = triples(first), triples(second)
    expected = first == second or (bool(a | b) and len(a & b) / len(a | b) >= cut)
    rules = MiningRules(near_identical_jaccard=cut)
    assert is_near_identical(" ".join(first), " ".join(second), rules) == expected


def test_a_copy_of_any_positive_is_left_out() -> None:
    """Comparing with the first positive only would keep a copy of the second."""
    texts = {"p1": "alpha beta gamma delta", "p2": TEN, "copy": TEN.upper(), "other": "a text about something else"}
    mined = mine_hard_negatives(["copy", "other"], [], positives={"p1", "p2"}, texts=texts, rules=RULES)
    assert [(c.doc_id, c.rank, c.bm25_rank) for c in mined] == [("other", 1, 2)]


def test_a_ranked_document_without_text_is_named() -> None:
    """A stale index names documents that are gone; training pairs of empty texts would follow."""
    with pytest.raises(ValueError, match="'gone' is ranked but has no text"):
        mine_hard_negatives(["gone"], [], positives={"p"}, texts={"p": TEN}, rules=RULES)


def test_a_pool_is_the_tops_of_both_rankings_and_no_more() -> None:
    """A judged document that is put in, or a top that is left out, is another search than the leaderboard's."""
    pool = pool_candidates(["a", "b", "c"], ["d", "a", "e"], 2)
    assert [(c.doc_id, c.rank, c.source) for c in pool] == [("a", 1, "both"), ("d", 2, "dense"), ("b", 3, "bm25")]


def test_mine_hard_negatives_end_to_end() -> None:
    """Document p judged, q the query's own, twin a copy of p: what remains comes in fused order, ranked anew, p with it."""
    texts = {
        "p": TEN,
        "twin": TEN + "!",
        "q": "the query",
        "n1": "first negative",
        "n2": "second negative",
        "n3": "third",
    }
    mined = mine_hard_negatives(["p", "n1", "n3"], ["twin", "n2", "n1", "p"], positives={"p"}, texts=texts, rules=RULES)
    # p: 1/61 + 1/64 = 0.03202; n1: 1/62 + 1/63 = 0.03200; n2: 1/62 = 0.01613; n3: 1/63 = 0.01587.
    assert [(c.doc_id, c.rank, c.source, c.bm25_rank, c.dense_rank) for c in mined] == [
        ("p", 1, "both", 1, 4),
        ("n1", 2, "both", 2, 3),
        ("n2", 3, "dense", None, 2),
    ]
    assert [c.rrf_score for c in mined] == pytest.approx([1 / 61 + 1 / 64, 1 / 62 + 1 / 63, 1 / 62])


def test_what_a_person_judged_not_relevant_comes_first() -> None:
    """Somebody has said of it that it is wrong; of a mined document nobody knows: many are answers that were not judged."""
    texts = {d: f"text {d}" for d in ("p", "n1", "n2", "bad", "unfound")}
    mined = mine_hard_negatives(
        ["n1", "p", "n2"], ["n1", "bad"], positives={"p"}, rejected=("bad", "p", "unfound"), texts=texts, rules=RULES
    )
    assert [(c.doc_id, c.rank, c.source) for c in mined] == [
        ("bad", 1, "dense"),
        ("unfound", 2, "judged"),
        ("p", 3, "bm25"),
    ]
    one = replace(RULES, num_negatives=4)
    mined = mine_hard_negatives(["n1", "p", "n2"], [], positives={"p"}, rejected=("bad",), texts=texts, rules=one)
    assert ids(mined) == ["bad", "n1", "p", "n2"]


def test_mine_hard_negatives_with_a_positive_that_left_the_corpus() -> None:
    """A judgement outlives its document: mining goes on without it."""
    mined = mine_hard_negatives(["n1"], [], positives={"gone"}, texts={"n1": "text"}, rules=RULES)
    assert ids(mined) == ["n1"]


def test_mining_compares_no_more_candidates_than_it_needs() -> None:
    """Depth 1,000 for 2 negatives must not cost 1,000 comparisons: what is past the last one kept is never read."""
    asked: list[str] = []

    class Recording(dict[str, str]):
        def get(self, key: str, default: str | None = None) -> str | None:  # type: ignore[override]
            asked.append(key)
            return super().get(key, default)

    texts = Recording({f"d{i}": f"document number {i}" for i in range(1000)})
    mine_hard_negatives(list(texts), [], positives={"d0"}, texts=texts, rules=RULES)
    assert asked == ["d1", "d2"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_negatives", 0),
        ("shingle_size", 0),
        ("rrf_k", 0),
        ("near_identical_jaccard", 0.0),
        ("near_identical_jaccard", 1.1),
    ],
)
def test_mining_rules_refuse_values_that_mean_nothing(field: str, value: float) -> None:
    """Jaccard 0 would call every document a twin and leave no negative; the error must name the field."""
    with pytest.raises(ValueError, match=f"{field} must be"):
        MiningRules(**{field: value})  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.permutations("abcdefgh"), st.permutations("abcdefgh"), st.sets(st.sampled_from("abcdefgh")), st.integers(1, 9)
)
def test_mined_are_the_positives_found_and_the_best_of_the_others(
    bm25: list[str], dense: list[str], positives: set[str], wanted: int
) -> None:
    """Whatever the rankings: distinct, every answer found, ranked 1..n, best fused score first."""
    texts = {d: f"text {d}" for d in "abcdefgh"}
    rules = MiningRules(num_negatives=wanted)
    mined = mine_hard_negatives(bm25[:5], dense[:5], positives=positives, texts=texts, rules=rules)
    found = set(bm25[:5]) | set(dense[:5])
    assert set(ids(mined)) & positives == found & positives
    negatives = [d for d in ids(mined) if d not in positives]
    everything = [c.doc_id for c in pool_candidates(bm25, dense, 5) if c.doc_id not in positives]
    assert negatives == everything[:wanted]
    assert [c.rank for c in mined] == list(range(1, len(mined) + 1))
    assert mined == sorted(mined, key=lambda c: (c.rrf_score, c.doc_id), reverse=True)
