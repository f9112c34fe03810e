"""What a CUDA card does with this package, in under eight minutes and without Dagster: `python -m benchmarks.gpu`.

Weights of classifiers are seeded and random, of the true sizes: speed and memory need no trained ones. `--device cpu --small` runs
all of it on a CPU in some minutes, to see that the script itself works.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from benchmarks import scoring, training
from benchmarks.measuring import Options, Row
from benchmarks.pairs import load_pairs
from distill_assets.models.encoders import CrossEncoderScorer, resolve_precision
from distill_assets.models.fast.scorer import FastScorer

_ANCHOR = 3817  # pairs a second of MiniLM-L6 on an H100: `CrossEncoder.predict` in bf16 at its best batch, pairs of at most 512 tokens
_SIZES = {"MiniLM-L6": (384, 6, 12, 1536), "BERT-base": (768, 12, 12, 3072)}  # hidden, layers, heads, intermediate
_SMALL = (32, 2, 4, 64)


def main() -> None:
    """Print a line of JSON for each row; with --out write them to a file, too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    options = Options(quick=True, device=given.device, repeats=1 if given.small else 3)
    found = []
    for row in rows(options, is_small=given.small):
        found.append(asdict(row) | {"device": _name(given.device)})
        print(json.dumps({name: value for name, value in found[-1].items() if name != "detail"}), flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def rows(options: Options, *, is_small: bool) -> Iterator[Row]:
    """Scoring of classifiers and of the bundled teacher, long pairs, agreement with fp32, and training."""
    num_pairs = 60 if is_small else 20_000
    for name, size in _SIZES.items():
        model = classifier(_SMALL if is_small else size, options.device)
        yield from scoring.compare(options, name, model, num_pairs)
        yield from _long_pairs(options, name, model, 40 if is_small else 8_000)
    yield from scoring.compare(options, "bundled teacher", scoring.open_model(options), num_pairs)
    yield from training.rows(options)


def classifier(size: tuple[int, int, int, int], device: str) -> CrossEncoder:
    """A BERT with a scoring head of this size, seeded, with the packaged tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    hidden, layers, heads, intermediate = size
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        num_labels=1,
        initializer_range=0.05,  # at 0.02 all logits of random weights are equal
    )
    return scoring.as_cross_encoder(BertForSequenceClassification(config), device)


def _long_pairs(options: Options, name: str, model: CrossEncoder, num_pairs: int) -> Iterator[Row]:
    """Pairs of 512 tokens a second against the anchor, peak memory, and the largest difference from fp32."""
    import time

    model.max_seq_length = 512
    pairs, _ = load_pairs(options.data, num_pairs)
    text = " ".join(document for _, document in pairs[:40])
    long = [(query, f"{document} {text}") for query, document in pairs]
    precision: Any = resolve_precision("auto", options.device)
    scorer = FastScorer(model, precision)
    scorer(long[:64])
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    logits = scorer(long)
    speed = len(long) / (time.perf_counter() - started)
    peak_mb = torch.cuda.max_memory_allocated() / 2**20 if options.device == "cuda" else float("nan")
    sample = long[:: max(1, len(long) // 256)]
    difference = abs(logits[:: max(1, len(long) // 256)] - CrossEncoderScorer(model.float())(sample)).max()
    agreement = (
        f"largest difference from fp32 {difference:.3g} of logits that range over {logits.max() - logits.min():.3g}"
    )
    about = f"{precision}, way {scorer.way}, peak memory {peak_mb:,.0f} MB"
    anchor = _ANCHOR if name == "MiniLM-L6" else None
    ratio = None if anchor is None else speed / anchor
    yield Row(f"512 tokens, {name}", speed, anchor, ratio, None, "pairs/s", agreement, about)
    model.max_seq_length = scoring.MAX_LENGTH


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


if __name__ == "__main__":
    main()
