"""The judging page as a person uses it: a real browser, the keyboard, and a server that is killed."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.deployment import CHROMIUM, as_environment
from distill_assets_tests.deployment.test_ui import page, take_picture
from distill_assets_tests.serving.judged import read_ranked

__all__ = ["page"]

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium (.ci/run installs it)")
HOSTILE = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"


@pytest.fixture
def project(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> Any:
    """A collection that was read, with rankings of two systems for its four test queries. One document is hostile."""
    hostile = {"title": HOSTILE, "text": f"{HOSTILE} how to sort a matrix"}
    found = {
        "bm25": [("array-sum", 1.0), ("hostile", 0.5)],
        "untouched_student": [("hostile", 1.0), ("matrix-sort", 0.5)],
    }
    rankings = {system: lambda _, ranking=ranking: ranking for system, ranking in found.items()}
    return read_ranked(tmp_path, (tiny_encoder, tiny_cross_encoder), hostile, rankings)


@contextmanager
def judging(project: Any, folder: Path) -> Iterator[str]:
    """`distill-assets judge` until the end of the block, which kills it; gives the address that it prints."""
    command = [str(Path(sys.executable).with_name("distill-assets")), "judge", "--name", "ann"]
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **as_environment(project)}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/\S+/", process.stdout.readline())
        assert found is not None
        yield found[0]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=20)


def rows(project: Any) -> list[tuple[str, int | None]]:
    """What was written, oldest first: document and grade."""
    found = project.places.warehouse.read("page_judgements").to_pylist()
    return [(row["doc_id"], row["relevance"]) for row in sorted(found, key=lambda row: row["judged_at"])]


def test_a_person_judges_by_keyboard_and_goes_on_after_a_kill(project: Any, page: Any, tmp_path: Path) -> None:
    """A page can show what it did not save, run a document's script, or begin anew the next day; no test of the server sees it."""
    with judging(project, tmp_path) as url:
        page.goto(url)
        page.get_by_text("round 1 of 1: 0 of 12 pairs, 0 of 4 queries").wait_for()
        for key in "320":
            page.keyboard.press(key)
        page.get_by_text("3 of 12 pairs, 1 of 4 queries").wait_for()
        page.get_by_text("saved", exact=True).wait_for()
        assert [grade for _, grade in rows(project)] == [3, 2, 0]
        page.keyboard.press(" ")  # skipped: nothing is written
        page.keyboard.press("1")
        page.keyboard.press("u")
        page.get_by_text("3 of 12 pairs, 1 of 4 queries").wait_for()
        page.get_by_text("saved", exact=True).wait_for()
        assert [grade for _, grade in rows(project)] == [3, 2, 0, 1, None]
        shown = set()
        for _ in range(3):
            shown.add(page.locator("#text").inner_text())
            page.keyboard.press(" ")
        assert any("<script>" in text for text in shown)
        assert page.title().endswith(": judging") and page.locator("#text script, #text img").count() == 0
        take_picture(page, "judge")
    page.keyboard.press("u")  # the server is gone: what it did not write must not look saved
    page.keyboard.press("u")
    page.keyboard.press("3")
    page.get_by_text("not saved: the server does not answer").wait_for()
    page.goto("about:blank")
    with judging(project, tmp_path) as url:
        page.goto(url)
        page.get_by_text("3 of 12 pairs, 1 of 4 queries").wait_for()
        page.keyboard.press("b")
        page.get_by_text("3 of 9 pairs, 1 of 3 queries").wait_for()
        page.get_by_text("saved", exact=True).wait_for()
        page.get_by_text("ann 3 (").wait_for()
        for _ in range(6):
            page.keyboard.press("1")
        page.get_by_text("Round 1 is done").wait_for()
        page.get_by_text("saved", exact=True).wait_for()
    assert [grade for _, grade in rows(project)][5:] == [-1, 1, 1, 1, 1, 1, 1]
