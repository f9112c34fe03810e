"""The BM25 cache: an index on disk per corpus fingerprint, built when there is none and never updated in place.

It is not an asset: an index that is an asset can be older than the batch that is searched against it.

Limit: indexes of older corpora are left on disk (some 10 MB per 50,000 short documents); removing the folder is safe.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill_assets.core.errors import ShapeError, WarehouseError
from distill_assets.storage.folders import (
    publish_folder,
    read_json_object,
    require_folder_name,
    temporary_folder,
    write_json,
)

if TYPE_CHECKING:
    import bm25s

# Raised whenever the same text would give other tokens, so that indexes on disk are built again.
TOKENISER_VERSION = 1
BM25_METHOD, BM25_K1, BM25_B = "lucene", 1.5, 0.75
_RUN = re.compile(r"[^\W\d_]+|\d+")  # letters or digits, of any script; underscores and dots part words


def tokenise(text: str) -> list[str]:
    """Words of a text, lower-cased, identifiers split: `read_HTMLTable2` gives read, html, table, 2. No stop words."""
    tokens: list[str] = []
    for run in _RUN.findall(text):
        if run.islower() or run.isupper() or not run.isalpha():
            tokens.append(run.lower())
        else:
            tokens.extend(part.lower() for part in _split_camel_case(run))
    return tokens


def _split_camel_case(word: str) -> list[str]:
    """Split before an upper-case letter that follows a lower-case one, or that begins a word after an acronym."""
    parts, start = [], 0
    for i in range(1, len(word)):
        begins_after_lower = word[i].isupper() and word[i - 1].islower()
        begins_after_acronym = word[i].islower() and word[i - 1].isupper() and i - 1 > start
        if begins_after_lower or begins_after_acronym:
            cut = i if begins_after_lower else i - 1
            parts.append(word[start:cut])
            start = cut
    return [*parts, word[start:]]


class LexicalIndex:
    """A BM25 index over documents; made by `LexicalCache`."""

    def __init__(self, doc_ids: Sequence[str], model: "bm25s.BM25 | None") -> None:
        """Take a BM25 model whose rows are `doc_ids`, or None when no document has a token."""
        self.doc_ids = list(doc_ids)
        self._model = model
        descending = sorted(range(len(self.doc_ids)), key=self.doc_ids.__getitem__, reverse=True)
        self._tie_rank = np.empty(len(self.doc_ids), dtype=np.int64)
        self._tie_rank[descending] = np.arange(len(self.doc_ids))

    def search(self, texts: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
        """Per query the best `k` (doc_id, BM25 score), score descending, then doc_id descending as trec_eval has it.

        Exact, on ties at the cut too. Documents that share no token with the query are left out: a list may be short.
        """
        return [self._search_one(tokenise(text), k) for text in texts]

    def _search_one(self, tokens: list[str], k: int) -> list[tuple[str, float]]:
        token_ids = self._model.get_tokens_ids(tokens) if self._model is not None else []
        if not token_ids or k < 1 or self._model is None:
            return []
        scores = self._model.get_scores_from_ids(token_ids)
        found = np.flatnonzero(scores > 0)
        if len(found) > k:
            # All that tie with the k-th score stay until the doc_id has decided between them.
            threshold = np.partition(scores[found], len(found) - k)[len(found) - k]
            found = found[scores[found] >= threshold]
        best = found[np.lexsort((self._tie_rank[found], -scores[found]))][:k]
        return [(self.doc_ids[i], float(scores[i])) for i in best]


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
    token_ids = [[vocabulary.setdefault(token, len(vocabulary)) for token in tokenise(text)] for text in texts]
    if len(token_ids) != len(doc_ids):
        raise ShapeError(f"got {len(token_ids)} texts for {len(doc_ids)} doc_ids: expected one each, in the same order")
    if not vocabulary:
        return LexicalIndex(doc_ids, None)
    # auto_compile off: numba, where installed, would spend seconds compiling for milliseconds of search.
    model = bm25s.BM25(method=BM25_METHOD, k1=BM25_K1, b=BM25_B, auto_compile=False)
    model.index((token_ids, vocabulary), show_progress=False)
    return LexicalIndex(doc_ids, model)


def _save(index: LexicalIndex, folder: Path) -> None:
    if index._model is not None:
        index._model.save(folder, show_progress=False)
    (folder / "doc_ids.json").write_text(json.dumps(index.doc_ids), encoding="utf-8")
    write_json(folder / "meta.json", {**_describe(len(index.doc_ids)), "has_tokens": index._model is not None})


def _load(folder: Path, doc_ids: Sequence[str]) -> LexicalIndex | None:
    """The saved index, or None when there is none, it was made otherwise, or it cannot be read: it is only a cache."""
    meta = read_json_object(folder / "meta.json")
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
