"""The judging page's server: what it shows, what it writes, and whom it refuses."""

import http.client
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from distill_assets.errors import EvaluationError
from distill_assets.evaluation.judging import Answer, Pool
from distill_assets.handles.judging import count_left, judged_by_people, open_sheet, read_answers, tell_power
from distill_assets.retrieval.rankings import Ranking
from distill_assets.serving.judging import JudgingServer, current_round, mark_words, others_last
from distill_assets_tests.conftest import make_project
from distill_assets_tests.serving.judged import read_ranked

HOSTILE = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\"> sum of a matrix"


@pytest.fixture(scope="module")
def read_collection(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection that was read, `tiny`, and the data folder; four test queries are ranked by two systems.

    Query 0 finds the same two documents in another order; the hostile document comes first in one system for query 1.
    """
    folder = tmp_path_factory.mktemp("judging")
    hostile = {"title": "</script>", "text": HOSTILE}
    rankings: dict[str, Callable[[str], Ranking]] = {
        "bm25": lambda query_id: [(query_id.removeprefix("q-"), 2.0), ("hostile", 1.0)],
        "untouched_student": lambda query_id: [("hostile", 2.0), (query_id.removeprefix("q-"), 1.0)],
    }
    read_ranked(folder, (tiny_encoder, tiny_cross_encoder), hostile, rankings)
    return folder


@pytest.fixture
def project(read_collection: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> Any:
    """The collection as it was read, in a data folder of the test's own."""
    shutil.copytree(read_collection / "data", tmp_path / "data")
    return make_project(read_collection / "tiny", tiny_encoder, tiny_cross_encoder, tmp_path / "data")


class Client:
    """What a browser sends."""

    def __init__(self, server: JudgingServer) -> None:
        """Talk to this server."""
        self.server = server

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers and body of a reply; `path` is in the page's folder unless it begins with a slash."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=60)
        address = path if path.startswith("/") else f"/{self.server.token}/{path}"
        sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, address, None if body is None else json.dumps(body), sent)
        reply = connection.getresponse()
        text = reply.read().decode("utf-8")
        connection.close()
        is_json = reply.headers.get_content_type() == "application/json"
        return reply.status, reply.headers, json.loads(text) if is_json else text

    def answer(self, query_id: str, doc_id: str, relevance: int | None, **headers: str) -> int:
        """Status of the reply to one answer."""
        return self.ask("POST", "answer", {"query_id": query_id, "doc_id": doc_id, "relevance": relevance}, **headers)[
            0
        ]


@pytest.fixture
def client(project: Any) -> Iterator[Client]:
    """Ann's page, served."""
    with Serving(project) as found:
        yield found


class Serving:
    """A served page, until the end of the block."""

    def __init__(self, project: Any, judge: str = "ann") -> None:
        """The page of this person."""
        self.server = JudgingServer(project, open_sheet(project, "test"), judge)

    def __enter__(self) -> Client:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return Client(self.server)

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def rows(project: Any) -> list[dict[str, Any]]:
    """What was written, oldest first."""
    return sorted(project.places.warehouse.read("page_judgements").to_pylist(), key=lambda row: row["judged_at"])


def test_an_answer_is_in_the_warehouse_and_a_second_start_shows_what_is_left(project: Any, client: Client) -> None:
    """A killed server, or a closed page, would cost an afternoon."""
    first, second = client.ask("GET", "state")[2]["queries"][:2]
    doc_ids = [document["doc_id"] for document in first["documents"]]
    assert client.answer(first["query_id"], doc_ids[0], 3) == 200
    assert client.answer(first["query_id"], doc_ids[1], 0) == 200
    assert client.answer(second["query_id"], "hostile", 1) == 200
    assert client.answer(second["query_id"], "hostile", None) == 200
    assert [(r["query_id"], r["doc_id"], r["relevance"], r["judge"]) for r in rows(project)] == [
        (first["query_id"], doc_ids[0], 3, "ann"),
        (first["query_id"], doc_ids[1], 0, "ann"),
        (second["query_id"], "hostile", 1, "ann"),
        (second["query_id"], "hostile", None, "ann"),
    ]
    with Serving(project) as again:
        state = again.ask("GET", "state")[2]
    answers = {(q["query_id"], d["doc_id"]): d["answer"] for q in state["queries"] for d in q["documents"]}
    assert sorted(a for a in answers.values() if a is not None) == [0, 3] and len(answers) == 8
    assert count_left(open_sheet(project, "test"), read_answers(project, "test"), "ann") == (6, 3)
    assert count_left(open_sheet(project, "test"), read_answers(project, "test"), "ben") == (8, 4)
    with project.collection.snapshot() as collection:
        assert collection.judgements(("test",))[first["query_id"]] == {doc_ids[0]: 3}


def test_html_in_a_document_travels_as_data(client: Client) -> None:
    """A document that is run as a page of this server could write judgements."""
    status, headers, state = client.ask("GET", "state")
    assert (status, headers["Content-Type"], headers["X-Content-Type-Options"]) == (200, "application/json", "nosniff")
    hostile = state["queries"][0]["documents"]
    (found,) = [document for document in hostile if document["doc_id"] == "hostile"]
    assert "".join(text for text, _ in found["text"]) == HOSTILE
    status, headers, page = client.ask("GET", "")
    assert status == 200 and HOSTILE not in page and "onerror" not in page
    assert (
        "script-src 'nonce-" in headers["Content-Security-Policy"]
        and "unsafe" not in headers["Content-Security-Policy"]
    )


def test_whoever_is_not_the_page_writes_and_reads_nothing(project: Any, client: Client) -> None:
    """Any site that is open in the same browser can send to this port: it must know the token, and be called by our name."""
    query_id, port = client.ask("GET", "state")[2]["queries"][0]["query_id"], client.server.server_port
    body = {"query_id": query_id, "doc_id": "hostile", "relevance": 3}
    assert client.ask("POST", "/guessed/answer", body)[0] == 404
    assert client.ask("POST", "/answer", body)[0] == 404
    assert client.ask("GET", "/")[0] == client.ask("GET", f"/{client.server.token}x/state")[0] == 404
    assert client.answer(query_id, "hostile", 3, Host=f"evil.example:{port}") == 403
    assert client.answer(query_id, "hostile", 3, Origin="http://evil.example") == 403
    assert client.answer(query_id, "hostile", 3, Content_Type="text/plain") == 400
    assert rows(project) == []
    assert client.answer(query_id, "hostile", 3, Origin=f"http://127.0.0.1:{port}") == 200


@pytest.mark.parametrize(
    ("doc_id", "relevance"), [("hostile", 4), ("hostile", -1), ("hostile", "3"), ("array-sum", 1), ("", 1), ("", 0)]
)
def test_an_answer_that_no_key_gives_is_refused(project: Any, client: Client, doc_id: str, relevance: Any) -> None:
    """A grade of 30 in the table would decide every nDCG; one of a pair that was not shown was read by nobody."""
    query_id = "q-matrix-sort" if doc_id == "array-sum" else client.ask("GET", "state")[2]["queries"][0]["query_id"]
    assert client.answer(query_id, doc_id, relevance) == 400
    assert rows(project) == []


def test_a_busy_warehouse_is_told_and_the_answer_can_be_sent_again(project: Any, client: Client) -> None:
    """A run that holds the file for a moment would swallow the answer."""
    query_id = client.ask("GET", "state")[2]["queries"][0]["query_id"]
    warehouse = project.places.warehouse
    code = f"import duckdb; c = duckdb.connect({str(warehouse.path)!r}); print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    warehouse.lock_timeout_s = 0.2
    assert client.answer(query_id, "hostile", 2) == 503
    holder.communicate("\n")
    assert client.answer(query_id, "hostile", 2) == 200
    assert [row["relevance"] for row in rows(project)] == [2]


def test_a_bad_query_is_left_for_nobody(project: Any, client: Client) -> None:
    """A second person would read all documents of a query that makes no sense."""
    query = client.ask("GET", "state")[2]["queries"][0]["query_id"]
    assert client.answer(query, "", -1) == 200
    with Serving(project, "ben") as ben:
        assert query not in [each["query_id"] for each in ben.ask("GET", "state")[2]["queries"]]
    assert [q["is_bad"] for q in client.ask("GET", "state")[2]["queries"] if q["query_id"] == query] == [True]
    assert count_left(open_sheet(project, "test"), read_answers(project, "test"), "ben") == (6, 3)
    assert "called 1 query bad" in judged_by_people(project, "test").sentences[0]
    with project.collection.snapshot() as collection:
        assert query not in collection.judgements(("test",))


def test_what_is_asked_and_shown_when_there_is_nothing(project: Any, read_collection: Path, tmp_path: Path) -> None:
    """An empty page would look like a test set that is done."""
    unread = make_project(read_collection / "tiny", tmp_path, tmp_path, tmp_path / "new")
    with pytest.raises(EvaluationError, match="run distill-assets run --until qrels first"):
        open_sheet(unread, "test")
    assert not unread.places.warehouse.exists()
    with project.places.warehouse.transaction() as connection:
        connection.execute("DELETE FROM queries WHERE split = 'test'")
    with pytest.raises(EvaluationError, match="no test query to judge.*judge --split dev"):
        open_sheet(project, "test")


def test_a_port_that_is_taken_is_named(project: Any, client: Client) -> None:
    """A traceback of the socket module says neither which port nor what to do."""
    port = client.server.server_port
    with pytest.raises(EvaluationError, match=f"port {port} .*another --port"):
        JudgingServer(project, client.server.sheet, "ben", port)


def test_what_the_judged_queries_can_show(project: Any) -> None:
    """The labels of the batch count: each of four queries has its document first in one system and second in the other."""
    assert "4 judged queries" in tell_power(project, open_sheet(project, "test"))


def test_two_people_share_a_round_before_they_judge_twice() -> None:
    """Two people would judge the same first queries, and none of the last ones."""
    pools = [Pool(q, (f"{q}1", f"{q}2"), 1.0, number) for q, number in (("a", 1), ("b", 1), ("c", 2))]
    answers = [Answer("a", "a1", 1, "ann", datetime(2026, 1, 1))]
    assert [pool.query_id for pool in others_last(pools[:2], answers, "ben")] == ["b", "a"]
    assert [pool.query_id for pool in others_last(pools[:2], answers, "ann")] == ["a", "b"]
    own = {("a", "a1"): 0, ("a", "a2"): 0, ("b", "b1"): 1}
    assert current_round(pools, own) == 1
    assert current_round(pools, own | {("b", ""): -1}) == 2
    assert current_round(pools, own | {("b", ""): -1, ("c", ""): -1}) == 2


def test_words_of_the_query_are_marked_and_nothing_is_lost() -> None:
    """A marked text that is not the document's would be what people judge."""
    text = "Sums  of read_HTMLTable2 &c. Ärzte"
    segments = mark_words(text, {"html", "of", "ärzte"})
    assert [segment for segment, is_marked in segments if is_marked] == ["of", "read_HTMLTable2", "Ärzte"]
    assert "".join(segment for segment, _ in segments) == text
    assert mark_words("", {"x"}) == []


def test_a_long_document_is_judged_as_a_whole_whether_rankings_are_stored_or_searched_for(
    tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """A page of passages would drop every long document: a ranking names documents, a search finds passages."""
    long = {"title": "", "text": "sum of a matrix " * 60}
    project = read_ranked(tmp_path, (tiny_encoder, tiny_cross_encoder), long, {}, passage_tokens=16, passage_overlap=4)
    parents = set(project.places.warehouse.read("passages")["parent_id"].to_pylist())
    assert "hostile" in parents
    sheet = open_sheet(project, "test")
    shown = {doc_id for pool in sheet.pools for doc_id in pool.doc_ids}
    assert "hostile" in shown and not any("#" in doc_id for doc_id in shown)
    assert sheet.documents["hostile"]["text"].count("sum of a matrix") >= 60
