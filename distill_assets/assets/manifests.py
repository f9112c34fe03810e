"""What a checkpoint folder says of itself, its row in the warehouse, and the commit that runs and models come from."""

import importlib.metadata
import re
import subprocess
import warnings
from collections.abc import Callable
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
# Two ways to write a remote: https://host/owner/name(.git) and git@host:owner/name(.git), for hosts with /blob/ pages.
_WEB_HOST = re.compile(
    r"(?:https://(?:[^@/]+@)?|(?:ssh://)?git@)(?P<host>[\w.-]*git[\w.-]*)[:/](?P<repository>[\w./-]+?)(?:\.git)?/?"
)


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
    teacher_tokens = f"{settings.teacher_max_length}{' (as set)' if is_set else ''}"
    if all(project.models.are_teachers_served):
        teacher_tokens = "as many as its server reads"
    if project.models.is_teacher_imported:
        teacher_tokens = "as many as were read where it was scored"
    epochs = settings.student_epochs
    return {
        "student_tokens": f"{'any number' if tokens is None else tokens}{why}",
        "student_prompts": str(project.models.prompts(project.models.student_path)),
        "teacher_tokens": teacher_tokens,
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
        "path": [project.places.kept(path)],
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
    # A tag's name would take the place of the commit; no tag matches an empty pattern.
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--match=")


@lru_cache(maxsize=8)
def web_page_of(folder: Path) -> tuple[str, str] | None:
    """Where the checkout that holds `folder` can be read in a browser: (address of its commit's files, its folder here).

    None where it was not cloned from a web host, or not at all.
    """
    remote, commit, root = (
        _git(folder, *command)
        for command in (("remote", "get-url", "origin"), ("rev-parse", "HEAD"), ("rev-parse", "--show-toplevel"))
    )
    found = _WEB_HOST.fullmatch(remote or "")
    if found is None or commit is None or root is None:
        return None
    return f"https://{found['host']}/{found['repository']}/blob/{commit}", root


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says of a folder; None where it says nothing."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def code_references(body: Callable[..., Any]) -> dict[str, Any]:
    """Metadata that links an asset to the line where its work is written: the file here, and its page where there is one."""
    code = body.__code__
    path, line = Path(code.co_filename).resolve(), code.co_firstlineno
    page = web_page_of(path.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=dg.BetaWarning)
        links: list[Any] = [dg.LocalFileCodeReference(file_path=str(path), line_number=line, label=body.__name__)]
        if page is not None and path.is_relative_to(page[1]):
            url = f"{page[0]}/{path.relative_to(page[1]).as_posix()}#L{line}"
            links.append(dg.UrlCodeReference(url=url, label=f"{body.__name__} in its repository"))
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=links)}
