"""Searching with the champion: what a user of the student gets."""

from dataclasses import dataclass
from pathlib import Path

from distill_assets.errors import PromotionError
from distill_assets.handles.collection import COLLECTION_TABLES
from distill_assets.handles.project import Project
from distill_assets.handles.retrieval import Corpus, search_documents, search_vectors
from distill_assets.report.publishing import current_champion
from distill_assets.retrieval.rankings import Ranking
from distill_assets.storage.collection import Collection
from distill_assets.storage.warehouse import slices_in


@dataclass(frozen=True, slots=True)
class Hit:
    """One found document; `student_score` is the cosine. Of one that was cut `text` is its best passage, of the id `passage_id`."""

    rank: int
    doc_id: str
    student_score: float
    text: str
    passage_id: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave: the champion's recipe, its hits, and the batches not searched: not materialised, or refused."""

    champion: str
    hits: list[Hit]
    missing_batches: list[str]


def search(project: Project, text: str, k: int) -> Found:
    """The champion's top `k` documents for a query, among all batches that are materialised now. Writes nothing.

    Raises:
        PromotionError: there is no champion yet.
        SourceError: no batch is materialised.
    """
    row = current_champion(project) if project.places.warehouse.exists() else None
    if row is None:
        name = project.settings.collection
        raise PromotionError(
            f"there is no champion of {name!r}: run distill-assets run first, or name another --collection"
        )
    # Search serves what is there: a batch that has only just landed, or that a check refused, must not take the others down.
    # Queries that a check refused say nothing about the batch's documents.
    wanted = project.collection.source.batches()
    with project.places.warehouse.reading() as connection:
        connection.begin()
        slices = slices_in(connection)
        there = {batch for batch in wanted if all((table, batch) in slices for table in COLLECTION_TABLES)}
        batches = [batch for batch in wanted if batch in there and slices["corpus", batch].input_fingerprint]
        collection = Collection(connection, tuple(batches), ())
        corpus = Corpus(*collection.documents(), version="search", parent_of=collection.parents())
    path, vectors = Path(row["checkpoint_path"]), project.vectors
    documents = vectors.look_up(path, corpus.contents, "document")
    query = vectors.look_up(path, [text], "query")

    def find(_: object, depth: int) -> list[Ranking]:
        return search_vectors(vectors, query, documents, corpus.doc_ids, depth).rankings(corpus.doc_ids)

    content_of, parent_of, [ranking] = corpus.content_of, corpus.parent_of, search_documents(corpus, [text], k, 1, find)
    hits = [
        Hit(rank, parent_of.get(found, found), score, content_of[found], found)
        for rank, (found, score) in enumerate(ranking, start=1)
    ]
    return Found(row["recipe"], hits, [batch for batch in wanted if batch not in batches])
