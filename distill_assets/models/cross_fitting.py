"""Cross-fitting: a query is scored by the members of a teacher that never saw its label.

A model that was trained on a query's label repeats that label when it scores the query, and its soft labels then say little more
than the hard one did. The train queries are cut into folds, one teacher is trained per fold on the labels of the others, and each
query is scored by those that were not trained on it (as in stacking, Wolpert 1992).
"""

from collections.abc import Sequence

import numpy as np

from distill_assets.records import Query, fingerprint, hash_text


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


def shares_of(texts: Sequence[str], trained_on: Sequence[frozenset[str]]) -> np.ndarray:
    """Each fold's share in the score of each query, float64 (len(texts), len(trained_on)); every row adds up to 1.

    A query is scored by the mean over the folds that were not trained on it, by all where each fold was. `trained_on` holds per
    fold the `query_key` of every query whose label it saw.
    """
    keys = [query_key(text) for text in texts]
    may_score = np.array([[key not in seen for seen in trained_on] for key in keys]).reshape(
        len(texts), len(trained_on)
    )
    may_score[~may_score.any(axis=1)] = True
    return may_score / may_score.sum(axis=1, keepdims=True)
