"""ZIP archives and Parquet of a BEIR set: the same collection as its folder, and nothing that an archive should not do."""

import errno
import json
import stat
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_assets.documents import StoredDocuments
from distill_assets.errors import MalformedRecordError, NoSpaceError, SourceError, UnknownBatchError
from distill_assets.records import Collection, Document, Qrel
from distill_assets.sources.base import read_settled
from distill_assets.sources.beir import BeirSource

CORPUS = [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "2", "text": "two", "metadata": {"url": "u"}}]
QUERIES = [{"_id": "q1", "text": "first"}, {"_id": "q2", "text": "second"}]
QRELS = {
    "train": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
    "test": "query-id\tcorpus-id\tscore\nq2\t2\t2\nq2\td1\t0\n",
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go."""
    found = tmp_path / "temporary"
    found.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(found))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BEIR folder `tiny`."""
    found = tmp_path / "tiny"
    (found / "qrels").mkdir(parents=True)
    for name, records in (("corpus", CORPUS), ("queries", QUERIES)):
        lines = "\n".join(map(json.dumps, records))
        (found / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for name, text in QRELS.items():
        (found / "qrels" / f"{name}.tsv").write_text(text, encoding="utf-8")
    return found


def pack(folder: Path, archive: Path, top: str = "tiny/") -> Path:
    """The folder's files as BEIR publishes them, with what macOS adds."""
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, f"{top}{path.relative_to(folder)}")
        packed.writestr(f"__MACOSX/{top}._corpus.jsonl", b"\x00\xff")
        packed.writestr(f"{top}qrels/._test.tsv", b"\x00\xff")
    return archive


def told(collection: Collection) -> tuple[Any, ...]:
    """All that is stored of a collection."""
    assert isinstance(collection.documents, StoredDocuments)
    return collection.documents.version, list(collection.documents), collection.queries, collection.qrels


def test_an_archive_is_its_folder(folder: Path, tmp_path: Path, place: Path) -> None:
    """The same set under another form would be mined and scored anew. BEIR's archives hold one folder; some hold none."""
    expected = told(BeirSource(folder).read("tiny"))
    assert expected[1] == [Document("d1", "T", "one"), Document("2", "", "two")] and len(expected[3]) == 3
    for top in ("tiny/", ""):
        source = BeirSource(pack(folder, tmp_path / "packed" / "tiny.zip", top))
        assert (source.name, source.batches(), source.is_inbox, source.refused()) == ("beir:tiny", ["tiny"], False, {})
        collection, key = read_settled(source, "tiny")
        assert told(collection) == expected and collection.unread == {} and key == source.fingerprint("tiny")
    del collection
    assert list(place.glob("*")) == [], "nothing stays unpacked"


def test_an_archive_in_an_inbox_is_a_batch(folder: Path, tmp_path: Path) -> None:
    """A set that is dropped as it was downloaded would wait for ever, and nobody be told."""
    inbox = tmp_path / "inbox"
    pack(folder, inbox / "first.zip")
    pack(folder, inbox / "no name.zip")
    pack(folder, inbox / ".coming.zip")
    folder.rename(inbox / "second")
    source = BeirSource(inbox)
    assert source.batches() == ["first", "second"] and source.is_inbox
    assert list(source.refused()) == ["no name.zip"]
    assert told(source.read("first")) == told(source.read("second"))
    before = source.look("first"), source.fingerprint("first")
    pack(inbox / "second", inbox / "first.zip", "")
    assert source.look("first") != before[0] and source.fingerprint("first") != before[1]
    pack(inbox / "second", inbox / "second.zip")
    assert source.batches() == ["first", "second"] and "remove one of the two" in source.refused()["second.zip"]
    for unknown in ("third", "first.zip"):
        with pytest.raises(UnknownBatchError, match=f"no batch '{unknown}'"):
            source.read(unknown)


def _entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo(name)
    found.external_attr, found.compress_type = mode << 16, zipfile.ZIP_DEFLATED
    return found


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (_entry("../corpus.jsonl"), "a name that leads elsewhere"),
        (_entry("tiny/../../corpus.jsonl"), "a name that leads elsewhere"),
        (_entry("/etc/corpus.jsonl"), "a name that leads elsewhere"),
        (_entry("..\\corpus.jsonl"), "a name that leads elsewhere"),
        (_entry("C:/corpus.jsonl"), "a name that leads elsewhere"),
        (_entry("tiny/link", stat.S_IFLNK | 0o777), "a link"),
    ],
)
def test_an_archive_stays_in_its_folder(tmp_path: Path, place: Path, entry: zipfile.ZipInfo, told: str) -> None:
    """It would overwrite a file of the user, or read one into the collection."""
    archive = tmp_path / "tiny.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr(_entry("tiny/corpus.jsonl"), '{"_id": "1", "text": "x"}')
        packed.writestr(entry, "{}")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SourceError, match=rf"tiny\.zip holds .*{told}.*nothing was unpacked"):
        BeirSource(archive).read("tiny")
    assert sorted(tmp_path.iterdir()) == before and list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("limits", "told"),
    [({"_MAX_ENTRIES": 4}, "8 entries"), ({"_MAX_BYTES": 50_000, "_MAX_RATIO": 10}, "more than 10 times as much")],
)
def test_a_bomb_is_not_unpacked(
    folder: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int], told: str
) -> None:
    """Ten terabytes of zeros in ten megabytes fill the disk of everybody who works on the machine."""
    (folder / "zeros.txt").write_bytes(bytes(1_000_000))
    archive = pack(folder, tmp_path / "tiny.zip")
    assert BeirSource(archive).read("tiny").unread, "within the limits"
    for name, limit in limits.items():
        monkeypatch.setattr(f"distill_assets.sources.archives.{name}", limit)
    with pytest.raises(SourceError, match=told):
        BeirSource(archive).read("tiny")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("claimed", [10, 2_000])
def test_an_entry_of_another_size_than_it_says_is_refused(tmp_path: Path, place: Path, claimed: int) -> None:
    """Sizes that are checked and then not held to are no limit. The text has 1,000 bytes."""
    archive, name = tmp_path / "tiny.zip", "corpus.jsonl"
    text = json.dumps({"_id": "1", "text": "x" * 976})
    assert len(text) == 1000
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name, text)
    content = archive.read_bytes()
    assert content.count((1000).to_bytes(4, "little")) == 2
    archive.write_bytes(content.replace((1000).to_bytes(4, "little"), claimed.to_bytes(4, "little")))
    with pytest.raises(SourceError, match=r"tiny\.zip cannot be unpacked"):
        BeirSource(archive).read("tiny")
    assert list(place.iterdir()) == []


def test_what_is_no_archive_is_told(tmp_path: Path, folder: Path) -> None:
    """A download that was cut off is a batch that cannot be read, and holds up no other."""
    archive = pack(folder, tmp_path / "inbox" / "cut.zip")
    archive.write_bytes(archive.read_bytes()[:-30])
    source = BeirSource(tmp_path / "inbox")
    assert source.batches() == ["cut"] and source.fingerprint("cut")
    with pytest.raises(SourceError, match=r"cut\.zip cannot be unpacked: .*copy it again"):
        source.read("cut")


def test_a_fault_in_an_archive_names_the_archive(folder: Path, tmp_path: Path) -> None:
    """The path of a temporary folder says nothing, and another one each time fills the quarantine."""
    (folder / "corpus.jsonl").write_text('{"_id": "1"}\n', encoding="utf-8")
    archive = pack(folder, tmp_path / "tiny.zip")
    with pytest.raises(MalformedRecordError, match=rf"^{archive}/tiny/corpus\.jsonl, line 1: expected a string"):
        BeirSource(archive).read("tiny")


def test_a_full_disk_is_no_fault_of_the_archive(
    folder: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch would be in quarantine until its content changes, which it never will."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = pack(folder, tmp_path / "tiny.zip")
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(NoSpaceError, match=r"tiny/corpus\.jsonl of an archive, 0 MB: .*MB are free"):
        BeirSource(archive).read("tiny")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("form", ["shards", "files"])
def test_parquet_is_read_as_the_lines_are(folder: Path, form: str) -> None:
    """The sets of the hub are Parquet: their parts would be named as unread. Scores are integers there, titles may be missing."""
    expected = told(BeirSource(folder).read("tiny"))
    before = BeirSource(folder).fingerprint("tiny")
    for name, records in (("corpus", CORPUS), ("queries", QUERIES)):
        (folder / f"{name}.jsonl").unlink()
        shards = [records[:1], records[1:]] if form == "shards" else [records]
        for number, shard in enumerate(shards):
            path = folder / f"{name}.parquet"
            if form == "shards":
                path = folder / name / f"{name}-0000{number}-of-00002.parquet"
                path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(shard), path)
    (folder / "qrels" / "test.tsv").unlink()
    judged = {"query-id": ["q2", "q2"], "corpus-id": ["2", "d1"], "score": pa.array([2, 0], pa.int64())}
    pq.write_table(pa.table(judged), folder / "qrels" / "test-00000-of-00001.parquet")
    source = BeirSource(folder)
    assert not source.is_inbox and source.fingerprint("tiny") != before
    collection = source.read("tiny")
    assert told(collection)[:3] == expected[:3] and set(collection.qrels) == set(expected[3])
    assert Qrel("q2", "2", 2) in collection.qrels and collection.unread == {}


def test_a_part_in_two_forms_is_read_once(folder: Path) -> None:
    """Each document would be there twice, or a set that was read before be refused. What is not read is told."""
    pq.write_table(pa.Table.from_pylist([{"_id": "other", "text": "other"}]), folder / "corpus.parquet")
    (folder / "queries").mkdir()
    pq.write_table(pa.Table.from_pylist(QUERIES), folder / "queries" / "0.parquet")
    collection = BeirSource(folder).read("tiny")
    assert [d.doc_id for d in collection.documents] == ["d1", "2"]
    assert list(collection.unread) == ["corpus.parquet", "queries/0.parquet"]
    assert collection.unread["queries/0.parquet"].startswith("queries is read from queries.jsonl")
    (folder / "queries.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist(QUERIES), folder / "queries.parquet")
    with pytest.raises(SourceError, match=r"queries\.parquet is there twice, also as 0\.parquet"):
        BeirSource(folder).read("tiny")


def test_faults_in_parquet_name_file_and_row(folder: Path) -> None:
    """A NULL would be the text "None", and a file that is no Parquet a stack trace."""
    path = folder / "corpus.parquet"
    (folder / "corpus.jsonl").unlink()
    pq.write_table(
        pa.table({"_id": ["1", "2"], "text": ["x", None], "when": pa.array([0, 0], pa.timestamp("us"))}), path
    )
    with pytest.raises(MalformedRecordError, match=r"corpus\.parquet, line 2: expected a string under \"text\""):
        BeirSource(folder).read("tiny")
    path.write_bytes(b"PAR1")
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        BeirSource(folder).read("tiny")
