"""Group `negatives`: what search finds for train and dev queries."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

import pyarrow as pa

from distill_assets.assets.checks import Check
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.reads import Reads, nobody_judged_train, teacher_judges
from distill_assets.assets.reporting import markdown_table
from distill_assets.quality.verdicts import FoundPositives, Verdict, judge_positives_found
from distill_assets.records import Query, hash_text
from distill_assets.retrieval.mining import MiningRules, mine_hard_negatives, pool_candidates
from distill_assets.retrieval.passages import ANSWERS_PER_DOCUMENT, standing_for
from distill_assets.storage.tables import schema_of
from distill_assets.storage.warehouse import SliceWrite
from distill_assets.training.lists import Labels, choose_queries, choose_train_queries

# A long article must not fill the list of its query alone. As many as may be positives of one document.
_PASSAGES_PER_DOCUMENT = ANSWERS_PER_DOCUMENT
_JUDGED_QUERIES = 512  # queries whose answers are looked at: chosen by hash, so always the same


def hard_negatives(inputs: Inputs) -> Made:
    """Hard negatives of each train query with the judged answers that search finds; for each dev query all that search finds.

    Search: BM25 and the untouched student over all documents, fused. A dev query's candidates are those that the teacher would
    rerank, so nothing is left out of them and nothing is put in.
    """
    settings, judged, texts = inputs.settings, inputs.own_judgements, inputs.documents.content_of
    rules = MiningRules(num_negatives=settings.negatives_per_query, near_identical_jaccard=settings.near_identical)
    train = choose_own_train_queries(inputs)
    dev = _dev_queries(inputs)
    mined = []
    for query_id, bm25, dense in search_each(inputs, train, settings.mining_depth, _PASSAGES_PER_DOCUMENT):
        positives = set(judged.get(query_id, ()))
        rejected = standing_for(inputs.own_rejections.get(query_id, ()), [*dense, *bm25], inputs.parent_of, 1)
        wanted = rules if positives else replace(rules, num_negatives=rules.num_negatives + num_answers_to_come(inputs))
        found = mine_hard_negatives(bm25, dense, positives=positives, rejected=rejected, texts=texts, rules=wanted)
        mined += [(query_id, candidate) for candidate in found]
    for query_id, bm25, dense in search_each(inputs, dev, settings.pool_depth + 1, 1):
        mined += [(query_id, candidate) for candidate in pool_candidates(bm25, dense, settings.pool_depth)]
    records = [{"query_id": query_id, **asdict(candidate)} for query_id, candidate in mined]
    rows = pa.Table.from_pylist(records, schema=schema_of("hard_negatives"))
    verdict = _judge_positives(inputs, train, rows)
    # The check's figures, for the report; none where no query has an answer.
    figures = [dict(verdict.figures)] if verdict.figures["num_queries"] else []
    answers = pa.Table.from_pylist(figures, schema=schema_of("answers_found"))
    return Made(
        rows=rows,
        verdicts={"positives_found": verdict},
        metadata={"num_queries": len(train) + len(dev), "sample": markdown_table(records[:8])},
        beside=[SliceWrite(table="answers_found", rows=answers, slice_key=inputs.partition, is_empty_meant=True)],
    )


HARD_NEGATIVES = Asset(
    name="hard_negatives",
    # A new batch's documents make older batches' negatives aged, not stale: `run` mines them again, a retraining where it is told to.
    reads=Reads(
        inputs=(
            *("documents", "own_queries", "own_judgements", "own_rejections", "student", "tokeniser"),
            *("unjudged_train", "own_unjudged"),
        ),
        settings=(
            "train_queries",
            "reads_unjudged_queries",
            "mining_depth",
            "pool_depth",
            "negatives_per_query",
            "near_identical",
        ),
        as_of_making=("documents",),
        only_if={"unjudged_train": nobody_judged_train, "own_unjudged": teacher_judges},
    ),
    body=hard_negatives,
    table="hard_negatives",
    group="negatives",
    pool="encoder",
    kinds=frozenset({"python", "duckdb"}),
    code_version="5",
    when_red="Materialise `corpus` of every batch and check the setting `student`, then materialise this batch again.",
    checks=(
        Check(
            "positives_found",
            "Search finds at least half of the judged documents, and similarity tells them from hard negatives.",
            "Training can learn that documents unlike the query are right, and search gets worse by it. Recipes take their "
            "positives among those that search finds; the gate keeps the untouched student where that does not help. Read the "
            "sample: judgements of a whole topic are often such. A stronger student finds more of them.",
        ),
    ),
    by="batch",
    is_empty_meant=True,  # a batch that brings documents alone has no query to mine for
)


def choose_own_train_queries(inputs: Inputs) -> list[Query]:
    """The batch's train queries that are mined and scored."""
    reads_unjudged = inputs.settings.reads_unjudged_queries or "unjudged_train" in inputs.versions
    return choose_train_queries(
        inputs.own_queries, inputs.own_judgements, inputs.settings.train_queries, reads_unjudged=reads_unjudged
    )


def num_answers_to_come(inputs: Inputs) -> int:
    """How many candidates of a train query without an answer become its answer: the teacher's first, where people judged none."""
    return int("unjudged_train" in inputs.versions)


def _dev_queries(inputs: Inputs) -> list[Query]:
    """The batch's dev queries that are judged, by people or later by the teacher."""
    if "own_unjudged" in inputs.versions:
        return [query for query, _ in inputs.own_unjudged if query.split == "dev"]
    return choose_queries([q for q in inputs.own_queries if q.split == "dev"], inputs.own_judgements, None)


def search_each(
    inputs: Inputs, queries: Sequence[Query], depth: int, per_document: int
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each query's id with what BM25 and dense search find for it, best first: passages of `depth` documents."""
    bm25 = inputs.retrieval.bm25(queries, depth, per_document)
    dense = inputs.retrieval.dense(inputs.student_path, queries, depth, per_document)
    for query in queries:
        rankings = (found.get(query.query_id, []) for found in (bm25, dense))
        bm25_ids, dense_ids = ([doc_id for doc_id, _ in ranking] for ranking in rankings)
        yield query.query_id, bm25_ids, dense_ids


def _judge_positives(inputs: Inputs, queries: Sequence[Query], rows: pa.Table) -> Verdict:
    """Whether search finds what was judged, and whether similarity alone tells it from the hard negatives; on a fixed sample."""
    candidates: dict[str, list[str]] = {}
    for query_id, doc_id in zip(rows["query_id"].to_pylist(), rows["doc_id"].to_pylist(), strict=True):
        candidates.setdefault(query_id, []).append(doc_id)
    texts_of, parent_of = inputs.documents.content_of, inputs.parent_of
    labels = Labels(inputs.own_judgements, candidates, texts_of, inputs.min_relevance, parent_of)
    positives_of = {q.query_id: labels.best_of(q.query_id, labels.positives_of(q.query_id)) for q in queries}
    with_answers = (query for query in queries if positives_of[query.query_id])
    chosen = sorted(with_answers, key=lambda query: hash_text(query.query_id))[:_JUDGED_QUERIES]
    asked = [
        (query, doc_ids)
        for query in chosen
        for doc_ids in (positives_of[query.query_id], labels.negatives_of(query.query_id))
    ]
    texts = [(query.text, labels.content_of[doc_id]) for query, doc_ids in asked for doc_id in doc_ids]
    cosines = iter(inputs.project.vectors.cosines(inputs.student_path, texts).tolist())
    similar = [[next(cosines) for _ in doc_ids] for _, doc_ids in asked]  # positives and negatives in turn
    return judge_positives_found(
        [
            FoundPositives(
                query=query.text,
                num_found=len(labels.best_of(query.query_id, labels.found_of(query.query_id))),
                positives=positives,
                negatives=negatives,
            )
            for query, positives, negatives in zip(chosen, similar[::2], similar[1::2], strict=True)
        ]
    )
