"""Cross-fitting: a query is scored by the members of a teacher that never saw its label.

A model that was trained on a query's label repeats that label when it scores the query, and its soft labels then say little more
than the hard one did. The train queries are cut into folds, one teacher is trained per fold on the labels of the others, and each
query is scored by those that were not trained on it (as in stacking, Wolpert 1992).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill_assets.core.records import Query, fingerprint, hash_text
from distill_assets.core.scoring import PairScorer, window_of


def fold_of(text: str, folds: int) -> int:
    """Fold of a query by hash of its text, so that one sentence in two packages is in one fold."""
    return int(fingerprint("fold", _normalised(text)), 16) % folds


def outside_fold(queries: Sequence[Query], folds: int, fold: int) -> list[Query]:
    """The queries whose labels a fold's teacher may see: those of the other folds, all where there is one fold."""
    return [query for query in queries if folds == 1 or fold_of(query.text, folds) != fold]


def query_key(text: str) -> str:
    """Under what a fold remembers the queries it was trained on: 16 hex digits; case and the final full stop do not count."""
    return hash_text(_normalised(text))[:16]


def _normalised(text: str) -> str:
    return text.casefold().rstrip(".")


@dataclass(frozen=True)
class Fold:
    """One fold's teacher.

    Attributes:
        scorer: its logits.
        scale: multiplies them, so that every fold's logits spread alike.
        trained_on: `query_key` of every query whose label it saw.
    """

    scorer: PairScorer
    scale: float
    trained_on: frozenset[str]


@dataclass(frozen=True)
class CrossFittedScorer:
    """Scores a pair by the mean over the folds that were not trained on its query; by all where each was. A `PairScorer`."""

    folds: Sequence[Fold]

    @property
    def window(self) -> int:
        """Pairs that the cross-encoders sort together."""
        return window_of(self.folds[0].scorer)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Scores, float32 (len(pairs),), in the order given.

        Window by window: how many come at once depends on the time that scoring takes, and what a fold batches together must not.
        """
        windows = [pairs[start : start + self.window] for start in range(0, len(pairs), self.window)]
        return np.concatenate([self._score(window) for window in windows]) if windows else np.empty(0, np.float32)

    def _score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        may_score = self._unseen([query for query, _ in pairs])
        total = np.zeros(len(pairs))
        for fold, rows in zip(self.folds, may_score, strict=True):
            chosen = np.flatnonzero(rows)
            if len(chosen):
                total[chosen] += fold.scale * fold.scorer([pairs[i] for i in chosen.tolist()])
        return np.asarray(total / may_score.sum(axis=0), dtype=np.float32)

    def _unseen(self, queries: Sequence[str]) -> np.ndarray:
        """Which fold may score which query: bool (folds, len(queries)), True everywhere for a query that every fold saw."""
        key_of = {query: query_key(query) for query in dict.fromkeys(queries)}
        keys = [key_of[query] for query in queries]
        unseen = np.array([[key not in fold.trained_on for key in keys] for fold in self.folds])
        unseen[:, ~unseen.any(axis=0)] = True
        return unseen
