"""What a batch brings, in figures and sentences: for `inspect`, `run`, and the metadata of `corpus`. Opens no model."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from distill_assets.documents import sample
from distill_assets.records import SPLITS, Collection, hash_text, normalise
from distill_assets.retrieval.words import words

MAX_DOCUMENTS = 20_000  # of more documents so many are looked at: to go through the words of ten million takes minutes
_SAMPLED_TEXTS = 10_000  # texts whose tokens and letters are counted, chosen by hash: enough for shares to a percent
_MAX_SCRIPTS = 4
_MIN_SHARE = 0.01  # a formula has some Greek letters
_MAX_UNREAD_SHARE = 0.1
CountTokens = Callable[[Sequence[str]], Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read of one batch.

    Attributes:
        num_looked_at: documents that all other figures of documents are of, chosen by the hash of their content.
        judged: number of judged queries by split.
        grades: number of judgements by relevance.
        median_tokens, longest_tokens: of a document, in tokens of the student.
        max_tokens: what the student reads of a text; None where nothing bounds it.
        share_longer: of documents that are longer than that; `share_unread` is the share of all text that is then not read.
        scripts: share of letters by script, largest first; of documents and queries.
        share_no_common_word: of queries that have no word in common with any document; None where the batch lacks either.
        num_equal_documents, num_equal_queries: ids whose normalised text another id has, too.
        num_passages, num_cut: passages among the documents, and documents that they were cut from.
        unread: files that are there and not read -> why, and what to do.
    """

    num_documents: int
    num_looked_at: int
    num_queries: int
    min_relevance: int
    num_judgements: int
    num_dropped_judgements: int
    num_blank: int
    judged: Mapping[str, int]
    grades: Mapping[int, int]
    median_tokens: int
    longest_tokens: int
    max_tokens: int | None
    share_longer: float
    share_unread: float
    scripts: Mapping[str, float]
    share_no_common_word: float | None
    num_equal_documents: int
    num_equal_queries: int
    unread: Mapping[str, str] = field(default_factory=dict)
    num_passages: int = 0
    num_cut: int = 0

    def sentences(self) -> list[str]:
        """One figure or a few a line, what needs attention included."""
        dropped = (
            f" ({self.num_dropped_judgements:,} of unknown ids were dropped)" if self.num_dropped_judgements else ""
        )
        num_documents = self.num_documents - self.num_passages + self.num_cut
        judged = ", ".join(f"{split} {count:,}" for split, count in self.judged.items())
        found = [
            f"{num_documents:,} documents, {self.num_queries:,} queries, {self.num_judgements:,} judgements{dropped}",
            f"judged queries: {judged}{self._grades()}",
        ]
        if self.num_cut:
            found.append(
                f"{self.num_cut:,} documents were cut into {self.num_passages:,} passages, which count as documents from here on"
            )
        if self.num_looked_at < self.num_documents:
            found.append(
                f"what follows of documents is of {self.num_looked_at:,} of them, chosen by the hash of their content"
            )
        if self.num_documents:
            limit = "all of it" if self.max_tokens is None else f"{self.max_tokens:,} of them"
            found.append(
                f"a document has {self.median_tokens:,} tokens in the middle and {self.longest_tokens:,} at most; the student reads "
                f"{limit}: {self.share_longer:.0%} of the documents are longer, {self.share_unread:.0%} of the text is not read"
            )
        if self.scripts:
            found.append(f"letters: {', '.join(f'{script} {share:.0%}' for script, share in self.scripts.items())}")
        if self.share_no_common_word is not None:
            found.append(f"{self.share_no_common_word:.0%} of the queries have no word in common with any document")
        if self.num_equal_documents or self.num_equal_queries:
            found.append(
                f"{self.num_equal_documents:,} documents and {self.num_equal_queries:,} queries say what another id says, too"
            )
        if self.num_blank:
            found.append(f"{self.num_blank:,} blank texts were dropped")
        return found + [f"not read: {name}: {reason}" for name, reason in self.unread.items()]

    def _grades(self) -> str:
        if not self.grades:
            return ""
        told = ", ".join(f"{grade} ({count:,})" for grade, count in sorted(self.grades.items()))
        threshold = f"; relevant from {self.min_relevance} on (min_relevance)"
        return f"; grades: {told}{'' if self.grades.keys() <= {0, 1} else threshold}"

    @property
    def is_read_whole(self) -> bool:
        """Whether the student reads nearly all of the text."""
        return self.share_unread <= _MAX_UNREAD_SHARE


def read_figures(
    collection: Collection, count_tokens: CountTokens, max_tokens: int | None, min_relevance: int = 1
) -> Reading:
    """Figures of one batch. At most 20,000 documents are looked at, and tokens are counted of 10,000 texts.

    Args:
        collection: what the batch brings.
        count_tokens: numbers of tokens of texts, those around a text included.
        max_tokens: what the student reads of a text.
        min_relevance: the lowest grade that is relevant.
    """
    queries, documents = collection.queries, sample(collection.documents, MAX_DOCUMENTS)
    contents, asked = [d.content for d in documents], [q.text for q in queries]
    tokens = np.asarray(count_tokens(_sample(contents)), dtype=np.int64)
    unread = np.maximum(tokens - (max_tokens or tokens.max(initial=0)), 0)
    relevant = {qrel.query_id for qrel in collection.qrels if qrel.relevance >= min_relevance}
    return Reading(
        num_documents=len(collection.documents),
        num_looked_at=len(documents),
        num_queries=len(queries),
        min_relevance=min_relevance,
        num_judgements=len(collection.qrels),
        num_dropped_judgements=collection.num_dropped_qrels,
        num_blank=collection.num_blank,
        judged={split: sum(q.split == split and q.query_id in relevant for q in queries) for split in SPLITS},
        grades=dict(sorted(Counter(qrel.relevance for qrel in collection.qrels).items())),
        median_tokens=int(np.median(tokens)) if len(tokens) else 0,
        longest_tokens=int(tokens.max(initial=0)),
        max_tokens=max_tokens,
        share_longer=float((unread > 0).mean()) if len(tokens) else 0.0,
        share_unread=float(unread.sum() / tokens.sum()) if tokens.sum() else 0.0,
        scripts=_scripts([*_sample(contents), *_sample(asked)]),
        share_no_common_word=_share_no_common_word(contents, _sample(asked)),
        num_equal_documents=_num_equal(contents),
        num_equal_queries=_num_equal(asked),
        unread=collection.unread,
    )


def _sample(texts: Sequence[str]) -> list[str]:
    return list(texts) if len(texts) <= _SAMPLED_TEXTS else sorted(texts, key=hash_text)[:_SAMPLED_TEXTS]


def _scripts(texts: Sequence[str]) -> dict[str, float]:
    """Share of letters by script, which is the first word of a letter's Unicode name (LATIN, CJK, DEVANAGARI)."""
    letters = Counter(character for text in texts for character in text if character.isalpha())
    counts: Counter[str] = Counter()
    for character, count in letters.items():
        counts[unicodedata.name(character, "unnamed").split()[0].capitalize()] += count
    shares = ((script, count / counts.total()) for script, count in counts.most_common(_MAX_SCRIPTS))
    return {script: share for script, share in shares if share >= _MIN_SHARE}


def _share_no_common_word(contents: Sequence[str], asked: Sequence[str]) -> float | None:
    if not contents or not asked:
        return None
    wanted = [set(words(text)) for text in dict.fromkeys(asked)]
    left = set().union(*wanted)
    for content in contents:
        left.difference_update(words(content))
    return sum(own <= left for own in wanted) / len(wanted)


def _num_equal(texts: Sequence[str]) -> int:
    counts = Counter(map(normalise, texts))
    return sum(count for count in counts.values() if count > 1)
