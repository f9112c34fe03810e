"""The collection as it is now, made from what its batches brought. The rules stand here once.

Of rows that several batches bring, the row of the last batch counts, in the order of the batches' names: a batch that is named after
its day replaces what earlier ones brought; of a document in passages it replaces them all. A judgement of 0 takes an earlier one back.
A judgement counts where its document exists, and for every query of its split that asks the same in the same words. It does not
count where its batch brought another document under that id than the one that stands now (`quality/identity.py`). What a person
answered on the page of `distill-assets judge` wins over what batches say of that pair, while query and document have the texts that
were judged; of several answers the last one counts, and a query that was called bad is left out. A train or dev query that repeats a
query of a later split is left out (`evaluation/splits.py`). Grades from `min_relevance` on are relevant. Lower ones above 0 are
neither positive nor negative, and a query with nothing above them counts as one that nobody judged.

Queries of `generated_queries` are queries of their batch, and the document that they were made from is their answer. Beside queries of
batches they train; where no batch brings one they have the hash split. One that repeats a query of a batch, or another generated one,
is left out.

A split is judged by people where a batch brings a positive for one of its queries, or where at least `MIN_QUERIES` of its queries
have one on the page. Else the teacher judges dev; and test, if people judged neither. Nothing is judged by both. Judgements are read in
one of these ways (`Labels`):

- given: before there is a teacher. People's, and the source document of each generated query.
- people: people's alone. A teacher is trained and tested on these.
- taught: what a student learns from. A generated query counts where the teacher ranks its source first among its scored candidates.
  Where people judged no train query, the teacher's first candidate that nobody rejected is the answer of a train query.
- measured: what dev and test are measured by, people's or the teacher's.

A document that was cut is its passages in `documents`; `parents` says whose they are. A judgement names a document, or a passage.
Judgements that are `measured` are of documents, as rankings are: a document has the highest grade that it or a passage of it was given.
All others are of passages: each has its document's grade, unless it is judged itself.

Every read of one `Collection` sees the same snapshot, because it happens on one connection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import pyarrow as pa

from distill_assets.records import MIN_QUERIES, Document, Query, Split
from distill_assets.storage.warehouse import select

Qrels = dict[str, dict[str, int]]
Labels = Literal["given", "people", "taught", "measured"]
Judge = Literal["people", "teacher"]

# What encoders read of a document, as `Document.content`.
CONTENT = "CASE WHEN title = '' THEN text ELSE title || ' ' || text END"
# `hash_text` in SQL: the first 32 hex digits of the SHA-256 of the UTF-8 text.
TEXT_HASH = "sha256(text)[1:32]"
# Rows of `page_judgements`: each person's last answer about a pair, without those that were taken back.
LAST_ANSWERS = """
    SELECT * FROM (
        SELECT * FROM page_judgements QUALIFY row_number() OVER (PARTITION BY query_id, doc_id, judge ORDER BY judged_at DESC) = 1
    ) WHERE relevance IS NOT NULL
"""
_ASKING_THE_SAME = """
    JOIN asked USING (query_id) JOIN asked AS same ON same.text_key = asked.text_key AND same.split = asked.split
"""
QUERY_TEXTS = "SELECT text FROM queries UNION ALL SELECT text FROM generated_queries"
# Parameters: $batches are those of the collection, $left_out are ids of repeated queries, $displaced are documents of a batch whose id
# stands for another text now, $min_relevance is the lowest grade that is relevant, $generates and $always are of `Labelling`,
# $num_dev and $num_test are how many queries of a split the teacher judges at most.
VIEWS = f"""
    current AS (SELECT unnest($batches::VARCHAR[]) AS batch),
    pieces AS (
        SELECT batch, doc_id, parent_id FROM passages SEMI JOIN current USING (batch) UNION ALL
        SELECT batch, doc_id, doc_id FROM corpus SEMI JOIN current USING (batch) WHERE doc_id IN (SELECT parent_id FROM passages)
    ),
    replaced AS (SELECT batch, doc_id FROM pieces QUALIFY batch < max(batch) OVER (PARTITION BY parent_id)),
    documents AS (
        SELECT doc_id, arg_max(content_hash, batch) AS content_hash, arg_max({CONTENT}, batch) AS content
        FROM corpus SEMI JOIN current USING (batch) ANTI JOIN replaced USING (batch, doc_id) GROUP BY doc_id
    ),
    parents AS (
        SELECT doc_id, arg_max(parent_id, batch) AS parent_id
        FROM passages SEMI JOIN current USING (batch) ANTI JOIN replaced USING (batch, doc_id) GROUP BY doc_id
    ),
    whole AS (
        SELECT doc_id, content_hash FROM documents ANTI JOIN parents USING (doc_id) UNION ALL
        SELECT parent_id, sha256(string_agg(content_hash, '' ORDER BY length(doc_id), doc_id))[1:32]
        FROM documents JOIN parents USING (doc_id) GROUP BY parent_id
    ),
    brought_queries AS (
        SELECT query_id, max(batch) AS batch, arg_max(text, batch) AS text, arg_max(split, batch) AS split,
            coalesce(arg_max(text_key, batch), query_id) AS text_key
        FROM queries SEMI JOIN current USING (batch) GROUP BY query_id
    ),
    made AS (
        SELECT query_id, batch, text, split, text_key, doc_id FROM generated_queries SEMI JOIN current USING (batch)
        SEMI JOIN documents USING (doc_id) ANTI JOIN brought_queries USING (text_key)
        WHERE $generates AND ($always OR NOT EXISTS (FROM brought_queries)) QUALIFY count(*) OVER (PARTITION BY text_key) = 1
    ),
    asked AS (
        SELECT query_id, batch, text, split, text_key FROM brought_queries
        UNION ALL
        SELECT query_id, batch, text, if(EXISTS (FROM brought_queries), 'train', split) AS split, text_key FROM made
    ),
    answers AS ({LAST_ANSWERS}),
    standing AS (
        SELECT query_id, answers.doc_id, relevance, judged_at, judge FROM answers
        SEMI JOIN (SELECT query_id, {TEXT_HASH} AS query_hash FROM asked) AS hashed USING (query_id, query_hash)
        LEFT JOIN whole ON whole.doc_id = answers.doc_id WHERE answers.doc_id = '' OR content_hash = doc_hash
    ),
    on_page AS (
        SELECT same.query_id, doc_id, arg_max(relevance, (judged_at, judge)) AS relevance FROM standing {_ASKING_THE_SAME}
        GROUP BY same.query_id, doc_id
    ),
    kept AS (
        SELECT * FROM asked WHERE query_id NOT IN (SELECT unnest($left_out::VARCHAR[]))
        AND query_id NOT IN (SELECT query_id FROM on_page WHERE doc_id = '')
    ),
    displaced AS (SELECT unnest($displaced::STRUCT(batch VARCHAR, doc_id VARCHAR)[], recursive := true)),
    brought AS (
        SELECT query_id, doc_id, arg_max(relevance, batch) AS relevance
        FROM qrels SEMI JOIN current USING (batch) ANTI JOIN displaced USING (batch, doc_id)
        WHERE doc_id IN (SELECT doc_id FROM documents UNION ALL SELECT parent_id FROM parents)
        GROUP BY query_id, doc_id
    ),
    given AS (
        SELECT query_id, doc_id, on_page.relevance, false AS is_made,
            coalesce(brought.relevance >= $min_relevance, false) AS is_brought
        FROM on_page LEFT JOIN brought USING (query_id, doc_id) WHERE doc_id <> ''
        UNION ALL SELECT query_id, doc_id, relevance, false, relevance >= $min_relevance FROM brought
        ANTI JOIN on_page USING (query_id, doc_id)
        UNION ALL SELECT query_id, doc_id, $min_relevance::INTEGER, true, false FROM made ANTI JOIN on_page USING (query_id, doc_id)
    ),
    shared AS (
        SELECT same.query_id, doc_id, max(relevance) AS relevance, bool_and(is_made) AS is_made,
            bool_or(is_brought) AS is_brought
        FROM given {_ASKING_THE_SAME}
        GROUP BY same.query_id, doc_id
    ),
    of_passages AS (
        SELECT query_id, coalesce(parents.doc_id, shared.doc_id) AS doc_id, bool_and(is_made) AS is_made,
            arg_max(relevance, CASE WHEN is_made THEN 0 WHEN parents.doc_id IS NULL THEN 2 ELSE 1 END) AS relevance
        FROM shared LEFT JOIN parents ON parents.parent_id = shared.doc_id GROUP BY ALL
    ),
    answered AS (
        SELECT query_id, bool_or(NOT is_made) AS is_by_people FROM shared WHERE relevance >= $min_relevance GROUP BY query_id
    ),
    judgements AS (SELECT query_id, doc_id, relevance FROM of_passages SEMI JOIN answered USING (query_id) WHERE relevance > 0),
    of_people AS (
        SELECT query_id, doc_id, relevance, split FROM of_passages JOIN kept USING (query_id) JOIN answered USING (query_id)
        WHERE relevance > 0 AND NOT is_made AND is_by_people
    ),
    documents_of_people AS (
        SELECT query_id, coalesce(parent_id, shared.doc_id) AS doc_id, max(relevance) AS relevance, split
        FROM shared JOIN kept USING (query_id) JOIN answered USING (query_id) LEFT JOIN parents USING (doc_id)
        WHERE NOT is_made AND is_by_people GROUP BY ALL HAVING max(relevance) > 0
    ),
    judged_splits AS (
        SELECT split FROM shared JOIN kept USING (query_id) GROUP BY split HAVING bool_or(is_brought)
            OR count(DISTINCT query_id) FILTER (WHERE relevance >= $min_relevance AND NOT is_made) >= {MIN_QUERIES}
    ),
    unjudged AS (
        SELECT query_id, batch, text, split, if(split = 'dev', $num_dev::INTEGER, $num_test::INTEGER) AS at_most FROM kept
        WHERE split IN ('dev', 'test') AND split NOT IN (FROM judged_splits)
        AND (split = 'dev' OR 'dev' NOT IN (FROM judged_splits))
        QUALIFY row_number() OVER (PARTITION BY split ORDER BY sha256(query_id)) <= at_most
    ),
    documents_of_teacher AS (
        SELECT query_id, coalesce(parent_id, verdicts.doc_id) AS doc_id, $min_relevance::INTEGER AS relevance, split
        FROM teacher_judgements AS verdicts JOIN unjudged USING (query_id, batch) SEMI JOIN documents USING (doc_id)
        LEFT JOIN parents USING (doc_id)
    ),
    of_teacher AS (
        SELECT query_id, coalesce(parents.doc_id, verdicts.doc_id) AS doc_id, relevance, split
        FROM documents_of_teacher AS verdicts LEFT JOIN parents ON parents.parent_id = verdicts.doc_id
    ),
    measured AS (
        SELECT * FROM documents_of_people WHERE split IN (FROM judged_splits) AND split <> 'train'
        UNION ALL SELECT * FROM documents_of_teacher
    ),
    people AS (SELECT * FROM of_people WHERE split = 'train' OR split IN (FROM judged_splits)),
    first_scored AS (
        SELECT query_id, doc_id, $min_relevance::INTEGER AS relevance, split
        FROM teacher_scores JOIN kept USING (query_id, batch) SEMI JOIN documents USING (doc_id)
        ANTI JOIN (SELECT query_id, doc_id FROM of_passages WHERE relevance <= 0) USING (query_id, doc_id) WHERE split = 'train'
        QUALIFY row_number() OVER (PARTITION BY query_id ORDER BY teacher_logit DESC, doc_id DESC) = 1
    ),
    taught AS (
        SELECT * FROM people UNION ALL SELECT * FROM of_teacher WHERE split = 'dev'
        UNION ALL SELECT * FROM first_scored SEMI JOIN made USING (query_id, doc_id) ANTI JOIN of_people USING (query_id)
        UNION ALL SELECT * FROM first_scored ANTI JOIN made USING (query_id) ANTI JOIN of_people USING (query_id)
        WHERE 'train' NOT IN (FROM judged_splits)
    ),
    kept_for_people AS (FROM kept WHERE query_id NOT IN (SELECT query_id FROM made) OR query_id IN (SELECT query_id FROM people)),
    kept_for_student AS (
        FROM kept WHERE split <> 'train' OR query_id NOT IN (SELECT query_id FROM made) OR query_id IN (SELECT query_id FROM taught)
    ),
    mined AS (
        SELECT query_id, batch, doc_id, rank FROM hard_negatives SEMI JOIN kept USING (query_id, batch)
        SEMI JOIN documents USING (doc_id)
    ),
    used AS (
        SELECT batch, doc_id FROM hard_negatives SEMI JOIN kept USING (query_id, batch)
        UNION SELECT batch, doc_id FROM judgements JOIN kept USING (query_id) WHERE split <> 'test'
    ),
    used_by_student AS (
        FROM used UNION SELECT batch, doc_id FROM of_teacher JOIN kept USING (query_id) WHERE kept.split = 'dev'
    )
"""
# One value per batch that changes with any row, whatever the order in which rows are read; every part has a fixed length.
_VERSIONS = "SELECT batch, sha256(string_agg({row}, '' ORDER BY {row}))[1:32] AS version FROM ({rows}) GROUP BY batch"
_QUERIES = "SELECT batch, query_id, text, split FROM {queries} WHERE split IN {splits} AND {own}"
_JUDGEMENTS = """
    SELECT kept.batch, judged.query_id, judged.doc_id, judged.relevance FROM {judgements} AS judged JOIN kept USING (query_id)
    WHERE kept.split IN {splits} AND {own}
"""
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
    FROM {used} AS used LEFT JOIN documents USING (doc_id) LEFT JOIN parents USING (doc_id)
"""
_STANDING = """
    SELECT doc_id, max(batch) AS batch, arg_max(title, batch) AS title, arg_max(text, batch) AS text,
        arg_max(content_hash, batch) AS content_hash
    FROM corpus SEMI JOIN current USING (batch) ANTI JOIN replaced USING (batch, doc_id) GROUP BY doc_id
"""
# The documents whose text that stands is of the batch.
_DOCUMENTS = f"SELECT batch, doc_id, title, text, content_hash FROM ({_STANDING}) WHERE {{own}}"
_UNJUDGED = "SELECT batch, query_id, text, split FROM unjudged WHERE {own}"
_READ_AS: dict[Labels, dict[str, str]] = {
    "given": {"queries": "kept", "judgements": "judgements", "used": "used"},
    "people": {"queries": "kept_for_people", "judgements": "people", "used": "used"},
    "taught": {"queries": "kept_for_student", "judgements": "taught", "used": "used_by_student"},
    "measured": {"queries": "kept", "judgements": "measured", "used": "used"},
}
_HASHED_QUERY = "sha256(query_id) || sha256(text) || sha256(split)"
_GRADE = "sha256(relevance::VARCHAR || if(relevance < $min_relevance, ', not relevant', ''))"
_HASHED_JUDGEMENT = f"sha256(query_id) || sha256(doc_id) || {_GRADE}"
TRAINING: tuple[Split, ...] = ("train", "dev")  # the splits that training reads
EVALUATION: tuple[Split, ...] = ("dev", "test")  # those that are measured
# view -> its rows, what hashes a row, its splits, how labels are read
VERSIONED: dict[str, tuple[str, str, tuple[Split, ...], Labels]] = {
    "training_queries": (_QUERIES, _HASHED_QUERY, TRAINING, "given"),
    "training_judgements": (_JUDGEMENTS, _HASHED_JUDGEMENT, TRAINING, "given"),
    "training_rejections": (_REJECTIONS, "sha256(query_id) || sha256(doc_id)", TRAINING, "given"),
    "texts": (_USED_TEXTS, "sha256(doc_id) || sha256(content_hash || parent_id)", TRAINING, "given"),
    "evaluation_queries": (_QUERIES, _HASHED_QUERY, EVALUATION, "given"),
    "query_origins": (_ORIGINS, "sha256(query_id) || sha256(label)", EVALUATION, "given"),
    "evaluation_judgements": (_JUDGEMENTS, _HASHED_JUDGEMENT, EVALUATION, "measured"),
    "queries_of_people": (_QUERIES, _HASHED_QUERY, TRAINING, "people"),
    "judgements_of_people": (_JUDGEMENTS, _HASHED_JUDGEMENT, TRAINING, "people"),
    "taught_queries": (_QUERIES, _HASHED_QUERY, TRAINING, "taught"),
    "taught_judgements": (_JUDGEMENTS, _HASHED_JUDGEMENT, TRAINING, "taught"),
    "taught_texts": (_USED_TEXTS, "sha256(doc_id) || sha256(content_hash || parent_id)", TRAINING, "taught"),
    "own_documents": (_DOCUMENTS, "sha256(doc_id) || sha256(title) || sha256(content_hash)", TRAINING, "given"),
    "unjudged": (_UNJUDGED, _HASHED_QUERY, EVALUATION, "given"),
}


@dataclass(frozen=True)
class Labelling:
    """What counts beside what people brought.

    Attributes:
        generates: generated queries count.
        always: they count beside queries that batches bring; else only where there is none.
        num_dev: how many dev queries the teacher may judge; `num_test` likewise.
    """

    generates: bool = False
    always: bool = False
    num_dev: int = 0
    num_test: int = 0


BY_PEOPLE = Labelling()


@dataclass(frozen=True)
class Collection:
    """One snapshot of the collection. `batch` narrows a read to the queries whose last batch it is."""

    connection: duckdb.DuckDBPyConnection
    batches: tuple[str, ...]
    left_out: tuple[str, ...]
    displaced: tuple[tuple[str, str], ...] = ()
    min_relevance: int = 1
    labelling: Labelling = BY_PEOPLE

    def view_versions(self, view: str) -> dict[str, str]:
        """Version of one of `VERSIONED` by batch; a batch without a row has none."""
        rows, row, splits, labels = VERSIONED[view]
        found = self._select(_VERSIONS.format(rows=rows, row=row), splits, labels=labels)
        return dict(zip(found["batch"].to_pylist(), found["version"].to_pylist(), strict=True))

    def asked(self) -> list[Query]:
        """All queries, those that are left out or were called bad as well, sorted by id."""
        rows = self._select("SELECT query_id, text, split FROM asked ORDER BY query_id")
        return [Query(**row) for row in rows.to_pylist()]

    def queries(self, splits: Sequence[Split], batch: str = "", labels: Labels = "given") -> list[Query]:
        """Queries of these splits, sorted by id."""
        rows = self._select(f"SELECT query_id, text, split FROM ({_QUERIES}) ORDER BY query_id", splits, batch, labels)
        return [Query(**row) for row in rows.to_pylist()]

    def origins(self, splits: Sequence[Split], batch: str = "") -> dict[str, tuple[str, str]]:
        """Of the queries of these splits the batch that counts and its label, empty where it gave none: query_id -> (batch, label)."""
        rows = self._select(f"{_ORIGINS} ORDER BY query_id", splits, batch).to_pylist()
        return {row["query_id"]: (row["batch"], row["label"]) for row in rows}

    def judges(self) -> dict[Split, Judge]:
        """Who judges the queries of a split; a split that nobody judges is not there.

        The teacher judges train where batches bring train queries and people answered none of them.
        """
        sql = """
            SELECT split, 'people' AS judge FROM judged_splits
            UNION SELECT split, 'teacher' FROM unjudged
            UNION SELECT split, 'teacher' FROM kept ANTI JOIN made USING (query_id)
            WHERE $num_dev > 0 AND split = 'train' AND split NOT IN (FROM judged_splits) ORDER BY split
        """
        return {row["split"]: row["judge"] for row in self._select(sql).to_pylist()}

    def has_generated(self) -> bool:
        """Whether a generated query counts."""
        return bool(self._select("SELECT 1 FROM made LIMIT 1").num_rows)

    def own_documents(self, batch: str) -> list[Document]:
        """The documents whose text is the batch's, sorted by id."""
        rows = self._select(f"SELECT doc_id, title, text FROM ({_DOCUMENTS}) ORDER BY doc_id", batch=batch)
        return [Document(**row) for row in rows.to_pylist()]

    def unjudged(self, batch: str = "") -> list[tuple[Query, str]]:
        """Dev and test queries that the teacher judges, each with the document that it was made from, empty if none; by id."""
        sql = f"""
            SELECT query_id, text, split, coalesce(made.doc_id, '') AS source FROM ({_UNJUDGED})
            LEFT JOIN (SELECT query_id, doc_id FROM made) AS made USING (query_id) ORDER BY query_id
        """
        rows = self._select(sql, batch=batch).to_pylist()
        return [(Query(row["query_id"], row["text"], row["split"]), row["source"]) for row in rows]

    def judgements(self, splits: Sequence[Split], batch: str = "", labels: Labels = "given") -> Qrels:
        """Judgements above 0 of the queries of these splits, of documents that exist: query_id -> doc_id -> relevance.

        Of queries that have a relevant document; those below `min_relevance` stand beside it.
        """
        found: Qrels = {}
        for row in self._select(f"{_JUDGEMENTS} ORDER BY query_id, doc_id", splits, batch, labels).to_pylist():
            found.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
        return found

    def rejections(self, splits: Sequence[Split], batch: str = "") -> dict[str, list[str]]:
        """What a person judged not relevant to the queries of these splits, of documents that exist: query_id -> doc_ids, sorted."""
        found: dict[str, list[str]] = {}
        for row in self._select(f"{_REJECTIONS} ORDER BY query_id, doc_id", splits, batch).to_pylist():
            found.setdefault(row["query_id"], []).append(row["doc_id"])
        return found

    def answers(self, split: str) -> list[dict[str, Any]]:
        """What people answered on the page about queries of a split and that stands: one row for each pair and person.

        The rows have query_id, doc_id (empty: about the query), relevance, judge and judged_at; sorted by time.
        """
        sql = "SELECT standing.* FROM standing JOIN asked USING (query_id) WHERE split IN {splits} ORDER BY judged_at, judge"
        return self._select(sql, [split]).to_pylist()

    def candidates(self, batch: str = "") -> dict[str, list[str]]:
        """Mined documents that exist, best first: query_id -> doc_ids."""
        found: dict[str, list[str]] = {}
        sql = "SELECT query_id, doc_id FROM mined WHERE {own} ORDER BY query_id, rank, doc_id"
        for row in self._select(sql, batch=batch).to_pylist():
            found.setdefault(row["query_id"], []).append(row["doc_id"])
        return found

    def texts(self, batch: str = "", labels: Labels = "given") -> dict[str, str]:
        """What encoders read of the judged and mined documents of train and dev queries: doc_id -> content."""
        sql = "SELECT doc_id, content FROM documents WHERE doc_id IN (SELECT doc_id FROM {used} WHERE {own}) ORDER BY doc_id"
        rows = self._select(sql, batch=batch, labels=labels)
        return dict(zip(rows["doc_id"].to_pylist(), rows["content"].to_pylist(), strict=True))

    def parents(self) -> dict[str, str]:
        """The document of every passage: doc_id -> parent_id. Documents that were not cut are not in it."""
        if not self.connection.execute("SELECT 1 FROM passages LIMIT 1").fetchall():  # every asset asks
            return {}
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

    def shown(self, doc_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Title, text and content_hash of these documents, for a person to read; those that are not in the collection are left out.

        A document that was cut is read whole: what two passages share stands twice.
        """
        sql = f"""
            SELECT whole.doc_id, arg_min(title, (length(d.doc_id), d.doc_id)) AS title,
                string_agg(text, ' ' ORDER BY length(d.doc_id), d.doc_id) AS text, whole.content_hash
            FROM whole LEFT JOIN parents ON parent_id = whole.doc_id
            JOIN ({_STANDING}) AS d ON d.doc_id = coalesce(parents.doc_id, whole.doc_id)
            WHERE whole.doc_id IN (SELECT unnest($chosen::VARCHAR[])) GROUP BY ALL ORDER BY whole.doc_id
        """
        return {row.pop("doc_id"): row for row in self._select(sql, doc_ids).to_pylist()}

    def logits(self) -> dict[tuple[str, str], float]:
        """Raw teacher logits of the train queries' pairs: (query_id, doc_id) -> logit."""
        rows = self._select(
            "SELECT query_id, doc_id, teacher_logit FROM teacher_scores SEMI JOIN kept USING (query_id, batch)"
        )
        keys = zip(rows["query_id"].to_pylist(), rows["doc_id"].to_pylist(), strict=True)
        return dict(zip(keys, rows["teacher_logit"].to_pylist(), strict=True))

    def _select(self, sql: str, chosen: Sequence[str] = (), batch: str = "", labels: Labels = "given") -> pa.Table:
        """Rows of a statement on `VIEWS`; it may name `$chosen`, which most take for the splits."""
        own = "batch = $batch" if batch else "true"
        sql = sql.format(own=own, splits="(SELECT unnest($chosen::VARCHAR[]))", **_READ_AS[labels])
        return select(
            self.connection, f"WITH {VIEWS} {sql}", self.parameters | {"batch": batch, "chosen": list(chosen)}
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of `VIEWS`, for statements that are built on it elsewhere."""
        displaced = [{"batch": batch, "doc_id": doc_id} for batch, doc_id in self.displaced]
        return {"batches": list(self.batches), "left_out": list(self.left_out), "displaced": displaced} | {
            "min_relevance": self.min_relevance,
            "generates": self.labelling.generates,
            "always": self.labelling.always,
            "num_dev": self.labelling.num_dev,
            "num_test": self.labelling.num_test,
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
