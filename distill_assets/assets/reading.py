"""From the warehouse and the stores to the values that core works on: documents, queries, judgements, ranked results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill_assets.assets.inputs import data_versions
from distill_assets.core.dense_search import Blocks, FoundRows, VectorRows, search_dense_rows
from distill_assets.core.errors import SourceError, TrainingError
from distill_assets.core.groups import DevGroup, Labels, build_dev_groups
from distill_assets.core.records import Document, Query, hash_text
from distill_assets.core.retrieval import Run, without_own
from distill_assets.resources import Project

Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Corpus:
    """All documents of the current batches, sorted by id. `contents` is what encoders read."""

    doc_ids: list[str]
    contents: list[str]
    version: str

    @property
    def content_of(self) -> dict[str, str]:
        """doc_id -> content."""
        return dict(zip(self.doc_ids, self.contents, strict=True))


def read_corpus(project: Project, batches: Sequence[str] | None = None) -> Corpus:
    """Documents of the given batches; by default of every batch of the collection.

    A document id that several batches bring stands for the document of the last of them in the order of their names: a batch
    named after its day replaces what earlier ones brought.

    Raises:
        MissingPartitionError: a batch's corpus is not materialised.
        SourceError: there is no document at all.
    """
    chosen = project.batches() if batches is None else list(batches)
    return _read_corpus(project, tuple(chosen), data_versions(project, "corpus", chosen))


_corpus_cache: dict[tuple[Path, str], Corpus] = {}


def _read_corpus(project: Project, batches: tuple[str, ...], version: str) -> Corpus:
    key = (project.folder, version)
    if key not in _corpus_cache:
        rows = project.warehouse.read("corpus", slice_keys=batches, columns=["doc_id", "title", "text"]).to_pylist()
        # Ordered by batch, then id: of several rows of an id the last one stays.
        latest = {row["doc_id"]: Document(**row) for row in rows}
        documents = [latest[doc_id] for doc_id in sorted(latest)]
        if not documents:
            raise SourceError(
                f"the batches {', '.join(batches) or '(none)'} bring no document: there is nothing to search"
            )
        _corpus_cache.clear()  # one corpus at a time: memory stays that of the largest
        _corpus_cache[key] = Corpus([d.doc_id for d in documents], [d.content for d in documents], version)
    return _corpus_cache[key]


def read_queries(
    project: Project, batches: Sequence[str] | None = None, splits: Sequence[str] = ("train", "dev", "test")
) -> list[Query]:
    """Queries of the given batches (all by default) and splits, sorted by id.

    A query id that several batches bring belongs to the last of them in the order of their names, text and split included.
    """
    everything = project.batches()
    rows = project.warehouse.read("queries", slice_keys=everything, columns=["batch", "query_id", "text", "split"])
    latest = {row["query_id"]: row for row in rows.to_pylist()}  # ordered by batch, then id
    wanted = set(everything if batches is None else batches)
    found = [row for row in latest.values() if row["batch"] in wanted and row["split"] in splits]
    return sorted((Query(row["query_id"], row["text"], row["split"]) for row in found), key=lambda q: q.query_id)


def read_qrels(project: Project, batches: Sequence[str] | None = None) -> Qrels:
    """Judgements with a relevance above 0, of documents that exist: query_id -> doc_id -> relevance."""
    known = set(read_corpus(project).doc_ids)
    found: Qrels = {}
    keys = list(batches) if batches is not None else project.batches()
    for row in project.warehouse.read(
        "qrels", slice_keys=keys, columns=["query_id", "doc_id", "relevance"]
    ).to_pylist():
        if row["relevance"] > 0 and row["doc_id"] in known:
            found.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    return found


def choose_queries(queries: Sequence[Query], qrels: Qrels, limit: int | None) -> list[Query]:
    """Judged queries, at most `limit` of them chosen by hash of their id, so that a larger limit only adds; sorted by id."""
    judged = sorted((q for q in queries if q.query_id in qrels), key=lambda q: hash_text(q.query_id))
    return sorted(judged[:limit], key=lambda q: q.query_id)


def choose_train_queries(project: Project, queries: Sequence[Query], qrels: Qrels) -> list[Query]:
    """The train queries of one batch that are mined and scored, at most `train_queries`; sorted by id.

    Judged ones first, so that no other is lost for the others' sake; without a judgement only where a recipe takes the teacher's
    first candidate as positive.
    """
    limit = project.settings.train_queries
    judged = choose_queries(queries, qrels, limit)
    if not project.settings.reads_unjudged_queries:
        return judged
    others = sorted((q for q in queries if q.query_id not in qrels), key=lambda q: hash_text(q.query_id))
    chosen = others if limit is None else others[: limit - len(judged)]
    return sorted([*judged, *chosen], key=lambda q: q.query_id)


def search_bm25(project: Project, queries: Sequence[Query], k: int) -> Run:
    """Top k by BM25 over all documents; the index comes from the cache of this corpus."""
    return without_own(queries, bm25_rows(project, queries, k).rankings(read_corpus(project).doc_ids))


def search_student(project: Project, path: Path, queries: Sequence[Query], k: int) -> Run:
    """Exact top k by cosine over all documents, with the bi-encoder at `path`; known embeddings are not computed again."""
    return without_own(queries, student_rows(project, path, queries, k).rankings(read_corpus(project).doc_ids))


def bm25_rows(project: Project, queries: Sequence[Query], k: int) -> FoundRows:
    """`search_bm25` as positions in the corpus, a query's own document not yet left out."""
    corpus = read_corpus(project)
    index = project.lexical.load_or_build(corpus.version, corpus.doc_ids, corpus.contents)
    return index.search_rows([q.text for q in queries], k)


def student_rows(project: Project, path: Path, queries: Sequence[Query], k: int) -> FoundRows:
    """`search_student` as positions in the corpus, a query's own document not yet left out."""
    corpus = read_corpus(project)
    documents, _ = project.embedded(path, corpus.contents, "document")
    return vector_rows(project, path, queries, corpus.doc_ids, documents, k)


def search_vectors(
    project: Project, path: Path, queries: Sequence[Query], doc_ids: Sequence[str], documents: VectorRows, k: int
) -> Run:
    """Exact top k among document vectors at hand."""
    return without_own(queries, vector_rows(project, path, queries, doc_ids, documents, k).rankings(doc_ids))


def vector_rows(
    project: Project, path: Path, queries: Sequence[Query], doc_ids: Sequence[str], documents: VectorRows, k: int
) -> FoundRows:
    """`search_vectors` as positions among the documents."""
    vectors, _ = project.embed(path, [q.text for q in queries], "query")
    if not queries:  # the store knows no dimension before its first vector
        return FoundRows(np.empty((0, k), np.int64), np.empty((0, k), np.float32))
    blocks = Blocks.within(project.settings.search_memory_mb, dimension=vectors.shape[1], k=k)
    return search_dense_rows(vectors, documents, doc_ids, k=k, blocks=blocks, precision=project.search_precision)


def checkpoint_path(project: Project, name: str) -> Path:
    """Folder of the teacher or of a recipe's student, from its row in the warehouse."""
    return Path(project.warehouse.read("checkpoints", slice_keys=[name], columns=["path"]).column("path")[0].as_py())


def read_labels(project: Project) -> Labels:
    """Positives and mined negatives of every batch, with the texts they stand for.

    Negatives that have left the corpus since they were mined are left out.
    """
    negatives: dict[str, list[str]] = {}
    content_of = read_corpus(project).content_of
    table = project.warehouse.read(
        "hard_negatives", slice_keys=project.batches(), columns=["query_id", "doc_id", "rank"]
    )
    for row in sorted(table.to_pylist(), key=lambda r: (r["query_id"], r["rank"])):
        if row["doc_id"] in content_of:
            negatives.setdefault(row["query_id"], []).append(row["doc_id"])
    positives = {query_id: sorted(judged) for query_id, judged in read_qrels(project).items()}
    return Labels(positives, negatives, content_of)


def read_logits(project: Project) -> dict[tuple[str, str], float]:
    """Raw teacher logits of every batch: (query_id, doc_id) -> logit."""
    table = project.warehouse.read(
        "teacher_scores", slice_keys=project.batches(), columns=["query_id", "doc_id", "teacher_logit"]
    )
    return {(row["query_id"], row["doc_id"]): row["teacher_logit"] for row in table.to_pylist()}


def read_dev_groups(project: Project, labels: Labels) -> list[DevGroup]:
    """At most `step_queries` judged dev queries with their candidates; none where no dev query has mined negatives."""
    queries = [q for q in read_queries(project, splits=("dev",)) if q.query_id in labels.positives]
    chosen = sorted(queries, key=lambda q: hash_text(q.query_id))[: project.settings.step_queries]
    return build_dev_groups(chosen, labels)


def read_step_groups(project: Project, labels: Labels) -> list[DevGroup]:
    """The dev queries that judge training steps, with their candidates. Raises `TrainingError` when there is none."""
    groups = read_dev_groups(project, labels)
    if not groups:
        judged = [q for q in read_queries(project, splits=("dev",)) if q.query_id in labels.positives]
        raise TrainingError(
            f"no dev query with mined negatives among {len(judged)} judged dev queries: a step can only be chosen on dev; "
            "add dev queries (qrels/dev.tsv) or more queries to split"
        )
    return groups


def read_train_queries(project: Project) -> list[Query]:
    """All judged train queries, sorted by id. Raises `TrainingError` when there is none."""
    qrels = read_qrels(project)
    found = [q for q in read_queries(project, splits=("train",)) if q.query_id in qrels]
    if not found:
        raise TrainingError(
            "no train query has a judgement: nothing can be learned; give qrels/train.tsv, or one qrels file of more queries, "
            "which is then split 80/10/10"
        )
    return found
