"""The whole line over a collection in which three documents are longer than the student reads."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

from distill_assets.assets import ASSETS
from distill_assets.documents import StoredDocuments
from distill_assets.errors import SettingsError, SourceError
from distill_assets.orchestration.stages import is_stale, next_work, partitions_of, stages_of
from distill_assets.records import BM25, TEACHER, UNTOUCHED_STUDENT, Document
from distill_assets.retrieval.passages import ANSWERS_PER_DOCUMENT
from distill_assets.serving.searcher import search
from distill_assets.storage.pair_scores import PairScoreStore
from distill_assets_tests.conftest import ACTIONS, make_project, write_beir

LONG = ("array", "matrix", "frame")
LOG = logging.getLogger("long documents")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny collection, three of its topics as one document each."""
    made = write_beir(tmp_path / "docs")
    rows = [json.loads(line) for line in (made / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    short = [row for row in rows if row["title"] not in LONG]
    long = [
        {"_id": topic, "title": topic, "text": "\n".join(row["text"] for row in rows if row["title"] == topic)}
        for topic in LONG
    ]
    (made / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*long, *short]), encoding="utf-8")
    for path in (made / "qrels").iterdir():
        text = path.read_text(encoding="utf-8")
        for topic in LONG:
            for action in ACTIONS:
                text = text.replace(f"\t{topic}-{action}\t", f"\t{topic}\t")
        path.write_text(text, encoding="utf-8")
    return made


def run(project: Any) -> list[tuple[str, str]]:
    """Make all that is stale until the gate; the pairs that were paid for."""
    paid: list[tuple[str, str]] = []
    commit = PairScoreStore.commit

    def counted(self: PairScoreStore, scorer_id: str, pairs: Any) -> int:
        paid.extend(zip(pairs["query_hash"].to_pylist(), pairs["doc_hash"].to_pylist(), strict=True))
        return commit(self, scorer_id, pairs)

    with mock.patch.object(PairScoreStore, "commit", counted):
        for stage in stages_of(project):
            for partition in partitions_of(project, stage):
                for asset in stage.assets:
                    if is_stale(project, asset, partition):
                        ASSETS[asset].make(project, partition, LOG)
    assert next_work(project, is_stale) is None
    return paid


def read(project: Any, table: str) -> list[dict[str, Any]]:
    """Rows of a table."""
    rows: list[dict[str, Any]] = project.places.warehouse.read(table).to_pylist()
    return rows


def test_long_documents_are_mined_and_scored_as_passages_and_measured_as_documents(
    folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """Of an article of 108 words a student of 32 tokens saw a quarter: the rest could not be found, and no figure said so."""
    project = make_project(
        folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", passage_tokens=24, passage_overlap=8
    )
    first = run(project)
    parent_of = {row["doc_id"]: row["parent_id"] for row in read(project, "passages")}
    # 12 sentences of 9 tokens. 24 less 2 around a text and 1 of the title hold two. Each next passage repeats 8 tokens, so it
    # brings one sentence: 18 + 10 * 9 = 108.
    assert Counter(parent_of.values()) == dict.fromkeys(LONG, 11)
    documents = {row["doc_id"] for row in read(project, "corpus")}
    assert len(documents) == 3 * 11 + 7 * 12
    texts = {row["doc_id"]: row["text"] for row in read(project, "corpus")}
    assert texts["array#1"].split("\n")[:2] == [f"{a} every value of the array along one axis" for a in ACTIONS[:2]]

    labels: dict[str, Counter[int]] = {}
    for row in read(project, "teacher_scores"):
        labels.setdefault(row["query_id"], Counter())[row["label"]] += 1
    assert all(1 <= found[1] <= ANSWERS_PER_DOCUMENT for found in labels.values())
    assert max(found[1] for query_id, found in labels.items() if query_id.startswith("q-array")) > 1
    assert all(found[1] == 1 for query_id, found in labels.items() if query_id.split("-")[1] not in LONG)
    negatives = [r for r in read(project, "hard_negatives") if r["query_id"].startswith("q-array")]
    scored = {(r["query_id"], r["doc_id"]): r["label"] for r in read(project, "teacher_scores")}
    assert all(scored.get((r["query_id"], r["doc_id"]), 1) == 1 for r in negatives if r["doc_id"].startswith("array#"))

    rankings: dict[tuple[str, str], list[str]] = {}
    for row in read(project, "rankings"):
        rankings.setdefault((row["system"], row["query_id"]), []).append(row["doc_id"])
    assert not [d for found in rankings.values() for d in found if d in parent_of], (
        "a passage is measured as a document"
    )
    assert all(len(found) == len(set(found)) for found in rankings.values())
    # 87 documents, and dense search finds them all, though several passages of one come first.
    assert {len(found) for (system, _), found in rankings.items() if system == UNTOUCHED_STUDENT} == {87}
    # Words decide here: the sentence is in one passage of the document, and in no other document.
    first_of = {q: found[0] for (system, q), found in rankings.items() if system == BM25 and q.split("-")[1] in LONG}
    assert {q: d for q, d in first_of.items() if d != q.split("-")[1]} == {}
    assert {row["system"] for row in read(project, "leaderboard")} >= {BM25, UNTOUCHED_STUDENT, TEACHER, "margin_mse"}

    hits = search(project, "how to sort a array", 87).hits
    assert len({hit.doc_id for hit in hits}) == len(hits) == 87
    assert {hit.doc_id for hit in hits} >= {*LONG}
    assert all(parent_of.get(hit.passage_id, hit.passage_id) == hit.doc_id for hit in hits)

    other = make_project(
        folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", passage_tokens=32, passage_overlap=8
    )
    paid = run(other)
    assert Counter(row["parent_id"] for row in read(other, "passages")) == dict.fromkeys(LONG, 6)  # 27 + 4 * 18 + 9
    assert paid and not {*paid} & {*first}, "a pair whose text stayed was paid for twice"

    whole = make_project(folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data")
    run(whole)
    assert read(whole, "passages") == []
    assert {row["doc_id"] for row in read(whole, "corpus")} >= {*LONG}


def test_the_same_rows_as_passages_of_other_documents_are_another_corpus() -> None:
    """With equal versions nothing would be made anew where a document is taken for a passage of another one."""
    from distill_assets.assets.collection import corpus_version

    rows = StoredDocuments([Document("a#1", "", "x")])
    none = pa.table({"doc_id": pa.array([], pa.string()), "parent_id": pa.array([], pa.string())})
    versions = [
        corpus_version(rows, none),
        *(corpus_version(rows, pa.table({"doc_id": ["a#1"], "parent_id": [p]})) for p in "ab"),
    ]
    assert len(set(versions)) == 3


def test_a_document_that_has_the_id_of_a_passage_is_refused(
    folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """One of the two would be lost without a word."""
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"_id": "array#2", "text": "sum of the array"}) + "\n")
    data = tmp_path / "data"
    project = make_project(folder, tiny_encoder, tiny_cross_encoder, data, passage_tokens=24, passage_overlap=8)
    (batch,) = project.collection.source.batches()
    with pytest.raises(SourceError, match=r"id of a passage.*'array#2'.*rename"):
        ASSETS["corpus"].make(project, batch, LOG)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"passage_tokens": 24, "passage_overlap": 12}, "passage_overlap is 12: expected less than half"),
        ({"passage_tokens": 128, "students": ("a", "b")}, "names several"),
    ],
)
def test_settings_that_cannot_cut_are_refused(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    """An overlap of half a window never ends; tokens of a student that is not chosen yet cannot be counted."""
    with pytest.raises(SettingsError, match=message):
        _ = make_project(tmp_path, tmp_path, tmp_path, tmp_path / "data", **overrides).settings
