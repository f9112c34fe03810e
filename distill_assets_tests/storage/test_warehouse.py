"""The warehouse: one transaction per write, by name, nothing lost and nothing half read."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from distill_assets.core.errors import (
    EmptyFrameError,
    MissingPartitionError,
    NewerWarehouseError,
    NonFiniteError,
    WarehouseError,
)
from distill_assets.storage.tables import SCHEMA_VERSION, TABLES, TableSpec
from distill_assets.storage.warehouse import Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A warehouse that is not made yet, at a path that needs quoting."""
    return Warehouse(tmp_path / "new folder" / "it's.duckdb", lock_timeout_s=30)


def queries(*ids: str, split: str = "train") -> pa.Table:
    """Rows of the table queries, without the slice column."""
    return pa.table({"query_id": list(ids), "text": [f"text of {i}" for i in ids], "split": [split] * len(ids)})


def test_a_failed_insert_keeps_the_old_slice(warehouse: Warehouse) -> None:
    """Delete and insert in two transactions would leave an empty partition behind a failed run."""
    warehouse.replace_slice("queries", queries("q1", "q2"), slice_key="a", input_fingerprint="old")
    bad = queries("q3", "q4").set_column(1, "text", pa.array(["fine", None]))
    with pytest.raises(WarehouseError, match="NOT NULL"):
        warehouse.replace_slice("queries", bad, slice_key="a", input_fingerprint="new")
    assert warehouse.read("queries")["query_id"].to_pylist() == ["q1", "q2"]
    info = warehouse.slice_info("queries", "a")
    assert info is not None
    assert (info.input_fingerprint, info.num_rows) == ("old", 2)


def test_an_error_after_the_delete_rolls_it_back(warehouse: Warehouse) -> None:
    """A kill between delete and commit must not commit the delete."""
    warehouse.replace_slice("queries", queries("q1"), slice_key="a")
    with pytest.raises(KeyboardInterrupt), warehouse.transaction() as connection:
        connection.execute("DELETE FROM queries")
        assert connection.execute("SELECT count(*) FROM queries").fetchall() == [(0,)]
        raise KeyboardInterrupt
    assert warehouse.read("queries").num_rows == 1


def test_replacing_a_slice_touches_no_other(warehouse: Warehouse) -> None:
    """A delete without the right WHERE would silently drop every other batch."""
    warehouse.replace_slice("queries", queries("q1", "q2"), slice_key="a")
    warehouse.replace_slice("queries", queries("q9"), slice_key="b")
    assert warehouse.replace_slice("queries", queries("q3"), slice_key="a") == 1
    assert warehouse.read("queries").select(["batch", "query_id"]).to_pylist() == [
        {"batch": "a", "query_id": "q3"},
        {"batch": "b", "query_id": "q9"},
    ]


def test_columns_are_matched_by_name(warehouse: Warehouse) -> None:
    """An insert by position would swap query_id and text: both are text, so nothing would complain."""
    rows = pa.table({"split": ["dev"], "text": ["the text"], "batch": ["a"], "query_id": ["q1"]})
    warehouse.replace_slice("queries", rows, slice_key="a")
    assert warehouse.read("queries").to_pylist() == [
        {"batch": "a", "query_id": "q1", "text": "the text", "split": "dev"}
    ]


def test_missing_and_extra_columns_are_both_named(warehouse: Warehouse) -> None:
    """A misspelt column would otherwise be filled with NULL."""
    rows = pa.table({"query_id": ["q1"], "txt": ["t"], "split": ["dev"]})
    with pytest.raises(WarehouseError, match=r"missing columns \['text'\], extra columns \['txt'\]"):
        warehouse.replace_slice("queries", rows, slice_key="a")


def test_an_empty_frame_is_refused_unless_meant(warehouse: Warehouse) -> None:
    """An upstream that broke and gave no rows would wipe a good partition."""
    warehouse.replace_slice("queries", queries("q1"), slice_key="a")
    empty = queries("q1").slice(0, 0)
    with pytest.raises(EmptyFrameError, match="queries"):
        warehouse.replace_slice("queries", empty, slice_key="a")
    assert warehouse.read("queries").num_rows == 1
    assert warehouse.replace_slice("queries", empty, slice_key="a", allow_empty=True) == 0
    assert warehouse.read("queries", slice_keys=["a"]).num_rows == 0
    assert warehouse.slice_keys("queries") == ["a"]


def test_every_missing_partition_is_named_with_its_asset(warehouse: Warehouse) -> None:
    """A fan-in that loads the partitions that happen to be there trains on part of the data."""
    warehouse.replace_slice("teacher_scores", scores(0.5), slice_key="b")
    with pytest.raises(MissingPartitionError, match=r"2 of 3 .*'a', 'c'; materialise teacher_scores"):
        warehouse.read("teacher_scores", slice_keys=["a", "b", "c"])
    assert warehouse.read("teacher_scores", slice_keys=["b"])["teacher_logit"].to_pylist() == [0.5]


def scores(logit: float | None) -> pa.Table:
    """One row of the table teacher_scores."""
    return pa.table(
        {"query_id": ["q"], "doc_id": ["d"], "label": [1], "teacher_logit": pa.array([logit], pa.float64())}
    )


@pytest.mark.parametrize("logit", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(warehouse: Warehouse, logit: float) -> None:
    """One NaN makes every mean over the table NaN."""
    with pytest.raises(NonFiniteError, match=r"teacher_scores\.teacher_logit: 1 of 1"):
        warehouse.replace_slice("teacher_scores", scores(logit), slice_key="b")


def test_a_value_that_does_not_fit_is_refused_and_not_rounded(warehouse: Warehouse) -> None:
    """DuckDB rounds 0.5 to 0 on insert: a graded judgement would become 'not relevant'."""
    rows = pa.table({"query_id": ["q"], "doc_id": ["d"], "relevance": [0.5]})
    with pytest.raises(WarehouseError, match="does not fit"):
        warehouse.replace_slice("qrels", rows, slice_key="a")


def test_a_repeated_key_is_refused(warehouse: Warehouse) -> None:
    """A join that fans out would store a document twice, and a ranking would hold it twice."""
    with pytest.raises(WarehouseError, match=r"occur more than once.*'q1'"):
        warehouse.replace_slice("queries", queries("q1", "q1"), slice_key="a")


def test_rows_of_another_slice_are_refused(warehouse: Warehouse) -> None:
    """Rows of batch b written under key a would survive when a is replaced."""
    rows = queries("q1").append_column("batch", pa.array(["b"]))
    with pytest.raises(WarehouseError, match="other values of batch, first 'b'"):
        warehouse.replace_slice("queries", rows, slice_key="a")
    with pytest.raises(WarehouseError, match="slice key is required"):
        warehouse.replace_slice("queries", queries("q1"))
    with pytest.raises(WarehouseError, match="not partitioned"):
        warehouse.replace_slice("leaderboard", queries("q1"), slice_key="a")


def test_reads_are_ordered_by_key_and_quoting_cannot_be_steered(warehouse: Warehouse) -> None:
    """An order that follows the insert would make fingerprints and training differ between runs."""
    warehouse.replace_slice("queries", queries("q2", "q10", "q1"), slice_key="b'; DROP TABLE queries; --")
    warehouse.replace_slice("queries", queries("q3"), slice_key="a")
    assert warehouse.read("queries", columns=["query_id"])["query_id"].to_pylist() == ["q3", "q1", "q10", "q2"]
    assert warehouse.read("queries", slice_keys=[]).num_rows == 0
    with pytest.raises(WarehouseError, match="no columns"):
        warehouse.read("queries", columns=["1; DROP TABLE queries"])
    with pytest.raises(WarehouseError, match="no table"):
        warehouse.read("queries; DROP TABLE queries")


def test_append_only_and_sliced_tables_are_not_mixed_up(warehouse: Warehouse) -> None:
    """`replace_slice` on the champion's history would erase what a roll back needs."""
    with pytest.raises(WarehouseError, match="champion_history is written by append"):
        warehouse.replace_slice("champion_history", queries("q1"))
    with pytest.raises(WarehouseError, match="queries is written by slices"):
        warehouse.append("queries", queries("q1"))
    with pytest.raises(WarehouseError, match="internal"):
        warehouse.append("slices", queries("q1"))


def test_append_adds_and_keeps_nulls_where_they_mean_something(warehouse: Warehouse) -> None:
    """A p-value of NULL (nothing was tested) must not turn into 0, which reads as 'significant'."""
    row: dict[str, Any] = {
        "recipe": ["r"],
        "model_fingerprint": ["f"],
        "checkpoint_path": ["p"],
        "verdict": ["promoted"],
    }
    row |= {"reason": ["first"], "dev_ndcg_at_10": [0.6], "p_value": pa.nulls(1)}
    for day in (2, 1):
        at = pa.array([day * 86_400_000_000], pa.timestamp("us"))
        assert warehouse.append("champion_history", pa.table({**row, "decided_at": at})) == 1
    history = warehouse.read("champion_history")
    assert [moment.day for moment in history["decided_at"].to_pylist()] == [2, 3]
    assert history["p_value"].to_pylist() == [None, None]


def test_drop_slice_forgets_rows_and_record(warehouse: Warehouse) -> None:
    """A record left behind would make a reader take a dropped batch for an empty one."""
    warehouse.replace_slice("queries", queries("q1"), slice_key="a", data_version="v")
    warehouse.drop_slice("queries", "a")
    warehouse.drop_slice("queries", "never there")
    assert warehouse.read("queries").num_rows == 0
    assert warehouse.slice_info("queries", "a") is None


def test_asking_whether_it_exists_makes_nothing(tmp_path: Path) -> None:
    """`search` on a fresh clone must say that nothing was run, not leave an empty warehouse."""
    warehouse = Warehouse(tmp_path / "sub" / "w.duckdb")
    assert not warehouse.exists()
    assert list(tmp_path.iterdir()) == []
    warehouse.slice_keys("corpus")
    assert warehouse.exists()


def test_a_newer_warehouse_is_left_alone(warehouse: Warehouse) -> None:
    """An old package that writes into a newer file would damage it for the new one."""
    with warehouse.connect() as connection:
        connection.execute("UPDATE schema_info SET version = ?", [SCHEMA_VERSION + 1])
    with pytest.raises(NewerWarehouseError, match=rf"version {SCHEMA_VERSION + 1}.*version {SCHEMA_VERSION}: upgrade"):
        warehouse.replace_slice("queries", queries("q1"), slice_key="a")


def test_a_file_that_is_no_warehouse_is_left_alone(tmp_path: Path) -> None:
    """Somebody else's DuckDB file, or a text file, must not be filled with our tables."""
    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as connection:
        connection.execute("CREATE TABLE theirs (x INTEGER)")
    with pytest.raises(WarehouseError, match=r"other tables \(theirs\)"):
        Warehouse(other).read("queries")
    text = tmp_path / "text.duckdb"
    text.write_text("hello " * 1000)
    with pytest.raises(WarehouseError, match="not a valid DuckDB"):
        Warehouse(text).read("queries")


WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from distill_assets.storage.warehouse import Warehouse
name = sys.argv[2]
for i in range(8):
    rows = pa.table({"query_id": [f"{name}-{i}"], "text": ["t"], "split": ["dev"]})
    Warehouse(Path(sys.argv[1])).replace_slice("queries", rows, slice_key=f"{name}-{i}")
"""


def test_two_processes_that_write_lose_nothing(warehouse: Warehouse) -> None:
    """DuckDB lets one process in at a time: without the wait the second one dies and its batch is lost."""
    command = [sys.executable, "-c", WRITER, str(warehouse.path)]
    writers = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in ("a", "b")]
    errors = [writer.communicate(timeout=60)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    assert warehouse.slice_keys("queries") == sorted(f"{name}-{i}" for name in "ab" for i in range(8))
    assert warehouse.read("queries").num_rows == 16


HOLDER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(warehouse: Warehouse) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the file until it is killed."""
    warehouse.slice_keys("corpus")
    command = [sys.executable, "-c", HOLDER, str(warehouse.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_file_is_waited_for_and_then_named(warehouse: Warehouse, holder: subprocess.Popen[str]) -> None:
    """Waiting for ever on a process that hangs would look like a slow run."""
    impatient = Warehouse(warehouse.path, lock_timeout_s=0.2)
    with pytest.raises(WarehouseError, match=rf"held by another process for 0.2 s.*{holder.pid}"):
        impatient.slice_keys("corpus")


def test_threads_of_one_process_write_side_by_side(warehouse: Warehouse) -> None:
    """Threads share one DuckDB instance: two writers of one slice would raise a conflict instead of waiting."""
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            for i in range(5):
                Warehouse(warehouse.path).replace_slice("queries", queries(f"{name}{i}"), slice_key="same")
                warehouse.replace_slice("queries", queries(f"{name}{i}"), slice_key=name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert warehouse.slice_keys("queries") == ["a", "b", "c", "same"]
    assert warehouse.read("queries").num_rows == 4


def test_batches_are_bounded_and_do_not_hold_the_file(warehouse: Warehouse) -> None:
    """A consumer that runs a model between batches would keep every other process out until it times out."""
    warehouse.replace_slice("queries", queries(*(f"q{i:05}" for i in range(5000))), slice_key="a")
    sql = "SELECT query_id FROM queries WHERE batch = ? ORDER BY query_id"
    batches = warehouse.iter_batches(sql, ["a"], rows_per_batch=2048)
    first = next(batches)
    probe = [sys.executable, "-c", f"import duckdb; duckdb.connect({str(warehouse.path)!r}).close()"]
    assert subprocess.run(probe, capture_output=True, text=True, timeout=30).returncode == 0
    sizes = [first.num_rows, *(batch.num_rows for batch in batches)]
    assert max(sizes) <= 2048
    assert sum(sizes) == 5000
    assert first["query_id"][0].as_py() == "q00000"


@pytest.mark.parametrize("spec", TABLES.values(), ids=TABLES.keys())
def test_keys_and_slices_are_columns_and_every_column_is_described(spec: TableSpec) -> None:
    """A key that names no column fails only when that table is first read, at the end of a long run."""
    assert set(spec.key_columns) <= set(spec.columns)
    assert spec.slice_column is None or spec.slice_column in spec.columns
    assert all(column.description.endswith(".") for column in spec.columns.values())


def test_an_older_file_gets_the_new_tables_and_keeps_its_rows(warehouse: Warehouse) -> None:
    """Refusing a file of the version before would cost every score that it holds."""
    warehouse.replace_slice("queries", queries("q1"), slice_key="a")
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute("DROP TABLE quarantine")
        connection.execute("UPDATE schema_info SET version = 1")
    again = Warehouse(warehouse.path)
    assert again.read("quarantine").num_rows == 0
    assert again.read("queries")["query_id"].to_pylist() == ["q1"]
    with duckdb.connect(str(warehouse.path)) as connection:
        assert connection.execute("SELECT version FROM schema_info").fetchall() == [(SCHEMA_VERSION,)]


NEW_COLUMNS = ("p_vs_hard_labels", "p_vs_untouched", "detectable_vs_hard_labels", "detectable_vs_untouched")


def leaderboard_row(**values: float | None) -> pa.Table:
    """One row; the columns of the tests hold `values`, NULL by default."""
    row: dict[str, Any] = dict.fromkeys(TABLES["leaderboard"].columns, 0.5)
    row |= {"split": "test", "system": "bm25", "num_queries": 10} | dict.fromkeys(NEW_COLUMNS) | values
    schema = {
        name: {"VARCHAR": pa.string(), "INTEGER": pa.int32()}.get(c.sql_type, pa.float64())
        for name, c in TABLES["leaderboard"].columns.items()
    }
    return pa.table({name: pa.array([row[name]], schema[name]) for name in row})


def test_an_older_leaderboard_gets_the_columns_of_the_tests(warehouse: Warehouse) -> None:
    """A file of schema 2 has a narrower table: a read by name fails in every command, a fresh table loses its rows."""
    warehouse.replace_slice("leaderboard", leaderboard_row())
    with duckdb.connect(str(warehouse.path)) as connection:
        for column in NEW_COLUMNS:
            connection.execute(f"ALTER TABLE leaderboard DROP COLUMN {column}")
        connection.execute("DROP TABLE scoring_costs")
        connection.execute("UPDATE schema_info SET version = 2")
    again = Warehouse(warehouse.path)
    (row,) = again.read("leaderboard").to_pylist()
    assert row["ndcg_at_10"] == 0.5 and all(row[column] is None for column in NEW_COLUMNS)
    assert again.read("scoring_costs").num_rows == 0
    again.replace_slice("leaderboard", leaderboard_row(p_vs_untouched=0.04))
    assert again.read("leaderboard").to_pylist()[0]["p_vs_untouched"] == 0.04


def test_a_missing_column_that_needs_a_value_is_not_made_up(warehouse: Warehouse) -> None:
    """NULL in a column that everything takes for a number would surface as a TypeError in some chart."""
    warehouse.slice_keys("corpus")
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute("ALTER TABLE leaderboard DROP COLUMN map")
        connection.execute("UPDATE schema_info SET version = 2")
    with pytest.raises(WarehouseError, match="leaderboard lacks the column map"):
        Warehouse(warehouse.path).read("leaderboard")
    with duckdb.connect(str(warehouse.path)) as connection:
        assert connection.execute("SELECT version FROM schema_info").fetchall() == [(2,)]


def test_a_file_with_the_old_key_on_pair_scores_loses_the_key_and_no_score(warehouse: Warehouse) -> None:
    """Version 2 kept an index over all pairs: 107 MB instead of 24 for a million. Its scores cost hours to make."""
    warehouse.slices("corpus")
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute("DROP TABLE pair_scores")
        connection.execute(
            "CREATE TABLE pair_scores (teacher_fingerprint VARCHAR NOT NULL, query_hash VARCHAR NOT NULL, doc_hash VARCHAR "
            "NOT NULL, teacher_logit FLOAT NOT NULL, PRIMARY KEY (teacher_fingerprint, query_hash, doc_hash))"
        )
        connection.execute("INSERT INTO pair_scores VALUES ('t', 'q1', 'd1', 1.5)")
        connection.execute("UPDATE schema_info SET version = 2")
    again = Warehouse(warehouse.path)
    assert again.read("pair_scores").to_pylist() == [
        {"teacher_fingerprint": "t", "query_hash": "q1", "doc_hash": "d1", "teacher_logit": 1.5}
    ]
    keys = "SELECT count(*) AS n FROM duckdb_constraints() WHERE table_name = 'pair_scores' AND constraint_type = 'PRIMARY KEY'"
    assert again.query(keys)["n"].to_pylist() == [0]


def test_known_slices_follow_other_writers(warehouse: Warehouse) -> None:
    """A remembered list of slices that misses another process's write would train on last week's data and call it fresh."""
    warehouse.replace_slice("queries", queries("q1"), slice_key="a", input_fingerprint="old")
    time.sleep(0.15)  # old enough to be remembered
    assert list(warehouse.slices("queries")) == ["a"]
    assert warehouse._known_slices is not None
    Warehouse(warehouse.path).replace_slice("queries", queries("q2"), slice_key="b", input_fingerprint="new")
    assert list(warehouse.slices("queries")) == ["a", "b"]
    time.sleep(0.15)
    assert list(warehouse.slices("queries")) == ["a", "b"]
    Warehouse(warehouse.path).drop_slice("queries", "a")
    assert list(warehouse.slices("queries")) == ["b"]
