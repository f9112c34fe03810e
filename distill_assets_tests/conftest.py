"""A tiny collection and tiny local models in the formats of the hub; the network is off."""

import gc
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tiny import ACTIONS, TOPICS, make_project, save_tiny_cross_encoder, save_tiny_encoder, write_beir

__all__ = ["ACTIONS", "TOPICS", "make_project", "save_tiny_cross_encoder", "save_tiny_encoder", "write_beir"]

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first: the last one would otherwise keep one core busy while the others wait."""
    items.sort(key=lambda item: "test_incremental" not in item.nodeid)


@pytest.fixture(autouse=True)
def _no_outside_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine: a test that needs them would pass here and fail elsewhere."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)
    for name in [name for name in os.environ if name.startswith("DISTILL_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _only_what_is_looked_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes half of a tiny run and no test looks at but those marked `whole`.

    That is pictures, the return of memory after each step, and the seconds in which a plan measures this machine.
    `make test-deployment` and the wheel's run in `.ci/run` are whole. A connection of this process stays open during a step:
    opening a database takes DuckDB 2.0 about 27 ms, and a step opens it thirteen times.
    """
    if request.node.get_closest_marker("whole"):
        return
    from distill_assets.orchestration import estimate, running
    from distill_assets.report import charts

    materialise = running._materialise

    def kept_open(definitions: Any, project: Any, *rest: Any) -> tuple[str, ...]:
        with project.places.warehouse.connect():
            return materialise(definitions, project, *rest)

    monkeypatch.setattr(running, "_materialise", kept_open)
    monkeypatch.setattr(estimate, "_MEASURED_S", 0.05)
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
    monkeypatch.setattr(charts, "_to_png", lambda _: b"png")


@pytest.fixture
def beir_folder(tmp_path: Path) -> Path:
    """A fresh tiny BEIR folder: 120 documents, 120 queries."""
    return write_beir(tmp_path / "tiny")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers bi-encoder of 2 layers x 32, saved as the hub would have it."""
    return save_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny-encoder")


@pytest.fixture(scope="session")
def tiny_cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence-classification cross-encoder of 2 layers x 32 with one output, as plain transformers saves it."""
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("models") / "tiny-cross-encoder")


@pytest.fixture
def project(beir_folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> Any:
    """A project over the tiny collection, with tiny models and sizes that run in seconds."""
    return make_project(beir_folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data")
