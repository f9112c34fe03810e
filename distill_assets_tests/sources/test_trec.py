"""TREC folders: documents, topics and judgements of hand-written files; ranked results are no judgements, here and in BEIR folders."""

from pathlib import Path

import pytest

from distill_assets.errors import MalformedRecordError, SourceError
from distill_assets.records import Document, Qrel
from distill_assets.sources.base import AskedQuery, Options
from distill_assets.sources.beir import BeirSource
from distill_assets.sources.trec import TrecFolder, open_trec

SGML = """<DOC>
<DOCNO> FT911-3 </DOCNO>
<HEADLINE>Steel prices</HEADLINE>
<TEXT>
Prices of <b>steel</b> fell, 3 < 4.
</TEXT>
</DOC>

<DOC><DOCNO>FT911-4</DOCNO>
<TEXT>No headline.</TEXT>
</DOC>
"""
TOPICS = """<top>
<num> Number: 301
<title> steel prices
<desc> Description:
What did steel cost?
</top>
<top>
<num>302</num><title>ships</title>
</top>
"""
RUN = "301 Q0 FT911-4 1 14.89 bm25\n302 Q0 FT911-3 2 1e-3 bm25\n"


def write(folder: Path, **files: str) -> Path:
    """Write files, whose names have `__` for a slash and `_` for a dot."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


def test_sgml_topics_and_judgements_of_several_splits(tmp_path: Path) -> None:
    """A document number within the text, or a topic's description within the query, would change what is searched in silence."""
    write(
        tmp_path,
        docs__ft__911__ft911=SGML,
        topics_301_txt=TOPICS,
        qrels_train_txt="301 0 FT911-3 1\n302 0 FT911-4 -2\n",
    )
    write(tmp_path, qrels_test_tsv="302 0 FT911-3 2\n")
    parts = open_trec(str(tmp_path), Options()).read()
    documents = [
        Document("FT911-3", "Steel prices", "Prices of steel fell, 3 < 4."),
        Document("FT911-4", "", "No headline."),
    ]
    assert list(parts.documents) == documents
    assert list(parts.documents) == documents, "can be gone through again"
    assert parts.queries == [AskedQuery("301", "steel prices"), AskedQuery("302", "ships")]
    assert set(parts.qrels) == {Qrel("301", "FT911-3", 1), Qrel("302", "FT911-4", -2), Qrel("302", "FT911-3", 2)}
    assert sorted(parts.judged) == [("test", {"302"}), ("train", {"301", "302"})]
    assert not parts.unread


def test_ms_marco_and_anserini_files(tmp_path: Path) -> None:
    """Published collections are lines of id and text, or JSON with contents; quotes in them are text."""
    write(
        tmp_path,
        collection_tsv='1\t"A" b\n2\tc\n',
        queries_dev_small_tsv="7\twhy\n",
        qrels_dev_small_tsv="7\t0\t1\t1\n",
    )
    write(tmp_path, corpus__a_jsonl='{"id": "3", "contents": "d"}\n{"docno": "4", "title": "T", "text": "e"}\n')
    parts = TrecFolder(tmp_path).read()
    assert sorted(parts.documents, key=lambda document: document.doc_id) == [
        Document("1", "", '"A" b'),
        Document("2", "", "c"),
        Document("3", "", "d"),
        Document("4", "T", "e"),
    ]
    assert parts.queries == [AskedQuery("7", "why")]
    assert (parts.qrels, parts.judged) == ([Qrel("7", "1", 1)], [("dev", {"7"})])


@pytest.mark.parametrize(
    "run", [RUN, RUN.replace(" ", "\t"), "query_id\titer\tdoc_id\trank\tscore\ttag\n301\tQ0\tFT911-4\t1\t14\tbm25\n"]
)
def test_ranked_results_are_no_judgements(tmp_path: Path, run: str) -> None:
    """A run in qrels/ read as judgements makes the system that wrote it perfect: its scores are the grades."""
    good = "301 0 FT911-3 1\n"
    trec = write(
        tmp_path / "trec", docs__a=SGML, topics_txt=TOPICS, qrels__test_txt=good, qrels__bm25_txt=run, x_run=run
    )
    parts = TrecFolder(trec).read()
    assert parts.qrels == [Qrel("301", "FT911-3", 1)]
    assert "qrels/bm25.txt" in parts.unread and "are no judgements" in parts.unread["qrels/bm25.txt"]
    beir = write(tmp_path / "beir", queries_jsonl='{"_id": "301", "text": "steel"}\n', qrels__test_tsv=good)
    write(beir, qrels__bm25_tsv=run, qrels__other_run=run, bm25_tsv=run)
    found = BeirSource(beir).read("beir")
    assert found.qrels == [Qrel("301", "FT911-3", 1)]
    assert set(found.unread) == {"qrels/bm25.tsv", "qrels/other.run", "bm25.tsv"}
    assert all("no judgements" in reason for reason in found.unread.values())


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"docs__a": "<DOC>\n<TEXT>x</TEXT>\n</DOC>"}, r"a, line 1: expected <DOCNO> in each <DOC>"),
        ({"docs__a": SGML + "<DOC>\n<DOCNO>3</DOCNO>"}, r"line 12: expected </doc> after each <doc>"),
        ({"topics_txt": "<top>\n<num>1\n</top>"}, r"<num> and <title> in each <top>"),
        ({"collection_tsv": "1\ta\n2\n"}, r"line 2: expected an id and a text parted by a tab"),
        ({"corpus_jsonl": '{"key": "1", "contents": "x"}'}, r"an id under id or docno"),
        ({"qrels_txt": "301 0 d1\n301 0 d2 1\n"}, r"a header that names|an integer score|columns"),
    ],
)
def test_bad_files_are_named_by_file_and_line(tmp_path: Path, files: dict[str, str], error: str) -> None:
    """A document that is skipped is one that nobody finds."""
    with pytest.raises(MalformedRecordError, match=error):
        list(TrecFolder(write(tmp_path, **files)).read().documents)


def test_a_folder_with_nothing_to_read_says_what_it_holds(tmp_path: Path) -> None:
    """A folder of runs alone would be a collection without documents."""
    with pytest.raises(SourceError, match=r"expected documents, topics or qrels .*bm25\.txt: ranked results"):
        TrecFolder(write(tmp_path, bm25_txt=RUN)).read()
