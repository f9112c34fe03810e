"""Passages: what is cut, what is kept, and which passage stands for its document."""

import random
import re
from itertools import pairwise

import pytest

from distill_assets.records import Document
from distill_assets.retrieval.passages import (
    Cutting,
    best_passages,
    cut_documents,
    cut_spans,
    documents_of,
    standing_for,
)


def tokens_of(text: str) -> list[tuple[int, int]]:
    """Words and punctuation, a long word in pieces of three letters: as a word-piece tokenizer does."""
    return [
        (m.start() + i, min(m.start() + i + 3, m.end()))
        for m in re.finditer(r"\w+|[^\w\s]", text)
        for i in range(0, len(m[0]), 3)
    ]


def cut(max_tokens: int, overlap: int = 0) -> Cutting:
    """Cutting in these tokens, of which two stand around a text."""
    return Cutting(max_tokens, overlap, lambda texts: [tokens_of(text) for text in texts], num_around=2)


@pytest.mark.parametrize("seed", range(60))
def test_no_character_is_lost_and_no_passage_is_too_long(seed: int) -> None:
    """A passage over the limit is read in part, and a gap is never found: both look like a weak model."""
    rng = random.Random(seed)
    text = "".join(rng.choice(["ab", "cdefgh", ". ", "\n", " ", " ", "。", "!? "]) for _ in range(rng.randrange(400)))
    tokens, max_tokens = tokens_of(text), rng.randrange(2, 40)
    overlap = rng.randrange((max_tokens + 1) // 2)
    spans = cut_spans(text, tokens, max_tokens, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    borders = {start for start, _ in tokens} | {0, len(text)}
    for (start, end), (after, after_end) in pairwise(spans):
        assert start < after <= end < after_end
        assert sum(after <= first < end for first, _ in tokens) <= overlap
    for start, end in spans:
        assert {start, end} <= borders, "cut within a token"
        assert sum(start <= first < end for first, _ in tokens) <= max_tokens


def test_a_passage_ends_with_a_sentence_in_the_last_quarter_of_its_window() -> None:
    """Half a sentence at each end is what no query asks for."""
    text = "a b c d e f. g h i j k l m"
    # 14 tokens; of a window of 8 the last quarter begins after the 6th. The sentence ends with the 7th, ".".
    assert [text[start:end] for start, end in cut_spans(text, tokens_of(text), 8, 0)] == [
        "a b c d e f. ",
        "g h i j k l m",
    ]
    # A window of 12: the sentence's end is too early, so it ends with a word.
    assert [text[s:e] for s, e in cut_spans(text, tokens_of(text), 12, 2)] == ["a b c d e f. g h i j k ", "j k l m"]


def test_a_word_longer_than_the_window_is_cut_between_tokens() -> None:
    """A base64 block must not stop the cutting."""
    assert cut_spans("abcdefghij", tokens_of("abcdefghij"), 2, 0) == [(0, 6), (6, 10)]


def test_short_documents_keep_their_id_and_long_ones_give_numbered_passages_with_the_title() -> None:
    """A renamed short document loses its judgements; a passage without the title loses what it is about."""
    short, long = Document("s", "T", "a b c"), Document("d", "T", "a b c d e f g")
    found = list(cut_documents([short, long], cut(max_tokens=6)))
    # 6 tokens, less 2 around, less 1 of the title: 3 for the text.
    assert found == [
        (short, None),
        (Document("d#1", "T", "a b c "), "d"),
        (Document("d#2", "T", "d e f "), "d"),
        (Document("d#3", "T", "g"), "d"),
    ]


def test_a_title_longer_than_half_the_window_is_cut() -> None:
    """A title that fills the window leaves none for the text, and cutting would never end."""
    [(first, _), *_] = cut_documents([Document("d", "t u v w x y", "a b c")], cut(max_tokens=6))
    assert (first.title, first.text) == ("t u", "a b ")


def test_a_ranking_takes_each_document_by_its_best_passage() -> None:
    """A document that is counted once per passage fills the top ten alone."""
    parent_of = {"a#1": "a", "a#2": "a", "a#3": "a", "b#1": "b"}
    ranking = [("a#2", 0.9), ("c", 0.8), ("a#1", 0.7), ("b#1", 0.6), ("a#3", 0.5)]
    assert best_passages(ranking, parent_of, 2, 1) == [("a#2", 0.9), ("c", 0.8)]
    assert best_passages(ranking, parent_of, 3, 2) == [("a#2", 0.9), ("c", 0.8), ("a#1", 0.7), ("b#1", 0.6)]
    assert documents_of(ranking, parent_of) == [("a", 0.9), ("c", 0.8), ("b", 0.6)]


def test_found_passages_stand_for_a_document_else_its_first_one() -> None:
    """All hundred passages of an article as positives teach that its list of references answers the query."""
    parent_of = {f"a#{i}": "a" for i in range(1, 12)} | {"b#2": "b", "b#10": "b"}
    judged = [*parent_of, "c"]
    ranking = ["a#11", "x", "a#3", "c", "a#2"]
    assert standing_for(judged, ranking, parent_of, 2) == ["a#11", "a#3", "c", "b#2"]
    assert standing_for(["c", "d"], [], {}, 1) == ["c", "d"]
