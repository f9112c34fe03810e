"""Which pairs a teacher has not scored yet, with their texts: found inside DuckDB, read from disk window by window.

Ten million pairs are 700 MB as Python strings. Here DuckDB joins and sorts them within a memory limit, spilling to disk, and
writes two temporary files: the missing pairs sorted by document, and each of their documents once in the same order. Reading
is a merge of the two, so memory holds one window of pairs and the texts of the queries.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa
from pyarrow import ipc

from distill_assets.core.errors import WarehouseError
from distill_assets.storage.warehouse import Warehouse

MEMORY_LIMIT_MB = 192
_ROWS_PER_BATCH = 8192


@dataclass(frozen=True)
class WantedPairs:
    """A SELECT that gives the pairs that are wanted, as `query_hash` and `doc_hash`; `incoming` is a table it may read."""

    sql: str
    parameters: Sequence[Any] = ()
    incoming: pa.Table | None = field(default=None, repr=False)

    @classmethod
    def of_table(cls, pairs: pa.Table) -> "WantedPairs":
        """The pairs of an Arrow table."""
        return cls("SELECT query_hash, doc_hash FROM incoming", (), pairs.select(["query_hash", "doc_hash"]))


@dataclass(frozen=True)
class Window:
    """Some missing pairs: hashes as columns of equal length, and (query text, document content) of each."""

    query_hashes: list[str]
    doc_hashes: list[str]
    texts: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class MissingPairs:
    """Missing pairs on disk, in a total order that depends on their content alone: by document hash, then query hash."""

    num_pairs: int
    _pairs: IO[bytes]
    _documents: IO[bytes]
    _text_of_query: dict[str, str]

    def windows(self, size: int) -> Iterator[Window]:
        """Windows of exactly `size` pairs, the last one shorter. May be called again from the start.

        Raises:
            WarehouseError: a wanted pair's text is in no table; says whose.
        """
        documents, found = _rows(self._documents), ("", "")
        window = Window([], [], [])
        for doc_hash, query_hash in _rows(self._pairs):
            while found[0] < doc_hash:
                found = next(documents, (f"{doc_hash}~", ""))
            if found[0] != doc_hash or query_hash not in self._text_of_query:
                absent = "corpus" if found[0] != doc_hash else "queries"
                raise WarehouseError(
                    f"{absent}: no text with the hash {doc_hash if absent == 'corpus' else query_hash!r}, expected one for every "
                    "pair that is to be scored; materialise corpus and queries again"
                )
            window.query_hashes.append(query_hash)
            window.doc_hashes.append(doc_hash)
            window.texts.append((self._text_of_query[query_hash], found[1]))
            if len(window) == size:
                yield window
                window = Window([], [], [])
        if len(window):
            yield window


def sample_lists(
    warehouse: Warehouse, wanted: WantedPairs, *, num_queries: int, num_documents: int
) -> list[list[tuple[str, str]]]:
    """(query text, document content) of wanted pairs, one list of 2 to `num_documents` per query, of `num_queries` queries at most.

    Which ones is decided by the hashes of their texts: the same for the same pairs. Queries with one document are left out.
    """
    with warehouse.reading() as connection, _memory_limit(connection):
        if wanted.incoming is not None:
            connection.register("incoming", wanted.incoming)
        rows = connection.execute(
            _SAMPLE.format(wanted=wanted.sql, content=_CONTENT), [*wanted.parameters, num_documents, num_queries]
        ).fetchall()
    lists: dict[str, list[tuple[str, str]]] = {}
    for query, document in rows:
        lists.setdefault(query, []).append((query, document))
    return list(lists.values())


@contextmanager
def find_missing(warehouse: Warehouse, teacher_fingerprint: str, wanted: WantedPairs) -> Iterator[MissingPairs]:
    """The distinct pairs of `wanted` that this teacher never scored; the warehouse is not held while they are read."""
    with _spool(warehouse.path.parent) as pairs, _spool(warehouse.path.parent) as documents:
        with warehouse.reading() as connection, _memory_limit(connection):
            if wanted.incoming is not None:
                connection.register("incoming", wanted.incoming)
            connection.execute(_MISSING.format(wanted=wanted.sql), [*wanted.parameters, teacher_fingerprint])
            num_pairs = _write(connection, "SELECT doc_hash, query_hash FROM missing ORDER BY ALL", pairs)
            for sql in _CHOOSE_DOCUMENTS:
                connection.execute(sql)
            _write(connection, _DOCUMENTS, documents)
            queries = dict(connection.execute(_QUERIES).fetchall())
            for table in ("missing", "missing_documents", "chosen_documents"):
                connection.execute(f"DROP TABLE {table}")
        yield MissingPairs(num_pairs, pairs, documents, queries)


# Sorted before they are written: equal neighbours make the join's and the sort's memory small.
_MISSING = """
    CREATE OR REPLACE TEMP TABLE missing AS
    SELECT DISTINCT query_hash, doc_hash FROM ({wanted}) AS wanted
    ANTI JOIN (SELECT query_hash, doc_hash FROM pair_scores WHERE teacher_fingerprint = ?) AS stored
        USING (query_hash, doc_hash)
"""
# One statement each: as parts of one, ten million pairs do not fit within the limit.
_CHOOSE_DOCUMENTS = (
    "CREATE OR REPLACE TEMP TABLE missing_documents AS SELECT DISTINCT doc_hash AS content_hash FROM missing",
    """
    CREATE OR REPLACE TEMP TABLE chosen_documents AS
    SELECT content_hash, min(corpus.rowid) AS row_number FROM corpus SEMI JOIN missing_documents USING (content_hash)
    GROUP BY content_hash
    """,
)
# What encoders read of a document, as `Document.content`.
_CONTENT = "CASE WHEN title = '' THEN text ELSE title || ' ' || text END"
_DOCUMENTS = f"""
    SELECT chosen.content_hash, {_CONTENT} AS content
    FROM corpus JOIN chosen_documents AS chosen ON corpus.rowid = chosen.row_number ORDER BY chosen.content_hash
"""
# `hash_text` in SQL: the first 32 hex digits of the SHA-256 of the UTF-8 text.
_QUERIES = """
    SELECT DISTINCT query_hash, text FROM (SELECT sha256(text)[1:32] AS query_hash, text FROM queries)
    WHERE query_hash IN (SELECT query_hash FROM missing)
"""


_SAMPLE = """
    WITH distinct_pairs AS (SELECT DISTINCT query_hash, doc_hash FROM ({wanted}) AS wanted),
    lists AS (
        SELECT query_hash, doc_hash, row_number() OVER (PARTITION BY query_hash ORDER BY doc_hash) AS place
        FROM distinct_pairs QUALIFY count(*) OVER (PARTITION BY query_hash) > 1
    ),
    pairs AS (
        SELECT query_hash, doc_hash FROM lists WHERE place <= ?
        QUALIFY dense_rank() OVER (ORDER BY query_hash) <= ?
    ),
    documents AS (
        SELECT content_hash, any_value({content}) AS content
        FROM corpus WHERE content_hash IN (SELECT doc_hash FROM pairs) GROUP BY content_hash
    ),
    texts AS (SELECT DISTINCT sha256(text)[1:32] AS query_hash, text FROM queries)
    SELECT texts.text, documents.content
    FROM pairs JOIN texts USING (query_hash) JOIN documents ON documents.content_hash = pairs.doc_hash
    ORDER BY query_hash, doc_hash
"""


@contextmanager
def _spool(folder: Path) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile(dir=folder) as file:
        yield file


@contextmanager
def _memory_limit(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """DuckDB's own default is four fifths of the machine, which it uses before it spills. What is written here is sorted."""
    connection.execute(f"SET memory_limit = '{MEMORY_LIMIT_MB}MiB'")
    connection.execute("SET preserve_insertion_order = false")
    try:
        yield
    finally:
        connection.execute("RESET memory_limit")
        connection.execute("RESET preserve_insertion_order")


def _write(connection: duckdb.DuckDBPyConnection, sql: str, file: IO[bytes]) -> int:
    reader: pa.RecordBatchReader = connection.sql(sql).to_arrow_reader(_ROWS_PER_BATCH)
    num_rows = 0
    with ipc.new_stream(file, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            num_rows += batch.num_rows
    return num_rows


def _rows(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    file.seek(0)
    for batch in ipc.open_stream(pa.PythonFile(file, mode="r")):
        yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
