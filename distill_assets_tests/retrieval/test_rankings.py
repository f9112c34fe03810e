"""The total order and fusion, against naive oracles and hand-worked numbers."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.records import Query, is_own_document, normalise
from distill_assets.retrieval.rankings import fuse_reciprocal_rank, fuse_runs, place_unscored_last, rank, without_own

small = settings(max_examples=60, deadline=None)


def test_rank_breaks_ties_by_doc_id_descending_at_the_cut() -> None:
    """With k = 2 a partial sort would keep any two of the three documents at 1.0; trec_eval keeps d9 and d2."""
    assert rank(["d10", "d2", "d9", "d1"], [1.0, 1.0, 1.0, 0.5], 2) == [("d9", 1.0), ("d2", 1.0)]


def test_rank_orders_ids_like_utf8_bytes() -> None:
    """trec_eval compares bytes: a locale-aware order would put 'é' before 'z'."""
    assert [d for d, _ in rank(["z", "é", "Z", "中"], [0.0] * 4, 4)] == ["中", "é", "z", "Z"]


@small
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=30), st.integers(1, 40))
def test_rank_equals_a_full_sort(scores: list[int], k: int) -> None:
    """A partition that is off by one loses a document only at some sizes and ties."""
    ids = [f"d{i}" for i in range(len(scores))]
    expected = sorted(zip(ids, map(float, scores), strict=True), key=lambda p: (p[1], p[0]), reverse=True)[:k]
    assert rank(ids, scores, k) == expected


def test_rank_refuses_what_has_no_order() -> None:
    """NaN compares false with everything: sorted() would return some order without a word."""
    with pytest.raises(NonFiniteError, match="1 of 2 scores"):
        rank(["a", "b"], [0.5, float("nan")], 1)
    with pytest.raises(ShapeError, match=r"\(2,\) for 3 documents"):
        rank(["a", "b", "c"], [0.5, 0.1], 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        rank(["a"], [0.5], 0)


def test_reciprocal_rank_fusion_by_hand() -> None:
    """Ranks from 1, k = 60: b = 1/62 + 1/61, a = 1/61, d = 1/62, c = 1/63; ranks from 0 would give b = 1/61 + 1/60."""
    fused = fuse_reciprocal_rank([["a", "b", "c"], ["b", "d"]])
    assert [doc_id for doc_id, _ in fused] == ["b", "a", "d", "c"]
    assert [score for _, score in fused] == pytest.approx([0.03252247, 0.01639344, 0.01612903, 0.01587302], abs=1e-8)


def test_reciprocal_rank_fusion_breaks_ties_by_doc_id_descending() -> None:
    """Two systems that disagree symmetrically tie: the order of the systems must not decide."""
    assert [d for d, _ in fuse_reciprocal_rank([["a", "b"], ["b", "a"]])] == ["b", "a"]


def test_reciprocal_rank_fusion_refuses_repeats() -> None:
    """A document listed twice by one system would collect its vote twice."""
    with pytest.raises(ValueError, match="3 documents holds only 2 distinct"):
        fuse_reciprocal_rank([["a", "b", "a"]])


rankings = st.lists(st.permutations("abcdef").flatmap(lambda p: st.integers(0, 6).map(lambda n: p[:n])), max_size=5)


@small
@given(rankings, st.randoms(use_true_random=False), st.integers(1, 100))
def test_reciprocal_rank_fusion_is_symmetric(lists: list[list[str]], random: object, k: int) -> None:
    """Float addition depends on its order: two equal documents could swap when a system is listed first."""
    shuffled = list(lists)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    fused = fuse_reciprocal_rank(lists, k=k)
    assert fuse_reciprocal_rank(shuffled, k=k) == fused
    assert {d for d, _ in fused} == {d for ranking in lists for d in ranking}


def test_runs_are_fused_query_by_query() -> None:
    """d1: 1/62 + 1/61, d3: 1/61 + 1/62, equal, so the higher id is first; d9 and d2 have 1/63. Cut to three."""
    bm25 = {"q": [("d3", 3.0), ("d1", 2.0), ("d9", 1.0)], "empty": []}
    dense = {"q": [("d1", 0.9), ("d3", 0.8), ("d2", 0.7)], "empty": [("d5", 0.1)]}
    fused = fuse_runs(bm25, dense, 3)
    assert fused == {
        "q": [("d3", 1 / 61 + 1 / 62), ("d1", 1 / 61 + 1 / 62), ("d9", 1 / 63)],
        "empty": [("d5", 1 / 61)],
    }


def test_a_query_that_is_a_document_does_not_find_itself() -> None:
    """ArguAna's queries are documents of the corpus: found first, each halves its own nDCG."""
    queries = [Query("d1", "To  BE or not", "test"), Query("q", "to be", "test")]
    contents = {"d1": "Hamlet To be or not", "d2": "to be or not", "d3": "to be or not to be"}
    ranking = [("d1", 2.0), ("d2", 1.0), ("d3", 0.5)]
    assert without_own(queries, [ranking, ranking], contents, {}) == {"d1": [("d3", 0.5)], "q": ranking}


def test_without_own_keeps_what_is_judged_and_ids_that_only_coincide() -> None:
    """A FAQ that numbers questions and answers alike had every answer taken out of every ranking: all systems at 0.000."""
    queries = [Query("1", "where is it", "test"), Query("2", "one word", "test")]
    contents = {"1": "in the attic", "2": "one word"}
    ranking = [("1", 2.0), ("2", 1.0)]
    found = without_own(queries, [ranking, ranking], contents, {"2": {"2": 1}})
    assert found == {"1": ranking, "2": ranking}


def test_without_own_takes_all_passages_of_a_document_that_is_the_query() -> None:
    """ArguAna's arguments are longer than a passage: none holds the query, and all would be found above every answer."""
    first = "the first half of an argument that goes on and on, with all its reasons and some more"
    second = "and its second half, which is as long as the first one, and even a little longer than that"
    queries = [Query("d", f"{first} {second}", "test"), Query("e", "where is it", "test")]
    contents = {"d#1": f"A title {first}", "d#2": f"A title {second}", "d#3": "it", "e#1": f"x {second}", "e#2": "it"}
    parent_of = {doc_id: doc_id[0] for doc_id in contents}
    ranking = [(doc_id, 1.0) for doc_id in contents]
    assert without_own(queries, [ranking, ranking], contents, {}, parent_of) == {
        "d": [("e#1", 1.0), ("e#2", 1.0)],
        "e": ranking,  # "it" is in the query by chance: the two are numbered alike
    }
    for answer in ("d", "d#1"):  # a document is judged, or its passages
        judged = {"d": {answer: 1, "d#2": 1}}
        assert without_own(queries[:1], [ranking], contents, judged, parent_of) == {"d": ranking}


@given(st.text(max_size=30), st.text(max_size=30))
def test_own_is_equality_of_normalised_texts(text: str, content: str) -> None:
    """The short look at a document's beginning must not decide otherwise than the whole comparison."""
    for asked, found in ((text, content), (text, f"  {text.upper()}"), (f"{text} {content}", f"{text}\n{content} ")):
        assert is_own_document(Query("q", asked, "test"), "d", found, ()) == (normalise(asked) == normalise(found))


def test_what_has_no_score_comes_last_and_moves_no_score() -> None:
    """A NaN ranks at random, and a 0 for it would rank above every negative logit."""
    assert place_unscored_last([-2.0, math.nan, 5.0, math.nan]).tolist() == [-2.0, -3.0, 5.0, -3.0]
    assert place_unscored_last([math.nan, math.nan]).tolist() == [0.0, 0.0]
