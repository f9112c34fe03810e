"""One epoch of student training, same lists, same loss, same batch: our engine against sentence-transformers' trainer.

The peer is its trainer with its own `MultipleNegativesRankingLoss` (InfoNCE over the batch, scale 20) and its defaults otherwise:
fp32, a column of texts at a time, tokenised at each step. Its sampler keeps texts from standing in a batch twice, as its documentation
asks for with this loss. Both sides start from the same weights; neither evaluates nor saves. The peer needs the `datasets` library.
"""

import copy
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import Options, Row, alternate
from distill_assets.models.catalog import packaged_encoder
from distill_assets.sources.beir import BeirSource
from distill_assets.sources.python_api import PythonApiSource
from distill_assets.training.lists import Labels, TrainList, build_student_epochs
from distill_assets.training.recipes import Recipe

_NUM_NEGATIVES = 3
_MAX_LENGTH = 128
_TARGET = 1.5


def rows(options: Options) -> list[Row]:
    """Queries per second of one epoch, and how far apart the two students end on the same queries."""
    from distill_assets.models.encoders import has_fast_bf16, load_student

    model = load_student(packaged_encoder(), device=options.device, max_length=_MAX_LENGTH)
    recipe = Recipe(name="benchmark", loss="hard_labels", num_negatives=_NUM_NEGATIVES, batch_size=32)
    lists, judged = _lists(options, model, recipe)
    trained: dict[str, Any] = {}

    def ours() -> float:
        trained["ours"], seconds = _train_ours(copy.deepcopy(model), lists, recipe, options.device)
        return seconds

    def peer() -> float:
        trained["peer"], seconds = _train_peer(copy.deepcopy(model), lists, recipe, options.device)
        return seconds

    def peer_in_bf16() -> float:
        trained["bf16"], seconds = _train_peer(copy.deepcopy(model), lists, recipe, options.device, is_bf16=True)
        return seconds

    has_bf16 = has_fast_bf16(options.device)
    sides = {"ours": ours, "peer": peer} | ({"bf16": peer_in_bf16} if has_bf16 else {})
    timed = alternate(sides, 1 if options.quick else options.repeats)
    seen = len(lists) // recipe.batch_size * recipe.batch_size
    quality = {name: _measure(trained[name], judged) for name in sides}
    names = {"peer": "train one epoch, same data, same loss", "bf16": "train one epoch, the peer in bf16, too"}
    return [
        Row(
            name=names[side],
            ours=seen / timed.median("ours"),
            peer=seen / timed.median(side),
            ratio=timed.ratio("ours", side),
            target=_TARGET if side == "peer" else None,
            unit="queries/s",
            agreement=f"nDCG@10 of {len(judged)} held-out queries: {quality['ours']:.3f} and {quality[side]:.3f}",
            detail=_detail(model, lists, recipe, options) if side == "peer" else "",
        )
        for side in sides
        if side != "ours"
    ]


def _lists(options: Options, model: Any, recipe: Recipe) -> tuple[list[TrainList], list[Any]]:
    """Training lists of the collection's train queries with the untouched student's neighbours as negatives; held-out ones."""
    from distill_assets.models.encoders import encode_texts
    from distill_assets.retrieval.dense import search_dense
    from distill_assets.training.lists import build_dev_lists

    source = PythonApiSource(("numpy",), body_words=0) if options.data is None else BeirSource(options.data)
    read = [source.read(batch) for batch in source.batches()]
    documents = {d.doc_id: d.content for c in read for d in c.documents}
    positives: dict[str, dict[str, int]] = {}
    for qrel in (q for c in read for q in c.qrels if q.relevance > 0 and q.doc_id in documents):
        positives.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    queries = [q for c in read for q in c.queries if q.query_id in positives and q.split != "test"]
    held_out = [q for q in queries if q.split == "dev"][: 40 if options.quick else 100]
    train = [q for q in queries if q.split == "train"][: 64 if options.quick else 640]
    ids = sorted(documents)
    vectors = encode_texts(model, [documents[d] for d in ids], "document")
    texts = encode_texts(model, [q.text for q in (*train, *held_out)], "query")
    found = search_dense(texts, vectors, ids, k=20).rankings(ids)
    candidates = {q.query_id: [d for d, _ in ranking] for q, ranking in zip((*train, *held_out), found, strict=True)}
    labels = Labels(positives, candidates, documents)
    return build_student_epochs(train, labels, recipe)[0], build_dev_lists(held_out, labels)


def _train_ours(model: Any, lists: Sequence[TrainList], recipe: Recipe, device: str) -> tuple[Any, float]:
    from distill_assets.training.trainer import TrainingRun, make_student_trainer

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        trainer = make_student_trainer(model, [lists], recipe, TrainingRun(Path(folder), device, num_evaluations=0))
        trainer.train()
        return model, time.perf_counter() - started


def _train_peer(
    model: Any, lists: Sequence[TrainList], recipe: Recipe, device: str, *, is_bf16: bool = False
) -> tuple[Any, float]:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import BatchSamplers
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import PrinterCallback

    columns = ["query", "positive", *(f"negative_{i}" for i in range(1, _NUM_NEGATIVES + 1))]
    data = [dict(zip(columns, (g.query, *g.documents), strict=True)) for g in lists]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        trainer = SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                num_train_epochs=recipe.epochs,
                per_device_train_batch_size=recipe.batch_size,
                learning_rate=recipe.learning_rate,
                warmup_steps=recipe.warmup_share,
                seed=recipe.seed,
                batch_sampler=BatchSamplers.NO_DUPLICATES,
                dataloader_drop_last=True,
                use_cpu=device == "cpu",
                bf16=is_bf16,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(data),
            loss=MultipleNegativesRankingLoss(model, scale=recipe.cosine_scale),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return model, time.perf_counter() - started


def _measure(model: Any, judged: Sequence[Any]) -> float:
    from distill_assets.training.trainer import search_dev

    return search_dev(model, judged)


def _detail(model: Any, lists: Sequence[TrainList], recipe: Recipe, options: Options) -> str:
    """What a step reads on either side: tokens with padding, and how many texts stand in it more than once."""
    from distill_assets.models.encoders import has_fast_bf16
    from distill_assets.training.batches import StudentSteps, num_buckets_on, plan_steps

    steps = plan_steps([lists], batch_size=recipe.batch_size, seed=recipe.seed)
    data = StudentSteps(model, steps, recipe, num_buckets=num_buckets_on(options.device))
    ours = [
        sum(b["input_ids"].numel() for part in ("queries", "documents") for b in data[i][part])
        for i in range(len(data))
    ]
    peer, real = [], []
    for step in steps:
        columns = [[g.query for g in step], *zip(*(g.documents for g in step), strict=True)]
        lengths = [data.queries.lengths(columns[0]), *(data.documents.lengths(c) for c in columns[1:])]
        peer.append(sum(len(column) * max(column) for column in lengths))
        real.append(sum(map(sum, lengths)))
    return (
        f"{len(lists)} queries, {_NUM_NEGATIVES} negatives, batch {recipe.batch_size}, at most {_MAX_LENGTH} tokens. Tokens a step: "
        f"{np.mean(real):,.0f} of text, {np.mean(peer):,.0f} padded in the peer's columns, {np.mean(ours):,.0f} in our buckets with "
        f"each text once. Ours runs in {'bf16 autocast' if has_fast_bf16(options.device) else 'fp32'}, the peer in fp32 (its default)."
    )
