"""A file of schema 3 in today's hands: what was paid for stays, what was given up goes, and all goes on from there."""

from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from distill_assets.assets.release import HISTORY_SCHEMA
from distill_assets.storage.missing_pairs import WantedPairs, find_missing
from distill_assets.storage.pair_scores import JoinRule, PairScoreStore, Part
from distill_assets.storage.tables import SCHEMA_VERSION, TABLES
from distill_assets.storage.warehouse import SliceWrite, Warehouse

SCHEMA_3 = Path(__file__).with_name("schema_3.sql")


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A warehouse over a file that schema 3 left, with two decisions, three logits and two query results."""
    path = tmp_path / "old.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(SCHEMA_3.read_text(encoding="utf-8"))
    return Warehouse(path)


def test_every_table_has_todays_columns_and_the_rows_stay(warehouse: Warehouse) -> None:
    """A column that was given up and stays makes the first write fail; a table that is made anew loses its rows."""
    found = warehouse.query(
        "SELECT table_name, list(column_name ORDER BY column_name) AS columns FROM duckdb_columns() WHERE NOT internal "
        "GROUP BY table_name"
    )
    columns = dict(zip(found["table_name"].to_pylist(), found["columns"].to_pylist(), strict=True))
    assert columns == {table: sorted(spec.columns) for table, spec in TABLES.items()}
    assert {"relevant_rank", "top_doc_ids"}.isdisjoint(columns["query_results"])
    assert warehouse.read("query_results").to_pylist() == [
        {
            "split": "test",
            "system": "bm25",
            "query_id": "q1",
            "ndcg_at_10": 0.5,
            "kendall_tau": None,
            "overlap_at_10": None,
        },
        {
            "split": "test",
            "system": "student",
            "query_id": "q1",
            "ndcg_at_10": 1.0,
            "kendall_tau": 0.8,
            "overlap_at_10": 0.9,
        },
    ]
    (row,) = warehouse.read("leaderboard").to_pylist()
    assert (row["ndcg_at_10"], row["model_fingerprint"], row["gap_closed_low"]) == (0.5, None, None)
    info = warehouse.slice_info("query_results")
    assert info is not None and (info.num_rows, info.data_version, info.inputs) == (2, "v1", None)
    assert warehouse.query("SELECT version FROM schema_info")["version"].to_pylist() == [SCHEMA_VERSION]


def test_a_slice_can_be_written_over_an_old_one(warehouse: Warehouse) -> None:
    """The record of an old slice has no inputs: one that stays beside the new record would be read as stale for ever."""
    rows = warehouse.read("query_results").slice(1)
    warehouse.write(SliceWrite(table="query_results", rows=rows, inputs={"metrics": "m"}))
    assert warehouse.read("query_results")["system"].to_pylist() == ["student"]
    info = warehouse.slice_info("query_results")
    assert info is not None and (info.num_rows, info.inputs) == (1, {"metrics": "m"})


def test_decisions_go_on_after_the_old_ones(warehouse: Warehouse) -> None:
    """Old decisions have no number: one numbered from 1 again stands before them, and the champion of last year comes back."""
    row = {"decided_at": datetime(2025, 1, 1), "recipe": "third", "model_fingerprint": "f3", "checkpoint_path": "p3"}
    row |= {"verdict": "promoted", "reason": "a clock that was set back", "dev_ndcg_at_10": 0.8}
    for _ in range(2):
        warehouse.append("champion_history", pa.Table.from_pylist([row], schema=HISTORY_SCHEMA))
    found = warehouse.query(
        "SELECT recipe, sequence, p_value FROM champion_history ORDER BY sequence NULLS FIRST, decided_at"
    )
    assert found.to_pydict() == {
        "recipe": ["first", "second", "third", "third"],
        "sequence": [None, None, 3, 4],
        "p_value": [None, 0.01, None, None],
    }


def test_logits_are_kept_under_the_id_of_their_scorer(warehouse: Warehouse) -> None:
    """They cost hours to make. Under a new name that nobody asks for, every one of them is paid for again."""
    store = PairScoreStore(warehouse)
    pairs = {"query_hash": ["q1", "q1", "q1"], "doc_hash": ["d2", "d1", "d3"], "doc_id": ["two", "one", "three"]}
    wanted = WantedPairs.of_table(pa.table(pairs))
    with find_missing(warehouse, "teacher", wanted) as missing:
        assert missing.num_pairs == 1
    new = pa.table({"query_hash": ["q1", "q1"], "doc_hash": ["d3", "d1"], "teacher_logit": [4.0, 7.0]})
    assert store.commit("teacher", new) == 1  # d1 has its logit and keeps it
    found = store.join(JoinRule((Part("teacher"),)), wanted)
    assert found.to_pydict() == {"doc_id": ["one", "three", "two"], "teacher_logit": [1.5, 4.0, -2.0]}
    assert (store.count(["teacher"]), store.count(["other"]), store.count(["teacher", "other"])) == (3, 1, 4)
