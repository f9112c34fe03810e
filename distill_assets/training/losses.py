"""Training losses: the mathematics as functions of score matrices, then the modules whose loss of a step is minimised.

Student scores are cosines, teacher values raw logits (or standardised ones, `TeacherStatistics`), never sigmoid outputs: a sigmoid
squeezes 13 and 27 into 0.99 both (FlagEmbedding #588). Both are (batch, 1 + num_negatives), one row per query, the positive in
column 0, unless said otherwise. A temperature always divides. Every function returns a scalar, the mean over the batch, and is
computed in the precision of its inputs: give float32.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from distill_assets.errors import NonFiniteError, ShapeError, TrainingError
from distill_assets.training.lists import TrainList
from distill_assets.training.recipes import INFO_NCE, LEARNED, LISTWISE_LOSSES, Recipe

MAX_SPREAD = 80.0  # exp(-80) is 1.8e-35; float32 has nothing below 1.2e-38
SCALE_RATE = (
    100  # times the learning rate, for the learned scale: at 5e-5 its logarithm would move by 0.05 in 1,000 steps
)
_FIRST_SCALE = 10.0  # times the logits' spread: cosines within a list of an untouched encoder spread over about 0.1
_NUM_LENGTH_BUCKETS = 2  # of a teacher's pairs, sorted by length: short pairs are not padded to the longest


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
    """Cross-entropy of the positive (column 0) among its list; ListNet's top-one loss with one relevant document.

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


class StudentLoss(nn.Module):
    """The weighted losses of one recipe over a step of `training.batches.StudentSteps`.

    `log_margin_scale` is a parameter where the recipe learns its scale, else None.
    """

    def __init__(self, model: SentenceTransformer, recipe: Recipe, statistics: TeacherStatistics | None = None) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.statistics = statistics
        self.unit = statistics.spread if statistics and recipe.teacher_logits == "standardised" else 1.0
        self.log_margin_scale: nn.Parameter | None = None
        if recipe.margin_scale == LEARNED and statistics:
            first = _FIRST_SCALE * statistics.spread / self.unit
            self.log_margin_scale = nn.Parameter(torch.tensor(math.log(first), device=model.device))

    @property
    def margin_scale(self) -> Tensor | float:
        """What cosines are multiplied with before margins are compared."""
        return float(self.recipe.margin_scale) if self.log_margin_scale is None else self.log_margin_scale.exp()

    def forward(self, step: dict[str, Any]) -> Tensor:
        """Loss of one step, a scalar in float32 whatever the model runs in."""
        queries = self._embed(step["queries"])
        documents = step["document_vectors"] if "document_vectors" in step else self._embed(step["documents"])
        with torch.autocast(queries.device.type, enabled=False):  # bf16 has 3 digits: margins of cosines need more
            queries, documents = (functional.normalize(e.float(), dim=-1) for e in (queries, documents))
            cosines = queries[step["query_rows"]] @ documents.T  # (batch, num_documents)
            return self._total(cosines, step)

    def _total(self, cosines: Tensor, step: dict[str, Any]) -> Tensor:
        """Sum of the recipe's losses, weighted."""
        rows, logits = step["document_rows"], step.get("teacher_logits")
        if self.recipe.uses_teacher and logits is None:
            raise ShapeError(f"recipe {self.recipe.name!r} needs teacher logits and got none")
        total = cosines.new_zeros(())
        for name, weight in self.recipe.loss_weights.items():
            if name == INFO_NCE:
                left_out = self._left_out(step)
                value = info_nce(self.recipe.cosine_scale * cosines, rows[:, 0], left_out)
            else:
                assert logits is not None
                value = self._listwise()[name](cosines.gather(1, rows[:, : logits.shape[1]]), logits / self.unit)
            total = total + weight * value
        return total

    def _listwise(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        student, teacher = self.recipe.student_temperature, self.recipe.teacher_temperature
        temperatures = {"student_temperature": student, "teacher_temperature": teacher}
        found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "margin_mse": lambda cosines, logits: margin_mse(self.margin_scale * cosines, logits),
            "kl": lambda cosines, logits: kl(cosines, logits, **temperatures),
            "ranknet": lambda cosines, logits: ranknet(cosines, logits, **temperatures),
            "adr_mse": lambda cosines, logits: adr_mse(cosines, logits, student_temperature=student),
        }
        assert found.keys() == set(LISTWISE_LOSSES)
        return found

    def _left_out(self, step: dict[str, Any]) -> Tensor:
        """What is no in-batch negative: known answers, and what the teacher takes for one where the recipe asks it."""
        left_out: Tensor = step["left_out"]
        if self.recipe.mask_above is None or self.statistics is None:
            return left_out
        found = likely_positives(step["teacher_logits"], self.recipe.mask_above, self.statistics)
        columns = step["document_rows"][:, : found.shape[1]]
        left_out = left_out | torch.zeros_like(left_out, dtype=torch.int32).scatter_add(1, columns, found.int()).bool()
        return left_out.scatter(1, columns[:, :1], False)

    def _embed(self, buckets: Sequence[dict[str, Any]]) -> Tensor:
        """Sentence embeddings (num_texts, hidden) of all buckets."""
        if self.recipe.mini_batch_size is None or not torch.is_grad_enabled():
            return torch.cat([self._encode(bucket) for bucket in buckets])
        # The gradient is taken from the last bucket backwards: its activations would be made again at once.
        *others, last = buckets
        return torch.cat(
            [*(checkpoint(self._encode, each, use_reentrant=False) for each in others), self._encode(last)]
        )

    def _encode(self, features: dict[str, Any]) -> Tensor:
        return self.model(dict(features))[
            "sentence_embedding"
        ]  # a copy: modules write their outputs into what they are given


class TeacherLoss(nn.Module):
    """Listwise softmax over the lists of a step, for a cross-encoder."""

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, step: dict[str, Sequence[TrainList]]) -> Tensor:
        """Loss of one step: `lists`, all of one width."""
        lists = step["lists"]
        columns = zip(*(train_list.documents for train_list in lists), strict=True)
        pairs = [(found.query, text) for column in columns for found, text in zip(lists, column, strict=True)]
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        size = -(-len(order) // _NUM_LENGTH_BUCKETS)
        scores = [self._score([pairs[i] for i in order[start : start + size]]) for start in range(0, len(order), size)]
        logits = torch.empty(len(pairs), device=scores[0].device)
        logits = logits.scatter(0, torch.tensor(order, device=logits.device), torch.cat(scores))
        return listwise_softmax(logits.view(-1, len(lists)).T)

    def _score(self, pairs: list[tuple[str, str]]) -> Tensor:
        features = self.model.preprocess(pairs, prompt=self.model.prompts.get(self.model.default_prompt_name or ""))
        features = {k: v.to(self.model.device) if isinstance(v, Tensor) else v for k, v in features.items()}
        return self.model(features)["scores"].squeeze(-1).float()
