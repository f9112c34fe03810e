"""Mining, encoding and query latency against the peers, on the same vectors, texts and machine.

Each side of the mining rows is a process of its own, so that neither inherits the other's memory:
`python -m benchmarks.mining ours FOLDER` and `... peer FOLDER`, both over the vectors that `FOLDER` holds.
"""

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measuring import Options, Row, alternate, peak_rss_mb, reset_peak_rss, rss_mb

if TYPE_CHECKING:
    from distill_assets.models.encoders import Precision

_DIMENSION, _NUM_NEGATIVES, _SEED = 384, 100, 2026


def rows(options: Options) -> list[Row]:
    """All rows of this engine."""
    return [*_mining_rows(options), *_encoding_rows(options), *_latency_rows(options), _growth_row(options)]


def make_vectors(num_docs: int, num_queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors around some thousand centres, queries near a document each, and that document's row."""
    rng = np.random.default_rng(_SEED)
    centres = rng.standard_normal((max(50, num_docs // 50), _DIMENSION), dtype=np.float32)
    documents = np.empty((num_docs, _DIMENSION), np.float32)
    for start in range(0, num_docs, 50_000):
        part = documents[start : start + 50_000]
        part[:] = centres[rng.integers(0, len(centres), len(part))]
        part += 1.2 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    positives = rng.choice(num_docs, num_queries, replace=False)
    queries = documents[positives] + 0.04 * rng.standard_normal((num_queries, _DIMENSION), dtype=np.float32)
    return documents, queries / np.linalg.norm(queries, axis=1, keepdims=True), positives


def _mining_rows(options: Options) -> list[Row]:
    num_docs, num_queries = (10_000, 1_000) if options.quick else (100_000, 10_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents, queries, positives = make_vectors(num_docs, num_queries)
        _save_for_both(folder, documents, queries, positives)
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for number in range(options.repeats):
            for side in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
                command = [sys.executable, "-m", "benchmarks.mining", side, str(folder)]
                done = subprocess.run(
                    command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]
                )
                runs[side].append(json.loads(done.stdout.splitlines()[-1]))
        ours, peer = np.load(folder / "ours.npy"), np.load(folder / "peer.npy")
    same = float((ours == peer).all(axis=1).mean())
    overlap = float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(ours, peer, strict=True)]))
    agreement = f"{100 * same:.2f} % of lists identical in order, {100 * overlap:.3f} % of negatives shared"
    title = f"mine {num_queries // 1000}k queries x {num_docs // 1000}k documents, top {_NUM_NEGATIVES}"
    middle = {
        side: {key: statistics.median(run[key] for run in found) for key in ("seconds", "peak_mb")}
        for side, found in runs.items()
    }
    speed = statistics.median(p["seconds"] / o["seconds"] for o, p in zip(runs["ours"], runs["peer"], strict=True))
    memory = middle["peer"]["peak_mb"] / middle["ours"]["peak_mb"]
    return [
        Row(title, middle["ours"]["seconds"], middle["peer"]["seconds"], speed, 1.5, "s", agreement),
        Row(
            f"peak memory: {title}",
            middle["ours"]["peak_mb"],
            middle["peer"]["peak_mb"],
            memory,
            1 / 0.3,
            "MB above the start",
        ),
    ]


def _save_for_both(folder: Path, documents: np.ndarray, queries: np.ndarray, positives: np.ndarray) -> None:
    """The same vectors in our embedding store and in the peer's cache."""
    from distill_assets.records import hash_text
    from distill_assets.storage.embeddings import EmbeddingStore

    store = EmbeddingStore(folder / "embeddings")
    store.append("document", [hash_text(text) for text in _texts("document", len(documents))], documents)
    store.append("query", [hash_text(text) for text in _texts("query", len(queries))], queries)
    np.save(folder / "positives.npy", positives)
    (folder / "cache").mkdir()
    for kind, texts, vectors in (
        ("query", _texts("query", len(queries)), queries),
        ("corpus", _texts("document", len(documents)), documents),
    ):
        key = hashlib.sha256(repr((_peer_model_name(), None, None, texts)).encode()).hexdigest()
        np.save(folder / "cache" / f"{kind}_embeddings_{key}.npy", vectors)
    (folder / "sizes.json").write_text(json.dumps([len(documents), len(queries)]), encoding="utf-8")


def _texts(kind: str, count: int) -> list[str]:
    return [f"{kind} {number:07d}" for number in range(count)]


def _peer_model() -> Any:
    """The peer asks a model for its name, its similarity and its dimension; vectors come from its cache."""
    from sentence_transformers import SentenceTransformer

    from distill_assets.models.catalog import packaged_encoder

    return SentenceTransformer(str(packaged_encoder()), device="cpu", local_files_only=True)


def _peer_model_name() -> str:
    return _peer_model().model_card_data.base_model or ""


def _mine_ours(folder: Path, num_docs: int, num_queries: int) -> Callable[[], list[list[int]]]:
    import torch  # noqa: F401 (before the clock starts, as the peer's process imports it)

    from distill_assets.records import hash_text
    from distill_assets.retrieval.dense import search_dense
    from distill_assets.storage.embeddings import EmbeddingStore

    documents, queries = _texts("document", num_docs), _texts("query", num_queries)
    positives = np.load(folder / "positives.npy").tolist()

    def mine() -> list[list[int]]:
        store = EmbeddingStore(folder / "embeddings")
        vectors = store.view("query", [hash_text(text) for text in queries])[:]
        stored = store.view("document", [hash_text(text) for text in documents])
        found = search_dense(vectors, stored, documents, k=_NUM_NEGATIVES + 1)
        return [
            [row for row in ranking if row != positive][:_NUM_NEGATIVES]
            for ranking, positive in zip(found.rows.tolist(), positives, strict=True)
        ]

    return mine


def _mine_peer(folder: Path, num_docs: int, num_queries: int) -> Callable[[], list[list[int]]]:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    corpus, queries = _texts("document", num_docs), _texts("query", num_queries)
    positives = np.load(folder / "positives.npy").tolist()
    pairs = Dataset.from_dict({"query": queries, "positive": [corpus[row] for row in positives]})
    model = _peer_model()

    def mine() -> list[list[int]]:
        # n-tuple is its fastest format: triplets take it twice as long for the same negatives.
        found = mine_hard_negatives(
            pairs,
            model,
            corpus=corpus,
            num_negatives=_NUM_NEGATIVES,
            output_format="n-tuple",
            cache_folder=str(folder / "cache"),
            verbose=False,
        )
        columns = [found[f"negative_{i}"] for i in range(1, _NUM_NEGATIVES + 1)]
        return [[int(text.split()[1]) for text in negatives] for negatives in zip(*columns, strict=True)]

    return mine


def _worker(side: str, folder: Path) -> None:
    sizes = json.loads((folder / "sizes.json").read_text(encoding="utf-8"))
    mine = (_mine_ours if side == "ours" else _mine_peer)(folder, *sizes)
    reset_peak_rss()
    before, started = rss_mb(), time.perf_counter()
    negatives = mine()
    result = {"seconds": time.perf_counter() - started, "peak_mb": peak_rss_mb() - before}
    np.save(folder / f"{side}.npy", np.array(negatives))
    sys.stdout.write(f"\n{json.dumps(result)}\n")


def _collection(options: Options) -> tuple[list[str], list[str], list[tuple[str, str]], dict[str, dict[str, int]]]:
    """doc_ids, contents, (query_id, text) of judged queries, qrels: of a BEIR folder or of the packages numpy and pandas."""
    from distill_assets.sources.beir import BeirSource
    from distill_assets.sources.python_api import PythonApiSource

    source = BeirSource(options.data) if options.data else PythonApiSource(("numpy", "pandas"))
    read = [source.read(batch) for batch in source.batches()]
    documents = {d.doc_id: d.content for part in read for d in part.documents}
    qrels: dict[str, dict[str, int]] = {}
    for qrel in (qrel for part in read for qrel in part.qrels if qrel.relevance > 0):
        qrels.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    queries = [
        (q.query_id, q.text) for part in read for q in part.queries if q.query_id in qrels and q.split != "train"
    ]
    return list(documents), list(documents.values()), queries, qrels


def _encoding_rows(options: Options) -> list[Row]:
    from distill_assets.evaluation.metrics import evaluate_run, mean_of
    from distill_assets.models.catalog import packaged_encoder
    from distill_assets.models.encoders import encode_texts, has_fast_bf16, load_student
    from distill_assets.retrieval.dense import search_dense

    doc_ids, contents, queries, qrels = _collection(options)
    sample = contents[:: max(1, len(contents) // (64 if options.quick else 512))]
    precision: Precision = "bf16" if has_fast_bf16(options.device) else "fp32"
    exact = load_student(packaged_encoder(), device=options.device)
    fast = load_student(packaged_encoder(), device=options.device, precision=precision)
    sides = {
        "ours": lambda: encode_texts(fast, sample, "document"),
        "peer": lambda: exact.encode(sample, normalize_embeddings=True, show_progress_bar=False),
    }
    for model in (exact, fast):
        encode_texts(model, sample[:8], "document")
    timed = alternate(sides, options.repeats)
    cosine = (timed.results["ours"] * timed.results["peer"]).sum(axis=1)
    ndcg = {}
    chosen = queries[: 50 if options.quick else 1000]
    judged = {query_id: qrels[query_id] for query_id, _ in chosen}
    for name, model in (("fp32", exact), (precision, fast)):
        vectors = encode_texts(model, [text for _, text in chosen], "query")
        found = search_dense(vectors, encode_texts(model, contents, "document"), doc_ids, k=10).rankings(doc_ids)
        run = {query_id: ranking for (query_id, _), ranking in zip(chosen, found, strict=True)}
        ndcg[name] = mean_of(evaluate_run(run, judged), "ndcg_at_10")
    agreement = f"cosine with fp32 at least {cosine.min():.5f}; nDCG@10 of {len(chosen)} queries: "
    agreement += ", ".join(f"{name} {value:.4f}" for name, value in ndcg.items())
    speeds = {side: len(sample) / timed.median(side) for side in sides}
    title = f"encode {len(sample)} documents of {options.data.name if options.data else 'python_api'}, {precision}"
    return [Row(title, speeds["ours"], speeds["peer"], timed.ratio("ours", "peer"), None, "documents/s", agreement)]


def _latency_rows(options: Options) -> list[Row]:
    """One query at a time: the student encodes and searches everything; the teacher scores 100 documents."""
    from distill_assets.models.catalog import packaged_encoder
    from distill_assets.models.encoders import encode_texts, has_fast_bf16, load_student
    from distill_assets.retrieval.dense import search_dense

    doc_ids, contents, queries, _ = _collection(options)
    precision: Precision = "bf16" if has_fast_bf16(options.device) else "fp32"
    student = load_student(packaged_encoder(), device=options.device, precision=precision)
    teacher = _teacher(options)
    limit = 1000 if options.quick else 5000
    contents, doc_ids = contents[:limit], doc_ids[:limit]
    documents = encode_texts(student, contents, "document")
    texts = [text for _, text in queries[:40]]

    def search(text: str) -> list[list[tuple[str, float]]]:
        return search_dense(encode_texts(student, [text], "query"), documents, doc_ids, k=100).rankings(doc_ids)

    content_of = dict(zip(doc_ids, contents, strict=True))
    by_student = _times_ms(search, texts)
    pairs = {text: [(text, content_of[d]) for d, _ in search(text)[0]] for text in texts[: 3 if options.quick else 12]}
    by_teacher = _times_ms(lambda text: teacher.predict(pairs[text], show_progress_bar=False), list(pairs))
    return [
        Row(
            f"one query, {name}: student over {len(doc_ids)} documents, teacher over 100",
            float(np.percentile(by_student, q)),
            float(np.percentile(by_teacher, q)),
            float(np.percentile(by_teacher, q) / np.percentile(by_student, q)),
            100.0,
            "ms",
            f"{len(by_student)} and {len(by_teacher)} queries; CrossEncoder.predict at its defaults",
        )
        for name, q in (("p50", 50), ("p95", 95))
    ]


def _times_ms(work: Callable[[str], object], texts: list[str]) -> list[float]:
    work(texts[0])
    times = []
    for text in texts:
        started = time.perf_counter()
        work(text)
        times.append(1000 * (time.perf_counter() - started))
    return times


def _teacher(options: Options) -> Any:
    """The cross-encoder that `options` names, else the bundled one."""
    from distill_assets.models.adapters import load_adapted_teacher
    from distill_assets.models.catalog import BUNDLED_TEACHER, CROSS_ENCODER_FOLDER, fold_folder, packaged_encoder
    from distill_assets.models.encoders import load_teacher

    if options.model is not None:
        return load_teacher(options.model, device=options.device)
    return load_adapted_teacher(
        packaged_encoder(),
        fold_folder(BUNDLED_TEACHER, 0) / CROSS_ENCODER_FOLDER,
        device=options.device,
        max_length=128,
    )


def _growth_row(options: Options) -> Row:
    """Seconds and peak memory of exact search by number of documents; memory is that above the vectors."""
    from distill_assets.retrieval.dense import search_dense

    num_queries = 1000
    lines = [
        "| documents | 1,000 queries, top 100 (s) | one query, top 10 (ms) | peak memory (MB) |",
        "|---|---|---|---|",
    ]
    seconds = 0.0
    for num_docs in (10_000, 100_000) if options.quick else (10_000, 100_000, 1_000_000):
        documents, queries, _ = make_vectors(num_docs, num_queries)
        doc_ids = [f"{number:07d}" for number in range(num_docs)]
        reset_peak_rss()
        before, started = rss_mb(), time.perf_counter()
        search_dense(queries, documents, doc_ids, k=_NUM_NEGATIVES)
        seconds = time.perf_counter() - started
        peak = peak_rss_mb() - before
        one = statistics.median(
            _times_ms(lambda n: search_dense(queries[int(n)][None], documents, doc_ids, k=10), list("0123456"))  # noqa: B023
        )
        lines.append(f"| {num_docs:,} | {seconds:.2f} | {one:.1f} | {peak:.0f} |")
    return Row("growth of exact dense search", seconds, None, None, None, "s", detail="\n".join(lines))


if __name__ == "__main__":
    _worker(sys.argv[1], Path(sys.argv[2]))
