"""A collection that nobody judged, with queries and without: a champion and a report, and each number says who judged."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.assets import ASSETS, assets_of, dependencies_of, release
from distill_assets.definitions import build_definitions
from distill_assets.errors import SettingsError
from distill_assets.evaluation.gate import Decision
from distill_assets.evaluation.leaderboard import format_table
from distill_assets.generation import chat
from distill_assets.handles.project import Project
from distill_assets.orchestration.running import run_line
from distill_assets.records import UNTOUCHED_STUDENT
from distill_assets.report.publishing import current_champion, read_conclusion, read_history, read_rows
from distill_assets_tests.conftest import ACTIONS, TOPICS, make_project


def write_documents(folder: Path, *, with_queries: bool = False) -> Path:
    """A BEIR folder of 120 documents of two sentences; with 120 queries that nobody judged, or without any."""
    folder.mkdir()
    documents, queries = [], []
    for i, topic in enumerate(TOPICS):
        for j, action in enumerate(ACTIONS):
            other, near = TOPICS[(i + 3) % 10], TOPICS[(i + j) % 10]
            text = f"To {action} every value of the {topic} choose {ACTIONS[(j + 5) % 12]} or {other}. The {topic} keeps its {near}."
            documents.append({"_id": f"{topic}-{action}", "title": f"How to {action} a {topic}", "text": text})
            queries.append({"_id": f"q-{topic}-{action}", "text": f"{action} of the {topic}"})
    write = {"corpus.jsonl": documents} | ({"queries.jsonl": queries} if with_queries else {})
    for name, rows in write.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.mark.parametrize("with_queries", [False, True], ids=["documents alone", "with queries"])
def test_a_collection_that_nobody_judged_ends_with_a_champion_and_says_who_judged(
    with_queries: bool, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without judgements a run died at training. A number of the teacher's that does not say so is taken for people's."""
    folder = write_documents(tmp_path / "documents", with_queries=with_queries)
    project = make_project(folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", dev_queries=None, pool_depth=3)
    warehouse, definitions = project.places.warehouse, build_definitions(project)
    with dg.DagsterInstance.ephemeral() as instance:
        first = list(run_line(definitions, project, instance))
        second = list(run_line(definitions, project, instance))
    assert {asset for step in first if step.was_materialised for asset in step.assets} == set(assets_of(project))
    assert not [step for step in second if not step.was_up_to_date]
    generated = warehouse.read("generated_queries")
    assert bool(generated.num_rows) is not with_queries
    with project.collection.snapshot() as collection:
        judged = {"dev", "test", "train"} if with_queries else {"dev", "test"}
        assert collection.judges() == dict.fromkeys(judged, "teacher")
        taught = collection.judgements(["train"], labels="taught")
        source_of = dict(zip(generated["query_id"].to_pylist(), generated["doc_id"].to_pylist(), strict=True))
        assert taught and all(list(judged) == [source_of.get(q, next(iter(judged)))] for q, judged in taught.items())
        mined, scored = collection.candidates(), collection.logits()
    if with_queries:  # the teacher's first document is one of them: as many negatives are left as of a judged query
        train = {query_id for query_id, _ in scored}
        assert {len(mined[q]) for q in train} == {project.settings.negatives_per_query + 1}
        assert len(scored) == len(train) * (project.settings.num_scored_negatives + 1)
    rows = read_rows(project)
    assert {row.judged_by for row in rows} == {"teacher"} and {row.split for row in rows} == {"test"}
    assert "teacher" not in {row.system for row in rows} and not [row for row in rows if row.gap_closed is not None]
    assert set(warehouse.read("eval_metrics")["judged_by"].to_pylist()) == {"teacher"}
    assert warehouse.read("teacher_fitness").num_rows == 0
    champion = current_champion(project)
    assert champion is not None and champion["judged_by"] == "teacher"
    assert format_table(rows, None).splitlines()[0].endswith("judged by")
    told, beside, *_ = read_conclusion(project)
    assert (
        told.startswith(f"Judged by the teacher {tiny_cross_encoder}, not by people") and "distill-assets judge" in told
    )
    assert ("by rules from the documents' own words" in beside) is not with_queries, (
        "BM25 would seem the best way of all"
    )
    page = (project.places.report / "index.html").read_text(encoding="utf-8")
    assert "not by people" in page and "judged by" in page

    def trained(names: Iterable[str]) -> str:
        return min(name for name in names if name != UNTOUCHED_STUDENT)

    def promote(candidates: dict[str, Any], *_: Any, **__: Any) -> Decision:
        name = trained(candidates)
        return Decision(name, promote=True, reason=f"{name} is promoted: better", p_value=0.01, shown="better")

    monkeypatch.setattr(release, "choose_candidate", trained)
    monkeypatch.setattr(release, "decide_promotion", promote)
    monkeypatch.setattr(release, "MIN_QUERIES", 1)
    for may_promote in (False, True) if with_queries else ():  # from 3 dev queries a student ends where it began
        allowed = Project(overrides=project.overrides | {"teacher_may_promote": may_promote})
        ASSETS["champion"].make(allowed, "", logging.getLogger())
        latest = read_history(project)[-1]
        assert (latest["verdict"] == "promoted") is may_promote, "what ranks as the teacher does would be search"
        assert may_promote or "distill-assets judge --split dev" in latest["reason"]


def test_what_a_collection_may_lack_is_made_only_where_it_may_lack_it(tmp_path: Path) -> None:
    """Two assets that never hold a row would stand in the lineage of every demo."""
    makers = {"generated_queries", "teacher_judgements"}
    demo = Project(overrides={"data_folder": str(tmp_path)})
    assert not makers & set(assets_of(demo))
    named = Project(overrides={"data_folder": str(tmp_path), "query_generator": "rules"})
    assert makers & set(assets_of(named)) == {"generated_queries"}
    folder: dict[str, Any] = {"data_folder": str(tmp_path), "collection": f"beir:{tmp_path}"}
    assert makers <= set(assets_of(Project(overrides=folder)))
    assert makers & set(assets_of(Project(overrides=folder | {"query_generator": "off"}))) == {"teacher_judgements"}
    drawn = dependencies_of("hard_negatives", Project(overrides=folder))
    assert set(drawn) == {"corpus", "queries", "qrels", "generated_queries"}, "a new batch would start nothing"
    assert ASSETS["teacher_checkpoint"].reads.labels == "people", "a teacher that learns from itself learns nothing"


def test_the_generator_is_the_one_that_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is set and rules that answer: only the queries would show it. A token that is refused as a setting is none."""
    monkeypatch.setenv(chat.TOKEN_VARIABLE, "secret")
    folder: dict[str, Any] = {"data_folder": str(tmp_path), "collection": f"beir:{tmp_path}"}
    by_rules = Project(overrides=folder)
    assert by_rules.generator_id == Project(overrides=folder | {"query_generator": "rules"}).generator_id
    assert by_rules.generator_id.startswith("rules")
    server = {"query_generator": "http://localhost:9", "generator_model": "some-model"}
    served = Project(overrides=folder | server)
    assert served.generator_id.startswith("chat some-model,") and "localhost" not in served.generator_id
    for wrong in ({"query_generator": "http://localhost:9"}, {"generator_model": "some-model"}):
        with pytest.raises(SettingsError, match="generator_model"):
            _ = Project(overrides=folder | wrong).settings
