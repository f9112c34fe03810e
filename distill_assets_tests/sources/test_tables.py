"""Tables and statements as a collection: what they say, what they refuse, when they count as changed."""

import csv
import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_assets.errors import MalformedRecordError, SettingsError, SourceError
from distill_assets.handles.collection import open_source as open_by_settings
from distill_assets.records import Collection, Document, Qrel, Query, assign_split, fingerprint_rows
from distill_assets.settings.values import Settings
from distill_assets.sources import tables
from distill_assets.sources.base import DEFAULT_RULES, OneBatch, Options, PartOptions, read_settled
from distill_assets.sources.catalog import open_source
from distill_assets.sources.columns import PARTS

DOCUMENTS = [
    {"article_no": "007", "heading": "Bond", "body": 'says "shaken, not stirred"'},
    {"article_no": "2026-01-02", "heading": None, "body": "a date as an id"},
    {"article_no": "12:00", "heading": "", "body": "two\nlines, a comma"},
]
QUERIES = [{"query_id": "1", "text": "who stirs"}, {"query_id": "2", "text": "which day"}]
JUDGEMENTS = [
    {"query_id": "1", "doc_id": "007", "relevance": 2, "split": "train"},
    {"query_id": "2", "doc_id": "2026-01-02", "relevance": 1, "split": "test"},
    {"query_id": "2", "doc_id": "12:00", "relevance": 0, "split": "test"},
]
MAP = {"doc_id": "article_no", "title": "heading", "text": "body"}
EXPECTED = Collection(
    documents=[
        Document("007", "Bond", 'says "shaken, not stirred"'),
        Document("2026-01-02", "", "a date as an id"),
        Document("12:00", "", "two\nlines, a comma"),
    ],
    queries=[Query("1", "who stirs", "train"), Query("2", "which day", "test")],
    qrels=[Qrel("1", "007", 2), Qrel("2", "2026-01-02", 1), Qrel("2", "12:00", 0)],
)


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    """Fingerprints are kept for 10 s."""
    tables._known.clear()


def source(parts: Mapping[str, Mapping[str, Any]], *setup: str, version: str | None = None) -> OneBatch:
    """The collection `tables:shop` of these parts."""
    found = tuple((part, PartOptions(**parts[part])) for part in PARTS if part in parts)
    opened = open_source("tables:shop", Options(found, setup, version), DEFAULT_RULES)
    assert isinstance(opened, OneBatch)
    return opened


def read(parts: Mapping[str, Mapping[str, Any]], *setup: str) -> Collection:
    """What these parts bring."""
    return source(parts, *setup).read("shop")


def as_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One object a line."""
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_gzip(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The same, packed."""
    plain = as_jsonl(path, rows)
    packed = Path(f"{plain}.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return packed


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """With the types of the values."""
    path = path.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def as_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    """With a header; None is an empty cell."""
    path = path.with_suffix(".csv" if delimiter == "," else ".tsv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The same with tabs."""
    return as_csv(path, rows, "\t")


Write = Callable[[Path, list[dict[str, Any]]], Path]


def written(folder: Path, write: Write = as_jsonl) -> dict[str, dict[str, Any]]:
    """The three parts as files."""
    return {
        "documents": {"path": str(write(folder / "articles", DOCUMENTS)), "columns": MAP},
        "queries": {"path": str(write(folder / "questions", QUERIES))},
        "judgements": {"path": str(write(folder / "grades", JUDGEMENTS))},
    }


@pytest.mark.parametrize("write", [as_jsonl, as_gzip, as_parquet, as_csv, as_tsv])
def test_every_format_gives_the_same_collection(write: Write, tmp_path: Path) -> None:
    """A reader that guesses types makes 7 of the id 007 and another text of a time or a date: no judgement fits any more."""
    assert read(written(tmp_path, write)) == EXPECTED


def test_statements_give_the_same_collection(tmp_path: Path) -> None:
    """A second reader for statements would have rules of its own. This one attaches a database; a comment may end a query."""
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        for name, rows in {"articles": DOCUMENTS, "questions": QUERIES, "grades": JUDGEMENTS}.items():
            connection.register("rows", pa.Table.from_pylist(rows))
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM rows")
    parts = {
        "documents": {"query": "SELECT * FROM shop.articles; -- all of them", "columns": MAP},
        "queries": {"query": "FROM shop.questions"},
        "judgements": {"query": "WITH g AS (FROM shop.grades) SELECT * FROM g"},
    }
    attach = f"ATTACH '{tmp_path / 'shop.duckdb'}' AS shop (READ_ONLY)"
    assert read(parts, attach) == EXPECTED


def test_types_of_a_database_become_text() -> None:
    """Integers, and integers that are floats because one was missing, are ids; a UUID keeps its form."""
    found = read(
        {
            "documents": {"query": "SELECT 7 AS doc_id, 'a' AS text UNION ALL SELECT 12, 'b'"},
            "queries": {"query": "SELECT '6b3d0a6e-0000-4000-8000-000000000001'::UUID AS query_id, 'q' AS text"},
            "judgements": {
                "query": "SELECT '6b3d0a6e-0000-4000-8000-000000000001' AS query_id, 7.0::DOUBLE AS doc_id, 1.0 AS relevance"
            },
        }
    )
    assert [d.doc_id for d in found.documents] == ["7", "12"]
    assert found.qrels == [Qrel("6b3d0a6e-0000-4000-8000-000000000001", "7", 1)]


def test_splits_and_groups_of_queries() -> None:
    """A split that is not taken over moves test queries into training. A query that says none gets the hash split."""
    rows = "('a', 'one', 'train', 'x'), ('b', 'two', 'validation', NULL), ('c', 'three', 'test', 'y'), ('d', 'four', NULL, NULL)"
    query = f'SELECT * FROM (VALUES {rows}) AS t(query_id, text, split, "group")'
    found = read({"queries": {"query": query}})
    assert [q.split for q in found.queries] == ["train", "dev", "test", assign_split("four")]
    assert found.labels == {"a": "x", "c": "y"}


def test_judgements_without_a_grade_are_positive(tmp_path: Path) -> None:
    """A table of clicked pairs has no grade; read as 0 it would judge everything irrelevant."""
    parts = written(tmp_path)
    parts["judgements"]["path"] = str(as_csv(tmp_path / "pairs", [{"query_id": "1", "doc_id": "007"}]))
    assert read(parts).qrels == [Qrel("1", "007", 1)]


def test_a_column_that_only_late_records_have(tmp_path: Path) -> None:
    """Columns guessed from the first records lose the titles that begin later."""
    rows = [{"doc_id": str(n), "text": "x"} for n in range(30_000)] + [{"doc_id": "last", "text": "y", "title": "T"}]
    found = read({"documents": {"path": str(as_jsonl(tmp_path / "late", rows))}})
    late = list(found.documents)
    assert late[-1] == Document("last", "T", "y") and late[0].title == ""


def test_columns_in_another_order_are_read_by_name(tmp_path: Path) -> None:
    """The second file of a glob, its columns swapped, would give ids as texts."""
    for name, rows in {"a": [{"doc_id": "1", "text": "x"}], "b": [{"text": "y", "doc_id": "2"}]}.items():
        as_csv(tmp_path / name, rows)
    found = read({"documents": {"path": str(tmp_path / "*.csv")}})
    assert [(d.doc_id, d.text) for d in found.documents] == [("1", "x"), ("2", "y")]


def documents(query: str, **columns: str) -> dict[str, dict[str, Any]]:
    """A collection of one query for documents."""
    return {"documents": {"query": query, "columns": columns}}


REFUSED: list[tuple[str, dict[str, dict[str, Any]], str]] = [
    (
        "no such column",
        documents("SELECT 1 AS article_id, 'x' AS body", doc_id="article_no", text="body"),
        r"data\.documents has no column 'article_no' for doc_id \(did you mean 'article_id'\?\): it has article_id, body; "
        r"say in data\.documents\.columns",
    ),
    (
        "NULL ids",
        documents("SELECT CASE WHEN n % 3 = 1 THEN NULL ELSE n END AS doc_id, 'x' AS text FROM range(40000) t(n)"),
        r"13333 of 40000 rows have no doc_id, first row 1 counted from 0",
    ),
    ("blank ids", documents("SELECT ' ' AS doc_id, 'x' AS text"), r"1 of 1 rows have no doc_id"),
    (
        "fails",
        documents("SELECT doc_id FROM nowhere"),
        r"(?s)data\.documents: DuckDB says: .*nowhere does not exist.*Correct",
    ),
    (
        "fails late",
        documents("SELECT n AS doc_id, CASE WHEN n = 9 THEN error('nine') END AS text FROM range(10) t(n)"),
        "nine",
    ),
    ("no row", documents("SELECT 1 AS doc_id, 'x' AS text WHERE false"), r"data\.documents gives no row"),
    ("writes", documents("CREATE TABLE t AS SELECT 1 AS doc_id"), r"the query is CREATE, expected one SELECT"),
    ("two", documents("SELECT 1 AS doc_id; SELECT 2"), r"SELECT and SELECT, expected one SELECT"),
    ("writes within", documents("SELECT nextval('main.s') AS doc_id, 'x' AS text"), r"DuckDB says: .*"),
    (
        "list as text",
        documents("SELECT 1 AS doc_id, ['a'] AS text"),
        r"the column text is list.*expected strings or integers",
    ),
    ("tab in an id", documents("SELECT 'a' || chr(9) AS doc_id, 'x' AS text"), r"holds a tab or a line break"),
    (
        "fraction as grade",
        {"judgements": {"query": "SELECT 'q' AS query_id, n AS doc_id, 1 - n / 2 AS relevance FROM range(2) t(n)"}},
        r"row 1 counted from 0: relevance '0\.5', expected an integer grade",
    ),
    (
        "no grade in a column of grades",
        {"judgements": {"query": "SELECT 'q' AS query_id, 'd' AS doc_id, NULL::INTEGER AS relevance"}},
        r"row 0 counted from 0: relevance ''",
    ),
    (
        "two grades",
        {"judgements": {"query": "SELECT 'q' AS query_id, 'd' AS doc_id, n AS relevance FROM range(2) t(n)"}},
        r"row 1 counted from 0: relevance 1 for \('q', 'd'\), judged 0 before",
    ),
    (
        "unknown split",
        {"queries": {"query": "SELECT 'q' AS query_id, 'x' AS text, 'held-out' AS split"}},
        r"data\.queries: found the split 'held-out', expected one of train, dev",
    ),
]


@pytest.mark.parametrize(("parts", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_read_is_refused(parts: dict[str, dict[str, Any]], message: str) -> None:
    """Passed over, each of these is a collection without some of its rows, or with wrong ones."""
    with pytest.raises(SourceError, match=message):
        read(parts)


def test_a_list_in_a_json_file_is_no_text(tmp_path: Path) -> None:
    """Its JSON would be embedded as if it were the text."""
    path = as_jsonl(tmp_path / "lists", [{"doc_id": "1", "text": ["a", "b"]}])
    with pytest.raises(SourceError, match=r'text holds a list or an object, expected text or a number: \["a","b"\]'):
        read({"documents": {"path": str(path)}})


def test_a_damaged_line_and_a_missing_file_are_named(tmp_path: Path) -> None:
    """A reader that skips what it cannot parse loses documents without a word."""
    path = as_jsonl(tmp_path / "articles", [{"doc_id": "1", "text": "x"}])
    path.write_text(path.read_text(encoding="utf-8") + '{"doc_id": 2 "text": ""}\n', encoding="utf-8")
    with pytest.raises(SourceError, match=r"(?s)articles\.jsonl.*at byte 14"):
        read({"documents": {"path": str(path)}})
    with pytest.raises(SourceError, match=rf"no file at {tmp_path}/gone\.csv: correct the path"):
        read({"documents": {"path": str(tmp_path / "gone.csv")}})


def test_a_query_that_needs_more_disk_than_there_is(tmp_path: Path) -> None:
    """A sort of everything ends in a bare out-of-memory message after an hour. Here the disk for it has 1 MB."""
    query = "SELECT n AS doc_id, repeat(md5(n::VARCHAR), 20) AS text FROM range(300000) t(n) ORDER BY md5(text)"
    with pytest.raises(SourceError, match=r"(?s)DuckDB says.*There is no room for what the query sorts or joins"):
        read(documents(query), "SET memory_limit = '40MB'", "SET max_temp_directory_size = '1MB'", "SET threads = 1")


def test_an_extension_that_cannot_be_loaded(tmp_path: Path) -> None:
    """Offline the first message of DuckDB is a URL; what to do is the next step."""
    with pytest.raises(
        SourceError, match=r"(?s)statement 1 of data\.sql_setup.*bring its file here and put INSTALL 'FILE'"
    ):
        read(documents("SELECT 1"), f"SET extension_directory = '{tmp_path}'; LOAD sqlite")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, r"the collection 'shop' has no table: expected \[data\.documents\]"),
        ({"documents": {}}, r"\[data\.documents\] has neither path nor query"),
        ({"documents": {"path": "a.csv", "query": "FROM a"}}, r"\[data\.documents\] has path and query"),
        ({"documents": {"path": "a.xlsx"}}, r"a\.xlsx'.*ends in \.parquet, \.csv, \.tsv, \.jsonl"),
    ],
)
def test_parts_that_name_nothing_to_read(parts: dict[str, dict[str, Any]], message: str) -> None:
    """Such settings are a mistake of the settings: an empty collection would be found hours later."""
    with pytest.raises(SettingsError, match=message):
        source(parts)


def test_fingerprint_of_files_follows_bytes_and_columns(tmp_path: Path) -> None:
    """A file that was replaced within the same size, or a map that was corrected, must be read again."""
    parts = written(tmp_path)
    before, look = source(parts).fingerprint("shop"), source(parts).look("shop")
    assert source(parts).fingerprint("shop") == before
    as_jsonl(tmp_path / "questions", [{"query_id": "1", "text": "who stirS"}, {"query_id": "2", "text": "which day"}])
    tables._known.clear()
    after = source(parts).fingerprint("shop")
    assert after != before and source(parts).look("shop") != look
    parts["documents"]["columns"] = {"doc_id": "article_no", "text": "body"}
    assert source(parts).fingerprint("shop") != after


def test_fingerprint_of_a_query_follows_rows_and_not_their_order(tmp_path: Path) -> None:
    """A database gives rows in any order: with it in the fingerprint everything is stale with each look. Doubles count, too."""

    def of(rows: str) -> str:
        tables._known.clear()
        return source(documents(f"SELECT * FROM (VALUES {rows}) AS t(doc_id, text)")).fingerprint("shop")

    assert of("(1, 'a'), (2, 'b')") == of("(2, 'b'), (1, 'a')")
    different = ["(1, 'a'), (2, 'b')", "(1, 'b'), (2, 'a')", "(1, 'a')", "(1, 'a'), (2, 'b'), (2, 'b'), (2, 'b')"]
    assert len({of(rows) for rows in different}) == 4


def test_a_version_stands_for_the_rows(tmp_path: Path) -> None:
    """Ten million rows of a database cannot be read twice a minute. A version that fails is no fingerprint of nothing."""
    path = tmp_path / "version.csv"
    path.write_text("v\n1\n", encoding="utf-8")

    def now(query: str = "SELECT 1 AS doc_id, error('read') AS text") -> str:
        tables._known.clear()
        return source(documents(query), version=f"SELECT max(v) FROM '{path}'").fingerprint("shop")

    before = now()
    assert now() == before and now("SELECT 2 AS doc_id, 'x' AS text") != before
    path.write_text("v\n2\n", encoding="utf-8")
    assert now() != before


def test_what_moves_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint is kept for 10 s. Kept over a reading, it would stand for rows that came meanwhile."""
    path = as_csv(tmp_path / "articles", [{"doc_id": "1", "text": "old"}])
    moving = source(documents(f"FROM '{path}'"))
    rows, calls = tables.Tables._rows, []

    def slow(self: tables.Tables, part: Any) -> Any:
        yield from rows(self, part)
        calls.append(part)
        if len(calls) == 1:
            as_csv(tmp_path / "articles", [{"doc_id": "1", "text": "new"}])

    monkeypatch.setattr(tables.Tables, "_rows", slow)
    found, key = read_settled(moving, "shop")
    assert [d.text for d in found.documents] == ["new"] and len(calls) == 2
    assert moving.fingerprint("shop") == key


def test_a_read_only_transaction_holds_what_looks_like_a_select(tmp_path: Path) -> None:
    """A function that writes hides in a SELECT; the attached database must stay as it is."""
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SEQUENCE s")
    with pytest.raises(SourceError, match=r"read-only mode"):
        read(documents("SELECT nextval('shop.s') AS doc_id, 'x' AS text"), f"ATTACH '{path}' AS shop")


def test_grades_are_told_apart_from_faults() -> None:
    """The class decides whether a reader shows a record or a file as broken."""
    with pytest.raises(MalformedRecordError):
        read({"judgements": {"query": "SELECT 1 AS query_id, 1 AS doc_id, 'high' AS relevance"}})


def test_settings_reach_the_source() -> None:
    """Options that are lost on the way give a source without tables."""
    settings = Settings(
        collection="sql:shop", documents=PartOptions(query="SELECT 1 AS nr, 'x' AS text", columns={"doc_id": "nr"})
    )
    assert open_by_settings(settings).read("shop").documents == [Document("1", "", "x")]


def test_clicks_of_a_table_train_alone() -> None:
    """A table of clicks that is read as judgements would choose the champion by what stood on top."""
    found = read(
        {
            "documents": {"query": "SELECT n AS doc_id, 'x' AS text FROM range(2) t(n)"},
            "clicks": {
                "query": "SELECT 'how' AS query, n AS nr, 100 AS shown, 50 * n AS clicked FROM range(2) t(n)",
                "columns": {"doc_id": "nr"},
            },
        }
    )
    assert [(q.doc_id, q.relevance) for q in found.qrels] == [("1", 1)]
    assert [(q.text, q.split) for q in found.queries] == [("how", "train")]


DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not (DATA / "scifact").is_dir(), reason="shared/data/scifact is not here")
def test_scifact_is_the_same_from_every_source(tmp_path: Path) -> None:
    """Equal tables have equal versions, so a collection that moves into a database pays no pair twice."""
    expected = open_source(f"beir:{DATA / 'scifact'}", Options(), DEFAULT_RULES).read("scifact")
    files = sorted((DATA / "scifact" / "qrels").glob("*.tsv"))
    grades = [f"SELECT *, '{path.stem}' AS split FROM read_csv('{path}', all_varchar = true)" for path in files]
    parts: dict[str, dict[str, Any]] = {
        "documents": {"path": str(DATA / "scifact" / "corpus.jsonl"), "columns": {"doc_id": "_id"}},
        "queries": {"path": str(DATA / "scifact" / "queries.jsonl"), "columns": {"query_id": "_id"}},
        "judgements": {
            "query": " UNION ALL ".join(grades),
            "columns": {"query_id": "query-id", "doc_id": "corpus-id", "relevance": "score"},
        },
    }
    assert versions(read(parts)) == versions(expected)
    for part, options in parts.items():
        ours = options.get("query") or f"FROM read_json('{options['path']}', convert_strings_to_integers = false)"
        duckdb.sql(ours).write_parquet(str(tmp_path / f"{part}.parquet"))
    for key in ("path", "query"):
        moved = {
            part: {
                key: f"{tmp_path}/{part}.parquet" if key == "path" else f"FROM '{tmp_path}/{part}.parquet'",
                "columns": o["columns"],
            }
            for part, o in parts.items()
        }
        assert versions(read(moved)) == versions(expected)


def versions(found: Collection) -> list[str]:
    """Of the rows of each table, in any order."""
    documents = ((d.doc_id, d.title, d.text) for d in found.documents)
    queries = ((q.query_id, q.text, q.split) for q in found.queries)
    return [
        fingerprint_rows(rows)
        for rows in (documents, queries, ((q.query_id, q.doc_id, q.relevance) for q in found.qrels))
    ]
