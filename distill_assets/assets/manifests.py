"""What a checkpoint folder says of itself, its row in the warehouse, and the commit that runs and models come from."""

import importlib.metadata
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.handles.project import Project
from distill_assets.models.catalog import fingerprint_model
from distill_assets.records import SPLITS

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
GIT_COMMIT_TAG = "distill_assets/git_commit"
_TIMEOUT_S = 5


def package_versions() -> dict[str, str]:
    """Versions of the packages that shape a model's numbers."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def code_state() -> dict[str, Any]:
    """What a manifest says of the code: package versions, and the git commit where the code is a checkout."""
    commit = git_commit()
    return {"packages": package_versions()} | ({"git_commit": commit} if commit else {})


def chosen_sizes(project: Project) -> dict[str, str]:
    """How much is read and used, and why so much: what `run` says first and every manifest keeps."""
    settings, tokens = project.settings, project.models.student_tokens

    def queries(split: str) -> str:
        limit = getattr(settings, f"{split}_queries")
        return "all" if limit is None else f"at most {limit:,} (as set)"

    why = " (as set)" if settings.student_max_length else " (all that the model can)"
    is_set = "teacher_max_length" in settings.model_fields_set
    epochs = settings.student_epochs
    return {
        "student_tokens": f"{'any number' if tokens is None else tokens}{why}",
        "teacher_tokens": f"{settings.teacher_max_length}{' (as set)' if is_set else ''}",
        **{f"{split}_queries": queries(split) for split in SPLITS},
        "passes": "as each recipe says" if epochs is None else f"{epochs} (as set)",
    }


def checkpoint_row(project: Project, kind: str, name: str, path: Path) -> tuple[pa.Table, str, dict[str, Any]]:
    """The row of a checkpoint (`kind` is teacher or student), the fingerprint of its model, and what the UI shows of it.

    The fingerprint is the data version: equal weights move nothing downstream.
    """
    manifest = project.places.checkpoints.read_manifest(path)
    model_fingerprint = fingerprint_model(path)
    row = {
        "kind": [kind],
        "name": [name],
        "path": [str(path.resolve())],
        "model_fingerprint": [model_fingerprint],
        "manifest_json": [(path / "manifest.json").read_text(encoding="utf-8")],
    }
    shown = {
        "path": dg.MetadataValue.path(str(path)),
        "model_fingerprint": model_fingerprint,
        "manifest": dg.MetadataValue.json(manifest),
    }
    return pa.table(row), model_fingerprint, shown


def git_tags() -> dict[str, str]:
    """The run tag that names the commit; empty outside a git checkout."""
    commit = git_commit()
    return {GIT_COMMIT_TAG: commit} if commit else {}


def git_commit() -> str | None:
    """Commit of the checkout that this process runs from, `-dirty` behind it where files are changed; None outside of one.

    The checkout of the package; where the package is installed and not checked out, that of the working folder.
    """
    package = Path(__file__).parents[1]
    return commit_of(Path.cwd() if "site-packages" in package.parts else package)


@lru_cache(maxsize=8)
def commit_of(folder: Path) -> str | None:
    """Commit of the checkout that holds `folder`, read once per process: it is the code that was loaded, not today's files.

    Never fails: without git, without a checkout or without a commit the answer is None.
    """
    command = ["git", "--no-optional-locks", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        # A tag's name would take the place of the commit; no tag matches an empty pattern.
        done = subprocess.run([*command, "--match="], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
