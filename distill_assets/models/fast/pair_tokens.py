"""Pairs of token ids, put together from texts that were each tokenised once.

A teacher reads the same document for many queries and the same query for many documents. A tokenizer that is given pairs
tokenises both again for every pair. Here texts are tokenised alone, without special tokens, and joined by the template
that the tokenizer's own post-processor follows, truncated as the tokenizer would truncate them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill_assets.errors import ModelError

# Characters and tokens of texts that stay tokenised between two windows; about 100 MB of memory at the most.
_CACHE_COST = 64 * 2**20
_PROBES = (("a", "b"), ("a b c", "d"), ("a", "b c d e"))


@dataclass(frozen=True)
class PairTemplate:
    """What stands around and between the two texts of a pair, with token types; read from a fast tokenizer."""

    prefix: np.ndarray
    middle: np.ndarray
    suffix: np.ndarray
    prefix_types: np.ndarray
    middle_types: np.ndarray
    suffix_types: np.ndarray
    query_type: int
    document_type: int

    @property
    def num_special(self) -> int:
        """Tokens of a pair that belong to neither text."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)


@dataclass(frozen=True)
class PackedPairs:
    """Token ids of many pairs, one after the other, without padding.

    Attributes:
        ids, types: int64 (num_tokens,); types are zero where the tokenizer gives none.
        lengths: int64 (num_pairs,), tokens of each pair.
    """

    ids: np.ndarray
    types: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class TokenizedPairs:
    """Pairs as references into tokenised texts: where each text starts, and how much of it the pair holds."""

    flat: np.ndarray
    query_starts: np.ndarray
    query_lengths: np.ndarray
    document_starts: np.ndarray
    document_lengths: np.ndarray
    template: PairTemplate

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each pair, special ones included; int64 (num_pairs,)."""
        return self.query_lengths + self.document_lengths + self.template.num_special

    def pack(self, rows: np.ndarray) -> PackedPairs:
        """The pairs of `rows`, in that order, as flat token ids."""
        template, lengths = self.template, self.lengths[rows]
        out = _Writer(lengths)
        out.constant(template.prefix, template.prefix_types)
        out.text(self.flat, self.query_starts[rows], self.query_lengths[rows], template.query_type)
        out.constant(template.middle, template.middle_types)
        out.text(self.flat, self.document_starts[rows], self.document_lengths[rows], template.document_type)
        out.constant(template.suffix, template.suffix_types)
        return PackedPairs(out.ids, out.types, lengths)


class PairTokenizer:
    """Tokenises pairs as `tokenizer(query, document, truncation="longest_first", max_length=...)` does, each text once.

    Args:
        tokenizer: a transformers tokenizer backed by the `tokenizers` library.
        max_length: tokens of a pair at most; None or a huge number never truncates.

    Raises:
        ModelError: the tokenizer has no such backend, or does not lay pairs out as query, then document.
    """

    def __init__(self, tokenizer: Any, max_length: int | None) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(f"{type(tokenizer).__name__} is not backed by the tokenizers library: pairs go through it")
        # A copy: calls of the original switch truncation and padding of its backend on.
        self._backend = type(backend).from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
        self._is_left = getattr(tokenizer, "truncation_side", "right") == "left"
        has_types = "token_type_ids" in tokenizer.model_input_names
        self.template = _read_template(self._backend, has_types=has_types)
        self.max_length = int(min(max_length or 2**31, 2**31))
        if self.max_length <= self.template.num_special:
            raise ModelError(f"max_length {max_length} leaves no token for the texts: raise teacher_max_length")
        self._cache: dict[str, tuple[np.ndarray, int]] = {}
        self._cost = 0

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> TokenizedPairs:
        """Tokenise every text of `pairs` that is not at hand, and truncate each pair."""
        row_of = {text: row for row, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        found = self._tokens_of(list(row_of))
        texts = [ids for ids, _ in found]
        stored = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        lengths = np.fromiter((length for _, length in found), dtype=np.int64, count=len(texts))
        starts = np.concatenate([[0], np.cumsum(stored)])
        rows = np.fromiter((row_of[text] for pair in pairs for text in pair), dtype=np.int64, count=2 * len(pairs))
        query_rows, document_rows = rows[0::2], rows[1::2]
        kept_query, kept_document = truncate_longest_first(
            lengths[query_rows], lengths[document_rows], self.max_length - self.template.num_special
        )
        query_starts, document_starts = starts[query_rows], starts[document_rows]
        if self._is_left:
            query_starts = query_starts + stored[query_rows] - kept_query
            document_starts = document_starts + stored[document_rows] - kept_document
        flat = np.concatenate(texts) if texts else np.empty(0, dtype=np.int32)
        return TokenizedPairs(flat, query_starts, kept_query, document_starts, kept_document, self.template)

    def _tokens_of(self, texts: list[str]) -> list[tuple[np.ndarray, int]]:
        """Token ids of each text, and how many it has before they were clipped."""
        missing = [text for text in texts if text not in self._cache]
        if missing:
            encodings = self._backend.encode_batch_fast(missing, add_special_tokens=False)
            fresh = {text: self._clip(encoding.ids) for text, encoding in zip(missing, encodings, strict=True)}
            if self._cost > _CACHE_COST:
                self._cache = {text: self._cache[text] for text in texts if text in self._cache}
                self._cost = sum(_cost(text, ids) for text, (ids, _) in self._cache.items())
            self._cache |= fresh
            self._cost += sum(_cost(text, ids) for text, (ids, _) in fresh.items())
        return [self._cache[text] for text in texts]

    def _clip(self, ids: list[int]) -> tuple[np.ndarray, int]:
        """No pair can hold more of a text than `max_length`: what is beyond is not kept, but for its number."""
        kept = ids[-self.max_length :] if self._is_left else ids[: self.max_length]
        return np.array(kept, dtype=np.int32), len(ids)


def truncate_longest_first(
    query_lengths: np.ndarray, document_lengths: np.ndarray, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths that `longest_first` leaves of both texts, so that they sum to `budget` at most; int64 arrays.

    The shorter text stays whole while it fits half the budget; two texts that are both longer get half each, the longer
    one the odd token (tokenizers, `truncate_encodings`).
    """
    short, long = np.minimum(query_lengths, document_lengths), np.maximum(query_lengths, document_lengths)
    kept_long = np.maximum(short, budget - short)
    is_halved = short + kept_long > budget
    kept_short = np.where(is_halved, budget // 2, short)
    kept_long = np.where(is_halved, budget // 2 + budget % 2, kept_long)
    is_cut = query_lengths + document_lengths > budget
    kept_short, kept_long = np.where(is_cut, kept_short, short), np.where(is_cut, kept_long, long)
    is_query_longer = query_lengths > document_lengths
    return np.where(is_query_longer, kept_long, kept_short), np.where(is_query_longer, kept_short, kept_long)


def _read_template(backend: Any, *, has_types: bool) -> PairTemplate:
    """Encode probe pairs and see what stands around the texts; every probe must say the same."""
    found = [_template_of(backend.encode(*probe), has_types) for probe in _PROBES]
    first = found[0]
    for other in found[1:]:
        for name in ("prefix", "middle", "suffix", "prefix_types", "middle_types", "suffix_types"):
            if not np.array_equal(getattr(first, name), getattr(other, name)):
                raise ModelError(f"the tokenizer's pairs have no constant {name}: they go through the tokenizer itself")
    return first


def _template_of(encoding: Any, has_types: bool) -> PairTemplate:
    sides = encoding.sequence_ids
    query = [i for i, side in enumerate(sides) if side == 0]
    document = [i for i, side in enumerate(sides) if side == 1]
    is_plain = query and document and query[-1] < document[0]
    if not is_plain or len(query) != query[-1] - query[0] + 1 or len(document) != document[-1] - document[0] + 1:
        raise ModelError("the tokenizer does not lay a pair out as query, then document: pairs go through it")
    ids = np.array(encoding.ids, dtype=np.int64)
    types = np.array(encoding.type_ids if has_types else [0] * len(ids), dtype=np.int64)
    before, between, after = slice(0, query[0]), slice(query[-1] + 1, document[0]), slice(document[-1] + 1, None)
    texts = int(types[query[0]]), int(types[document[0]])
    return PairTemplate(ids[before], ids[between], ids[after], types[before], types[between], types[after], *texts)


class _Writer:
    """Writes the parts of many pairs, one kind of part after the other; `at` is where each pair goes on."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.ids = np.empty(int(lengths.sum()), dtype=np.int64)
        self.types = np.empty_like(self.ids)
        self.at = np.cumsum(lengths) - lengths

    def constant(self, tokens: np.ndarray, types: np.ndarray) -> None:
        for token, kind in zip(tokens, types, strict=True):
            self.ids[self.at] = token
            self.types[self.at] = kind
            self.at = self.at + 1

    def text(self, flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray, kind: int) -> None:
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        target = np.repeat(self.at, lengths) + within
        self.ids[target] = flat[np.repeat(starts, lengths) + within]
        self.types[target] = kind
        self.at = self.at + lengths


def _cost(text: str, ids: np.ndarray) -> int:
    return len(text) + 4 * len(ids) + 200  # about 200 bytes of objects around both
