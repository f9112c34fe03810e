"""Column lineage, and metadata without numbers that JSON has not."""

import json
import math

import dagster as dg
import numpy as np

from distill_assets.assets import ASSETS
from distill_assets.assets.reporting import derive_lineage, shown
from distill_assets.handles.project import Project


def lineage_of(asset: str) -> dict[str, list[tuple[str, str]]]:
    """Column -> (upstream asset, its column)."""
    found = derive_lineage(Project(), asset, ASSETS[asset].table, ASSETS[asset].reads.upstream).deps_by_column
    return {column: [(d.asset_key.to_user_string(), d.column_name) for d in deps] for column, deps in found.items()}


def test_a_column_comes_from_those_of_its_name_upstream() -> None:
    """Lineage that is kept by hand goes on naming what a refactoring took away, and the UI shows it as a fact."""
    scores = lineage_of("teacher_scores")
    assert scores["doc_id"] == [("corpus", "doc_id"), ("hard_negatives", "doc_id"), ("qrels", "doc_id")]
    assert scores["query_id"] == [("hard_negatives", "query_id"), ("qrels", "query_id"), ("queries", "query_id")]
    assert scores["teacher_logit"] == []
    assert lineage_of("champion")["model_fingerprint"] == [("student_checkpoint", "model_fingerprint")]
    assert set(lineage_of("corpus")["doc_id"]) == set(), "a batch comes from outside"


def test_numbers_that_json_has_not_become_words() -> None:
    """One NaN in one entry makes the whole event unreadable to a browser."""
    nested = {"curve": [[1, math.nan], [2, 0.5]], "deep": {"low": -math.inf}}
    found = shown(
        {
            "nan": math.nan,
            "numpy": np.float32("inf"),
            "typed": dg.MetadataValue.float(math.nan),
            "json": dg.MetadataValue.json(nested),
            "fine": 0.25,
            "count": 3,
            "text": dg.MetadataValue.text("NaN stays a word"),
        }
    )
    assert (found["nan"], found["numpy"], found["typed"]) == ("NaN", "Infinity", "NaN")
    assert found["json"].data == {"curve": [[1, "NaN"], [2, 0.5]], "deep": {"low": "-Infinity"}}
    assert (found["fine"], found["count"]) == (0.25, 3)
    json.dumps(found["json"].data, allow_nan=False)
    assert math.isnan(nested["curve"][0][1]), "what was given stays as it was"
