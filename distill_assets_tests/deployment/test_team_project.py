"""The sample project as a person sees it: two lines behind the team's assets, in a real browser."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.deployment import CHROMIUM, Deployment, serving
from distill_assets.orchestration import INSTANCE_FILE
from distill_assets_tests.deployment.test_ui import page, take_picture

__all__ = ["page"]
SAMPLE = Path(__file__).parents[2] / "examples" / "team_project"
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium (.ci/run installs it)")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """`dagster dev` over a copy of the sample project."""
    folder = tmp_path_factory.mktemp("team")
    shutil.copytree(SAMPLE, folder / "project")
    home = folder / "home"
    home.mkdir()
    shutil.copyfile(INSTANCE_FILE, home / "dagster.yaml")
    command = [str(Path(sys.executable).with_name("dagster")), "dev", "-m", "team_project.definitions", "-p"]
    path = os.pathsep.join([str(folder / "project" / "src"), os.environ.get("PYTHONPATH", "")])
    with serving(command, home, cwd=folder / "project", environment={"PYTHONPATH": path}) as started:
        yield started


def test_the_lineage_leads_from_the_teams_assets_to_both_champions(team: Deployment, page: Any) -> None:
    """Keys that meet, or an edge that is missing, load without an error and show a line that hangs in the air."""
    page.goto(f"{team.url}/asset-groups")
    groups = ("warehouse", "help_centre_collection", "help_centre_release", "invoicing_collection", "invoicing_release")
    for group in groups:
        page.get_by_text(group, exact=True).first.wait_for()
    for line, source in (("help_centre", "articles"), ("invoicing", "invoicing_articles")):
        found = page.request.post(
            f"{team.url}/graphql",
            data={
                "query": f'{{assetNodeOrError(assetKey: {{path: ["{line}", "inbox"]}}) {{... on AssetNode '
                "{dependencyKeys {path} dependedByKeys {path}}}}"
            },
        ).json()["data"]["assetNodeOrError"]
        assert found["dependencyKeys"] == [{"path": ["warehouse", source]}]
        assert {"path": [line, "corpus"]} in found["dependedByKeys"]
    page.wait_for_timeout(2000)  # the layout moves until it is done
    take_picture(page, "team_project")
