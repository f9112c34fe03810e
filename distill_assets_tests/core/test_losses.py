"""The losses against numbers worked by hand, and the two loss modules against plain per-pair computations."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distill_assets.core.encoders import load_student, load_teacher
from distill_assets.core.errors import NonFiniteError, ShapeError
from distill_assets.core.losses import StudentLoss, TeacherLoss, info_nce, listwise_softmax, margin_mse
from distill_assets.core.recipes import Recipe

STUDENT = torch.tensor([[0.9, 0.5, 0.1], [0.4, 0.6, 0.2]])
TEACHER = torch.tensor([[8.0, 3.0, 1.0], [2.0, 5.0, 0.0]])


def test_margin_mse_by_hand() -> None:
    """A mean over the wrong axis or a swapped margin still falls while it trains.

    Margins: teacher [[5, 7], [-3, 2]], student [[0.4, 0.8], [-0.2, 0.2]]; differences [[4.6, 6.2], [-2.8, 1.8]];
    squares 21.16 + 38.44 + 7.84 + 3.24 = 70.68, over 4 is 17.67.
    """
    assert margin_mse(STUDENT, TEACHER).item() == pytest.approx(17.67, abs=1e-4)


def test_margin_mse_ignores_what_a_teacher_adds_to_a_whole_query() -> None:
    """A loss on logits in place of margins would chase the teacher's offset, which says nothing about the order."""
    shifted = TEACHER + torch.tensor([[100.0], [-7.0]])
    assert margin_mse(STUDENT, shifted).item() == pytest.approx(17.67, abs=1e-3)


def test_margin_mse_sees_a_shift_of_one_document() -> None:
    """The invariance is per query only: a loss that centred every column would hide a wrong margin.

    The first negative of query 1 goes from 3 to 4, its difference from 4.6 to 3.6: 70.68 - 21.16 + 12.96 = 62.48.
    """
    changed = TEACHER.clone()
    changed[0, 1] = 4.0
    assert margin_mse(STUDENT, changed).item() == pytest.approx(62.48 / 4, abs=1e-4)


@pytest.mark.parametrize(
    "teacher",
    [TEACHER[:, :2], TEACHER[:1], TEACHER.T, TEACHER.flatten()],
    ids=["fewer documents", "one query broadcasts", "transposed", "flat"],
)
def test_margin_mse_refuses_shapes_that_would_broadcast(teacher: Tensor) -> None:
    """(2, 3) against (1, 3) broadcasts without a word and trains every query towards the first one's margins."""
    with pytest.raises(ShapeError, match="expected two equal shapes"):
        margin_mse(STUDENT, teacher)


def test_margin_mse_refuses_groups_without_negatives() -> None:
    """One column has no margin: the mean over nothing is NaN and every weight with it."""
    with pytest.raises(ShapeError):
        margin_mse(torch.ones(4, 1), torch.ones(4, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_margin_mse_refuses_damaged_teacher_logits(value: float) -> None:
    """One NaN logit makes all weights NaN after one step."""
    damaged = TEACHER.clone()
    damaged[1, 2] = value
    with pytest.raises(NonFiniteError, match="teacher_scores"):
        margin_mse(STUDENT, damaged)


def test_info_nce_by_hand() -> None:
    """The positive's column must be used: taking column 0 for all rows gives 0.127 and log 2 by luck, here not.

    Row 0: log(1 + e^-2) = 0.126928. Row 1 with [0, 3], positive 1: log(1 + e^-3) = 0.048587. Mean 0.087758.
    """
    loss = info_nce(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(0.087758, abs=1e-5)


def test_info_nce_refuses_another_number_of_positives() -> None:
    """Torch's own message names neither queries nor columns."""
    with pytest.raises(ShapeError, match="3 positive columns"):
        info_nce(torch.zeros(2, 4), torch.tensor([0, 1, 2]))


def test_listwise_softmax_by_hand() -> None:
    """The positive is column 0; row 2 has it ranked last, so reading another column gives another number.

    [0, 0, 0]: log 3 = 1.098612. [ln 2, 0, 0]: log(4 / 2) = 0.693147. [0, ln 2, ln 2]: log 5 = 1.609438. Mean 1.133732.
    """
    ln2 = math.log(2)
    loss = listwise_softmax(torch.tensor([[0.0, 0.0, 0.0], [ln2, 0.0, 0.0], [0.0, ln2, ln2]]))
    assert loss.item() == pytest.approx(1.133732, abs=1e-5)


class Vectors(nn.Module):
    """A stand-in for a bi-encoder: its features are the embeddings, unnormalised."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what was put in."""
        return {"sentence_embedding": features["vector"]}


# Lengths 3, 2, 0.5: only cosines may count. Cosines: query 1 (1, 0), query 2 (1, 1).
COLUMNS = [
    {"vector": torch.tensor([[3.0, 0.0], [0.0, 2.0]])},  # queries
    {"vector": torch.tensor([[0.5, 0.0], [0.0, 3.0]])},  # positives
    {"vector": torch.tensor([[0.0, 2.0], [0.0, 0.5]])},  # negatives
]
LOGITS = torch.tensor([[7.0, 1.0], [3.0, -1.0]])  # margins 6 and 4
# Documents in the batch: p1, n1, p2, n2. Query 1, scale 2: [2, 0, 0, 0], positive 0: log(e^2 + 3) - 2 = 0.340753.
# Query 2: [0, 2, 2, 2], positive 2: log(1 + 3 e^2) - 2 = 1.142736. Mean 0.741745.
IN_BATCH = 0.741745


def loss_of(recipe: Recipe, labels: Tensor | None) -> float:
    """The recipe's loss of the batch above."""
    return StudentLoss(Vectors(), recipe)([dict(c) for c in COLUMNS], labels).item()  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_student_loss_adds_in_batch_negatives_by_weight(weight: float) -> None:
    """A weight that is ignored, or multiplies the wrong term, trains another recipe than the leaderboard names.

    Margin scale 10: student margins 10 and 0 against 6 and 4: (16 + 16) / 2 = 16.
    """
    recipe = Recipe(name="r", loss="margin_mse", margin_scale=10, cosine_scale=2, in_batch_weight=weight)
    assert loss_of(recipe, LOGITS) == pytest.approx(16 + weight * IN_BATCH, abs=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_student_loss_of_hard_labels_reads_no_teacher(weight: float) -> None:
    """A baseline that peeks at teacher logits, or weighs its only term by the other recipe's weight, is no baseline."""
    recipe = Recipe(name="r", loss="hard_labels", cosine_scale=2, in_batch_weight=weight)
    assert loss_of(recipe, None) == pytest.approx(IN_BATCH, abs=1e-5)
    assert loss_of(recipe, LOGITS) == loss_of(recipe, -5 * LOGITS) == loss_of(recipe, None)


def test_student_loss_refuses_missing_teacher_logits() -> None:
    """Without labels a distillation would quietly become training on in-batch negatives alone."""
    with pytest.raises(ShapeError, match="needs teacher logits"):
        loss_of(Recipe(name="r", loss="margin_mse", in_batch_weight=1.0), None)


SHORT, MIDDLE, LONG = (
    "sum",
    "sort the array along one axis",
    "merge every value of the frame along one axis of the index",
)


@pytest.mark.parametrize(
    "documents",
    [
        [[SHORT, MIDDLE, LONG], [LONG, SHORT, MIDDLE], [MIDDLE, LONG, SHORT]],
        [[LONG, LONG, LONG], [SHORT, SHORT, SHORT], [MIDDLE, MIDDLE, MIDDLE]],
        [[SHORT, LONG, MIDDLE], [MIDDLE, MIDDLE, LONG]],
        [[SHORT, SHORT, SHORT], [SHORT, SHORT, SHORT]],
    ],
    ids=["rotated", "positive longest", "two columns", "all equal"],
)
def test_teacher_loss_is_the_naive_one_whatever_the_lengths(
    documents: list[list[str]], tiny_cross_encoder: Path
) -> None:
    """Sorting pairs by length must be undone: a score given to another pair teaches a random order, and still falls."""
    model = load_teacher(tiny_cross_encoder, device="cpu").eval()
    queries = ["how to sum a array", "sort", "merge a frame"]
    with torch.no_grad():
        found = TeacherLoss(model)([queries, *documents]).item()
    losses = []
    for row, query in enumerate(queries):
        logits = [float(model.predict([(query, column[row])], show_progress_bar=False)[0]) for column in documents]
        losses.append(math.log(sum(math.exp(logit) for logit in logits)) - logits[0])
    assert found == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_teacher_loss_reaches_every_weight_of_the_head(tiny_cross_encoder: Path) -> None:
    """Scores copied into a fresh tensor in place would cut the gradient: training would run and change nothing."""
    model = load_teacher(tiny_cross_encoder, device="cpu")
    TeacherLoss(model)([["sum"], [SHORT], [LONG]]).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if "classifier" in name}
    assert gradients and all(g is not None for g in gradients.values())
    weight = next(g for name, g in gradients.items() if name.endswith("weight"))
    assert weight is not None and weight.abs().max() > 0


def test_length_buckets_give_the_embeddings_of_one_batch(tiny_encoder: Path) -> None:
    """A bucket cut too narrow, or rows put back in another order, trains each query on another query's text."""
    model = load_student(tiny_encoder, device="cpu")
    model.eval()
    words = ["sum", "sort", "split", "join", "shift", "scale", "clip", "round", "merge", "drop", "fill", "rank"]
    texts = [" ".join(words[: 1 + (7 * i) % 12]) for i in range(12)]
    features = model.preprocess(texts)
    loss = StudentLoss(model, Recipe(name="hard", loss="hard_labels"))
    with torch.no_grad():
        whole = model(dict(features))["sentence_embedding"]
        bucketed = loss._embed(dict(features))
    assert torch.allclose(whole, bucketed, atol=1e-6)
