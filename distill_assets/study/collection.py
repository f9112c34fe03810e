"""The collection of a study: a source read whole, and its first stage."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from distill_assets.core.dense_search import search_dense
from distill_assets.core.errors import SourceError
from distill_assets.core.mining import MiningRules, mine_hard_negatives
from distill_assets.core.records import SPLITS, Document, Query, Split, fingerprint, fingerprint_rows
from distill_assets.core.retrieval import Run, without_own
from distill_assets.sources.base import Source
from distill_assets.storage.lexical import LexicalCache, LexicalIndex

DEPTH = 100  # recall@100 is the deepest metric


@dataclass(frozen=True)
class StudyCollection:
    """Documents, judged queries by split, judgements with a relevance above 0."""

    name: str
    documents: Mapping[str, Document]
    queries: Mapping[Split, Sequence[Query]]
    qrels: Mapping[str, Mapping[str, int]]

    @cached_property
    def doc_ids(self) -> list[str]:
        """All ids, sorted."""
        return sorted(self.documents)

    @cached_property
    def content_of(self) -> dict[str, str]:
        """doc_id -> what encoders read."""
        return {doc_id: self.documents[doc_id].content for doc_id in self.doc_ids}

    @cached_property
    def fingerprint(self) -> str:
        """Changes when any document, query or judgement does."""
        queries = [(q.query_id, q.text, q.split) for split in SPLITS for q in self.queries[split]]
        judged = [(q, d, r) for q, found in self.qrels.items() for d, r in found.items()]
        return fingerprint(*(fingerprint_rows(rows) for rows in (self.content_of.items(), queries, judged)))

    def judgements(self, split: Split) -> dict[str, dict[str, int]]:
        """Judgements of the split's queries."""
        return {q.query_id: dict(self.qrels[q.query_id]) for q in self.queries[split]}


def read_study_collection(source: Source) -> StudyCollection:
    """Every batch of a source as one collection; of an id that several batches bring, the last batch by name wins.

    Raises:
        SourceError: a split has no judged query.
    """
    documents: dict[str, Document] = {}
    queries: dict[str, Query] = {}
    qrels: dict[str, dict[str, int]] = {}
    for batch in source.batches():
        found = source.read(batch)
        documents |= {document.doc_id: document for document in found.documents}
        queries |= {query.query_id: query for query in found.queries}
        for qrel in found.qrels:
            if qrel.relevance > 0:
                qrels.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    judged = [q for _, q in sorted(queries.items()) if q.query_id in qrels]
    by_split = {split: [q for q in judged if q.split == split] for split in SPLITS}
    empty = [split for split in SPLITS if not by_split[split]]
    if empty:
        raise SourceError(f"{source.name} has no judged query in {', '.join(empty)}: a study needs all three splits")
    return StudyCollection(source.name, documents, by_split, qrels)


def write_beir(collection: StudyCollection, folder: Path) -> None:
    """Write the collection as a BEIR folder with its splits, to take it to another machine."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for doc_id in collection.doc_ids:
            document = collection.documents[doc_id]
            file.write(json.dumps({"_id": doc_id, "title": document.title, "text": document.text}) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as file:
        for split in SPLITS:
            for query in collection.queries[split]:
                file.write(json.dumps({"_id": query.query_id, "text": query.text}) + "\n")
    for split in SPLITS:
        rows = [f"{q}\t{d}\t{r}" for q, found in collection.judgements(split).items() for d, r in found.items()]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n", "utf-8")


class FirstStage:
    """BM25 and one encoder's vectors over all documents of a collection."""

    def __init__(self, collection: StudyCollection, doc_vectors: np.ndarray, cache_folder: Path) -> None:
        self.collection = collection
        self.doc_vectors = doc_vectors  # float32 (num_docs, dimension), rows in the order of doc_ids
        cache = LexicalCache(cache_folder)
        self.lexical: LexicalIndex = cache.load_or_build(
            collection.fingerprint, collection.doc_ids, collection.content_of.values()
        )

    def search_bm25(self, queries: Sequence[Query], k: int = DEPTH) -> Run:
        """Top k by BM25, the query's own document left out."""
        return without_own(queries, self.lexical.search([q.text for q in queries], k))

    def search_dense(self, queries: Sequence[Query], query_vectors: np.ndarray, k: int = DEPTH) -> Run:
        """Top k by cosine, exact, the query's own document left out."""
        return search_all(self.collection, queries, query_vectors, self.doc_vectors, k)

    def mine(
        self,
        queries: Sequence[Query],
        query_vectors: np.ndarray,
        num_negatives: int,
        positives: Mapping[str, Sequence[str]],
        *,
        with_bm25: bool = True,
    ) -> dict[str, list[str]]:
        """Hard negatives by the rules of the asset `hard_negatives`: fused, known positives and their near twins removed."""
        bm25: Run = self.search_bm25(queries, num_negatives) if with_bm25 else {q.query_id: [] for q in queries}
        dense = self.search_dense(queries, query_vectors, num_negatives)
        rules = MiningRules(num_negatives=num_negatives)
        content_of = self.collection.content_of
        return {
            q.query_id: [
                candidate.doc_id
                for candidate in mine_hard_negatives(
                    q.query_id,
                    [d for d, _ in bm25[q.query_id]],
                    [d for d, _ in dense[q.query_id]],
                    positives=set(positives.get(q.query_id, ())),
                    texts=content_of,
                    rules=rules,
                )
            ]
            for q in queries
        }


def search_all(
    collection: StudyCollection,
    queries: Sequence[Query],
    query_vectors: np.ndarray,
    doc_vectors: np.ndarray,
    k: int = DEPTH,
) -> Run:
    """Top k by cosine over all documents (rows in the order of `doc_ids`), exact, the query's own document left out."""
    return without_own(queries, search_dense(query_vectors, doc_vectors, collection.doc_ids, k=k))
