"""The DuckDB warehouse: one file, short-lived connections, one transaction per write.

DuckDB lets one process hold a file for writing, or any number for reading. A connection is therefore opened for one transaction and
closed again; who finds the file held waits with jittered back-off. Never keep a connection open over a model's forward pass.
"""

import fcntl
import json
import logging
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from distill_assets.documents import StoredDocuments
from distill_assets.errors import (
    EmptyFrameError,
    MissingPartitionError,
    NewerWarehouseError,
    NoSpaceError,
    WarehouseBusyError,
    WarehouseError,
)
from distill_assets.records import fingerprint
from distill_assets.spilling import LIMIT_MB, THREADS, enough_space, is_full, memory_limit, no_space
from distill_assets.storage.tables import RENAMED, SCHEMA_VERSION, TABLES, ColumnSpec, TableSpec, conform, table_spec

__all__ = ["SCHEMA_VERSION", "TABLES", "ColumnSpec", "SliceInfo", "SliceWrite", "TableSpec", "Warehouse"]

# DuckDB's wording on POSIX and on Windows; every other IOException (no permission, not a database) is final.
_LOCK_MESSAGES = ("could not set lock", "being used by another process")
# Threads of one process share an open database: a second one cannot have it for reading while another has it for writing.
_OTHER_MODE = "with a different configuration"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.01, 0.5
_SILENT_S = 3.0  # after so long people wonder; a write of another process takes less
_SETTLED_S = 0.1  # file times tick every few milliseconds: a younger file may change again under the same time stamp
_logger = logging.getLogger(__name__)
Rows: TypeAlias = pa.Table | StoredDocuments  # of one slice: in memory, or in a file
# Threads of one process share one DuckDB instance, where two transactions on the same slice would conflict, not wait.
_WRITE_LOCKS: dict[Path, threading.RLock] = {}
_OPENING = threading.Lock()


@dataclass(frozen=True, slots=True)
class SliceInfo:
    """What is materialised: one slice of one table.

    `input_fingerprint` is empty where a blocking check refused the slice. `inputs_json` is None where an older version wrote it.
    """

    table_name: str
    slice_key: str
    num_rows: int
    input_fingerprint: str
    data_version: str
    written_at: datetime
    inputs_json: str | None = None

    @property
    def inputs(self) -> dict[str, str] | None:
        """Version of each input by name; None where an older version wrote the slice."""
        return None if self.inputs_json is None else json.loads(self.inputs_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceWrite:
    """One slice to write: its rows, what they were made from, and the version of their content.

    Attributes:
        rows: the table's columns in any order; the slice column is added, or holds `slice_key` throughout. Rows of a file are
            inserted from there, in bounded memory.
        inputs: version of each input by name.
        is_accepted: False where a blocking check failed: the slice is kept to look at and never up to date.
        is_empty_meant: no rows are an error unless this says that they are meant.
    """

    table: str
    rows: Rows = field(repr=False)
    slice_key: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    is_accepted: bool = True
    data_version: str = ""
    is_empty_meant: bool = False


class Warehouse:
    """Reads and writes the tables of `storage/tables.py` in one DuckDB file."""

    def __init__(self, path: Path, *, lock_timeout_s: float = 120.0) -> None:
        """Name the file and how long to wait while another process holds it; nothing is opened or made yet."""
        self.path = Path(path)
        self.lock_timeout_s = lock_timeout_s
        self._write_lock = _WRITE_LOCKS.setdefault(self.path.resolve(), threading.RLock())
        self._known_slices: tuple[object, dict[tuple[str, str], SliceInfo]] | None = None

    def exists(self) -> bool:
        """Whether the file is there. Ask before reading where a read must not create a warehouse."""
        return self.path.is_file()

    @contextmanager
    def connect(self, *, is_reading: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with all tables in place, closed at the end of the block.

        One that reads holds up no other reader. It may write where there is nothing to read yet, or an older version's tables.

        Raises:
            NewerWarehouseError: the file was made by a newer version of this package.
            WarehouseBusyError: another process held the file for all of `lock_timeout_s`.
            WarehouseError: the file is not a warehouse.
        """
        connection = self._open_to_read() if is_reading else self._open()
        try:
            self._prepare(connection)
            yield connection
        finally:
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection in one write transaction: committed at the end of the block, rolled back on any error."""
        with self._write_lock, self._duckdb_errors(), self.connect() as connection:
            connection.begin()
            try:
                yield connection
                connection.commit()
            except BaseException:
                with suppress(duckdb.Error):  # a failed commit has rolled back already; its error is the one to show
                    connection.rollback()
                raise

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for several SELECTs and temporary tables; close it before anything slow.

        Write nothing inside the block: a writer waits until this reader is gone.
        """
        with self._duckdb_errors(), self.connect(is_reading=True) as connection:
            yield connection

    def copy_to(self, path: Path) -> "Warehouse":
        """A copy of the file at `path`, of one moment; a new warehouse where there is no file. Raises `NoSpaceError`."""
        if not self.exists():
            return Warehouse(path)
        with self.reading():  # nobody writes meanwhile
            for name in (self.path.name, f"{self.path.name}.wal"):
                if (source := self.path.with_name(name)).exists():
                    with enough_space(source, "a copy of the warehouse"):
                        shutil.copyfile(source, path.with_name(name.replace(self.path.name, path.name)))
        return Warehouse(path)

    def write(self, *slices: SliceWrite, require: Callable[[duckdb.DuckDBPyConnection], None] = lambda _: None) -> None:
        """Replace slices in one transaction: all of them or none. A failure keeps the old ones.

        `require` is called first, inside the transaction, and may refuse by raising.

        Raises:
            EmptyFrameError: a slice has no rows, and `is_empty_meant` does not say that this is meant.
            NoSpaceError: the disk is full.
            NonFiniteError: a NaN or an infinity.
            WarehouseError: wrong columns, wrong types, NULL where none may be, or a key that occurs twice.
        """
        prepared = [(each, _prepared(each)) for each in slices]
        with self.transaction() as connection:
            require(connection)
            for each, rows in prepared:
                spec = table_spec(each.table)
                with incoming(connection, {"incoming": rows}):
                    _refuse_repeated_keys(connection, each.table, spec, rows)
                    _delete_slice(connection, each.table, spec, each.slice_key)
                    _insert(connection, each, rows)
                _record_slice(connection, each, len(rows))

    def append(
        self,
        table: str,
        rows: pa.Table,
        *,
        inputs: Mapping[str, str] | None = None,
        data_version: str = "",
        require: Callable[[duckdb.DuckDBPyConnection], None] = lambda _: None,
    ) -> None:
        """Add rows to an append-only table in one transaction; a column `sequence` is numbered on from the rows that are there.

        With `inputs` the table counts as materialised from them, as one slice. `require` may refuse, as in `write`.
        """
        spec = _require_mode(table, "append")
        is_numbered = "sequence" in spec.columns
        if is_numbered:
            rows = rows.append_column("sequence", pa.array(range(rows.num_rows), pa.int64()))
        rows = conform(table, rows)
        with self.transaction() as connection:
            require(connection)
            connection.register("incoming", rows)
            _refuse_repeated_keys(connection, table, spec, rows)
            first = f"(SELECT 1 + coalesce(greatest(max(sequence), count(*)), 0) FROM {table})"
            chosen = f"* REPLACE (sequence + {first} AS sequence)" if is_numbered else "*"
            connection.execute(f"INSERT INTO {table} BY NAME SELECT {chosen} FROM incoming")
            if inputs is not None:
                told = SliceWrite(table=table, rows=rows, inputs=inputs, data_version=data_version)
                _record_slice(connection, told, rows.num_rows)

    def drop_slice(self, table: str, slice_key: str) -> None:
        """Delete one slice and the record that it was materialised. Nothing happens when it is not there."""
        spec = _require_mode(table, "slices")
        with self.transaction() as connection:
            _delete_slice(connection, table, spec, slice_key)
            connection.execute("DELETE FROM slices WHERE table_name = ? AND slice_key = ?", [table, slice_key])

    def read(
        self, table: str, *, slice_keys: Sequence[str] | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Rows of a table, or of the named slices only, ordered by the table's key columns.

        Raises:
            MissingPartitionError: some of `slice_keys` were never materialised; all of them are named. (A fan-in that
                loads what happens to be there would train on part of the data at a plausible loss.)
        """
        spec = table_spec(table)
        unknown = sorted(set(columns or ()) - set(spec.columns))
        if unknown:
            raise WarehouseError(f"{table} has no columns {unknown}: it has {', '.join(spec.columns)}")
        chosen = ", ".join(spec.columns if columns is None else columns)
        order = ", ".join(spec.key_columns)
        where, parameters = "", []
        if slice_keys is not None and spec.slice_column:
            where, parameters = f"WHERE {spec.slice_column} IN (SELECT unnest(?::VARCHAR[]))", [list(slice_keys)]
        with self._duckdb_errors(), self.connect(is_reading=True) as connection:
            connection.begin()  # the check and the read see the same snapshot
            if slice_keys is not None:
                _require_slices(connection, table, spec, slice_keys)
            sql = f"SELECT {chosen} FROM {table} {where} ORDER BY {order}"
            return connection.sql(sql, params=parameters).to_arrow_table()

    def query(
        self,
        sql: str,
        parameters: Sequence[Any] | Mapping[str, Any] = (),
        *,
        tables: Mapping[str, Rows] | None = None,
    ) -> pa.Table:
        """The result of one SELECT as one table. It may select from `tables` under their names."""
        with self._duckdb_errors(), self.connect(is_reading=True) as connection:
            return select(connection, sql, parameters, tables)

    def slice_info(self, table: str, slice_key: str = "") -> SliceInfo | None:
        """What is recorded about one slice, or None when it was never materialised."""
        table_spec(table)
        return self.all_slices().get((table, slice_key))

    def slices(self, table: str) -> dict[str, SliceInfo]:
        """What is recorded about every materialised slice of a table, by slice key, sorted."""
        table_spec(table)
        return {key: info for (name, key), info in self.all_slices().items() if name == table}

    def slice_keys(self, table: str) -> list[str]:
        """Keys of the materialised slices of a table, sorted."""
        return list(self.slices(table))

    def all_slices(self) -> dict[tuple[str, str], SliceInfo]:
        """What is recorded about every slice, by table and slice key; read again only when the file has changed.

        Whether a hundred batches are up to date takes some thousand of these look-ups; opening the file costs 10 ms.
        """
        stamp = self._stamp()
        if self._known_slices is not None and stamp is not None and self._known_slices[0] == stamp:
            return self._known_slices[1]
        with self.reading() as connection:
            found = slices_in(connection)
        # Opening may have written (a first table, a log replayed): what counts is that nothing moved since before the read.
        if stamp is not None and stamp == self._stamp():
            self._known_slices = (stamp, found)
        return found

    def _stamp(self) -> object | None:
        """Size and time of the file and its log; None while they are too young to tell two writes apart."""
        stamp = []
        for path in (self.path, self.path.with_name(f"{self.path.name}.wal")):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if time.time() - stat.st_mtime < _SETTLED_S:
                return None
            stamp.append((path.name, stat.st_size, stat.st_mtime_ns))
        return tuple(stamp)

    def _open_to_read(self) -> duckdb.DuckDBPyConnection:
        if not self.exists():
            return self._open()
        connection = self._open(read_only=True)
        found = _stored_version(connection)
        if found is not None and found >= SCHEMA_VERSION:
            return connection
        connection.close()
        return self._open()

    def _open(self, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
        """Wait for the file and open it. A reader shares what another thread of this process has open for writing.

        Readers overlap, so a writer might never find the file free: with four that read without a pause a write took 9 s. So a
        writer that waits holds the turnstile, which every reader passes.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.lock_timeout_s
        wait_s, jitter = _FIRST_WAIT_S, random.SystemRandom()
        told_at = time.monotonic() + _SILENT_S
        with self._turnstile(read_only=read_only) as turnstile:
            while True:
                try:
                    _pass(turnstile, read_only=read_only)
                    # A thread that opens a file which another one is opening gets a database without Arrow's functions (DuckDB 2.0).
                    with _OPENING:
                        return duckdb.connect(str(self.path), read_only=read_only)
                except (duckdb.Error, BlockingIOError) as error:
                    if _OTHER_MODE in str(error):
                        if read_only:
                            read_only = False
                            continue
                    elif isinstance(error, duckdb.Error) and not _is_held(error):
                        raise WarehouseError(
                            f"cannot open {self.path}: {error}; expected a DuckDB file of this package that can be written"
                        ) from error
                    if time.monotonic() >= deadline:
                        raise WarehouseBusyError(
                            f"{self.path} was held by another process for {self.lock_timeout_s:g} s: {error}; "
                            "wait for that process or end it, then run again"
                        ) from error
                    if time.monotonic() >= told_at:
                        told_at = float("inf")
                        _logger.warning(
                            "waiting up to %g s for %s: %s", self.lock_timeout_s, self.path.name, _holder(error)
                        )
                time.sleep(wait_s * jitter.uniform(0.5, 1.5))
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    @contextmanager
    def _turnstile(self, *, read_only: bool) -> Iterator[IO[bytes] | None]:
        """The file that is locked while a writer waits; None where no writer has come yet, or the folder cannot be written."""
        path = self.path.with_name(f".{self.path.name}.waiting")
        try:
            file = path.open("rb" if read_only else "ab")
        except OSError:
            yield None
            return
        with file:  # closing it gives the lock back
            yield file

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        found = _stored_version(connection)
        if found is None:
            with self._write_lock:
                if _stored_version(connection) is None:
                    self._create_tables(connection)
            found = _stored_version(connection)
        if found is not None and found > SCHEMA_VERSION:
            raise NewerWarehouseError(
                f"{self.path} has schema version {found}, this package reads version {SCHEMA_VERSION}: "
                "upgrade the package (pip install --upgrade distill-assets); nothing was changed"
            )
        if found is None:
            raise WarehouseError(
                f"{self.path} has no schema version, expected {SCHEMA_VERSION}: set another data_folder or shared_stores"
            )
        if found < SCHEMA_VERSION:
            with self._write_lock:
                self._upgrade(connection)

    def _create_tables(self, connection: duckdb.DuckDBPyConnection) -> None:
        others = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        if others:
            raise WarehouseError(
                f"{self.path} is a DuckDB file with other tables ({', '.join(sorted(others)[:5])}): "
                "expected an empty one or a warehouse of this package; set another data_folder or shared_stores"
            )
        connection.begin()
        for table, spec in TABLES.items():
            connection.execute(spec.ddl(table))
        connection.execute("INSERT INTO schema_info VALUES (?)", [SCHEMA_VERSION])
        connection.commit()

    def _upgrade(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Add tables and columns that newer versions brought, rename and drop what they gave up; all other values stay."""
        connection.begin()
        for table, spec in TABLES.items():
            _rename_columns(connection, table)
            if not spec.has_primary_key and _has_primary_key(connection, table):
                _rebuild(connection, table, spec)
            connection.execute(spec.ddl(table))
            _add_missing_columns(connection, table, spec)
            for name in sorted(_stored_columns(connection, table) - set(spec.columns)):
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
        connection.execute("UPDATE schema_info SET version = ?", [SCHEMA_VERSION])
        connection.commit()

    @contextmanager
    def _duckdb_errors(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, MemoryError, OSError) as error:
            if is_full(error):
                raise NoSpaceError(no_space(self.path, "a write to the warehouse", error)) from error
            if not isinstance(error, duckdb.Error):
                raise
            raise WarehouseError(f"{self.path}: {error}; nothing was changed") from error


def _pass(turnstile: IO[bytes] | None, *, read_only: bool) -> None:
    """Take the turnstile; a reader gives it back at once. Raises `BlockingIOError` while a writer holds it."""
    if turnstile is None:
        return
    fcntl.flock(turnstile, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if read_only:
        fcntl.flock(turnstile, fcntl.LOCK_UN)


def _is_held(error: duckdb.Error) -> bool:
    return any(message in str(error).lower() for message in _LOCK_MESSAGES)


def _holder(error: Exception) -> str:
    """Who holds the file, as DuckDB says it: program and process id."""
    found = re.search(r"held in (.+? \(PID \d+\))", str(error))
    return f"it is held by {found[1]}" if found else "another process holds it"


def select(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    tables: Mapping[str, Rows] | None = None,
) -> pa.Table:
    """The result of one SELECT on an open connection. `parameters` by name may hold more than the statement asks for."""
    with incoming(connection, tables or {}):
        return connection.sql(sql, params=bind(sql, parameters)).to_arrow_table()


@contextmanager
def incoming(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, Rows]) -> Iterator[None]:
    """Tables that are no part of the warehouse, under their names. With rows of a file among them memory is bounded."""
    is_large = any(isinstance(rows, StoredDocuments) for rows in tables.values())
    with memory_limit(connection, LIMIT_MB, THREADS) if is_large else nullcontext():
        for name, rows in tables.items():
            if isinstance(rows, StoredDocuments):
                connection.execute(f"CREATE TEMP VIEW {name} AS FROM read_parquet({_literal(str(rows.path))})")
            else:
                connection.register(name, rows)
        yield
        for name in tables:
            connection.execute(f"DROP VIEW {name}")


def _literal(text: str) -> str:
    quoted = text.replace("'", "''")
    return f"'{quoted}'"


def _insert(connection: duckdb.DuckDBPyConnection, each: SliceWrite, rows: Rows) -> None:
    """Rows of a file lack the slice column, for which there is one value."""
    if isinstance(rows, StoredDocuments):
        sql = (
            f"INSERT INTO {each.table} BY NAME SELECT ?::VARCHAR AS {TABLES[each.table].slice_column}, * FROM incoming"
        )
        connection.execute(sql, [each.slice_key])
    else:
        connection.execute(f"INSERT INTO {each.table} BY NAME SELECT * FROM incoming")


def bind(sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[Any] | dict[str, Any]:
    """The parameters that a statement names: DuckDB refuses any other."""
    if isinstance(parameters, Mapping):
        return {name: value for name, value in parameters.items() if re.search(rf"\${name}\b", sql)}
    return list(parameters)


def slices_in(connection: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], SliceInfo]:
    """What is recorded about every slice, by table and slice key, sorted."""
    sql = f"SELECT {', '.join(TABLES['slices'].columns)} FROM slices ORDER BY table_name, slice_key"
    return {(r["table_name"], r["slice_key"]): SliceInfo(**r) for r in select(connection, sql).to_pylist()}


def utc_now() -> datetime:
    """The time for a TIMESTAMP column: UTC without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def _stored_version(connection: duckdb.DuckDBPyConnection) -> int | None:
    """Schema version of the file; None where there is none. Asked at every opening: listing all tables takes 8 ms, this 0.3."""
    try:
        # fetchall, always: DuckDB 2 keeps a connection busy until a result is read to its end.
        return connection.execute("SELECT max(version) FROM schema_info").fetchall()[0][0]
    except duckdb.CatalogException:
        return None


def _add_missing_columns(connection: duckdb.DuckDBPyConnection, table: str, spec: TableSpec) -> None:
    """What is stored says which are missing, not its version: several changes may share one. Old rows get NULL there."""
    stored = _stored_columns(connection, table)
    for name, column in spec.columns.items():
        if name in stored:
            continue
        if not column.is_nullable:
            raise WarehouseError(
                f"{table} lacks the column {name}, which may not be NULL: rows of an older file have no value for it; "
                "set another data_folder"
            )
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {column.sql_type}")


def _stored_columns(connection: duckdb.DuckDBPyConnection, table: str) -> set[str]:
    sql = "SELECT column_name FROM duckdb_columns() WHERE table_name = ?"
    return {row[0] for row in connection.execute(sql, [table]).fetchall()}


def _rename_columns(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    stored = _stored_columns(connection, table)
    for old, new in RENAMED.get(table, {}).items():
        if old in stored and new not in stored:
            connection.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")


def _has_primary_key(connection: duckdb.DuckDBPyConnection, table: str) -> bool:
    sql = "SELECT 1 FROM duckdb_constraints() WHERE table_name = ? AND constraint_type = 'PRIMARY KEY'"
    return bool(connection.execute(sql, [table]).fetchall())


def _rebuild(connection: duckdb.DuckDBPyConnection, table: str, spec: TableSpec) -> None:
    """Copy a table into one of the present specification: DuckDB cannot drop a primary key."""
    connection.execute(spec.ddl("rebuilt"))
    connection.execute(f"INSERT INTO rebuilt BY NAME SELECT * FROM {table}")
    connection.execute(f"DROP TABLE {table}")
    connection.execute(f"ALTER TABLE rebuilt RENAME TO {table}")


def _require_mode(table: str, mode: str) -> TableSpec:
    spec = table_spec(table)
    if spec.mode != mode:
        raise WarehouseError(f"{table} is written by {spec.mode}, not by {mode}: see mode in storage/tables.py")
    return spec


def _with_slice_column(table: str, spec: TableSpec, rows: pa.Table, slice_key: str) -> pa.Table:
    if spec.slice_column is None:
        if slice_key:
            raise WarehouseError(f"{table} is not partitioned, got slice key {slice_key!r}: leave it empty")
        return rows
    if not slice_key:
        raise WarehouseError(f"{table} is cut by {spec.slice_column}: a slice key is required, got none")
    if spec.slice_column not in rows.column_names:
        return rows.append_column(spec.slice_column, pa.repeat(pa.scalar(slice_key, pa.large_string()), rows.num_rows))
    others = set(pc.unique(rows[spec.slice_column]).to_pylist()) - {slice_key}
    if others:
        raise WarehouseError(
            f"{table}[{slice_key}]: rows carry other values of {spec.slice_column}, first {min(others, key=repr)!r}; "
            "write each slice on its own, or leave the column out"
        )
    return rows


def _refuse_repeated_keys(connection: duckdb.DuckDBPyConnection, table: str, spec: TableSpec, rows: Rows) -> None:
    of_slice = spec.slice_column if isinstance(rows, StoredDocuments) else None
    keys = ", ".join(key for key in spec.key_columns if key != of_slice)
    sql = f"SELECT {keys} FROM incoming GROUP BY {keys} HAVING count(*) > 1 ORDER BY {keys}"
    repeated = connection.execute(sql).fetchall()
    if repeated:
        raise WarehouseError(
            f"{table}: {len(repeated)} keys ({keys}) occur more than once, first {repeated[0]}; "
            "expected each once; nothing was written"
        )


def _delete_slice(connection: duckdb.DuckDBPyConnection, table: str, spec: TableSpec, slice_key: str) -> None:
    if spec.slice_column is None:
        connection.execute(f"DELETE FROM {table}")
    else:
        connection.execute(f"DELETE FROM {table} WHERE {spec.slice_column} = ?", [slice_key])


def _prepared(each: SliceWrite) -> Rows:
    spec, rows = _require_mode(each.table, "slices"), each.rows
    if isinstance(rows, pa.Table):
        rows = conform(each.table, _with_slice_column(each.table, spec, rows, each.slice_key))
    if len(rows) == 0 and not each.is_empty_meant:
        raise EmptyFrameError(
            f"{each.table}[{each.slice_key}]: got no rows, expected at least one; the old slice is kept. "
            "Check what the asset read, or pass is_empty_meant where empty is meant"
        )
    return rows


def _record_slice(connection: duckdb.DuckDBPyConnection, each: SliceWrite, num_rows: int) -> None:
    """Say that a slice is materialised: its number of rows, what it was made from, the version of its content."""
    told = _as_json(each.inputs)
    accepted = fingerprint(told) if each.is_accepted else ""
    values = [each.table, each.slice_key, num_rows, accepted, each.data_version, utc_now(), told]
    connection.execute(
        "INSERT OR REPLACE INTO slices BY NAME SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?, ?)) AS "
        f"told({', '.join(TABLES['slices'].columns)})",
        values,
    )


def _as_json(inputs: Mapping[str, str]) -> str:
    return json.dumps(dict(inputs), sort_keys=True, ensure_ascii=False)


def _require_slices(
    connection: duckdb.DuckDBPyConnection, table: str, spec: TableSpec, slice_keys: Sequence[str]
) -> None:
    found = connection.execute("SELECT slice_key FROM slices WHERE table_name = ?", [table]).fetchall()
    missing = sorted(set(slice_keys) - {row[0] for row in found})
    if missing:
        raise MissingPartitionError(
            f"{table}: {len(missing)} of {len(set(slice_keys))} slices are not materialised: "
            f"{', '.join(repr(key) for key in missing)}; materialise {spec.asset} for them first"
        )
