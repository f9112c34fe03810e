"""Tables and files that are not ours: read whole, or one partition of them, and never written."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset

from distill_assets.errors import SourceError


def read_duckdb_table(path: Path, table: str, partition: tuple[str, str] | None = None) -> pa.Table:
    """The rows of a table in somebody else's DuckDB file; `partition` is an expression over its columns and the text it must give.

    Raises:
        SourceError: the file or table is not there, is held by another process, or the expression is none.
    """
    name = ".".join(f'"{word}"' for word in table.replace('"', "").split(".")[-2:])
    where = "" if partition is None else f" WHERE CAST({partition[0]} AS VARCHAR) = ?"
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            values = None if partition is None else [partition[1]]
            return connection.sql(f"SELECT * FROM {name}{where}", params=values).to_arrow_table()
    except duckdb.Error as error:
        raise SourceError(f"cannot read {table} in {path}: {error}") from error


def read_parquet(uri: str) -> pa.Table:
    """The rows of a Parquet file, or of a folder of them. Raises `SourceError`."""
    try:
        return pyarrow.dataset.dataset(uri.removeprefix("file://")).to_table()
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(f"cannot read {uri}: {error}") from error
