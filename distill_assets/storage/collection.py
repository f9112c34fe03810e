"""The collection as it is now, made from what its batches brought. The rules stand here once.

Of rows that several batches bring, the row of the last batch counts, in the order of the batches' names: a batch that is named
after its day replaces what earlier ones brought; of a document in passages it replaces them all. A judgement of 0 takes an earlier one
back. A judgement counts where its document exists, and for every query of its split that asks the same in the same words. It does not
count where its batch brought another document under that id than the one that stands now (`quality/identity.py`). A train or dev query
that repeats a query of a later split is left out (`evaluation/splits.py`). Grades from `min_relevance` on are relevant. Lower ones
above 0 are neither positive nor negative, and a query with nothing above them counts as one that nobody judged.

A document that was cut is its passages in `documents`; `parents` says whose they are. A judgement names a document, or a passage.
`judgements` are of passages: each has its document's grade, unless it is judged itself. `document_judgements` are of documents, and
so are rankings that are measured: a document has the highest grade that it or a passage of it was given.

Every read of one `Collection` sees the same snapshot, because it happens on one connection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from distill_assets.records import Query, Split
from distill_assets.storage.warehouse import select

Qrels = dict[str, dict[str, int]]

# What encoders read of a document, as `Document.content`.
CONTENT = "CASE WHEN title = '' THEN text ELSE title || ' ' || text END"
# `hash_text` in SQL: the first 32 hex digits of the SHA-256 of the UTF-8 text.
TEXT_HASH = "sha256(text)[1:32]"
# Parameters: $batches are those of the collection, $left_out are ids of repeated queries, $displaced are documents of a batch whose id
# stands for another text now, $min_relevance is the lowest grade that is relevant.
VIEWS = f"""
    current AS (SELECT unnest($batches::VARCHAR[]) AS batch),
    brought AS (
        SELECT batch, doc_id, parent_id FROM passages SEMI JOIN current USING (batch) UNION ALL
        SELECT batch, doc_id, doc_id FROM corpus SEMI JOIN current USING (batch) WHERE doc_id IN (SELECT parent_id FROM passages)
    ),
    replaced AS (SELECT batch, doc_id FROM brought QUALIFY batch < max(batch) OVER (PARTITION BY parent_id)),
    documents AS (
        SELECT doc_id, arg_max(content_hash, batch) AS content_hash, arg_max({CONTENT}, batch) AS content
        FROM corpus SEMI JOIN current USING (batch) ANTI JOIN replaced USING (batch, doc_id) GROUP BY doc_id
    ),
    parents AS (
        SELECT doc_id, arg_max(parent_id, batch) AS parent_id
        FROM passages SEMI JOIN current USING (batch) ANTI JOIN replaced USING (batch, doc_id) GROUP BY doc_id
    ),
    asked AS (
        SELECT query_id, max(batch) AS batch, arg_max(text, batch) AS text, arg_max(split, batch) AS split,
            coalesce(arg_max(text_key, batch), query_id) AS text_key
        FROM queries SEMI JOIN current USING (batch) GROUP BY query_id
    ),
    kept AS (SELECT * FROM asked WHERE query_id NOT IN (SELECT unnest($left_out::VARCHAR[]))),
    displaced AS (SELECT unnest($displaced::STRUCT(batch VARCHAR, doc_id VARCHAR)[], recursive := true)),
    given AS (
        SELECT query_id, doc_id, arg_max(relevance, batch) AS relevance
        FROM qrels SEMI JOIN current USING (batch) ANTI JOIN displaced USING (batch, doc_id)
        WHERE doc_id IN (SELECT doc_id FROM documents UNION ALL SELECT parent_id FROM parents)
        GROUP BY query_id, doc_id
    ),
    shared AS (
        SELECT same.query_id, doc_id, max(relevance) AS relevance
        FROM given JOIN asked USING (query_id) JOIN asked AS same ON same.text_key = asked.text_key AND same.split = asked.split
        GROUP BY same.query_id, doc_id
    ),
    of_passages AS (
        SELECT query_id, coalesce(parents.doc_id, shared.doc_id) AS doc_id,
            arg_max(relevance, (parents.doc_id IS NULL)::INTEGER) AS relevance
        FROM shared LEFT JOIN parents ON parents.parent_id = shared.doc_id GROUP BY ALL
    ),
    of_documents AS (
        SELECT query_id, coalesce(parents.parent_id, shared.doc_id) AS doc_id, max(relevance) AS relevance
        FROM shared LEFT JOIN parents USING (doc_id) GROUP BY ALL
    ),
    answered AS (SELECT DISTINCT query_id FROM shared WHERE relevance >= $min_relevance),
    judgements AS (SELECT * FROM of_passages SEMI JOIN answered USING (query_id) WHERE relevance > 0),
    document_judgements AS (SELECT * FROM of_documents SEMI JOIN answered USING (query_id) WHERE relevance > 0),
    mined AS (
        SELECT query_id, batch, doc_id, rank FROM hard_negatives SEMI JOIN kept USING (query_id, batch)
        SEMI JOIN documents USING (doc_id)
    ),
    used AS (
        SELECT batch, doc_id FROM hard_negatives SEMI JOIN kept USING (query_id, batch)
        UNION SELECT batch, doc_id FROM judgements JOIN kept USING (query_id) WHERE split <> 'test'
    )
"""
# One value per batch that changes with any row, whatever the order in which rows are read; every part has a fixed length.
_VERSIONS = "SELECT batch, sha256(string_agg({row}, '' ORDER BY {row}))[1:32] AS version FROM ({rows}) GROUP BY batch"
_QUERIES = "SELECT batch, query_id, text, split FROM kept WHERE split IN {splits} AND {own}"
_JUDGEMENTS = """
    SELECT batch, query_id, doc_id, relevance FROM judgements JOIN kept USING (query_id) WHERE split IN {splits} AND {own}
"""
_DOCUMENT_JUDGEMENTS = _JUDGEMENTS.replace("FROM judgements", "FROM document_judgements")
_REJECTIONS = """
    SELECT batch, query_id, doc_id FROM of_passages JOIN kept USING (query_id) WHERE relevance <= 0 AND split IN {splits} AND {own}
"""
_ORIGINS = """
    SELECT batch, query_id, coalesce(label, '') AS label FROM kept LEFT JOIN query_labels USING (batch, query_id)
    WHERE split IN {splits} AND {own}
"""
# The texts by which a view may have changed: their ids may stay while another batch replaces or removes them.
_USED_TEXTS = """
    SELECT used.batch, used.doc_id, coalesce(content_hash, '') AS content_hash, coalesce(parent_id, '') AS parent_id
    FROM used LEFT JOIN documents USING (doc_id) LEFT JOIN parents USING (doc_id)
"""
_HASHED_QUERY = "sha256(query_id) || sha256(text) || sha256(split)"
_GRADE = "sha256(relevance::VARCHAR || if(relevance < $min_relevance, ', not relevant', ''))"
_HASHED_JUDGEMENT = f"sha256(query_id) || sha256(doc_id) || {_GRADE}"
TRAINING: tuple[Split, ...] = ("train", "dev")  # the splits that training reads
EVALUATION: tuple[Split, ...] = ("dev", "test")  # those that are measured
# view -> its rows, what hashes a row, its splits
VERSIONED: dict[str, tuple[str, str, tuple[Split, ...]]] = {
    "training_queries": (_QUERIES, _HASHED_QUERY, TRAINING),
    "training_judgements": (_JUDGEMENTS, _HASHED_JUDGEMENT, TRAINING),
    "training_rejections": (_REJECTIONS, "sha256(query_id) || sha256(doc_id)", TRAINING),
    "texts": (_USED_TEXTS, "sha256(doc_id) || sha256(content_hash || parent_id)", TRAINING),
    "evaluation_queries": (_QUERIES, _HASHED_QUERY, EVALUATION),
    "query_origins": (_ORIGINS, "sha256(query_id) || sha256(label)", EVALUATION),
    "evaluation_judgements": (_DOCUMENT_JUDGEMENTS, _HASHED_JUDGEMENT, EVALUATION),
}


@dataclass(frozen=True)
class Collection:
    """One snapshot of the collection. `batch` narrows a read to the queries whose last batch it is."""

    connection: duckdb.DuckDBPyConnection
    batches: tuple[str, ...]
    left_out: tuple[str, ...]
    displaced: tuple[tuple[str, str], ...] = ()
    min_relevance: int = 1

    def view_versions(self, view: str) -> dict[str, str]:
        """Version of one of `VERSIONED` by batch; a batch without a row has none."""
        rows, row, splits = VERSIONED[view]
        found = self._select(_VERSIONS.format(rows=rows, row=row), splits)
        return dict(zip(found["batch"].to_pylist(), found["version"].to_pylist(), strict=True))

    def queries(self, splits: Sequence[Split], batch: str = "") -> list[Query]:
        """Queries of these splits, sorted by id."""
        rows = self._select(f"SELECT query_id, text, split FROM ({_QUERIES}) ORDER BY query_id", splits, batch)
        return [Query(**row) for row in rows.to_pylist()]

    def origins(self, splits: Sequence[Split], batch: str = "") -> dict[str, tuple[str, str]]:
        """Of the queries of these splits the batch that counts and its label, empty where it gave none: query_id -> (batch, label)."""
        rows = self._select(f"{_ORIGINS} ORDER BY query_id", splits, batch).to_pylist()
        return {row["query_id"]: (row["batch"], row["label"]) for row in rows}

    def judgements(self, splits: Sequence[Split], batch: str = "") -> Qrels:
        """Judgements above 0 of the queries of these splits, of passages that exist: query_id -> doc_id -> relevance.

        Of queries that have a relevant document; those below `min_relevance` stand beside it.
        """
        return self._qrels(_JUDGEMENTS, splits, batch)

    def document_judgements(self, splits: Sequence[Split]) -> Qrels:
        """The same of documents: rankings that are measured are compared with these."""
        return self._qrels(_DOCUMENT_JUDGEMENTS, splits)

    def _qrels(self, rows: str, splits: Sequence[Split], batch: str = "") -> Qrels:
        found: Qrels = {}
        for row in self._select(f"{rows} ORDER BY query_id, doc_id", splits, batch).to_pylist():
            found.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
        return found

    def rejections(self, splits: Sequence[Split], batch: str = "") -> dict[str, list[str]]:
        """What a person judged not relevant to the queries of these splits, of documents that exist: query_id -> doc_ids, sorted."""
        found: dict[str, list[str]] = {}
        for row in self._select(f"{_REJECTIONS} ORDER BY query_id, doc_id", splits, batch).to_pylist():
            found.setdefault(row["query_id"], []).append(row["doc_id"])
        return found

    def candidates(self, batch: str = "") -> dict[str, list[str]]:
        """Mined documents that exist, best first: query_id -> doc_ids."""
        found: dict[str, list[str]] = {}
        sql = "SELECT query_id, doc_id FROM mined WHERE {own} ORDER BY query_id, rank, doc_id"
        for row in self._select(sql, batch=batch).to_pylist():
            found.setdefault(row["query_id"], []).append(row["doc_id"])
        return found

    def texts(self, batch: str = "") -> dict[str, str]:
        """What encoders read of the judged and mined documents of train and dev queries: doc_id -> content."""
        sql = "SELECT doc_id, content FROM documents WHERE doc_id IN (SELECT doc_id FROM used WHERE {own}) ORDER BY doc_id"
        rows = self._select(sql, batch=batch)
        return dict(zip(rows["doc_id"].to_pylist(), rows["content"].to_pylist(), strict=True))

    def parents(self) -> dict[str, str]:
        """The document of every passage: doc_id -> parent_id. Documents that were not cut are not in it."""
        rows = self._select("SELECT doc_id, parent_id FROM parents ORDER BY doc_id")
        return dict(zip(rows["doc_id"].to_pylist(), rows["parent_id"].to_pylist(), strict=True))

    def documents(self) -> tuple[list[str], list[str]]:
        """Ids, sorted, and contents of all documents; of one that was cut, of its passages."""
        rows = self._select("SELECT doc_id, content FROM documents ORDER BY doc_id")
        return rows["doc_id"].to_pylist(), rows["content"].to_pylist()

    def sample(self, count: int) -> tuple[int, list[str]]:
        """How many documents there are, and the contents of `count` of them, chosen by the hash of their ids."""
        chosen = self._select(f"SELECT content FROM documents ORDER BY sha256(doc_id) LIMIT {int(count)}")
        total = self._select("SELECT count(*) AS num_documents FROM documents")
        return total["num_documents"][0].as_py(), chosen["content"].to_pylist()

    def contents(self, doc_ids: Sequence[str]) -> dict[str, str]:
        """What encoders read of these documents, of one that was cut its first passage; those not in the collection are left out."""
        sql = """
            SELECT doc_id, content FROM documents WHERE doc_id IN (SELECT unnest($chosen::VARCHAR[])) UNION ALL
            SELECT parent_id, arg_min(content, (length(doc_id), doc_id)) FROM documents JOIN parents USING (doc_id)
            WHERE parent_id IN (SELECT unnest($chosen::VARCHAR[])) GROUP BY parent_id ORDER BY doc_id
        """
        rows = self._select(sql, doc_ids)
        return dict(zip(rows["doc_id"].to_pylist(), rows["content"].to_pylist(), strict=True))

    def logits(self) -> dict[tuple[str, str], float]:
        """Raw teacher logits of the train queries' pairs: (query_id, doc_id) -> logit."""
        rows = self._select(
            "SELECT query_id, doc_id, teacher_logit FROM teacher_scores SEMI JOIN kept USING (query_id, batch)"
        )
        keys = zip(rows["query_id"].to_pylist(), rows["doc_id"].to_pylist(), strict=True)
        return dict(zip(keys, rows["teacher_logit"].to_pylist(), strict=True))

    def _select(self, sql: str, chosen: Sequence[str] = (), batch: str = "") -> pa.Table:
        """Rows of a statement on `VIEWS`; it may name `$chosen`, which most take for the splits."""
        own = "batch = $batch" if batch else "true"
        sql = sql.format(own=own, splits="(SELECT unnest($chosen::VARCHAR[]))")
        return select(
            self.connection, f"WITH {VIEWS} {sql}", self.parameters | {"batch": batch, "chosen": list(chosen)}
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of `VIEWS`, for statements that are built on it elsewhere."""
        displaced = [{"batch": batch, "doc_id": doc_id} for batch, doc_id in self.displaced]
        return {"batches": list(self.batches), "left_out": list(self.left_out), "displaced": displaced} | {
            "min_relevance": self.min_relevance
        }


def changed_documents(connection: duckdb.DuckDBPyConnection, batches: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """(batch, doc_id, its text, the text that stands now) of documents that a later one of these batches brings with another text.

    Of documents that were cut both the whole, its passages one after the other, and each passage by its own id.
    """
    rows = select(
        connection,
        f"""
        WITH current AS (SELECT unnest($batches::VARCHAR[]) AS batch),
        named AS (
            SELECT batch, doc_id AS named, doc_id FROM corpus SEMI JOIN current USING (batch) UNION ALL
            SELECT batch, parent_id, doc_id FROM passages SEMI JOIN current USING (batch)
        ),
        changed AS (
            SELECT doc_id AS named FROM corpus SEMI JOIN current USING (batch) GROUP BY doc_id HAVING count(DISTINCT content_hash) > 1
            UNION
            SELECT named FROM named WHERE named IN (SELECT parent_id FROM passages) GROUP BY named HAVING count(DISTINCT batch) > 1
        ),
        brought AS (
            SELECT batch, named, string_agg({CONTENT}, ' ' ORDER BY length(doc_id), doc_id) AS content
            FROM named SEMI JOIN changed USING (named) JOIN corpus USING (batch, doc_id) GROUP BY batch, named
        ),
        standing AS (SELECT named, arg_max(content, batch) AS content FROM brought GROUP BY named)
        SELECT batch, named AS doc_id, brought.content AS former, standing.content AS now FROM brought JOIN standing USING (named)
        WHERE brought.content <> standing.content ORDER BY batch, named
        """,
        {"batches": list(batches)},
    )
    return [(row["batch"], row["doc_id"], row["former"], row["now"]) for row in rows.to_pylist()]
