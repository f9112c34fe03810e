"""The interface for notebooks, on values that are worked out by hand."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from distill_assets import open_line
from distill_assets.assets.release import HISTORY_SCHEMA
from distill_assets.definitions import build_definitions
from distill_assets.errors import DistillError, MissingPartitionError, PromotionError
from distill_assets.storage.tables import TABLES
from distill_assets.storage.warehouse import SliceWrite

NUMBERS = {"mrr_at_10": 0.5, "recall_at_100": 0.5, "map": 0.5, "num_queries": 12, "split": "test"}


def read_collection(project: Any, *, raise_on_error: bool = True) -> None:
    """Make the tiny collection's tables, recorded in the instance beside the warehouse."""
    home = project.places.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("batches", ["tiny"])
        build_definitions(project).resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(name) for name in ("corpus", "queries", "qrels")],
            partition_key="tiny",
            raise_on_error=raise_on_error,
        )


def reopen(project: Any) -> Any:
    """The project's line as a notebook opens it."""
    settings = {name: value for name, value in project.overrides.items() if name != "data_folder"}
    return open_line(project.overrides["data_folder"], **settings)


def write(project: Any, table: str, rows: list[dict[str, Any]], key: str = "") -> None:
    """Rows of one slice."""
    project.places.warehouse.write(SliceWrite(table=table, rows=pa.Table.from_pylist(rows), slice_key=key))


@pytest.fixture(autouse=True)
def _own_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


def test_importing_the_package_is_light() -> None:
    """A package that loads torch to tell its version takes seconds in each process of the code server."""
    heavy = ("dagster", "duckdb", "pandas", "torch", "pydantic")
    code = f"import sys, distill_assets; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_folder_without_data_is_an_error_that_names_what_there_is(project: Any, tmp_path: Path) -> None:
    """Frames without rows would read as: nothing was found."""
    with pytest.raises(
        DistillError, match=r"no data in .*/data for the collection 'python_api': run distill-assets run"
    ):
        open_line(tmp_path / "data")
    read_collection(project)
    with pytest.raises(DistillError, match="data there: beir-tiny-"):
        open_line(tmp_path / "data")


def test_a_line_without_results_says_what_to_run(project: Any) -> None:
    """A KeyError of pandas, or an empty frame, leaves a newcomer alone."""
    read_collection(project)
    line = reopen(project)
    for read in (line.leaderboard, line.scores, lambda: line.rankings("bm25")):
        with pytest.raises(DistillError, match="run distill-assets run first"):
            read()
    with pytest.raises(PromotionError, match="run distill-assets run first"):
        line.search("how to sum a matrix")
    with pytest.raises(MissingPartitionError, match="tiny"):
        line.scores("tiny")


def test_leaderboard_is_best_first(project: Any) -> None:
    """In the order of the table, a notebook's `iloc[0]` is the first name of the alphabet."""
    means = {"bm25": 0.25, "kl": 0.75, "teacher": 0.5, "hard_labels": 0.75}
    rows = [
        {
            **dict.fromkeys(TABLES["leaderboard"].columns),
            **NUMBERS,
            "system": name,
            "ndcg_at_10": mean,
            "ndcg_at_10_low": mean - 0.1,
            "ndcg_at_10_high": mean + 0.1,
        }
        for name, mean in means.items()
    ]
    write(project, "leaderboard", rows)
    board = reopen(project).leaderboard()
    assert list(zip(board["system"], board["ndcg_at_10"], strict=True)) == [
        ("hard_labels", 0.75),
        ("kl", 0.75),
        ("teacher", 0.5),
        ("bm25", 0.25),
    ]
    assert list(board.index) == [0, 1, 2, 3]


def test_rankings_are_of_one_system_and_split_in_order(project: Any) -> None:
    """Another split's rows, or ranks out of order, would change every metric that a notebook computes from them."""
    rows = [
        {"split": split, "query_id": query, "doc_id": f"d{rank}", "rank": rank, "score": 1.0 / rank}
        for split, query in (("test", "q2"), ("test", "q1"), ("dev", "q3"))
        for rank in (2, 1)
    ]
    write(project, "rankings", rows, "bm25")
    write(project, "rankings", rows[:1], "kl")
    found = reopen(project).rankings("bm25")
    assert found.to_dict("list") == {
        "query_id": ["q1", "q1", "q2", "q2"],
        "doc_id": ["d1", "d2", "d1", "d2"],
        "rank": [1, 2, 1, 2],
        "score": [1.0, 0.5, 1.0, 0.5],
    }
    assert list(reopen(project).rankings("bm25", "dev")["query_id"]) == ["q3", "q3"]


def test_scores_with_the_texts_of_their_pairs(project: Any) -> None:
    """A text beside another pair's logit would make every look at the teacher's mistakes wrong."""
    read_collection(project)
    pairs = [("q-array-sort", "matrix-sum", 0, -1.5), ("q-array-sum", "array-sum", 1, 2.5), ("q-gone", "gone", 0, 0.0)]
    names = ("query_id", "doc_id", "label", "teacher_logit")
    write(project, "teacher_scores", [dict(zip(names, pair, strict=True)) for pair in pairs], "tiny")
    line = reopen(project)
    assert list(line.scores().columns) == ["batch", *names]
    found = line.scores("tiny", with_texts=True)
    assert list(found["teacher_logit"]) == [-1.5, 2.5, 0.0] and list(found["label"]) == [0, 1, 0]
    assert list(found["query"])[:2] == ["how to sort a array", "how to sum a array"]
    assert list(found["document"])[:2] == [
        "matrix sum every value of the matrix along one axis",
        "array sum every value of the array along one axis",
    ]
    assert found[["query", "document"]].isna().to_numpy().tolist() == [[False, False], [False, False], [True, True]]


def test_checks_are_the_latest_of_each_partition(project: Any) -> None:
    """A check that failed yesterday and passed today, or the other way round, must not be told as it was."""
    read_collection(project)
    line = reopen(project)
    before = line.checks().set_index(["asset", "partition", "check"])
    assert before.index.is_unique and before["passed"].all()
    assert before.loc[("corpus", "tiny", "documents_not_empty"), "severity"] == "ERROR"
    corpus = project.collection.source.root / "corpus.jsonl"
    blanks = "".join(json.dumps({"_id": f"signs-{number}", "text": "---"}) + "\n" for number in range(30))
    corpus.write_text(corpus.read_text(encoding="utf-8") + blanks, encoding="utf-8")
    read_collection(project, raise_on_error=False)
    row = line.checks().set_index(["asset", "partition", "check"]).loc[("corpus", "tiny", "documents_not_empty")]
    assert not row["passed"] and row["description"].startswith("30 of 150 documents hold no letter")
    assert row["checked_at"] > before.loc[("corpus", "tiny", "documents_not_empty"), "checked_at"]


def test_search_is_the_champions(project: Any, tiny_encoder: Path) -> None:
    """Hits as a frame must stand in the searcher's order, with the model that they are of."""
    read_collection(project)
    row = {"decided_at": datetime(2026, 11, 24), "recipe": "kl", "model_fingerprint": "f", "verdict": "promoted"}
    row |= {"checkpoint_path": str(tiny_encoder), "reason": "first", "dev_ndcg_at_10": 0.5, "p_value": None}
    project.places.warehouse.append("champion_history", pa.Table.from_pylist([row], schema=HISTORY_SCHEMA))
    found = reopen(project).search("how to sum a matrix", 3)
    assert list(found.columns) == ["rank", "doc_id", "student_score", "text", "passage_id"] and list(found["rank"]) == [
        1,
        2,
        3,
    ]
    assert found["student_score"].is_monotonic_decreasing
    assert found.attrs == {"champion": "kl", "missing_batches": []}
