"""The losses against numbers worked by hand, their invariants, and ADR-MSE against sentence-transformers'."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_assets.errors import NonFiniteError, ShapeError, TrainingError
from distill_assets.training.losses import (
    TeacherStatistics,
    adr_mse,
    info_nce,
    kl,
    likely_positives,
    listwise_softmax,
    margin_mse,
    measure_logits,
    ranknet,
    require_soft,
)

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


def test_margin_mse_refuses_lists_without_negatives() -> None:
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


def test_info_nce_leaves_out_what_is_masked() -> None:
    """A known answer among the negatives is pushed away at full strength. Without column 2: log(1 + e^-2) = 0.126928."""
    similarities = torch.tensor([[2.0, 0.0, 9.0]])
    left_out = torch.tensor([[False, False, True]])
    assert info_nce(similarities, torch.tensor([0]), left_out).item() == pytest.approx(0.126928, abs=1e-5)


def test_info_nce_refuses_a_masked_positive_and_a_mask_of_another_shape() -> None:
    """A masked positive is an infinite loss; a mask of one row broadcasts over all queries."""
    with pytest.raises(ShapeError, match="positive is left out"):
        info_nce(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([[False, True]]))
    with pytest.raises(ShapeError, match="mask is"):
        info_nce(torch.zeros(2, 2), torch.tensor([1, 0]), torch.tensor([[False, False]]))


LN3 = math.log(3)


def test_kl_by_hand() -> None:
    """Temperatures that multiply, or are swapped, give another number; so does the divergence in the other direction.

    Teacher [2 ln 3, 0] at 2: p = (0.75, 0.25). Row 1, student [0, 0]: 0.75 ln 1.5 + 0.25 ln 0.5 = 0.130812 (the other way
    0.143841). Row 2, student [0, 0.05 ln 3] at 0.05: q = (0.25, 0.75), 0.5 ln 3 = 0.549306. Mean 0.340059.
    """
    student, teacher = torch.tensor([[0.0, 0.0], [0.0, 0.05 * LN3]]), torch.tensor([[2 * LN3, 0.0]] * 2)
    loss = kl(student, teacher, student_temperature=0.05, teacher_temperature=2.0)
    assert loss.item() == pytest.approx(0.340059, abs=1e-5)


def test_kl_survives_a_teacher_that_underflows() -> None:
    """P log p of a p that is 0 in float32 is NaN where it is computed as written; it is 0, and its gradient a number."""
    student = torch.tensor([[0.2, 0.1, 0.3]], requires_grad=True)
    loss = kl(student, torch.tensor([[500.0, 0.0, -500.0]]), student_temperature=1.0, teacher_temperature=1.0)
    loss.backward()
    expected = math.log(sum(math.exp(s) for s in (0.2, 0.1, 0.3))) - 0.2  # cross-entropy of the first alone
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert student.grad is not None and torch.isfinite(student.grad).all()


def test_ranknet_by_hand() -> None:
    """Probabilities, not order: a teacher that is three to one sure must not teach certainty.

    Row 1: P = 0.75, o = 0: ln 2 = 0.693147. Row 2: P = 0.75, o = ln 3: ln 4 - 0.75 ln 3 = 0.562335. Mean 0.627741.
    """
    student, teacher = torch.tensor([[0.5, 0.5], [0.1 * LN3, 0.0]]), torch.tensor([[2 * LN3, 0.0]] * 2)
    loss = ranknet(student, teacher, student_temperature=0.1, teacher_temperature=2.0)
    assert loss.item() == pytest.approx(0.627741, abs=1e-5)


def test_ranknet_compares_every_pair_once() -> None:
    """Pairs of the positive alone would miss the order among negatives. P = 1, 1, 1; o = 1, 2, 1: (2 * 0.313262 + 0.126928) / 3."""
    student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[2000.0, 1000.0, 0.0]])
    loss = ranknet(student, teacher, student_temperature=1.0, teacher_temperature=1.0)
    assert loss.item() == pytest.approx(0.251151, abs=1e-5)


def test_adr_mse_by_hand() -> None:
    """The discount belongs to the teacher's rank. Ranks 1 and 2, both approximated by 1.5: (0.25 + 0.25 / log2 3) / 2 = 0.203866."""
    loss = adr_mse(torch.tensor([[0.3, 0.3]]), torch.tensor([[5.0, 1.0]]), student_temperature=0.1)
    assert loss.item() == pytest.approx(0.203866, abs=1e-5)


def test_adr_mse_of_a_tie_can_reach_zero() -> None:
    """Ties broken by column would ask the student for an order that the teacher does not have."""
    assert adr_mse(torch.zeros(1, 4), torch.ones(1, 4), student_temperature=0.1).item() == pytest.approx(0.0, abs=1e-9)


def test_adr_mse_is_that_of_sentence_transformers() -> None:
    """The published loss, not one of the same name. alpha is 1 / student_temperature; the stand-in scores by its input alone."""
    from sentence_transformers.cross_encoder.losses import ADRMSELoss

    class Scores(nn.Module):
        num_labels, device = 1, torch.device("cpu")

        def preprocess(self, pairs: list[tuple[str, str]], **kwargs: object) -> dict[str, Tensor]:
            return {"scores": torch.tensor([float(document) for _, document in pairs])}

        def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
            return features

    student = [[0.3, 0.1, 0.5, 0.2], [0.9, -0.2, 0.4, 0.4]]
    teacher = torch.tensor([[5.0, 1.0, 3.0, 3.0], [0.0, 2.0, 7.0, -1.0]])
    peer = ADRMSELoss(Scores(), alpha=4.0)  # type: ignore[arg-type]
    expected = peer([["q", "r"], [[str(s) for s in row] for row in student]], list(teacher)).item()  # type: ignore[list-item]
    assert adr_mse(torch.tensor(student), teacher, student_temperature=0.25).item() == pytest.approx(expected, abs=1e-6)


LIST_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "margin_mse": margin_mse,
    "kl": lambda s, t: kl(s, t, student_temperature=0.5, teacher_temperature=2.0),
    "ranknet": lambda s, t: ranknet(s, t, student_temperature=0.5, teacher_temperature=2.0),
    "adr_mse": lambda s, t: adr_mse(s, t, student_temperature=0.5),
}
NUMBERS = st.integers(-40, 40).map(lambda n: n / 4)  # exact in float32, so that an added offset changes no comparison
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=6)


@pytest.mark.parametrize("name", LIST_LOSSES)
@given(row=ROWS, offset=NUMBERS)
def test_what_a_teacher_adds_to_a_whole_query_teaches_nothing(
    name: str, row: list[tuple[float, float]], offset: float
) -> None:
    """A cross-encoder's logits of one query are comparable, those of two are not: an offset must change no loss."""
    student, teacher = (torch.tensor([column]) for column in zip(*row, strict=True))
    loss = LIST_LOSSES[name]
    assert loss(student, teacher + offset).item() == pytest.approx(loss(student, teacher).item(), abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("name", ["kl", "ranknet", "adr_mse"])
@given(row=ROWS, seed=st.randoms(use_true_random=False))
def test_the_order_of_the_columns_teaches_nothing(name: str, row: list[tuple[float, float]], seed: object) -> None:
    """A list loss that knows which column is the human's positive is no longer the teacher's view."""
    shuffled = list(row)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    values = [
        LIST_LOSSES[name](*(torch.tensor([column]) for column in zip(*rows, strict=True))).item()
        for rows in (row, shuffled)
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("name", LIST_LOSSES)
def test_every_list_loss_refuses_what_would_broadcast_or_spread_nan(name: str) -> None:
    """One check in one of them protects only that one."""
    with pytest.raises(ShapeError):
        LIST_LOSSES[name](STUDENT, TEACHER[:1])
    with pytest.raises(NonFiniteError):
        LIST_LOSSES[name](STUDENT, TEACHER * float("nan"))


def test_teacher_statistics_by_hand() -> None:
    """Spread over all logits would count what the teacher adds to a query: 5.1 here.

    Lists [1, 3] and [10, 14]: distances from the mean 1, 1, 2, 2, root of 10 / 4 = 1.581139; ranges 2 and 4, median 3; percentiles
    of 1, 3, 10, 14 by linear interpolation: 1 + 0.03 * 2 = 1.06 and 10 + 0.97 * 4 = 13.88.
    """
    found = measure_logits([[1.0, 3.0], [10.0, 14.0]])
    assert (found.spread, found.low, found.high, found.median_range) == pytest.approx((1.581139, 1.06, 13.88, 3.0))


def test_a_teacher_that_ranks_nothing_or_is_damaged_is_refused() -> None:
    """Divided by a spread of 0 every logit is NaN; a NaN that slips in makes the statistics NaN and the mask empty."""
    with pytest.raises(TrainingError, match="ranks nothing"):
        measure_logits([[2.0, 2.0], [3.0, 3.0]])
    with pytest.raises(NonFiniteError):
        measure_logits([[2.0, math.nan]])


def test_likely_positives_by_hand() -> None:
    """A share of a negative logit lies above it: compared raw, every negative of the second row would be masked.

    Mapped by (t + 4) / 10. Row 1: 0.6, 0.4, 0.1 against 0.36. Row 2: 0.2, 0.1, 0.25 against 0.12. Row 3 clips: 1, 1, 0 against 0.6.
    """
    statistics = TeacherStatistics(spread=1.0, low=-4.0, high=6.0, median_range=5.0)
    found = likely_positives(torch.tensor([[2.0, 0.0, -3.0], [-2.0, -3.0, -1.5], [9.0, 7.0, -8.0]]), 0.6, statistics)
    assert found.tolist() == [[False, True, False], [False, False, True], [False, True, False]]


def test_require_soft_names_the_temperature_that_would_do() -> None:
    """Range 40 at 0.4 is 100, above 80; at 0.5 it is 80."""
    statistics = TeacherStatistics(spread=1.0, low=0.0, high=1.0, median_range=40.0)
    require_soft(statistics, 0.5)
    with pytest.raises(TrainingError, match="teacher_temperature above 0.5"):
        require_soft(statistics, 0.4)


def test_listwise_softmax_by_hand() -> None:
    """The positive is column 0; row 2 has it ranked last, so reading another column gives another number.

    [0, 0, 0]: log 3 = 1.098612. [ln 2, 0, 0]: log(4 / 2) = 0.693147. [0, ln 2, ln 2]: log 5 = 1.609438. Mean 1.133732.
    """
    ln2 = math.log(2)
    loss = listwise_softmax(torch.tensor([[0.0, 0.0, 0.0], [ln2, 0.0, 0.0], [0.0, ln2, ln2]]))
    assert loss.item() == pytest.approx(1.133732, abs=1e-5)
