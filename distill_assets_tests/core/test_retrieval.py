"""The total order, exact search and fusion, against naive oracles and hand-worked numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.core.errors import NonFiniteError, ShapeError
from distill_assets.core.retrieval import Ranking, fuse_reciprocal_rank, rank, search_dense

small = settings(max_examples=60, deadline=None)


def naive_search(queries: np.ndarray, docs: np.ndarray, doc_ids: list[str], k: int) -> list[Ranking]:
    """All pairs in float64, rounded to float32, every document sorted."""
    scores = (queries.astype(np.float64) @ docs.astype(np.float64).T).astype(np.float32)
    return [
        sorted(zip(doc_ids, map(float, row), strict=True), key=lambda p: (p[1], p[0]), reverse=True)[:k]
        for row in scores
    ]


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


def test_search_dense_by_hand() -> None:
    """Inner products of (1, 2): (3, 0) -> 3, (0, 1) -> 2, (1, 1) -> 3, (-1, 0) -> -1; cosine would put b first."""
    docs = np.array([[3, 0], [0, 1], [1, 1], [-1, 0]], dtype=np.float32)
    found = search_dense(np.array([[1, 2]], dtype=np.float32), docs, ["a", "b", "c", "d"], k=3)
    assert found == [[("c", 3.0), ("a", 3.0), ("b", 2.0)]]


@small
@given(st.data())
def test_search_dense_does_not_depend_on_block_sizes(data: st.DataObject) -> None:
    """Ties across a block border, and sums that depend on the shape of the product, must not move a document.

    Few distinct documents, repeated, give many exact ties; real-valued ones give scores that differ in the last bit.
    """
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dimension, num_docs = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 60))
    distinct = rng.normal(size=(data.draw(st.integers(1, 12)), dimension)).astype(np.float32)
    near = np.nextafter(
        distinct, np.float32(9), dtype=np.float32
    )  # differ from `distinct` by one unit in the last place
    docs = np.concatenate([distinct, near])[rng.integers(0, 2 * len(distinct), num_docs)]
    queries = rng.normal(size=(data.draw(st.integers(1, 7)), dimension)).astype(np.float32)
    doc_ids = [f"d{i}" for i in rng.permutation(num_docs)]
    k = data.draw(st.integers(1, num_docs + 2))
    whole = search_dense(queries, docs, doc_ids, k=k)
    blocks = {"block_docs": data.draw(st.integers(1, num_docs)), "block_queries": data.draw(st.integers(1, 8))}
    assert search_dense(queries, docs, doc_ids, k=k, **blocks) == whole
    scores = [[score for _, score in ranking] for ranking in naive_search(queries, docs, doc_ids, k)]
    assert [len(ranking) for ranking in whole] == [min(k, num_docs)] * len(queries)
    np.testing.assert_allclose([[score for _, score in ranking] for ranking in whole], scores, rtol=1e-6, atol=1e-6)


@small
@given(st.data())
def test_search_dense_equals_a_full_sort_with_exact_ties(data: st.DataObject) -> None:
    """Small integers make every product exact, so ids and scores must equal the oracle's, ties at the cut included."""
    num_docs, dimension = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    cells = st.integers(-2, 2)
    docs = np.array(
        data.draw(
            st.lists(st.lists(cells, min_size=dimension, max_size=dimension), min_size=num_docs, max_size=num_docs)
        )
    )
    queries = np.array(
        data.draw(st.lists(st.lists(cells, min_size=dimension, max_size=dimension), min_size=1, max_size=4))
    )
    docs, queries = docs.astype(np.float32), queries.astype(np.float32)
    doc_ids, k = [f"d{i}" for i in range(num_docs)], data.draw(st.integers(1, 10))
    found = search_dense(queries, docs, doc_ids, k=k, block_docs=data.draw(st.integers(1, 50)), block_queries=2)
    assert found == naive_search(queries, docs, doc_ids, k)


def test_search_dense_is_not_misled_by_the_rounding_of_the_matrix_product() -> None:
    """1e8 + 1 - 1e8 is 0 in float32 and 1 in truth: selecting by the float32 product alone returns the wrong one."""
    docs = np.array([[1e8, 1.0, -1e8], [0.5, 0.0, 0.0]], dtype=np.float32)
    assert search_dense(np.ones((1, 3), dtype=np.float32), docs, ["a", "b"], k=1) == [[("a", 1.0)]]


@pytest.mark.parametrize("scale", [1e-25, 1e15, 1e25])
def test_search_dense_keeps_its_error_bound_at_extreme_scales(scale: float) -> None:
    """Squares under- or overflow in float32: a bound of 0 or NaN would drop documents without a word."""
    rng = np.random.default_rng(0)
    distinct, queries = (rng.normal(size=(n, 65)).astype(np.float32) for n in (5, 20))
    # Ten documents around each, a few units in the last place apart: only the error bound keeps the right ones.
    docs = np.repeat(distinct, 10, axis=0) * (1 + rng.integers(0, 4, size=(50, 65)) * 1.2e-7).astype(np.float32)
    docs = docs * np.float32(scale)
    ids = [f"d{i}" for i in range(50)]
    found = search_dense(queries, docs, ids, k=5, block_docs=7)
    assert [[d for d, _ in r] for r in found] == [[d for d, _ in r] for r in naive_search(queries, docs, ids, 5)]


def test_search_dense_refuses_bad_vectors() -> None:
    """NaN ranks at random, vectors of another model multiply only by luck, a missing id shifts every answer."""
    good = np.ones((2, 3), dtype=np.float32)
    bad = np.array([[1, np.nan, 0], [1, 0, 0]], dtype=np.float32)
    with pytest.raises(NonFiniteError, match="NaN or an infinity"):
        search_dense(good, bad, ["a", "b"], k=1)
    with pytest.raises(ShapeError, match="same model"):
        search_dense(good, np.ones((2, 4), dtype=np.float32), ["a", "b"], k=1)
    with pytest.raises(ShapeError, match="1 doc_ids for 2 document vectors"):
        search_dense(good, good, ["a"], k=1)
    with pytest.raises(ValueError, match="block_docs must be at least 1"):
        search_dense(good, good, ["a", "b"], k=1, block_docs=0)


def test_search_dense_without_documents_or_queries() -> None:
    """An empty corpus answers every query with nothing; the number of answers is still the number of queries."""
    empty = np.empty((0, 3), dtype=np.float32)
    assert search_dense(np.ones((2, 3), dtype=np.float32), empty, [], k=5) == [[], []]
    assert search_dense(empty, np.ones((1, 3), dtype=np.float32), ["a"], k=5) == []


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
