"""The page of `distill-assets judge`: one local server, one person. Every answer is in the warehouse before the page says "saved".

Texts are other people's words. They travel as JSON and the page sets them as text, so that HTML in a document is shown and never run.
Another site in the same browser cannot write: it does not know the token in the address, and the server answers to its own name
alone (a foreign name may point to this machine, too).
"""

import json
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from distill_assets.errors import DistillError, EvaluationError
from distill_assets.evaluation.judging import BAD_QUERY, Answer, Pool
from distill_assets.handles.judging import MAX_GRADE, Sheet, judged_by_people, read_answers, record_answer, tell_power
from distill_assets.handles.project import Project
from distill_assets.retrieval.words import words

_HOST = "127.0.0.1"
_LONGEST_BODY = 10_000  # bytes; an answer has about 200
_LONGEST_TEXT = 20_000  # characters of a document on the page
_MANY = 20  # documents; of fewer nobody can say which words are common
_GRADES = ("not relevant", "helps a little", "answers in part", "answers it")
_Segments = list[tuple[str, bool]]


class JudgingServer(ThreadingHTTPServer):
    """Serves the page of one person on 127.0.0.1. `serve_forever` answers until Ctrl-C.

    Raises:
        EvaluationError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, project: Project, sheet: Sheet, judge: str, port: int = 0) -> None:
        """Listen on a port; 0 takes one that is free."""
        self.project, self.sheet, self.judge = project, sheet, judge
        self.token = secrets.token_urlsafe(16)
        self.common_words = _common_words(sheet)
        try:
            super().__init__((_HOST, port), _Handler)
        except OSError as error:
            raise EvaluationError(
                f"cannot listen on port {port} of {_HOST}: {error.strerror}; give another --port, or 0 for a free one"
            ) from error

    @property
    def url(self) -> str:
        """Address of the page, with the token."""
        return f"http://{_HOST}:{self.server_port}/{self.token}/"

    def state(self) -> dict[str, Any]:
        """What the page shows: the first round that this person has not done, and what all answers can show."""
        answers = read_answers(self.project, self.sheet.split)
        # A query that somebody calls bad is left for nobody.
        own = {(a.query_id, a.doc_id): a.relevance for a in answers if a.judge == self.judge or not a.doc_id}
        number = current_round(self.sheet.pools, own)
        pools = [pool for pool in self.sheet.pools if pool.number_of_round == number]
        return {
            "round": number,
            "rounds": max(pool.number_of_round for pool in self.sheet.pools),
            "queries": [self._query(pool, own) for pool in others_last(pools, answers, self.judge)],
            "told": [*judged_by_people(self.project, self.sheet.split).sentences, tell_power(self.project, self.sheet)],
        }

    def _query(self, pool: Pool, own: Mapping[tuple[str, str], int]) -> dict[str, Any]:
        text = self.sheet.queries[pool.query_id]
        marked = {*words(text)} - self.common_words
        return {
            "query_id": pool.query_id,
            "text": text,
            "is_bad": (pool.query_id, "") in own,
            "documents": [
                {
                    "doc_id": doc_id,
                    "title": mark_words(self.sheet.documents[doc_id]["title"], marked),
                    "text": mark_words(_shortened(self.sheet.documents[doc_id]["text"]), marked),
                    "answer": own.get((pool.query_id, doc_id)),
                }
                for doc_id in pool.doc_ids
            ],
        }


class _Handler(BaseHTTPRequestHandler):
    server: JudgingServer

    def do_GET(self) -> None:
        """The page, and what it shows."""
        if not self._is_own(("", "state")):
            return
        if self.path.endswith("/state"):
            self._tell(HTTPStatus.OK, self.server.state())
            return
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        page = _render(self.server, nonce).encode("utf-8")
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", page, {"Content-Security-Policy": policy})

    def do_POST(self) -> None:
        """One answer. A form of another site cannot send JSON without being asked first, and it is not allowed to."""
        if not self._is_own(("answer",)):
            return
        length = self.headers.get("Content-Length", "")
        if (
            self.headers.get_content_type() != "application/json"
            or not length.isdecimal()
            or int(length) > _LONGEST_BODY
        ):
            self._tell(HTTPStatus.BAD_REQUEST, {"error": "expected a short JSON document"})
            return
        try:
            answer = json.loads(self.rfile.read(int(length)))
            record_answer(
                self.server.project,
                self.server.sheet,
                self.server.judge,
                *(answer[name] for name in ("query_id", "doc_id", "relevance")),
            )
        except (ValueError, KeyError, TypeError, EvaluationError) as error:
            self._tell(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except (
            DistillError
        ) as error:  # the warehouse is busy, or its disk is full: the page keeps the answer and tries again
            self._tell(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
        else:
            self._tell(HTTPStatus.OK, {"saved": True})

    def _is_own(self, names: Sequence[str]) -> bool:
        """Whether the request is of the page itself; else it has been refused."""
        port = self.server.server_port
        hosts = {f"{host}:{port}" for host in (_HOST, "localhost")}
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in hosts or (origin and origin not in {f"http://{host}" for host in hosts}):
            self._tell(HTTPStatus.FORBIDDEN, {"error": f"this server answers to http://{_HOST}:{port} alone"})
            return False
        found = re.fullmatch("/([^/]*)/([a-z]*)", self.path)
        if (
            not found
            or not secrets.compare_digest(found[1].encode(), self.server.token.encode())
            or found[2] not in names
        ):
            self._tell(
                HTTPStatus.NOT_FOUND, {"error": "no such page: use the address that distill-assets judge printed last"}
            )
            return False
        return True

    def _tell(self, status: HTTPStatus, document: Mapping[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(document).encode("utf-8"), {})

    def _send(self, status: HTTPStatus, kind: str, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        always = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
        for name, value in {**always, **headers, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for every key would hide the address, and the token is in it."""


def current_round(pools: Sequence[Pool], own: Mapping[tuple[str, str], int]) -> int:
    """The first round that a person has not done, or the last one; `own` are the person's answers by query_id and doc_id."""
    left = (p for p in pools if (p.query_id, "") not in own and any((p.query_id, d) not in own for d in p.doc_ids))
    return next((pool.number_of_round for pool in left), max((pool.number_of_round for pool in pools), default=1))


def others_last(pools: Sequence[Pool], answers: Sequence[Answer], judge: str) -> list[Pool]:
    """Queries of which somebody else has judged a document come last: two people share a round before they judge anything twice."""
    taken = {answer.query_id for answer in answers if answer.judge != judge}
    return sorted(pools, key=lambda pool: pool.query_id in taken)


def mark_words(text: str, marked: set[str]) -> _Segments:
    """A text in segments, each with whether it is a word of the query. Joined they are the text."""
    segments: _Segments = []
    for segment in re.findall(r"\w+|\W+", text):
        is_marked = not marked.isdisjoint(words(segment))
        if segments and segments[-1][1] is is_marked:
            segments[-1] = (segments[-1][0] + segment, is_marked)
        else:
            segments.append((segment, is_marked))
    return segments


def _common_words(sheet: Sheet) -> set[str]:
    """Words of more than half of the documents: marked, they would be everywhere, in any language."""
    if len(sheet.documents) < _MANY:
        return set()
    counts = Counter(word for d in sheet.documents.values() for word in {*words(f"{d['title']} {d['text']}")})
    return {word for word, count in counts.items() if count > len(sheet.documents) / 2}


def _shortened(text: str) -> str:
    hidden = len(text) - _LONGEST_TEXT
    return text if hidden <= 0 else f"{text[:_LONGEST_TEXT]} [{hidden:,} more characters are not shown]"


def _render(server: JudgingServer, nonce: str) -> str:
    environment = Environment(
        loader=PackageLoader("distill_assets.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("judge.html.j2").render(
        nonce=nonce,
        judge=server.judge,
        split=server.sheet.split,
        collection=server.project.collection.source.name,
        min_relevance=server.sheet.min_relevance,
        grades=list(enumerate(_GRADES)),
        bad_query=BAD_QUERY,
        max_grade=MAX_GRADE,
    )
