"""Pairs from token ids: what the teacher reads must be what its own tokenizer would have given it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.errors import ModelError
from distill_assets.models.fast.pair_tokens import PairTokenizer, truncate_longest_first
from distill_assets_tests.layouts import LAYOUTS

WORDS = [
    "sort",
    "a",
    "frame",
    "along",
    "axes",
    "kernel",
    "the",
    "of",
    "window",
    "Überprüfung",
    "数据",
    "x_1",
    "don't",
    "42",
]


TEXTS = st.one_of(
    st.lists(st.sampled_from([*WORDS, "[SEP]", "</s>", "<pad>", "[PAD]"]), max_size=30).map(" ".join),
    st.text(max_size=40),
)


@pytest.fixture(scope="module", params=list(LAYOUTS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """A tiny fast tokenizer of each layout."""
    return LAYOUTS[request.param]()


def unpacked(tokenizer: Any, pairs: list[tuple[str, str]], max_length: int) -> list[tuple[list[int], list[int]]]:
    """(ids, types) of each pair, as the engine puts them together."""
    tokenized = PairTokenizer(tokenizer, max_length).tokenize(pairs)
    packed = tokenized.pack(np.arange(len(pairs)))
    bounds = np.cumsum(packed.lengths)[:-1]
    return [
        (i.tolist(), t.tolist())
        for i, t in zip(np.split(packed.ids, bounds), np.split(packed.types, bounds), strict=True)
    ]


@pytest.mark.parametrize("side", ["right", "left"])
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), max_length=st.integers(5, 40))
@settings(max_examples=120, deadline=None)
def test_pairs_are_what_the_tokenizer_gives(
    tokenizer: Any, side: str, pairs: list[tuple[str, str]], max_length: int
) -> None:
    """A token cut on the wrong side, or a separator too few, gives a plausible logit of another text."""
    tokenizer.truncation_side = side
    found = unpacked(tokenizer, pairs, max_length)
    # As lists, the way `predict` calls it: called with two strings, transformers takes an empty document for none.
    expected = tokenizer(*map(list, zip(*pairs, strict=True)), truncation="longest_first", max_length=max_length)
    assert [ids for ids, _ in found] == expected["input_ids"]
    assert [types for _, types in found] == expected.get("token_type_ids", [[0] * len(ids) for ids, _ in found])


def test_rows_are_packed_in_the_order_asked(tokenizer: Any) -> None:
    """Batches are cut from pairs sorted by length: packed in the old order, each logit would be another pair's."""
    tokenizer.truncation_side = "right"
    pairs = [("sort", "the frame"), ("the", "sort the frame of the"), ("of", "a")]
    tokenized = PairTokenizer(tokenizer, 64).tokenize(pairs)
    packed = tokenized.pack(np.array([1, 2]))
    expected = [tokenizer(*pairs[row])["input_ids"] for row in (1, 2)]
    assert packed.ids.tolist() == expected[0] + expected[1]
    assert packed.lengths.tolist() == [len(ids) for ids in expected]


@pytest.mark.parametrize(
    ("query", "document", "kept"),
    [
        (3, 4, (3, 4)),
        (3, 20, (3, 7)),
        (20, 3, (7, 3)),
        (20, 30, (5, 5)),
        (30, 20, (5, 5)),
        (5, 9, (5, 5)),
        (0, 99, (0, 10)),
    ],
)
def test_truncation_by_hand(query: int, document: int, kept: tuple[int, int]) -> None:
    """A budget of 10 tokens: the shorter text stays whole while it fits half of it, else both get 5."""
    found = truncate_longest_first(np.array([query]), np.array([document]), 10)
    assert (int(found[0][0]), int(found[1][0])) == kept


def test_an_odd_token_goes_to_the_longer_text() -> None:
    """Budget 11, both longer: 5 and 6, whichever side the longer one is on."""
    query, document = truncate_longest_first(np.array([30, 20]), np.array([20, 30]), 11)
    assert query.tolist() == [6, 5]
    assert document.tolist() == [5, 6]


def test_each_text_is_tokenised_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, tokenising every pair again is what limits."""
    engine, asked = PairTokenizer(tokenizer, 32), []

    class Counting:
        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> Any:
            asked.extend(texts)
            return original.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    original = engine._backend
    monkeypatch.setattr(engine, "_backend", Counting())
    engine.tokenize([("sort", "the frame"), ("sort", "of"), ("the frame", "of")])
    engine.tokenize([("of", "sort"), ("a", "of")])
    assert sorted(asked) == ["a", "of", "sort", "the frame"]


def test_a_tokenizer_without_a_backend_is_refused() -> None:
    """A tokenizer in plain Python has no template to read: its pairs must go through it, not around it."""
    with pytest.raises(ModelError, match="not backed by the tokenizers library"):
        PairTokenizer(object(), 32)


def test_no_room_for_text_is_refused(tokenizer: Any) -> None:
    """With nothing but special tokens every pair would get the same logit."""
    with pytest.raises(ModelError, match="leaves no token for the texts"):
        PairTokenizer(tokenizer, 3)
