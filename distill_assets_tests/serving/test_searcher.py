"""Search with the champion, among what is materialised."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from distill_assets.assets.release import HISTORY_SCHEMA
from distill_assets.definitions import build_definitions
from distill_assets.errors import PromotionError, SourceError
from distill_assets.serving.searcher import search
from distill_assets_tests.conftest import make_project, write_beir


@pytest.fixture
def inbox_project(tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path) -> Any:
    """Two batches in an inbox, neither materialised; the untouched encoder is champion."""
    inbox = tmp_path / "inbox"
    write_beir(inbox / "first", topics=("array", "matrix"))
    write_beir(inbox / "second", topics=("frame", "series"))
    project = make_project(inbox, tiny_encoder, tiny_cross_encoder, tmp_path / "data")
    row = {
        "decided_at": datetime(2026, 11, 24),
        "recipe": "hard_labels",
        "model_fingerprint": "f",
        "checkpoint_path": str(tiny_encoder),
        "verdict": "promoted",
        "reason": "first",
        "dev_ndcg_at_10": 0.5,
        "p_value": None,
    }
    project.places.warehouse.append("champion_history", pa.Table.from_pylist([row], schema=HISTORY_SCHEMA))
    return project


def test_a_batch_that_is_not_materialised_is_named_and_the_others_are_searched(inbox_project: Any) -> None:
    """One batch that has just landed must not take search down, nor be left out without a word."""
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("batches", ["first", "second"])
    job = build_definitions(inbox_project).resolve_implicit_global_asset_job_def()
    corpus, labels = dg.AssetKey("corpus"), [dg.AssetKey("queries"), dg.AssetKey("qrels")]
    job.execute_in_process(instance=instance, asset_selection=[corpus, *labels], partition_key="first")
    job.execute_in_process(instance=instance, asset_selection=[corpus], partition_key="second")  # half read
    found = search(inbox_project, "how to sum a matrix", 24)
    assert found.missing_batches == ["second"]
    assert len(found.hits) == 24 and {hit.doc_id.split("-")[0] for hit in found.hits} == {"array", "matrix"}
    assert [hit.student_score for hit in found.hits] == sorted((h.student_score for h in found.hits), reverse=True)


def test_nothing_to_search_says_so(inbox_project: Any, project: Any) -> None:
    """An empty list of hits would read as: no document fits."""
    with pytest.raises(SourceError, match="nothing to search"):
        search(inbox_project, "sum", 3)
    with pytest.raises(PromotionError, match="run distill-assets run first"):
        search(project, "sum", 3)


def test_a_batch_that_a_check_refused_is_named_and_the_others_are_searched(inbox_project: Any) -> None:
    """One update with broken documents must not take search over all the others down."""
    corpus = inbox_project.collection.source.root / "second" / "corpus.jsonl"
    lines = [json.dumps({"_id": f"signs-{number}", "text": "---"}) for number in range(3)]
    corpus.write_text(corpus.read_text(encoding="utf-8") + "\n".join(lines) + "\n", encoding="utf-8")
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("batches", ["first", "second"])
    job = build_definitions(inbox_project).resolve_implicit_global_asset_job_def()
    tables = [dg.AssetKey(name) for name in ("corpus", "queries", "qrels")]
    for batch in ("first", "second"):
        job.execute_in_process(instance=instance, asset_selection=tables, partition_key=batch, raise_on_error=False)
    assert inbox_project.places.warehouse.slice_info("corpus", "second").num_rows == 27
    found = search(inbox_project, "how to sum a matrix", 5)
    assert found.missing_batches == ["second"] and len(found.hits) == 5


def test_search_writes_nothing(inbox_project: Any) -> None:
    """Queries of users that are kept fill the disk, are a secret in a file, and take the warehouse's lock from a training."""
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("batches", ["first", "second"])
    job = build_definitions(inbox_project).resolve_implicit_global_asset_job_def()
    for batch in ("first", "second"):
        tables = [dg.AssetKey(name) for name in ("corpus", "queries", "qrels")]
        job.execute_in_process(instance=instance, asset_selection=tables, partition_key=batch)

    def listing() -> dict[str, tuple[int, int]]:
        found = sorted(path for path in inbox_project.places.folder.rglob("*") if path.is_file())
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    before = listing()
    assert before
    for number in range(5):
        assert len(search(inbox_project, f"how to sum a matrix {number}", 3).hits) == 3
    assert listing() == before
