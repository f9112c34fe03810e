"""Group `student`: which of several published models is worth a full training."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.reads import Reads
from distill_assets.assets.reporting import markdown_table
from distill_assets.assets.teacher_building import train_queries
from distill_assets.errors import TrainingError
from distill_assets.evaluation.metrics import DevList
from distill_assets.records import Query, fingerprint, hash_text
from distill_assets.storage.tables import schema_of
from distill_assets.training.lists import Epochs, Labels, build_dev_lists, build_student_epochs, choose_queries
from distill_assets.training.recipes import Recipe

TRIAL_DOCUMENTS = 2048  # that dev queries search among, beside what BM25 finds and what is judged
# Hard labels alone, because no teacher has been asked yet. BM25 alone finds the candidates: none of the students may choose them.
_TRIAL = Recipe(name="trial", loss="hard_labels", positives="human")


def student_choice(inputs: Inputs) -> Made:
    """The student that is distilled: each of `students` trains briefly on hard labels, and the best on dev is chosen.

    What a model is like as published says little of what it becomes: in the library's own trainings "-unsupervised" checkpoints won
    0.018 and 0.031 nDCG@10, and finished ones lost up to 0.008. The full training keeps a student as published where no step is
    better, so that value counts here, too. Of equals the first in the setting is chosen.
    """
    from distill_assets.training.trainer import TrainingRun, dev_texts, train_student

    models, store = inputs.project.models, inputs.project.places.checkpoints
    key = fingerprint(STUDENT_CHOICE.code_version, *sorted(inputs.versions.items()))
    epochs, lists = _trial_lists(inputs)
    num_documents = len(dev_texts(lists))
    rows: list[dict[str, Any]] = []
    for name, encoder_id in models.candidate_ids.items():
        started, work = time.perf_counter(), store.work_folder("student", "choice", key) / encoder_id
        model = models.load_student(models.resolve(name))
        found = train_student(model, epochs, lists, _TRIAL, TrainingRun(work, models.device, num_evaluations=1))
        inputs.log.info(
            f"{name}: dev nDCG@10 {found.dev_curve[0][1]:.4f}, {found.best_dev_ndcg_at_10:.4f} after the trial"
        )
        rows.append(
            {
                "student": name,
                "encoder_id": encoder_id,
                "untrained_ndcg_at_10": found.dev_curve[0][1],
                "trained_ndcg_at_10": found.dev_curve[-1][1],
                "num_trial_queries": found.num_groups,
                "num_trial_dev_queries": len(lists),
                "num_trial_documents": num_documents,
                "trial_seconds": time.perf_counter() - started,
            }
        )
    best = max(rows, key=lambda row: max(row["untrained_ndcg_at_10"], row["trained_ndcg_at_10"]))
    rows = [row | {"is_chosen": row is best} for row in rows]
    store.clear_work("student", "choice", key)
    return Made(
        rows=pa.Table.from_pylist(rows, schema=schema_of("student_trials")),
        data_version=best["encoder_id"],
        metadata={"chosen": best["student"], "trials": markdown_table(rows)},
    )


_DATA = ("training_queries", "training_judgements", "documents", "tokeniser")
STUDENT_CHOICE = Asset(
    name="student_choice",
    # A choice, once made, stands: with another student everything after it would be paid for again. New data make it aged.
    reads=Reads(
        inputs=("student_candidates", *_DATA),
        settings=("trial_queries", "step_queries", "pool_depth"),
        as_of_making=_DATA,
    ),
    body=student_choice,
    table="student_trials",
    group="student",
    pool="trainer",
    kinds=frozenset({"pytorch", "huggingface"}),
    code_version="1",
    when_red="Check the names in `students`. Out of memory: take the largest out. Materialise it again: finished trials are kept.",
)


def _trial_lists(inputs: Inputs) -> tuple[Epochs, list[DevList]]:
    """What every student trains on, and the dev queries with what they search among: the same for all of them."""
    settings, content_of = inputs.settings, inputs.documents.content_of
    train = choose_queries(train_queries(inputs), inputs.training_judgements, settings.trial_queries)
    dev = choose_queries(inputs.training("dev"), inputs.training_judgements, settings.step_queries)
    if not dev:
        raise TrainingError(
            "no dev query has a judgement: a student can only be chosen on dev; add dev queries (qrels/dev.tsv)"
        )
    found = _candidates(inputs, [*train, *dev], settings.pool_depth)
    labels = Labels(inputs.training_judgements, found, content_of, inputs.min_relevance, inputs.parent_of)
    others = sorted(content_of, key=hash_text)[:TRIAL_DOCUMENTS]
    # Each document beside one query: a search reads those of all.
    shared = {query.query_id: others[row :: len(dev)] for row, query in enumerate(dev)}
    wide = {query.query_id: [*found[query.query_id], *shared[query.query_id]] for query in dev}
    return build_student_epochs(train, labels, _TRIAL), build_dev_lists(dev, replace(labels, candidates=wide))


def _candidates(inputs: Inputs, queries: Sequence[Query], depth: int) -> dict[str, list[str]]:
    found = inputs.retrieval.bm25(queries, depth)
    return {query.query_id: [doc_id for doc_id, _ in found.get(query.query_id, ())] for query in queries}
