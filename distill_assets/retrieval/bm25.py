"""The BM25 cache: an index on disk per corpus fingerprint, built when there is none and never updated in place.

It is not an asset: an index that is an asset can be older than the batch that is searched against it.

Limit: indexes of older corpora are left on disk (some 10 MB per 50,000 short documents); removing the folder is safe.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill_assets.errors import ShapeError, WarehouseError
from distill_assets.retrieval.dense import FoundRows
from distill_assets.retrieval.words import TOKENISER_VERSION, words
from distill_assets.storage.folders import (
    publish_folder,
    read_json_object,
    require_folder_name,
    temporary_folder,
    write_json,
)

if TYPE_CHECKING:
    import bm25s

BM25_METHOD, BM25_K1, BM25_B = "lucene", 1.5, 0.75
_EPSILON = float(np.finfo(np.float32).eps)
_FREQUENT = 64  # a token in more than one of so many documents is worth the look whether it is needed
_MANY = 16  # candidates per wanted document from which adding a token up is as cheap as looking it up
_MIN_GROUPS = 1024


class LexicalIndex:
    """A BM25 index over documents; made by `LexicalCache`.

    A document's score is the sum of its tokens' impacts, added in float32 from the rarest token to the most frequent. Every
    way below adds in that order, so that none of them moves a bit of a score.
    """

    def __init__(self, doc_ids: Sequence[str], model: "bm25s.BM25 | None") -> None:
        """Take a BM25 model whose rows are `doc_ids`, or None when no document has a token."""
        self.doc_ids = list(doc_ids)
        self._model = model
        descending = sorted(range(len(self.doc_ids)), key=self.doc_ids.__getitem__, reverse=True)
        self._tie_rank = np.empty(len(self.doc_ids), dtype=np.int64)
        self._tie_rank[descending] = np.arange(len(self.doc_ids))
        if model is not None:
            self._impacts, self._documents = (
                model.scores["data"],
                model.scores["indices"],
            )  # by token, documents ascending
            self._starts = np.asarray(model.scores["indptr"], dtype=np.int64)
            self._largest = np.maximum.reduceat(self._impacts, self._starts[:-1])

    def search(self, texts: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
        """Per query the best `k` (doc_id, BM25 score), score descending, then doc_id descending as trec_eval has it.

        Exact, on ties at the cut too. Documents that share no token with the query are left out: a list may be short.
        """
        return self.search_rows(texts, k).rankings(self.doc_ids)

    def search_rows(self, texts: Sequence[str], k: int) -> FoundRows:
        """The same as positions among `doc_ids`. One query at a time: besides the result it holds 4 bytes a document."""
        found = FoundRows(np.full((len(texts), k), -1, np.int64), np.full((len(texts), k), -np.inf, np.float32))
        for number, text in enumerate(texts):
            rows, scores = self._search_one(words(text), k)
            found.rows[number, : len(rows)], found.scores[number, : len(rows)] = rows, scores
        return found

    def _search_one(self, tokens: list[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        token_ids = self._model.get_tokens_ids(tokens) if self._model is not None else []
        if not token_ids or k < 1:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        distinct, counts = np.unique(np.asarray(token_ids, dtype=np.int64), return_counts=True)
        order = np.argsort(self._starts[distinct + 1] - self._starts[distinct], kind="stable")
        rows, scores = self._candidates(distinct[order], counts[order].astype(np.float32), k)
        if len(rows) > k:
            # All that tie with the k-th score stay until the doc_id has decided between them.
            kth = np.partition(scores, len(rows) - k)[len(rows) - k]
            rows, scores = rows[scores >= kth], scores[scores >= kth]
        best = np.lexsort((self._tie_rank[rows], -scores))[:k]
        return rows[best], scores[best]

    def _candidates(self, tokens: np.ndarray, counts: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents that hold all of the best `k`, with their scores.

        Frequent tokens add little to any score and are in most documents. Once what they can still add (Turtle & Flood 1995,
        MaxScore) lifts no new document past the k-th best sum so far, they are looked up for those few that are left.
        """
        sums, bounds = np.zeros(len(self.doc_ids), np.float32), counts * self._largest[tokens]
        slack = (len(tokens) + 2) * _EPSILON  # twice what float32 sums of so many terms can be off, relative
        left = np.concatenate([np.cumsum(bounds[::-1].astype(np.float64))[::-1], [0.0]]) * (1 + slack)
        for position in range(len(tokens) + 1):
            is_last = position == len(tokens)
            if is_last or (position and self._num_documents(tokens[position]) > len(sums) // _FREQUENT):
                floor = _kth_at_least(sums, k) * (1 - slack) - left[position]
                rows = np.flatnonzero(sums >= floor) if floor > 0 else np.flatnonzero(sums > 0) if is_last else None
                if rows is not None and (is_last or len(rows) <= _MANY * k):
                    return rows, self._add_rest(rows, sums[rows], tokens[position:], counts[position:])
            documents, impacts = self._postings(tokens[position])
            np.add.at(sums, documents, impacts * counts[position])
        raise AssertionError("the last position always returns")

    def _add_rest(self, rows: np.ndarray, scores: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> np.ndarray:
        for token, count in zip(tokens, counts, strict=True):
            documents, impacts = self._postings(token)
            places = np.minimum(np.searchsorted(documents, rows.astype(documents.dtype)), len(documents) - 1)
            scores += np.where(documents[places] == rows, impacts[places] * count, np.float32(0))
        return scores

    def _postings(self, token: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(self._starts[token], self._starts[token + 1])
        return self._documents[part], self._impacts[part]

    def _num_documents(self, token: int) -> int:
        return int(self._starts[token + 1] - self._starts[token])


def _kth_at_least(values: np.ndarray, k: int) -> float:
    """A number that at least `k` of the values reach, close to the k-th largest: the k-th of the maxima of groups; 0 for none."""
    num_groups = max(2 * k, _MIN_GROUPS)
    size = len(values) // num_groups
    if size == 0:
        return float(np.partition(values, len(values) - k)[len(values) - k]) if len(values) >= k else 0.0
    maxima = values[: size * num_groups].reshape(size, num_groups).max(axis=0)
    return float(np.partition(maxima, num_groups - k)[num_groups - k])


@dataclass(frozen=True)
class LexicalCache:
    """BM25 indexes under `root`, one folder per corpus fingerprint."""

    root: Path

    def load_or_build(self, corpus_fingerprint: str, doc_ids: Sequence[str], texts: Iterable[str]) -> LexicalIndex:
        """The index of a corpus: loaded when there is one under this fingerprint, else built and saved.

        `texts` runs parallel to `doc_ids` and is read only when the index is built.

        Raises:
            ShapeError: not one text per doc_id.
            WarehouseError: a doc_id occurs twice; it would be ranked twice.
        """
        target = self.root / require_folder_name(corpus_fingerprint, "corpus fingerprint")
        index = _load(target, doc_ids)
        if index is None:
            index = _build(doc_ids, texts)
            with temporary_folder(target) as folder:
                _save(index, folder)
                publish_folder(folder, target)
        return index


def _describe(num_documents: int) -> dict[str, Any]:
    """Everything but the texts that shapes an index; a saved one that says otherwise is built again."""
    import bm25s

    return {
        "tokeniser_version": TOKENISER_VERSION,
        "bm25s_version": bm25s.__version__,
        "method": BM25_METHOD,
        "k1": BM25_K1,
        "b": BM25_B,
        "num_documents": num_documents,
    }


def _build(doc_ids: Sequence[str], texts: Iterable[str]) -> LexicalIndex:
    import bm25s

    if len(set(doc_ids)) != len(doc_ids):
        num_repeated = len(doc_ids) - len(set(doc_ids))
        raise WarehouseError(f"{num_repeated} doc_ids occur twice in the corpus: ids must be unique over all batches")
    vocabulary: dict[str, int] = {}
    token_ids = list(_token_ids(texts, vocabulary))
    if len(token_ids) != len(doc_ids):
        raise ShapeError(f"got {len(token_ids)} texts for {len(doc_ids)} doc_ids: expected one each, in the same order")
    if not vocabulary:
        return LexicalIndex(doc_ids, None)
    # auto_compile off: numba, where installed, would spend seconds compiling for milliseconds of search.
    model = bm25s.BM25(method=BM25_METHOD, k1=BM25_K1, b=BM25_B, auto_compile=False)
    model.index((token_ids, vocabulary), show_progress=False)
    return LexicalIndex(doc_ids, model)


def _token_ids(texts: Iterable[str], vocabulary: dict[str, int]) -> Iterator[list[int]]:
    """Per text the ids of its tokens; `vocabulary` grows."""
    for text in texts:
        yield [vocabulary.setdefault(token, len(vocabulary)) for token in words(text)]


def _save(index: LexicalIndex, folder: Path) -> None:
    if index._model is not None:
        index._model.save(folder, show_progress=False)
    (folder / "doc_ids.json").write_text(json.dumps(index.doc_ids), encoding="utf-8")
    write_json(folder / "meta.json", {**_describe(len(index.doc_ids)), "has_tokens": index._model is not None})


def _load(folder: Path, doc_ids: Sequence[str]) -> LexicalIndex | None:
    """The saved index, or None when there is none, it was made otherwise, or it cannot be read: it is only a cache."""
    try:
        meta = read_json_object(folder / "meta.json")
    except WarehouseError:
        return None
    if meta is None:
        return None
    has_tokens = meta.pop("has_tokens", False)
    if meta != _describe(len(doc_ids)):
        return None
    import bm25s

    try:
        saved_ids = json.loads((folder / "doc_ids.json").read_text(encoding="utf-8"))
        model = bm25s.BM25.load(folder, mmap=True, show_progress=False) if has_tokens else None
    except (OSError, ValueError, KeyError):
        return None
    return LexicalIndex(saved_ids, model) if saved_ids == list(doc_ids) else None
