"""The fast way through a cross-encoder: pairs tokenised once per text, batches by tokens, low precision where it is fast.

Three ways, the first that fits is taken, and `FastScorer.way` says which:

- packed: encoders that `architectures.py` knows, under a classification head or under other modules, without any padding;
- padded: any other encoder with a fast tokenizer, in padded batches of nearly equal lengths;
- predict: everything else that `CrossEncoder` loads, through `CrossEncoder.predict` in fp32, whatever precision was wanted.

The first two must give `predict`'s logits in fp32 on probe pairs before they are used.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from torch import Tensor, nn
from torch.nn import functional

from distill_assets.errors import ModelError
from distill_assets.models.encoders import CrossEncoderScorer, Precision
from distill_assets.models.fast.bounds import Bounds, split_runs
from distill_assets.models.fast.packed_encoder import PackedEncoder
from distill_assets.models.fast.pair_tokens import PackedPairs, PairTokenizer

logger = logging.getLogger(__name__)
T = TypeVar("T")
Forward = Callable[[PackedPairs], Tensor]
Way = Literal["packed", "padded", "predict"]

# Tokens of a batch. On a CPU each core works on a batch of its own, whose activations then fit its cache (measured in
# benchmarks/README.md); a GPU needs many tokens at once to be busy.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 65_536
# Pairs that are tokenised and sorted by length together.
CPU_WINDOW, GPU_WINDOW = 1024, 32_768
_MAX_WORKERS = 8  # one Python interpreter feeds them all: about 1 ms of it per batch
_PROBE_TOLERANCE = 1e-3  # fp32 against fp32, other order of sums: differences are below 1e-5 of a logit
_HALF_TOLERANCE = (
    0.2  # half precision against fp32: rounding moves a logit by about a hundredth of it, a wrong bound by any amount
)
_PROBES = [
    ("how to sort a frame", "sort every value of the frame along one axis"),
    ("a", "b"),
    ("what is a kernel, and who needs one?", "kernel " * 700),
    ("signal " * 700, "join, split; merge."),
    ("window", "the window of the series, " * 6),
]


def used_precision(way: str, wanted: Precision) -> Precision:
    """The precision that a scorer which goes this way computes in: `predict` knows fp32 alone."""
    return "fp32" if way == "predict" else wanted


def open_scorer(
    model: CrossEncoder, precision: Precision, *, batch_tokens: int | None = None
) -> "FastScorer | PredictScorer":
    """The fastest scorer that gives this model's logits.

    Its `way` names the way that pairs take. Its `precision` is what it computes in: fp32 where the way is `predict`.
    """
    try:
        return FastScorer(model, precision, batch_tokens=batch_tokens)
    except ModelError as reason:
        logger.warning("pairs go through CrossEncoder.predict in fp32, several times slower: %s", reason)
        return PredictScorer(model.float())


class PredictScorer(CrossEncoderScorer):
    """Scores pairs through `CrossEncoder.predict`, with a model in fp32."""

    way: Way = "predict"
    precision: Precision = "fp32"


class FastScorer:
    """Scores pairs with a loaded cross-encoder; a `models.scoring.PairScorer`.

    Args:
        model: a cross-encoder with one output; it is turned to fp32 in place.
        precision: of the encoder's matrix products. The head's last one is in fp32 always, and so are the logits.
        batch_tokens: tokens of a batch; None takes what suits the device. Changes numbers by rounding alone.

    Raises:
        ModelError: this model's pairs or modules are not known here, or the probe pairs' logits differ from `predict`'s.
    """

    def __init__(self, model: CrossEncoder, precision: Precision, *, batch_tokens: int | None = None) -> None:
        self.device = torch.device(model.device)
        is_gpu = self.device.type != "cpu"
        self.batch_tokens = batch_tokens or (GPU_BATCH_TOKENS if is_gpu else CPU_BATCH_TOKENS)
        self.window = GPU_WINDOW if is_gpu else CPU_WINDOW
        self.precision: Precision = precision
        model.float().eval()
        transformer = _text_transformer(model)
        self._tokenizer = PairTokenizer(transformer.tokenizer, transformer.max_seq_length)
        self.way, self._forward = self._choose(model)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Raw logits, float32 (len(pairs),), in the order given. The same pairs in the same order give the same bits."""
        return self._score(pairs)

    def _score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        logits = np.empty(len(pairs), dtype=np.float32)
        with self._workers() as run, ThreadPoolExecutor(1) as ahead:
            for start, batches in _one_ahead(ahead, self._prepare, _windows(pairs, self.window)):
                # Copied once per window: a card that is asked after each batch idles until the next one is launched.
                scores = torch.cat([found.float() for found in run([batch for _, batch in batches])])
                logits[start + np.concatenate([rows for rows, _ in batches])] = scores.cpu().numpy()
        return logits

    def _prepare(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[np.ndarray, PackedPairs]]:
        """Tokenise a window and cut it, longest first, into batches: rows of the window and their packed tokens."""
        tokenized = self._tokenizer.tokenize(pairs)
        lengths = tokenized.lengths
        order = np.argsort(-lengths, kind="stable")
        return [(rows, tokenized.pack(rows)) for rows in cut_by_tokens(order, lengths, self.batch_tokens)]

    @contextmanager
    def _workers(self) -> Iterator[Callable[[list[PackedPairs]], Iterator[Tensor]]]:
        """Something that runs batches: on a CPU one worker per core, each with a batch and a cache of its own.

        Independent workers wait for nobody; threads that share each product of a small model wait at its end.
        """
        num_threads = torch.get_num_threads()
        num_workers = min(num_threads, _MAX_WORKERS) if self.device.type == "cpu" else 1
        if num_workers == 1:
            yield lambda batches: map(self._infer, batches)
            return
        # set_num_threads holds for the thread that calls it, but for MKL's products, which it sets for all: hence restored.
        with ThreadPoolExecutor(
            num_workers, initializer=torch.set_num_threads, initargs=(num_threads // num_workers,)
        ) as pool:
            try:
                yield lambda batches: pool.map(self._infer, batches)
            finally:
                pool.shutdown(cancel_futures=True)
                torch.set_num_threads(num_threads)

    def _infer(self, batch: PackedPairs) -> Tensor:
        with torch.inference_mode():
            return self._forward(batch)

    def _choose(self, model: CrossEncoder) -> tuple[Way, Forward]:
        """The first way whose logits on the probes are those of `predict`, both in fp32."""
        expected = CrossEncoderScorer(model)(_PROBES)
        reasons = []
        ways: tuple[tuple[Way, Callable[[CrossEncoder, Precision], Forward]], ...] = (
            ("packed", _packed_forward),
            ("padded", _padded_forward),
        )
        for name, make in ways:
            try:
                self._forward = make(model, "fp32")
            except ModelError as reason:
                reasons.append(f"{name}: {reason}")
                continue
            difference = np.abs(self._score(_PROBES) - expected)
            if (difference <= _PROBE_TOLERANCE * (1 + np.abs(expected))).all():
                self._forward = make(model, self.precision)
                # On CUDA another kernel computes attention in half precision: its rounding is small, a mistake is not.
                if self.device.type == "cpu" or self.precision == "fp32":
                    return name, self._forward
                difference = np.abs(self._score(_PROBES) - expected)
                if (difference <= _HALF_TOLERANCE * (1 + np.abs(expected))).all():
                    return name, self._forward
            reasons.append(f"{name}: logits of probe pairs differ by {difference.max():.2g} from predict's")
        raise ModelError("; ".join(reasons))


def cut_by_tokens(order: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut `order` into neighbouring parts of at most `budget` tokens each; a pair longer than that is a part of its own."""
    parts: list[np.ndarray] = []
    start, total = 0, 0
    for position, length in enumerate(lengths[order]):
        if total + length > budget and position > start:
            parts.append(order[start:position])
            start, total = position, 0
        total += int(length)
    return [*parts, order[start:]] if len(order) else []


def _text_transformer(model: CrossEncoder) -> Any:
    transformer = model[0]
    if not isinstance(transformer, Transformer):
        raise ModelError(f"its first module is a {type(transformer).__name__}, expected a Transformer")
    if "message" in transformer.modality_config or "text" not in transformer.modality_config:
        raise ModelError(f"its inputs are {', '.join(map(str, transformer.modality_config))}, expected plain text")
    if model.default_prompt_name is not None or transformer.processing_kwargs:
        raise ModelError("it has a prompt or processing arguments of its own")
    return transformer


def _packed_forward(model: CrossEncoder, precision: Precision) -> Forward:
    network, others = model[0].model, list(model)[1:]
    if type(network).__name__.endswith("ForSequenceClassification"):
        if others:
            raise ModelError(f"{len(others)} modules after a classification head")
        mode = network.config.classifier_pooling if network.config.model_type == "modernbert" else "cls"
        return _pooled(PackedEncoder(network.base_model, precision), mode, _head_of(network), model.device)
    if model[0].module_output_name != "token_embeddings":
        raise ModelError(f"its encoder gives {model[0].module_output_name}, expected token embeddings")
    encoder = PackedEncoder(network, precision)
    mode = others[0].pooling_mode if isinstance(others[0], Pooling) else None
    if mode in ("cls", "mean") and all(_reads_pooled(module) for module in others[1:]):
        return _pooled(encoder, str(mode), _chain(others[1:]), model.device)
    return _by_runs(encoder, others, model.device)


def _head_of(network: Any) -> Callable[[Tensor], Tensor]:
    """What a classification network makes of pooled pairs (num_pairs, hidden)."""
    if network.config.model_type == "modernbert":
        return nn.Sequential(network.head, network.classifier)
    if network.config.model_type == "distilbert":
        return nn.Sequential(network.pre_classifier, nn.ReLU(), network.classifier)
    # BERT has a pooler before it, RoBERTa and ELECTRA a head; each takes the first token by itself
    pooler = getattr(network.base_model, "pooler", None) or nn.Identity()
    return lambda first: network.classifier(pooler(first.unsqueeze(1)))


def _reads_pooled(module: Any) -> bool:
    """Whether a module needs one vector per pair and nothing of its tokens."""
    is_known = isinstance(module, (Dense, LayerNorm, Normalize))
    return is_known and getattr(module, "module_input_name", "") != "token_embeddings"


def _chain(modules: Sequence[Any]) -> Callable[[Tensor], Tensor]:
    def head(pooled: Tensor) -> Tensor:
        features = {"sentence_embedding": pooled}
        for module in modules:
            features = module(features)
        return features["scores"]

    return head


def _pooled(encoder: PackedEncoder, mode: str, head: Callable[[Tensor], Tensor], device: torch.device) -> Forward:
    """One vector per pair, `cls` or `mean`, and one call of the head for all pairs of a batch."""

    def forward(batch: PackedPairs) -> Tensor:
        ids, types = _to_device(batch, device)
        bounds = Bounds(batch.lengths.tolist(), device)
        hidden = encoder(ids, types, bounds, first_only=mode == "cls").float()
        if mode == "mean":  # index_add gives a card other bits each time; segment_reduce is 16 times slower on a CPU
            parts = zip(split_runs(hidden, bounds.runs), bounds.runs, strict=True)
            hidden = torch.cat([rows.view(*run, encoder.hidden_size).mean(dim=1) for rows, run in parts])
        return head(hidden).squeeze(-1)

    return forward


def _by_runs(encoder: PackedEncoder, modules: Sequence[Any], device: torch.device) -> Forward:
    """Modules that read tokens, over each run of pairs of equal length."""

    def forward(batch: PackedPairs) -> Tensor:
        ids, types = _to_device(batch, device)
        bounds = Bounds(batch.lengths.tolist(), device)
        hidden, runs = encoder(ids, types, bounds).float(), bounds.runs
        scores = []
        for run, part, tokens in zip(runs, split_runs(ids, runs), split_runs(hidden, runs), strict=True):
            features: dict[str, Any] = {
                "input_ids": part.view(run),
                "attention_mask": torch.ones(run, dtype=torch.long, device=device),
                "token_embeddings": tokens.view(*run, encoder.hidden_size),
            }
            for module in modules:
                features = module(features)
            scores.append(features["scores"].view(run[0]))
        return torch.cat(scores)

    return forward


def _padded_forward(model: CrossEncoder, precision: Precision) -> Forward:
    """The transformer runs under autocast where `precision` is bf16; what makes a logit of its output runs in fp32."""
    transformer, *others = model
    if transformer.tokenizer.pad_token_id is None or transformer.tokenizer.padding_side != "right":
        raise ModelError("its tokenizer does not pad on the right")
    if precision == "bf16":
        for layer in transformer.modules():
            if isinstance(layer, nn.Linear) and layer.out_features == 1:
                layer.register_forward_hook(_in_fp32)

    def forward(batch: PackedPairs) -> Tensor:
        features = _pad(batch, transformer.tokenizer, model.device)
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            features = transformer(features)
        features = {n: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in features.items()}
        for module in others:
            features = module(features)
        scores: Tensor = features["scores"]
        return scores.view(len(batch.lengths))

    return forward


def _pad(batch: PackedPairs, tokenizer: Any, device: torch.device) -> dict[str, Any]:
    """What the transformer reads: (num_pairs, longest) ids, mask and, where the tokenizer gives them, types."""
    mask = np.arange(batch.lengths.max()) < batch.lengths[:, None]
    values = {
        "input_ids": (batch.ids, tokenizer.pad_token_id),
        "token_type_ids": (batch.types, tokenizer.pad_token_type_id),
    }
    features: dict[str, Any] = {"attention_mask": torch.from_numpy(mask.astype(np.int64)).to(device)}
    for name, (flat, padding) in values.items():
        if name in tokenizer.model_input_names:
            padded = np.full(mask.shape, padding, dtype=np.int64)
            padded[mask] = flat
            features[name] = torch.from_numpy(padded).to(device)
    return features


def _in_fp32(layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    """Forward hook of a layer that gives logits. Autocast rounds them to 8 binary digits, near candidates to ties."""
    with torch.autocast(output.device.type, enabled=False):
        return functional.linear(inputs[0].float(), layer.weight, layer.bias)


def _to_device(batch: PackedPairs, device: torch.device) -> tuple[Tensor, Tensor]:
    ids, types = torch.from_numpy(batch.ids), torch.from_numpy(batch.types)
    if device.type == "cuda":
        return ids.pin_memory().to(device, non_blocking=True), types.pin_memory().to(device, non_blocking=True)
    return ids.to(device), types.to(device)


def _windows(pairs: Sequence[tuple[str, str]], size: int) -> Iterator[tuple[int, Sequence[tuple[str, str]]]]:
    for start in range(0, len(pairs), size):
        yield start, pairs[start : start + size]


def _one_ahead(
    executor: ThreadPoolExecutor,
    prepare: Callable[[Sequence[tuple[str, str]]], T],
    windows: Iterator[tuple[int, Sequence[tuple[str, str]]]],
) -> Iterator[tuple[int, T]]:
    """Each window prepared, the next one in the background while the caller works on this one."""
    waiting: tuple[int, Future[T]] | None = None
    for start, window in windows:
        following = start, executor.submit(prepare, window)
        if waiting is not None:
            yield waiting[0], waiting[1].result()
        waiting = following
    if waiting is not None:
        yield waiting[0], waiting[1].result()
