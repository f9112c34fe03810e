"""The same deployment as a person sees it: a real browser over the real UI. The tests build on those of the daemon."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from benchmarks.deployment import CHROMIUM, FLAGS, Deployment

WAIT_MS = 90_000
GROUPS = {
    "collection": ("corpus", "queries", "qrels"),
    "negatives": ("hard_negatives",),
    "teacher": ("teacher_checkpoint", "teacher_scores"),
    "student": ("student_checkpoint",),
    "evaluation": ("eval_metrics", "leaderboard"),
    "release": ("champion",),
}
SENSORS = ("automation", "new_batches", "retraining_steps", "failure_alert", "champion_note", "lost_runs")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium (.ci/run installs it)")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """A page in headless Chromium with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=str(CHROMIUM),
            args=FLAGS.split(),
            viewport={"width": 1440, "height": 760},
        )
        context.set_default_timeout(WAIT_MS)
        yield context.new_page()
        context.close()


def take_picture(page: Any, name: str) -> None:
    """A PNG of 128 colours in the folder that SCREENSHOTS names; nothing where it names none."""
    folder = os.environ.get("SCREENSHOTS")
    if not folder:
        return
    page.wait_for_timeout(3000)  # animations
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(Path(folder) / f"{name}.png", optimize=True)


def test_the_lineage_shows_every_asset_in_its_group(deployment: Deployment, page: Any) -> None:
    """Definitions can load in Python and still show an empty or broken graph to the person who opens the UI."""
    page.goto(f"{deployment.url}/asset-groups")
    for group in GROUPS:
        page.get_by_text(group, exact=True).first.wait_for()
    page.wait_for_timeout(2000)  # the layout moves until it is done
    page.keyboard.press("Alt+e")  # expand all groups
    for group, assets in GROUPS.items():
        for asset in assets:
            page.get_by_text(asset, exact=True).first.wait_for()
            details = page.request.post(
                f"{deployment.url}/graphql",
                data={
                    "query": f'{{assetNodeOrError(assetKey: {{path: ["{asset}"]}}) {{... on AssetNode {{groupName}}}}}}'
                },
            ).json()
            assert details["data"]["assetNodeOrError"]["groupName"] == group
    take_picture(page, "lineage")


def test_a_batch_that_the_sensor_found_is_a_partition(deployment: Deployment, page: Any) -> None:
    """A partition that only the warehouse knows cannot be looked at, backfilled or materialised by anyone."""
    page.goto(f"{deployment.url}/assets/teacher_scores?view=partitions")
    for batch in ("first", "second", "third"):
        page.get_by_text(batch, exact=True).first.wait_for()
    page.get_by_text("broken", exact=True).first.wait_for(state="detached")
    take_picture(page, "partitions")


def test_a_chart_is_shown_with_a_batch(deployment: Deployment, page: Any) -> None:
    """A picture can be stored and still be a broken icon: too large, or of a form that the page refuses."""
    page.goto(f"{deployment.url}/assets/teacher_scores?view=partitions")
    page.get_by_text("first", exact=True).first.click()
    page.get_by_text("[Show Markdown]").first.click()
    chart = page.get_by_alt_text("teacher logits of positives and negatives")
    chart.wait_for()
    assert chart.evaluate("image => image.complete && image.naturalWidth") > 300
    take_picture(page, "score_histogram")


def test_sensors_and_schedule_are_listed_as_running(deployment: Deployment, page: Any) -> None:
    """All of Dagster's automation is off by default: a list of switches that are off looks much like one of switches on."""
    from playwright.sync_api import expect

    page.goto(f"{deployment.url}/automation")
    for name in (*SENSORS, "retraining"):
        page.get_by_text(name, exact=True).first.wait_for()
    switches = page.locator("label[class*=formatSwitch] input")
    expect(switches).to_have_count(len(SENSORS) + 1, timeout=WAIT_MS)
    for number in range(len(SENSORS) + 1):
        expect(switches.nth(number)).to_be_checked(timeout=WAIT_MS)
    take_picture(page, "automation")


def test_the_failed_check_gives_file_and_line(deployment: Deployment, page: Any) -> None:
    """A check that the UI calls "not evaluated" hides the broken batch, whatever the log says."""
    page.goto(f"{deployment.url}/assets/corpus?view=checks&checkDetail=batches_readable")
    page.get_by_text("Failed", exact=True).first.wait_for()
    page.get_by_text("corpus.jsonl, line 12").first.wait_for()
    take_picture(page, "check")


def test_one_batch_is_materialised_by_clicks(deployment: Deployment, page: Any) -> None:
    """What the guide tells a person to click must be there and start exactly one run."""
    page.goto(f"{deployment.url}/assets/teacher_scores")
    page.get_by_text("Materialize…").first.click()
    page.get_by_text("Select a partition or create one").click()
    page.get_by_placeholder("Filter partitions").fill("second")
    # `click` waits for the list; `all()` does not, and found nothing on a busy machine.
    page.locator("span").get_by_text("second", exact=True).filter(visible=True).last.click()
    page.get_by_text("Launch runs to materialize teacher_scores").click()  # closes the list
    page.get_by_role("button", name="Launch 1 run").click()
    page.get_by_text("Launched run").first.wait_for()

    def newest() -> Any:
        with deployment.instance() as instance:
            runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": "second"}), limit=1)
        return runs[0] if runs[0].is_finished and "dagster/from_ui" in runs[0].tags else None

    run = deployment.wait_for("the run that was clicked for", newest)
    assert run.is_success and run.asset_selection == {dg.AssetKey("teacher_scores")}
    page.goto(f"{deployment.url}/runs")
    page.get_by_text(run.run_id[:8]).first.wait_for()
    take_picture(page, "runs")
