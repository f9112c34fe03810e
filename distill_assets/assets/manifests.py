"""What a checkpoint folder says of itself, and its row in the warehouse: the only way to find it again."""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.reporting import materialised
from distill_assets.resources import Project
from distill_assets.storage.models import fingerprint_model

_PACKAGES = (
    "distill_assets",
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "dagster",
    "duckdb",
    "bm25s",
)


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape a model's numbers."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def record_checkpoint(
    project: Project,
    *,
    kind: str,
    name: str,
    path: Path,
    input_fingerprint: str,
    metadata: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult:
    """Write the checkpoint's row; its data version is the content of the model, so equal weights move nothing downstream."""
    manifest = (path / "manifest.json").read_text(encoding="utf-8")
    model_fingerprint = fingerprint_model(path)
    row = {
        "kind": [kind],
        "name": [name],
        "path": [str(path.resolve())],
        "model_fingerprint": [model_fingerprint],
        "manifest_json": [manifest],
    }
    project.warehouse.replace_slice(
        "checkpoints",
        pa.table(row),
        slice_key=name,
        input_fingerprint=input_fingerprint,
        data_version=model_fingerprint,
    )
    shown = {
        "path": dg.MetadataValue.path(str(path)),
        "model_fingerprint": model_fingerprint,
        "manifest": dg.MetadataValue.json(project.checkpoints.read_manifest(path)),
    }
    return materialised(model_fingerprint, 1, {**shown, **(metadata or {})})
