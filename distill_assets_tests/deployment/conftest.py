"""One deployment for all tests of this folder: starting it takes half a minute."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.deployment import Deployment, running
from distill_assets_tests.conftest import make_project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a whole deployment: minutes, so `make test` leaves it out and `.ci/run` does not."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.deployment)


@pytest.fixture(scope="session")
def deployment(
    tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """An empty inbox, watched by a running deployment.

    Two pairs a commit make the teacher slow enough to be killed half way.
    """
    folder = tmp_path_factory.mktemp("deployment")
    inbox = folder / "inbox"
    inbox.mkdir()
    for name in [name for name in os.environ if name.startswith("DISTILL_")]:
        del os.environ[name]
    project = make_project(inbox, tiny_encoder, tiny_cross_encoder, folder / "data", inbox_settle_s=0, chunk_size=2)
    with running(project, folder / "dagster_home", inbox) as started:
        yield started
