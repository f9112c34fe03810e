"""`--line NAME`: the commands over one line of a team's Dagster project."""

import json
import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest

from distill_assets.cli import commands, main
from distill_assets.component import find_line

SAMPLE = Path(__file__).parents[2] / "examples" / "team_project"


@pytest.fixture(autouse=True)
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sample project, as the working folder."""
    shutil.copytree(SAMPLE, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.syspath_prepend(tmp_path / "project" / "src")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr(commands, "_line", None)
    for name in [name for name in sys.modules if name.split(".")[0] == "team_project"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "project"


def answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, dict]:
    """Exit code and document of a command."""
    monkeypatch.setattr(sys, "argv", ["distill-assets", *words, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def test_settings_are_those_of_the_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, team: Path
) -> None:
    """A command that opened the line of the folder instead would answer for other data, without a word."""
    code, found = answer(capsys, monkeypatch, "--line", "invoicing", "settings", "--recipe", "kl")
    rows = {row["name"]: row for row in found["settings"]}
    assert code == 0
    assert rows["data_folder"]["value"] == str(team / "data" / "invoicing")
    assert (rows["student_max_length"]["value"], rows["student_max_length"]["source"]) == (48, "line")
    assert rows["skip_recipes"]["value"] == ["hard_labels", "margin_mse"], "a flag wins over the file"


def test_an_unknown_line_is_bad_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error must not run the demo."""
    code, found = answer(capsys, monkeypatch, "--line", "invoices", "why")
    assert code == 2
    assert "there are help_centre, invoicing" in found["error"]["message"]


def test_nothing_upstream_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the team's DAGSTER_HOME no materialisation is seen; "put a BEIR folder there" would be a wrong way."""
    code, found = answer(capsys, monkeypatch, "--line", "invoicing", "run", "--until", "corpus")
    assert code == 2
    assert "warehouse/invoicing_articles: no materialisation" in found["error"]["message"]
    assert "DAGSTER_HOME" in found["error"]["message"]


def test_a_line_reads_what_its_project_made(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    team: Path,
    tmp_path: Path,
    tiny_encoder: Path,
) -> None:
    """A step that a line alone has not, the inbox, meets code that was written for a line alone: `run` would end there."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    location = find_line("invoicing", team, {}).load_location
    assert location is not None
    with dg.DagsterInstance.get() as instance:
        keys = [dg.AssetKey(["warehouse", "invoicing_articles"])]
        job = location().resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, asset_selection=keys).success
    words = ("--line", "invoicing", "run", "--until", "corpus", "--student", str(tiny_encoder))
    code, found = answer(capsys, monkeypatch, *words)
    assert code == 0
    assert [(step["assets"], step["outcome"]) for step in found["steps"]] == [
        (["inbox"], "made"),
        (["corpus", "queries", "qrels"], "made"),
    ]
