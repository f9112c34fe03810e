"""Families of teachers: the way that each takes, its largest difference from `CrossEncoder.predict`, and its speed against it.

    python -m benchmarks.families [--data ../shared/data/scifact] [--pairs 300] [--device cuda]

Weights are seeded and random, of the sizes that people choose: speed needs no trained ones. All read the packaged tokenizer and at most
512 tokens of a pair, in fp32. On a card it is bf16 against the library in bf16, with its unpadded path where flash-attn is installed.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from benchmarks.measuring import alternate, processor_name
from benchmarks.pairs import load_pairs
from benchmarks.scoring import predict
from distill_assets.models.catalog import packaged_encoder
from distill_assets.models.encoders import load_teacher
from distill_assets.models.fast import open_scorer

_BERT_LIKE = {
    "num_labels": 1,
    "initializer_range": 0.05,
    "pad_token_id": 0,
}  # at 0.02 all logits of random weights are equal
_ETTIN_17M = {
    "hidden_size": 256,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "initializer_range": 0.1,
    "initializer_cutoff_factor": 2.0,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
}


def _sized(hidden: int, layers: int, heads: int, intermediate: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**_BERT_LIKE, **sizes, "intermediate_size": intermediate}


def _classifier(name: str, **config: Any) -> Callable[[Path], None]:
    """A network with a classification head, in plain transformers format."""

    def save(folder: Path) -> None:
        own = getattr(transformers, f"{name}Config")(**config)
        getattr(transformers, f"{name}ForSequenceClassification")(own).save_pretrained(str(folder))
        _save_tokenizer(folder, has_types=name in ("Bert", "Electra"))

    return save


def _modular(folder: Path) -> None:
    """The layout of the Ettin rerankers: Transformer, Pooling, Dense, LayerNorm, Dense."""
    encoder, hidden = folder / "encoder", _ETTIN_17M["hidden_size"]
    transformers.ModernBertModel(transformers.ModernBertConfig(**_ETTIN_17M)).save_pretrained(str(encoder))
    _save_tokenizer(encoder, has_types=False)
    modules = [
        Transformer(str(encoder), max_seq_length=512),
        Pooling(hidden, pooling_mode="cls"),
        Dense(hidden, hidden, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(hidden),
        Dense(hidden, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    CrossEncoder(modules=modules, device="cpu").save_pretrained(str(folder), create_model_card=False)


def _save_tokenizer(folder: Path, *, has_types: bool) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(packaged_encoder()))
    tokenizer.model_input_names = ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(str(folder))


FAMILIES: dict[str, Callable[[Path], None]] = {
    "BERT, 6 x 384 (MiniLM-L6)": _classifier("Bert", **_sized(384, 6, 12, 1536)),
    "XLM-R, 12 x 384 (mMiniLM-L12)": _classifier(
        "XLMRoberta", **_sized(384, 12, 12, 1536), max_position_embeddings=514
    ),
    "DistilBERT, 6 x 768": _classifier("DistilBert", **_BERT_LIKE),
    "ELECTRA small, 12 x 256": _classifier("Electra", **_sized(256, 12, 4, 1024), embedding_size=128),
    "ModernBERT, 7 x 256, classifier": _classifier("ModernBert", num_labels=1, **_ETTIN_17M),
    "ModernBERT, 7 x 256, five modules (Ettin 17M)": _modular,
}


def measure(save: Callable[[Path], None], pairs: list[tuple[str, str]], device: str, repeats: int) -> list[str]:
    """Cells of one family's row: way, largest difference, range of the logits, pairs/s of ours and of `predict`, ratio."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        precision: Any = "bf16" if device == "cuda" else "fp32"
        ours = open_scorer(load_teacher(Path(folder), device=device, max_length=512), precision)
        peer = load_teacher(Path(folder), device=device, max_length=512)
    exact = predict(peer, pairs, 32)
    if device == "cuda":
        peer.to(torch.bfloat16)
    size = 512 if device == "cuda" else 32
    ours(pairs[:64])
    timed = alternate({"ours": lambda: ours(pairs), "peer": lambda: predict(peer, pairs, size)}, repeats)
    difference = np.abs(timed.results["ours"] - exact).max()
    speeds = [f"{len(pairs) / timed.median(side):,.0f}" for side in ("ours", "peer")]
    return [ours.way, f"{difference:.1e}", f"{np.ptp(exact):.2g}", *speeds, f"{timed.ratio('ours', 'peer'):.2f}"]


def main() -> None:
    """Print one row per family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="BEIR folder; without it, documents of numpy and pandas")
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="families whose name holds this text")
    given = parser.parse_args()
    pairs, _ = load_pairs(given.data, given.pairs)
    machine = torch.cuda.get_device_name() if given.device == "cuda" else processor_name()
    print(f"{len(pairs)} pairs of {given.data.name if given.data else 'python_api'}; {machine}\n")
    print("| family | way | largest difference | range of logits | pairs/s | predict, pairs/s | ratio |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, save in FAMILIES.items():
        if given.only is None or given.only in name:
            print("| " + " | ".join([name, *measure(save, pairs, given.device, given.repeats)]) + " |", flush=True)


if __name__ == "__main__":
    main()
