"""How far a student orders documents as its teacher does, query by query, on the same documents; and how far two persons agree."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distill_assets.errors import NonFiniteError, ShapeError
from distill_assets.retrieval.rankings import rank

_Scores = Sequence[float] | npt.NDArray[np.floating]


def kendall_tau_b(a: _Scores, b: _Scores) -> float | None:
    """Kendall's tau-b of two scorings of the same documents: 1 the same order, -1 the reverse, 0 no relation.

    (concordant - discordant) / sqrt((pairs not tied in a) * (pairs not tied in b)), Kendall 1945. Looks at order alone, so
    raw logits and cosines can be compared. None where a side ties every pair (or there is one document): there is no order.

    Args:
        a: scores, (n,), higher is better. All pairs are held at once: n of a pool, not of a corpus.
        b: the other scores, (n,), of the same documents in the same order.

    Raises:
        ShapeError: different numbers of scores.
        NonFiniteError: a score is NaN or infinite.
    """
    first, second = _checked(a, b)
    signs_a = np.sign(first[:, None] - first[None, :])
    signs_b = np.sign(second[:, None] - second[None, :])
    untied = float((signs_a != 0).sum()) * float((signs_b != 0).sum())
    if untied == 0:
        return None
    return float((signs_a * signs_b).sum() / np.sqrt(untied))


def overlap_at_k(doc_ids: Sequence[str], a: _Scores, b: _Scores, k: int = 10) -> float:
    """Share of the top k by `a` that is in the top k by `b`, ties in the one total order; with fewer documents, of all: 1.

    Raises:
        ShapeError: no document, or not one score each.
        NonFiniteError: a score is NaN or infinite.
    """
    first, second = _checked(a, b)
    if not len(doc_ids) == len(first) > 0:
        raise ShapeError(f"overlap needs one score per document, at least one: got {len(doc_ids)} and {len(first)}")
    tops = [{doc_id for doc_id, _ in rank(doc_ids, scores, k)} for scores in (first, second)]
    return len(tops[0] & tops[1]) / len(tops[0])


def cohen_kappa(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Cohen's kappa of two persons who graded the same pairs: 1 they always agree, 0 as often as chance would have it.

    (observed agreement - expected agreement) / (1 - expected agreement), Cohen 1960. None where both gave one grade throughout, or
    there is no pair: chance alone would agree as well.

    Raises:
        ShapeError: different numbers of grades.
    """
    if len(first) != len(second):
        raise ShapeError(f"two persons must have graded the same pairs: got {len(first)} and {len(second)} grades")
    num_pairs, observed = len(first), sum(a == b for a, b in zip(first, second, strict=True))
    # Counts, not shares: 1 - expected must be exactly 0 where it is 0.
    expected = sum(first.count(grade) * second.count(grade) for grade in set(first))
    if expected == num_pairs**2:
        return None
    return (observed * num_pairs - expected) / (num_pairs**2 - expected)


def _checked(a: _Scores, b: _Scores) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ShapeError(f"two scorings of the same documents are needed: got shapes {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise NonFiniteError("a score is NaN or infinite: an order with it means nothing; score those documents again")
    return first, second
