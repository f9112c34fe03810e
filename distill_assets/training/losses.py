"""Training losses: the mathematics as functions of score matrices.

Student scores are cosines, teacher values raw logits (or standardised ones, `TeacherStatistics`), never sigmoid outputs: a sigmoid
squeezes 13 and 27 into 0.99 both (FlagEmbedding #588). Both are (batch, 1 + num_negatives), one row per query, the positive in
column 0, unless said otherwise. A temperature always divides. Every function returns a scalar, the mean over the batch, and is
computed in the precision of its inputs: give float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from distill_assets.errors import NonFiniteError, ShapeError, TrainingError

MAX_SPREAD = 80.0  # exp(-80) is 1.8e-35; float32 has nothing below 1.2e-38


@dataclass(frozen=True)
class TeacherStatistics:
    """What the logits of a training set look like, over all its lists.

    Attributes:
        spread: root mean square distance of a logit from its list's mean: how far the teacher pulls the documents of one query
            apart, whatever it adds to a whole query.
        low: 1st percentile of all logits.
        high: 99th percentile.
        median_range: median over the lists of highest minus lowest logit.
    """

    spread: float
    low: float
    high: float
    median_range: float


def measure_logits(lists: Sequence[Sequence[float]]) -> TeacherStatistics:
    """Statistics of the teacher's logits, one sequence for each list.

    Raises:
        NonFiniteError: a logit is NaN or infinite.
        TrainingError: the teacher gives all documents of each list the same logit: there is nothing to learn from it.
    """
    values = np.concatenate([np.asarray(logits, dtype=np.float64) for logits in lists])
    if not np.isfinite(values).all():
        raise NonFiniteError("teacher logits hold a NaN or an infinity: materialise teacher_scores again")
    squares = np.concatenate([(np.asarray(logits) - np.mean(logits)) ** 2 for logits in lists])
    spread = float(np.sqrt(squares.mean()))
    if not spread > 0:
        raise TrainingError(
            f"the teacher gives equal logits within each of {len(lists)} lists: it ranks nothing and cannot teach; use another one"
        )
    low, high = np.percentile(values, [1, 99])
    ranges = [max(logits) - min(logits) for logits in lists]
    return TeacherStatistics(spread, float(low), float(high), float(np.median(ranges)))


def margin_mse(student_scores: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean squared error between student and teacher margins: mean of ((t+ - t-) - (s+ - s-))^2.

    Hofstaetter et al. 2020, arXiv 2010.02666, eq. 8. Student scores are cosines times a scale: cosine margins live in [-2, 2],
    logit margins do not.

    Raises:
        ShapeError: the shapes differ; broadcasting would train towards a wrong margin at a plausible loss.
        NonFiniteError: a teacher logit is NaN or infinite.
    """
    require_lists(student_scores, teacher_logits)
    teacher_margins = teacher_logits[:, :1] - teacher_logits[:, 1:]
    student_margins = student_scores[:, :1] - student_scores[:, 1:]
    return functional.mse_loss(student_margins, teacher_margins)


def kl(
    student_scores: Tensor, teacher_logits: Tensor, *, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Kullback-Leibler divergence from the teacher's distribution over a list to the student's: sum of p (log p - log q).

    p = softmax(t / teacher_temperature), q = softmax(s / student_temperature); Hinton et al. 2015 over lists, as in CADET
    (arXiv 2505.19274), without the factor T^2. Both sides are log-softmaxes, so that a document whose p underflows float32 adds 0 and
    no NaN; where the whole training set is like that, `require_soft` refuses. The columns are equal: none is the positive.

    Raises:
        ShapeError, NonFiniteError: as `margin_mse`.
    """
    require_lists(student_scores, teacher_logits)
    teacher = functional.log_softmax(teacher_logits / teacher_temperature, dim=1)
    student = functional.log_softmax(student_scores / student_temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def require_soft(statistics: TeacherStatistics, teacher_temperature: float) -> None:
    """Raise `TrainingError` where the teacher's softmax is one-hot in float32 for half of the lists: nothing soft is left of it."""
    if statistics.median_range / teacher_temperature > MAX_SPREAD:
        raise TrainingError(
            f"teacher logits of a list range over {statistics.median_range:.3g} (median), at teacher_temperature "
            f"{teacher_temperature:g} their softmax is one-hot in float32: set teacher_temperature above "
            f"{statistics.median_range / MAX_SPREAD:.2g}; a tenth of the range is a common choice"
        )


def ranknet(
    student_scores: Tensor, teacher_logits: Tensor, *, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """Cross-entropy of the student's pairwise probabilities against the teacher's, mean over all pairs i < j of a list.

    With P = sigmoid((t_i - t_j) / teacher_temperature) and o = (s_i - s_j) / student_temperature a pair costs
    log(1 + e^o) - P o (Burges et al. 2005, eq. 3). A small teacher_temperature is the teacher's order alone, as in Rank-DistiLLM
    (arXiv 2405.07920). The columns are equal: none is the positive.

    Raises:
        ShapeError, NonFiniteError: as `margin_mse`.
    """
    require_lists(student_scores, teacher_logits)
    first, second = torch.triu_indices(*(student_scores.shape[1],) * 2, offset=1, device=student_scores.device)
    targets = torch.sigmoid((teacher_logits[:, first] - teacher_logits[:, second]) / teacher_temperature)
    differences = (student_scores[:, first] - student_scores[:, second]) / student_temperature
    return functional.binary_cross_entropy_with_logits(differences, targets)


def adr_mse(student_scores: Tensor, teacher_logits: Tensor, *, student_temperature: float) -> Tensor:
    """Squared error of the student's approximate ranks, discounted by rank: mean of (r_i - r'_i)^2 / log2(r_i + 1).

    r_i is the teacher's rank of document i (1 is best, ties share the mean of their ranks), r'_i = 1 + sum over j != i of
    sigmoid((s_j - s_i) / student_temperature). Schlatt et al. 2025, Rank-DistiLLM, arXiv 2405.07920, as in
    sentence-transformers' `ADRMSELoss` with alpha = 1 / student_temperature. Reads the teacher's order alone.

    Raises:
        ShapeError, NonFiniteError: as `margin_mse`.
    """
    require_lists(student_scores, teacher_logits)
    above = teacher_logits.unsqueeze(1) > teacher_logits.unsqueeze(2)  # (batch, i, j): j is above i
    equal = teacher_logits.unsqueeze(1) == teacher_logits.unsqueeze(2)
    ranks = above.sum(dim=2) + (equal.sum(dim=2) + 1) / 2
    differences = (student_scores.unsqueeze(1) - student_scores.unsqueeze(2)) / student_temperature
    approximate = 0.5 + torch.sigmoid(differences).sum(dim=2)  # the pair (i, i) adds 0.5
    return ((ranks - approximate) ** 2 / torch.log2(ranks + 1)).mean()


def info_nce(scaled_similarities: Tensor, positive_columns: Tensor, left_out: Tensor | None = None) -> Tensor:
    """Cross-entropy of picking the positive among all documents of the batch (van den Oord et al. 2018, eq. 4).

    `scaled_similarities` is (batch, num_documents), cosine times scale; `positive_columns` (batch,) says which column is
    each query's positive; `left_out` (batch, num_documents), bool, marks what is no negative of a query.

    Raises:
        ShapeError: the shapes do not belong together, or a query's positive is left out.
    """
    if scaled_similarities.shape[0] != positive_columns.shape[0]:
        raise ShapeError(
            f"{scaled_similarities.shape[0]} rows of similarities but {positive_columns.shape[0]} positive columns: "
            "expected one per query"
        )
    if left_out is not None:
        if left_out.shape != scaled_similarities.shape:
            raise ShapeError(
                f"mask is {tuple(left_out.shape)}, similarities are {tuple(scaled_similarities.shape)}: expected equal"
            )
        if left_out.gather(1, positive_columns.unsqueeze(1)).any():
            raise ShapeError("a query's positive is left out of its own softmax: its loss would be infinite")
        scaled_similarities = scaled_similarities.masked_fill(left_out, float("-inf"))
    return functional.cross_entropy(scaled_similarities, positive_columns)


def likely_positives(teacher_logits: Tensor, share: float, statistics: TeacherStatistics) -> Tensor:
    """Which documents of a list the teacher puts above `share` of the positive; bool, (batch, 1 + num_negatives), column 0 False.

    Logits may be negative and a share of a negative number is above it, so both are first mapped to 0..1 between the 1st and the
    99th percentile of the training set and clipped, as in CADET (arXiv 2505.19274; it masks above 0.6).
    """
    mapped = ((teacher_logits - statistics.low) / max(statistics.high - statistics.low, 1e-12)).clamp(0, 1)
    found = mapped > share * mapped[:, :1]
    found[:, 0] = False
    return found


def listwise_softmax(logits: Tensor) -> Tensor:
    """Cross-entropy of the positive (column 0) among its group; ListNet's top-one loss with one relevant document.

    Cao et al. 2007, eq. 4. `logits` is (batch, 1 + num_negatives), raw. Returns a scalar.
    """
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def require_lists(student_scores: Tensor, teacher_logits: Tensor) -> None:
    """Raise `ShapeError` or `NonFiniteError` unless both are (batch, 2 or more) and the teacher's values are numbers."""
    if student_scores.shape != teacher_logits.shape or student_scores.ndim != 2 or student_scores.shape[1] < 2:
        raise ShapeError(
            f"student scores are {tuple(student_scores.shape)}, teacher logits {tuple(teacher_logits.shape)}: "
            "expected two equal shapes (batch, 1 + num_negatives)"
        )
    if not torch.isfinite(teacher_logits).all():
        raise NonFiniteError("teacher logits hold a NaN or an infinity: materialise teacher_scores again")
