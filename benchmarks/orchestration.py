"""What Dagster costs: from a folder landing to its scores, loading definitions, a whole run, and a hundred batches.

    python -m benchmarks.orchestration landing   a batch lands in the inbox of a running deployment
    python -m benchmarks.orchestration load      definitions, with and without torch, each in a new process
    python -m benchmarks.orchestration share     `distill-assets run --quick`, and how much of it is not ours
    python -m benchmarks.orchestration lines     1, 5 and 20 lines in one code location: loading, and one tick of every sensor
    python -m benchmarks.orchestration hundred   a hundred tiny batches: sensor, conditions, pages of the UI

`landing` and `hundred` use tiny models: what they measure is everything but the models. Numbers move with the load of
the machine; run them on an idle one. Each prints one JSON document.
"""

import functools
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NUM_BATCHES = 100


def measure_landing(folder: Path) -> dict[str, Any]:
    """Seconds from landing to scores of three batches; what is inside steps; what of that is importing torch.

    The first batch has its teacher made as well. Steps are timed by their start and end events, so that ticks, queues and
    process starts are what is left.
    """
    from benchmarks.deployment import land, running

    project = _tiny_project(folder)
    found: dict[str, Any] = {}
    (folder / "inbox").mkdir()
    with running(project, folder / "dagster_home", folder / "inbox") as deployment:
        time.sleep(15)  # the daemon's first ticks
        for batch, topics in (("first", ("array", "matrix")), ("second", ("graph",)), ("third", ("frame",))):
            landed = land(deployment, batch, topics)
            deployment.wait_for("scores", functools.partial(_is_scored, project, batch), timeout_s=300)
            seconds = time.time() - landed
            time.sleep(3)  # the last events
            with deployment.instance() as instance:
                records = [r for r in instance.get_run_records(limit=20) if r.create_timestamp.timestamp() > landed - 1]
                steps = {
                    f"{step.step_key}": round((step.end_time or 0.0) - (step.start_time or 0.0), 1)
                    for record in records
                    for step in instance.get_run_step_stats(record.dagster_run.run_id)
                }
            inside = sum(steps.values())
            found[batch] = {
                "seconds": round(seconds, 1),
                "in_steps": round(inside, 1),
                "not_in_steps": round(seconds - inside, 1),
                "num_runs": len(records),
                "steps": steps,
            }
    found["import_of_torch_and_models_s"] = _python("import torch, sentence_transformers")["seconds"]
    return found


def _is_scored(project: Any, batch: str) -> bool:
    return (
        project.places.warehouse.exists() and project.places.warehouse.slice_info("teacher_scores", batch) is not None
    )


def measure_load(_: Path) -> dict[str, Any]:
    """Seconds and MB of a new process that loads the definitions; median of three."""
    lines = {
        "dagster alone": "import dagster",
        "definitions": "import distill_assets.definitions",
        "definitions and torch": "import distill_assets.definitions, torch, sentence_transformers",
    }
    found = {}
    for name, line in lines.items():
        runs = sorted((_python(line) for _ in range(3)), key=lambda run: run["seconds"])
        found[name] = runs[1]
    return found


def _python(line: str) -> dict[str, float]:
    """Seconds of `line` in a new process, the interpreter's start included, and its resident memory after it."""
    code = f"{line}\nimport psutil\nprint(psutil.Process().memory_info().rss / 1e6)"
    started = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return {"seconds": round(time.perf_counter() - started, 2), "rss_mb": round(float(out.split()[-1]))}


def measure_share(folder: Path) -> dict[str, Any]:
    """Wall time of the line, of the assets' bodies in it, and of the staleness questions; the rest is Dagster's.

    A body is what the same work costs called straight from Python: it reads, calls core, and writes. Only the last part of the
    difference is Dagster: events, its instance in SQLite, building the job anew for each step.
    """
    import dagster as dg

    from distill_assets.assets.line import Asset
    from distill_assets.definitions import build_definitions
    from distill_assets.handles.project import Project
    from distill_assets.orchestration.running import run_line
    from distill_assets.orchestration.stages import is_stale
    from distill_assets.settings.values import QUICK

    clock = {"bodies": 0.0, "staleness": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                clock[name] += time.perf_counter() - started

        return wrapped

    Asset.make = timed("bodies", Asset.make)  # type: ignore[method-assign]
    project = Project(overrides={**QUICK, "data_folder": str(folder / "data")})
    home = folder / "dagster_home"
    home.mkdir()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        definitions = build_definitions(project)
        started = time.perf_counter()
        steps = list(run_line(definitions, project, instance, is_stale=timed("staleness", is_stale)))
        wall = time.perf_counter() - started
    dagster = wall - sum(clock.values())
    return {
        "wall_s": round(wall, 1),
        "bodies_s": round(clock["bodies"], 1),
        "staleness_s": round(clock["staleness"], 2),
        "dagster_s": round(dagster, 1),
        "dagster_share": round(dagster / wall, 4),
        "num_runs": sum(step.was_materialised for step in steps),
    }


def measure_hundred(folder: Path) -> dict[str, Any]:
    """A hundred batches that were read and mined: ticks with nothing to do, and pages of the UI in a browser.

    Batches are read by the assets' own bodies. What was mined and the events are recorded as runs would leave them, without runs.
    """
    import dagster as dg

    from benchmarks.tiny import write_beir
    from distill_assets.definitions import build_definitions
    from distill_assets.orchestration.automation import plan_ingestion
    from distill_assets.orchestration.stages import is_stale, is_stale_for_retraining, next_work

    names = [f"day-{i:03}" for i in range(NUM_BATCHES)]
    for i, name in enumerate(names):
        write_beir(folder / "inbox" / name, topics=(f"topic{i}",))
    project, home = _tiny_project(folder), folder / "dagster_home"
    home.mkdir()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        definitions = build_definitions(project)
        _record_batches(project, instance, names)
        time.sleep(1)
        sensor = definitions.get_sensor_def("new_batches")
        context = dg.build_sensor_context(instance=instance, definitions=definitions)
        found: dict[str, Any] = {"sensor_tick_s": _seconds(lambda: sensor(context))}
        found["sensor_plan_s"] = _seconds(lambda: plan_ingestion(project, names, {}, now=time.time()))
        first = dg.evaluate_automation_conditions(definitions, instance)
        found["automation_tick_s"] = _seconds(
            lambda: dg.evaluate_automation_conditions(definitions, instance, cursor=first.cursor)
        )
        found["what_a_retraining_has_to_do_s"] = _seconds(lambda: next_work(project, is_stale_for_retraining))
        found["what_a_run_has_to_do_s"] = _seconds(lambda: next_work(project, is_stale))
    return found | {"pages": _page_seconds(project, home)}


def measure_lines(folder: Path) -> dict[str, Any]:
    """Loading 1, 5 and 20 lines, each number in a new process; then a tick of every sensor of 20 lines of 20 batches each."""
    import dagster as dg

    from benchmarks.tiny import write_beir
    from distill_assets.definitions import build_definitions
    from distill_assets.handles.project import Project

    found: dict[str, Any] = {f"load {n} lines": _python(_LOAD.format(n=n, folder=folder)) for n in (1, 5, 20)}
    tiny, names = _tiny_project(folder), [f"day-{i:02}" for i in range(20)]
    lines = []
    for number in range(20):
        values = {**tiny.overrides, "data_folder": str(folder / f"line{number}"), "collection": "inbox"}
        lines.append(Project(overrides=values, name=f"line{number}"))
        for i, name in enumerate(names):
            write_beir(folder / f"line{number}" / "inbox" / name, topics=(f"topic{i}",))
    home = folder / "dagster_home"
    home.mkdir()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for line in lines:
            _record_batches(line, instance, names)
        time.sleep(1)
        definitions = dg.Definitions.merge(*(build_definitions(line) for line in lines))
        context = dg.build_sensor_context(instance=instance, definitions=definitions)
        for kind in ("new_batches", "retraining_steps", "lost_runs"):
            sensors = [definitions.get_sensor_def(line.named(kind)) for line in lines]
            for tick in ("first tick", "second tick"):
                found[f"{kind} of 20 lines, {tick}"] = _seconds(functools.partial(_tick, sensors, context))
        first = dg.evaluate_automation_conditions(definitions, instance)
        found["automation of 20 lines"] = _seconds(
            lambda: dg.evaluate_automation_conditions(definitions, instance, cursor=first.cursor)
        )
    return found


def _tick(sensors: list[Any], context: Any) -> None:
    for sensor in sensors:
        sensor(context)


_LOAD = """
import dagster as dg, sys
from distill_assets.definitions import build_definitions
from distill_assets.handles.project import Project
lines = [Project(name=f"line{{i}}", overrides={{"collection": "inbox", "data_folder": f"{folder}/load{{i}}"}}) for i in range({n})]
dg.Definitions.merge(*(build_definitions(line) for line in lines)).get_repository_def()
assert "torch" not in sys.modules
"""


def _record_batches(project: Any, instance: Any, names: list[str]) -> None:
    import dagster as dg

    from distill_assets.assets import ASSETS
    from distill_assets.assets.reads import Moment
    from distill_assets.storage.warehouse import SliceWrite

    instance.add_dynamic_partitions(str(project.batch_partitions.name), names)
    for name in names:
        for asset in ("corpus", "queries", "qrels"):
            ASSETS[asset].make(project, name, logging.getLogger(__name__))
    warehouse, state, mine = project.places.warehouse, project.collection.state(), ASSETS["hard_negatives"]
    nothing = warehouse.read("hard_negatives").drop_columns(["batch"])
    slices = [
        SliceWrite(
            table="hard_negatives",
            rows=nothing,
            slice_key=name,
            inputs=mine.versions(mine.reads.versions(Moment(project, state, name))),
            data_version=name,
            is_empty_meant=True,
        )
        for name in names
    ]
    warehouse.write(*slices)
    for name in names:
        for asset in ("corpus", "queries", "qrels", "hard_negatives", "teacher_scores"):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(project.key(asset), partition=name, metadata={"dagster/row_count": 12})
            )


def _page_seconds(project: Any, home: Path) -> dict[str, float]:
    """Seconds until a page shows its last part, in a browser with an empty cache; the webserver alone, without the daemon."""
    from playwright.sync_api import sync_playwright

    from benchmarks.deployment import CHROMIUM, FLAGS

    pages = {
        "lineage": ("/assets/champion?view=lineage&lineageScope=upstream&lineageDepth=10", "corpus"),
        "partitions of an asset": ("/assets/teacher_scores?view=partitions", f"day-{NUM_BATCHES - 1:03}"),
        "asset": ("/assets/hard_negatives", "Latest materialization"),
    }
    found = {}
    with _webserver(project, home) as url, sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=str(CHROMIUM), args=FLAGS.split(), viewport={"width": 1440, "height": 4200}
        )
        for name, (path, last) in pages.items():
            page, started = browser.new_page(), time.perf_counter()
            page.goto(f"{url}{path}")
            page.get_by_text(last, exact=True).first.wait_for(timeout=120_000)
            found[name] = round(time.perf_counter() - started, 1)
            page.close()
        browser.close()
    return found


@contextmanager
def _webserver(project: Any, home: Path) -> Iterator[str]:
    import os

    import psutil

    from benchmarks.deployment import answers, as_environment, kill_all

    command = [
        str(Path(sys.executable).with_name("dagster-webserver")),
        "-m",
        "distill_assets.definitions",
        "-p",
        "3977",
    ]
    environment = {**os.environ, **as_environment(project), "DAGSTER_HOME": str(home)}
    process = subprocess.Popen(command, env=environment, cwd=home, start_new_session=True)
    try:
        while not answers("http://127.0.0.1:3977/server_info"):
            time.sleep(0.5)
        yield "http://127.0.0.1:3977"
    finally:
        kill_all(psutil.Process(process.pid))


def _tiny_project(folder: Path) -> Any:
    """Tiny models over an inbox."""
    from benchmarks.tiny import make_project, save_tiny_cross_encoder, save_tiny_encoder

    student, teacher = save_tiny_encoder(folder / "encoder"), save_tiny_cross_encoder(folder / "cross-encoder")
    return make_project(folder / "inbox", student, teacher, folder / "data", inbox_settle_s=0)


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 2)


MEASUREMENTS = {
    "landing": measure_landing,
    "load": measure_load,
    "share": measure_share,
    "lines": measure_lines,
    "hundred": measure_hundred,
}


def main() -> None:
    """Run the measurement that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1] not in MEASUREMENTS:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(MEASUREMENTS[sys.argv[1]](Path(folder)), indent=2))


if __name__ == "__main__":
    main()
