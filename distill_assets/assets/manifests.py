"""What a checkpoint folder says of itself, and its row in the warehouse: the only way to find it again."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.checks import accepted
from distill_assets.assets.reporting import materialised
from distill_assets.provenance import git_commit
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


def code_state() -> dict[str, Any]:
    """What a manifest says of the code: package versions, and the git commit where the code is a checkout."""
    commit = git_commit()
    return {"packages": package_versions()} | ({"git_commit": commit} if commit else {})


def record_checkpoint(
    project: Project,
    *,
    kind: str,
    name: str,
    path: Path,
    checks: Sequence[dg.AssetCheckResult],
    metadata: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult:
    """Write the checkpoint's row; its data version is the content of the model, so equal weights move nothing downstream.

    `kind` is teacher or student; `name` is that of the row, `checks` are what was found on the model.
    """
    manifest = project.checkpoints.read_manifest(path)
    model_fingerprint = fingerprint_model(path)
    row = {
        "kind": [kind],
        "name": [name],
        "path": [str(path.resolve())],
        "model_fingerprint": [model_fingerprint],
        "manifest_json": [(path / "manifest.json").read_text(encoding="utf-8")],
    }
    project.warehouse.replace_slice(
        "checkpoints",
        pa.table(row),
        slice_key=name,
        input_fingerprint=accepted(manifest["input_fingerprint"], checks),
        data_version=model_fingerprint,
    )
    shown = {
        "path": dg.MetadataValue.path(str(path)),
        "model_fingerprint": model_fingerprint,
        "manifest": dg.MetadataValue.json(manifest),
    }
    return materialised(f"{kind}_checkpoint", model_fingerprint, 1, {**shown, **(metadata or {})}, checks)
