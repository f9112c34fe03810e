"""Scores that other tools made: matched with the collection by text, or refused with nothing stored."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_assets.errors import DistillError, MalformedRecordError, ScoreSetError
from distill_assets.handles.project import Project
from distill_assets.handles.score_sets import import_scores
from distill_assets.records import hash_text
from distill_assets.sources.score_sets import open_score_files
from distill_assets.storage.warehouse import SliceWrite

DOCUMENTS = {"d1": ("", "alpha one"), "d2": ("beta", "two"), "d3": ("", "gamma three")}
CONTENT = {"d1": "alpha one", "d2": "beta two", "d3": "gamma three"}
QUERIES = {"q1": "first", "q2": "second"}
ROWS = [("q1", ["d1", "d2"], [3.0, -1.5]), ("q2", ["d3"], [0.25])]
Write = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A collection of three documents and two queries, stored as one batch."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "corpus.jsonl").touch()
    project = Project(
        overrides={"data_folder": str(tmp_path / "data"), "collection": f"beir:{folder}", "chunk_size": 2}
    )
    (batch,) = project.collection.source.batches()
    rows: dict[str, list[dict[str, Any]]] = {
        "corpus": [
            {"doc_id": d, "title": title, "text": text, "content_hash": hash_text(CONTENT[d])}
            for d, (title, text) in DOCUMENTS.items()
        ],
        "queries": [{"query_id": q, "text": t, "text_key": hash_text(t), "split": "train"} for q, t in QUERIES.items()],
        "qrels": [{"query_id": "q1", "doc_id": "d1", "relevance": 1}],
    }
    made = {"inputs": {"source": "1"}, "slice_key": batch}
    project.places.warehouse.write(
        *(SliceWrite(table=table, rows=pa.Table.from_pylist(of), **made) for table, of in rows.items())
    )
    return project


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """What writes a score set in three tables."""

    def to_disk(
        rows: Sequence[tuple[Any, Any, Any]] = ROWS,
        documents: dict[str, str] = CONTENT,
        queries: dict[str, str] = QUERIES,
        **provenance: Any,
    ) -> Path:
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        write_table(folder / "documents.parquet", document_id=list(documents), document=list(documents.values()))
        write_table(folder / "queries.parquet", query_id=list(queries), query=list(queries.values()))
        query_ids, document_ids, scores = (list(column) for column in zip(*rows, strict=True))
        write_table(folder / "scores.parquet", query_id=query_ids, document_ids=document_ids, scores=scores)
        if provenance:
            (folder / "provenance.json").write_text(json.dumps(provenance), encoding="utf-8")
        return folder

    return to_disk


def write_table(path: Path, **columns: Any) -> None:
    """A Parquet file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def stored(project: Project, scorer_id: str | None = None) -> dict[tuple[str, str], float]:
    """(query, document) ids -> stored logit."""
    known = {hash_text(text): key for key, text in (CONTENT | QUERIES).items()}
    rows = project.places.warehouse.query("SELECT * FROM pair_scores").to_pylist()
    return {
        (known[row["query_hash"]], known[row["doc_hash"]]): row["teacher_logit"]
        for row in rows
        if scorer_id in (None, row["scorer_id"])
    }


def refused(project: Project, path: Path, **options: Any) -> str:
    """The message of an import that is refused; nothing may be stored then."""
    with pytest.raises(DistillError) as caught:
        import_scores(project, path, "other", **options)
    assert isinstance(caught.value, (ScoreSetError, MalformedRecordError)) and caught.value.exit_code == 2
    assert stored(project) == {} and not project.places.imported_file("other").exists()
    return str(caught.value)


EXPECTED = {("q1", "d1"): 3.0, ("q1", "d2"): -1.5, ("q2", "d3"): 0.25}


def test_scores_are_matched_by_text_and_the_same_set_again_changes_nothing(project: Project, write: Write) -> None:
    """Matched by id, a score of another text would teach; imported twice, a set would pay for everything again."""
    told = import_scores(project, write(), "other")
    assert stored(project) == EXPECTED and told["value_space"] == "logit"
    file = project.places.imported_file("other")
    kept = json.loads(file.read_text("utf-8"))
    assert kept == {
        "name": "other", "scorer_id": told["scorer_id"], "value_space": "logit", "num_pairs": 3, "num_queries": 2,
        "num_left_out": 0, "provenance": {},
    }  # fmt: skip
    before = file.stat().st_mtime_ns
    shuffled = [(q, ids[::-1], scores[::-1]) for q, ids, scores in ROWS[::-1]]
    assert import_scores(project, write(shuffled), "other")["scorer_id"] == told["scorer_id"]
    assert file.stat().st_mtime_ns == before and len(stored(project)) == 3

    other = import_scores(project, write([("q2", ["d3"], [0.5])]), "other", value_space="logit")
    assert other["scorer_id"] != told["scorer_id"], (
        "other scores under the id of the former ones would be mixed with them"
    )
    assert stored(project, told["scorer_id"]) == EXPECTED and stored(project, other["scorer_id"]) == {("q2", "d3"): 0.5}


def test_names_of_columns_shards_titles_and_a_row_per_pair(project: Project, tmp_path: Path) -> None:
    """A set whose second shard is not read, or whose titles are left out, would lose its pairs as unknown."""
    folder = tmp_path / "shards"
    for number, doc_id in enumerate(DOCUMENTS):
        title, text = DOCUMENTS[doc_id]
        write_table(folder / "documents" / f"train-{number}.parquet", _id=[doc_id], title=[title or None], text=[text])
    write_table(folder / "queries-00000-of-00001.parquet", _id=list(QUERIES), text=list(QUERIES.values()))
    pairs = [(q, d, s) for q, ids, scores in ROWS for d, s in zip(ids, scores, strict=True)]
    for number, (query_id, doc_id, score) in enumerate(pairs):
        write_table(folder / f"scores-{number}.parquet", query_id=[query_id], doc_id=[doc_id], score=[score])
    import_scores(project, folder, "other")
    assert stored(project) == EXPECTED


def test_ids_that_are_numbers_are_ids(project: Project, write: Write) -> None:
    """Published sets number their documents: integers in one table and text in another would match nothing."""
    folder = write()
    write_table(folder / "documents.parquet", document_id=[1, 2], document=[CONTENT["d1"], CONTENT["d2"]])
    write_table(folder / "queries.parquet", query_id=["7"], query=[QUERIES["q1"]])
    write_table(folder / "scores.parquet", query_id=[7], document_ids=[[1, 2]], scores=[[3.0, -1.5]])
    import_scores(project, folder, "other")
    assert stored(project) == {("q1", "d1"): 3.0, ("q1", "d2"): -1.5}


def test_flag_embedding_lines(project: Project, tmp_path: Path) -> None:
    """Scores of negatives beside the texts of positives would turn the teacher around."""
    line = {
        "query": "first",
        "pos": ["alpha one"],
        "neg": ["beta two", "gamma three"],
        "pos_scores": [3],
        "neg_scores": [-1.5, -4],
    }
    (tmp_path / "train.jsonl").write_text(json.dumps(line) + "\n\n", encoding="utf-8")
    import_scores(project, tmp_path / "train.jsonl", "other")
    assert stored(project) == {("q1", "d1"): 3.0, ("q1", "d2"): -1.5, ("q1", "d3"): -4.0}


@pytest.mark.parametrize(
    "line",
    [
        '{"query": "first", "pos": ["alpha one"], "neg": [], "pos_scores": [1, 2]}',
        '{"query": "first", "pos": ["alpha one"], "neg": []}',
        '{"pos": ["alpha one"], "pos_scores": [1]}',
        '{"query": "first", "pos": [4], "pos_scores": [1]}',
        "[1]",
        "{",
    ],
    ids=["lengths", "no scores", "no query", "no text", "no object", "no JSON"],
)
def test_a_line_of_another_form_is_named(project: Project, tmp_path: Path, line: str) -> None:
    """A line that is passed over in silence takes its query out of training."""
    (tmp_path / "train.jsonl").write_text("\n" + line + "\n", encoding="utf-8")
    assert "line 2: expected a JSON object with query" in refused(project, tmp_path / "train.jsonl")


def test_probabilities_become_logits(project: Project, write: Write) -> None:
    """Margins of probabilities are no margins of logits: the student would learn a flat order. logit(0.9) = ln 9."""
    rows = [("q1", ["d1", "d2"], [0.9, 0.5]), ("q2", ["d3"], [0.1])]
    told = refused(project, write(rows))
    assert "all scores lie in [0.1, 0.9]" in told and "--value-space sigmoid" in told and "--value-space other" in told
    import_scores(project, write(rows, value_space="sigmoid"), "other")
    assert stored(project) == pytest.approx({("q1", "d1"): math.log(9), ("q1", "d2"): 0.0, ("q2", "d3"): -math.log(9)})


def test_other_values_stay_as_they_are(project: Project, write: Write) -> None:
    """A cosine of 0.9 is no probability: as a logit it would be 2.2."""
    import_scores(project, write([("q1", ["d1", "d2"], [0.9, 0.5])]), "other", value_space="other")
    assert stored(project) == pytest.approx({("q1", "d1"): 0.9, ("q1", "d2"): 0.5})


def test_a_killed_import_goes_on_where_it_was(project: Project, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that is known before its last pair is there would lack pairs for ever. A chunk holds two pairs here."""
    from distill_assets.storage.pair_scores import PairScoreStore

    commit, chunks = PairScoreStore.commit, list[int]()

    def die_in_the_second(store: PairScoreStore, scorer_id: str, pairs: pa.Table) -> int:
        chunks.append(pairs.num_rows)
        if len(chunks) == 2:
            raise KeyboardInterrupt
        return commit(store, scorer_id, pairs)

    monkeypatch.setattr(PairScoreStore, "commit", die_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        import_scores(project, write(), "other")
    assert len(stored(project)) == 2 and not project.places.imported_file("other").exists()
    import_scores(project, write(), "other")
    assert stored(project) == EXPECTED and chunks == [2, 1, 2, 1]
    import_scores(project, write(), "other")
    assert len(chunks) == 4, "what is stored is not written again"


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"rows": [("q1", ["d1"], [1.0, 2.0])]}, {}, "1 queries have not one score for each document, the first is 'q1'"),
    ({"rows": [("q1", ["d1"], [math.nan]), ("q2", ["d3"], [4.0])]}, {}, "1 scores are no finite number, the first is nan of"),
    ({"rows": [("q1", ["d1"], [math.inf])]}, {}, "no finite number"),
    ({"rows": [("q1", ["d1"], [1e300])]}, {}, "no finite number"),
    ({"rows": [("q1", ["d1", "d1"], [4.0, 5.0])]}, {}, "1 pairs of texts have two scores, the first is query 'q1' and document 'd1'"),
    ({"rows": [("q1", ["d1"], 4.0)]}, {}, "one is a list and the other is not"),
    ({"rows": [("q1", [], [])]}, {}, "no pair is left to import: the set is empty"),
    ({"value_space": "logits"}, {}, "value_space 'logits', expected one of logit, sigmoid, other"),
    ({"value_space": "logit"}, {"value_space": "other"}, "--value-space says 'other'"),
    ({"value_space": "sigmoid"}, {}, "all scores lie in [-1.5, 3], expected probabilities"),
    (
        {"rows": [("q1", ["d1", "d2", "d3"], [1.0, 0.0, 0.5])], "value_space": "sigmoid"},
        {},
        "cannot be turned back into logits: of 3 2 are within 1e-06",
    ),
    (
        {"rows": [("q1", ["d1", "d2", "d3"], [0.5, 0.5, 0.25])], "value_space": "sigmoid"},
        {},
        "of 3 0 are within 1e-06 of 0 or 1 and 1 equal another of their query",
    ),
    (
        {"documents": {**CONTENT, "d2": "beta before", "d9": "nobody has it"}, "rows": [("q1", ["d1", "d2", "d9"], [4.0, 5.0, 6.0])]},
        {},
        "1 pairs of 1 documents that are not in the collection (first: 'd9')",
    ),
    (
        {"documents": {**CONTENT, "d2": "beta before"}},
        {},
        "1 pairs of 1 documents that have another text in the collection now (first: 'd2')",
    ),
    ({"queries": {**QUERIES, "q2": "second, once"}}, {}, "1 pairs of 1 queries that have another text in the"),
    ({"rows": [("q1", ["d1", "d8"], [4.0, 5.0])]}, {}, "1 pairs of 1 documents that have no text in the set (first: 'd8')"),
    ({"documents": {"d1": "who"}, "rows": [("q1", ["d1"], [4.0])]}, {"skips_unknown": True}, "no pair is left to import: 1 pairs"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "options", "expected"), BAD)
def test_a_bad_set_is_refused_and_nothing_is_stored(
    project: Project, write: Write, content: dict[str, Any], options: dict[str, Any], expected: str
) -> None:
    """What is stored once is never asked again: half a set, or a wrong one, would teach for ever."""
    assert expected in refused(project, write(**content), **options)


def test_an_id_with_two_texts_is_refused(project: Project, write: Write) -> None:
    """Which of the two was scored nobody can know."""
    folder = write()
    write_table(
        folder / "documents.parquet",
        document_id=["d1", "d1", "d2", "d3"],
        document=["alpha one", "x", "beta two", "gamma three"],
    )
    assert "1 ids of documents stand for two texts each, the first is 'd1'" in refused(project, folder)


def test_what_is_no_set_is_refused(project: Project, write: Write, tmp_path: Path) -> None:
    """An empty import that succeeds looks like one that worked."""
    assert "is not there" in refused(project, tmp_path / "nowhere")
    with pytest.raises(ScoreSetError, match=r"the name '\.\./x' cannot be a folder's"):
        import_scores(project, write(), "../x")
    (tmp_path / "empty").mkdir()
    assert "found of the three tables: none of them" in refused(project, tmp_path / "empty")
    folder = write()
    write_table(folder / "scores.parquet", query_id=["q1"], document_ids=[["d1"]], points=[[4.0]])
    assert "has no column scores or score: it has query_id, document_ids, points" in refused(project, folder)
    (folder / "scores.parquet").write_bytes(b"PAR1 cut")
    assert "cannot be read" in refused(project, folder)
    (folder / "scores.parquet").unlink()
    assert "found of the three tables: documents, queries" in refused(project, folder)
    (write() / "provenance.json").write_text("[]", encoding="utf-8")
    assert "holds list, expected a JSON object" in refused(project, folder)


def test_the_rest_is_imported_where_asked(project: Project, write: Write) -> None:
    """Pairs that are left out in silence are a teacher with holes that nobody knows of."""
    rows = [("q1", ["d1", "d9"], [3.0, 4.0]), ("q8", ["d3", "d9"], [5.0, 6.0])]
    documents = {**CONTENT, "d9": "nobody has it"}
    told = import_scores(project, write(rows, documents, {**QUERIES, "q8": "who"}), "other", skips_unknown=True)
    assert stored(project) == {("q1", "d1"): 3.0}
    assert told["num_left_out"] == 3
    assert told["left_out"] == [
        "2 pairs of 1 documents that are not in the collection (first: 'd9')",
        "2 pairs of 1 queries that are not in the collection (first: 'q8')",
    ]


def test_a_set_before_the_collection_is_told_what_to_do_first(tmp_path: Path, write: Write) -> None:
    """'Not in the collection' for every pair sends the user to look at the texts."""
    folder = tmp_path / "none"
    folder.mkdir()
    (folder / "corpus.jsonl").touch()
    project = Project(overrides={"data_folder": str(tmp_path / "data"), "collection": f"beir:{folder}"})
    with pytest.raises(ScoreSetError, match="run distill-assets run --until qrels first"):
        import_scores(project, write(), "other")


def test_an_unknown_name_lists_those_there_are(project: Project, write: Write) -> None:
    """A typing error that is looked for on the hub ends in a message about models."""
    import_scores(project, write(), "known")
    wrong = Project(overrides={**project.overrides, "teacher": "scores:knwon"})
    with pytest.raises(
        ScoreSetError, match=r"no imported scores 'knwon' of this collection, only: known; .* --name knwon"
    ):
        _ = wrong.models.teacher_source_ids


def test_a_table_is_not_decoded_ahead_of_its_reader(tmp_path: Path) -> None:
    """Published sets have millions of documents: matching is slower than decoding, and memory held the whole file."""
    ids = [f"{number:05}" for number in range(60_000)]
    documents = pa.table({"document_id": ids, "document": [each * 80 for each in ids]})
    pq.write_table(documents, tmp_path / "documents.parquet", row_group_size=1000)
    pq.write_table(pa.table({"query_id": ["q"], "query": ["which?"]}), tmp_path / "queries.parquet")
    scores = {"query_id": ["q"], "document_ids": [ids[:1]], "scores": [[1.0]]}
    pq.write_table(pa.table(scores), tmp_path / "scores.parquet")
    read = open_score_files(tmp_path).documents
    assert read is not None
    before, found, held = pa.total_allocated_bytes(), list[str](), 0
    for rows in read():
        found += rows["id"].to_pylist()
        time.sleep(0.01)
        held = max(held, pa.total_allocated_bytes() - before)
    assert found == ids
    assert held < documents.nbytes / 2
