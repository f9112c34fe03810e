"""Which upstream columns each column is made from. The UI draws it; a column that is not named here has no upstream column."""

from collections.abc import Mapping

import dagster as dg

from distill_assets.core.metrics import METRIC_NAMES

_DOCUMENT = ("corpus.title", "corpus.text")
_DOCUMENT_AND_QUERY = (*_DOCUMENT, "queries.text")
_SEARCH = ("corpus.doc_id", *_DOCUMENT_AND_QUERY, "qrels.doc_id", "qrels.relevance")
_LABELS = ("queries.text", "queries.split", "qrels.doc_id", "qrels.relevance", "hard_negatives.doc_id")
_MEASURED = ("student_checkpoint.path", *_DOCUMENT_AND_QUERY, "qrels.doc_id", "qrels.relevance")
_TIMED = ("eval_metrics.system", "teacher_checkpoint.path")

# asset -> column -> "asset.column" of what it is made from.
COLUMN_SOURCES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "corpus": {},
    "queries": {},
    "qrels": {},
    "hard_negatives": {
        "batch": ("queries.batch",),
        "query_id": ("queries.query_id", "qrels.query_id"),
        "doc_id": ("corpus.doc_id", "qrels.doc_id"),
        "rank": _SEARCH,
        "source": _SEARCH,
        "bm25_rank": _DOCUMENT_AND_QUERY,
        "dense_rank": _DOCUMENT_AND_QUERY,
        "rrf_score": _DOCUMENT_AND_QUERY,
    },
    "teacher_checkpoint": {"path": _LABELS, "model_fingerprint": _LABELS, "manifest_json": _LABELS},
    "teacher_scores": {
        "batch": ("hard_negatives.batch",),
        "query_id": ("qrels.query_id", "hard_negatives.query_id"),
        "doc_id": ("qrels.doc_id", "hard_negatives.doc_id"),
        "label": ("qrels.relevance",),
        "teacher_logit": ("teacher_checkpoint.path", *_DOCUMENT_AND_QUERY),
    },
    "student_checkpoint": {
        column: ("teacher_scores.teacher_logit", *_LABELS, *_DOCUMENT)
        for column in ("path", "model_fingerprint", "manifest_json")
    },
    "eval_metrics": {
        "recipe": ("student_checkpoint.name",),
        "system": ("student_checkpoint.name",),
        "split": ("queries.split",),
        "query_id": ("queries.query_id", "qrels.query_id"),
        **dict.fromkeys(METRIC_NAMES, _MEASURED),
    },
    "leaderboard": {
        "split": ("eval_metrics.split",),
        "system": ("eval_metrics.system",),
        **{name: (f"eval_metrics.{name}", "teacher_checkpoint.path") for name in METRIC_NAMES},
        **dict.fromkeys(
            (
                "ndcg_at_10_low",
                "ndcg_at_10_high",
                "gap_closed",
                "p_vs_hard_labels",
                "p_vs_untouched",
                "detectable_vs_hard_labels",
                "detectable_vs_untouched",
            ),
            ("eval_metrics.ndcg_at_10", "teacher_checkpoint.path"),
        ),
        **dict.fromkeys(("query_ms_p50", "query_ms_p95", "documents_per_s", "model_mb"), _TIMED),
        "num_queries": ("eval_metrics.query_id",),
    },
    "champion": {
        "recipe": ("eval_metrics.recipe",),
        "model_fingerprint": ("student_checkpoint.model_fingerprint",),
        "checkpoint_path": ("student_checkpoint.path",),
        **dict.fromkeys(("verdict", "reason", "dev_ndcg_at_10", "p_value"), ("eval_metrics.ndcg_at_10",)),
    },
}


def column_lineage(asset: str) -> dg.TableColumnLineage | None:
    """Column lineage of an asset for `dagster/column_lineage`; None where everything comes from outside the graph."""
    sources = COLUMN_SOURCES[asset]
    if not sources:
        return None
    return dg.TableColumnLineage(
        {column: [_dependency(source) for source in made_from] for column, made_from in sources.items()}
    )


def _dependency(source: str) -> dg.TableColumnDep:
    asset, column = source.split(".")
    return dg.TableColumnDep(asset_key=asset, column_name=column)
