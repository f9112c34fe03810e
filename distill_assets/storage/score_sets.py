"""Scores of another tool beside the collection's texts, and the tables in which scores leave: SQL, in batches, in bounded memory.

Texts are matched by their hash, because that is the key of the pair-score store.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from distill_assets.errors import ScoreSetError
from distill_assets.spilling import temporary_folder
from distill_assets.storage.collection import TEXT_HASH, VIEWS, Collection
from distill_assets.storage.warehouse import bind, select

_MEMORY_LIMIT = "1GiB"
_EXAMPLES = 3
_LARGEST = 3e38  # what a float32 can hold
Batches = Iterable[pa.Table]


@dataclass(frozen=True)
class LeftOut:
    """Pairs that do not fit the collection, for one reason."""

    what: str  # documents or queries
    reason: str
    num_pairs: int
    num_ids: int
    examples: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """For people."""
        named = ", ".join(repr(each if len(each) <= 60 else f"{each[:60]}...") for each in self.examples)
        return f"{self.num_pairs:,} pairs of {self.num_ids:,} {self.what} that {self.reason} (first: {named})"


@dataclass(frozen=True)
class MatchedScores:
    """Scores whose texts are in the collection.

    Attributes:
        num_pairs: distinct pairs of texts.
        num_queries: distinct texts of queries.
        num_left_out: rows whose query or document is not in the collection.
        left_out: why.
        lowest, highest: of all scores that were given.
    """

    num_pairs: int
    num_queries: int
    num_left_out: int
    left_out: Sequence[LeftOut]
    lowest: float
    highest: float
    connection: duckdb.DuckDBPyConnection

    def batches(self, size: int) -> Iterator[pa.Table]:
        """`query_hash, doc_hash, score` in a total order, at most `size` rows at a time; may be called again."""
        yield from (
            pa.Table.from_batches([batch])
            for batch in self.connection.sql("SELECT * FROM pairs ORDER BY query_hash, doc_hash").to_arrow_reader(size)
        )

    def num_ties(self) -> int:
        """Scores that equal another one of the same query."""
        sql = "SELECT coalesce(sum(n), 0) FROM (SELECT count(*) - count(DISTINCT score) AS n FROM pairs GROUP BY query_hash)"
        return int(_number(self.connection, sql))


@contextmanager
def match_scores(
    known: Mapping[str, pa.Table], folder: Path, scores: Batches, documents: Batches | None, queries: Batches | None
) -> Iterator[MatchedScores]:
    """Match scores with the texts of the collection. Works in a file of its own below `folder`, which is gone at the end.

    Args:
        known: of `read_known_texts`.
        folder: where there is room for the set's ids and hashes.
        scores: `query_id, document_id, score`.
        documents: `id, text`; None where texts are their own ids.
        queries: `id, text`; None likewise.

    Raises:
        ScoreSetError: a score is no finite number, an id stands for two texts, or a pair has two scores.
    """
    with (
        temporary_folder(".scores-", folder) as place,
        duckdb.connect(place / "scores.duckdb") as connection,
    ):
        connection.execute(f"SET memory_limit = '{_MEMORY_LIMIT}'")
        connection.execute("SET enable_progress_bar = false")
        for name, table in known.items():
            connection.register(f"known_{name}", table)
        yield _match(connection, scores, {"documents": documents, "queries": queries})


def _match(connection: duckdb.DuckDBPyConnection, scores: Batches, texts: dict[str, Batches | None]) -> MatchedScores:
    connection.execute("CREATE TABLE given (query_id VARCHAR, document_id VARCHAR, score DOUBLE)")
    for batch in scores:
        connection.register("incoming", batch)
        connection.execute("INSERT INTO given BY NAME SELECT * FROM incoming")
    _require_finite(connection)
    for name, batches in texts.items():
        _add_texts(connection, name, batches)
    connection.execute(_JOINED)
    _require_one_score(connection)
    connection.execute(_PAIRS)
    num_pairs, num_queries = connection.sql("SELECT count(*), count(DISTINCT query_hash) FROM pairs").fetchall()[0]
    lowest, highest = connection.sql("SELECT min(score), max(score) FROM given").fetchall()[0]
    reasons = connection.sql(_LEFT_OUT).fetchall()
    left_out = [LeftOut(what, why, pairs, ids, tuple(examples)) for what, why, pairs, ids, examples in reasons]
    num_left_out = int(
        _number(connection, "SELECT count(*) FROM joined WHERE reason_of_query || reason_of_document <> ''")
    )
    return MatchedScores(num_pairs, num_queries, num_left_out, left_out, lowest or 0.0, highest or 0.0, connection)


def _number(connection: duckdb.DuckDBPyConnection, sql: str) -> float:
    return float(connection.sql(sql).fetchall()[0][0])


def _require_finite(connection: duckdb.DuckDBPyConnection) -> None:
    bad = f"SELECT * FROM given WHERE score IS NULL OR NOT isfinite(score) OR abs(score) > {_LARGEST}"
    num_bad = int(_number(connection, f"SELECT count(*) FROM ({bad})"))
    if num_bad:
        query_id, document_id, score = connection.sql(f"{bad} ORDER BY ALL LIMIT 1").fetchall()[0]
        raise ScoreSetError(
            f"{num_bad:,} scores are no finite number, the first is {score} of query {query_id!r} and document {document_id!r}; "
            "expected a number for every pair: score them again, or leave them out"
        )


def _add_texts(connection: duckdb.DuckDBPyConnection, name: str, batches: Batches | None) -> None:
    """The table of that name: ids with the hashes of their texts, and why an id does not fit the collection; '' where it does."""
    connection.execute(f"CREATE TABLE given_{name} (id VARCHAR, hash VARCHAR)")
    if batches is None:
        column = "document_id" if name == "documents" else "query_id"
        connection.execute(
            f"INSERT INTO given_{name} SELECT text, {TEXT_HASH} FROM (SELECT DISTINCT {column} AS text FROM given)"
        )
    else:
        for batch in batches:
            connection.register("incoming", batch)
            connection.execute(f"INSERT INTO given_{name} SELECT id, {TEXT_HASH} FROM incoming")
    twice = select(connection, f"SELECT id FROM given_{name} GROUP BY id HAVING count(DISTINCT hash) > 1 ORDER BY id")
    if twice.num_rows:
        raise ScoreSetError(
            f"{twice.num_rows:,} ids of {name} stand for two texts each, the first is {twice['id'][0].as_py()!r}; expected one text "
            "for an id: which one was scored cannot be known"
        )
    connection.execute(_REASONS.format(name=name))


def _require_one_score(connection: duckdb.DuckDBPyConnection) -> None:
    twice = connection.sql(_TWICE).fetchall()
    if twice:
        query_id, document_id, lowest, highest = twice[0]
        raise ScoreSetError(
            f"{len(twice):,} pairs of texts have two scores, the first is query {query_id!r} and document {document_id!r}: {lowest:g} "
            f"and {highest:g}; expected one: leave one of them out"
        )


def read_export(collection: Collection, table: str, size: int) -> pa.RecordBatchReader:
    """One of the tables of `EXPORTED`, from the stored teacher scores: in a total order, in batches of at most `size` rows."""
    sql = EXPORTED[table]
    return collection.connection.sql(sql, params=bind(sql, collection.parameters)).to_arrow_reader(size)


def read_known_texts(collection: Collection) -> dict[str, pa.Table]:
    """`id, hash` of the documents and the queries of all splits that the collection has."""
    return {name: select(collection.connection, sql, collection.parameters) for name, sql in _KNOWN.items()}


_KNOWN = {
    "documents": f"WITH {VIEWS} SELECT doc_id AS id, content_hash AS hash FROM documents",
    "queries": f"WITH {VIEWS} SELECT query_id AS id, {TEXT_HASH} AS hash FROM asked",
}
_REASONS = """
    CREATE TABLE fitting_{name} AS SELECT DISTINCT id, hash, CASE
        WHEN hash IS NULL THEN 'have no text in the set'
        WHEN hash IN (SELECT hash FROM known_{name}) THEN ''
        WHEN id IN (SELECT id FROM known_{name}) THEN 'have another text in the collection now'
        ELSE 'are not in the collection' END AS reason
    FROM given_{name}
"""
_JOINED = """
    CREATE TABLE joined AS
    SELECT query_id, document_id, score, asked.hash AS query_hash, found.hash AS doc_hash,
        coalesce(asked.reason, 'have no text in the set') AS reason_of_query,
        coalesce(found.reason, 'have no text in the set') AS reason_of_document
    FROM given LEFT JOIN fitting_queries AS asked ON asked.id = query_id LEFT JOIN fitting_documents AS found ON found.id = document_id
"""
_KEPT = "FROM joined WHERE reason_of_query = '' AND reason_of_document = '' GROUP BY query_hash, doc_hash"
_TWICE = f"""
    SELECT min(query_id), min(document_id), min(score) AS lowest, max(score) AS highest {_KEPT}
    HAVING lowest <> highest ORDER BY ALL
"""
_PAIRS = f"CREATE TABLE pairs AS SELECT query_hash, doc_hash, min(score) AS score {_KEPT}"
_LEFT_OUT = " UNION ALL ".join(
    f"""
    SELECT '{what}' AS what, reason_of_{one} AS reason, count(*) AS num_pairs, count(DISTINCT {one}_id) AS num_ids,
        list(DISTINCT coalesce({one}_id, 'NULL') ORDER BY coalesce({one}_id, 'NULL'))[:{_EXAMPLES}] AS examples
    FROM joined WHERE reason_of_{one} <> '' GROUP BY ALL
    """
    for what, one in (("documents", "document"), ("queries", "query"))
)
_EXPORTED_ROWS = """
    exported AS (
        SELECT query_id, doc_id, label, teacher_logit FROM teacher_scores SEMI JOIN kept USING (query_id, batch)
        SEMI JOIN documents USING (doc_id)
    )
"""
EXPORTED = {
    "documents": f"""
        WITH {VIEWS}, {_EXPORTED_ROWS}
        SELECT doc_id AS document_id, content AS document FROM documents SEMI JOIN exported USING (doc_id) ORDER BY doc_id
    """,
    "queries": f"""
        WITH {VIEWS}, {_EXPORTED_ROWS}
        SELECT query_id, text AS query FROM kept SEMI JOIN exported USING (query_id) ORDER BY query_id
    """,
    "scores": f"""
        WITH {VIEWS}, {_EXPORTED_ROWS}
        SELECT query_id, list(doc_id ORDER BY teacher_logit DESC, doc_id DESC) AS document_ids,
            list(teacher_logit ORDER BY teacher_logit DESC, doc_id DESC) AS scores,
            coalesce(list(doc_id ORDER BY doc_id) FILTER (label > 0), []) AS positive_ids
        FROM exported GROUP BY query_id ORDER BY query_id
    """,
}
