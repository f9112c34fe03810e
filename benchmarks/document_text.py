"""What a `python_api` document should say: nDCG@10 and cost by number of body words, before any training.

    python benchmarks/document_text.py [--packages numpy pandas] [--body-words 0 20]

Prints one line per length: BM25, untouched student, their reciprocal-rank fusion, recall@30 of the fusion (what a teacher
that reranks it cannot exceed), tokens per document and documents encoded per second.
"""

import argparse
import time

import numpy as np

from distill_assets.evaluation.metrics import evaluate_run, mean_of
from distill_assets.models.catalog import packaged_encoder
from distill_assets.models.encoders import encode_texts, load_student, pick_device
from distill_assets.records import Query
from distill_assets.retrieval.bm25 import LexicalCache
from distill_assets.retrieval.dense import search_dense
from distill_assets.retrieval.rankings import fuse_reciprocal_rank
from distill_assets.sources.python_api import PythonApiSource

Ranked = dict[str, list[tuple[str, float]]]


def main() -> None:
    """Measure each length in turn and print its line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", nargs="+", default=["numpy", "pandas", "scipy", "sklearn"])
    parser.add_argument("--body-words", nargs="+", type=int, default=[0, 20])
    arguments = parser.parse_args()
    for body_words in arguments.body_words:
        measure(tuple(arguments.packages), body_words)


def measure(packages: tuple[str, ...], body_words: int) -> None:
    """Search the test queries with three untrained systems and print their figures."""
    import tempfile
    from pathlib import Path

    source = PythonApiSource(packages, body_words=body_words)
    collections = [source.read(batch) for batch in source.batches()]
    documents = sorted((d for c in collections for d in c.documents), key=lambda d: d.doc_id)
    queries = [q for c in collections for q in c.queries if q.split == "test"]
    qrels: dict[str, dict[str, int]] = {}
    for qrel in (q for c in collections for q in c.qrels):
        qrels.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    judged = {query.query_id: qrels[query.query_id] for query in queries}
    doc_ids, contents = [d.doc_id for d in documents], [d.content for d in documents]

    model = load_student(packaged_encoder(), device=pick_device("auto"), max_length=128)
    num_tokens = np.mean([len(ids) for ids in model.tokenizer(contents, truncation=True, max_length=128)["input_ids"]])
    started = time.perf_counter()
    vectors = encode_texts(model, contents, "document")
    seconds = time.perf_counter() - started
    query_vectors = encode_texts(model, [q.text for q in queries], "query")
    found = search_dense(query_vectors, vectors, doc_ids, k=100).rankings(doc_ids)
    dense = dict(zip((q.query_id for q in queries), found, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        index = LexicalCache(Path(folder)).load_or_build("benchmark", doc_ids, contents)
        bm25 = dict(zip((q.query_id for q in queries), index.search([q.text for q in queries], 100), strict=True))
    fused = {key: fuse_reciprocal_rank([[d for d, _ in run[key]] for run in (dense, bm25)]) for key in dense}
    quality = {
        name: mean_of(evaluate_run(run, judged), "ndcg_at_10") for name, run in _named(bm25, dense, fused).items()
    }
    print(
        f"body_words {body_words:3}  documents {len(documents):,}  queries {len(queries)}  tokens/document {num_tokens:.0f}  "
        + "  ".join(f"{name} {value:.3f}" for name, value in quality.items())
        + f"  fused recall@30 {_recall(fused, judged, queries, 30):.3f}  {len(documents) / seconds:.0f} documents/s"
    )


def _named(bm25: Ranked, dense: Ranked, fused: Ranked) -> dict[str, Ranked]:
    return {"bm25": bm25, "untouched_student": dense, "fused": fused}


def _recall(run: Ranked, judged: dict[str, dict[str, int]], queries: list[Query], depth: int) -> float:
    shares = [
        len({d for d, _ in run[q.query_id][:depth]} & set(judged[q.query_id])) / len(judged[q.query_id])
        for q in queries
    ]
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
