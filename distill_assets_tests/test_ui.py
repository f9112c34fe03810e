"""The Dagster UI as a person sees it: a real browser over a real webserver, on loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.definitions import build_definitions
from distill_assets.running import run_line

CHROMIUM = Path("/usr/bin/chromium")
ASSETS = (
    "corpus",
    "queries",
    "qrels",
    "hard_negatives",
    "teacher_checkpoint",
    "teacher_scores",
    "student_checkpoint",
    "eval_metrics",
    "leaderboard",
    "champion",
)
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium (.ci/run installs it)")


@contextmanager
def webserver(home: Path, project: Any) -> Iterator[str]:
    """The Dagster webserver over an instance, ended by its own process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        f"DISTILL_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in project.overrides.items()
    }
    command = [str(Path(sys.executable).with_name("dagster-webserver")), "-m", "distill_assets.definitions"]
    with (home / "webserver.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            env={**os.environ, **settings, "DAGSTER_HOME": str(home)},
            cwd=home,
            start_new_session=True,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/server_info", process, home / "webserver.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=20)


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(180):
        assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the webserver did not answer: {log.read_text(encoding='utf-8')[-2000:]}")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """A page in headless Chromium with an empty profile."""
    from playwright.sync_api import sync_playwright

    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    )
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=str(CHROMIUM),
            args=flags.split(),
            viewport={"width": 1600, "height": 900},
        )
        yield context.new_page()
        context.close()


def test_lineage_shows_every_asset_and_what_was_materialised(project: Any, page: Any, tmp_path: Path) -> None:
    """Definitions can load in Python and still show an empty or broken graph to the person who opens the UI."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    shutil.copyfile(Path(__file__).parents[1] / "dagster.yaml", home / "dagster.yaml")
    with dg.DagsterInstance.from_ref(dg._core.instance.ref.InstanceRef.from_dir(str(home))) as instance:
        list(run_line(build_definitions(project), project, instance, until="hard_negatives"))
    pictures = os.environ.get("UI_SCREENSHOTS")  # a folder, to look at what the test saw
    with webserver(home, project) as url:
        page.goto(f"{url}/assets/champion?view=lineage&lineageScope=upstream&lineageDepth=10")
        for asset in ASSETS:
            page.get_by_text(asset, exact=True).first.wait_for(timeout=90_000)
        if pictures:
            page.wait_for_timeout(3000)
            page.screenshot(path=str(Path(pictures) / "lineage.png"))
        page.goto(f"{url}/assets/hard_negatives?view=partitions")
        page.get_by_text("tiny", exact=True).first.wait_for(timeout=90_000)
        page.get_by_text("Materialized (1)", exact=True).first.wait_for(timeout=90_000)
        if pictures:
            page.screenshot(path=str(Path(pictures) / "partitions.png"))
