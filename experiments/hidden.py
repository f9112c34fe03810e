"""What a team gets that has no judgements, measured by the judgements that it did not have.

A collection with judgements is written three times: as it is; with its train and dev queries and no judgement; with documents alone.
Each is a line of its own, with one teacher and one set of recipes. All students are then judged by people, on the test queries of
the collection as it is, which no variant without judgements has seen.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from distill_assets.assets import ASSETS
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.rankings import DEPTH, RANKING_SETTINGS, judged_queries
from distill_assets.assets.reads import Reads
from distill_assets.evaluation.comparison import columns_of_queries, compare_family
from distill_assets.evaluation.metrics import evaluate_run, mean_of, values_of
from distill_assets.evaluation.significance import bootstrap_interval
from distill_assets.handles.project import Project
from distill_assets.records import HARD_LABELS, SPLITS, UNTOUCHED_STUDENT, Collection
from distill_assets.training.recipes import BUILT_IN_RECIPES, find_recipe
from experiments.plans import FIRST_SEED, recipe_table, seeded_name
from experiments.study import make, make_until

logger = logging.getLogger("experiments")
JUDGED, ASKED, DOCUMENTS = "all judgements", "queries alone", "documents alone"
Save = Callable[[dict[str, Any]], None]
_INPUTS = ("student", "tokeniser", "documents", "evaluation_queries", "evaluation_judgements", "judges")
_READS = Reads(inputs=_INPUTS, settings=RANKING_SETTINGS)


def write_variants(collection: Collection, folder: Path, name: str) -> dict[str, Path]:
    """The three BEIR folders of a collection, by variant. Test and dev queries stand in the first alone."""
    found = {variant: folder / variant.replace(" ", "_") / name for variant in (JUDGED, ASKED, DOCUMENTS)}
    split_of = {query.query_id: query.split for query in collection.queries}
    for variant, path in found.items():
        (path / "qrels").mkdir(parents=True, exist_ok=True)
        documents = [{"_id": d.doc_id, "title": d.title, "text": d.text} for d in collection.documents]
        _write_lines(path / "corpus.jsonl", documents)
        # The hash that makes dev queries of train queries is the one that splits these: without dev, it would find none again.
        asked = [q for q in collection.queries if variant == JUDGED or (variant == ASKED and q.split != "test")]
        if asked:
            _write_lines(path / "queries.jsonl", [{"_id": q.query_id, "text": q.text} for q in asked])
        for split in SPLITS if variant == JUDGED else ():
            rows = [q for q in collection.qrels if split_of.get(q.query_id) == split]
            lines = ["query-id\tcorpus-id\tscore", *(f"{q.query_id}\t{q.doc_id}\t{q.relevance}" for q in rows)]
            (path / "qrels" / f"{split}.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return found


def _write_lines(path: Path, records: Sequence[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


def run_hidden(
    collection: Collection, name: str, settings: Mapping[str, Any], num_seeds: int, work: Path, save: Save
) -> dict[str, Any]:
    """Make the three lines and return nDCG@10 per variant, recipe and seed; `save` gets the document after each student.

    With all judgements `hard_labels` is trained, without them `kl`.

    Per student: `people` is by the judgements of people on the collection's test queries, `against_untouched` how much better that is
    than the untouched student, with its 95 % interval and p. `own` is what the line itself reports on its own test queries,
    `own_by_people` is by people on those same queries, where people judged them.
    """
    folders, started = write_variants(collection, work / "collections", name), time.time()
    document: dict[str, Any] = {"collection": name, "settings": dict(settings), "systems": {}}
    lines = {variant: _line(path, settings, num_seeds, work, variant) for variant, path in folders.items()}
    make_until(lines[JUDGED], "teacher_scores")
    people = Inputs(lines[JUDGED], "leaderboard", _READS, "", logger)
    untouched = _by_people(people, people.student_path)
    relevance: dict[str, dict[str, int]] = {}
    for qrel in collection.qrels:
        relevance.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    for line in lines.values():
        make_until(line, "teacher_scores")
        for batch in line.collection.batches():
            make(line, ASSETS["teacher_judgements"], batch)
    if not lines[DOCUMENTS].collection.state().judges:
        del lines[DOCUMENTS]  # rules make no query of code alone
    for seed in range(FIRST_SEED, FIRST_SEED + num_seeds):
        for variant, line in lines.items():
            recipe = HARD_LABELS if variant == JUDGED else "kl"
            key = seeded_name(recipe, seed)
            make(line, ASSETS["student_checkpoint"], key)
            make(line, ASSETS["eval_metrics"], key)
            path = line.places.checkpoint_path(key)
            told = {
                recipe: {**_compared(_by_people(people, path), untouched), **_own(line, key, key, relevance)},
                UNTOUCHED_STUDENT: {
                    "people": fmean(untouched.values()),
                    **_own(line, key, UNTOUCHED_STUDENT, relevance),
                },
            }
            for system, found in told.items():
                document["systems"].setdefault(f"{system}, {variant}", {})[str(seed)] = found
            save(document | {"seconds": round(time.time() - started)})
    return document


def _line(path: Path, settings: Mapping[str, Any], num_seeds: int, work: Path, variant: str) -> Project:
    recipes = {
        seeded_name(name, seed): recipe_table(find_recipe(BUILT_IN_RECIPES, name), seed)
        for name in (HARD_LABELS, "kl")
        for seed in range(FIRST_SEED, FIRST_SEED + num_seeds)
    }
    changes = {
        "collection": f"beir:{path}",
        "data_folder": str(work / variant.replace(" ", "_")),
        "shared_stores": str(work / "shared"),
        "recipes": recipes,
        "skip_recipes": tuple(BUILT_IN_RECIPES),
    }
    return Project(overrides={**settings, **changes})


def _by_people(people: Inputs, student: Path) -> dict[str, float]:
    """nDCG@10 by test query."""
    queries, qrels = judged_queries(people, "test")
    run = people.retrieval.dense(student, queries, DEPTH)
    return values_of(evaluate_run(run, qrels, people.min_relevance), "ndcg_at_10")


def _compared(trained: Mapping[str, float], untouched: Mapping[str, float]) -> dict[str, Any]:
    ours, theirs = columns_of_queries({"ours": trained, "theirs": untouched}, ["ours", "theirs"]).values()
    found = compare_family({"ours": (ours, theirs)})["ours"]
    low, high = bootstrap_interval(ours - theirs)
    against = {"mean": found.difference, "low": low, "high": high, "p_value": found.p_value}
    return {"people": float(ours.mean()), "against_untouched": against}


def _own(line: Project, key: str, system: str, relevance: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """nDCG@10 that the line reports of a system on its test queries, and that of people on the same ones."""
    warehouse = line.places.warehouse
    rows = warehouse.read("eval_metrics", slice_keys=[key]).to_pylist()
    own = {r["query_id"]: r["ndcg_at_10"] for r in rows if (r["system"], r["split"]) == (system, "test")}
    found = {"own": sum(own.values()) / max(1, len(own)), "num_own": len(own)}
    judged = {q: dict(relevance[q]) for q in own if q in relevance}
    if judged:
        run: dict[str, list[tuple[str, float]]] = {q: [] for q in judged}
        sql = "SELECT query_id, doc_id, score FROM rankings WHERE system = ? ORDER BY query_id, rank"
        for row in warehouse.query(sql, [system]).to_pylist():
            if row["query_id"] in run:
                run[row["query_id"]].append((row["doc_id"], row["score"]))
        found["own_by_people"] = mean_of(evaluate_run(run, judged, 1), "ndcg_at_10")
    return found
