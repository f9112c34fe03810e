"""Searching with the champion: what a user of the student gets."""

from dataclasses import dataclass
from pathlib import Path

from distill_assets.assets.publishing import current_champion
from distill_assets.assets.reading import read_corpus, search_vectors
from distill_assets.core.errors import PromotionError
from distill_assets.core.records import Query
from distill_assets.resources import Project


@dataclass(frozen=True, slots=True)
class Hit:
    """One found document; `student_score` is the cosine."""

    rank: int
    doc_id: str
    student_score: float
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave: the champion's recipe, its hits, and the batches not searched: not materialised, or refused."""

    champion: str
    hits: list[Hit]
    missing_batches: list[str]


def search(project: Project, text: str, k: int) -> Found:
    """The champion's top `k` documents for a query, among all batches that are materialised now.

    Raises:
        PromotionError: there is no champion yet.
        SourceError: no batch is materialised.
    """
    row = current_champion(project) if project.warehouse.exists() else None
    if row is None:
        raise PromotionError("there is no champion to search with: run distill-assets run first")
    # Search serves what is there: a batch that has only just landed, or that a check refused, must not take the others down.
    # Queries that a check refused say nothing about the batch's documents.
    wanted = project.source.batches()
    corpus_of, *others = (project.warehouse.slices(table) for table in ("corpus", "queries", "qrels"))
    whole = {b for b, info in corpus_of.items() if info.input_fingerprint and all(b in found for found in others)}
    batches = [batch for batch in wanted if batch in whole]
    corpus, path = read_corpus(project, batches), Path(row["checkpoint_path"])
    documents, _ = project.embedded(path, corpus.contents, "document")
    run = search_vectors(project, path, [Query("", text, "test")], corpus.doc_ids, documents, k)
    content_of = corpus.content_of
    hits = [Hit(i, doc_id, score, content_of[doc_id]) for i, (doc_id, score) in enumerate(run[""], start=1)]
    return Found(row["recipe"], hits, [batch for batch in wanted if batch not in batches])
