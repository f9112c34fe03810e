"""Column lineage names what exists, covers every table, and metadata holds no number that JSON has not."""

import json
import math
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from distill_assets.assets.inputs import slice_of
from distill_assets.assets.lineage import COLUMN_SOURCES, column_lineage
from distill_assets.assets.reporting import materialised, shown
from distill_assets.storage.warehouse import TABLES

# Columns that no upstream column decides: names given here, and times.
OWN = {
    "teacher_checkpoint": {"kind", "name"},
    "student_checkpoint": {"kind", "name"},
    "champion": {"decided_at"},
    **{asset: set(TABLES[asset].columns) for asset in ("corpus", "queries", "qrels")},
}


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The asset graph of the default settings."""
    monkeypatch.chdir(tmp_path)
    from distill_assets.definitions import build_definitions
    from distill_assets.resources import Project

    return build_definitions(Project()).resolve_asset_graph()


def test_lineage_covers_every_column_of_every_table(graph: Any) -> None:
    """A column that is added to a table and not here looks as if it came from nowhere."""
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == set(COLUMN_SOURCES)
    for asset, sources in COLUMN_SOURCES.items():
        columns = set(TABLES[slice_of(asset, "x")[0]].columns)
        assert set(sources) | OWN.get(asset, set()) == columns, asset
        assert not set(sources) & OWN.get(asset, set()), asset


def test_lineage_names_columns_that_exist_upstream(graph: Any) -> None:
    """The UI shows a misspelt column as an empty page, and one of an asset that is not upstream as a fact."""
    for asset in COLUMN_SOURCES:
        lineage = column_lineage(asset)
        deps = [dep for found in (lineage.deps_by_column.values() if lineage else ()) for dep in found]
        upstream = {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey(asset))}
        for dep in deps:
            name = dep.asset_key.to_user_string()
            assert name in upstream, (asset, name)
            assert dep.column_name in TABLES[slice_of(name, "x")[0]].columns, (asset, name, dep.column_name)


def test_materialisation_carries_lineage_rows_and_version() -> None:
    """The catalogue reads these keys and no others."""
    result = materialised("teacher_scores", "v1", 7)
    assert result.metadata["dagster/row_count"] == 7 and result.data_version == dg.DataVersion("v1")
    made_from = result.metadata["dagster/column_lineage"].deps_by_column["label"]
    assert [(dep.asset_key.to_user_string(), dep.column_name) for dep in made_from] == [("qrels", "relevance")]
    assert "dagster/column_lineage" not in materialised("corpus", "v1", 7).metadata


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
