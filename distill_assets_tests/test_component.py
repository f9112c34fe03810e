"""The component: what it says becomes a line, and what is wrong is named with its line in the file."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets import DistillationLine
from distill_assets.component import find_line
from distill_assets.errors import SettingsError

PYPROJECT = '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "team"\n'


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Dagster project in the layout of `create-dagster project`."""
    (tmp_path / "src" / "team" / "defs").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    for package in ("team", "team/defs"):
        (tmp_path / "src" / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "src")
    for name in [name for name in sys.modules if name.split(".")[0] == "team"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def write_line(team: Path, folder: str, attributes: str) -> Path:
    """A line's file."""
    path = team / "src" / "team" / "defs" / folder / "defs.yaml"
    path.parent.mkdir()
    path.write_text(f"type: distill_assets.DistillationLine\nattributes:\n{attributes}")
    return path


def load(team: Path) -> dg.Definitions:
    """All definitions of the project."""
    return dg.ComponentTree.for_project(team).build_defs()


def test_what_it_says_becomes_a_line(team: Path) -> None:
    """An attribute that is read and not used trains on something else than the file says."""
    (team / "models").mkdir()
    write_line(
        team,
        "support",
        "  name: support\n  collection: beir:articles\n  teacher: models\n  student: org/student\n  recipes: [kl]\n"
        "  schedule: 0 5 * * *\n  owners: ['team:docs']\n  tags: {domain: help}\n  settings: {pool_depth: 7}\n",
    )
    project = find_line("support", team, {"test_queries": 3})
    settings = project.settings
    assert settings.collection == f"beir:{team / 'articles'}", "from the project's folder, wherever the process is"
    assert (settings.teacher, settings.student) == (str(team / "models"), "org/student")
    assert settings.data_folder == team / "data" / "support"
    assert (list(settings.all_recipes), settings.pool_depth, settings.test_queries) == (["kl"], 7, 3)
    assert project.load_location is not None
    repository = project.load_location().get_repository_def()
    assert repository.get_schedule_def("support_retraining").cron_schedule == "0 5 * * *"
    node = repository.asset_graph.get(dg.AssetKey(["support", "champion"]))
    assert node.owners == ["team:docs"]
    assert {"distill/line": "support", "domain": "help"}.items() <= node.tags.items()


def test_the_scaffolded_file_loads(team: Path) -> None:
    """The first file that a user sees must not be an error, whatever the comments say."""
    dg_command = Path(sys.executable).with_name("dg")
    command = [str(dg_command), "scaffold", "defs", "distill_assets.DistillationLine", "support_articles"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(team / "src"), "HOME": str(team)}
    subprocess.run(command, cwd=team, env=environment, check=True, capture_output=True)
    keys = load(team).resolve_asset_graph().get_all_asset_keys()
    assert dg.AssetKey(["support_articles", "champion"]) in keys
    path = team / "src" / "team" / "defs" / "support_articles" / "defs.yaml"
    text = path.read_text().replace("  # collection:", "  collection:").replace("  # schedule:", "  schedule:")
    path.write_text(text)
    assert find_line("support_articles", team, {}).settings.collection == f"beir:{team / 'collections/articles'}"


MISTAKES: list[tuple[str, str, str]] = [
    ("misspelt attribute", "  name: support\n  teachr: x\n", r"teachr(?s:.*)defs.yaml:4"),
    ("misspelt setting", "  name: support\n  settings: {pool_dept: 3}\n", r"did you mean pool_depth"),
    ("bad value", "  name: support\n  settings: {pool_depth: 0}\n", r"pool_depth = 0"),
    ("bad name", "  name: support-articles\n", r"'support-articles' cannot name a line"),
    ("unknown recipe", "  name: support\n  recipes: [kll]\n", r"no recipe kll"),
    ("twice", "  name: support\n  teacher: a\n  settings: {teacher: b}\n", r"settings name teacher"),
    ("no part", "  name: support\n  upstream: {}\n", r"upstream names no asset"),
    ("two collections", "  name: support\n  collection: beir:x\n  upstream: {documents: {asset: a}}\n", r"remove one"),
    (
        "column",
        "  name: support\n  upstream: {documents: {asset: a, columns: {id: x}}}\n",
        r"upstream.documents.columns names id",
    ),
    (
        "whole batch",
        "  name: support\n  upstream: {documents: {asset: a}, pairs: {asset: b}}\n",
        r"upstream\.pairs brings a whole batch",
    ),
]


@pytest.mark.parametrize(("attributes", "message"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_named_with_its_file(attributes: str, message: str, team: Path) -> None:
    """A traceback of Dagster without file and line sends a user through all files of the project."""
    write_line(team, "support", attributes)
    told = told_of(team)
    assert re.search(message, told), told
    assert "defs.yaml" in told


def told_of(team: Path) -> str:
    """All that the error says when the project loads."""
    with pytest.raises(Exception) as caught:
        load(team)
    return "".join(str(error) for error in _causes(caught.value))


def _causes(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *_causes(error.__cause__)]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("  name: support\n", "two lines are called 'support'"),
        ("  name: other\n  data_folder: data/support\n", "share the data folder"),
    ],
    ids=["name", "folder"],
)
def test_two_lines_keep_apart(second: str, message: str, team: Path) -> None:
    """Two lines in one folder would take each other's champion for their own."""
    write_line(team, "first", "  name: support\n")
    write_line(team, "second", second)
    assert message in told_of(team)


def test_a_line_that_is_not_there_is_named(team: Path, tmp_path: Path) -> None:
    """`--line suport` must say which lines there are, and outside of a project where lines are looked for."""
    write_line(team, "support", "  name: support\n")
    with pytest.raises(SettingsError, match="no line 'suport'.*there are support"):
        find_line("suport", team, {})
    with pytest.raises(SettingsError, match="looks for a Dagster project"):
        find_line("support", Path("/"), {})


def test_importing_the_package_imports_no_dagster() -> None:
    """`import distill_assets` in a notebook or `--help` would take seconds for a component that nobody asked for."""
    code = "import sys, distill_assets; assert 'dagster' not in sys.modules; assert 'DistillationLine' in dir(distill_assets)"
    subprocess.run([sys.executable, "-c", code], check=True)
    component: Any = DistillationLine
    assert component.__name__ == "DistillationLine"
