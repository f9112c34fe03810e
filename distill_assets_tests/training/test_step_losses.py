"""The loss of a step: weights, masks and scales against numbers worked by hand, and against plain per-text computations."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_assets.errors import ShapeError
from distill_assets.models.encoders import load_student, load_teacher
from distill_assets.training.batches import StudentSteps
from distill_assets.training.lists import TrainList
from distill_assets.training.losses import StudentLoss, TeacherLoss, TeacherStatistics
from distill_assets.training.recipes import Recipe


class Vectors(nn.Module):
    """A stand-in for a bi-encoder: its features are the embeddings, unnormalised."""

    device = torch.device("cpu")

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what was put in."""
        return {"sentence_embedding": features["vector"]}


LOGITS = torch.tensor([[7.0, 1.0], [3.0, -1.0]])  # margins 6 and 4
STATISTICS = TeacherStatistics(spread=2.0, low=-1.0, high=7.0, median_range=5.0)


def make_step(logits: Tensor | None = LOGITS, **changes: Any) -> dict[str, Any]:
    """Two queries, documents p1, n1, p2, n2 in two buckets. Lengths 3, 2, 0.5: only cosines may count.

    Cosines: query 1 (1, 0, 0, 0), query 2 (0, 1, 1, 1).
    """
    step = {
        "queries": [{"vector": torch.tensor([[3.0, 0.0], [0.0, 2.0]])}],
        "documents": [
            {"vector": torch.tensor([[0.5, 0.0], [0.0, 2.0], [0.0, 3.0]])},
            {"vector": torch.tensor([[0.0, 0.5]])},
        ],
        "query_rows": torch.tensor([0, 1]),
        "document_rows": torch.tensor([[0, 1], [2, 3]]),
        "left_out": torch.zeros(2, 4, dtype=torch.bool),
    }
    return {**step, **({} if logits is None else {"teacher_logits": logits}), **changes}


# Query 1, scale 2: [2, 0, 0, 0], positive 0: log(e^2 + 3) - 2 = 0.340753.
# Query 2: [0, 2, 2, 2], positive 2: log(1 + 3 e^2) - 2 = 1.142736. Mean 0.741745.
IN_BATCH = 0.741745


def loss_of(recipe: Recipe, step: dict[str, Any]) -> float:
    """The recipe's loss of a step."""
    return StudentLoss(Vectors(), recipe, STATISTICS)(step).item()  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [None, 0.5, 2.0])
def test_losses_are_added_by_weight(weight: float | None) -> None:
    """A weight that is ignored, or multiplies the wrong term, trains another recipe than the leaderboard names.

    Margin scale 10: student margins 10 and 0 against 6 and 4: (16 + 16) / 2 = 16.
    """
    loss: Any = "margin_mse" if weight is None else {"margin_mse": 3.0, "info_nce": weight}
    recipe = Recipe(name="r", loss=loss, margin_scale=10, cosine_scale=2)
    expected = 16.0 if weight is None else 48 + weight * IN_BATCH
    assert loss_of(recipe, make_step()) == pytest.approx(expected, abs=1e-4)


def test_standardised_logits_are_divided_by_the_spread() -> None:
    """Divided by anything else the same recipe means another one for another teacher. Margins 3 and 2 against 10 and 0: 26.5."""
    recipe = Recipe(name="r", loss="margin_mse", margin_scale=10, teacher_logits="standardised")
    assert loss_of(recipe, make_step()) == pytest.approx(26.5, abs=1e-4)


@pytest.mark.parametrize(("logits", "first"), [("raw", 20.0), ("standardised", 10.0)])
def test_a_learned_scale_starts_where_the_teacher_is_and_is_trained(logits: Any, first: float) -> None:
    """A scale of 20 against margins of 2 would spend the training on shrinking; one without gradient is a fixed one."""
    recipe = Recipe(name="r", loss="margin_mse", margin_scale="learned", teacher_logits=logits)
    objective = StudentLoss(Vectors(), recipe, STATISTICS)  # type: ignore[arg-type]
    assert objective.log_margin_scale is not None
    assert objective.log_margin_scale.exp().item() == pytest.approx(first)
    objective(make_step()).backward()
    assert objective.log_margin_scale.grad is not None and objective.log_margin_scale.grad.item() != 0


def test_hard_labels_read_no_teacher() -> None:
    """A baseline that peeks at teacher logits is no baseline."""
    recipe = Recipe(name="r", loss="hard_labels", cosine_scale=2)
    assert loss_of(recipe, make_step(None)) == pytest.approx(IN_BATCH, abs=1e-5)
    assert loss_of(recipe, make_step()) == loss_of(recipe, make_step(-5 * LOGITS)) == loss_of(recipe, make_step(None))


def test_missing_teacher_logits_are_refused() -> None:
    """Without logits a distillation would quietly become training on in-batch negatives alone."""
    with pytest.raises(ShapeError, match="needs teacher logits"):
        loss_of(Recipe(name="r", loss={"margin_mse": 1.0, "info_nce": 1.0}), make_step(None))


def test_known_answers_and_what_the_teacher_takes_for_one_are_no_negatives() -> None:
    """Both masks must act, on their own columns, and never on the positive.

    Known: p1 for query 2. Teacher, mapped by (t + 1) / 8: query 1 has 1 and 0.25, query 2 has 0.5 and 0.4375 against 0.3: n2 is
    left out. Query 1 as before, 0.340753; query 2 keeps n1 and p2, equal: log 2. Mean 0.516950.
    """
    known = torch.tensor([[False, False, False, False], [True, False, False, False]])
    step = make_step(torch.tensor([[7.0, 1.0], [3.0, 2.5]]), left_out=known)
    recipe = Recipe(name="r", loss="info_nce", cosine_scale=2, mask_above=0.6)
    assert loss_of(recipe, step) == pytest.approx((0.340753 + math.log(2)) / 2, abs=1e-5)


def test_random_documents_are_read_by_info_nce_alone() -> None:
    """They have no logit: a list loss over them would take the next query's numbers or fail on a shape."""
    step = make_step(document_rows=torch.tensor([[0, 1, 3], [2, 3, 1]]))
    margins = Recipe(name="r", loss="margin_mse", margin_scale=10)
    assert loss_of(margins, step) == pytest.approx(16, abs=1e-4)


LISTS = tuple(
    TrainList(
        f"q{i}", f"how to {a} a {t}", tuple(f"{x} {t} {'along one axis ' * j}" for j, x in enumerate((a, b, "rank")))
    )
    for i, (a, b, t) in enumerate(
        [("sum", "sort", "array"), ("sort", "sum", "array"), ("split", "join", "frame"), ("join", "clip", "frame")] * 4
    )
)


@pytest.mark.parametrize("mini_batch_size", [None, 1, 5])
@pytest.mark.parametrize("num_buckets", [1, 3])
def test_buckets_shared_texts_and_mini_batches_change_no_gradient(
    mini_batch_size: int | None, num_buckets: int, tiny_encoder: Path
) -> None:
    """Every saving must train the same model: against one forward pass per text, alone, without any of them."""
    model = load_student(tiny_encoder, device="cpu").eval()  # no dropout: the masks of two orders differ
    recipe = Recipe(name="r", loss="hard_labels", mini_batch_size=mini_batch_size)
    step = StudentSteps(model, [LISTS], recipe, num_buckets=num_buckets)[0]
    loss = StudentLoss(model, recipe)(step)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    def embed(text: str) -> Tensor:
        return nn.functional.normalize(model(model.preprocess([text]))["sentence_embedding"], dim=-1)[0]

    texts = list(dict.fromkeys(d for g in LISTS for d in g.documents))
    documents = torch.stack([embed(text) for text in texts])
    rows = []
    for one in LISTS:
        answers = {g.documents[0] for g in LISTS if g.query == one.query} - {one.documents[0]}
        kept = torch.tensor([text not in answers for text in texts])
        scores = (20 * documents @ embed(one.query)).masked_fill(~kept, float("-inf"))
        rows.append(nn.functional.cross_entropy(scores, torch.tensor(texts.index(one.documents[0]))))
    expected = torch.stack(rows).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert found.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, atol=1e-5), name


def test_mini_batches_draw_the_same_dropout_twice(tiny_encoder: Path) -> None:
    """Activations that are computed again under another dropout give a gradient of no loss at all: buckets alike, equal gradients."""
    gradients = []
    for mini_batch_size in (None, 8):
        model = load_student(tiny_encoder, device="cpu").train()
        recipe = Recipe(name="r", loss="hard_labels", mini_batch_size=mini_batch_size)
        steps = StudentSteps(model, [LISTS], replace_buckets(recipe), num_buckets=9)
        torch.manual_seed(5)
        StudentLoss(model, recipe)(steps[0]).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def replace_buckets(recipe: Recipe) -> Recipe:
    """The recipe without what it says on mini-batches, so that both cut the same buckets."""
    return Recipe(name=recipe.name, loss=recipe.loss, mini_batch_size=8)


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
        lists = [TrainList("q", query, texts) for query, *texts in zip(queries, *documents, strict=True)]
        found = TeacherLoss(model)({"lists": lists}).item()
    losses = []
    for row, query in enumerate(queries):
        logits = [float(model.predict([(query, column[row])], show_progress_bar=False)[0]) for column in documents]
        losses.append(math.log(sum(math.exp(logit) for logit in logits)) - logits[0])
    assert found == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_teacher_loss_reaches_every_weight_of_the_head(tiny_cross_encoder: Path) -> None:
    """Scores copied into a fresh tensor in place would cut the gradient: training would run and change nothing."""
    model = load_teacher(tiny_cross_encoder, device="cpu")
    TeacherLoss(model)({"lists": [TrainList("q", "sum", (SHORT, LONG))]}).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if "classifier" in name}
    assert gradients and all(g is not None for g in gradients.values())
    weight = next(g for name, g in gradients.items() if name.endswith("weight"))
    assert weight is not None and weight.abs().max() > 0
