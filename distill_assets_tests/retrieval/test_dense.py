"""Exact dense search against a naive oracle and hand-worked numbers, whatever the blocks and the precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.retrieval import dense
from distill_assets.retrieval.dense import search_dense
from distill_assets.retrieval.rankings import Ranking

small = settings(max_examples=60, deadline=None)


def search(queries: np.ndarray, docs: np.ndarray, doc_ids: list[str], k: int, memory_mb: float = 256) -> list[Ranking]:
    """Dense search as rankings; little memory means small blocks."""
    return search_dense(queries, docs, doc_ids, k=k, memory_mb=memory_mb).rankings(doc_ids)


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
    found = search(np.array([[1, 2]], dtype=np.float32), docs, ["a", "b", "c", "d"], k=3)
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
    whole = search(queries, docs, doc_ids, k)
    for memory_mb in (1e-6, 0.001, 0.01):  # from one document and one query at a time
        assert search(queries, docs, doc_ids, k, memory_mb) == whole
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
    found = search(queries, docs, doc_ids, k, data.draw(st.sampled_from([1e-6, 0.001, 1])))
    assert found == naive_search(queries, docs, doc_ids, k)


def test_search_dense_is_not_misled_by_the_rounding_of_the_matrix_product() -> None:
    """1e8 + 1 - 1e8 is 0 in float32 and 1 in truth: selecting by the float32 product alone returns one of the 100 others."""
    docs = np.array([[1e8, 1.0, -1e8]] + [[0.5, 0.0, 0.0]] * 100, dtype=np.float32)
    assert search(np.ones((1, 3), np.float32), docs, [f"d{i}" for i in range(101)], k=1) == [[("d0", 1.0)]]


@pytest.mark.parametrize("scale", [1e-25, 1e15, 1e25])
def test_search_dense_keeps_its_error_bound_at_extreme_scales(scale: float) -> None:
    """Squares under- or overflow in float32: a bound of 0 or NaN would drop documents without a word."""
    rng = np.random.default_rng(0)
    distinct, queries = (rng.normal(size=(n, 65)).astype(np.float32) for n in (5, 20))
    # A hundred documents around each, a few units in the last place apart: only the error bound keeps the right ones.
    docs = np.repeat(distinct, 100, axis=0) * (1 + rng.integers(0, 4, size=(500, 65)) * 1.2e-7).astype(np.float32)
    docs = docs * np.float32(scale)
    ids = [f"d{i:03d}" for i in range(500)]
    found = search(queries, docs, ids, k=5, memory_mb=0.01)
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
    with pytest.raises(ValueError, match="memory_mb above 0, got k = 1, memory_mb = 0"):
        search_dense(good, good, ["a", "b"], k=1, memory_mb=0)


def test_search_dense_without_documents_or_queries() -> None:
    """An empty corpus answers every query with nothing; the number of answers is still the number of queries."""
    empty = np.empty((0, 3), dtype=np.float32)
    assert search(np.ones((2, 3), dtype=np.float32), empty, [], k=5) == [[], []]
    assert search(empty, np.ones((1, 3), dtype=np.float32), ["a"], k=5) == []


def test_documents_that_tie_beyond_the_selection_are_all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 equal documents tie at the cut: the first selection holds a random few of them. Other queries are not searched again."""
    docs = np.concatenate([np.full((5000, 2), 0.1), np.eye(2)[np.arange(100) % 2]]).astype(np.float32)
    docs[5000:] *= np.linspace(0.5, 0.9, 100, dtype=np.float32)[:, None]
    ids = [f"{i:04d}" for i in range(5100)]
    asked: list[tuple[int, int]] = []
    select = dense._select
    monkeypatch.setattr(
        dense, "_select", lambda q, d, width, *rest: asked.append((len(q), width)) or select(q, d, width, *rest)
    )
    queries = np.array([[1, 0], [-1, -1]], np.float32)
    assert search(queries, docs, ids, k=2) == naive_search(queries, docs, ids, 2)
    assert [ranking[0][0] for ranking in search(queries, docs, ids, k=2)] == ["5098", "4999"]
    assert asked[:5] == [(2, 18), (1, 72), (1, 288), (1, 1152), (1, 4608)]


def test_a_process_that_allows_coarse_products_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 or bf16 products, which training code may allow on a GPU, would drop near twins. Here factors are rounded to bf16."""
    rng = np.random.default_rng(3)
    docs = (rng.normal(size=64) * (1 + 2.0**-12 * rng.normal(size=(2000, 64)))).astype(np.float32)
    queries, ids = rng.normal(size=(64, 64)).astype(np.float32), [f"d{i}" for i in range(2000)]
    exact = search(queries, docs, ids, k=10)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: torch.mm(a.bfloat16().float(), b.bfloat16().float()))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    assert search(queries, docs, ids, k=10) == exact


def test_search_keeps_to_its_memory() -> None:
    """Blocks that ignore the setting would be killed on a small machine: whole products of these sizes take 80 MB."""
    rng = np.random.default_rng(0)
    docs, queries = rng.normal(size=(20_000, 16)).astype(np.float32), rng.normal(size=(1000, 16)).astype(np.float32)
    ids = [f"{i:05d}" for i in range(20_000)]
    whole = search(queries, docs, ids, k=5)
    shapes: list[tuple[int, ...]] = []
    topk = torch.Tensor.topk
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.Tensor, "topk", lambda self, *a, **k: shapes.append(tuple(self.shape)) or topk(self, *a, **k)
        )
        assert search(queries, docs, ids, k=5, memory_mb=4) == whole
    assert max(4 * rows * columns for rows, columns in shapes) <= 2**20


@pytest.mark.parametrize("num_columns", [640, 641])
def test_groups_of_products_hold_the_highest_ones(num_columns: int) -> None:
    """Otherwise a document that stands second in its group is never a candidate, and no bound speaks of it."""
    products = torch.from_numpy(np.random.default_rng(1).integers(-9, 9, (50, num_columns)).astype(np.float32))
    products[0] = torch.arange(num_columns)  # one row without ties, its highest neighbours in groups of their own
    products[1, ::80] = 10.0  # 8 highest in one group of 640 columns
    values, columns = dense._top(products, 24)
    assert torch.equal(values.sort(descending=True).values, products.topk(24).values)
    assert torch.equal(products.gather(1, columns), values)
    assert all(len(set(row)) == 24 for row in columns.tolist())
