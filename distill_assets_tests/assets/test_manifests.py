"""Which commit a run and a model come from, and that not knowing it fails nothing."""

import subprocess
from pathlib import Path

import dagster as dg
import pytest

import distill_assets.assets.manifests as manifests
from distill_assets.assets.manifests import GIT_COMMIT_TAG, commit_of, git_tags


def git(folder: Path, *arguments: str) -> str:
    """Run git with a user of its own and no configuration of this machine."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit and a tag."""
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one", encoding="utf-8")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "tag", "-a", "v1", "-m", "v1")
    commit_of.cache_clear()
    return tmp_path


def test_the_commit_and_whether_files_are_changed(checkout: Path) -> None:
    """A tag's name in place of the commit, or a changed checkout that looks clean, cannot be traced back."""
    commit = git(checkout, "rev-parse", "HEAD")
    assert commit_of(checkout) == commit
    commit_of.cache_clear()
    (checkout / "file").write_text("two", encoding="utf-8")
    assert commit_of(checkout) == f"{commit}-dirty"


def test_no_checkout_no_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package on a machine without git must run all the same."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    commit_of.cache_clear()
    assert commit_of(tmp_path) is None and commit_of(tmp_path / "not there") is None
    commit_of.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path) is None
    monkeypatch.setattr(manifests, "git_commit", lambda: None)
    assert git_tags() == {}


def test_runs_of_jobs_sensors_and_conditions_carry_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retraining that cannot be traced to its code cannot be repeated."""
    from distill_assets.definitions import build_definitions
    from distill_assets.handles.project import Project
    from distill_assets.orchestration.stages import stages_of

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(manifests, "git_commit", lambda: "abc")
    project = Project()
    definitions = build_definitions(project)
    for name in [*(stage.name for stage in stages_of(project)), "retraining"]:
        assert definitions.resolve_job_def(name).tags[GIT_COMMIT_TAG] == "abc", name
    sensor = definitions.get_sensor_def("automation")
    assert isinstance(sensor, dg.AutomationConditionSensorDefinition) and sensor.run_tags[GIT_COMMIT_TAG] == "abc"
