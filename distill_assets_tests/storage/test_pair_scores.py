"""The pair-score store: a teacher is asked once per pair, whatever kills, grows or repeats a run."""

from pathlib import Path

import pyarrow as pa
import pytest

from distill_assets.core.errors import NonFiniteError, WarehouseError
from distill_assets.storage.pair_scores import PairScoreStore
from distill_assets.storage.warehouse import Warehouse


@pytest.fixture
def store(tmp_path: Path) -> PairScoreStore:
    """An empty store."""
    return PairScoreStore(Warehouse(tmp_path / "w.duckdb"))


def pairs(*keys: str) -> pa.Table:
    """`pairs("q1d2")` is the pair (q1, d2)."""
    return pa.table({"query_hash": [key[:2] for key in keys], "doc_hash": [key[2:] for key in keys]})


def scored(**logits: float) -> pa.Table:
    """Pairs with their logits."""
    return pairs(*logits).append_column("teacher_logit", pa.array(list(logits.values()), pa.float64()))


def keys_of(table: pa.Table) -> list[str]:
    """Pairs of a table, written as `pairs` takes them."""
    return [row["query_hash"] + row["doc_hash"] for row in table.to_pylist()]


def test_a_pair_is_never_asked_twice(store: PairScoreStore) -> None:
    """A pool that grows by one document must cost one forward pass, not the pool again."""
    assert keys_of(store.missing("t", pairs("q1d2", "q1d1", "q1d2"))) == ["q1d1", "q1d2"]
    assert store.commit("t", scored(q1d1=1.5, q1d2=-3.0)) == 2
    assert keys_of(store.missing("t", pairs("q1d2", "q1d1", "q1d3"))) == ["q1d3"]
    assert store.missing("t", pairs("q1d1", "q1d2")).num_rows == 0


def test_chunks_that_were_committed_survive_a_kill(store: PairScoreStore) -> None:
    """A run killed in its third chunk must not pay for the first two again."""
    everything = pairs("q1d1", "q1d2", "q2d1", "q2d2", "q3d1")
    store.commit("t", scored(q1d1=1.0, q1d2=2.0))
    store.commit("t", scored(q2d1=3.0, q2d2=4.0))
    fresh = PairScoreStore(Warehouse(store.warehouse.path))
    assert keys_of(fresh.missing("t", everything)) == ["q3d1"]
    assert fresh.count("t") == 4


def test_another_teacher_shares_nothing(store: PairScoreStore) -> None:
    """Logits of an older teacher under a new one's name would train towards a model that is gone."""
    store.commit("old", scored(q1d1=1.0))
    assert keys_of(store.missing("new", pairs("q1d1"))) == ["q1d1"]
    store.commit("new", scored(q1d1=9.0))
    assert store.lookup("old", pairs("q1d1"))["teacher_logit"].to_pylist() == [1.0]
    assert store.lookup("new", pairs("q1d1"))["teacher_logit"].to_pylist() == [9.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_stores_nothing_of_its_chunk(store: PairScoreStore, bad: float) -> None:
    """A stored NaN would never be asked again: the pair would poison every later loss."""
    with pytest.raises(NonFiniteError, match="1 of 2"):
        store.commit("t", scored(q1d1=1.0, q1d2=bad))
    assert store.count("t") == 0


def test_a_pair_committed_twice_keeps_its_first_logit(store: PairScoreStore) -> None:
    """Two workers score the same pair with another batch size; the second must neither fail nor change a number."""
    store.commit("t", scored(q1d1=1.0))
    assert store.commit("t", scored(q1d1=1.0001, q1d2=2.0)) == 1
    assert store.lookup("t", pairs("q1d1"))["teacher_logit"].to_pylist() == [1.0]
    twice = pa.concat_tables([scored(q5d5=4.0), scored(q5d5=4.0)])
    assert store.commit("t", twice) == 1


def test_lookup_answers_in_the_order_asked(store: PairScoreStore) -> None:
    """Sorted answers beside unsorted pairs would give each document another document's logit."""
    store.commit("t", scored(q1d1=1.0, q1d2=2.0, q2d1=3.0))
    found = store.lookup("t", pairs("q2d1", "q1d1", "q1d2", "q2d1"))
    assert found.column_names == ["query_hash", "doc_hash", "teacher_logit"]
    assert keys_of(found) == ["q2d1", "q1d1", "q1d2", "q2d1"]
    assert found["teacher_logit"].to_pylist() == [3.0, 1.0, 2.0, 3.0]


def test_lookup_counts_what_is_missing(store: PairScoreStore) -> None:
    """A reranking over the scored part of a pool would look complete and be wrong."""
    store.commit("t", scored(q1d1=1.0))
    with pytest.raises(WarehouseError, match="2 of 3 pairs have no score"):
        store.lookup("t", pairs("q1d1", "q1d2", "q1d3"))


def test_null_hashes_and_wrong_columns_are_refused(store: PairScoreStore) -> None:
    """A NULL never joins, so it would be scored again on every run."""
    with pytest.raises(WarehouseError, match="1 NULL"):
        store.missing("t", pa.table({"query_hash": ["q1"], "doc_hash": pa.nulls(1)}))
    with pytest.raises(WarehouseError, match="lack the columns"):
        store.missing("t", pa.table({"query": ["q1"], "doc_hash": ["d1"]}))


def test_no_pairs_is_no_error(store: PairScoreStore) -> None:
    """A second run with nothing new asks for nothing; Arrow types an empty list as null."""
    nothing = pa.table({"query_hash": [], "doc_hash": []})
    assert store.missing("t", nothing).num_rows == 0
    assert store.lookup("t", nothing).num_rows == 0
    assert store.commit("t", nothing.append_column("teacher_logit", pa.array([], pa.float32()))) == 0
