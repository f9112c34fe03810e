"""Small collections that other people have, whole: each stands for a kind of input that gave a plausible wrong number."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.definitions import build_definitions
from distill_assets.handles.project import Project
from distill_assets.orchestration.running import run_line
from distill_assets.orchestration.stages import status_of
from distill_assets_tests.conftest import ACTIONS, TOPICS, make_project

Pair = tuple[str, str]


def faq(topics: Sequence[str] = TOPICS[:5]) -> list[Pair]:
    """Questions with their answers, in words that the tiny models know."""
    return [(f"how to {a} a {t}", f"{a} every value of the {t} along one axis") for t in topics for a in ACTIONS]


def write(
    folder: Path, pairs: Sequence[Pair], query_id: str = "q{}", doc_id: str = "d{}", splits: Iterable[str] = ()
) -> Path:
    """A BEIR folder of these pairs, numbered from 1, judged one to one in the file `test.tsv`, or in those of `splits` in turn."""
    (folder / "qrels").mkdir(parents=True)
    numbered = list(enumerate(pairs, start=1))
    documents = [json.dumps({"_id": doc_id.format(i), "text": answer}) for i, (_, answer) in numbered]
    (folder / "corpus.jsonl").write_text("\n".join(documents) + "\n", encoding="utf-8")
    queries = [json.dumps({"_id": query_id.format(i), "text": question}) for i, (question, _) in numbered]
    (folder / "queries.jsonl").write_text("\n".join(queries) + "\n", encoding="utf-8")
    stems = tuple(splits) or ("test",)
    for place, stem in enumerate(dict.fromkeys(stems)):
        chosen = [i for i, _ in numbered if stems[i % len(stems)] == stem or (not splits and place == 0)]
        rows = "".join(f"{query_id.format(i)}\t{doc_id.format(i)}\t1\n" for i in chosen)
        (folder / "qrels" / f"{stem}.tsv").write_text(rows, encoding="utf-8")
    return folder


@pytest.fixture
def instance() -> dg.DagsterInstance:
    """An instance in memory."""
    return dg.DagsterInstance.ephemeral()


@pytest.fixture
def project_of(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> Any:
    """Makes a project over a folder, by default in its own data folder."""

    def make(folder: Path, **overrides: Any) -> Project:
        made: Project = make_project(
            folder, tiny_encoder, tiny_cross_encoder, tmp_path / f"data-{folder.name}", **overrides
        )
        return made

    return make


def run(project: Project, instance: dg.DagsterInstance, until: str) -> None:
    """The line until this asset."""
    list(run_line(build_definitions(project), project, instance, until=until))


def bm25_of(project: Project) -> dict[str, float]:
    """BM25's nDCG@10 of each dev query."""
    rows = project.places.warehouse.read("eval_metrics").to_pylist()
    return {r["query_id"]: r["ndcg_at_10"] for r in rows if (r["system"], r["split"]) == ("bm25", "dev")}


def failed_checks(instance: dg.DagsterInstance, asset: str) -> set[str]:
    """Names of the checks of an asset whose last evaluation did not pass."""
    found = set()
    for name in ("ids_keep_their_text", "files_read", "documents_distinct"):
        key = dg.AssetCheckKey(dg.AssetKey(asset), name)
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
        found |= {name for record in records if not record.event.dagster_event.asset_check_evaluation_data.passed}
    return found


def test_a_faq_that_numbers_both_sides_alike(tmp_path: Path, project_of: Any, instance: dg.DagsterInstance) -> None:
    """Every answer was taken for the question itself: nDCG@10 0.000 of every system, and a champion was promoted."""
    splits = ("train", "train", "dev", "train", "test")
    found = []
    for name, query_id in (("alike", "{}"), ("control", "q{}")):
        doc_id = "{}" if name == "alike" else "d{}"
        project = project_of(write(tmp_path / name, faq(), query_id, doc_id, splits))
        run(project, instance, "eval_metrics")
        found.append(sorted(bm25_of(project).values()))
    assert found[0] == found[1]
    assert len(found[0]) == 12 and min(found[0]) == 1.0


def test_two_sources_that_number_alike(tmp_path: Path, project_of: Any, instance: dg.DagsterInstance) -> None:
    """29 of 30 documents were replaced, judgements named the other source's texts, and no check said so."""
    inbox = tmp_path / "inbox"
    for name, topics in (("north", TOPICS[:3]), ("south", TOPICS[3:6])):
        other = [
            (q, f"{a} here" if name == "north" else f"there {a.upper()} is sorted out by phone") for q, a in faq(topics)
        ]
        write(inbox / name, other, name + "-q{}", splits=("train", "train", "dev", "train", "test"))
    project = project_of(inbox)
    run(project, instance, "qrels")
    assert failed_checks(instance, "corpus") == {"ids_keep_their_text"}
    with project.collection.snapshot() as collection:
        judged = collection.judgements(["train", "dev", "test"])
        assert len(collection.documents()[0]) == 36
    assert judged and all(query_id.startswith("south") for query_id in judged)

    apart = make_project(
        inbox, project.models.student_path, project.settings.teacher, tmp_path / "apart", local_ids=True
    )
    run(apart, instance, "eval_metrics")
    assert len(bm25_of(apart)) == 14 and min(bm25_of(apart).values()) == 1.0
    with apart.collection.snapshot() as collection:
        assert len(collection.documents()[0]) == 72


def test_a_question_with_two_ids_and_two_answers(tmp_path: Path, project_of: Any, instance: dg.DagsterInstance) -> None:
    """The other right answer was mined as a hard negative, at rank 1 in most queries."""
    pairs = [pair for q, a in faq() for pair in ((q, a), (q, f"once more: {a}"))]
    project = project_of(write(tmp_path / "twice", pairs))
    run(project, instance, "hard_negatives")
    with project.collection.snapshot() as collection:
        queries, judged, candidates = (
            collection.queries(["train"]),
            collection.judgements(["train"]),
            collection.candidates(),
        )
    assert len(queries) > 60 and {len(judged[q.query_id]) for q in queries} == {2}
    assert all(set(judged[q.query_id]) & set(candidates[q.query_id]) for q in queries)  # found, and kept as answers


def test_grades_with_a_threshold(tmp_path: Path, project_of: Any, instance: dg.DagsterInstance) -> None:
    """Documents that are judged "on the topic" were positives like the answer; what is below the threshold must not be a negative."""
    folder = write(tmp_path / "graded", faq(), splits=("train", "train", "dev", "train", "test"))
    for path in (folder / "qrels").iterdir():
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        on_topic = "".join(f"{q}\td{int(d[1:]) % 60 + 1}\t1\n" for q, d, _ in rows)
        path.write_text("".join(f"{q}\t{d}\t2\n" for q, d, _ in rows) + on_topic, encoding="utf-8")
    project = project_of(folder, min_relevance=2)
    run(project, instance, "eval_metrics")
    scored = project.places.warehouse.read("teacher_scores").to_pylist()
    with project.collection.snapshot() as collection:
        judged = collection.judgements(["train"])
    assert {grade for found in judged.values() for grade in found.values()} == {1, 2}
    assert scored and not [r for r in scored if judged[r["query_id"]].get(r["doc_id"]) == 1]
    assert {r["label"] for r in scored} == {0, 2}
    rows = project.places.warehouse.read("eval_metrics").to_pylist()
    assert min(r["mrr_at_10"] for r in rows if r["system"] == "bm25") == 1.0, (
        "the answer is first, whatever is on its topic"
    )
    assert [r["ndcg_at_10"] for r in rows if r["system"] == "bm25" and r["ndcg_at_10"] < 1], "nDCG asks for both"
    every = make_project(folder, project.models.student_path, project.settings.teacher, tmp_path / "data-graded")
    assert status_of(every, "hard_negatives", "graded").condition == "stale"
