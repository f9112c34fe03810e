"""A small chat server on loopback: answers that can be worked out by hand, and ways to misbehave."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from distill_assets_tests.loopback import served


def about(passage: str) -> str:
    """Two queries about a passage, one a line, as a model numbers them."""
    return (
        f'Here are two queries:\n1. what is {passage.split()[0].lower()}?\n2. "{" ".join(passage.split()[:3]).lower()}"'
    )


@dataclass
class Behaviour:
    """What the server says, and what it was asked; may be changed while it runs.

    Attributes:
        say: the answer to a passage.
        models: what it lists; None: it has no such page.
        statuses: of the next answers, 200 behind the last; 0 closes the connection.
    """

    say: Callable[[str], str] = about
    models: list[str] | None = field(default_factory=lambda: ["tiny-chat"])
    answering: str = "tiny-chat"
    finish: str = "stop"
    statuses: list[int] = field(default_factory=list)
    dead: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str | None] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        """What is served."""
        models = self.behaviour.models
        if models is None or self.path != "/v1/models":
            return self._answer(404, {})
        return self._answer(200, {"data": [{"id": name} for name in models]})

    def do_POST(self) -> None:
        """Queries."""
        told, body = self.behaviour, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told.headers.append(self.headers["Authorization"])
        status = told.statuses.pop(0) if told.statuses else 200
        if told.dead or status == 0:
            self.close_connection = True
            return self.connection.close()
        if status != 200 or self.path != "/v1/chat/completions":
            return self._answer(status if status != 200 else 404, {"error": "told to fail"})
        told.bodies.append(body)
        passage = body["messages"][0]["content"].partition("Passage: ")[2]
        message = {"role": "assistant", "content": told.say(passage)}
        return self._answer(
            200, {"model": told.answering, "choices": [{"message": message, "finish_reason": told.finish}]}
        )

    def _answer(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def chatting(behaviour: Behaviour) -> AbstractContextManager[str]:
    """The address of a server that behaves so, until the block ends."""
    return served(_Handler, behaviour)
