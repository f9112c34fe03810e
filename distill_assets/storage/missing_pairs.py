"""Which pairs a member of a teacher has not scored yet, with their texts: found inside DuckDB, read from disk window by window.

Ten million pairs are 700 MB as Python strings. Here DuckDB joins and sorts them within a memory limit, spilling to disk, and
writes two temporary files: the missing pairs sorted by document, and each of their documents once in the same order. Reading
is a merge of the two, so memory holds one window of pairs and the texts of the queries.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import duckdb
import pyarrow as pa
from pyarrow import ipc

from distill_assets.errors import WarehouseError
from distill_assets.spilling import memory_limit
from distill_assets.storage.collection import CONTENT, QUERY_TEXTS, TEXT_HASH
from distill_assets.storage.warehouse import Warehouse, bind

MEMORY_LIMIT_MB = 192
_ROWS_PER_BATCH = 8192


@dataclass(frozen=True)
class WantedPairs:
    """A SELECT that gives the pairs that are wanted, as `query_hash` and `doc_hash` beside other columns.

    `parameters` are by name; the SELECT may read `tables` under their names.
    """

    sql: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict, repr=False)

    @classmethod
    def of_table(cls, pairs: pa.Table) -> "WantedPairs":
        """The rows of an Arrow table, in its order where it has a column that says so.

        Raises:
            WarehouseError: a hash is missing or NULL. A NULL never joins: it would count as missing for ever.
        """
        absent = sorted({"query_hash", "doc_hash"} - set(pairs.column_names))
        if absent:
            raise WarehouseError(
                f"pairs lack the columns {absent}: got {pairs.column_names}, expected query_hash and doc_hash"
            )
        num_null = pairs["query_hash"].null_count + pairs["doc_hash"].null_count
        if num_null:
            raise WarehouseError(f"pairs hold {num_null} NULL hashes, expected none: check the join that made them")
        return cls("SELECT * FROM incoming", {}, {"incoming": pairs})

    def of_queries(self, query_hashes: pa.Table) -> "WantedPairs":
        """Those of the pairs whose query is in the table `query_hash`."""
        sql = f"SELECT * FROM ({self.sql}) SEMI JOIN chosen_queries USING (query_hash)"
        return WantedPairs(sql, self.parameters, {**self.tables, "chosen_queries": query_hashes})


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


@contextmanager
def reading_scores(
    warehouse: Warehouse, shared: Warehouse | None, scorer_ids: Sequence[str], wanted: WantedPairs, limit_mb: int
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that reads the warehouse, the tables of `wanted`, and `scores`: what is stored of these scorers, each pair once.

    What the warehouse lacks is copied from the shared store, which is free again when the block begins. It is never attached:
    DuckDB's lock on a file is the process's, and is gone as soon as another thread closes the same file.
    """
    with warehouse.reading() as connection, memory_limit(connection, limit_mb):
        for name, table in wanted.tables.items():
            connection.register(name, table)
        stored = f"SELECT {_SCORES} FROM pair_scores"
        if shared is not None and shared.exists():
            connection.execute(f"CREATE OR REPLACE TEMP TABLE shared_scores AS {stored} LIMIT 0")
            sql = _LACKING.format(wanted=wanted.sql, scores="pair_scores")
            with shared.reading() as theirs, memory_limit(theirs, MEMORY_LIMIT_MB):
                for scorer_id in dict.fromkeys(scorer_ids):  # one by one: together they do not fit within the limit
                    lacking = connection.sql(sql, params=bind(sql, {**wanted.parameters, "scorer_id": scorer_id}))
                    theirs.register("asked", lacking.to_arrow_reader(_ROWS_PER_BATCH))
                    theirs.execute("CREATE OR REPLACE TEMP TABLE lacking AS SELECT * FROM asked")
                    found = theirs.sql(_FOUND, params={"scorer_id": scorer_id})
                    connection.register("found", found.to_arrow_reader(_ROWS_PER_BATCH))
                    connection.execute("INSERT INTO shared_scores SELECT * FROM found")
            stored += f" UNION ALL SELECT {_SCORES} FROM shared_scores"
        connection.execute(f"CREATE OR REPLACE TEMP VIEW scores AS {stored}")
        yield connection


@contextmanager
def find_missing(
    warehouse: Warehouse, scorer_id: str, wanted: WantedPairs, shared: Warehouse | None = None
) -> Iterator[MissingPairs]:
    """The distinct pairs of `wanted` that this scorer has not scored; no file is held while they are read."""
    with _spool(warehouse.path.parent) as pairs, _spool(warehouse.path.parent) as documents:
        with reading_scores(warehouse, shared, [scorer_id], wanted, MEMORY_LIMIT_MB) as connection:
            # Sorted before they are written: equal neighbours make the join's and the sort's memory small.
            sql = f"CREATE OR REPLACE TEMP TABLE missing AS {_LACKING.format(wanted=wanted.sql, scores='scores')}"
            connection.execute(sql, bind(sql, {**wanted.parameters, "scorer_id": scorer_id}))
            num_pairs = _write(connection, "SELECT doc_hash, query_hash FROM missing ORDER BY ALL", pairs)
            for sql in _CHOOSE_DOCUMENTS:
                connection.execute(sql)
            _write(connection, _DOCUMENTS, documents)
            queries = dict(connection.execute(_QUERIES).fetchall())
            for table in ("missing", "missing_documents", "chosen_documents"):
                connection.execute(f"DROP TABLE {table}")
        yield MissingPairs(num_pairs, pairs, documents, queries)


def read_query_texts(warehouse: Warehouse, wanted: WantedPairs) -> dict[str, str]:
    """query_hash -> text of every query of the wanted pairs."""
    sql = f"""
        SELECT DISTINCT {TEXT_HASH} AS query_hash, text FROM ({QUERY_TEXTS})
        WHERE {TEXT_HASH} IN (SELECT query_hash FROM ({wanted.sql})) ORDER BY ALL
    """
    found = warehouse.query(sql, wanted.parameters, tables=wanted.tables)
    return dict(zip(found["query_hash"].to_pylist(), found["text"].to_pylist(), strict=True))


_SCORES = "scorer_id, query_hash, doc_hash, teacher_logit"
_LACKING = """
    SELECT DISTINCT query_hash, doc_hash FROM ({wanted}) AS wanted
    ANTI JOIN (SELECT query_hash, doc_hash FROM {scores} WHERE scorer_id = $scorer_id) AS stored USING (query_hash, doc_hash)
"""
_FOUND = (
    f"SELECT {_SCORES} FROM pair_scores SEMI JOIN lacking USING (query_hash, doc_hash) WHERE scorer_id = $scorer_id"
)
# One statement each: as parts of one, ten million pairs do not fit within the limit.
_CHOOSE_DOCUMENTS = (
    "CREATE OR REPLACE TEMP TABLE missing_documents AS SELECT DISTINCT doc_hash AS content_hash FROM missing",
    """
    CREATE OR REPLACE TEMP TABLE chosen_documents AS
    SELECT content_hash, min(corpus.rowid) AS row_number FROM corpus SEMI JOIN missing_documents USING (content_hash)
    GROUP BY content_hash
    """,
)
_DOCUMENTS = f"""
    SELECT chosen.content_hash, {CONTENT} AS content
    FROM corpus JOIN chosen_documents AS chosen ON corpus.rowid = chosen.row_number ORDER BY chosen.content_hash
"""
_QUERIES = f"""
    SELECT DISTINCT query_hash, text FROM (SELECT {TEXT_HASH} AS query_hash, text FROM ({QUERY_TEXTS}))
    WHERE query_hash IN (SELECT query_hash FROM missing)
"""


@contextmanager
def _spool(folder: Path) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile(dir=folder) as file:
        yield file


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
