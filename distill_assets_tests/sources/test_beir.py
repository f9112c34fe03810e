"""BEIR folders: format, splits, inboxes, and every bad input with file and line."""

import gzip
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_assets.errors import MalformedRecordError, SourceError, UnknownBatchError, UnknownJudgementError
from distill_assets.records import Document, Qrel, assign_split
from distill_assets.sources.base import Rules, check_collection, given_splits, read_settled
from distill_assets.sources.beir import BeirSource

DATA = Path(__file__).parents[3] / "shared" / "data"
HEADER = "query-id\tcorpus-id\tscore\n"
# Buckets of the hash split, checked in test_base: where these ids fall when no file decides.
HASHED = {"1": "train", "2": "train", "11": "dev", "6": "test"}


def write_batch(
    folder: Path,
    documents: dict[str, str] | None = None,
    queries: dict[str, str] | None = None,
    **qrels: str,
) -> Path:
    """Write a BEIR folder; each of `qrels` is the content of one file below the header, spaces standing for tabs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (("corpus.jsonl", documents), ("queries.jsonl", queries)):
        if texts is not None:
            lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
            (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for stem, rows in qrels.items():
        (folder / "qrels").mkdir(exist_ok=True)
        (folder / "qrels" / f"{stem}.tsv").write_text(HEADER + rows.replace(" ", "\t"), encoding="utf-8")
    return folder


def read_splits(folder: Path) -> dict[str, str]:
    """Split of every query of the folder's only batch."""
    source = BeirSource(folder)
    return {query.query_id: query.split for query in source.read(source.batches()[0]).queries}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound collection of two documents and four queries, one for each bucket of the hash split and one more."""
    return write_batch(
        tmp_path / "tiny",
        {"d1": "one", "d2": "two"},
        {key: key for key in HASHED},
        train="1 d1 1\n11 d2 1\n",
        test="6 d1 2\n",
    )


def test_a_folder_is_one_batch_named_after_it(folder: Path) -> None:
    """A collection read as an inbox would find no batch; its sub-folder `qrels` must not become one either."""
    source = BeirSource(folder)
    assert source.name == "beir:tiny"
    assert source.batches() == ["tiny"]
    assert BeirSource(folder, name="mine").name == "mine"
    collection = source.read("tiny")
    assert collection.documents == [Document("d1", "", "one"), Document("d2", "", "two")]
    assert sorted(collection.qrels, key=str) == [Qrel("1", "d1", 1), Qrel("11", "d2", 1), Qrel("6", "d1", 2)]
    assert collection.num_dropped_qrels == 0


def test_a_relative_root_is_named_after_the_real_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`beir:.` has no folder name of its own, so that every collection would share one name on the leaderboard."""
    monkeypatch.chdir(folder)
    source = BeirSource(Path())
    assert (source.name, source.batches()) == ("beir:tiny", ["tiny"])


def test_titles_integer_ids_blank_lines_bom_and_metadata_are_tolerated(tmp_path: Path) -> None:
    """All five occur in published BEIR folders; a BOM kept in the first id would orphan its judgements."""
    (tmp_path / "b").mkdir()
    lines = [
        '{"_id": 7, "title": "T", "text": "x", "metadata": {}}',
        "",
        " \r",
        '{"_id": "k", "title": null, "text": "y"}\r',
    ]
    (tmp_path / "b" / "corpus.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    collection = BeirSource(tmp_path).read("b")
    assert collection.documents == [Document("7", "T", "x"), Document("k", "", "y")]
    assert next(iter(collection.documents)).content == "T x"


def test_unicode_line_separators_do_not_split_a_record(tmp_path: Path) -> None:
    """`str.splitlines` cuts at U+2028 and U+0085, which raw JSON texts may hold: half a record, wrong line numbers."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "corpus.jsonl").write_text(
        '{"_id": "d", "text": "a\u2028b\x85c"}\n', encoding="utf-8", newline="\n"
    )
    assert BeirSource(tmp_path).read("b").documents == [Document("d", "", "a\u2028b\x85c")]


# Inboxes.


def test_an_inbox_lists_its_batches_sorted_and_skips_the_rest(tmp_path: Path) -> None:
    """A half-copied hidden folder or a stray one would be ingested as a batch, or stop all others."""
    write_batch(tmp_path / "b2", queries={"1": "what"}, train="1 standing 1\n")
    write_batch(tmp_path / "b1", {"d1": "one"})
    write_batch(tmp_path / ".incoming", {"d9": "nine"})
    (tmp_path / "notes").mkdir()
    (tmp_path / "SOURCE.md").write_text("x", encoding="utf-8")
    source = BeirSource(tmp_path)
    assert source.batches() == ["b1", "b2"]
    assert source.read("b1").queries == []
    only_queries = source.read("b2")
    assert only_queries.documents == []
    assert only_queries.qrels == [Qrel("1", "standing", 1)]


@pytest.mark.parametrize("name", ["it's", 'say"so', "a b", "a..b", "tab\there", "line\nfeed", "-x"])
def test_folder_names_that_no_batch_may_have_are_refused(tmp_path: Path, name: str) -> None:
    """The name would become a partition key and a folder of checkpoints; skipping it would lose the data silently."""
    write_batch(tmp_path / name, {"d1": "one"})
    with pytest.raises(UnknownBatchError, match="cannot name a batch"):
        BeirSource(tmp_path).batches()
    with pytest.raises(UnknownBatchError, match="cannot name a batch"):
        BeirSource(tmp_path / name).batches()


@pytest.mark.parametrize("name", ["../tiny", "tiny/../tiny", "/etc", "nope"])
def test_only_listed_batches_are_read(folder: Path, name: str) -> None:
    """A partition key from the UI must not reach a folder outside the inbox."""
    source = BeirSource(folder)
    with pytest.raises(UnknownBatchError):
        source.read(name)
    with pytest.raises(UnknownBatchError):
        source.fingerprint(name)


def test_a_missing_or_empty_root_says_what_was_expected(tmp_path: Path) -> None:
    """A mistyped path would otherwise look like a collection without batches: nothing to do, run succeeded."""
    for root in (tmp_path / "nope", tmp_path):
        with pytest.raises(SourceError) as caught:
            BeirSource(root).batches()
        for part in (str(root), "corpus.jsonl", "queries.jsonl", "qrels/*.tsv", "correct the path"):
            assert part in str(caught.value)


# Fingerprints.


def test_the_fingerprint_changes_with_every_file_that_is_read_and_with_no_other(folder: Path) -> None:
    """A file left out of the hash could change without its batch becoming stale; the time of a copy must not count."""
    source = BeirSource(folder)
    seen = [source.fingerprint("tiny")]
    (folder / "SOURCE.md").write_text("not read", encoding="utf-8")
    (folder / "qrels" / "._test.tsv").write_bytes(b"\x00\x05")
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"):
        path.write_bytes(path.read_bytes())
    assert source.fingerprint("tiny") == seen[0]
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"):
        path.write_bytes(path.read_bytes() + b"\n")
        seen.append(source.fingerprint("tiny"))
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    seen.append(source.fingerprint("tiny"))
    seen.append(BeirSource(folder, Rules(max_unknown_qrels=0.5)).fingerprint("tiny"))
    assert len(set(seen)) == len(seen) == 6


def test_a_rewrite_that_keeps_size_and_time_changes_the_fingerprint(folder: Path) -> None:
    """A copy with preserved times may bring other bytes under the old size and time: the batch would never be read again."""
    source, corpus = BeirSource(folder), folder / "corpus.jsonl"
    before, times = source.fingerprint("tiny"), corpus.stat()
    corpus.write_bytes(corpus.read_bytes().replace(b"one", b"two"))
    os.utime(corpus, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (corpus.stat().st_size, corpus.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    assert source.fingerprint("tiny") != before


# Whether a batch is still being copied.


def test_a_look_changes_with_every_write_whatever_times_the_files_carry(folder: Path) -> None:
    """A copy with preserved times sets them into the past or the future: a look at times alone would call it settled."""
    source, corpus, looks = BeirSource(folder), folder / "corpus.jsonl", []
    for content in (b"one", b"one more", b"two more"):  # the third has the size of the second
        corpus.write_bytes(content)
        os.utime(corpus, (4e9, 4e9))  # the year 2096
        looks.append(source.look("tiny"))
        assert source.look("tiny") == looks[-1], "nothing has changed"
    (folder / "SOURCE.md").write_text("not read", encoding="utf-8")
    assert source.look("tiny") == looks[-1]
    (folder / "qrels" / "dev.tsv").write_text(HEADER, encoding="utf-8")
    assert len({*looks, source.look("tiny")}) == 4


def test_ready_says_complete_until_a_later_write(folder: Path) -> None:
    """Times that a copy preserves say nothing about the order of arrival here, neither those of the files nor of `_READY`."""
    source, ready = BeirSource(folder), folder / "_READY"
    assert source.look("tiny") is not None
    os.utime(folder / "corpus.jsonl", (4e9, 4e9))
    ready.touch()
    assert source.look("tiny") is None
    os.utime(ready, (5e9, 5e9))
    (folder / "queries.jsonl").write_text("{", encoding="utf-8")
    assert source.look("tiny") is not None, "written after _READY"


def test_a_file_that_changes_while_it_is_read_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old text would be stored as what the new file says, and the new file never be read."""
    source, corpus = BeirSource(folder), folder / "corpus.jsonl"
    texts = ["two", "three"]

    def check_then_change(*args: Any, **kwargs: Any) -> Any:
        collection = check_collection(*args, **kwargs)
        if texts:
            corpus.write_bytes(
                corpus.read_bytes().replace(b'"one"', b'"two"').replace(b'"two"', f'"{texts.pop(0)}"'.encode())
            )
        return collection

    monkeypatch.setattr("distill_assets.sources.base.check_collection", check_then_change)
    collection, key = read_settled(source, "tiny")
    assert {document.text for document in collection.documents} == {"three"} and texts == []
    assert key == source.fingerprint("tiny")


# What cannot be opened.


def make_folder(path: Path) -> None:
    """A folder in place of a file."""
    path.mkdir()


def make_dangling_link(path: Path) -> None:
    """A link to a file that is gone."""
    path.symlink_to(path.with_name("gone"))


def make_loop(path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path)


def make_pipe(path: Path) -> None:
    """A named pipe: a plain open would wait for a writer for ever."""
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """A socket, which cannot be opened."""
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/{path.name}")  # the path itself may be longer than a socket's name
    os.close(folder)


NOT_FILES = (make_folder, make_dangling_link, make_loop, make_pipe, make_socket)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/old.tsv"])
@pytest.mark.parametrize("make", NOT_FILES)
def test_what_is_no_file_is_refused_by_name_and_stops_nobody(
    tmp_path: Path, make: Callable[[Path], None], name: str
) -> None:
    """One odd entry stopped every batch of the inbox; passed over instead, the batch would be read without its documents."""
    write_batch(tmp_path / "sound", {"d1": "one"})
    bad = write_batch(tmp_path / "bad", {"d1": "one"}, {"1": "what"}, train="1 d1 1\n")
    target = bad / name
    target.unlink(missing_ok=True)
    make(target)
    source = BeirSource(tmp_path)
    assert source.batches() == ["bad", "sound"]
    assert source.read("sound").documents == [Document("d1", "", "one")]
    with pytest.raises(SourceError, match=rf"cannot read .*bad/{name}: .+; .*file"):
        source.read("bad")
    broken = source.fingerprint("bad"), source.look("bad")
    assert (source.fingerprint("bad"), source.look("bad")) == broken, "asked for once, not at every look"
    target.rmdir() if target.is_dir() else target.unlink()
    mended = {"corpus.jsonl": '{"_id": "d1", "text": "x"}\n', "queries.jsonl": '{"_id": "1", "text": "x"}\n'}
    target.write_text(mended.get(name, HEADER), encoding="utf-8")
    assert source.fingerprint("bad") != broken[0] and source.look("bad") != broken[1]
    source.read("bad")


@pytest.mark.parametrize("denied", ["", "corpus.jsonl", "qrels", "qrels/train.tsv"])
def test_what_may_not_be_read_is_refused_by_name_and_stops_nobody(
    tmp_path: Path, denied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder copied by another user stopped every batch of the inbox. The refusal is simulated: root may read everything."""
    write_batch(tmp_path / "sound", {"d1": "one"})
    bad = write_batch(tmp_path / "bad", {"d1": "one"}, {"1": "what"}, train="1 d1 1\n")
    source, sound = BeirSource(tmp_path), BeirSource(tmp_path).fingerprint("sound")
    whole, mode = source.fingerprint("bad"), (bad / denied).stat().st_mode
    (bad / denied).chmod(0)
    with monkeypatch.context() as patched:
        for function in ("open", "listdir"):
            allowed = getattr(os, function)

            def refuse(path: object, *rest: object, allowed: Callable = allowed) -> object:
                if str(path) == str(bad / denied):
                    raise PermissionError(13, "Permission denied", str(path))
                return allowed(path, *rest)

            patched.setattr(os, function, refuse)
        assert source.batches() == ["bad", "sound"]
        assert source.fingerprint("sound") == sound
        with pytest.raises(SourceError, match=rf"cannot read .*{bad / denied}: Permission denied; .*permissions"):
            source.read("bad")
        broken = source.fingerprint("bad")
        assert broken == source.fingerprint("bad") != whole
        assert source.look("bad") is not None
    (bad / denied).chmod(mode)
    assert source.fingerprint("bad") == whole, "read again when the permission is given"


def test_a_folder_that_cannot_be_reached_is_a_batch_that_is_refused(tmp_path: Path) -> None:
    """A link to a disk that is not mounted, passed over, would look as if its batch had been taken away on purpose."""
    write_batch(tmp_path / "sound", {"d1": "one"})
    (tmp_path / "linked").symlink_to(tmp_path / "not-mounted")
    source = BeirSource(tmp_path)
    assert source.batches() == ["linked", "sound"]
    with pytest.raises(SourceError, match="cannot read .*linked: No such file or directory; "):
        source.read("linked")
    before = source.fingerprint("linked")
    assert before == source.fingerprint("linked")
    write_batch(tmp_path / "not-mounted", {"d1": "one"})
    assert source.fingerprint("linked") != before
    assert source.read("linked").documents == [Document("d1", "", "one")]


def test_judgements_that_are_no_folder_are_refused(tmp_path: Path) -> None:
    """A file called `qrels`, as TREC ships it, would be passed over: queries without judgements, and no word about it."""
    bad = write_batch(tmp_path / "bad", {"d1": "one"}, {"1": "what"})
    (bad / "qrels").write_text("1 0 d1 1\n", encoding="utf-8")
    with pytest.raises(SourceError, match="cannot read .*qrels: Not a directory; expected a folder"):
        BeirSource(tmp_path).read("bad")


def test_a_file_name_that_is_no_text_is_shown_as_text(tmp_path: Path) -> None:
    """Such a name ends in a UnicodeEncodeError in the fingerprint, or in the table of reasons: the tick fails for all."""
    write_batch(tmp_path / "sound", {"d1": "one"})
    bad = write_batch(tmp_path / "bad", {"d1": "one"}, {"1": "what"})
    (bad / "qrels").mkdir()
    odd = bad / "qrels" / os.fsdecode(b"caf\xe9.tsv")
    odd.write_text("1 d1 high\n", encoding="utf-8")
    write_batch(tmp_path / os.fsdecode(b"caf\xe9"), {"d1": "one"})
    source = BeirSource(tmp_path)
    assert source.batches() == ["bad", "sound"]
    assert list(source.refused()) == ["caf\\xe9"]
    assert source.fingerprint("bad") != source.fingerprint("sound") and source.look("bad") is not None
    with pytest.raises(MalformedRecordError, match=r"caf\\xe9\.tsv, line 1") as caught:
        source.read("bad")
    assert str(caught.value).encode("utf-8")
    odd.write_text("1 d1 1\n", encoding="utf-8")
    assert source.read("bad").qrels == [Qrel("1", "d1", 1)]


# Splits.


def test_files_decide_the_split_and_test_wins_over_dev_over_train(tmp_path: Path) -> None:
    """A query judged in train and test would be trained on and tested. The hash would split otherwise here."""
    folder = write_batch(
        tmp_path / "t",
        {"d1": "one"},
        dict.fromkeys(("1", "2", "11", "6"), "what"),
        train="1 d1 1\n2 d1 1\n11 d1 1\n6 d1 1\n",
        validation="1 d1 1\n2 d1 1\n",
        test="1 d1 1\n",
    )
    assert read_splits(folder) == {"1": "test", "2": "dev", "11": "train", "6": "train"}


def test_without_a_dev_file_the_dev_bucket_of_train_becomes_dev(folder: Path) -> None:
    """Steps and champions would be chosen on nothing, or on test. Train queries never enter test."""
    assert assign_split("6") == "test"
    assert read_splits(folder) == {"1": "train", "11": "dev", "6": "test", "2": "train"}
    assert given_splits([("train", {"6", "11"}), ("test", {"2"})], {}) == {"6": "train", "11": "dev", "2": "test"}


@pytest.mark.parametrize("stem", ["test", "train", "dev"])
def test_a_single_file_falls_back_to_the_hash_split(tmp_path: Path, stem: str) -> None:
    """SQuAD's only file is test.tsv: all queries in test would leave nothing to train on."""
    rows = "".join(f"{query_id} d1 1\n" for query_id in HASHED)
    folder = write_batch(tmp_path / "t", {"d1": "one"}, {key: key for key in HASHED}, **{stem: rows})
    assert read_splits(folder) == HASHED


def test_a_file_with_a_header_alone_does_not_count(tmp_path: Path) -> None:
    """An empty dev.tsv would otherwise switch off both rules above: no dev query, and no word about it."""
    folder = write_batch(tmp_path / "t", {"d1": "one"}, {key: key for key in HASHED}, dev="", test="1 d1 1\n6 d1 1\n")
    assert read_splits(folder) == HASHED


def test_unjudged_queries_and_other_files_get_the_hash_split() -> None:
    """A file called `holdout` decides nothing; guessing train would train on it."""
    assert given_splits([("holdout", {"6"})], {}) == {}
    assert given_splits([("holdout", {"6", "1"}), ("Train", {"1"}), ("VAL", {"2"})], {}) == {"1": "train", "2": "dev"}
    assert given_splits([], {}) == {}


def test_a_split_does_not_move_when_the_batch_grows(folder: Path) -> None:
    """A query that moves from test to train on the next ingestion has been tested on what it now trains on."""
    before = read_splits(folder)
    assert read_splits(folder) == before
    write_batch(
        folder,
        {"d1": "one", "d2": "two", "d3": "three"},
        {key: key for key in (*HASHED, "30", "31")},
        train="30 d3 1\n1 d1 1\n11 d2 1\n",
        test="31 d3 1\n6 d1 2\n",
    )
    assert {key: split for key, split in read_splits(folder).items() if key in before} == before


# Judgement files.


def read_qrels(tmp_path: Path, content: str) -> list[Qrel]:
    """Judgements of a batch of queries 1 and 2 with this one file."""
    folder = write_batch(tmp_path / "t", queries={"1": "what", "2": "why"})
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(content, encoding="utf-8")
    return BeirSource(folder).read("t").qrels


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\n1\td1\t1\n\n2\td2\t0\n",
        "1\td1\t1\r\n2\td2\t0",
        "1 0 d1 1\n2 0 d2 0\n",
        "qid\titer\tdocid\trel\n1\t0\td1\t1\n2\t0\td2\t0\n",
        "1\td1\t1\n2\td2\t0\n1\td1\t1\n",
    ],
)
def test_beir_and_trec_rows_are_read_alike(tmp_path: Path, content: str) -> None:
    """Dropping the first row as a header, or TREC's iteration read as a document, loses judgements silently."""
    assert read_qrels(tmp_path, content) == [Qrel("1", "d1", 1), Qrel("2", "d2", 0)]


def test_a_query_named_like_a_header_keeps_its_judgement(tmp_path: Path) -> None:
    """A header is told by its first cell and its wordy last one; by the first alone, this row would vanish."""
    folder = write_batch(tmp_path / "t", queries={"qid": "what"})
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("qid\td1\t1\n", encoding="utf-8")
    assert BeirSource(folder).read("t").qrels == [Qrel("qid", "d1", 1)]


@pytest.mark.parametrize(
    ("content", "line", "expected"),
    [
        ("query-id\tcorpus-id\tscore\n1\td1\t1\n2\td2\n", 3, "query-id corpus-id score"),
        ("1\td1\t1\n2\td2\t0.5\n", 2, "an integer score"),
        ("1\td1\thigh\n", 1, "an integer score"),
        ("1\td1\t1\nqid\td2\thigh\n", 2, "an integer score"),
        ("1\td1\t1\n2\t\t1\n", 2, "query-id corpus-id score"),
        ("1\td1\t1\n\t2\td2\t1\n", 2, "query-id corpus-id score"),
        ("1\td1\t1\n2\t0\td2\t1\n", 2, "3 columns as in the lines before"),
        ("1\td1\t1\n1\td1\t2\n", 2, r"score 1 for \('1', 'd1'\) as judged before"),
        ("1\td1\t12345678901\n", 1, "an integer score"),
    ],
)
def test_bad_judgements_are_named_by_file_and_line(tmp_path: Path, content: str, line: int, expected: str) -> None:
    """A row that is skipped or rounded is a judgement that counts as not relevant."""
    with pytest.raises(
        MalformedRecordError, match=rf"test\.tsv, line {line}: expected .*{expected}.*; correct or remove"
    ):
        read_qrels(tmp_path, content)


def test_unknown_judgements_are_counted_below_and_refused_above_the_threshold(tmp_path: Path) -> None:
    """Qrels of another version of the corpus would train and score on a part of the judgements unnoticed."""
    rows = "".join(f"1 d{number} 1\n" for number in range(9)) + "1 gone 1\n"
    folder = write_batch(tmp_path / "t", {f"d{n}": "text" for n in range(9)}, {"1": "what"}, test=rows)
    collection = BeirSource(folder, Rules(max_unknown_qrels=0.1)).read("t")
    assert (len(collection.qrels), collection.num_dropped_qrels) == (9, 1)
    with pytest.raises(
        UnknownJudgementError, match=r"1 of 10 judgements .*\('1', 'gone'\).*0\.05 \(setting max_unknown_qrels"
    ):
        BeirSource(folder).read("t")


# Bad records.


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"_id": "x", "text": "cut', "one JSON object"),
        (b'["x", "text"]', "one JSON object"),
        (b"null", "one JSON object"),
        (b"[" * 100_000, "one JSON object"),
        (b'{"text": "no id"}', '"_id"'),
        (b'{"_id": "", "text": "x"}', '"_id"'),
        (b'{"_id": true, "text": "x"}', '"_id"'),
        (b'{"_id": 1.5, "text": "x"}', '"_id"'),
        (b'{"_id": "x"}', '"text"'),
        (b'{"_id": "x", "text": null}', '"text"'),
        (b'{"_id": "x", "text": ["a"]}', '"text"'),
        (b'{"_id": "x", "title": 3, "text": "a"}', '"title"'),
        (b'{"_id": "x", "text": "\\ud800"}', "surrogate"),
        (b'{"_id": "x", "text": "caf\xe9"}', "UTF-8"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_line(tmp_path: Path, name: str, line: bytes, expected: str) -> None:
    """A reader that skips bad lines loses documents; one that raises JSONDecodeError says `line 1` of every line."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / name).write_bytes(b'{"_id": "a", "text": "sound"}\n\n' + line + b"\n")
    with pytest.raises(MalformedRecordError) as caught:
        BeirSource(tmp_path).read("t")
    message = str(caught.value)
    assert f"{name}, line 3: expected" in message
    assert expected in message.partition("found")[0]
    assert len(message) < 600


def test_duplicate_ids_and_empty_texts_are_refused(tmp_path: Path) -> None:
    """`1` and `"1"` are one id: the warehouse would keep one of the two documents."""
    folder = write_batch(tmp_path / "t", {"1": "one"})
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"_id": 1, "text": "other"}\n')
    with pytest.raises(SourceError, match=r"1 document ids occur more than once, first '1'"):
        BeirSource(folder).read("t")
    write_batch(folder, {"1": "one", "2": " "})
    with pytest.raises(SourceError, match=r"1 of 2 document texts are blank, first id '2'"):
        BeirSource(folder).read("t")


def test_a_file_without_records_is_refused(tmp_path: Path) -> None:
    """An interrupted download leaves an empty corpus.jsonl; with queries beside it the batch would pass unchecked."""
    folder = write_batch(tmp_path / "t", queries={"1": "what"}, test="1 d1 1\n")
    (folder / "corpus.jsonl").write_bytes(b"\n")
    with pytest.raises(SourceError, match=r"corpus\.jsonl holds no record: fill it, or delete it"):
        BeirSource(folder).read("t")


# Real data.


@pytest.mark.skipif(not (DATA / "scifact").is_dir(), reason="shared/data/scifact is not here")
def test_scifact_has_its_published_counts() -> None:
    """5,183 documents, 300 test queries, 339 test judgements; any other count is a reader that loses data."""
    collection = BeirSource(DATA / "scifact").read("scifact")
    splits = [query.split for query in collection.queries]
    assert (len(collection.documents), len(splits), len(collection.qrels)) == (5183, 1109, 919 + 339)
    assert splits.count("test") == 300
    assert splits.count("train") + splits.count("dev") == 809
    assert 50 < splits.count("dev") < 115  # a tenth of 809, give or take four standard deviations
    assert collection.num_dropped_qrels == 0
    test_ids = {query.query_id for query in collection.queries if query.split == "test"}
    assert sum(qrel.query_id in test_ids for qrel in collection.qrels) == 339


@pytest.mark.skipif(not (DATA / "squad-dev").is_dir(), reason="shared/data/squad-dev is not here")
def test_squad_dev_gets_train_and_dev_queries_from_its_only_file() -> None:
    """2,910 queries, all in test.tsv: without the hash split there is no query to train on."""
    collection = BeirSource(DATA).read("squad-dev")
    splits = [query.split for query in collection.queries]
    assert (len(collection.documents), len(splits)) == (1216, 2910)
    assert 2200 < splits.count("train") < 2450
    assert splits.count("dev") > 200
    assert splits.count("test") > 200


def write_judged(folder: Path, judgements: str) -> Path:
    """A folder of one document and one query whose file of judgements is exactly this."""
    write_batch(folder, {"1": "one"}, {"q": "what"}, test="")
    (folder / "qrels" / "test.tsv").write_text(judgements, encoding="utf-8")
    return folder


def test_judgements_go_by_the_names_of_a_header(tmp_path: Path) -> None:
    """A fourth column was taken for the relevance and the third for the document: 60 queries judged a document "1" with 7."""
    folder = write_judged(tmp_path / "t", "qid\tdocid\trel\tannotator\nq\t1\t2\t7\n")
    assert BeirSource(folder).read("t").qrels == [Qrel("q", "1", 2)]
    write_judged(folder, "score\tcorpus-id\tquery-id\n2\t1\tq\n")
    assert BeirSource(folder).read("t").qrels == [Qrel("q", "1", 2)]


def test_four_columns_without_a_header_are_trecs_or_refused(tmp_path: Path) -> None:
    """Without a header only the constant 0 or Q0 says that the second column is not the document."""
    folder = write_judged(tmp_path / "t", "q 0 1 2\n")
    assert BeirSource(folder).read("t").qrels == [Qrel("q", "1", 2)]
    for rows in ("q 1 1 7\n", "q 0 1 2\nq 5 1 2\n"):
        write_judged(folder, rows)
        with pytest.raises(MalformedRecordError, match="TREC"):
            BeirSource(folder).read("t")


def test_integral_scores_are_integers(tmp_path: Path) -> None:
    """A table program writes 1 as 1.0; 1.5 is no grade, and rounding it would change what somebody judged."""
    folder = write_judged(tmp_path / "t", "q 1 1.0\n")
    assert BeirSource(folder).read("t").qrels == [Qrel("q", "1", 1)]
    write_judged(folder, "q 1 1\nq 1 1.5\n")
    with pytest.raises(MalformedRecordError, match=r"line 2: expected an integer score, found '1.5'"):
        BeirSource(folder).read("t")


def test_compressed_texts_judgements_at_the_root_and_commas_are_read(tmp_path: Path) -> None:
    """Each of these was passed over: the batch counted as one that brings none."""
    folder = write_batch(tmp_path / "t", {"1": "one"}, {"q": "what"})
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes()))
    (folder / "corpus.jsonl").unlink()
    before = BeirSource(folder).fingerprint("t")
    (folder / "qrels.csv").write_text('query-id,corpus-id,score\n"q","1",2\n', encoding="utf-8")
    found = BeirSource(folder).read("t")
    assert ([d.text for d in found.documents], found.qrels, found.unread) == (["one"], [Qrel("q", "1", 2)], {})
    assert BeirSource(folder).fingerprint("t") != before
    (folder / "corpus.jsonl.gz").write_bytes(b"no archive")
    with pytest.raises(SourceError, match="cannot be decompressed"):
        BeirSource(folder).read("t")


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    """A file with another name brings nothing, and nobody says so."""
    folder = write_batch(tmp_path / "t", {"1": "one"}, {"q": "what"}, test="q 1 1\n")
    for name in ("qrels.tsv", "documents.jsonl", "qrels/old.xlsx", "README.md", ".hidden.tsv", "_READY"):
        (folder / name).write_text("x", encoding="utf-8")
    unread = BeirSource(folder).read("t").unread
    assert list(unread) == ["documents.jsonl", "qrels/old.xlsx", "qrels.tsv"]
    assert "rename it" in unread["documents.jsonl"] and "move it" in unread["qrels.tsv"]


def test_a_question_that_is_typed_twice_stands_in_one_split(tmp_path: Path) -> None:
    """Split by id, a log's repeats were trained on and tested; then the batch was refused for it."""
    texts = [f"where is the {i}" for i in range(40)]
    queries = {f"q{i}": texts[i // 2].upper() if i % 2 else f" {texts[i // 2]} " for i in range(80)}
    rows = "".join(f"{query_id} d1 1\n" for query_id in queries)
    splits = read_splits(write_batch(tmp_path / "t", {"d1": "one"}, queries, test=rows))
    assert all(splits[f"q{i}"] == splits[f"q{i + 1}"] for i in range(0, 80, 2))
    assert set(splits.values()) == {"train", "dev", "test"}


def test_a_share_of_dev_trains_where_nothing_else_does(tmp_path: Path) -> None:
    """BEIR's Quora and DBpedia have no train file: the line stopped after it had mined."""
    queries = {f"q{i}": f"question {i}" for i in range(200)}
    rows = {"dev": range(150), "test": range(150, 200)}
    judged = {stem: "".join(f"q{i} d1 1\n" for i in chosen) for stem, chosen in rows.items()}
    folder = write_batch(tmp_path / "t", {"d1": "one"}, queries, **judged)
    assert set(read_splits(folder).values()) == {"dev", "test"}
    split_of = {q.query_id: q.split for q in BeirSource(folder, Rules(train_share_of_dev=0.5)).read("t").queries}
    assert {split_of[f"q{i}"] for i in rows["test"]} == {"test"}
    assert 60 < sum(split_of[f"q{i}"] == "train" for i in rows["dev"]) < 90
    write_batch(folder, train="q0 d1 1\n")
    split_of = {q.query_id: q.split for q in BeirSource(folder, Rules(train_share_of_dev=0.5)).read("t").queries}
    assert [split_of[f"q{i}"] for i in rows["dev"]] == ["dev"] * 150


def test_two_batches_may_number_alike(tmp_path: Path) -> None:
    """Ids that are a batch's own replace those of another batch that numbers alike."""
    for name in ("north", "south"):
        write_batch(tmp_path / name, {"1": name}, {"1": f"where is {name}"}, test="1 1 1\n")
    source = BeirSource(tmp_path, Rules(local_ids=True))
    found = source.read("north")
    assert found.documents == [Document("north/1", "", "north")] and found.qrels == [Qrel("north/1", "north/1", 1)]
    assert source.fingerprint("north") != BeirSource(tmp_path).fingerprint("north")


def test_a_query_may_bring_its_group(tmp_path: Path) -> None:
    """A label under another key, or of a query that was dropped, splits the report by groups that nobody meant."""
    folder = write_batch(tmp_path / "t", {"d1": "one"})
    rows: list[dict[str, Any]] = [
        {"_id": "1", "text": "a", "group": " faq "},
        {"_id": "2", "text": "b", "metadata": {"group": 7, "url": "x"}},
        {"_id": "3", "text": "c", "group": "own", "metadata": {"group": "other"}},
        {"_id": "4", "text": "d", "group": None, "metadata": ["group"]},
        *({"_id": f"5{i}", "text": "e"} for i in range(20)),
        {"_id": "6", "text": " ", "group": "blank"},
    ]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert BeirSource(tmp_path).read("t").labels == {"1": "faq", "2": "7", "3": "own"}
    assert BeirSource(tmp_path, Rules(local_ids=True)).read("t").labels == {"t/1": "faq", "t/2": "7", "t/3": "own"}


@pytest.mark.parametrize("group", ["true", "1.5", '["a"]', '"\\ud800"'])
def test_a_group_that_is_no_label_is_refused(tmp_path: Path, group: str) -> None:
    """Left out in silence, its queries would be of no group."""
    folder = write_batch(tmp_path / "t", {"d1": "one"})
    for row in (f'"group": {group}', f'"metadata": {{"group": {group}}}'):
        (folder / "queries.jsonl").write_text('{"_id": "q", "text": "x", ' + row + "}\n", encoding="utf-8")
        with pytest.raises(MalformedRecordError, match=r"queries\.jsonl, line 1: expected .*group"):
            BeirSource(tmp_path).read("t")


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """One fault a run is a day of mending for a file with twenty of them."""
    folder = write_batch(tmp_path / "t", {"d1": "one"}, {"q": "what"})
    lines = ['{"_id": "d1", "text": "one"}', "no JSON", '{"_id": "d2"}', '{"_id": "d3", "text": 5}'] + ["x"] * 30
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(MalformedRecordError) as caught:
        BeirSource(folder).read("t")
    told = str(caught.value).splitlines()
    assert told[0].endswith("corpus.jsonl: 33 lines cannot be read:") and told[-1] == "  and 13 more"
    assert (
        len(told) == 22 and [f"line {n}:" in line for n, line in zip((2, 3, 4), told[1:4], strict=True)] == [True] * 3
    )
    write_judged(folder, "q 1 1\nq 1 2\nq 1 high\nq 1\n")
    with pytest.raises(MalformedRecordError, match=r"3 lines cannot be read"):
        BeirSource(write_batch(folder, {"1": "one"})).read("t")


def test_two_records_on_one_line_are_told_by_their_place(tmp_path: Path) -> None:
    """Expected was one JSON object, found was `{...`: what was found begins exactly as what was expected."""
    folder = write_batch(tmp_path / "t", {"d1": "one"}, {"q": "what"})
    first = '{"_id": "d1", "text": "one"}'
    (folder / "corpus.jsonl").write_text(f'{first}{{"_id": "d2", "text": "two"}}\n', encoding="utf-8")
    with pytest.raises(MalformedRecordError, match=r"a second value begins at character 29\)") as caught:
        BeirSource(folder).read("t")
    assert '"one"}{"_id": "d2"' in str(caught.value)


def test_a_header_with_other_names_says_which_are_known(tmp_path: Path) -> None:
    """That an integer score is expected says nothing to somebody whose columns have names of their own."""
    folder = write_judged(tmp_path / "t", "question\tanswer\tgood\nq\t1\t1\n")
    with pytest.raises(MalformedRecordError, match=r"a header that names query-id, corpus-id and score.*question"):
        BeirSource(folder).read("t")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("qrels/Test.TSV", "query-id\tcorpus-id\tscore\nq\t1\t2\n"),  # copied from Windows
        ("qrels/test.tsv", '"query-id"\t"corpus-id"\t"score"\n"q"\t"1"\t2\n'),  # R's write.table
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\r\nq\t1\t2\r\n"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq \t 1\t2 \n"),
        ("qrels/test.tsv", "corpus-id\tquery-id\tscore\n1\tq\t2\n"),
        ("qrels/test.tsv", "q 0 1 2\n"),
        ("qrels/test.csv", "query-id;corpus-id;score\nq;1;2\n"),  # spreadsheets of half of Europe
    ],
)
def test_judgements_that_say_plainly_what_they_are_are_read(tmp_path: Path, name: str, content: str) -> None:
    """Read as none, or refused line by line, although no person would doubt what is meant."""
    folder = write_batch(tmp_path / "t", {"1": "one"}, {"q": "what"})
    (folder / "qrels").mkdir()
    (folder / name).write_bytes(content.encode())
    found = BeirSource(folder).read("t")
    assert (found.qrels, found.unread) == ([Qrel("q", "1", 2)], {})


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("corpus.jsonl", b'[\n {"_id": "1",\n  "text": "one"}\n]\n', r"line 1: .*not an array of them, found '\['"),
        ("corpus.jsonl", b'[{"_id": "1", "text": "one"}]', "not an array of them"),
        ("corpus.jsonl", '{"_id": "1", "text": "one"}\n'.encode("utf-16"), "found UTF-16.*save it as UTF-8"),
        ("qrels/test.tsv", "q\t1\t1\n".encode("utf-16"), "found UTF-16.*save it as UTF-8"),
        ("corpus.jsonl", '{"_id": "1", "text": "é"}\n'.encode("latin-1"), "line 1: expected UTF-8 text"),
        ("corpus.jsonl", b'{"id": "1", "contents": "one"}\n', 'string or integer under "_id", found .*contents'),
        ("corpus.jsonl", b'{"_id": "1", "text": "one", "title": NaN}\n', 'a string under "title", found .*NaN'),
        ("corpus.jsonl", b'{"_id": "1", "text": ["one", "two"]}\n', 'a string under "text"'),
        ("qrels/test.tsv", b"query-id;corpus-id;score\nq;1;1\n", "parted by tabs"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\nq\t1\n", "a header that names query-id, corpus-id and score"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq\t1\trelevant\n", "an integer score, found 'relevant'"),
        ("qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq\t1.0\t1\n", r"first \('q', '1.0'\).*belong together"),
        ("qrels/test.tsv", b"1\tq\t1\n", r"first \('1', 'q'\).*belong together"),
    ],
)
def test_other_spellings_are_refused_in_one_sentence(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    """The sentence must name the cause: a file of another encoding was forty lines that each "cannot be read"."""
    folder = write_batch(tmp_path / "t", {"1": "one"}, {"q": "what"})
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(SourceError, match=expected) as caught:
        BeirSource(folder).read("t")
    assert len(str(caught.value).splitlines()) == 1


def test_files_of_other_tools_are_told_with_what_to_do(tmp_path: Path) -> None:
    """Documents under another name were to be moved to the judgements."""
    folder = write_batch(tmp_path / "t", {"1": "one"}, {"q": "what"}, test="q 1 1\n")
    for name in (
        "collection.tsv",
        "queries.tsv",
        "corpus.parquet",
        "Corpus.JSON",
        "qrels/test.jsonl",
        "labels.tsv",
        "notes.xlsx",
    ):
        (folder / name).write_text("x", encoding="utf-8")
    unread = BeirSource(folder).read("t").unread
    assert {name: reason.split(" from ")[0] for name, reason in unread.items() if " from " in reason} == {
        "Corpus.JSON": "documents are read",
        "collection.tsv": "documents are read",
        "corpus.parquet": "corpus is read",
        "labels.tsv": "judgements are read",
        "queries.tsv": "documents are read",
        "qrels/test.jsonl": "judgements are read",
    }
    assert "no ending that is read" in unread["notes.xlsx"]
