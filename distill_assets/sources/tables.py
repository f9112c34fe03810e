"""Tables (`tables:NAME`) and statements (`sql:NAME`): `[data.documents]`, `[data.queries]`, `[data.judgements]` of the settings.

DuckDB reads them: files, local or remote, and whatever its extensions attach. All statements are run in one transaction that may
write nothing. Memory is flat in the number of documents: they are streamed, and DuckDB spills above its limit.
"""

import glob
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from distill_assets.errors import SettingsError, SourceError
from distill_assets.records import fingerprint
from distill_assets.sources.base import Options, PartOptions, Parts
from distill_assets.sources.columns import COLUMNS, Origin, Part
from distill_assets.sources.files import digest, stamp
from distill_assets.sources.rows import Table, parts_of
from distill_assets.sources.strings import as_strings
from distill_assets.spilling import temporary_folder

READER_VERSION = "1"  # raised whenever the same rows would give other parts
_MEMORY_LIMIT = "1GB"
_ROWS_PER_BATCH = 16_384
# A fingerprint of a statement reads all its rows. It is asked for several times a second while the line looks what is stale.
_FRESH_S = 10.0
_READ = {
    ".parquet": "read_parquet({path}, union_by_name = true)",
    # Guessed types would make 7 of the id 007. A file whose columns stand in another order is read by their names.
    ".csv": "read_csv({path}, all_varchar = true, header = true, union_by_name = true)",
    ".tsv": "read_csv({path}, all_varchar = true, header = true, union_by_name = true, delim = '\t')",
}
_JSON = (".jsonl", ".ndjson", ".json")
_PACKED = (".gz", ".zst")
_CREDENTIALS = re.compile(r"//[^/\s]*@")


@dataclass(frozen=True)
class Tables:
    """One batch, read by DuckDB.

    Attributes:
        parts: what is read of each.
        setup: statements that are run first.
        version: a SELECT whose answer stands for the rows of all statements and remote files.
    """

    parts: tuple[tuple[Part, PartOptions], ...]
    setup: tuple[str, ...] = ()
    version: str | None = None

    def look(self) -> str | None:
        """Names, sizes and times of the local files; None without one: what a database has committed is complete."""
        files = [path for _, part in self.parts for path in _files(part)]
        return fingerprint(*(told for path in files for told in (path, stamp(path)))) if files else None

    def fingerprint(self) -> str:
        """Of local files the bytes; of statements and remote files the answer of `version`, else number and hash of all rows."""
        local = [(part, o.columns, digest(path)) for part, o in self.parts for path in _files(o)]
        return fingerprint(READER_VERSION, *local, *self._others())

    def read(self) -> Parts:
        """Read the parts; documents when they are gone through. Raises `SourceError`."""
        _known.pop(self, None)
        return parts_of({part: [("", Table(_origin(part, o), partial(self._rows, part)))] for part, o in self.parts})

    def _others(self) -> list[Any]:
        """What tells a change of statements and remote files, for some seconds."""
        others = [(part, o) for part, o in self.parts if o.query is not None or _is_remote(o)]
        known = _known.get(self)
        if known is None or time.monotonic() - known[0] > _FRESH_S:
            try:
                told = self._version(others) if others else []
            except SourceError as error:  # it is read again once the reason is another one
                told = [str(error)]
            known = _known[self] = (time.monotonic(), told)
        return known[1]

    def _version(self, parts: Sequence[tuple[Part, PartOptions]]) -> list[Any]:
        with self._connected() as connection:
            if self.version is not None:
                answer = _one_select(connection, self.version, "data.sql_version")
                with _told("data.sql_version"):
                    return [self.setup, parts, answer.fetchall()]
            return [(part, *_hash_rows(connection, part, options)) for part, options in parts]

    def _rows(self, part: Part) -> Iterator[pa.Table]:
        options = dict(self.parts)[part]
        origin = _origin(part, options)
        try:
            with self._connected() as connection:
                found = _select(connection, part, options)
                with _told(origin.name):
                    reader = found.to_arrow_reader(_ROWS_PER_BATCH)
                renamed = Origin(part, origin.name, origin.setting)
                yield from as_strings(renamed, _batches(reader, origin.name))
        finally:
            _known.pop(self, None)  # what moved while it was read must not be taken for what was there before

    @contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection inside a transaction that may only read; what DuckDB spills is removed with it."""
        with temporary_folder("distill-spill-") as spill, _connect(str(spill)) as connection:
            for number, statement in enumerate(self.setup, start=1):
                with _told(f"statement {number} of data.sql_setup"):
                    connection.execute(statement)
            with _told("data"):
                connection.execute("BEGIN TRANSACTION READ ONLY")
            yield connection


def _connect(spill: str) -> duckdb.DuckDBPyConnection:
    # A table of a query may have the name of a variable here.
    return duckdb.connect(
        config={"memory_limit": _MEMORY_LIMIT, "temp_directory": spill, "python_enable_replacements": False}
    )


_known: dict[Tables, tuple[float, list[Any]]] = {}


def open_tables(name: str, options: Options) -> Tables:
    """The reader of what `[data.documents]`, `[data.queries]` and `[data.judgements]` say.

    Raises:
        SettingsError: none of them is there, or one has neither path nor query, or both, or a path whose ending is not known.
    """
    if not options.parts:
        raise SettingsError(
            f"the collection {name!r} has no table: expected [data.documents], [data.queries] or [data.judgements] in the settings, "
            "each with path or query"
        )
    for part, of_part in options.parts:
        if (of_part.path is None) == (of_part.query is None):
            found = "neither path nor query" if of_part.path is None else "path and query"
            raise SettingsError(f"[data.{part}] has {found}: expected one of them")
        if of_part.path is not None:
            _ending(part, of_part.path)
    return Tables(options.parts, options.sql_setup, options.sql_version)


def _ending(part: Part, path: str) -> str:
    name = path.casefold().partition("?")[0]
    for packed in _PACKED:
        name = name.removesuffix(packed)
    found = next((ending for ending in (*_READ, *_JSON) if name.endswith(ending)), None)
    if found is None:
        raise SettingsError(
            f"[data.{part}] path = {path!r}: expected a file that ends in {', '.join((*_READ, *_JSON))}, also with .gz: rename it, "
            "or read it by a query"
        )
    return found


def _origin(part: Part, options: PartOptions) -> Origin:
    name = f"data.{part}" if options.path is None else f"data.{part} ({_CREDENTIALS.sub('//***@', options.path)})"
    return Origin(part, name, f"data.{part}.columns", dict(options.columns))


def _is_remote(options: PartOptions) -> bool:
    return options.path is not None and "://" in options.path


def _local(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _files(options: PartOptions) -> list[Path]:
    """The local files of a part, sorted; one that is not there stands for itself."""
    if options.path is None or _is_remote(options):
        return []
    path = _local(options.path)
    return [Path(found) for found in sorted(glob.glob(path, recursive=True)) or [path]]  # noqa: PTH207


def _select(connection: duckdb.DuckDBPyConnection, part: Part, options: PartOptions) -> duckdb.DuckDBPyRelation:
    """The rows under our names. Raises `SourceError`."""
    origin = _origin(part, options)
    if options.query is not None:
        source = _one_select(connection, options.query, origin.name)
    else:
        assert options.path is not None
        ending = _ending(part, options.path)
        path = _quoted(options.path if _is_remote(options) else _require_file(origin, options))
        if ending in _JSON:
            return _select_json(connection, origin, path)
        source = _relation(connection, f"FROM {_READ[ending].format(path=path)}", origin.name)
    found = origin.find(source.columns)
    with _told(origin.name):
        return source.project(", ".join(f"{_name(theirs)} AS {_name(ours)}" for ours, theirs in found.items()))


def _select_json(connection: duckdb.DuckDBPyConnection, origin: Origin, path: str) -> duckdb.DuckDBPyRelation:
    """Values as they are written: a guessed type would make another text of a date. All records are looked at for a column's name."""
    there: list[str] = []
    for sample in (20_480, -1):
        source = f"FROM read_json({path}, maximum_depth = 1, sample_size = {sample})"
        there = _relation(connection, source, origin.name).columns
        if all(origin.columns.get(ours, ours) in there for ours in COLUMNS[origin.part]):
            break
    found = origin.find(there)
    kinds = ", ".join(f"{_name(theirs)}: 'JSON'" for theirs in sorted({*found.values()}))
    source = f"FROM read_json({path}, columns = {{{kinds}}})"
    columns = ", ".join(f"{_json_text(theirs)} AS {_name(ours)}" for ours, theirs in found.items())
    return _relation(connection, f"SELECT {columns} {source}", origin.name)


def _json_text(name: str) -> str:
    column = _name(name)
    refusal = f"error({_quoted(f'{name} holds a list or an object, expected text or a number: ')} || left({column}::VARCHAR, 80))"
    return f"CASE WHEN json_type({column}) IN ('ARRAY', 'OBJECT') THEN {refusal} ELSE {column} ->> '$' END"


def _hash_rows(connection: duckdb.DuckDBPyConnection, part: Part, options: PartOptions) -> tuple[Any, ...]:
    """Names of the columns, number of rows, and two sums over a hash of each row: the same for any order."""
    rows = _select(connection, part, options)
    row = f"hash({', '.join(map(_name, rows.columns))})"
    with _told(_origin(part, options).name):
        return (rows.columns, rows.aggregate(f"count(*), sum({row}), bit_xor({row})").fetchall())


def _require_file(origin: Origin, options: PartOptions) -> str:
    files = _files(options)
    if missing := [path for path in files if not path.is_file()]:
        raise SourceError(
            f"{origin.name}: no file at {missing[0]}: correct the path; it is taken from the working folder"
        )
    assert options.path is not None
    return _local(options.path)


def _one_select(connection: duckdb.DuckDBPyConnection, query: str, where: str) -> duckdb.DuckDBPyRelation:
    """What a query gives, not run yet. Raises `SourceError` for another statement, or more than one."""
    with _told(where):
        kinds = [statement.type.name for statement in connection.extract_statements(query)]
    if kinds != ["SELECT"]:
        raise SourceError(
            f"{where}: the query is {' and '.join(kinds) or 'empty'}, expected one SELECT: it may only read"
        )
    view = _name(
        f"query of {where}"
    )  # a query of its own has no end: a semicolon or a comment must not reach what reads it
    with _told(where):
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS {query}")
    return _relation(connection, f"FROM {view}", where)


def _relation(connection: duckdb.DuckDBPyConnection, query: str, where: str) -> duckdb.DuckDBPyRelation:
    with _told(where):
        return connection.sql(query)


def _batches(reader: pa.RecordBatchReader, where: str) -> Iterator[pa.Table]:
    with _told(where):
        for batch in reader:
            yield pa.Table.from_batches([batch])


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Whatever DuckDB refuses inside is a `SourceError` that says where, and what to do."""
    try:
        yield
    except (duckdb.Error, pa.ArrowInvalid, OSError) as error:
        message = _CREDENTIALS.sub("//***@", str(error))
        raise SourceError(f"{where}: DuckDB says: {message}\n{_next_step(message)}") from error


def _next_step(message: str) -> str:
    if "No space left" in message or "max_temp_directory_size" in message:
        return (
            f"There is no room for what the query sorts or joins, in {tempfile.gettempdir()}: read fewer rows, leave out ORDER BY, "
            "or name a larger folder in TMPDIR."
        )
    if "xtension" in message:
        return (
            "DuckDB loads an extension from its site once. Without network, bring its file here and put INSTALL 'FILE' and LOAD NAME "
            "into data.sql_setup; or write the table as Parquet, and read that."
        )
    if "ut of memory" in message.casefold():
        return f"DuckDB may take {_MEMORY_LIMIT}: put SET memory_limit = '4GB' into data.sql_setup, or read fewer rows."
    return "Correct the query or the file; columns of a table go to ours by `columns`."


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'
