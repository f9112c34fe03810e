"""A small inference server on loopback: both protocols, a score that can be worked out by hand, and ways to misbehave."""

import json
import math
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from distill_assets.models.canary import PAIRS
from distill_assets.records import hash_share
from distill_assets_tests.loopback import served

Pair = tuple[str, str]


def overlap(query: str, document: str) -> float:
    """A logit: twice the shared words that are longer than two letters, less 3, and up to 0.1 so that none are equal."""
    shared = {*words(query)} & {*words(document)}
    return 2.0 * len(shared) - 3 + 0.1 * hash_share(f"{query} {document}")


def words(text: str) -> list[str]:
    """Lower-case words of three letters and more."""
    return [word for word in text.lower().replace(".", " ").replace(",", " ").split() if len(word) > 2]


def sigmoid(logit: float) -> float:
    """What vLLM and Infinity answer."""
    return 1 / (1 + math.exp(-logit))


@dataclass
class Behaviour:
    """What the server says, and what it was asked; may be changed while it runs.

    Attributes:
        fault: the way in which it misbehaves; empty for none.
        faults_left: how often it still does; None for ever.
        after: requests to rerank that are answered well before.
        scale: multiplies every logit.
        pairs: those that got a score, without the canary's.
    """

    protocol: str = "tei"
    model_id: str = "org/reranker"
    owned_by: str = "vllm"
    is_sigmoid: bool = False
    max_batch: int = 32
    token: str | None = None
    fault: str = ""
    faults_left: int | None = None
    after: int = 0
    scale: float = 1.0
    pairs: list[Pair] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    num_canaries: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self) -> str:
        """The fault of this request."""
        with self.lock:
            if self.after:
                self.after -= 1
                return ""
            if self.faults_left is None:
                return self.fault
            self.faults_left -= 1
            return self.fault if self.faults_left >= 0 else ""

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """What it says of texts, and their pairs written down."""
        pairs = [(query, text) for text in texts]
        with self.lock:
            known = [pair in _CANARY for pair in pairs]
            self.num_canaries += sum(known)
            self.pairs += [pair for pair, is_canary in zip(pairs, known, strict=True) if not is_canary]
            self.sizes.append(len(texts))
        logits = [self.scale * overlap(*pair) for pair in pairs]
        return [sigmoid(logit) for logit in logits] if self.is_sigmoid else logits


_CANARY = frozenset(PAIRS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        """What is served."""
        told = self.behaviour
        if told.fault == "dead" and not told.after:
            self.close_connection = True
            return self.connection.close()
        info = {"model_id": told.model_id, "model_sha": "abc", "model_dtype": "float16", "max_input_length": 512}
        info |= {"max_client_batch_size": told.max_batch, "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}}}}
        model = {"id": told.model_id, "owned_by": told.owned_by, "max_model_len": 512}
        pages = {("tei", "/info"): info, ("cohere", "/v1/models"): {"data": [model]}}
        page = pages.get((told.protocol, self.path))
        return self._answer(404 if page is None else 200, page or {"error": "no such page"})

    def do_POST(self) -> None:
        """Scores of one query's texts, in order of score."""
        told, body = self.behaviour, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if told.token is not None and self.headers["Authorization"] != f"Bearer {told.token}":
            return self._answer(401, {"error": f"not {told.token}: {self.headers['Authorization']}"})
        texts, fault = body["texts" if told.protocol == "tei" else "documents"], told.next_fault()
        told.bodies.append(body)
        if fault == "dead":
            self.close_connection = True
            return self.connection.close()
        if fault == "slow":
            time.sleep(1.0)
        if fault.isdigit():
            return self._answer(int(fault), {"error": "told to fail"})
        if fault == "no json":
            return self._answer(200, "<html>maintenance</html>")
        return self._answer(200, self._results(fault, told.score(body["query"], texts)))

    def _results(self, fault: str, scores: list[float]) -> Any:
        if fault == "backwards":
            scores = [-score for score in scores]
        if fault == "NaN":
            scores[0] = math.nan
        name = "score" if self.behaviour.protocol == "tei" else "relevance_score"
        rows = [{"index": i, name: score} for i, score in enumerate(scores)]
        rows.sort(key=lambda row: -row[name])
        if fault == "fewer":
            rows.pop()
        if fault == "twice":
            rows[-1]["index"] = rows[0]["index"]
        if fault == "shape":
            return {"data": rows}
        model = "org/other" if fault == "other model" else self.behaviour.model_id
        return rows if self.behaviour.protocol == "tei" else {"model": model, "results": rows}

    def _answer(self, status: int, content: Any) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def serving(behaviour: Behaviour) -> AbstractContextManager[str]:
    """The address of a server that behaves so, until the block ends."""
    return served(_Handler, behaviour)
