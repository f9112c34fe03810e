"""The warehouse: one transaction per write, by name, nothing lost and nothing half read."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from distill_assets.assets.release import HISTORY_SCHEMA
from distill_assets.errors import (
    EmptyFrameError,
    InputsMovedError,
    MissingPartitionError,
    NewerWarehouseError,
    NonFiniteError,
    WarehouseBusyError,
    WarehouseError,
)
from distill_assets.storage import warehouse as storage
from distill_assets.storage.tables import SCHEMA_VERSION, TABLES, TableSpec
from distill_assets.storage.warehouse import SliceWrite, Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A warehouse that is not made yet, at a path that needs quoting."""
    return Warehouse(tmp_path / "new folder" / "it's.duckdb", lock_timeout_s=30)


def queries(*ids: str, split: str = "train") -> pa.Table:
    """Rows of the table queries, without the slice column."""
    texts = [f"text of {i}" for i in ids]
    return pa.table({"query_id": list(ids), "text": texts, "text_key": texts, "split": [split] * len(ids)})


def write(warehouse: Warehouse, table: str, rows: pa.Table, slice_key: str = "", **told: Any) -> None:
    """Write one slice."""
    warehouse.write(SliceWrite(table=table, rows=rows, slice_key=slice_key, **told))


def test_a_failed_insert_keeps_the_old_slice(warehouse: Warehouse) -> None:
    """Delete and insert in two transactions would leave an empty partition behind a failed run."""
    write(warehouse, "queries", queries("q1", "q2"), "a", inputs={"source": "old"})
    bad = queries("q3", "q4").set_column(1, "text", pa.array(["fine", None]))
    with pytest.raises(WarehouseError, match="NOT NULL"):
        write(warehouse, "queries", bad, "a", inputs={"source": "new"})
    assert warehouse.read("queries")["query_id"].to_pylist() == ["q1", "q2"]
    info = warehouse.slice_info("queries", "a")
    assert info is not None
    assert (info.inputs, info.num_rows) == ({"source": "old"}, 2)


def test_an_error_after_the_delete_rolls_it_back(warehouse: Warehouse) -> None:
    """A kill between delete and commit must not commit the delete."""
    write(warehouse, "queries", queries("q1"), "a")
    with pytest.raises(KeyboardInterrupt), warehouse.transaction() as connection:
        connection.execute("DELETE FROM queries")
        assert connection.execute("SELECT count(*) FROM queries").fetchall() == [(0,)]
        raise KeyboardInterrupt
    assert warehouse.read("queries").num_rows == 1


def test_replacing_a_slice_touches_no_other(warehouse: Warehouse) -> None:
    """A delete without the right WHERE would silently drop every other batch."""
    write(warehouse, "queries", queries("q1", "q2"), "a")
    write(warehouse, "queries", queries("q9"), "b")
    write(warehouse, "queries", queries("q3"), "a")
    assert warehouse.read("queries").select(["batch", "query_id"]).to_pylist() == [
        {"batch": "a", "query_id": "q3"},
        {"batch": "b", "query_id": "q9"},
    ]


def test_columns_are_matched_by_name(warehouse: Warehouse) -> None:
    """An insert by position would swap query_id and text: both are text, so nothing would complain."""
    rows = pa.table({"split": ["dev"], "text": ["the text"], "text_key": ["key"], "batch": ["a"], "query_id": ["q1"]})
    write(warehouse, "queries", rows, "a")
    assert warehouse.read("queries").to_pylist() == [
        {"batch": "a", "query_id": "q1", "text": "the text", "text_key": "key", "split": "dev"}
    ]


def test_missing_and_extra_columns_are_both_named(warehouse: Warehouse) -> None:
    """A misspelt column would otherwise be filled with NULL."""
    rows = pa.table({"query_id": ["q1"], "txt": ["t"], "text_key": ["t"], "split": ["dev"]})
    with pytest.raises(WarehouseError, match=r"missing columns \['text'\], extra columns \['txt'\]"):
        write(warehouse, "queries", rows, "a")


def test_an_empty_frame_is_refused_unless_meant(warehouse: Warehouse) -> None:
    """An upstream that broke and gave no rows would wipe a good partition."""
    write(warehouse, "queries", queries("q1"), "a")
    empty = queries("q1").slice(0, 0)
    with pytest.raises(EmptyFrameError, match="queries"):
        write(warehouse, "queries", empty, "a")
    assert warehouse.read("queries").num_rows == 1
    write(warehouse, "queries", empty, "a", is_empty_meant=True)
    assert warehouse.read("queries", slice_keys=["a"]).num_rows == 0
    assert warehouse.slice_keys("queries") == ["a"]


def test_every_missing_partition_is_named_with_its_asset(warehouse: Warehouse) -> None:
    """A fan-in that loads the partitions that happen to be there trains on part of the data."""
    write(warehouse, "teacher_scores", scores(0.5), "b")
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
        write(warehouse, "teacher_scores", scores(logit), "b")


def test_a_value_that_does_not_fit_is_refused_and_not_rounded(warehouse: Warehouse) -> None:
    """DuckDB rounds 0.5 to 0 on insert: a graded judgement would become 'not relevant'."""
    rows = pa.table({"query_id": ["q"], "doc_id": ["d"], "relevance": [0.5]})
    with pytest.raises(WarehouseError, match="does not fit"):
        write(warehouse, "qrels", rows, "a")


def test_a_repeated_key_is_refused(warehouse: Warehouse) -> None:
    """A join that fans out would store a document twice, and a ranking would hold it twice."""
    with pytest.raises(WarehouseError, match=r"occur more than once.*'q1'"):
        write(warehouse, "queries", queries("q1", "q1"), "a")


def test_rows_of_another_slice_are_refused(warehouse: Warehouse) -> None:
    """Rows of batch b written under key a would survive when a is replaced."""
    rows = queries("q1").append_column("batch", pa.array(["b"]))
    with pytest.raises(WarehouseError, match="other values of batch, first 'b'"):
        write(warehouse, "queries", rows, "a")
    with pytest.raises(WarehouseError, match="slice key is required"):
        write(warehouse, "queries", queries("q1"))
    with pytest.raises(WarehouseError, match="not partitioned"):
        write(warehouse, "leaderboard", queries("q1"), "a")


def test_reads_are_ordered_by_key_and_quoting_cannot_be_steered(warehouse: Warehouse) -> None:
    """An order that follows the insert would make fingerprints and training differ between runs."""
    write(warehouse, "queries", queries("q2", "q10", "q1"), "b'; DROP TABLE queries; --")
    write(warehouse, "queries", queries("q3"), "a")
    assert warehouse.read("queries", columns=["query_id"])["query_id"].to_pylist() == ["q3", "q1", "q10", "q2"]
    assert warehouse.read("queries", slice_keys=[]).num_rows == 0
    with pytest.raises(WarehouseError, match="no columns"):
        warehouse.read("queries", columns=["1; DROP TABLE queries"])
    with pytest.raises(WarehouseError, match="no table"):
        warehouse.read("queries; DROP TABLE queries")


def test_append_only_and_sliced_tables_are_not_mixed_up(warehouse: Warehouse) -> None:
    """A slice written over the champion's history would erase what a roll back needs."""
    with pytest.raises(WarehouseError, match="champion_history is written by append"):
        write(warehouse, "champion_history", queries("q1"))
    with pytest.raises(WarehouseError, match="queries is written by slices"):
        warehouse.append("queries", queries("q1"))
    with pytest.raises(WarehouseError, match="internal"):
        warehouse.append("slices", queries("q1"))


def decision(*days: int) -> pa.Table:
    """Rows of champion_history, decided so many days after 1970-01-01."""
    row = {"recipe": "r", "model_fingerprint": "f", "checkpoint_path": "p", "verdict": "promoted", "reason": "first"}
    row |= {"dev_ndcg_at_10": 0.6, "p_value": None, "best_model_fingerprint": "f", "best_checkpoint_path": "p"}
    rows = [{**row, "decided_at": datetime(1970, 1, 1) + timedelta(days=day)} for day in days]
    return pa.Table.from_pylist(rows, schema=HISTORY_SCHEMA)


def test_append_adds_and_keeps_nulls_where_they_mean_something(warehouse: Warehouse) -> None:
    """A p-value of NULL (nothing was tested) must not turn into 0, which reads as 'significant'."""
    for day in (2, 1):
        warehouse.append("champion_history", decision(day))
    history = warehouse.read("champion_history")
    assert [moment.day for moment in history["decided_at"].to_pylist()] == [2, 3]
    assert history["p_value"].to_pylist() == [None, None]
    assert history["sequence"].to_pylist() == [2, 1]  # in the order in which they were appended


def test_slices_of_several_tables_are_written_together_or_not_at_all(warehouse: Warehouse) -> None:
    """A leaderboard beside the query results of the run before shows one run's means and another run's queries."""
    write(warehouse, "queries", queries("q1"), "a")
    new = SliceWrite(table="queries", rows=queries("q2"), slice_key="a")
    with pytest.raises(WarehouseError, match="qrels: 1 keys"):
        warehouse.write(new, SliceWrite(table="qrels", rows=judged(1, 1), slice_key="a"))
    assert warehouse.read("queries")["query_id"].to_pylist() == ["q1"]
    assert warehouse.slices("qrels") == {}
    warehouse.write(new, SliceWrite(table="qrels", rows=judged(1), slice_key="a"))
    assert warehouse.read("queries")["query_id"].to_pylist() == ["q2"]
    assert warehouse.read("qrels")["relevance"].to_pylist() == [1]


def judged(*relevances: int) -> pa.Table:
    """Rows of the table qrels, all of the same query and document."""
    count = len(relevances)
    return pa.table({"query_id": ["q1"] * count, "doc_id": ["d1"] * count, "relevance": list(relevances)})


@pytest.mark.parametrize("is_appended", [False, True])
def test_require_sees_what_is_stored_and_can_refuse(warehouse: Warehouse, is_appended: bool) -> None:
    """A result of inputs that moved while it was made would count as made from the new ones."""
    write(warehouse, "queries", queries("q1"), "a")

    def refuse(connection: duckdb.DuckDBPyConnection) -> None:
        assert connection.execute("SELECT query_id FROM queries").fetchall() == [("q1",)]
        raise InputsMovedError("moved")

    with pytest.raises(InputsMovedError, match="moved"):
        if is_appended:
            warehouse.append("champion_history", decision(1), inputs={"metrics": "m"}, require=refuse)
        else:
            warehouse.write(SliceWrite(table="queries", rows=queries("q2"), slice_key="a"), require=refuse)
    assert warehouse.read("queries")["query_id"].to_pylist() == ["q1"]
    assert warehouse.read("champion_history").num_rows == 0
    assert list(warehouse.all_slices()) == [("queries", "a")]


def test_a_slice_tells_what_it_was_made_from(warehouse: Warehouse) -> None:
    """A slice that a check refused, or one of an older version, would be taken for up to date, and `why` would have nothing to say."""
    write(warehouse, "queries", queries("q1"), "a", inputs={"source": "s1", "code": "1"}, data_version="v")
    write(warehouse, "queries", queries("q2"), "b", inputs={"source": "s1"}, is_accepted=False)
    accepted, refused = warehouse.slice_info("queries", "a"), warehouse.slice_info("queries", "b")
    assert accepted is not None and refused is not None
    assert (accepted.inputs, accepted.data_version) == ({"code": "1", "source": "s1"}, "v")
    assert accepted.input_fingerprint
    assert (refused.inputs, refused.input_fingerprint, refused.num_rows) == ({"source": "s1"}, "", 1)


def test_an_appended_table_counts_as_made_from_its_inputs(warehouse: Warehouse) -> None:
    """Without the record the gate would decide again on every run, over the same numbers."""
    warehouse.append("champion_history", decision(1))
    assert warehouse.slice_info("champion_history") is None
    warehouse.append("champion_history", decision(2, 3), inputs={"metrics": "m"}, data_version="v")
    info = warehouse.slice_info("champion_history")
    assert info is not None and (info.inputs, info.data_version) == ({"metrics": "m"}, "v")
    assert warehouse.read("champion_history")["sequence"].to_pylist() == [1, 2, 3]


def test_a_query_reads_tables_at_hand_and_ignores_parameters_it_does_not_name(warehouse: Warehouse) -> None:
    """One set of parameters serves several statements; `$a` must not be bound where only `$ab` is named."""
    write(warehouse, "queries", queries("q1", "q2"), "a")
    sql = "SELECT query_id, score + $ab AS score FROM queries JOIN mine USING (query_id) ORDER BY query_id"
    mine = pa.table({"query_id": ["q2", "q1", "q9"], "score": [20, 10, 90]})
    found = warehouse.query(sql, {"ab": 1, "a": 5, "other": 7}, tables={"mine": mine})
    assert found.to_pydict() == {"query_id": ["q1", "q2"], "score": [11, 21]}


def test_drop_slice_forgets_rows_and_record(warehouse: Warehouse) -> None:
    """A record left behind would make a reader take a dropped batch for an empty one."""
    write(warehouse, "queries", queries("q1"), "a", data_version="v")
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
        write(warehouse, "queries", queries("q1"), "a")


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
from distill_assets.storage.warehouse import SliceWrite, Warehouse
name = sys.argv[2]
for i in range(8):
    rows = pa.table({"query_id": [f"{name}-{i}"], "text": ["t"], "text_key": ["t"], "split": ["dev"]})
    Warehouse(Path(sys.argv[1])).write(SliceWrite(table="queries", rows=rows, slice_key=f"{name}-{i}"))
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
connection = duckdb.connect(sys.argv[1], read_only=len(sys.argv) > 2)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(warehouse: Warehouse) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the file until it is killed."""
    warehouse.slice_keys("corpus")
    yield from _hold(warehouse)


def _hold(warehouse: Warehouse, *mode: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(warehouse.path), *mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_file_is_waited_for_and_then_named(
    warehouse: Warehouse,
    holder: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Waiting for ever on a process that hangs would look like a slow run; two silent minutes look like a crash."""
    impatient = Warehouse(warehouse.path, lock_timeout_s=0.2)
    with pytest.raises(WarehouseError, match=rf"held by another process for 0.2 s.*{holder.pid}"):
        impatient.slice_keys("corpus")
    assert caplog.messages == []
    monkeypatch.setattr(storage, "_SILENT_S", 0.05)
    with pytest.raises(WarehouseError):
        impatient.slice_keys("corpus")
    [told] = caplog.messages
    assert re.fullmatch(rf"waiting up to 0.2 s for it's.duckdb: it is held by .+ \(PID {holder.pid}\)", told)


def test_readers_hold_up_no_reader_and_change_nothing(warehouse: Warehouse) -> None:
    """An open notebook, or another search, made every command that only reads wait for the lock and then fail."""
    write(warehouse, "queries", queries("q1"), "a")
    before = {path.name: path.read_bytes() for path in warehouse.path.parent.iterdir()}
    impatient = Warehouse(warehouse.path, lock_timeout_s=0.2)
    for _ in _hold(warehouse, "to read"):
        assert impatient.slice_keys("queries") == ["a"]
        assert impatient.read("queries").num_rows == impatient.query("SELECT * FROM queries").num_rows == 1
        with pytest.raises(WarehouseError, match=r"held by another process for 0.2 s"):
            write(impatient, "queries", queries("q2"), "b")
    assert {path.name: path.read_bytes() for path in warehouse.path.parent.iterdir()} == before


def test_readers_let_a_waiting_writer_pass(warehouse: Warehouse) -> None:
    """Readers overlap: a write waited 9 s while four processes read without a pause, and would have failed with more of them."""
    write(warehouse, "queries", queries("q1"), "a")
    for process in _hold(warehouse, "to read"):
        writer = threading.Thread(target=write, args=(warehouse, "queries", queries("q2"), "a"))
        writer.start()
        late = Warehouse(warehouse.path, lock_timeout_s=0.2)
        for _ in range(1000):  # until the writer has come
            try:
                late.read("queries")
            except WarehouseBusyError:
                break
        else:
            pytest.fail("readers went on although a writer waited")
        assert process.stdin is not None
        process.stdin.close()
        writer.join(30)
        assert warehouse.read("queries")["query_id"].to_pylist() == ["q2"]


def test_a_thread_that_reads_shares_what_another_has_open_for_writing(warehouse: Warehouse) -> None:
    """A database is open in one mode a process: a look at the leaderboard inside a write would wait for itself."""
    write(warehouse, "queries", queries("q1"), "a")
    with warehouse.transaction() as connection:
        connection.execute("DELETE FROM queries")
        assert Warehouse(warehouse.path, lock_timeout_s=0.2).read("queries").num_rows == 1
    assert warehouse.read("queries").num_rows == 0


def test_threads_of_one_process_write_side_by_side(warehouse: Warehouse) -> None:
    """Threads share one DuckDB instance: two writers of one slice would raise a conflict instead of waiting."""
    failures: list[BaseException] = []

    def write_both(name: str) -> None:
        try:
            for i in range(5):
                write(Warehouse(warehouse.path), "queries", queries(f"{name}{i}"), "same")
                write(warehouse, "queries", queries(f"{name}{i}"), name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write_both, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert warehouse.slice_keys("queries") == ["a", "b", "c", "same"]
    assert warehouse.read("queries").num_rows == 4


@pytest.mark.parametrize("spec", TABLES.values(), ids=TABLES.keys())
def test_keys_and_slices_are_columns_and_every_column_is_described(spec: TableSpec) -> None:
    """A key that names no column fails only when that table is first read, at the end of a long run."""
    assert set(spec.key_columns) <= set(spec.columns)
    assert spec.slice_column is None or spec.slice_column in spec.columns
    assert all(column.description.endswith(".") for column in spec.columns.values())


def test_an_older_file_gets_the_new_tables_and_keeps_its_rows(warehouse: Warehouse) -> None:
    """Refusing a file of the version before would cost every score that it holds."""
    write(warehouse, "queries", queries("q1"), "a")
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute("DROP TABLE quarantine")
        connection.execute("UPDATE schema_info SET version = 1")
    again = Warehouse(warehouse.path)
    assert again.read("quarantine").num_rows == 0
    assert again.read("queries")["query_id"].to_pylist() == ["q1"]
    with duckdb.connect(str(warehouse.path)) as connection:
        assert connection.execute("SELECT version FROM schema_info").fetchall() == [(SCHEMA_VERSION,)]


NEW_COLUMNS = (
    *("p_vs_hard_labels", "p_vs_untouched", "detectable_vs_hard_labels", "detectable_vs_untouched", "prompts"),
    "judged_by",
)


def leaderboard_row(**values: float | None) -> pa.Table:
    """One row; the columns of the tests hold `values`, NULL by default."""
    row: dict[str, Any] = dict.fromkeys(TABLES["leaderboard"].columns, 0.5)
    row |= (
        {"split": "test", "system": "bm25", "num_queries": 10}
        | dict.fromkeys(NEW_COLUMNS)
        | values
        | {"model_fingerprint": None}
    )
    schema = {
        name: {"VARCHAR": pa.string(), "INTEGER": pa.int32()}.get(c.sql_type, pa.float64())
        for name, c in TABLES["leaderboard"].columns.items()
    }
    return pa.table({name: pa.array([row[name]], schema[name]) for name in row})


def test_an_older_leaderboard_gets_the_columns_of_the_tests(warehouse: Warehouse) -> None:
    """A file of schema 2 has a narrower table: a read by name fails in every command, a fresh table loses its rows."""
    write(warehouse, "leaderboard", leaderboard_row())
    with duckdb.connect(str(warehouse.path)) as connection:
        for column in NEW_COLUMNS:
            connection.execute(f"ALTER TABLE leaderboard DROP COLUMN {column}")
        connection.execute("DROP TABLE scoring_costs")
        connection.execute("UPDATE schema_info SET version = 2")
    again = Warehouse(warehouse.path)
    (row,) = again.read("leaderboard").to_pylist()
    assert row["ndcg_at_10"] == 0.5 and all(row[column] is None for column in NEW_COLUMNS)
    assert again.read("scoring_costs").num_rows == 0
    write(again, "leaderboard", leaderboard_row(p_vs_untouched=0.04))
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
        {"scorer_id": "t", "query_hash": "q1", "doc_hash": "d1", "teacher_logit": 1.5}
    ]
    keys = "SELECT count(*) AS n FROM duckdb_constraints() WHERE table_name = 'pair_scores' AND constraint_type = 'PRIMARY KEY'"
    assert again.query(keys)["n"].to_pylist() == [0]


def test_known_slices_follow_other_writers(warehouse: Warehouse) -> None:
    """A remembered list of slices that misses another process's write would train on last week's data and call it fresh."""
    write(warehouse, "queries", queries("q1"), "a")
    time.sleep(0.15)  # old enough to be remembered
    assert list(warehouse.slices("queries")) == ["a"]
    assert warehouse._known_slices is not None
    write(Warehouse(warehouse.path), "queries", queries("q2"), "b")
    assert list(warehouse.slices("queries")) == ["a", "b"]
    time.sleep(0.15)
    assert list(warehouse.slices("queries")) == ["a", "b"]
    Warehouse(warehouse.path).drop_slice("queries", "a")
    assert list(warehouse.slices("queries")) == ["b"]
