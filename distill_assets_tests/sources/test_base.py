"""The checks that every collection passes, and the hash split."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_assets.errors import DistillError, SourceError, UnknownBatchError, UnknownJudgementError
from distill_assets.records import Collection, Document, Qrel, Query, assign_split
from distill_assets.sources.base import check_collection, read_settled, require_batch_name, require_known_batch

DOCUMENTS = [Document("d1", "", "one"), Document("d2", "", "two")]
QUERIES = [Query("q1", "first", "train")]


def judgements(num_known: int, num_unknown: int) -> list[Qrel]:
    """That many judgements of (q1, d1), and that many of documents nobody brought."""
    return [Qrel("q1", "d1", 1)] * num_known + [Qrel("q1", f"missing{n}", 1) for n in range(num_unknown)]


@pytest.mark.parametrize("name", ["numpy", "2026-10-01", "a", "A.b_c-d", "x" * 100])
def test_batch_names_of_packages_and_days_are_accepted(name: str) -> None:
    """A rule that is too strict would refuse every inbox that names its folders by day."""
    assert require_batch_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b",
        "/etc",
        "..",
        "a..b",
        ".hidden",
        "-flag",
        "it's",
        'say"so',
        "a b",
        "a;b",
        "a\\b",
        "tab\t",
        "line\n",
        "\x00",
        "é",
        "x" * 101,
    ],
)
def test_batch_names_that_could_steer_paths_or_sql_are_refused(name: str) -> None:
    """A folder named `../x` or `a'; DROP` would become a path or a partition key; a final newline slips past `$`."""
    with pytest.raises(UnknownBatchError, match="cannot name a batch") as caught:
        require_batch_name(name)
    assert repr(name) in str(caught.value)
    assert isinstance(caught.value, DistillError)


def test_an_unknown_batch_is_refused_with_the_known_ones_named() -> None:
    """A typing error in a partition key would otherwise surface as an empty frame far downstream."""
    assert require_known_batch("b", ["b", "a"]) == "b"
    with pytest.raises(UnknownBatchError, match=r"no batch 'c': the source has a, b"):
        require_known_batch("c", ["b", "a"])
    with pytest.raises(UnknownBatchError, match="the source has none"):
        require_known_batch("c", [])


def test_an_illegal_name_is_refused_even_if_the_source_lists_it() -> None:
    """A source that lists a bad name must not be able to let it through."""
    with pytest.raises(UnknownBatchError, match="cannot name a batch"):
        require_known_batch("a/b", ["a/b"])


def test_a_sound_collection_passes_unchanged() -> None:
    """A check that drops or reorders sound records would change numbers without a word."""
    collection = check_collection(DOCUMENTS, QUERIES, judgements(1, 0), where="w", max_unknown_share=0.0)
    assert (collection.documents, collection.queries, collection.qrels) == (DOCUMENTS, QUERIES, judgements(1, 0))
    assert collection.num_dropped_qrels == 0


def test_duplicate_document_ids_are_counted_and_the_first_is_named() -> None:
    """Of two documents with one id, one would silently win and take the judgements of the other."""
    repeated = [*DOCUMENTS, Document("d2", "", "other"), Document("d1", "", "other"), Document("d3", "", "three")]
    with pytest.raises(SourceError, match=r"^w: 2 document ids occur more than once, first 'd1'"):
        check_collection(repeated, QUERIES, [], where="w", max_unknown_share=0.0)


def test_duplicate_query_ids_are_refused() -> None:
    """Two queries with one id would be averaged as one and could stand in two splits."""
    with pytest.raises(SourceError, match=r"1 query ids occur more than once, first 'q1'"):
        check_collection(DOCUMENTS, [*QUERIES, Query("q1", "other", "test")], [], where="w", max_unknown_share=0.0)


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_empty_texts_are_refused(text: str) -> None:
    """An encoder gives empty text a vector too, which then ranks like any other."""
    with pytest.raises(SourceError, match=r"1 of 1 document texts are blank, first id 'd9'"):
        check_collection([Document("d9", "", text)], [], [], where="w", max_unknown_share=0.0)
    with pytest.raises(SourceError, match=r"1 of 1 query texts are blank, first id 'q9'"):
        check_collection(DOCUMENTS, [Query("q9", text, "dev")], [], where="w", max_unknown_share=0.0)


def test_a_few_blank_texts_are_dropped_and_counted_with_their_judgements() -> None:
    """One blank record of FiQA or Cranfield as published refused the whole collection."""
    documents = [Document(f"d{i}", "", "text" if i else " ") for i in range(20)]
    queries = [Query(f"q{i}", "text" if i else "", "train") for i in range(20)]
    judged = [Qrel("q0", "d1", 1), Qrel("q1", "d0", 1), Qrel("q1", "d1", 1)]
    found = check_collection(documents, queries, judged, where="w", max_unknown_share=0.0)
    assert (len(found.documents), len(found.queries), found.num_blank) == (19, 19, 2)
    assert (found.qrels, found.num_dropped_qrels) == ([Qrel("q1", "d1", 1)], 2)


def test_unknown_judgements_up_to_the_threshold_are_dropped_and_counted() -> None:
    """1 of 20 is exactly 5 %: refusing it would make the setting mean something else than it says."""
    collection = check_collection(DOCUMENTS, QUERIES, judgements(19, 1), where="w", max_unknown_share=0.05)
    assert (len(collection.qrels), collection.num_dropped_qrels) == (19, 1)


def test_unknown_judgements_above_the_threshold_are_refused_with_counts() -> None:
    """2 of 20 is 10 %: dropping them would score a wrong pairing of corpus and qrels as if it were right."""
    with pytest.raises(UnknownJudgementError, match=r"2 of 20 judgements .*first \('q1', 'missing0'\).*share of 0\.05"):
        check_collection(DOCUMENTS, QUERIES, judgements(18, 2), where="w", max_unknown_share=0.05)


def test_judgements_of_unknown_queries_count_as_unknown() -> None:
    """Qrels of another collection may share document ids; only the query ids give them away."""
    with pytest.raises(UnknownJudgementError, match=r"1 of 1 judgements .*\('q7', 'd1'\)"):
        check_collection(DOCUMENTS, QUERIES, [Qrel("q7", "d1", 1)], where="w", max_unknown_share=0.5)


def test_a_batch_of_queries_alone_keeps_judgements_of_standing_documents() -> None:
    """A day of search logs has no documents; checking against its own none would drop every judgement."""
    collection = check_collection([], QUERIES, [Qrel("q1", "standing", 1)], where="w", max_unknown_share=0.0)
    assert collection.qrels == [Qrel("q1", "standing", 1)]
    assert collection.num_dropped_qrels == 0


@pytest.mark.parametrize(("key", "split"), [("1", "train"), ("11", "dev"), ("6", "test")])
def test_assign_split_is_fixed_for_all_time(key: str, split: str) -> None:
    """Any change of the hash moves queries from train to test between two releases.

    By `sha256sum`, first 8 bytes as a decimal: 7748076420210162913 for "1", 5748892369479747538 for "11" and
    16714758248282885559 for "6"; the last digit is the bucket, 8 is dev and 9 is test.
    """
    assert assign_split(key) == split


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_assign_split_depends_on_the_key_alone(key: str) -> None:
    """Python's own `hash` of a string changes with every process; a split built on it would leak on the next run."""
    assert assign_split(key) == assign_split("".join(list(key)))
    assert assign_split(key) in ("train", "dev", "test")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_assign_split_is_about_80_10_10(prefix: str) -> None:
    """A skewed bucket would starve dev or test. 2,000 ids: 200 expected, standard deviation 13.4; 100 is 7 of them."""
    counts = Counter(assign_split(f"{prefix}{number}") for number in range(2000))
    assert abs(counts["train"] - 1600) < 126
    assert abs(counts["dev"] - 200) < 100
    assert abs(counts["test"] - 200) < 100


# A batch that changes while it is read.


@dataclass
class MovingSource:
    """A source of one document whose text is `content`; each step of `during` runs in the midst of one reading."""

    content: str
    during: list[Callable[["MovingSource"], None]]
    name: str = "moving"
    reads: list[str] = field(default_factory=list)

    def fingerprint(self, batch: str) -> str:
        """The content itself."""
        return f"key of {self.content}"

    def read(self, batch: str) -> Collection:
        """Open the batch, let it change, and read what was there when it was opened."""
        opened = self.content
        self.reads.append(opened)
        if self.during:
            self.during.pop(0)(self)
        if opened == "half":
            raise SourceError("a line is cut off")
        return Collection([Document("d1", "", opened)], [], [])


def becomes(content: str) -> Callable[[MovingSource], None]:
    """A write of that content."""
    return lambda source: setattr(source, "content", content)


def settled(content: str, *during: Callable[[MovingSource], None]) -> tuple[Any, MovingSource]:
    """What `read_settled` gives, and the source after it."""
    source = MovingSource(content, list(during))
    return read_settled(source, "b"), source  # type: ignore[arg-type]


def test_a_batch_that_changes_while_it_is_read_is_read_again() -> None:
    """The first text under the second fingerprint counts as up to date: the new text is never read."""
    (collection, key), source = settled("old", becomes("new"))
    assert (collection.documents, key) == ([Document("d1", "", "new")], "key of new")
    assert source.reads == ["old", "new"]
    (collection, key), source = settled("still")
    assert (collection.documents[0].text, key, source.reads) == ("still", "key of still", ["still"])


def test_a_fault_counts_only_if_the_batch_did_not_move() -> None:
    """A line that was half written at that moment would put a sound batch into quarantine."""
    (collection, _), source = settled("half", becomes("whole"))
    assert (collection.documents[0].text, source.reads) == ("whole", ["half", "whole"])
    broken = MovingSource("half", [])
    with pytest.raises(SourceError, match="a line is cut off"):
        read_settled(broken, "b")  # type: ignore[arg-type]
    assert broken.reads == ["half"]


def test_a_batch_that_never_rests_is_refused() -> None:
    """A log that somebody appends to for ever would keep the run, and the warehouse's only slot, for ever."""
    source = MovingSource("0", [becomes(str(n)) for n in range(1, 9)])
    with pytest.raises(SourceError, match=r"batch 'b' of moving changed during each of 5 readings; .*start again when"):
        read_settled(source, "b")  # type: ignore[arg-type]
    assert source.reads == ["0", "1", "2", "3", "4"]
