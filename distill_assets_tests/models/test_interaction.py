"""The interaction head: what counts as query and document, MaxSim worked by hand, and the way to disk and back."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_assets.models.encoders import grow_cross_encoder, load_teacher
from distill_assets.models.interaction import JointInteraction

CLS, SEP, PAD = 101, 102, 0
S, END = 1000, 1001  # RoBERTa-like: <s> q </s> </s> d </s>
EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)
NORTH_EAST = (3.0, 3.0)  # not of length one: only its direction may count


def make_head(separator: int = SEP, special: tuple[int, ...] = (CLS, SEP, PAD)) -> JointInteraction:
    """A head on 2-dimensional embeddings."""
    return JointInteraction(2, separator, list(special))


def score(head: JointInteraction, tokens: list[tuple[int, tuple[float, float]]], num_padding: int = 0) -> float:
    """Raw logit of one pair given as (token id, embedding)."""
    padded = [*tokens, *[(PAD, (9.0, -5.0))] * num_padding]
    features = {
        "token_embeddings": torch.tensor([[vector for _, vector in padded]]),
        "input_ids": torch.tensor([[token for token, _ in padded]]),
        "attention_mask": torch.tensor([[1] * len(tokens) + [0] * num_padding]),
    }
    with torch.no_grad():
        return float(head(features)["scores"][0, 0])


def bert(query: list[Any], document: list[Any], special: tuple[float, float] = (0.5, 2.0)) -> list[tuple[int, Any]]:
    """``[CLS] q [SEP] d [SEP]``, special tokens embedded as `special`."""
    body = [(7, v) for v in query], [(8, v) for v in document]
    return [(CLS, special), *body[0], (SEP, special), *body[1], (SEP, special)]


def test_score_by_hand() -> None:
    """The formula itself: a max over the wrong axis or a sum in place of a mean still ranks, only worse.

    Query [east, north], document [east, west, north-east]. Best document token: east 1, north cos 45 = 0.7071.
    MaxSim (1 + 0.7071) / 2 = 0.8536. Means: query (0.5, 0.5), document ((1 - 1 + 3) / 3, 3 / 3) = (1, 1): cosine 1.
    Untrained linear part 0. 10 * 1 + 10 * 0.8536 = 18.536.
    """
    found = score(make_head(), bert([EAST, NORTH], [EAST, WEST, NORTH_EAST]))
    assert found == pytest.approx(10 + 10 * (1 + math.sqrt(0.5)) / 2, abs=1e-4)


def test_score_by_hand_is_asymmetric() -> None:
    """MaxSim runs over query tokens: swapped sides must give another number.

    Query [east, west, north-east], document [east, north]: best east 1, west max(-1, 0) = 0, north-east 0.7071.
    MaxSim 1.7071 / 3 = 0.5690; the pooled cosine stays 1.
    """
    found = score(make_head(), bert([EAST, WEST, NORTH_EAST], [EAST, NORTH]))
    assert found == pytest.approx(10 + 10 * (1 + math.sqrt(0.5)) / 3, abs=1e-4)


def test_linear_part_by_hand() -> None:
    """A linear term that is never added would train two thirds of the head for nothing.

    Query east, document north: pooled 0, MaxSim 0. Products (0, 0), distances (1, 1): weights 1, 2, 4, 8 give 4 + 8, bias 0.5.
    """
    head = make_head()
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 2.0, 4.0, 8.0]]))
        head.linear.bias.fill_(0.5)
    assert score(head, bert([EAST], [NORTH])) == pytest.approx(12.5, abs=1e-5)
    assert score(head, bert([EAST], [EAST])) == pytest.approx(10 + 10 + 1 + 0.5, abs=1e-5)


@pytest.mark.parametrize("special", [EAST, WEST, (0.0, -40.0)])
def test_special_tokens_never_count(special: tuple[float, float]) -> None:
    """[CLS] and [SEP] resemble each other in every pair: counted, they lift all scores and blur the order."""
    head = make_head()
    expected = score(head, bert([NORTH], [NORTH_EAST]))
    assert expected == pytest.approx(20 * math.sqrt(0.5), abs=1e-4)
    assert score(head, bert([NORTH], [NORTH_EAST], special)) == expected


@pytest.mark.parametrize("num_padding", [1, 7])
def test_padding_never_counts(num_padding: int) -> None:
    """A score that depends on the longest text of the batch ranks by neighbours."""
    head = make_head()
    pair = bert([EAST, NORTH], [WEST, NORTH_EAST])
    assert score(head, pair, num_padding) == pytest.approx(score(head, pair), abs=1e-6)


def test_padding_never_counts_where_it_has_the_id_of_a_word() -> None:
    """Some tokenizers pad with an id that is no special one here: the attention mask alone must be enough."""
    head = make_head(special=(CLS, SEP))
    pair = bert([EAST], [NORTH_EAST])
    assert score(head, pair, 5) == pytest.approx(score(head, pair), abs=1e-6)


def test_roberta_layout_gives_the_same_score() -> None:
    """`<s> q </s></s> d </s>`: the second separator must not open a third segment or count as document."""
    query, document = [EAST, NORTH], [WEST, NORTH_EAST]
    special = (4.0, -1.0)
    tokens = [
        (S, special),
        *[(7, v) for v in query],
        (END, special),
        (END, special),
        *[(8, v) for v in document],
        (END, special),
    ]
    head = make_head(END, (S, END, 1))
    assert score(head, tokens) == pytest.approx(score(make_head(), bert(query, document)), abs=1e-6)


@pytest.mark.parametrize(
    ("ids", "separator", "query", "document"),
    [
        ([CLS, 5, 6, SEP, 7, SEP, PAD], SEP, [1, 2], [4]),
        ([S, 5, END, END, 6, 7, END], END, [1], [4, 5]),
        ([5, 6, SEP, 7, 8, PAD, PAD], SEP, [0, 1], [3, 4]),
        ([CLS, 5, 6, 7, 8, 9, 9], SEP, [1, 2, 3, 4, 5, 6], []),
    ],
    ids=["bert", "roberta", "no first token", "separator cut off"],
)
def test_segments(ids: list[int], separator: int, query: list[int], document: list[int]) -> None:
    """Positions by hand; one off puts the last query word into the document."""
    head = make_head(separator, (CLS, SEP, PAD, S, END))
    mask = torch.tensor([[int(i != PAD) for i in ids]])
    is_query, is_document = head._segments(torch.tensor([ids]), mask)
    assert is_query[0].nonzero().flatten().tolist() == query
    assert is_document[0].nonzero().flatten().tolist() == document


@pytest.mark.parametrize(("query", "document"), [([], [EAST]), ([EAST], []), ([], [])])
def test_an_empty_side_gives_a_finite_score(query: list[Any], document: list[Any]) -> None:
    """Empty text, or one of unknown symbols alone: 0 / 0 would stop a run of 100,000 pairs at this one."""
    assert math.isfinite(score(make_head(), bert(query, document)))


def test_save_and_load(tmp_path: Path, tiny_encoder: Path) -> None:
    """A head that loads with its initial weights gives plausible scores: all parts are changed before saving."""
    model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.add_(torch.randn_like(parameter))
    pairs = [
        ("how to sum a array", "sum every value"),
        ("sort", "sort every value of the index along one axis"),
        ("a", "b"),
    ]
    expected = model.predict(pairs, show_progress_bar=False)
    model.save_pretrained(str(tmp_path / "teacher"))
    loaded = load_teacher(tmp_path / "teacher", device="cpu")
    assert loaded.predict(pairs, show_progress_bar=False).tolist() == expected.tolist()
    assert len(set(expected.tolist())) == 3
    assert loaded[-1].special_ids == model[-1].special_ids


def test_scores_do_not_depend_on_the_batch(tiny_encoder: Path) -> None:
    """End to end: real padding by a real tokenizer, one pair alone and beside a long one."""
    model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
    pair = ("how to sum a array", "sum every value")
    long = ("how to merge a frame", "merge every value of the frame along one axis of the index of the matrix")
    alone = model.predict([pair], show_progress_bar=False)[0]
    beside = model.predict([pair, long], show_progress_bar=False)[0]
    assert beside == pytest.approx(alone, abs=1e-4)


def test_a_grown_cross_encoder_ranks_a_text_itself_first(tiny_encoder: Path) -> None:
    """The head exists so that ranking works before training: the query's own words must beat foreign ones."""
    model = grow_cross_encoder(tiny_encoder, device="cpu", max_length=48)
    own, foreign = model.predict([("sum array", "sum array"), ("sum array", "rank kernel")], show_progress_bar=False)
    assert own > foreign
