"""The fast way through a cross-encoder gives the logits of the slow one."""

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode

from distill_assets.errors import ModelError
from distill_assets.models.encoders import CrossEncoderScorer, grow_cross_encoder, has_fast_bf16, resolve_precision
from distill_assets.models.fast import packed_encoder
from distill_assets.models.fast.packed_encoder import has_varlen
from distill_assets.models.fast.scorer import (
    FastScorer,
    cut_by_tokens,
    open_scorer,
    used_precision,
)
from distill_assets_tests.layouts import LAYOUTS

WORDS = ["sort", "the", "frame", "of", "kernel", "a", "window"]
PAIRS = [
    (" ".join(WORDS[i % 7 : i % 7 + 1 + i % 3]), " ".join(WORDS[(i * j) % 7] for j in range(1 + i % 11)))
    for i in range(60)
]


def _network(layout: str, tokenizer: Any, folder: Path) -> Path:
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        ModernBertConfig,
        ModernBertForSequenceClassification,
        ModernBertModel,
        XLMRobertaConfig,
        XLMRobertaForSequenceClassification,
    )

    torch.manual_seed(3)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 80,
        "num_labels": 1,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.3,  # at the usual 0.02 all logits of an untrained model are equal
    }
    special = {
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    made: Any = {
        "bert": lambda: BertForSequenceClassification(BertConfig(**shape)),
        "xlm-roberta": lambda: XLMRobertaForSequenceClassification(XLMRobertaConfig(**shape, type_vocab_size=1)),
        "modernbert": lambda: ModernBertForSequenceClassification(
            ModernBertConfig(**shape, **special, initializer_cutoff_factor=2.0, local_attention=8)
        ),
        "modernbert-encoder": lambda: ModernBertModel(
            ModernBertConfig(**shape, **special, initializer_cutoff_factor=2.0, local_attention=8)
        ),
    }[layout]()
    made.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module", params=["bert", "xlm-roberta", "modernbert", "joint", "modernbert-joint"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[CrossEncoder, str]:
    """A tiny cross-encoder of each kind, and the way that it should go."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "joint":
        torch.manual_seed(4)
        return grow_cross_encoder(request.getfixturevalue("tiny_encoder"), device="cpu", max_length=40), "packed"
    tokenizer = LAYOUTS[request.param.removesuffix("-joint")]()
    tokenizer.model_max_length = 24
    if request.param == "modernbert-joint":
        path = _network("modernbert-encoder", tokenizer, folder)
        return grow_cross_encoder(path, device="cpu", max_length=40), "packed"
    path = _network(request.param, tokenizer, folder)
    model = CrossEncoder(str(path), device="cpu", activation_fn=torch.nn.Identity())
    return model, "packed"


@pytest.mark.parametrize("batch_tokens", [16, 100, 10_000])
def test_logits_are_those_of_predict(model: tuple[CrossEncoder, str], batch_tokens: int) -> None:
    """Another position, type or truncation gives plausible logits of something else, whatever the batches are."""
    encoder, way = model
    expected = CrossEncoderScorer(encoder)(PAIRS)
    scorer = FastScorer(encoder, "fp32", batch_tokens=batch_tokens)
    assert scorer.way == way
    assert np.std(expected) > 0.01  # equal logits would agree with anything
    assert scorer(PAIRS) == pytest.approx(expected, abs=1e-4)


def _varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` computes on CUDA, pair by pair."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert (int(cu_seq_q[-1]), int(cu_seq_k[-1])) == (len(query), len(key))
    parts = []
    for (q_start, q_end), (k_start, k_end) in zip(
        pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True
    ):
        q, k, v = (x.transpose(0, 1) for x in (query[q_start:q_end], key[k_start:k_end], value[k_start:k_end]))
        near = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
        if window_size != (-1, -1):
            assert len(query) == len(key), "the kernel lays a window at the end of a pair where it has fewer queries"
            near = near.triu(-window_size[0]).tril(window_size[1])
        parts.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=near).transpose(0, 1))
    return torch.cat(parts)


def test_the_way_of_a_gpu_gives_the_same_logits(
    model: tuple[CrossEncoder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong bound lets one pair read its neighbour's tokens; on a card only the order of the scores would show it."""
    expected = CrossEncoderScorer(model[0])(PAIRS)
    calls = []
    monkeypatch.setattr(packed_encoder, "has_varlen", lambda device, dtype: True)

    def count(*args: Any, window_size: tuple[int, int] = (-1, -1)) -> torch.Tensor:
        calls.append(args[0].shape)
        return _varlen_attn(*args, window_size)

    monkeypatch.setattr(varlen, "varlen_attn", count)
    scorer = FastScorer(model[0], "fp32", batch_tokens=200)
    calls.clear()
    np.testing.assert_allclose(scorer(PAIRS), expected, atol=2e-5)
    assert calls


@pytest.mark.parametrize("model", ["modernbert"], indirect=True)
def test_local_attention_needs_a_kernel_with_windows(
    model: tuple[CrossEncoder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that reads the whole pair in every layer gives other logits at full speed."""
    monkeypatch.setattr(packed_encoder, "has_varlen", lambda device, dtype: True)
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value: value)
    with pytest.raises(ModelError, match="varlen_attn has no window_size"):
        packed_encoder.PackedEncoder(model[0][0].model.base_model, "bf16")
    assert FastScorer(model[0], "fp32").way == "padded"


def test_one_kernel_for_all_lengths_is_for_cuda_in_half_precision() -> None:
    """It has no CPU kernel, and none for fp32: scoring would end with an error of the library."""
    cpu, card = torch.device("cpu"), torch.device("cuda")
    assert has_varlen(card, torch.bfloat16)
    assert not any(has_varlen(*found) for found in ((cpu, torch.bfloat16), (card, torch.float32)))


def test_windows_and_workers_change_no_bit_of_a_repeated_run(
    model: tuple[CrossEncoder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed run scores on its second try must be what it would have scored on its first."""
    scorer = FastScorer(model[0], "fp32", batch_tokens=64)
    scorer.window = 16
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    whole = scorer(PAIRS)
    assert np.array_equal(scorer(PAIRS), whole)
    assert np.array_equal(np.concatenate([scorer(PAIRS[:32]), scorer(PAIRS[32:])]), whole)
    assert whole == pytest.approx(CrossEncoderScorer(model[0])(PAIRS), abs=1e-4)


def test_threads_are_as_before(model: tuple[CrossEncoder, str]) -> None:
    """A scorer that leaves one thread behind makes everything after it run at half the speed."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        FastScorer(model[0], "fp32")(PAIRS)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_bf16_keeps_the_logits_but_for_rounding(model: tuple[CrossEncoder, str]) -> None:
    """Half precision in the wrong place (logits, embeddings) makes ties of near candidates."""
    expected = CrossEncoderScorer(model[0])(PAIRS)
    found = FastScorer(model[0], "bf16")(PAIRS)
    assert found.dtype == np.float32
    assert np.corrcoef(found, expected)[0, 1] > 0.99
    assert len(set(found.tolist())) > 0.9 * len(set(expected.tolist()))


class _Products(TorchDispatchMode):
    """Element types of the two factors of every linear layer and attention that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in ("aten.linear", "aten.addmm", "scaled_dot_product")):
            self.types += [value.dtype for value in args[:2]]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_scorer_computes_in_the_precision_that_it_names(
    model: tuple[CrossEncoder, str], precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits are stored under the precision: fp32 under the key of bf16 would mix with those of another machine.

    The encoder computes in it. The head after it has at most two linear layers, with two factors each, and may be in fp32.
    """
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # the recorder sees its own thread alone
    scorer = open_scorer(model[0], precision)
    with _Products() as products:
        scorer([PAIRS[5]] * 3)
    assert (scorer.way, scorer.precision) == (model[1], precision)
    in_fp32 = products.types.count(torch.float32)
    assert len(products.types) > 12 and len(products.types) == in_fp32 + products.types.count(torch.bfloat16)
    assert in_fp32 == len(products.types) if precision == "fp32" else in_fp32 <= 4


def test_logits_of_bf16_are_not_rounded_to_bf16(model: tuple[CrossEncoder, str]) -> None:
    """bf16 has 8 binary digits: logits between 4 and 8 would lie 0.03 apart, and near candidates would tie."""
    found = torch.from_numpy(FastScorer(model[0], "bf16")(PAIRS[:8]))
    assert (found.bfloat16().float() != found).any()


def test_the_way_tells_the_precision() -> None:
    """A caller that knows the way alone must look the logits up where they were stored."""
    assert [used_precision(way, "bf16") for way in ("packed", "padded", "predict")] == ["bf16", "bf16", "fp32"]
    assert used_precision("packed", "fp32") == "fp32"


def test_no_pairs(model: tuple[CrossEncoder, str]) -> None:
    """A query without candidates must not fail inside torch."""
    assert FastScorer(model[0], "fp32")([]).shape == (0,)


def test_an_unknown_model_goes_through_predict_and_says_so(
    tiny_cross_encoder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that the fast ways get wrong must be slow, not wrong: here both ways see other logits than predict."""
    model = CrossEncoder(str(tiny_cross_encoder), device="cpu", activation_fn=torch.nn.Identity())
    original = CrossEncoder.predict
    monkeypatch.setattr(CrossEncoder, "predict", lambda self, *args, **kwargs: original(self, *args, **kwargs) + 0.5)
    with caplog.at_level(logging.WARNING):
        scorer = open_scorer(model, "bf16")
    assert (scorer.way, scorer.precision) == ("predict", "fp32")
    assert "packed: logits of probe pairs differ by 0.5" in caplog.text
    assert scorer(PAIRS) == pytest.approx(CrossEncoderScorer(model)(PAIRS))


def test_a_model_with_a_prompt_goes_through_predict(tiny_cross_encoder: Path) -> None:
    """`predict` puts the prompt before each text; ids put together without it are another question."""
    model = CrossEncoder(str(tiny_cross_encoder), device="cpu", prompts={"p": "sort: "}, default_prompt_name="p")
    with pytest.raises(ModelError, match="prompt"):
        FastScorer(model, "fp32")


def test_batches_hold_every_pair_once_within_the_budget() -> None:
    """By hand: lengths 9, 5, 5, 3, 2 with a budget of 10 tokens; 30 is longer than the budget and stands alone."""
    lengths = np.array([5, 30, 3, 9, 2, 5])
    order = np.argsort(-lengths, kind="stable")
    parts = cut_by_tokens(order, lengths, 10)
    assert [part.tolist() for part in parts] == [[1], [3], [0, 5], [2, 4]]
    assert cut_by_tokens(np.array([], dtype=int), np.array([], dtype=int), 10) == []


def test_precision() -> None:
    """Emulated half precision is 45 times slower than fp32: `auto` must not choose it."""
    assert resolve_precision("fp32", "cpu") == "fp32"
    assert resolve_precision("bf16", "mps") == "bf16"
    assert resolve_precision("auto", "mps") == "fp32"
    assert resolve_precision("auto", "cpu") == ("bf16" if has_fast_bf16("cpu") else "fp32")
