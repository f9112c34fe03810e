"""Alerts and retries: who hears of a failure, and which failures are tried again."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import dagster as dg
import pytest

from distill_assets.assets.line import retrying
from distill_assets.errors import SourceError, WarehouseBusyError
from distill_assets.orchestration.alerts import send_alert

LOG = logging.getLogger("test_alerts")


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any]]]:
    """A receiver on loopback and what it got."""
    received: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", received
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_webhook_gets_the_text(webhook: tuple[str, list[Any]]) -> None:
    """A body of another form is taken with status 200 by most receivers and shown by none."""
    send_alert(webhook[0], "mine [first] failed", LOG)
    assert webhook[1] == [{"text": "distill_assets: mine [first] failed"}]


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9/", "no url"])
def test_a_webhook_that_does_not_answer_fails_nothing(url: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """An alert that raises would fail the sensor, and every later alert with it."""
    send_alert(url, "champion moved", LOG)
    assert "champion moved" in caplog.text
    assert ("did not take the alert" in caplog.text) == (url is not None)


class Context:
    """What `retrying` reads of a Dagster context."""

    log = LOG
    retry_number = 1


def test_a_held_warehouse_is_tried_again_later() -> None:
    """Without a retry, two runs that meet at the warehouse cost one of them its hours of work."""
    with pytest.raises(dg.RetryRequested) as caught, retrying(Context()):
        raise WarehouseBusyError("held")
    assert (caught.value.max_retries, caught.value.seconds_to_wait) == (3, 10)


def test_bad_input_is_not_tried_again() -> None:
    """Three retries of a malformed line show the same message four times, a minute later."""
    with pytest.raises(dg.Failure, match="line 3") as caught, retrying(Context()):
        raise SourceError("corpus.jsonl, line 3")
    assert not caught.value.allow_retries
    with pytest.raises(ZeroDivisionError), retrying(Context()):
        raise ZeroDivisionError
