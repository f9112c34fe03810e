"""The collection of several batches: whose row counts, and when a view has another version."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distill_assets.records import SPLITS, Document, Query, Split, hash_text
from distill_assets.storage.collection import VERSIONED, Collection, Labelling, changed_documents
from distill_assets.storage.tables import TABLES, conform


@dataclass(frozen=True)
class Batch:
    """What one batch brings, and what was mined and scored for it."""

    documents: Mapping[str, str] = field(default_factory=dict)  # doc_id -> text
    queries: Mapping[str, tuple[str, Split]] = field(default_factory=dict)  # query_id -> text, split
    judgements: Mapping[tuple[str, str], int] = field(default_factory=dict)
    mined: Mapping[tuple[str, str], int] = field(default_factory=dict)  # (query_id, doc_id) -> rank
    logits: Mapping[tuple[str, str], float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)  # query_id -> label of the source
    passages: Mapping[str, str] = field(default_factory=dict)  # doc_id -> the document that it is a passage of

    made: Mapping[str, tuple[str, Split, str]] = field(default_factory=dict)  # query_id -> text, split, source document
    verdicts: Mapping[str, str] = field(default_factory=dict)  # query_id -> the teacher's first document

    def tables(self, batch: str) -> dict[str, list[dict[str, Any]]]:
        """The same as rows of the warehouse. Documents with an even number of letters have a title."""
        mined = {"source": "both", "bm25_rank": 1, "dense_rank": 1, "rrf_score": 0.5}
        documents = [document(d, text) for d, text in self.documents.items()]
        return {
            "corpus": [
                {
                    "batch": batch,
                    "doc_id": d.doc_id,
                    "title": d.title,
                    "text": d.text,
                    "content_hash": hash_text(d.content),
                }
                for d in documents
            ],
            "passages": [{"batch": batch, "doc_id": d, "parent_id": p} for d, p in self.passages.items()],
            "queries": [
                {"batch": batch, "query_id": q, "text": t, "text_key": t, "split": s}
                for q, (t, s) in self.queries.items()
            ],
            "query_labels": [{"batch": batch, "query_id": q, "label": label} for q, label in self.labels.items()],
            "qrels": [
                {"batch": batch, "query_id": q, "doc_id": d, "relevance": r} for (q, d), r in self.judgements.items()
            ],
            "hard_negatives": [
                {"batch": batch, "query_id": q, "doc_id": d, "rank": r, **mined} for (q, d), r in self.mined.items()
            ],
            "teacher_scores": [
                {"batch": batch, "query_id": q, "doc_id": d, "label": 0, "teacher_logit": x}
                for (q, d), x in self.logits.items()
            ],
            "generated_queries": [
                {
                    "batch": batch,
                    "query_id": q,
                    "text": t,
                    "text_key": t,
                    "split": s,
                    "doc_id": d,
                    "kind": "keyword",
                    "rank": 1,
                }
                for q, (t, s, d) in self.made.items()
            ],
            "teacher_judgements": [
                {"batch": batch, "query_id": q, "doc_id": d, "relevance": 1} for q, d in self.verdicts.items()
            ],
        }


def document(doc_id: str, text: str) -> Document:
    """A document; some have a title."""
    return Document(doc_id, "" if len(text) % 2 else "title", text)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory with today's tables."""
    with duckdb.connect(config={"threads": 1}) as found:
        for table, spec in TABLES.items():
            found.execute(spec.ddl(table))
        yield found


NONE = Labelling()


def collect(
    connection: duckdb.DuckDBPyConnection,
    batches: Mapping[str, Batch],
    current: tuple[str, ...] | None = None,
    left_out: tuple[str, ...] = (),
    displaced: tuple[tuple[str, str], ...] = (),
    page: Sequence[tuple[Any, ...]] = (),
    labelling: Labelling = NONE,
) -> Collection:
    """These batches as one collection; `current` are those that make it up, all by default.

    `page` holds answers of the page, a minute apart: query_id, doc_id, relevance, and, if not ann and the texts that stand, the
    judge and the texts of query and document that were judged.
    """
    queries = {q: text for name in sorted(batches) for q, (text, _) in batches[name].queries.items()}
    texts = {d: text for name in sorted(batches) for d, text in batches[name].documents.items()}
    on_page = []
    for minute, (q, d, r, *told) in enumerate(page):
        judge, query, text = [*told, *["ann", queries.get(q, ""), texts.get(d, "")][len(told) :]]
        on_page.append(
            {
                "query_id": q,
                "doc_id": d,
                "relevance": r,
                "judge": judge,
                "judged_at": datetime(2026, 1, 1) + timedelta(minutes=minute),
                "query_hash": hash_text(query),
                "doc_hash": hash_text(document(d, text).content) if d else "",
            }
        )
    for table in (*Batch().tables(""), "page_judgements"):
        rows = [row for name, batch in batches.items() for row in batch.tables(name).get(table, [])]
        rows += on_page if table == "page_judgements" else []
        connection.execute(f"DELETE FROM {table}")
        if rows:
            connection.register("incoming", conform(table, pa.Table.from_pylist(rows)))
            connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    return Collection(connection, tuple(batches) if current is None else current, left_out, displaced, 1, labelling)


def test_the_row_of_the_last_batch_counts(connection: duckdb.DuckDBPyConnection) -> None:
    """With the first row, or the one that was read last, a correction changes nothing, or changes it until the next read."""
    early = Batch({"d1": "old", "d2": "kept"}, {"q1": ("old", "test"), "q2": ("kept", "dev")}, {("q1", "d1"): 1})
    late = Batch({"d1": "newer"}, {"q1": ("new", "train")}, {("q1", "d1"): 2})
    found = collect(connection, {"2026-02": late, "2026-01": early})  # read in another order than they are named
    assert found.documents() == (["d1", "d2"], ["newer", "title kept"])
    assert found.contents(["d2", "unheard of", "d1"]) == {"d1": "newer", "d2": "title kept"}
    assert found.queries(SPLITS) == [Query("q1", "new", "train"), Query("q2", "kept", "dev")]
    assert found.queries(["train", "dev"], "2026-01") == [Query("q2", "kept", "dev")]
    assert found.queries(["test"]) == []
    assert found.judgements(SPLITS) == found.judgements(["train"], "2026-02") == {"q1": {"d1": 2}}
    assert found.judgements(["train"], "2026-01") == found.judgements(["dev", "test"]) == {}


def test_a_later_0_takes_a_judgement_back(connection: duckdb.DuckDBPyConnection) -> None:
    """A judgement that nobody can take back is learned and measured for ever; one that is given again must count again."""
    first = Batch({"d1": "text"}, {"q1": ("text", "dev")}, {("q1", "d1"): 1})
    batches = {"a": first, "b": Batch(judgements={("q1", "d1"): 0}), "c": Batch(judgements={("q1", "d1"): 3})}
    assert collect(connection, batches, ("a",)).judgements(SPLITS) == {"q1": {"d1": 1}}
    assert collect(connection, batches, ("a", "b")).judgements(SPLITS) == {}
    assert collect(connection, batches, ("a", "b", "c")).judgements(SPLITS) == {"q1": {"d1": 3}}
    assert collect(connection, batches, ("b", "a")).judgements(SPLITS) == {}


def test_lower_grades_are_known_and_not_relevant(connection: duckdb.DuckDBPyConnection) -> None:
    """A threshold that moves nobody's version leaves negatives, students and metrics of the old one up to date."""
    queries: dict[str, tuple[str, Split]] = {"q1": ("x", "train"), "q2": ("y", "train")}
    batch = Batch({"d1": "x", "d2": "y"}, queries, {("q1", "d1"): 2, ("q1", "d2"): 1, ("q2", "d1"): 1, ("q2", "d2"): 0})
    found = collect(connection, {"a": batch})
    graded = replace(found, min_relevance=2)
    assert found.judgements(SPLITS) == {"q1": {"d1": 2, "d2": 1}, "q2": {"d1": 1}}
    assert graded.judgements(SPLITS) == {"q1": {"d1": 2, "d2": 1}}, "q2 has no answer: nobody judged it"
    assert graded.rejections(SPLITS) == found.rejections(SPLITS) == {"q2": ["d2"]}
    first = collect(connection, {"a": replace(batch, judgements={("q1", "d1"): 2, ("q1", "d2"): 1})})
    versions = {n: replace(first, min_relevance=n).view_versions("training_judgements") for n in (1, 2)}
    assert versions[1] != versions[2], "the same rows, and one is not relevant any more"
    binary = collect(connection, {"a": replace(batch, judgements={("q1", "d1"): 2})})
    versions = {n: replace(binary, min_relevance=n).view_versions("training_judgements") for n in (1, 2)}
    assert versions[1] == versions[2], "a threshold that moves nothing makes nothing anew"


def test_a_judgement_counts_where_its_document_exists(connection: duckdb.DuckDBPyConnection) -> None:
    """A judgement of a document that nobody has lowers every system's recall; one whose document comes later must count then."""
    judged = Batch({"d1": "text"}, {"q1": ("text", "test")}, {("q1", "d1"): 1, ("q1", "later"): 1, ("nobody", "d1"): 1})
    batches = {"a": judged, "b": Batch({"later": "text"})}
    assert collect(connection, batches, ("a",)).judgements(SPLITS) == {"q1": {"d1": 1}}
    assert collect(connection, batches).judgements(SPLITS) == {"q1": {"d1": 1, "later": 1}}


def test_queries_that_are_left_out_appear_nowhere(connection: duckdb.DuckDBPyConnection) -> None:
    """A train query that repeats a test query trains on the answer, by whichever of these ways it comes in."""
    pairs = {("q1", "d1"): 1, ("q2", "d2"): 1}
    logits = {("q1", "d1"): 1.5, ("q2", "d2"): 2.5}
    queries: dict[str, tuple[str, Split]] = {"q1": ("twin", "train"), "q2": ("other", "train")}
    batch = Batch({"d1": "text", "d2": "text"}, queries, pairs, pairs, logits)
    found = collect(connection, {"a": batch}, left_out=("q1",))
    assert [query.query_id for query in found.queries(SPLITS)] == ["q2"]
    assert found.judgements(SPLITS) == {"q2": {"d2": 1}}
    assert found.candidates() == {"q2": ["d2"]}
    assert list(found.texts()) == ["d2"]
    assert found.logits() == {("q2", "d2"): 2.5}
    without = collect(
        connection,
        {"a": Batch({"d1": "text", "d2": "text"}, {"q2": ("other", "train")}, {("q2", "d2"): 1}, {("q2", "d2"): 1})},
    )
    versions = {view: without.view_versions(view) for view in VERSIONED}
    found = collect(connection, {"a": batch}, left_out=("q1",))
    assert {view: found.view_versions(view) for view in VERSIONED} == versions


def test_what_was_mined_and_scored_for_a_former_text_does_not_count(connection: duckdb.DuckDBPyConnection) -> None:
    """Batch a was mined and scored before batch b brought the query with another text: those are another question's."""
    pairs = {("q1", "d2"): 1, ("q1", "d1"): 1, ("q1", "gone"): 2}
    early = Batch({"d1": "text", "d2": "text"}, {"q1": ("old", "train")}, {}, pairs, {("q1", "d1"): 1.5})
    late = Batch({}, {"q1": ("new", "train")}, {}, {("q1", "d2"): 2}, {("q1", "d2"): 2.5})
    found = collect(connection, {"a": early}, ("a",))
    assert (found.candidates(), found.logits()) == ({"q1": ["d1", "d2"]}, {("q1", "d1"): 1.5})
    found = collect(connection, {"a": early, "b": late})
    assert (found.candidates(), found.logits()) == ({"q1": ["d2"]}, {("q1", "d2"): 2.5})
    assert (found.candidates("a"), found.candidates("b")) == ({}, {"q1": ["d2"]})


def test_an_answer_is_known_for_every_query_that_asks_the_same(connection: duckdb.DuckDBPyConnection) -> None:
    """In 34 of 54 queries that were typed twice the other right answer was mined as a negative, 29 times at rank 1."""
    queries: dict[str, tuple[str, Split]] = {"q1": ("same", "train"), "q2": ("same", "train"), "q3": ("same", "test")}
    batch = Batch({"d1": "x", "d2": "y", "d3": "z"}, queries, {("q1", "d1"): 2, ("q2", "d2"): 1, ("q3", "d3"): 1})
    found = collect(connection, {"a": batch})
    assert found.judgements(["train"]) == {"q1": {"d1": 2, "d2": 1}, "q2": {"d1": 2, "d2": 1}}
    assert found.judgements(["test"]) == {"q3": {"d3": 1}}  # what is tested is not learnt by another way


def test_judgements_of_a_document_whose_id_stands_for_another_text_do_not_count(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Two help desks that number alike: the judgements of one named the texts of the other."""
    north = Batch(
        {"d1": "the kettle belongs in the attic", "d2": "kept"},
        {"q": ("where", "test")},
        {("q", "d1"): 1, ("q", "d2"): 1},
    )
    batches = {"north": north, "south": Batch({"d1": "every sofa has a guarantee"})}
    assert changed_documents(collect(connection, batches).connection, ["north", "south"]) == [
        ("north", "d1", "the kettle belongs in the attic", "title every sofa has a guarantee")
    ]
    assert changed_documents(connection, ["north"]) == []
    assert collect(connection, batches, displaced=(("north", "d1"),)).judgements(SPLITS) == {"q": {"d2": 1}}


LONG = Batch(
    {"a#1": "x", "a#2": "y", "a#10": "z", "b": "w"},
    {"q1": ("1", "train"), "q2": ("2", "dev"), "q3": ("3", "dev"), "q4": ("4", "train")},
    {("q1", "a"): 2, ("q2", "a"): 1, ("q2", "b"): 1, ("q3", "a#2"): 3, ("q4", "a"): 0, ("q4", "b"): 1},
    passages={"a#1": "a", "a#2": "a", "a#10": "a"},
)


def test_a_judgement_of_a_document_is_one_of_its_passages_in_training_and_of_it_in_evaluation(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """An unknown id drops every judgement of a long document; a passage measured as a document makes recall@100 count it ten times."""
    found = collect(connection, {"one": LONG})
    assert found.parents() == {"a#1": "a", "a#10": "a", "a#2": "a"}
    assert found.judgements(SPLITS) == {
        "q1": {"a#1": 2, "a#10": 2, "a#2": 2},
        "q2": {"a#1": 1, "a#10": 1, "a#2": 1, "b": 1},
        "q3": {"a#2": 3},  # names a passage: that one alone is the answer
        "q4": {"b": 1},
    }
    assert found.judgements(SPLITS, labels="measured") == {"q2": {"a": 1, "b": 1}, "q3": {"a": 3}}
    assert found.rejections(SPLITS) == {"q4": ["a#1", "a#10", "a#2"]}
    assert found.contents(["a", "b"]) == {"a": document("a#1", "x").content, "b": document("b", "w").content}
    judged_apart = replace(LONG, judgements={**LONG.judgements, ("q1", "a#2"): 0})
    found = collect(connection, {"one": judged_apart})
    assert found.judgements(["train"])["q1"] == {"a#1": 2, "a#10": 2}, "a passage's own judgement counts for it"
    apart_in_dev = replace(LONG, judgements={**LONG.judgements, ("q2", "a#2"): 0})
    assert collect(connection, {"one": apart_in_dev}).judgements(["dev"], labels="measured")["q2"] == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (Batch({"a": "short now"}), ["a", "b"]),
        (Batch({"a#1": "x"}, passages={"a#1": "a"}), ["a#1", "b"]),
        (Batch({"b#1": "w", "b#2": "w"}, passages={"b#1": "b", "b#2": "b"}), ["a#1", "a#10", "a#2", "b#1", "b#2"]),
    ],
)
def test_a_document_that_comes_again_replaces_all_its_passages(
    connection: duckdb.DuckDBPyConnection, later: Batch, expected: list[str]
) -> None:
    """The end of a shortened document would be found for ever, and a whole beside its passages would be found twice."""
    found = collect(connection, {"one": LONG, "two": later})
    assert found.documents()[0] == expected
    assert set(found.parents()) == {d for d in expected if "#" in d}
    assert found.judgements(["dev"], labels="measured")["q2"] == {"a": 1, "b": 1}
    assert collect(connection, {"one": LONG, "two": later}, ("one",)).documents()[0] == ["a#1", "a#10", "a#2", "b"]


def test_a_document_in_passages_is_compared_as_a_whole(connection: duckdb.DuckDBPyConnection) -> None:
    """A paragraph at the top moves the text of every passage: each is another text, and the document is the same."""
    moved = Batch(
        {"a#1": "n", "a#2": "x", "a#3": "y", "a#4": "z"}, passages=dict.fromkeys(["a#1", "a#2", "a#3", "a#4"], "a")
    )
    collect(connection, {"one": LONG, "two": moved})
    assert ("one", "a", "x y z", "n x y z") in changed_documents(connection, ["one", "two"])
    assert ("one", "a#2", "y", "x") in changed_documents(connection, ["one", "two"])
    collect(connection, {"one": LONG, "two": LONG})
    assert changed_documents(connection, ["one", "two"]) == []


ASKED = {"north": Batch({"d1": "x", "d2": "x"}, {"q1": ("x", "test"), "q2": ("x", "test")}, {("q1", "d1"): 1})}


def test_an_answer_on_the_page_wins_over_batches_for_all_who_ask_the_same(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Where the larger of two judgements counted, a person could never say that a labelled document is no answer."""
    found = collect(connection, ASKED, page=[("q1", "d1", 0), ("q2", "d2", 2)])
    assert found.judgements(SPLITS) == {"q1": {"d2": 2}, "q2": {"d2": 2}}
    assert found.rejections(SPLITS) == {"q1": ["d1"], "q2": ["d1"]}


def test_the_last_answer_counts_and_one_that_is_taken_back_does_not(connection: duckdb.DuckDBPyConnection) -> None:
    """A key that was hit by mistake would stay in the test set for good; ann's undo must not undo ben's answer."""
    page: list[tuple[Any, ...]] = [("q1", "d2", 3, "ann"), ("q1", "d2", 1, "ben")]
    assert collect(connection, ASKED, page=page).judgements(SPLITS)["q1"] == {"d1": 1, "d2": 1}
    page.append(("q1", "d2", None, "ann"))
    found = collect(connection, ASKED, page=page)
    assert found.judgements(SPLITS)["q1"] == {"d1": 1, "d2": 1}
    assert [(row["judge"], row["relevance"]) for row in found.answers("test")] == [("ben", 1)]
    page.append(("q1", "d2", None, "ben"))
    assert collect(connection, ASKED, page=page).judgements(SPLITS)["q1"] == {"d1": 1}


def test_an_answer_counts_while_query_and_document_have_the_texts_that_were_judged(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """A person's word about a text that is gone would stand as if it were said of the new one."""
    page = [("q1", "d1", 3, "ann", "an older query"), ("q1", "d2", 3, "ann", "x", "an older text"), ("q1", "gone", 3)]
    found = collect(connection, ASKED, page=page)
    assert found.judgements(SPLITS)["q1"] == {"d1": 1} and found.answers("test") == []


def test_a_bad_query_is_left_out_until_that_is_taken_back(connection: duckdb.DuckDBPyConnection) -> None:
    """A query without sense, left in the test set, is noise that every system shares."""
    page: list[tuple[Any, ...]] = [("q1", "d2", 1), ("q1", "", -1)]
    found = collect(connection, ASKED, page=page)
    assert (found.queries(SPLITS), found.judgements(SPLITS), found.judges()) == ([], {}, {})
    assert [query.query_id for query in found.asked()] == ["q1", "q2"]
    page.append(("q1", "", None))
    assert collect(connection, ASKED, page=page).judgements(SPLITS)["q2"] == {"d1": 1, "d2": 1}


def test_what_a_person_reads_is_the_document_that_stands_now(connection: duckdb.DuckDBPyConnection) -> None:
    """An answer about a former text counts for nothing, so showing it wastes a person's time."""
    batches = {"a": Batch({"d1": "old"}), "b": Batch({"d1": "even"})}
    expected = {"title": "title", "text": "even", "content_hash": hash_text("title even")}
    assert collect(connection, batches).shown(["d1", "gone"]) == {"d1": expected}


@dataclass(frozen=True)
class World:
    """Batches, which of them make up the collection, and the left-out queries; the rules once more, in plain Python."""

    batches: Mapping[str, Batch]
    current: tuple[str, ...]
    left_out: tuple[str, ...]
    displaced: tuple[tuple[str, str], ...] = ()

    def last(self, what: str) -> dict[Any, tuple[str, Any]]:
        """Key -> (batch, value) of the last batch that brings it."""
        return {
            key: (name, value)
            for name in sorted(self.current)
            for key, value in getattr(self.batches[name], what).items()
        }

    def kept(self) -> dict[str, tuple[str, tuple[str, Split]]]:
        """The queries that are not left out."""
        return {q: found for q, found in self.last("queries").items() if q not in self.left_out}

    def judged(self) -> dict[tuple[str, str], int]:
        """The judgements that count."""
        return {pair: r for pair, r in self.shared().items() if r > 0}

    def shared(self) -> dict[tuple[str, str], int]:
        """All judgements, those of 0 as well, for every query that asks the same."""
        documents, kept, asked = self.last("documents"), self.kept(), self.last("queries")
        given: dict[tuple[str, str], int] = {}
        for name in sorted(self.current):
            given |= {
                (q, d): r for (q, d), r in self.batches[name].judgements.items() if (name, d) not in self.displaced
            }
        found: dict[tuple[str, str], int] = {}
        for (q, d), r in given.items():
            for other, (_, asks) in kept.items():
                if d in documents and q in asked and asked[q][1] == asks:
                    found[other, d] = max(r, found.get((other, d), r))
        return found

    def mined(self) -> list[tuple[str, str, int, str]]:
        """(batch, query_id, rank, doc_id) of queries whose batch it is, sorted; of documents that are gone too."""
        kept = self.kept()
        return sorted(
            (name, q, rank, d)
            for name in self.current
            for (q, d), rank in self.batches[name].mined.items()
            if q in kept and kept[q][0] == name
        )

    def used(self) -> set[tuple[str, str]]:
        """(batch, doc_id) of the texts that training may read."""
        kept = self.kept()
        judged = {(kept[q][0], d) for q, d in self.judged() if kept[q][1][1] != "test"}
        return judged | {(name, d) for name, _, _, d in self.mined()}

    def query_rows(self, view: str, splits: tuple[str, ...]) -> list[tuple[str, str, tuple[str, ...]]]:
        """Id, batch, and what the view says beside them, of each kept query of these splits."""
        kept = [(q, name, told) for q, (name, told) in self.kept().items() if told[1] in splits]
        if view == "query_origins":
            return [(q, name, (self.batches[name].labels.get(q, ""),)) for q, name, _ in kept]
        return list(kept)

    def rows(self, view: str) -> dict[str, set[Any]]:
        """Rows of one of `VERSIONED` by batch; a batch without one is not there."""
        kept, documents = self.kept(), self.last("documents")
        splits = ("train", "dev") if view.startswith("training") else ("dev", "test")
        found: dict[str, set[Any]] = {}
        if view == "texts":
            for name, d in self.used():
                found.setdefault(name, set()).add((d, documents[d][1] if d in documents else None))
        elif view in ("query_origins", "training_queries", "evaluation_queries"):
            for q, name, told in self.query_rows(view, splits):
                found.setdefault(name, set()).add((q, *told))
        else:
            is_wanted = (lambda r: r == 0) if view == "training_rejections" else (lambda r: r > 0)
            for (q, d), relevance in self.shared().items():
                if is_wanted(relevance) and kept[q][1][1] in splits:
                    found.setdefault(kept[q][0], set()).add((q, d, relevance))
        return found


# The views whose rows `World.rows` knows: what people brought.
BROUGHT = (
    *("training_queries", "training_judgements", "training_rejections", "texts"),
    *("evaluation_queries", "query_origins", "evaluation_judgements"),
)
QUERY_IDS, DOC_IDS = st.sampled_from(["q1", "q2", "q3"]), st.sampled_from(["d1", "d2", "d3"])
PAIRS = st.tuples(QUERY_IDS, DOC_IDS)
TEXTS = st.sampled_from(["x", "xx", "x q1", "dev"])
BATCHES = st.builds(
    Batch,
    st.dictionaries(DOC_IDS, TEXTS),
    st.dictionaries(QUERY_IDS, st.tuples(TEXTS, st.sampled_from(SPLITS))),
    st.dictionaries(PAIRS, st.integers(0, 2)),
    st.dictionaries(PAIRS, st.integers(1, 2)),
    st.dictionaries(PAIRS, st.integers(-2, 2).map(float)),
    st.dictionaries(QUERY_IDS, st.sampled_from(["x", "y"])),
)
WORLDS = st.builds(
    World,
    st.fixed_dictionaries({"a": BATCHES, "b": BATCHES, "c": BATCHES}),
    st.permutations(["a", "b", "c"]).map(tuple) | st.sampled_from([("a", "c"), ("b",)]),
    st.sampled_from([(), (), ("q1",), ("q1", "q3")]),
    st.sampled_from([(), (), (("a", "d1"), ("b", "d2"))]),
)


@given(world=WORLDS)
@settings(max_examples=25, deadline=None)
def test_every_read_follows_the_rules(connection: duckdb.DuckDBPyConnection, world: World) -> None:
    """Two reads that follow two rules pair a query with judgements or texts of another state of the collection."""
    found = collect(connection, world.batches, world.current, world.left_out, world.displaced)
    kept, documents = world.kept(), world.last("documents")
    contents = {d: document(d, text).content for d, (_, text) in sorted(documents.items())}
    assert found.documents() == (list(contents), list(contents.values()))
    by_hash = sorted(contents, key=lambda doc_id: hashlib.sha256(doc_id.encode()).hexdigest())
    assert found.sample(2) == (len(contents), [contents[doc_id] for doc_id in by_hash[:2]])
    assert {(q, d): r for q, own in found.judgements(SPLITS).items() for d, r in own.items()} == world.judged()
    rejected = sorted(pair for pair, r in world.shared().items() if r == 0)
    assert [(q, d) for q, own in found.rejections(SPLITS).items() for d in own] == rejected
    for batch in ("", "a", "b", "c"):
        own = {q: text_and_split for q, (name, text_and_split) in sorted(kept.items()) if batch in ("", name)}
        origins = {q: (kept[q][0], world.batches[kept[q][0]].labels.get(q, "")) for q in own}
        assert found.origins(SPLITS, batch) == origins
        assert found.queries(["train", "dev"], batch) == [Query(q, t, s) for q, (t, s) in own.items() if s != "test"]
        ranked = sorted((q, rank, d) for name, q, rank, d in world.mined() if d in documents and batch in ("", name))
        assert found.candidates(batch) == {q: [d for own_q, _, d in ranked if own_q == q] for q, _, _ in ranked}
        used = {d for name, d in world.used() if d in documents and batch in ("", name)}
        assert found.texts(batch) == {d: content for d, content in contents.items() if d in used}
    logits = {
        (q, d): x
        for name in world.current
        for (q, d), x in world.batches[name].logits.items()
        if q in kept and kept[q][0] == name
    }
    assert found.logits() == logits


EDITS = st.one_of(
    st.tuples(st.just("documents"), DOC_IDS, st.none() | TEXTS),
    st.tuples(st.just("queries"), QUERY_IDS, st.none() | st.tuples(TEXTS, st.sampled_from(SPLITS))),
    st.tuples(st.just("judgements"), PAIRS, st.none() | st.integers(0, 2)),
    st.tuples(st.just("mined"), PAIRS, st.none() | st.integers(1, 2)),
    st.tuples(st.just("labels"), QUERY_IDS, st.none() | st.sampled_from(["x", "y"])),
    st.tuples(st.just("current"), st.none(), st.sampled_from([("a", "b"), ("c", "b")])),
    st.tuples(st.just("left_out"), st.none(), st.sampled_from([(), ("q2",)])),
)


def edited(world: World, name: str, what: str, key: Any, value: Any) -> World:
    """The same world with another value in one place; None takes a row away."""
    if key is None:
        return replace(world, **{what: value})
    rows = {k: v for k, v in getattr(world.batches[name], what).items() if k != key}
    batch = replace(world.batches[name], **{what: rows if value is None else {**rows, key: value}})
    return replace(world, batches={**world.batches, name: batch})


SMALL = World(
    {
        "a": Batch({"d1": "x", "d2": "x"}, {"q1": ("x", "train")}, {("q1", "d2"): 1}, {("q1", "d1"): 1}),
        "b": Batch(queries={"q2": ("x", "train")}),
    },
    ("a", "b"),
    (),
)


LABELLED = World({"a": Batch({}, {"q1": ("x", "dev")}, labels={"q1": "x"}), "b": Batch()}, ("a", "b"), ())


@given(world=WORLDS, name=st.sampled_from(["a", "b", "c"]), edit=EDITS)
@example(SMALL, "a", ("documents", "d1", "xx"))
@example(SMALL, "a", ("documents", "d1", None))
@example(SMALL, "a", ("documents", "d3", "x"))
@example(SMALL, "a", ("queries", "q1", ("x", "dev")))
@example(SMALL, "a", ("queries", "q1", ("xx", "train")))
@example(SMALL, "a", ("judgements", ("q1", "d2"), 2))
@example(SMALL, "b", ("judgements", ("q1", "d2"), 0))
@example(LABELLED, "a", ("labels", "q1", "y"))
@example(LABELLED, "b", ("labels", "q1", "y"))
@settings(max_examples=30, deadline=None)
def test_a_version_changes_exactly_when_rows_change(
    connection: duckdb.DuckDBPyConnection, world: World, name: str, edit: tuple[str, Any, Any]
) -> None:
    """A version that stays hides new labels from every run; one that moves for nothing trains every student again."""
    other, versions = edited(world, name, *edit), []
    for each in (world, other):
        found = collect(connection, each.batches, each.current, each.left_out, each.displaced)
        versions.append({view: found.view_versions(view) for view in BROUGHT})
    for view in BROUGHT:
        before, after = world.rows(view), other.rows(view)
        assert (set(versions[0][view]), set(versions[1][view])) == (set(before), set(after))
        for batch in {*before, *after}:
            is_same = before.get(batch) == after.get(batch)
            assert (versions[0][view].get(batch) == versions[1][view].get(batch)) is is_same


SAME = {
    "queries_of_people": "training_queries",
    "judgements_of_people": "training_judgements",
    "taught_queries": "training_queries",
    "taught_judgements": "training_judgements",
    "taught_texts": "texts",
}


@given(world=WORLDS)
@settings(max_examples=25, deadline=None)
def test_where_people_judged_nothing_is_read_in_another_way(
    connection: duckdb.DuckDBPyConnection, world: World
) -> None:
    """A version that moves here makes every teacher and student of every collection with judgements anew."""
    labelling = Labelling(generates=True, always=True, num_dev=3, num_test=3)
    found = collect(connection, world.batches, world.current, world.left_out, world.displaced, (), labelling)
    judges = found.judges()
    if judges.get("train") == "people" and judges.get("dev") == "people":
        assert {v: found.view_versions(v) for v in SAME} == {v: found.view_versions(same) for v, same in SAME.items()}
        assert "teacher" not in judges.values(), "people's dev measures, so nobody asks the teacher about test"


ALL = Labelling(generates=True, always=True, num_dev=300, num_test=300)
DOCUMENTS = {"d1": "x", "d2": "y", "d3": "z"}


def test_generated_queries_train_beside_others_and_are_split_where_there_is_none(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """A generated query in a test set of people would measure how well a student finds titles."""
    made: dict[str, tuple[str, Split, str]] = {
        "g1": ("x", "test", "d1"),
        "g2": ("asked", "dev", "d2"),
        "g3": ("twice", "train", "d1"),
        "g4": ("gone", "train", "no such document"),
    }
    batches = {
        "a": Batch(DOCUMENTS, made=made),
        "b": Batch(made={"g5": ("twice", "train", "d3"), "g6": ("y", "dev", "d3")}),
    }
    alone = collect(connection, batches, labelling=ALL)
    assert {q.query_id: q.split for q in alone.queries(SPLITS)} == {"g1": "test", "g2": "dev", "g6": "dev"}
    assert alone.judgements(SPLITS) == {"g1": {"d1": 1}, "g2": {"d2": 1}, "g6": {"d3": 1}}
    assert alone.has_generated() and alone.judges() == {"dev": "teacher", "test": "teacher"}
    assert [(q.query_id, source) for q, source in alone.unjudged()] == [("g1", "d1"), ("g2", "d2"), ("g6", "d3")]
    asked = Batch(queries={"q1": ("asked", "test")}, judgements={("q1", "d1"): 2})
    beside = collect(connection, {**batches, "c": asked}, labelling=ALL)
    assert {q.query_id: q.split for q in beside.queries(SPLITS)} == {"g1": "train", "g6": "train", "q1": "test"}
    assert beside.judgements(SPLITS) == {"g1": {"d1": 1}, "g6": {"d3": 1}, "q1": {"d1": 2}}
    assert beside.queries(SPLITS, labels="people") == [Query("q1", "asked", "test")]
    assert beside.judgements(SPLITS, labels="people") == {"q1": {"d1": 2}}
    for labelling in (Labelling(), Labelling(generates=True)):
        assert replace(beside, labelling=labelling).queries(SPLITS) == [Query("q1", "asked", "test")]
    assert [d.doc_id for d in beside.own_documents("a")] == ["d1", "d2", "d3"] and beside.own_documents("b") == []


def test_the_page_wins_and_judges_a_split_from_20_queries_on(connection: duckdb.DuckDBPyConnection) -> None:
    """Nineteen judged queries among three hundred of the teacher would be one mean of two judges."""
    queries: dict[str, tuple[str, Split]] = {f"q{i:02}": (f"text {i}", "test") for i in range(22)}
    verdicts = {query_id: "d3" for query_id in queries}
    batches = {"a": Batch(DOCUMENTS, queries, verdicts=verdicts)}
    page = [(f"q{i:02}", "d1", 1) for i in range(19)] + [("q20", "d1", 1), ("q20", "d1", 0), ("q21", "d2", 0)]
    few = collect(connection, batches, page=page, labelling=ALL)
    assert few.judges() == {"test": "teacher"}
    assert few.judgements(["test"], labels="measured") == {query_id: {"d3": 1} for query_id in queries}
    many = collect(connection, batches, page=[*page, ("q19", "d2", 2)], labelling=ALL)
    assert many.judges() == {"test": "people"} and many.unjudged() == []
    expected = {f"q{i:02}": {"d1": 1} for i in range(19)} | {"q19": {"d2": 2}}
    assert many.judgements(["test"], labels="measured") == expected, "q20 was taken back, q21 has no answer"
    judged = {"b": Batch(judgements={("q00", "d1"): 0, ("q01", "d2"): 1})}
    brought = collect(connection, batches | judged, page=[("q00", "d1", 1), ("q01", "d2", 0)], labelling=ALL)
    assert brought.judges() == {"test": "people"}, "a batch brought a positive"
    assert brought.judgements(["test"], labels="measured") == {"q00": {"d1": 1}}


def test_a_student_is_taught_what_the_teacher_confirms(connection: duckdb.DuckDBPyConnection) -> None:
    """A generated query that fits other documents better, taken at its word, teaches that its source is the answer."""
    queries: dict[str, tuple[str, Split]] = {"q1": ("real", "train"), "q2": ("never scored", "train")}
    made: dict[str, tuple[str, Split, str]] = {"g1": ("kept", "train", "d1"), "g2": ("dropped", "train", "d1")}
    pairs = {("q1", "d1"): 1, ("q1", "d2"): 2, ("g1", "d2"): 1, ("g2", "d2"): 1}
    logits = {("q1", "d1"): 3.0, ("q1", "d2"): 3.0, ("g1", "d1"): 2.0, ("g1", "d2"): 1.0, ("g2", "d1"): 2.0}
    batch = Batch(DOCUMENTS, queries, mined=pairs, logits=logits | {("g2", "d2"): 2.5}, made=made)
    found = collect(connection, {"a": batch}, labelling=ALL)
    # Of equal logits the higher id is first, as in every ranking.
    assert found.judgements(["train"], labels="taught") == {"g1": {"d1": 1}, "q1": {"d2": 1}}
    assert [q.query_id for q in found.queries(["train"], labels="taught")] == ["g1", "q1", "q2"]
    assert found.judgements(["train"], labels="people") == {} and found.judges() == {"train": "teacher"}
    graded = replace(found, min_relevance=2)
    assert graded.judgements(["train"], labels="taught") == {"g1": {"d1": 2}, "q1": {"d2": 2}}, "an answer is relevant"
    judged = collect(connection, {"a": replace(batch, judgements={("q2", "d3"): 1})}, labelling=ALL)
    assert judged.judgements(["train"], labels="taught") == {"g1": {"d1": 1}, "q2": {"d3": 1}}, "people judged train"
    rejected = collect(connection, {"a": replace(batch, judgements={("q1", "d2"): 0})}, labelling=ALL)
    assert rejected.judgements(["train"], labels="taught")["q1"] == {"d1": 1}, "a person said that d2 is no answer"


def test_dev_and_test_have_one_judge_each(connection: duckdb.DuckDBPyConnection) -> None:
    """Both judges in one split would be one mean of two meanings; too many queries would cost hours of the teacher."""
    queries: dict[str, tuple[str, Split]] = {
        f"{split}{i}": (f"{split} {i}", split) for split in SPLITS for i in range(4)
    }
    verdicts = {query_id: "d2" for query_id in queries}
    batch = Batch(DOCUMENTS, queries, {("test0", "d1"): 1}, verdicts=verdicts)
    found = collect(connection, {"a": batch}, labelling=Labelling(num_dev=2, num_test=3))
    assert found.judges() == {"train": "teacher", "dev": "teacher", "test": "people"}
    chosen = sorted((q for q in queries if q.startswith("dev")), key=hash_text)[:2]
    assert [q.query_id for q, _ in found.unjudged()] == sorted(chosen) and found.unjudged("other") == []
    measured = found.judgements(["dev", "test"], labels="measured")
    assert measured == {"test0": {"d1": 1}} | {query_id: {"d2": 1} for query_id in chosen}
    assert found.judgements(["train", "dev"], labels="taught") == {query_id: {"d2": 1} for query_id in chosen}
    assert sorted(found.texts(labels="taught")) == ["d2"] and found.texts() == {}
    on_dev = collect(connection, {"a": replace(batch, judgements={("dev0", "d1"): 1})}, labelling=ALL)
    assert on_dev.judges() == {"train": "teacher", "dev": "people"}, (
        "what people can measure, the teacher is not asked about"
    )
    assert collect(connection, {"a": batch}).judges() == {"test": "people"}, "python_api asks no teacher"
    before = collect(connection, {"a": batch}, labelling=ALL).view_versions("evaluation_judgements")
    moved = collect(connection, {"a": replace(batch, verdicts=verdicts | {chosen[0]: "d1"})}, labelling=ALL)
    assert moved.view_versions("evaluation_judgements") != before, "a teacher that changes its mind moves every metric"
