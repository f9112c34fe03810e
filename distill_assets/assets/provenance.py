"""Which state of the code a run and a model come from."""

import subprocess
from functools import lru_cache
from pathlib import Path

GIT_COMMIT_TAG = "distill_assets/git_commit"
_TIMEOUT_S = 5


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
