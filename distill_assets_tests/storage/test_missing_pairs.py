"""Missing pairs with their texts, from DuckDB by way of disk: each once, with its own texts, in one order."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.errors import WarehouseError
from distill_assets.records import hash_text
from distill_assets.storage.missing_pairs import WantedPairs, find_missing, read_query_texts
from distill_assets.storage.pair_scores import PairScoreStore
from distill_assets.storage.warehouse import SliceWrite, Warehouse

DOCUMENTS = [(f"d{i}", "" if i % 2 else f"title {i}", f"text {i % 7} ünï") for i in range(10)]
QUERIES = [(f"q{i}", f"query {i % 4}") for i in range(6)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PairScoreStore:
    """Ten documents, some with the same text, and six queries in two batches."""
    warehouse = Warehouse(tmp_path_factory.mktemp("missing") / "w.duckdb")
    rows = [{"doc_id": d, "title": t, "text": x, "content_hash": hash_text(content(t, x))} for d, t, x in DOCUMENTS]
    queries = [{"query_id": q, "text": x, "text_key": x, "split": "train"} for q, x in QUERIES]
    warehouse.write(
        SliceWrite(table="corpus", rows=pa.Table.from_pylist(rows[:6]), slice_key="a"),
        SliceWrite(table="corpus", rows=pa.Table.from_pylist(rows[4:]), slice_key="b"),
        SliceWrite(table="queries", rows=pa.Table.from_pylist(queries), slice_key="a"),
    )
    return PairScoreStore(warehouse)


def content(title: str, text: str) -> str:
    """What encoders read."""
    return f"{title} {text}" if title else text


def wanted(pairs: list[tuple[str, str]]) -> WantedPairs:
    """Texts as the hashes that a caller has."""
    return WantedPairs.of_table(hashed(pairs))


def hashed(pairs: list[tuple[str, str]]) -> pa.Table:
    """The hashes of pairs of texts."""
    hashes = {"query_hash": [hash_text(q) for q, _ in pairs], "doc_hash": [hash_text(d) for _, d in pairs]}
    return pa.table(hashes, schema=pa.schema([(name, pa.string()) for name in hashes]))


PAIRS = st.lists(
    st.tuples(st.sampled_from([x for _, x in QUERIES]), st.sampled_from([content(t, x) for _, t, x in DOCUMENTS])),
    max_size=40,
)


@given(pairs=PAIRS, known=PAIRS, size=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_what_is_missing_comes_once_with_its_own_texts(
    store: PairScoreStore, pairs: list[tuple[str, str]], known: list[tuple[str, str]], size: int
) -> None:
    """A merge that slips by one row scores each query with its neighbour's document, and keeps that for ever."""
    key = hash_text(repr((pairs, known, size)))
    if known:
        scored = hashed(known).append_column("teacher_logit", pa.array([1.0] * len(known), pa.float32()))
        store.commit(key, scored)
    with find_missing(store.warehouse, key, wanted(pairs)) as missing:
        windows = list(missing.windows(size))
        again = [window.texts for window in missing.windows(size)]
    found = [text for window in windows for text in window.texts]
    assert sorted(found) == sorted(set(pairs) - set(known))
    assert missing.num_pairs == len(found)
    assert again == [window.texts for window in windows]
    assert [len(window) for window in windows[:-1]] == [size] * (len(windows) - 1)
    for window in windows:
        assert [(hash_text(q), hash_text(d)) for q, d in window.texts] == list(
            zip(window.query_hashes, window.doc_hashes, strict=True)
        )


def test_what_is_left_after_a_kill_is_the_end_of_the_same_order(store: PairScoreStore) -> None:
    """Windows in another order after a kill hold other pairs together, and rounding then gives other logits."""
    pairs = [(q, content(t, x)) for _, q in QUERIES for _, t, x in DOCUMENTS]
    with find_missing(store.warehouse, "killed", wanted(pairs)) as missing:
        first, *rest = [(w.query_hashes, w.doc_hashes) for w in missing.windows(5)]
    hashes = {"query_hash": first[0], "doc_hash": first[1], "teacher_logit": [0.5] * 5}
    store.commit("killed", pa.table(hashes))
    with find_missing(store.warehouse, "killed", wanted(pairs)) as missing:
        assert [(w.query_hashes, w.doc_hashes) for w in missing.windows(5)] == rest


def test_a_pair_without_a_text_is_named(store: PairScoreStore) -> None:
    """A hash without a text would be scored as an empty text, plausibly."""
    for pair, table in ((("query 1", "unheard of"), "corpus"), (("unheard of", "text 1 ünï"), "queries")):
        with (
            find_missing(store.warehouse, "t", wanted([pair])) as missing,
            pytest.raises(WarehouseError, match=f"{table}: no text with the hash"),
        ):
            list(missing.windows(4))


def test_the_warehouse_is_free_while_windows_are_read(store: PairScoreStore) -> None:
    """A teacher reads for hours: a connection held open that long locks every other process out."""
    with find_missing(store.warehouse, "t", wanted([("query 1", "text 1 ünï")])):
        files = [Path(f"/proc/self/fd/{fd.name}").resolve() for fd in Path("/proc/self/fd").iterdir() if fd.exists()]
        assert store.warehouse.path.resolve() not in files


def test_pairs_of_chosen_queries_and_the_texts_of_queries(store: PairScoreStore) -> None:
    """A fold that scores a query whose label it saw repeats that label; a text under another's hash chooses the wrong folds."""
    pairs = [(q, content(t, x)) for q in ("query 1", "query 3") for _, t, x in DOCUMENTS[:3]]
    chosen = wanted(pairs).of_queries(pa.table({"query_hash": [hash_text("query 3"), hash_text("query 0")]}))
    with find_missing(store.warehouse, "t", chosen) as missing:
        assert sorted(text for window in missing.windows(2) for text in window.texts) == sorted(pairs[3:])
    assert read_query_texts(store.warehouse, wanted(pairs)) == {hash_text(q): q for q in ("query 1", "query 3")}
    assert read_query_texts(store.warehouse, chosen) == {hash_text("query 3"): "query 3"}


def test_a_select_of_the_caller_keeps_its_parameters(store: PairScoreStore) -> None:
    """The batch's SELECT has parameters of its own: bound to nothing it fails only in a run, after the teacher was made."""
    sql = "SELECT $query AS query_hash, content_hash AS doc_hash FROM corpus WHERE doc_id = $doc_id AND batch = 'a'"
    asked = WantedPairs(sql, {"query": hash_text("query 2"), "doc_id": "d1", "unused": 1})
    with find_missing(
        store.warehouse, "t", asked.of_queries(pa.table({"query_hash": [hash_text("query 2")]}))
    ) as missing:
        assert [window.texts for window in missing.windows(9)] == [[("query 2", content(*DOCUMENTS[1][1:]))]]
    assert read_query_texts(store.warehouse, asked) == {hash_text("query 2"): "query 2"}
