"""A whole deployment to measure or test: the UI, the daemon and the code server, as `distill-assets ui` starts them, on loopback."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from benchmarks.tiny import write_beir

# Debian's browser over the UI, and how it is started.
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@dataclass(frozen=True)
class Deployment:
    """A running deployment.

    Attributes:
        url: of the UI.
        home: DAGSTER_HOME.
        process: `dagster dev`, the parent of all others.
        project: the same project, opened in this process.
        inbox: where batches land.
    """

    url: str
    home: Path
    process: psutil.Process
    project: Any = None
    inbox: Path = Path()

    def instance(self) -> dg.DagsterInstance:
        """The Dagster instance, opened in this process; close it by leaving its `with` block."""
        return dg.DagsterInstance.from_config(str(self.home))

    def wait_for(self, what: str, is_true: Callable[[], Any], *, timeout_s: float = 300) -> Any:
        """Ask until the answer is truthy; an assertion with the end of the log when it does not become so."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = is_true()
            if found:
                return found
            assert self.process.is_running(), self.log()
            time.sleep(0.25)
        raise AssertionError(f"waited {timeout_s:g} s for: {what}\n{self.log()}")

    def log(self) -> str:
        """The end of what the processes wrote."""
        return (self.home / "deployment.log").read_text(encoding="utf-8", errors="replace")[-4000:]


def as_environment(project: Any) -> dict[str, str]:
    """The project's overrides as DISTILL_* variables."""
    return {
        f"DISTILL_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in project.overrides.items()
    }


@contextmanager
def running(project: Any, home: Path, inbox: Path) -> Iterator[Deployment]:
    """`distill-assets ui` over a project, until the end of the block."""
    home.mkdir(parents=True, exist_ok=True)
    command, environment = [_beside_python("distill-assets"), "ui", "--port"], as_environment(project)
    with serving(command, home, cwd=home, environment=environment) as started:
        yield replace(started, project=project, inbox=inbox)


@contextmanager
def serving(command: list[str], home: Path, *, cwd: Path, environment: dict[str, str]) -> Iterator[Deployment]:
    """A command that serves the UI on the port behind it, until the end of the block."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("DISTILL_")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (home / "deployment.log").open("wb") as log:
        started = subprocess.Popen(
            [*command, str(port)],
            env={**outside, **environment, "DAGSTER_HOME": str(home)},
            cwd=cwd,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        deployment = Deployment(f"http://127.0.0.1:{port}", home, psutil.Process(started.pid))
        try:
            deployment.wait_for("the UI to answer", lambda: answers(f"{deployment.url}/server_info"))
            yield deployment
        finally:
            kill_all(deployment.process)
            started.wait(timeout=20)


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def kill_all(process: psutil.Process) -> None:
    """End a process and everything it started. `dagster dev` started in the background takes no softer signal."""
    family = [*process.children(recursive=True), process]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=20)


def answers(url: str) -> bool:
    """Whether something answers at `url`."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def land(deployment: Deployment, batch: str, topics: tuple[str, ...], *, cut_off: int = 0) -> float:
    """A BEIR folder of `topics` appears in the inbox at once, by a rename; returns the time at which it did.

    `cut_off` characters are missing at the end of its corpus.
    """
    hidden = deployment.inbox / f".{batch}"
    write_beir(hidden, topics=topics)
    corpus = hidden / "corpus.jsonl"
    text = corpus.read_text(encoding="utf-8")
    corpus.write_text(text[: len(text) - cut_off], encoding="utf-8")
    hidden.rename(deployment.inbox / batch)
    return time.time()


def land_judgements(deployment: Deployment, batch: str, rows: list[tuple[str, str, int]]) -> None:
    """A batch of train judgements (query, document, relevance) alone appears at once."""
    hidden = deployment.inbox / f".{batch}"
    (hidden / "qrels").mkdir(parents=True)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
    (hidden / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    hidden.rename(deployment.inbox / batch)


def graphql(deployment: Deployment, query: str, **variables: Any) -> dict[str, Any]:
    """The `data` of one GraphQL answer."""
    body = json.dumps({"query": query, "variables": variables}).encode("utf-8")
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{deployment.url}/graphql", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)
    assert "errors" not in found, found
    return dict(found["data"])


_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""


def launch_job(deployment: Deployment, job: str, batch: str) -> str:
    """Start a job for one batch, as its "Materialize" button does; returns the run's id."""
    selector = {
        "repositoryLocationName": "distill_assets.definitions",
        "repositoryName": "__repository__",
        "pipelineName": job,
    }
    tags = [{"key": "dagster/partition", "value": batch}]
    params = {
        "selector": selector,
        "mode": "default",
        "runConfigData": {},
        "executionMetadata": {"tags": tags},
    }
    answer = graphql(deployment, _LAUNCH, params=params)["launchPipelineExecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])
