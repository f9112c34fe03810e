"""Passages of documents that are longer than the student reads: how a text is cut, and how passages stand for their document.

A ranking of documents takes each by its best passage (MaxP, Dai and Callan 2019, "Deeper Text Understanding for IR with Contextual
Neural Language Modeling").
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from distill_assets.records import Document
from distill_assets.retrieval.rankings import Ranking

# Where each token of a text begins and ends, in characters; without what stands around a text.
Offsets = Sequence[tuple[int, int]]
_DOCUMENTS_AT_ONCE = 256
# What ends a passage where it stands in the last quarter of the window, best first: the end of a line or sentence, then of a word.
_ENDS = (re.compile(r"\n|[.!?…]['\")\]]*\s|[。！？]"), re.compile(r"\s"))
# Passages of one judged document that the teacher scores and training chooses from: the first ones that search finds. An article of a
# hundred passages would cost a hundred forward passes a query.
ANSWERS_PER_DOCUMENT = 4


@dataclass(frozen=True)
class Cutting:
    """How long documents are cut.

    Attributes:
        max_tokens: of a passage, with its title, the prompt and what stands around a text.
        overlap: tokens that a passage may repeat of the one before it.
        offsets_of: the tokens of texts.
        num_around: tokens of the prompt and of what stands around a text.
    """

    max_tokens: int
    overlap: int
    offsets_of: Callable[[Sequence[str]], Sequence[Offsets]]
    num_around: int


def cut_documents(documents: Iterable[Document], cutting: Cutting) -> Iterator[tuple[Document, str | None]]:
    """Documents as they are where they are short enough, with None; else their passages, each with the id of its document.

    Passages are numbered from 1: `DOC#1`, `DOC#2`. Each begins with the title, of which half of the window is kept at most. Streams.
    """
    left = iter(documents)
    while several := list(islice(left, _DOCUMENTS_AT_ONCE)):
        titles = cutting.offsets_of([document.title for document in several])
        texts = cutting.offsets_of([document.text for document in several])
        for document, title, text in zip(several, titles, texts, strict=True):
            yield from _passages(document, title, text, cutting)


def _passages(
    document: Document, title: Offsets, text: Offsets, cutting: Cutting
) -> Iterator[tuple[Document, str | None]]:
    room = cutting.max_tokens - cutting.num_around
    if len(title) + len(text) <= room:
        yield document, None
        return
    kept = title[: room // 2]
    heading = document.title if len(kept) == len(title) else document.title[: kept[-1][1]]
    spans = cut_spans(document.text, text, room - len(kept), cutting.overlap)
    for number, (start, end) in enumerate(spans, start=1):
        passage = replace(document, doc_id=f"{document.doc_id}#{number}", title=heading, text=document.text[start:end])
        yield passage, document.doc_id


def cut_spans(text: str, tokens: Offsets, max_tokens: int, overlap: int) -> list[tuple[int, int]]:
    """Start and end, in characters, of the passages of a text: each of at most `max_tokens` tokens; together they hold all of it.

    A passage ends with a line or sentence where one ends in the last quarter of its window, else with a word there, else with a
    token. The next one repeats at most `overlap` tokens of it, at most half a window, from the beginning of a word where there is one.
    """
    spans, first, begin = list[tuple[int, int]](), 0, 0
    while first + max_tokens < len(tokens):
        last = _last_end(text, tokens, first + max_tokens - max_tokens // 4, first + max_tokens)
        spans.append((begin, tokens[last][0]))
        earliest = max(last - min(overlap, max_tokens // 2), first + 1)
        first = next((i for i in range(earliest, last) if text[tokens[i - 1][1] : tokens[i][0]].isspace()), earliest)
        begin = tokens[first][0]
    return [*spans, (begin, len(text))]


def _last_end(text: str, tokens: Offsets, lowest: int, highest: int) -> int:
    """The token that the next passage may begin with, from `lowest` to `highest`: the last one after an end of `_ENDS`."""
    for end in _ENDS:
        for i in range(highest, lowest - 1, -1):
            if end.search(text, tokens[i - 1][0], tokens[i][0]) is not None:
                return i
    return highest


def best_passages(ranking: Ranking, parent_of: Mapping[str, str], k: int, per_document: int) -> Ranking:
    """The passages of the first `k` documents of a ranking, at most `per_document` of each; best first."""
    seen: defaultdict[str, int] = defaultdict(int)
    kept = []
    for doc_id, score in ranking:
        parent = parent_of.get(doc_id, doc_id)
        if len(seen) == k and parent not in seen:
            break
        seen[parent] += 1
        if seen[parent] <= per_document:
            kept.append((doc_id, score))
    return kept


def documents_of(ranking: Ranking, parent_of: Mapping[str, str]) -> Ranking:
    """A ranking of passages, best first, as one of documents: each by its best passage."""
    best: dict[str, float] = {}
    for doc_id, score in ranking:
        best.setdefault(parent_of.get(doc_id, doc_id), score)
    return list(best.items())


def standing_for(
    doc_ids: Collection[str], ranking: Iterable[str], parent_of: Mapping[str, str], at_most: int
) -> list[str]:
    """Those of `doc_ids` that stand for their documents: of one that was cut the first `at_most` that `ranking` holds.

    Where it holds none, the document's first passage among `doc_ids` does. Documents that were not cut all stand for themselves.
    In the order of the ranking, then the others by id.
    """
    found = [doc_id for doc_id in dict.fromkeys(ranking) if doc_id in doc_ids]
    rest = sorted(
        set(doc_ids).difference(found), key=lambda doc_id: (parent_of.get(doc_id, doc_id), len(doc_id), doc_id)
    )
    num_of: defaultdict[str, int] = defaultdict(int)
    kept = []
    for doc_ids_of, limit in ((found, at_most), (rest, 1)):
        for doc_id in doc_ids_of:
            parent = parent_of.get(doc_id)
            if parent is None or num_of[parent] < limit:
                kept.append(doc_id)
            if parent is not None:
                num_of[parent] += 1
    return kept
