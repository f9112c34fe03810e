"""The pair-score store: a member is asked once per pair, whatever kills, grows or repeats a run; members are joined on reading."""

from pathlib import Path

import pyarrow as pa
import pytest

from distill_assets.errors import NonFiniteError, WarehouseError
from distill_assets.storage.missing_pairs import WantedPairs, find_missing
from distill_assets.storage.pair_scores import JoinRule, PairScoreStore, Part
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


def wanted(*keys: str) -> WantedPairs:
    """The same pairs with the id `key`, which is their order in a join."""
    return WantedPairs.of_table(pairs(*keys).append_column("key", pa.array(list(keys), pa.string())))


def logits(store: PairScoreStore, rule: JoinRule, *keys: str) -> list[float]:
    """Joined logits of these pairs, in the order of their keys."""
    return store.join(rule, wanted(*keys))["teacher_logit"].to_pylist()


def alone(scorer_id: str) -> JoinRule:
    """A teacher of one member."""
    return JoinRule((Part(scorer_id),))


def test_what_is_scored_is_not_missing(store: PairScoreStore) -> None:
    """A pool that grows by one document must cost one forward pass, not the pool again."""
    assert store.commit("t", scored(q1d1=1.5, q1d2=-3.0)) == 2
    for keys, num_missing in ((("q1d2", "q1d1", "q1d3"), 1), (("q1d1", "q1d2"), 0), (("q2d1", "q2d1"), 1)):
        with find_missing(store.warehouse, "t", wanted(*keys)) as missing:
            assert missing.num_pairs == num_missing


def test_chunks_that_were_committed_survive_a_kill(store: PairScoreStore) -> None:
    """A run killed in its third chunk must not pay for the first two again."""
    store.commit("t", scored(q1d1=1.0, q1d2=2.0))
    store.commit("t", scored(q2d1=3.0, q2d2=4.0))
    fresh = PairScoreStore(Warehouse(store.warehouse.path))
    assert logits(fresh, alone("t"), "q1d1", "q1d2", "q2d1", "q2d2") == [1.0, 2.0, 3.0, 4.0]
    assert fresh.count(["t"]) == 4


def test_another_scorer_shares_nothing(store: PairScoreStore) -> None:
    """Logits of an older teacher under a new one's name would train towards a model that is gone."""
    store.commit("old", scored(q1d1=1.0))
    with find_missing(store.warehouse, "new", wanted("q1d1")) as missing:
        assert missing.num_pairs == 1
    assert store.commit("new", scored(q1d1=9.0)) == 1
    assert logits(store, alone("old"), "q1d1") == [1.0]
    assert logits(store, alone("new"), "q1d1") == [9.0]
    assert (store.count(["old", "new"]), store.count(["old"]), store.count([])) == (2, 1, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_stores_nothing_of_its_chunk(store: PairScoreStore, bad: float) -> None:
    """A stored NaN would never be asked again: the pair would poison every later loss."""
    with pytest.raises(NonFiniteError, match="1 of 2"):
        store.commit("t", scored(q1d1=1.0, q1d2=bad))
    assert store.count(["t"]) == 0


def test_a_pair_committed_twice_keeps_its_first_logit(store: PairScoreStore) -> None:
    """Two workers score the same pair with another batch size; the second must neither fail nor change a number."""
    store.commit("t", scored(q1d1=1.0))
    assert store.commit("t", scored(q1d1=1.0001, q1d2=2.0)) == 1
    assert logits(store, alone("t"), "q1d1") == [1.0]
    twice = pa.concat_tables([scored(q5d5=4.0), scored(q5d5=4.0)])
    assert store.commit("t", twice) == 1


def test_a_join_gives_each_row_its_own_logit(store: PairScoreStore) -> None:
    """A row beside its neighbour's logit is a plausible score. A pair that two rows want must come twice."""
    store.commit("t", scored(q1d1=1.0, q1d2=2.0, q2d1=3.0))
    rows = pairs("q2d1", "q1d1", "q1d2", "q2d1").append_column("doc_id", pa.array(["c", "d", "a", "b"]))
    found = store.join(alone("t"), WantedPairs.of_table(rows))
    assert found.to_pydict() == {"doc_id": ["a", "b", "c", "d"], "teacher_logit": [2.0, 3.0, 3.0, 1.0]}
    assert found.schema.field("teacher_logit").type == pa.float32()


def test_a_join_counts_what_is_missing(store: PairScoreStore) -> None:
    """A reranking over the scored part of a pool would look complete and be wrong; so would a sum over half of the members."""
    store.commit("t", scored(q1d1=1.0))
    with pytest.raises(WarehouseError, match="2 of 3 pairs have no score"):
        logits(store, alone("t"), "q1d1", "q1d2", "q1d3")
    with pytest.raises(WarehouseError, match="1 of 1 pairs have no score of t, cosine"):
        logits(store, JoinRule((Part("t"), Part("cosine", 2.0))), "q1d1")


def test_members_are_joined_by_weight(store: PairScoreStore) -> None:
    """By hand: 1 + 8 x 0.5 = 5 and -2 - 8 x 0.25 = -4. A new weight is applied to what is stored, and costs nothing."""
    store.commit("cross", scored(q1d1=1.0, q1d2=-2.0))
    store.commit("cosine", scored(q1d1=0.5, q1d2=-0.25))
    assert logits(store, JoinRule((Part("cross"), Part("cosine", 8.0))), "q1d1", "q1d2") == [5.0, -4.0]
    assert logits(store, JoinRule((Part("cross", 2.0), Part("cosine", -4))), "q1d1", "q1d2") == [0.0, -3.0]
    assert logits(store, JoinRule((Part("cross"), Part("cosine", 0.0))), "q1d1", "q1d2") == [1.0, -2.0]


def test_a_query_is_joined_from_the_folds_that_may_score_it(store: PairScoreStore) -> None:
    """A fold that saw the label repeats it. By hand, with weights 1, 10 and 2.

    q1 by fold 0 alone: 1 x 3 + 10 x 0.5 = 8. q2 by fold 1 alone: 2 x 7 = 14. q3 by both: (1 x 1 + 10 x 0.1 + 2 x 4) / 2 = 5.
    Fold 1 has scored q1 with 99, which must not count; fold 0 has never scored q2, which must not be missed.
    """
    store.commit("a", scored(q1d1=3.0, q3d1=1.0))
    store.commit("cosine", scored(q1d1=0.5, q3d1=0.1))
    store.commit("b", scored(q1d1=99.0, q2d1=7.0, q3d1=4.0))
    shares = pa.table({"query_hash": ["q3", "q1", "q2"], "share_0": [0.5, 1.0, 0.0], "share_1": [0.5, 0.0, 1.0]})
    rule = JoinRule((Part("a"), Part("cosine", 10.0), Part("b", 2.0, fold=1)), shares)
    assert logits(store, rule, "q1d1", "q2d1", "q3d1") == pytest.approx([8.0, 14.0, 5.0], abs=1e-6)
    with pytest.raises(WarehouseError, match="1 of 1 pairs have no score"):  # a query whose folds nobody named
        logits(store, rule, "q4d1")


def test_a_teacher_of_many_members_takes_each_of_them_once(store: PairScoreStore) -> None:
    """`member_1` and `member_10` begin alike: with one in the other's place the sum is of the wrong members. 0 + 1 + ... + 11 = 66."""
    parts = tuple(Part(f"m{number}", fold=number) for number in range(12))
    for number, part in enumerate(parts):
        store.commit(part.scorer_id, scored(q1d1=float(number), q1d2=float(number == 10)))
    shares = pa.table({"query_hash": ["q1"], **{f"share_{part.fold}": [1.0] for part in parts}})
    assert logits(store, JoinRule(parts, shares), "q1d1", "q1d2") == [66.0, 1.0]


def test_null_hashes_and_wrong_columns_are_refused(store: PairScoreStore) -> None:
    """A NULL never joins, so it would be scored again on every run."""
    with pytest.raises(WarehouseError, match="1 NULL"):
        WantedPairs.of_table(pa.table({"query_hash": ["q1"], "doc_hash": pa.nulls(1)}))
    with pytest.raises(WarehouseError, match="lack the columns"):
        WantedPairs.of_table(pa.table({"query": ["q1"], "doc_hash": ["d1"]}))
    with pytest.raises(WarehouseError, match="missing columns"):
        store.commit("t", pairs("q1d1"))


def test_no_pairs_is_no_error(store: PairScoreStore) -> None:
    """A second run with nothing new asks for nothing; Arrow types an empty list as null."""
    nothing = pa.table({"query_hash": [], "doc_hash": []})
    shares = pa.table({"query_hash": pa.array([], pa.string()), "share_0": pa.array([], pa.float64())})
    for rule in (alone("t"), JoinRule((Part("t"),), shares)):
        assert store.join(rule, WantedPairs.of_table(nothing)).num_rows == 0
    assert store.commit("t", nothing.append_column("teacher_logit", pa.array([], pa.float32()))) == 0


def test_a_partial_join_keeps_its_place_for_what_was_never_scored(store: PairScoreStore) -> None:
    """A row that falls out moves all logits after it to other pairs. Unasked, a missing score is an error."""
    store.commit("m", scored(q1d1=1.5, q2d2=-2.0))
    found = store.join(alone("m"), wanted("q1d1", "q1d2", "q2d2"), is_partial=True)
    assert found["teacher_logit"].to_pylist() == [1.5, None, -2.0]
    with pytest.raises(WarehouseError, match="1 of 3 pairs have no score"):
        store.join(alone("m"), wanted("q1d1", "q1d2", "q2d2"))
