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


def search(project: Project, text: str, k: int) -> tuple[str, list[Hit]]:
    """The champion's name and its top `k` documents for a query.

    Raises:
        PromotionError: there is no champion yet.
    """
    row = current_champion(project) if project.warehouse.exists() else None
    if row is None:
        raise PromotionError("there is no champion to search with: run distill-assets run first")
    corpus, path = read_corpus(project), Path(row["checkpoint_path"])
    documents, _ = project.embed(path, corpus.contents, "document")
    run = search_vectors(project, path, [Query("", text, "test")], corpus.doc_ids, documents, k)
    content_of = corpus.content_of
    hits = [Hit(i, doc_id, score, content_of[doc_id]) for i, (doc_id, score) in enumerate(run[""], start=1)]
    return row["recipe"], hits
