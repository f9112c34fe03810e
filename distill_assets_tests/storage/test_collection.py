"""The collection of several batches: whose row counts, and when a view has another version."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from distill_assets.records import SPLITS, Document, Query, Split, hash_text
from distill_assets.storage.collection import VERSIONED, Collection, changed_documents
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


def collect(
    connection: duckdb.DuckDBPyConnection,
    batches: Mapping[str, Batch],
    current: tuple[str, ...] | None = None,
    left_out: tuple[str, ...] = (),
    displaced: tuple[tuple[str, str], ...] = (),
) -> Collection:
    """These batches as one collection; `current` are those that make it up, all by default."""
    for table in Batch().tables(""):
        rows = [row for name, batch in batches.items() for row in batch.tables(name)[table]]
        connection.execute(f"DELETE FROM {table}")
        if rows:
            connection.register("incoming", conform(table, pa.Table.from_pylist(rows)))
            connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    return Collection(connection, tuple(batches) if current is None else current, left_out, displaced)


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
        connection, {"a": Batch({"d2": "text"}, {"q2": ("other", "train")}, {("q2", "d2"): 1}, {("q2", "d2"): 1})}
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
    assert found.document_judgements(SPLITS) == {"q1": {"a": 2}, "q2": {"a": 1, "b": 1}, "q3": {"a": 3}, "q4": {"b": 1}}
    assert found.rejections(SPLITS) == {"q4": ["a#1", "a#10", "a#2"]}
    assert found.contents(["a", "b"]) == {"a": document("a#1", "x").content, "b": document("b", "w").content}
    judged_apart = replace(LONG, judgements={**LONG.judgements, ("q1", "a#2"): 0})
    found = collect(connection, {"one": judged_apart})
    assert found.judgements(["train"])["q1"] == {"a#1": 2, "a#10": 2}, "a passage's own judgement counts for it"
    assert found.document_judgements(["train"])["q1"] == {"a": 2}


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
    assert found.document_judgements(["dev"])["q2"] == {"a": 1, "b": 1}
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
        versions.append({view: found.view_versions(view) for view in VERSIONED})
    for view in VERSIONED:
        before, after = world.rows(view), other.rows(view)
        assert (set(versions[0][view]), set(versions[1][view])) == (set(before), set(after))
        for batch in {*before, *after}:
            is_same = before.get(batch) == after.get(batch)
            assert (versions[0][view].get(batch) == versions[1][view].get(batch)) is is_same
