"""Documents in a file: the same rows, the same version, and what the checks find in them."""

import errno
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.documents import StoredDocuments, sample
from distill_assets.errors import NoSpaceError
from distill_assets.records import Document, fingerprint_rows, hash_text
from distill_assets.storage.incoming import find_changed, find_copies, find_empty, find_known
from distill_assets.storage.tables import schema_of
from distill_assets.storage.warehouse import SliceWrite, Warehouse

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NO_PASSAGES = schema_of("passages").empty_table()
DOCUMENTS = [Document("d1", "", "one"), Document("d2", "Two", "two"), Document("d3", "", "one")]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A warehouse in which the batch `old` has three documents, and `gone` one that is no part of the collection."""
    found = Warehouse(tmp_path / "w.duckdb")
    old = [Document("d1", "", "one"), Document("d2", "Two", "another text"), Document("x", "", "copied")]
    found.write(SliceWrite(table="corpus", rows=StoredDocuments(old), slice_key="old"))
    found.write(SliceWrite(table="corpus", rows=StoredDocuments([Document("g", "", "gone")]), slice_key="gone"))
    return found


def rows_of(documents: list[Document]) -> list[dict[str, str]]:
    """The rows of `corpus`, by hand."""
    return [
        {"doc_id": d.doc_id, "title": d.title, "text": d.text, "content_hash": hash_text(d.content)} for d in documents
    ]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), max_size=5))
def test_the_version_is_that_of_the_rows_in_memory(texts: list[tuple[str, str, str]]) -> None:
    """Every stored corpus would count as changed, and be mined, scored and trained again."""
    documents = [
        Document(*each) for each in [*texts, ("long", "é" * 64, "日" * 30_000), ("edge", "a" * 127, "a" * 128)]
    ]
    stored = StoredDocuments(documents)
    columns = sorted(schema_of("corpus").names)
    assert stored.version == fingerprint_rows(tuple(row[name] for name in columns) for row in rows_of(documents))
    assert stored == documents and len(stored) == len(documents) and stored.rows(9) == rows_of(documents)


def test_the_file_holds_the_rows_of_the_corpus() -> None:
    """A column of another name or type fails at the insert, after everything was read."""
    assert pq.read_schema(StoredDocuments([]).path) == schema_of("corpus")
    assert list(StoredDocuments([])) == [] and not StoredDocuments([]) and StoredDocuments([]).version


def test_many_documents_come_back_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that is lost or written twice moves every number after it."""
    monkeypatch.setattr("distill_assets.documents._ROWS", 10)
    monkeypatch.setattr("distill_assets.documents._CHARACTERS", 30)
    documents = [Document(f"d{i}", "", "t" * i) for i in range(1, 48)]
    assert StoredDocuments(documents) == documents
    assert StoredDocuments(documents) != documents[1:]


def test_repeated_ids_are_counted_with_those_of_blank_documents() -> None:
    """The id of a blank document that another one has, too, would take that one's judgements."""
    stored = StoredDocuments([Document(key, "", "text") for key in ("b", "a", "b", "c", "b")])
    assert stored.repeated_ids() == (1, "b")
    assert stored.repeated_ids(["c", "new", "a"]) == (3, "a")
    assert StoredDocuments([]).repeated_ids(["a"]) == (0, "")


def test_a_sample_is_chosen_by_content_alone() -> None:
    """A sample that follows the order of the file is of the first, often the oldest, documents."""
    documents = [Document(f"d{i}", "", f"text {i}") for i in range(50)]
    by_hash = sorted(documents, key=lambda d: hash_text(d.content))[:7]
    assert sample(documents, 7) == sample(documents[::-1], 7) == by_hash
    assert sample(documents, 50) == documents


@pytest.mark.whole
def test_the_file_goes_with_its_documents() -> None:
    """Ten million documents of each batch that was ever read would fill the disk of temporary files."""
    stored = StoredDocuments(DOCUMENTS)
    folder = stored.path.parent
    assert folder.is_dir()
    del stored
    gc.collect()
    assert not folder.exists()


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A batch would be in quarantine for ever for a full disk, and what was written of it fill the disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(pq.ParquetWriter, "write_batch", _full)
    with pytest.raises(NoSpaceError, match=r"documents of a batch: .*No space left.* MB are free.*TMPDIR"):
        StoredDocuments(DOCUMENTS)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_reader_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A source that fails at its last line would leave a file each time that it is tried."""

    def broken() -> Iterator[Document]:
        yield DOCUMENTS[0]
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(PermissionError):
        StoredDocuments(broken())
    assert list(tmp_path.iterdir()) == []


def test_rows_of_a_file_replace_a_slice(warehouse: Warehouse) -> None:
    """A slice that is half old and half new has rows that no source ever brought."""
    warehouse.write(SliceWrite(table="corpus", rows=StoredDocuments(DOCUMENTS), slice_key="old"))
    expected = [{"batch": "old", **row} for row in rows_of(DOCUMENTS)]
    assert warehouse.read("corpus", slice_keys=["old"]).to_pylist() == expected
    assert warehouse.slice_info("corpus", "old").num_rows == 3  # type: ignore[union-attr]
    assert warehouse.read("corpus", slice_keys=["gone"]).num_rows == 1


@pytest.mark.parametrize("fault", ["a repeated id", "a full disk"])
def test_a_failed_insert_keeps_the_old_slice(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The old documents would be gone, and the new ones half there."""
    before = warehouse.read("corpus").to_pylist()
    if fault == "a full disk":
        monkeypatch.setattr("distill_assets.storage.warehouse._record_slice", _full)
    documents = StoredDocuments([*DOCUMENTS, *DOCUMENTS[:1]] if fault == "a repeated id" else DOCUMENTS)
    with pytest.raises(Exception, match=r"more than once, first \('d1',\)|no space for a write.*nothing was stored"):
        warehouse.write(SliceWrite(table="corpus", rows=documents, slice_key="old"))
    assert warehouse.read("corpus").to_pylist() == before


def test_copies_within_and_across_batches(warehouse: Warehouse) -> None:
    """A document that comes again under its own id is no copy; the same words under another id are.

    d1 and d3 share their content, c has that of another batch's x, d1 is its own in another batch, g's batch does not count.
    """
    stored = StoredDocuments([*DOCUMENTS, Document("c", "", "copied"), Document("k", "", "gone")])
    expected = [("c", "old", "x"), ("d1", "", "d3"), ("d3", "", "d1")]
    assert find_copies(warehouse, stored, ["old"], 8) == (3, expected)
    assert find_copies(warehouse, stored, ["old"], 1) == (3, expected[:1])
    assert find_copies(warehouse, StoredDocuments(DOCUMENTS[2:]), ["old"], 8) == (1, [("d3", "old", "d1")])


def test_letters_and_digits_of_any_script_count(warehouse: Warehouse) -> None:
    """A collection in Greek would be refused as one of signs alone."""
    texts = ["αβγ", "图书", "7", "½", "Ⅷ", "٣", "ª", "---", "🙂", "\u0301", "_"]
    stored = StoredDocuments([Document(f"{i:02}", "", text) for i, text in enumerate(texts)])
    empty = [(f"{i:02}", text) for i, text in enumerate(texts) if not any(map(str.isalnum, text))]
    assert find_empty(warehouse, stored, 8) == (len(empty), empty) == (4, empty)


def test_ids_with_another_text_elsewhere(warehouse: Warehouse) -> None:
    """An id that stands for two documents counts once in a sample, and as often as there are such ids in the figure."""
    stored = StoredDocuments([Document("d2", "Two", "two"), Document("x", "", "other"), Document("g", "", "other")])
    expected = [("d2", "Two two", "old", "Two another text"), ("x", "other", "old", "copied")]
    assert find_changed(warehouse, stored, NO_PASSAGES, ["old"], 9) == (2, expected)
    total, chosen = find_changed(warehouse, stored, NO_PASSAGES, ["old"], 1)
    assert total == 2 and len(chosen) == 1 and chosen[0] in expected
    assert find_changed(warehouse, stored, NO_PASSAGES, [], 9) == (0, [])


def test_a_document_in_passages_is_compared_as_a_whole(tmp_path: Path) -> None:
    """A paragraph at the top moves the text of every passage: each would be told as another document under its id."""

    def cut(texts: dict[str, str]) -> tuple[StoredDocuments, pa.Table]:
        rows = {"doc_id": list(texts), "parent_id": [d.partition("#")[0] for d in texts]}
        table = pa.table(rows, schema=schema_of("passages"))
        return StoredDocuments(Document(d, "", text) for d, text in texts.items()), table.filter(
            pc.not_equal(table["doc_id"], table["parent_id"])
        )

    found = Warehouse(tmp_path / "w.duckdb")
    old, passages = cut({"a#1": "x", "a#2": "y", "b#1": "v", "b#2": "w", "c": "u"})
    found.write(
        SliceWrite(table="corpus", rows=old, slice_key="old"),
        SliceWrite(table="passages", rows=passages, slice_key="old"),
    )
    moved = cut({"a#1": "n", "a#2": "x", "a#3": "y", "b#1": "v", "b#2": "w", "c": "u"})
    assert find_changed(found, *moved, ["old"], 9) == (1, [("a", "n x y", "old", "x y")])
    assert find_changed(found, *cut({"b": "v w!"}), ["old"], 9) == (1, [("b", "v w!", "old", "v w")])
    assert find_changed(found, *cut({"c#1": "u", "c#2": "t"}), ["old"], 9) == (1, [("c", "u t", "old", "u")])
    assert find_changed(found, old, passages, ["old"], 9) == (0, [])


def test_known_ids_are_those_of_here_and_of_the_others(warehouse: Warehouse) -> None:
    """A judged document that another batch brought would be told as missing."""
    assert find_known(warehouse, StoredDocuments(DOCUMENTS), ["old"], ["d3", "x", "g", "no"]) == {"d3", "x"}
    assert find_known(warehouse, StoredDocuments([]), [], []) == frozenset()
