"""What passages are worth: articles searched by their first tokens, and by their best passage, before any training."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from distill_assets.evaluation.metrics import evaluate_run, mean_of
from distill_assets.handles.models import Models
from distill_assets.handles.retrieval import Corpus, Search, search_documents
from distill_assets.models.encoders import encode_texts
from distill_assets.records import Document
from distill_assets.retrieval.bm25 import LexicalCache
from distill_assets.retrieval.dense import search_dense
from distill_assets.retrieval.passages import cut_documents, documents_of
from distill_assets.settings.values import read_settings

_DEPTH, _TOP = 100, 10
_CHUNK = re.compile(r"(?P<article>[^-]+)-.*")  # ids of a collection of chunks: ARTICLE-PARAGRAPH-CHUNK
_LINE = "{system:22} {passages:8,} {ndcg:8.4f} {recall_10:9.4f} {recall_100:10.4f}"


def compare_lengths(folder: Path, lengths: Sequence[int]) -> Iterator[str]:
    """Lines of a table: BM25 and the untouched student on whole articles, and on passages of each length.

    `folder` is a BEIR folder of chunks with ids ARTICLE-PARAGRAPH-CHUNK and without overlap; they are joined to articles again.
    """
    articles, queries, qrels = _read_articles(folder)
    yield f"{len(articles):,} articles, {len(queries):,} queries"
    yield f"{'system':22} {'passages':>8} {'nDCG@10':>8} {'recall@10':>9} {'recall@100':>10}"
    models = Models(read_settings().settings)
    student = models.load_student(models.student_path)
    asked, texts = encode_texts(student, list(queries.values()), "query"), list(queries.values())
    for length in (None, *lengths):
        corpus = _corpus(articles, models, length)
        vectors = encode_texts(student, corpus.contents, "document")
        for name, search in (("bm25", _lexical(corpus, texts)), ("untouched_student", _dense(corpus, asked, vectors))):
            found = search_documents(corpus, range(len(texts)), _DEPTH, 1, search)
            run = {q: documents_of(ranking, corpus.parent_of) for q, ranking in zip(queries, found, strict=True)}
            metrics = evaluate_run(run, qrels)
            shares = [len({d for d, _ in run[q][:_TOP]} & {*of}) / len(of) for q, of in qrels.items()]
            yield _LINE.format(
                system=f"{name}, {length or 'whole'}",
                passages=len(corpus.doc_ids),
                ndcg=mean_of(metrics, "ndcg_at_10"),
                recall_10=sum(shares) / len(shares),
                recall_100=mean_of(metrics, "recall_at_100"),
            )


def _corpus(articles: Sequence[Document], models: Models, length: int | None) -> Corpus:
    cut: list[tuple[Document, str | None]] = [(article, None) for article in articles]
    if length is not None:
        cut = list(cut_documents(articles, models.cutting(length, models.settings.passage_overlap)))
    cut.sort(key=lambda found: found[0].doc_id)
    parents = {document.doc_id: parent for document, parent in cut if parent is not None}
    return Corpus([d.doc_id for d, _ in cut], [d.content for d, _ in cut], "", parents)


def _lexical(corpus: Corpus, texts: Sequence[str]) -> Search[int]:
    with TemporaryDirectory() as cache:
        index = LexicalCache(Path(cache)).load_or_build("articles", corpus.doc_ids, corpus.contents)
    return lambda rows, depth: index.search([texts[row] for row in rows], depth)


def _dense(corpus: Corpus, asked: np.ndarray, vectors: np.ndarray) -> Search[int]:
    return lambda rows, depth: search_dense(asked[list(rows)], vectors, corpus.doc_ids, k=depth).rankings(
        corpus.doc_ids
    )


def _read_articles(folder: Path) -> tuple[list[Document], dict[str, str], dict[str, dict[str, int]]]:
    """Articles, the texts of judged queries by id, and judgements of articles."""
    texts: dict[str, list[str]] = {}
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts.setdefault(_article(row["_id"]), []).append(row["text"])
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query_id, doc_id, relevance = line.split("\t")
        qrels.setdefault(query_id, {})[_article(doc_id)] = int(relevance)
    rows = map(json.loads, (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines())
    queries = {row["_id"]: row["text"] for row in rows if row["_id"] in qrels}
    return [Document(article, "", " ".join(parts)) for article, parts in texts.items()], queries, qrels


def _article(doc_id: str) -> str:
    found = _CHUNK.fullmatch(doc_id)
    return found["article"] if found else doc_id
