"""The tables of the warehouse: columns with their meaning, keys, and what a frame must look like to be written.

One specification serves the DDL, the checks before a write and the table schemas that the UI shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from distill_assets.errors import NonFiniteError, WarehouseError

# 2 added `quarantine`; 3 `query_results`, `teacher_fitness`, `scoring_costs` and the tests' columns of `leaderboard`, and took the
# primary key off `pair_scores`; 4 `rankings`, `slices.inputs_json` and the champion's columns; 5 `answers_found`;
# 6 `student_trials`, `query_labels`, `query_groups` and `leaderboard.prompts`; 7 `passages`, `generated_queries`,
# `teacher_judgements`, `page_judgements` and who judged (`judged_by`).
# The warehouse brings an older file up: it adds tables and columns that may be NULL, renames what RENAMED names, drops columns and
# keys that were given up.
SCHEMA_VERSION: int = 7
RENAMED: dict[str, dict[str, str]] = {
    "pair_scores": {"teacher_fingerprint": "scorer_id"}
}  # table -> old name -> new name

# Large strings: a chunk of document texts may pass the 2 GiB that 32-bit offsets can address.
_ARROW_TYPES: dict[str, pa.DataType] = {
    "VARCHAR": pa.large_string(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us"),
}


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """One column: DuckDB type, meaning, and whether NULL is a value that it may hold."""

    sql_type: str
    description: str
    is_nullable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One table.

    Attributes:
        asset: what to materialise when rows are missing.
        columns: in the order of the DDL.
        key_columns: unique together within what is written; also the order of every read.
        slice_column: holds the partition key; None where the whole table is one slice, or is append only.
        mode: `slices` are replaced whole, `append` only grows, `internal` is written by the warehouse itself.
        has_primary_key: DuckDB itself keeps the key unique. Only where rows arrive in many commits: the index costs
            memory, and a slice that is replaced whole is checked before it is inserted.
    """

    asset: str
    columns: Mapping[str, ColumnSpec]
    key_columns: tuple[str, ...]
    slice_column: str | None = None
    mode: Literal["slices", "append", "internal"] = "slices"
    has_primary_key: bool = False

    def ddl(self, table: str) -> str:
        """The CREATE TABLE statement."""
        lines = [f"{name} {c.sql_type}{'' if c.is_nullable else ' NOT NULL'}" for name, c in self.columns.items()]
        if self.has_primary_key:
            lines.append(f"PRIMARY KEY ({', '.join(self.key_columns)})")
        return f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(lines)})"


def _text(description: str) -> ColumnSpec:
    return ColumnSpec("VARCHAR", description)


def _integer(description: str, *, is_nullable: bool = False) -> ColumnSpec:
    return ColumnSpec("INTEGER", description, is_nullable)


def _double(description: str, *, is_nullable: bool = False) -> ColumnSpec:
    return ColumnSpec("DOUBLE", description, is_nullable)


_BATCH = _text("What arrived together; the partition key.")
_QUERY_ID = _text("Id of the query.")
_DOC_ID = _text("Id of the document.")
_SPLIT = _text("train, dev or test.")
_NDCG = "nDCG@10, trec_eval's linear gains."
_MRR = "Reciprocal rank of the first relevant document of the top 10."
_RECALL = "Share of the relevant documents in the top 100."
_MAP = "Average precision."
_P = "p-value against {}: paired randomisation test, Holm-corrected over the rows that are compared; NULL where nothing was tested."
_JUDGED_BY = ColumnSpec(
    "VARCHAR",
    "Who judged the queries: people, or the teacher; NULL in rows of older versions, which people judged.",
    True,
)
_DETECTABLE = "True difference that this test finds with 80 % probability."

TABLES: dict[str, TableSpec] = {
    "corpus": TableSpec(
        asset="corpus",
        columns={
            "batch": _BATCH,
            "doc_id": _DOC_ID,
            "title": _text("Title, may be empty."),
            "text": _text("Text, never empty."),
            "content_hash": _text("Hash of what encoders read: title and text."),
        },
        key_columns=("batch", "doc_id"),
        slice_column="batch",
    ),
    "passages": TableSpec(
        asset="corpus",
        columns={
            "batch": _BATCH,
            "doc_id": _text("Id of a passage in `corpus`; documents that were not cut have no row."),
            "parent_id": _text("Id of the document that it is cut from; judgements and rankings name it."),
        },
        key_columns=("batch", "doc_id"),
        slice_column="batch",
    ),
    "queries": TableSpec(
        asset="queries",
        columns={
            "batch": _BATCH,
            "query_id": _QUERY_ID,
            "text": _text("The query as typed."),
            "text_key": ColumnSpec(
                "VARCHAR",
                "Hash of the normalised text: equal for two ids that ask the same. NULL until it is read again.",
                True,
            ),
            "split": _SPLIT,
        },
        key_columns=("batch", "query_id"),
        slice_column="batch",
    ),
    "query_labels": TableSpec(
        asset="queries",
        columns={
            "batch": _BATCH,
            "query_id": _QUERY_ID,
            "label": _text("Group of the query as its source names it; queries without one have no row."),
        },
        key_columns=("batch", "query_id"),
        slice_column="batch",
    ),
    "qrels": TableSpec(
        asset="qrels",
        columns={
            "batch": _BATCH,
            "query_id": _QUERY_ID,
            "doc_id": _DOC_ID,
            "relevance": _integer("Human judgement; above 0 is relevant."),
        },
        key_columns=("batch", "query_id", "doc_id"),
        slice_column="batch",
    ),
    "generated_queries": TableSpec(
        asset="generated_queries",
        columns={
            "batch": _BATCH,
            "query_id": _text("`generated-` and the hash of text and document."),
            "text": _text("The query that was made."),
            "text_key": _text("Hash of the normalised text: equal for two that ask the same."),
            "split": _text(
                "The hash split; it counts where the collection has no query of its source, else they train."
            ),
            "doc_id": _text("Id of the document that it was made from."),
            "kind": _text("keyword, question, sentence, title or model."),
            "rank": _integer("Place of that document when BM25 and the untouched student search for it, from 1."),
        },
        key_columns=("batch", "query_id"),
        slice_column="batch",
    ),
    "teacher_judgements": TableSpec(
        asset="teacher_judgements",
        columns={
            "batch": _BATCH,
            "query_id": _QUERY_ID,
            "doc_id": _text("Id of the document that the teacher ranks first."),
            "relevance": _integer("1: the teacher names one document."),
        },
        key_columns=("batch", "query_id"),
        slice_column="batch",
    ),
    "page_judgements": TableSpec(
        asset="qrels",
        columns={
            "query_id": _QUERY_ID,
            "doc_id": _text("Id of the document; empty where the answer is about the query itself."),
            "relevance": _integer(
                "Grade, 0 is not relevant; -1 with no document: a bad query; NULL: taken back.", is_nullable=True
            ),
            "judge": _text("Name of the person who answered on the page of `distill-assets judge`."),
            "judged_at": ColumnSpec("TIMESTAMP", "When, UTC. Of several answers about a pair the last one counts."),
            "query_hash": _text("Hash of the query's text that was judged; the answer counts for this text alone."),
            "doc_hash": _text("Hash of the document's content that was judged, likewise; empty without a document."),
        },
        key_columns=("query_id", "doc_id", "judge", "judged_at"),
        mode="append",
    ),
    "answers_found": TableSpec(
        asset="hard_negatives",
        columns={
            "batch": _BATCH,
            "num_queries": _integer("Judged train queries that were looked at."),
            "share_found": _double("Share of a query's judged documents that search finds, mean over queries."),
            "area_under_curve": _double(
                "Chance that a judged document is more similar to its query than a hard negative."
            ),
        },
        key_columns=("batch",),
        slice_column="batch",
    ),
    "hard_negatives": TableSpec(
        asset="hard_negatives",
        columns={
            "batch": _BATCH,
            "query_id": _QUERY_ID,
            "doc_id": _DOC_ID,
            "rank": _integer("Rank among the query's rows, from 1: the order of the fusion."),
            "source": _text(
                "Who found it: bm25, dense or both; judged where a person named it and search did not find it."
            ),
            "bm25_rank": _integer("Rank in the BM25 list, from 1; NULL when not in it.", is_nullable=True),
            "dense_rank": _integer("Rank in the dense list, from 1; NULL when not in it.", is_nullable=True),
            "rrf_score": _double("Reciprocal-rank fusion score."),
        },
        key_columns=("batch", "query_id", "rank", "doc_id"),
        slice_column="batch",
    ),
    "teacher_scores": TableSpec(
        asset="teacher_scores",
        columns={
            "batch": _BATCH,
            "query_id": _QUERY_ID,
            "doc_id": _DOC_ID,
            "label": _integer("Relevance of a positive, 0 of a hard negative."),
            "teacher_logit": ColumnSpec("FLOAT", "Raw logit of the teacher."),
        },
        key_columns=("batch", "query_id", "doc_id"),
        slice_column="batch",
    ),
    "checkpoints": TableSpec(
        asset="teacher_checkpoint or student_checkpoint",
        columns={
            "kind": _text("teacher or student."),
            "name": _text("`teacher`, or the recipe of a student."),
            "path": _text("Folder of the model; relative to the data folder where it lies in there."),
            "model_fingerprint": _text("Content of the folder."),
            "manifest_json": _text("The folder's manifest.json."),
        },
        key_columns=("kind", "name"),
        slice_column="name",
    ),
    "student_trials": TableSpec(
        asset="student_choice",
        columns={
            "student": _text("Name of the model, as `students` lists it."),
            "encoder_id": _text("The model: content, prompts, length."),
            "is_chosen": ColumnSpec("BOOLEAN", "Whether it is the student now."),
            "untrained_ndcg_at_10": ColumnSpec("DOUBLE", "nDCG@10 on the trial's dev queries, as published."),
            "trained_ndcg_at_10": ColumnSpec("DOUBLE", "The same after the short training; it decides."),
            "num_trial_queries": _integer("Train queries of the short training."),
            "num_trial_dev_queries": _integer("Dev queries of the trial."),
            "num_trial_documents": _integer("Documents that they searched among."),
            "trial_seconds": ColumnSpec("DOUBLE", "What this trial took."),
        },
        key_columns=("student",),
    ),
    "eval_metrics": TableSpec(
        asset="eval_metrics",
        columns={
            "recipe": _text("Recipe; the partition key."),
            "system": _text("Ranking system."),
            "split": _SPLIT,
            "query_id": _QUERY_ID,
            "ndcg_at_10": _double(_NDCG),
            "mrr_at_10": _double(_MRR),
            "recall_at_100": _double(_RECALL),
            "map": _double(_MAP),
            "judged_by": _JUDGED_BY,
        },
        key_columns=("recipe", "system", "split", "query_id"),
        slice_column="recipe",
    ),
    "rankings": TableSpec(
        asset="eval_metrics",
        columns={
            "system": _text("Ranking system."),
            "split": _SPLIT,
            "query_id": _QUERY_ID,
            "doc_id": _DOC_ID,
            "rank": _integer("Place, from 1."),
            "score": _double("What the system ranks by: BM25 score, cosine, or the teacher's logit."),
        },
        key_columns=("system", "split", "query_id", "rank"),
        slice_column="system",
    ),
    "leaderboard": TableSpec(
        asset="leaderboard",
        columns={
            "split": _SPLIT,
            "system": _text("Ranking system."),
            "model_fingerprint": ColumnSpec(
                "VARCHAR", "Content of the student's folder; NULL where there is no model.", True
            ),
            "ndcg_at_10": _double("Mean of " + _NDCG),
            "ndcg_at_10_low": _double("Lower end of the 95 % bootstrap interval."),
            "ndcg_at_10_high": _double("Upper end of the 95 % bootstrap interval."),
            "mrr_at_10": _double("Mean MRR@10."),
            "recall_at_100": _double("Mean recall@100."),
            "map": _double("Mean average precision."),
            "gap_closed": _double("Share of the way from untouched student to teacher.", is_nullable=True),
            "gap_closed_low": _double("Lower end of its 95 % bootstrap interval.", is_nullable=True),
            "gap_closed_high": _double("Upper end of its 95 % bootstrap interval.", is_nullable=True),
            "query_ms_p50": _double("Median time of a query; NULL when not timed.", is_nullable=True),
            "query_ms_p95": _double("95th percentile of the time of a query.", is_nullable=True),
            "documents_per_s": _double("Documents encoded per second; NULL without an encoder.", is_nullable=True),
            "model_mb": _double("Size of the model; NULL without one.", is_nullable=True),
            "num_queries": _integer("Judged queries behind the means."),
            "p_vs_hard_labels": _double(_P.format("`hard_labels`"), is_nullable=True),
            "p_vs_untouched": _double(_P.format("the untouched student"), is_nullable=True),
            "detectable_vs_hard_labels": _double(_DETECTABLE, is_nullable=True),
            "detectable_vs_untouched": _double(_DETECTABLE, is_nullable=True),
            "prompts": ColumnSpec(
                "VARCHAR", "Prompts of a bi-encoder and where they are from; NULL for other systems.", True
            ),
            "judged_by": _JUDGED_BY,
        },
        key_columns=("split", "system"),
    ),
    "query_results": TableSpec(
        asset="leaderboard",
        columns={
            "split": _SPLIT,
            "system": _text("Ranking system."),
            "query_id": _QUERY_ID,
            "ndcg_at_10": _double(_NDCG),
            "kendall_tau": _double(
                "Kendall's tau-b with the teacher on the pool; NULL for systems without a score for all of it.",
                is_nullable=True,
            ),
            "overlap_at_10": _double("Share of the teacher's top 10 of the pool in this system's.", is_nullable=True),
        },
        key_columns=("split", "system", "query_id"),
    ),
    "query_groups": TableSpec(
        asset="leaderboard",
        columns={
            "rule": _text("What made the groups: source, batch, length or code."),
            "query_id": _text("Id of a query of the leaderboard."),
            "label": _text("Group that the query is in."),
        },
        key_columns=("rule", "query_id"),
    ),
    "teacher_fitness": TableSpec(
        asset="leaderboard",
        columns={
            "system": _text("The teacher, the untouched student, or a recipe's."),
            "query_id": _text("Id of a dev query."),
            "ndcg_at_10": _double("nDCG@10 of reranking what BM25 and the untouched student find for the query."),
        },
        key_columns=("system", "query_id"),
    ),
    "scoring_costs": TableSpec(
        asset="teacher_scores",
        columns={
            "scored_at": ColumnSpec("TIMESTAMP", "When scoring ended, UTC."),
            "asset": _text("What it was for: teacher_scores, leaderboard, ..."),
            "partition_key": _text("Its partition; empty where it has none."),
            "teacher_fingerprint": _text("Content of the teacher."),
            "num_pairs": ColumnSpec("BIGINT", "Pairs that needed a forward pass and were stored."),
            "seconds": _double("Wall time, loading the model included."),
        },
        key_columns=("scored_at", "asset", "partition_key"),
        mode="append",
    ),
    "champion_history": TableSpec(
        asset="champion",
        columns={
            "decided_at": ColumnSpec("TIMESTAMP", "When the gate decided, UTC."),
            "recipe": _text("Recipe of the candidate, or of the champion rolled back to; or untouched_student."),
            "model_fingerprint": _text("Content of its folder."),
            "checkpoint_path": _text("Folder of its model; relative to the data folder where it lies in there."),
            "verdict": _text("promoted, kept or rolled_back."),
            "reason": _text("Why, in words."),
            "dev_ndcg_at_10": _double("Mean nDCG@10 on dev."),
            "p_value": _double("One-sided p-value of the gate; NULL when nothing was tested.", is_nullable=True),
            "sequence": ColumnSpec("BIGINT", "Number of the decision, from 1; NULL in rows of older versions.", True),
            "best_model_fingerprint": ColumnSpec("VARCHAR", "The best champion on dev up to this decision.", True),
            "best_checkpoint_path": ColumnSpec(
                "VARCHAR", "Folder of that champion, named as in checkpoint_path.", True
            ),
            "refused_model_fingerprint": ColumnSpec("VARCHAR", "The model that a person rolled away.", True),
            "judged_by": _JUDGED_BY,
        },
        key_columns=("decided_at", "recipe"),
        mode="append",
    ),
    "pair_scores": TableSpec(
        asset="teacher_scores",
        columns={
            "scorer_id": _text(
                "Who scored: weights, tokenizer, length, prompts and precision of one member of a teacher."
            ),
            "query_hash": _text("Hash of the query's text."),
            "doc_hash": _text("Hash of the document's content."),
            "teacher_logit": ColumnSpec("FLOAT", "Raw logit of a cross-encoder, or cosine of a bi-encoder."),
        },
        key_columns=("scorer_id", "query_hash", "doc_hash"),
        mode="append",
        # No primary key: its index makes a million pairs 107 MB instead of 24 and is held in memory; `commit` keeps them unique.
    ),
    "quarantine": TableSpec(
        asset="corpus",
        columns={
            "batch": _BATCH,
            "source_fingerprint": _text("The content that could not be read; other content is tried again."),
            "reason": _text("Why, with file and line."),
            "quarantined_at": ColumnSpec("TIMESTAMP", "When it was refused, UTC."),
        },
        key_columns=("batch",),
        slice_column="batch",
    ),
    "slices": TableSpec(
        asset="any",
        columns={
            "table_name": _text("Table."),
            "slice_key": _text("Partition key; empty where the table is not partitioned."),
            "num_rows": ColumnSpec("BIGINT", "Rows of the slice; 0 where empty was meant."),
            "input_fingerprint": _text("What the slice was made from."),
            "data_version": _text("Content of the slice."),
            "written_at": ColumnSpec("TIMESTAMP", "When it was committed, UTC."),
            "inputs_json": ColumnSpec(
                "VARCHAR", "Version of each input, by name; NULL in slices of older versions.", True
            ),
        },
        key_columns=("table_name", "slice_key"),
        mode="internal",
        has_primary_key=True,
    ),
    "schema_info": TableSpec(
        asset="any",
        columns={"version": _integer("SCHEMA_VERSION of the package that made the file.")},
        key_columns=("version",),
        mode="internal",
    ),
}


def table_spec(table: str) -> TableSpec:
    """The specification of a table. Raises `WarehouseError` for a name that is not in `TABLES`."""
    if table not in TABLES:
        raise WarehouseError(f"no table {table!r}: the warehouse has {', '.join(sorted(TABLES))}")
    return TABLES[table]


def schema_of(table: str) -> pa.Schema:
    """Columns and types of the rows that an asset gives: without what the warehouse fills in, the slice column and `sequence`."""
    spec = table_spec(table)
    given = {name: column for name, column in spec.columns.items() if name not in (spec.slice_column, "sequence")}
    return pa.schema([(name, _ARROW_TYPES[column.sql_type]) for name, column in given.items()])


def conform(table: str, rows: pa.Table) -> pa.Table:
    """Return `rows` with exactly the table's columns and types, whatever order they came in.

    Casts are safe ones: a relevance of 0.5 is refused, not rounded to 0.

    Raises:
        WarehouseError: columns are missing, extra or repeated, or a value does not fit its type.
        NonFiniteError: a NaN or an infinity; a mean over it would be NaN and look like a measurement.
    """
    spec = table_spec(table)
    missing = sorted(set(spec.columns) - set(rows.column_names))
    extra = sorted(set(rows.column_names) - set(spec.columns))
    if missing or extra or len(set(rows.column_names)) != rows.num_columns:
        raise WarehouseError(
            f"{table}: missing columns {missing}, extra columns {extra}, got {rows.column_names}; "
            f"expected each of {list(spec.columns)} once, in any order"
        )
    schema = pa.schema([(name, _ARROW_TYPES[column.sql_type]) for name, column in spec.columns.items()])
    try:
        conformed = rows.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise WarehouseError(f"{table}: a value does not fit its column: {error}; expected {schema}") from error
    for name in schema.names:
        if pa.types.is_floating(schema.field(name).type):
            require_finite(f"{table}.{name}", conformed[name])
    return conformed


def require_finite(where: str, values: pa.ChunkedArray) -> None:
    """Raise `NonFiniteError` when a value is NaN or infinite; NULLs are for the schema to judge."""
    num_bad = pc.sum(pc.invert(pc.is_finite(values))).as_py() or 0
    if num_bad:
        raise NonFiniteError(
            f"{where}: {num_bad} of {len(values)} values are NaN or infinite, expected finite numbers; "
            "nothing was written; find the model or step that made them"
        )
