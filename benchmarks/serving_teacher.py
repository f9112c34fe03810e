"""What a teacher behind a server costs beside its forward passes: the same cheap score in-process and over loopback.

    python -m benchmarks.serving_teacher

The score is a count of shared words, so that what is timed is HTTP, JSON and bookkeeping. The server is a process of its own, of
Python's `http.server`, which is slower than a real one: the numbers are upper bounds. Prints one JSON document.
"""

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from distill_assets.models.remote import RemoteScorer, ServerPool

_NUM_QUERIES, _DOCUMENTS_EACH, _REPEATS = 256, 32, 5
Pair = tuple[str, str]


def shared_words(query: str, document: str) -> float:
    """The score: shared words, and a little more for a short document, so that few are equal."""
    return float(len(set(query.lower().split()) & set(document.lower().split()))) - len(document) / 1000


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        """What Text Embeddings Inference says of itself."""
        self._answer({"model_id": "shared-words", "model_type": {"reranker": {}}, "max_client_batch_size": 32})

    def do_POST(self) -> None:
        """Scores of one query's texts."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer([{"index": i, "score": shared_words(body["query"], text)} for i, text in enumerate(body["texts"])])

    def _answer(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _serve(ports: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    ports.put(server.server_address[1])
    server.serve_forever()


def _seconds(score: Callable[[Sequence[Pair]], np.ndarray], pairs: Sequence[Pair]) -> float:
    """Median time of a pass over the pairs, after one that warms up."""
    times = []
    for _ in range(_REPEATS + 1):
        started = time.perf_counter()
        score(pairs)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def measure(url: str) -> dict[str, Any]:
    """Microseconds of a pair, in-process and remote: documents of a query together, and every pair with another query."""
    filler = "the value of each row is kept and every other one is left out of what comes next " * 3
    documents = [f"text {number} {filler}" for number in range(_DOCUMENTS_EACH)]
    grouped = [(f"which text is number {i}", document) for i in range(_NUM_QUERIES) for document in documents]
    apart = [(f"which text is number {i}", documents[i % _DOCUMENTS_EACH]) for i in range(_NUM_QUERIES * 8)]
    pool = ServerPool([url])
    remote = RemoteScorer(pool, pool.served())
    found: dict[str, Any] = {"cores": os.cpu_count()}
    for name, pairs in (("32_of_a_query", grouped), ("1_of_a_query", apart)):
        here = _seconds(lambda pairs: np.array([shared_words(*pair) for pair in pairs]), pairs)
        there = _seconds(remote, pairs)
        found[name] = {
            "pairs": len(pairs),
            "in_process_us": 1e6 * here / len(pairs),
            "remote_us": 1e6 * there / len(pairs),
            "overhead_us": 1e6 * (there - here) / len(pairs),
        }
    return found


def main() -> None:
    """Serve, measure, print."""
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=_serve, args=(ports,), daemon=True)
    process.start()
    try:
        print(json.dumps(measure(f"http://127.0.0.1:{ports.get()}"), indent=2))
    finally:
        process.terminate()


if __name__ == "__main__":
    main()
