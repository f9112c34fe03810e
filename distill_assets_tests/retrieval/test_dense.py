"""Exact dense search against a naive oracle and hand-worked numbers, whatever the blocks and the precision."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.retrieval.dense import Blocks, search_dense, search_dense_rows
from distill_assets.retrieval.rankings import Ranking

small = settings(max_examples=60, deadline=None)


def naive_search(queries: np.ndarray, docs: np.ndarray, doc_ids: list[str], k: int) -> list[Ranking]:
    """All pairs in float64, rounded to float32, every document sorted."""
    scores = (queries.astype(np.float64) @ docs.astype(np.float64).T).astype(np.float32)
    return [
        sorted(zip(doc_ids, map(float, row), strict=True), key=lambda p: (p[1], p[0]), reverse=True)[:k]
        for row in scores
    ]


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
    blocks = Blocks(data.draw(st.integers(1, num_docs)), data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8)))
    assert search_dense(queries, docs, doc_ids, k=k, blocks=blocks) == whole
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
    found = search_dense(queries, docs, doc_ids, k=k, blocks=Blocks(data.draw(st.integers(1, 50)), 2, 3))
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
    found = search_dense(queries, docs, ids, k=5, blocks=Blocks(7, 20, 20))
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
    with pytest.raises(NonFiniteError, match="NaN or an infinity"):
        search_dense(bad, good, ["a", "b"], k=1)
    with pytest.raises(NonFiniteError, match="1 inner products"):
        search_dense(np.full((1, 3), 1e20, np.float32), np.full((1, 3), 1e20, np.float32), ["a"], k=1)
    with pytest.raises(ValueError, match="block of docs must be at least 1"):
        Blocks(0, 1, 1)
    with pytest.raises(ValueError, match="memory_mb must be at least 1"):
        Blocks.within(0, dimension=3, k=1)


def test_search_dense_without_documents_or_queries() -> None:
    """An empty corpus answers every query with nothing; the number of answers is still the number of queries."""
    empty = np.empty((0, 3), dtype=np.float32)
    assert search_dense(np.ones((2, 3), dtype=np.float32), empty, [], k=5) == [[], []]
    assert search_dense(empty, np.ones((1, 3), dtype=np.float32), ["a"], k=5) == []


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_bf16_products_only_select(data: st.DataObject) -> None:
    """bf16 keeps 8 bits: if its scores ordered, or its error bound were short, near twins would swap or fall out of the cut.

    Scores of every sign and scale, near twins one unit in the last place of bf16 apart, floors above, below and at 0.
    """
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dimension, num_docs = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 300))
    distinct = rng.normal(size=(data.draw(st.integers(1, 40)), dimension))
    spread = data.draw(st.sampled_from([0.0, 1e-6, 2.0**-9, 0.1]))
    docs = distinct[rng.integers(0, len(distinct), num_docs)] * (1 + spread * rng.normal(size=(num_docs, dimension)))
    docs = (docs * data.draw(st.sampled_from([1e-3, 1.0, -1.0, 100.0]))).astype(np.float32)
    queries = (rng.normal(size=(64, dimension)) + data.draw(st.sampled_from([0.0, 2.0]))).astype(np.float32)
    doc_ids, k = [f"d{i}" for i in rng.permutation(num_docs)], data.draw(st.integers(1, 40))
    blocks = Blocks(data.draw(st.integers(1, num_docs)), data.draw(st.integers(1, 64)), data.draw(st.integers(64, 99)))
    exact = search_dense(queries, docs, doc_ids, k=k, blocks=Blocks(7, 64, 64))
    assert search_dense(queries, docs, doc_ids, k=k, blocks=blocks, precision="bf16") == exact


def test_one_bit_patterns_keep_the_order_of_the_scores() -> None:
    """Negative floats sort backwards as integers: a floor below 0 would keep the worst documents instead of the best."""
    docs = np.linspace(-1, 1, 41, dtype=np.float32)[:, None]
    ids = [f"{i:02d}" for i in range(41)]
    for sign in (1, -1):
        found = search_dense_rows(np.full((64, 1), sign, np.float32), docs - 2, ids, k=3, precision="bf16")
        assert found.rows[0].tolist() == ([40, 39, 38] if sign == 1 else [0, 1, 2])


def test_many_documents_at_the_cut_stay_within_the_limit() -> None:
    """5,000 equal documents tie at the cut: keeping them all breaks the memory bound, dropping some at random the order."""
    docs = np.ones((5000, 4), dtype=np.float32)
    ids = [f"{i:04d}" for i in range(5000)]
    found = search_dense(np.ones((3, 4), np.float32), docs, ids, k=2, blocks=Blocks(100, 3, 3))
    assert found == [[("4999", 4.0), ("4998", 4.0)]] * 3


def test_blocks_follow_the_memory() -> None:
    """Blocks that ignore the setting would be killed on a small machine; 1 MB must still give blocks that work."""
    for memory_mb in (1, 16, 256, 4096):
        blocks = Blocks.within(memory_mb, dimension=384, k=100)
        budget = memory_mb * 2**20
        assert 5 * blocks.docs * blocks.queries <= budget // 4
        assert 4 * blocks.docs * 384 <= budget // 4
        assert blocks.queries <= blocks.queries_per_pass
