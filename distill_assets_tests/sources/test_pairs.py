"""Pairs, triplets, FAQ and SQuAD files: exact documents, queries and judgements of hand-written files, and every bad input."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_assets.errors import MalformedRecordError, SourceError
from distill_assets.records import Document, Qrel, hash_text
from distill_assets.sources.base import DEFAULT_RULES, AskedQuery, Options, Parts, collect, split_of_name
from distill_assets.sources.faq import open_faq
from distill_assets.sources.pairs import PairFiles, open_pairs
from distill_assets.sources.squad import open_squad

Told = set[tuple[str, str, int]]


def told_of(parts: Parts) -> Told:
    """The judgements of texts, as (query, document, relevance)."""
    texts = {document.doc_id: document.text for document in parts.documents}
    queries = {query.query_id: query.text for query in parts.queries}
    assert len({(qrel.query_id, qrel.doc_id) for qrel in parts.qrels}) == len(parts.qrels), "each pair once"
    return {(queries[qrel.query_id], texts[qrel.doc_id], qrel.relevance) for qrel in parts.qrels}


def texts_of(parts: Parts) -> list[str]:
    """The texts of the documents, in their order."""
    return [document.text for document in parts.documents]


def write(path: Path, content: str | bytes) -> Path:
    """Write a file and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


TRIPLETS = [("why", "because", "banana"), ("how", "so", "banana"), ("why", "therefore", "")]
EXPECTED = {
    ("why", "because", 1),
    ("why", "banana", 0),
    ("how", "so", 1),
    ("how", "banana", 0),
    ("why", "therefore", 1),
}
JSON_LINES = "\n".join(json.dumps({"anchor": q, "positive": p, "negative": n}) for q, p, n in TRIPLETS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jsonl", JSON_LINES),
        ("t.jsonl.gz", gzip.compress(JSON_LINES.encode(), mtime=0)),
        ("t.json", JSON_LINES),
        ("t.json", json.dumps([{"question": q, "answer": p, "negative_1": n} for q, p, n in TRIPLETS])),
        ("t.csv", "query,positive,negative\nwhy,because,banana\nhow,so,banana\nwhy,therefore,\n"),
        ("t.csv", 'Query;Positive;Negative_1\n"why";because;banana\nhow;so;banana\nwhy;therefore;\n'),
        ("t.tsv", "anchor\tpositive\tnegative\nwhy\tbecause\tbanana\nhow\tso\tbanana\nwhy\ttherefore\t\n"),
        (
            "t.jsonl",
            '{"query": "why", "pos": ["because", "therefore"], "neg": ["banana"]}\n'
            '{"query": "how", "pos": ["so"], "neg": ["banana"], "type": "x"}',
        ),
    ],
)
def test_each_form_of_triplets_gives_the_same_judgements(tmp_path: Path, name: str, content: str | bytes) -> None:
    """A column that is not found, or a list that is read as one text, would lose positives or make up documents in silence."""
    parts = open_pairs(str(write(tmp_path / name, content)), Options()).read()
    assert told_of(parts) == EXPECTED
    assert sorted(texts_of(parts)) == ["banana", "because", "so", "therefore"]
    assert [query.text for query in parts.queries] == ["why", "how"]
    assert parts.judged == [("t", {hash_text("why"), hash_text("how")})] and not parts.unread


def test_parquet_with_a_list_of_negatives_is_read_as_json_lines_are(tmp_path: Path) -> None:
    """A list column that is turned into text would be one document "['a', 'b']"."""
    rows = {"anchor": ["why"], "positive": ["because"], "negatives": [["a", "b"]]}
    pq.write_table(pa.table(rows), tmp_path / "train-00000-of-00001.parquet")
    parts = PairFiles(tmp_path).read()
    assert told_of(parts) == {("why", "because", 1), ("why", "a", 0), ("why", "b", 0)}
    assert parts.judged[0][0] == "train"


def test_quoted_cells_of_csv_keep_line_ends_and_cells_of_tsv_keep_quotes(tmp_path: Path) -> None:
    """A quote that begins a text of MS MARCO would swallow all lines up to the next one; a paragraph would be cut at its line end."""
    parts = PairFiles(write(tmp_path / "a.csv", 'query,answer\nwhy,"one, ""two""\n\nthree"\nhow,so\n')).read()
    assert texts_of(parts) == ['one, "two"\n\nthree', "so"]
    parts = PairFiles(write(tmp_path / "b.tsv", 'query\tanswer\nwhy\t"one" and "two"\nhow\t"so ""it"" is"\n')).read()
    assert texts_of(parts) == ['"one" and "two"', 'so "it" is']


@pytest.mark.parametrize(("label", "relevance"), [("1", 1), ("0", 0), ("2.0", 2), (" 3 ", 3)])
def test_a_label_is_the_relevance_of_the_pair(tmp_path: Path, label: str, relevance: int) -> None:
    """A pair labelled 0 read as a positive would teach the opposite of what the file says."""
    path = write(tmp_path / "t.csv", f"sentence1,sentence2,label\nwhy,because,{label}\n")
    assert told_of(PairFiles(path).read()) == {("why", "because", relevance)}


def test_a_document_that_is_a_positive_somewhere_is_no_negative_elsewhere(tmp_path: Path) -> None:
    """Mined negatives of one row are positives of another: judged 0 last, the answer would be a hard negative of its question."""
    rows = "query,positive,negative\nwhy,because,so\nwhy,so,because\nwhy,so,banana\n"
    assert told_of(PairFiles(write(tmp_path / "t.csv", rows)).read()) == {
        ("why", "because", 1),
        ("why", "so", 1),
        ("why", "banana", 0),
    }


def test_files_named_after_splits_are_splits(tmp_path: Path) -> None:
    """With all files in one hash split, what stands in test.jsonl would be trained on."""
    for name, query in (("nq-train", "one"), ("validation", "two"), ("data/test-00000", "three")):
        write(tmp_path / f"{name}.jsonl", json.dumps({"query": query, "positive": f"answer {query}"}))
    found = collect(PairFiles(tmp_path).read(), "b", DEFAULT_RULES, where="b")
    assert {query.text: query.split for query in found.queries} == {"one": "train", "two": "dev", "three": "test"}
    assert split_of_name("train_dev.tsv") == "train_dev" and split_of_name("retrain.tsv") == "retrain"


def test_negatives_of_ms_marco_triples_are_documents_and_no_judgements(tmp_path: Path) -> None:
    """They come from BM25 and nobody read them: judged 0, false negatives would stand before all others."""
    path = write(tmp_path / "triples.train.small.tsv", 'why\tbecause\tbanana\nhow\tso "it\tbecause\n')
    parts = PairFiles(path).read()
    assert told_of(parts) == {("why", "because", 1), ("how", 'so "it', 1)}
    assert texts_of(parts) == ["because", "banana", 'so "it']


def test_triples_of_ids_are_read_with_the_collection_beside(tmp_path: Path) -> None:
    """Read as texts, the collection would be numbers, and training would run on them without an error."""
    triples = write(tmp_path / "qidpidtriples.train.tsv", "7\t1\t2\n8\t3\t1\n")
    with pytest.raises(SourceError, match=r"triples of ids: expected collection\.tsv and queries\*\.tsv beside"):
        PairFiles(tmp_path).read()
    write(tmp_path / "collection.tsv", '1\tbecause\n2\tbanana\n3\t"so" it is\n')
    write(tmp_path / "queries.train.tsv", "7\twhy\n8\thow\n9\tnot asked\n")
    for path in (tmp_path, triples):
        parts = PairFiles(path).read()
        assert list(parts.documents) == [
            Document("1", "", "because"),
            Document("2", "", "banana"),
            Document("3", "", '"so" it is'),
        ]
        assert parts.queries == [AskedQuery("7", "why"), AskedQuery("8", "how")]
        assert parts.qrels == [Qrel("7", "1", 1), Qrel("8", "3", 1)]
        assert not parts.unread


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("t.csv", "query,positive\nwhy,\n", r't\.csv, line 2: expected text under "positive", found'),
        ("t.csv", "query,positive\nwhy\n", r"line 2: expected 2 columns as in the first line, found 'why'"),
        ("t.csv", 'query,positive\nwhy,"because\n', r"line 2: expected cells parted by commas or semicolons"),
        ("t.csv", "query,positive,score\nwhy,because,0.83\n", r'a whole number under "score", found "\'0\.83\'"'),
        ("t.jsonl", '{"query": "why", "pos": []}', r'a text under "pos", or a negative'),
        ("t.jsonl", '{"query": "why", "pos": ["a", 3]}', r'text under "pos", found \'3\''),
        ("t.jsonl", '{"query": "why", "pos": ["a"]}\n{"query": ', r"line 2: expected one JSON object like"),
        ("t.json", '[{"query": "why", "pos": "a"}, 3]', r"nothing to read.*has no row"),
        ("triples.tsv", "why\tbecause\tbanana\nhow\n", r"line 2: expected three texts or ids parted by tabs"),
        (
            "t.csv",
            "frage,antwort\nwhy,because\n",
            r"needs one column of anchor, query.* and has frage, antwort: rename",
        ),
        ("t.csv", "query,answer,positive\nwhy,a,b\n", r"one of positive, pos.*has query, answer, positive"),
        ("t.parquet", b"PAR1", r"nothing to read"),
        ("t.tsv", "why\tbecause\tbanana\n", r"has why, because, banana: rename"),
        ("t.txt", "why because", r"nothing to read .*expected files of pairs.*it is none of \.jsonl"),
    ],
)
def test_bad_pairs_are_named_by_file_and_line(tmp_path: Path, name: str, content: str | bytes, error: str) -> None:
    """A row that is skipped is a judgement lost; a column that is guessed wrong trains on the wrong text."""
    with pytest.raises((MalformedRecordError, SourceError), match=error):
        PairFiles(write(tmp_path / name, content)).read()


def test_a_file_without_the_columns_and_ignored_scores_are_told(tmp_path: Path) -> None:
    """A misnamed file of a folder, or scores that somebody relies on, would be passed over in silence."""
    write(tmp_path / "a.jsonl", '{"query": "why", "pos": ["a"], "neg": [], "pos_scores": [3.5]}')
    write(tmp_path / "b.csv", "frage,antwort\nx,y\n")
    write(tmp_path / "c.xlsx", b"PK")
    write(tmp_path / "README.md", "of the data set")
    unread = PairFiles(tmp_path).read().unread
    assert (
        set(unread) == {"a.jsonl: pos_scores", "b.csv", "c.xlsx"} and "import-scores" in unread["a.jsonl: pos_scores"]
    )


def test_fingerprint_and_look_follow_the_bytes_and_never_raise(tmp_path: Path) -> None:
    """A batch whose fingerprint stays is never read again; one that raises stops the sensor for all batches."""
    path = write(tmp_path / "in" / "t.csv", "query,positive\nwhy,because\n")
    reader = PairFiles(tmp_path / "in")
    first = reader.fingerprint(), reader.look()
    path.write_bytes(path.read_bytes())
    assert reader.fingerprint() == first[0] and reader.look() != first[1]
    path.write_bytes(path.read_bytes() + b"how,so\n")
    assert reader.fingerprint() != first[0]
    (tmp_path / "in" / "_READY").touch()
    assert reader.look() is None
    gone = PairFiles(tmp_path / "gone")
    assert gone.fingerprint() == gone.fingerprint() and gone.look() == gone.look()
    with pytest.raises(SourceError, match="cannot read .*gone: No such file"):
        gone.read()


_TEXT = st.text(min_size=1, max_size=4, alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])).filter(
    str.strip
)


@given(st.lists(st.tuples(_TEXT, _TEXT, _TEXT), min_size=1, max_size=8))
def test_every_pair_of_a_file_is_a_judgement_and_every_text_a_document_once(
    tmp_path_factory: pytest.TempPathFactory, triplets: list[tuple[str, str, str]]
) -> None:
    """Texts with any character: a separator that is taken for a line end would shift all pairs after it."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [{"query": q, "pos": [p], "neg": [n]} for q, p, n in triplets]
    write(folder / "t.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    parts = PairFiles(folder).read()
    positives = {(q.strip(), p.strip(), 1) for q, p, _ in triplets}
    negatives = {(q.strip(), n.strip(), 0) for q, _, n in triplets}
    assert told_of(parts) == positives | {told for told in negatives if (*told[:2], 1) not in positives}
    texts = texts_of(parts)
    assert sorted(texts) == sorted({t.strip() for _, *pair in triplets for t in pair}) and texts_of(parts) == texts


# FAQ files.


def test_a_markdown_faq_is_questions_with_answers_that_do_not_hold_them(tmp_path: Path) -> None:
    """A document that holds its own question is found by the question's words: the figures would be near 1 and mean nothing."""
    content = (
        "# Help\nWelcome.\n\n## Account\n\n### How do I log in? ###\nWith a key.\n\n```\n# no heading\n## nor this\n```\n"
        "## Where?\n\nHere.\n\nAnd there.\n## Nothing\n"
    )
    parts = open_faq(str(write(tmp_path / "faq.md", content)), Options()).read()
    assert told_of(parts) == {
        ("How do I log in?", "With a key.\n\n```\n# no heading\n## nor this\n```", 1),
        ("Where?", "Here.\n\nAnd there.", 1),
    }
    assert {document.title for document in parts.documents} == {""}


def test_a_table_of_questions_and_answers_is_a_faq(tmp_path: Path) -> None:
    """Other columns beside must not be taken for the answer; without the two, the error names what is there."""
    path = write(tmp_path / "faq.csv", "id,Question,category,Answer\n1,Why?,x,Because.\n2,How?,y,Because.\n")
    parts = open_faq(str(path), Options()).read()
    assert told_of(parts) == {("Why?", "Because.", 1), ("How?", "Because.", 1)} and texts_of(parts) == ["Because."]
    write(tmp_path / "other.csv", "frage,antwort\na,b\n")
    with pytest.raises(SourceError, match=r"other\.csv: it needs one column of question.*has frage, antwort"):
        open_faq(str(tmp_path / "other.csv"), Options()).read()


# SQuAD's files.


def squad(*questions: tuple[str, str, bool]) -> str:
    """One article with two contexts, the questions on the first."""
    qas = [
        {"id": key, "question": text, "answers": [{"text": "a"}], "is_impossible": impossible}
        for key, text, impossible in questions
    ]
    paragraphs = [{"context": "Berlin is a city.", "qas": qas}, {"context": "It is big.", "qas": []}]
    return json.dumps({"version": "x", "data": [{"title": "Berlin_(city)", "paragraphs": paragraphs}]})


def test_squad_contexts_are_documents_and_impossible_questions_are_counted(tmp_path: Path) -> None:
    """An impossible question with its context as positive teaches a wrong answer; a context without a question is a document, too."""
    write(tmp_path / "train-v2.0.json", squad(("1", "What is it?", False), ("2", "Who is it?", True)))
    write(tmp_path / "dev-v2.0.json", squad(("3", " Where? ", False)))
    parts = open_squad(str(tmp_path), Options()).read()
    first, second = parts.documents
    assert (first.title, first.text, second.text) == ("Berlin (city)", "Berlin is a city.", "It is big.")
    assert set(parts.queries) == {AskedQuery("1", "What is it?"), AskedQuery("3", "Where?")}
    assert set(parts.qrels) == {Qrel("1", first.doc_id, 1), Qrel("3", first.doc_id, 1)}
    assert sorted(parts.judged) == [("dev", {"3"}), ("train", {"1"})]
    assert list(parts.unread) == ["train-v2.0.json: 1 questions"]


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"data": [{"paragraphs": [{"qas": []}]}]}', '{"data": [', '{"data": 3}']
)
def test_what_is_not_squad_is_refused_by_name(tmp_path: Path, content: str) -> None:
    """A KeyError without a file's name tells nobody what to mend."""
    with pytest.raises(MalformedRecordError, match=r"dev\.json, line 1: expected (SQuAD's data|one JSON value)"):
        open_squad(str(write(tmp_path / "dev.json", content)), Options()).read()
    with pytest.raises(SourceError, match=r"expected JSON files of SQuAD's form"):
        open_squad(str(write(tmp_path / "x" / "dev.txt", content)), Options()).read()
