"""A collection that was read, with rankings of two systems: what people judge in tests."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from distill_assets.assets.rankings import write_of
from distill_assets.definitions import build_definitions
from distill_assets.retrieval.rankings import Ranking
from distill_assets_tests.conftest import make_project, write_beir


def read_ranked(
    folder: Path,
    models: tuple[Path, Path],
    hostile: Mapping[str, str],
    rankings: Mapping[str, Callable[[str], Ranking]],
    **changes: Any,
) -> Any:
    """The project of `folder/tiny` in `folder/data`: 24 documents and one called `hostile`; rankings of each system by query id."""
    write_beir(folder / "tiny", topics=("array", "matrix"))
    with (folder / "tiny" / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"_id": "hostile", **hostile}) + "\n")
    project = make_project(folder / "tiny", *models, folder / "data", **changes)
    instance, keys = dg.DagsterInstance.ephemeral(), [dg.AssetKey(name) for name in ("corpus", "queries", "qrels")]
    instance.add_dynamic_partitions("batches", ["tiny"])
    job = build_definitions(project).resolve_implicit_global_asset_job_def()
    job.execute_in_process(instance=instance, asset_selection=keys, partition_key="tiny")
    with project.collection.snapshot() as collection:
        test = [query.query_id for query in collection.queries(("test",))]
    assert len(test) == 4
    for system, rank in rankings.items():
        project.places.warehouse.write(write_of(system, {"test": {query_id: rank(query_id) for query_id in test}}, {}))
    return project
