"""Queries made from documents: what is one, what makes them, and which texts are dropped."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from distill_assets.errors import GeneratorError
from distill_assets.evaluation.splits import repeated_texts
from distill_assets.records import Document, normalise
from distill_assets.retrieval.words import PUNCTUATION, has_unspaced_script

Kind = Literal["question", "keyword", "sentence", "title", "model"]
# Of two queries that say the same, the first kind stays: its words are the furthest from the document's own.
KINDS: tuple[Kind, ...] = ("question", "keyword", "sentence", "title", "model")
MAX_CHARACTERS, MAX_WORDS, MIN_WORDS = 300, 30, 2
# Of a script without spaces.
MAX_LETTERS, MIN_LETTERS = 60, 4
_CHECKED_AFTER, _FEWEST_CHECKED = 20, 3  # documents: a model that gives nothing is stopped before thousands are paid
_ADDRESS = re.compile(r"https?://|www\.|\S@\S+\.\w")
_CODE = re.compile(
    r"[{}]|::=| \| |;\s*$|[=!<>]=|[-=]>|\w\s?=\s?[\w'\"\[(]|</?\w+[^>]*>|"
    r"^\s*(>>>|\$ |#!|@\w|from \S+ import |import \S+$|def \w+\(|class \w+[(:])"
)


class MadeText(NamedTuple):
    """A text that may become a query."""

    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class GeneratedQuery:
    """A query that was made from one document, which answers it."""

    text: str
    doc_id: str
    kind: Kind


class Generator(Protocol):
    """Makes queries from documents.

    Attributes:
        identity: everything that decides the texts: version of the rules, or model, prompt and decoding.
    """

    @property
    def identity(self) -> str: ...  # noqa: D102

    def queries_of(
        self, documents: Sequence[Document], per_document: int, seed: int
    ) -> Iterator[Sequence[tuple[str, Kind]]]:
        """Texts and kinds of each document in the order given, best first; an empty list where it finds none.

        More than `per_document` may come: some are dropped later.
        """
        ...


def generate(
    documents: Sequence[Document],
    generator: Generator,
    per_document: int,
    seed: int,
    dropped: Counter[str] | None = None,
) -> list[GeneratedQuery]:
    """Queries of the documents, at most `per_document` each, by doc_id and then in the generator's order.

    A text that several documents give is dropped for all of them: no one document is its answer.

    Args:
        documents: each id once.
        generator: what makes the texts.
        per_document: at least 1.
        seed: decides every random choice.
        dropped: gets the number of dropped texts by reason.
    """
    if per_document < 1:
        raise ValueError(f"per_document must be at least 1, got {per_document}")
    dropped = Counter() if dropped is None else dropped
    made = list[GeneratedQuery]()
    for document, texts in zip(documents, generator.queries_of(documents, per_document, seed), strict=True):
        made += _usable(document, texts, dropped)[:per_document]
    num_giving = Counter(_key(query.text) for query in made)
    kept = [query for query in made if num_giving[_key(query.text)] == 1]
    dropped["given for several documents"] += len(made) - len(kept)
    return sorted(kept, key=lambda query: query.doc_id)


def deduplicate(queries: Sequence[GeneratedQuery], *, jaccard: float = 0.8) -> list[GeneratedQuery]:
    """The queries without those that another one says word by word or nearly so, in the order given.

    Of two that say the same, the first by kind stays, then by doc_id and text.

    Args:
        queries: of any documents.
        jaccard: similarity of shingles from which two say the same, in (0, 1]; see `evaluation.splits.find_twins`.
    """
    ordered = sorted(queries, key=lambda query: (KINDS.index(query.kind), query.doc_id, query.text))
    repeated = repeated_texts([query.text for query in ordered], jaccard=jaccard)
    kept = {query for position, query in enumerate(ordered) if position not in repeated}
    return [query for query in queries if query in kept]


def require_answers(answers: Iterable[tuple[str, Sequence[str]]], who: str) -> Iterator[Sequence[str]]:
    """The queries of each of a model's answers, checked after 20 documents and at the end.

    Args:
        answers: of each document what the model said, and the queries in it.
        who: the model, for messages.

    Raises:
        GeneratorError: more than half of the answers hold no query, or more than half begin with the same one.
    """
    said, firsts, num_documents = "", Counter[str](), 0
    for num_documents, (answer, texts) in enumerate(answers, start=1):
        firsts[normalise(texts[0]) if texts else ""] += 1
        said = said if texts else answer
        if num_documents == _CHECKED_AFTER:
            _require_variety(firsts, said, who)
        yield texts
    if num_documents >= _FEWEST_CHECKED:
        _require_variety(firsts, said, who)


def _require_variety(firsts: Counter[str], said: str, who: str) -> None:
    num = firsts.total()
    advice = 'try another model, or query_generator = "rules"'
    if firsts[""] > num / 2:
        raise GeneratorError(
            f"{who} gave no query for {firsts['']} of {num} documents, expected one for at least half; it said {said[:200]!r}: {advice}"
        )
    text, times = firsts.most_common(1)[0]
    if times > num / 2:
        raise GeneratorError(
            f"{who} gave {text[:200]!r} for {times} of {num} documents, expected a query of each: {advice}"
        )


def flaw_of(text: str) -> str | None:
    """Why a text cannot be a query; None if it can."""
    if not text.strip():
        return "empty"
    if len(text) > MAX_CHARACTERS:
        return "too long"
    if _ADDRESS.search(text):
        return "an address"
    if _CODE.search(text):
        return "code"
    size, least, most = _size(text)
    if size < least:
        return "too short"
    return "too long" if size > most else None


def _key(text: str) -> str:
    return normalise(text).strip(PUNCTUATION)


def _size(text: str) -> tuple[int, int, int]:
    """Size of a text with its bounds: words that hold a letter, or letters where no spaces tell the words."""
    if has_unspaced_script(text):
        return sum(character.isalpha() for character in text), MIN_LETTERS, MAX_LETTERS
    parts = text.split()
    num_words = sum(any(character.isalpha() for character in part) for part in parts)
    return (num_words if num_words < MIN_WORDS else len(parts)), MIN_WORDS, MAX_WORDS


def _usable(document: Document, texts: Sequence[tuple[str, Kind]], dropped: Counter[str]) -> list[GeneratedQuery]:
    # A query that is the document itself does not find it: a ranking leaves it out (`records.is_own_document`).
    seen = {_key(document.content), _key(document.text)}
    usable = []
    for text, kind in texts:
        text = " ".join(text.split())
        if reason := flaw_of(text):
            dropped[reason] += 1
        elif _key(text) not in seen:
            seen.add(_key(text))
            usable.append(GeneratedQuery(text, document.doc_id, kind))
    return usable
