"""What a batch brings, by hand."""

from dataclasses import replace

from distill_assets.quality.reading import read_figures
from distill_assets.records import Collection, Document, Qrel, Query

DOCUMENTS = [
    Document("d1", "", "one two three four"),
    Document("d2", "One", "two three four"),
    Document("d3", "", "图书"),
]
QUERIES = [Query("q1", "two", "train"), Query("q2", "nothing", "test"), Query("q3", " Two", "test")]
QRELS = [Qrel("q1", "d1", 1), Qrel("q3", "d2", 2), Qrel("q2", "d1", 0)]


def test_figures_of_a_batch() -> None:
    """A figure that is counted wrongly is worse than none: it says that all is well."""
    found = read_figures(
        Collection(DOCUMENTS, QUERIES, QRELS, num_dropped_qrels=4, num_blank=1, unread={"a.csv": "move it"}),
        lambda texts: [len(text.split()) + 2 for text in texts],
        5,
    )
    assert (found.judged, found.grades) == ({"train": 1, "dev": 0, "test": 1}, {0: 1, 1: 1, 2: 1})
    assert (found.median_tokens, found.longest_tokens) == (6, 6)
    assert (found.share_longer, found.share_unread) == (2 / 3, 2 / 15)  # 6, 6 and 3 tokens; 1 of 6 behind the fifth
    assert found.scripts == {"Latin": 43 / 45, "Cjk": 2 / 45}
    assert found.share_no_common_word == 1 / 3  # "nothing"
    assert (found.num_equal_documents, found.num_equal_queries) == (2, 2)
    assert found.sentences() == [
        "3 documents, 3 queries, 3 judgements (4 of unknown ids were dropped)",
        "judged queries: train 1, dev 0, test 1; grades: 0 (1), 1 (1), 2 (1); relevant from 1 on (min_relevance)",
        "a document has 6 tokens in the middle and 6 at most; the student reads 5 of them: 67% of the documents are longer, "
        "13% of the text is not read",
        "letters: Latin 96%, Cjk 4%",
        "33% of the queries have no word in common with any document",
        "2 documents and 2 queries say what another id says, too",
        "1 blank texts were dropped",
        "not read: a.csv: move it",
    ]


def test_a_batch_of_judgements_alone_and_one_without_a_limit() -> None:
    """A share of no documents is no number: it must neither fail nor warn."""
    alone = read_figures(Collection([], [], QRELS), lambda texts: [0 for _ in texts], 5)
    assert alone.sentences() == [
        "0 documents, 0 queries, 3 judgements",
        "judged queries: train 0, dev 0, test 0; grades: 0 (1), 1 (1), 2 (1); relevant from 1 on (min_relevance)",
    ]
    assert alone.is_read_whole
    unbounded = read_figures(Collection(DOCUMENTS, [], []), lambda texts: [1000 for _ in texts], None)
    assert (unbounded.share_unread, unbounded.is_read_whole) == (0.0, True)


def test_a_query_with_grades_below_the_threshold_alone_is_not_judged() -> None:
    """Judged queries are counted that no asset will use. Grades 0 and 1 need no word about a threshold."""
    found = read_figures(Collection(DOCUMENTS, QUERIES, QRELS), lambda texts: [1 for _ in texts], 5, 2)
    assert found.judged == {"train": 0, "dev": 0, "test": 1}
    assert "relevant from 2 on" in found.sentences()[1]
    binary = read_figures(Collection(DOCUMENTS, QUERIES, QRELS[:1]), lambda texts: [1 for _ in texts], 5)
    assert binary.sentences()[1] == "judged queries: train 1, dev 0, test 0; grades: 1 (1)"


def test_documents_in_passages_are_counted_as_documents() -> None:
    """Ten articles told as three hundred documents read as a folder that was split wrongly."""
    passages = [Document(f"a#{number}", "", "text") for number in (1, 2, 3)]
    whole = read_figures(
        Collection([*passages, Document("b", "", "text")], [], []), lambda texts: [1 for _ in texts], 5
    )
    first, *rest = replace(whole, num_passages=3, num_cut=1).sentences()
    assert first.startswith("2 documents")
    assert "1 documents were cut into 3 passages, which count as documents from here on" in rest
