"""One pair-score store of several lines: what two have is paid once, and no line's scores change by sharing."""

import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from distill_assets.errors import WarehouseBusyError, WarehouseError
from distill_assets.storage.missing_pairs import WantedPairs
from distill_assets.storage.pair_scores import JoinRule, PairScoreStore, Part
from distill_assets.storage.warehouse import Warehouse
from distill_assets_tests.storage.test_pair_scores import alone, logits, scored, wanted
from distill_assets_tests.storage.test_warehouse import HOLDER


def line(folder: Path, name: str, *, is_sharing: bool = True, timeout_s: float = 60) -> PairScoreStore:
    """The store of a line, as a new process would open it."""
    shared = Warehouse(folder / "shared" / "pair_scores.duckdb", lock_timeout_s=timeout_s) if is_sharing else None
    (folder / name).mkdir(exist_ok=True)
    return PairScoreStore(Warehouse(folder / name / "distill.duckdb"), shared)


def num_missing(store: PairScoreStore, *keys: str, scorer_id: str = "t") -> int:
    """How many of these pairs would have to be paid for."""
    with store.missing(scorer_id, wanted(*keys)) as missing:
        return missing.num_pairs


def test_the_second_line_pays_only_for_what_no_line_has(tmp_path: Path) -> None:
    """A pair that is paid twice doubles hours of work; a score in another pair's or scorer's place is plausible and wrong."""
    first, second, by_itself = line(tmp_path, "a"), line(tmp_path, "b"), line(tmp_path, "c", is_sharing=False)
    assert num_missing(second, "q1d1") == 1 and not second.home.exists(), "asking makes no store"
    first.commit("t", scored(q1d1=0.1, q1d2=0.2))
    first.commit("cosine", scored(q1d1=0.7, q1d2=-0.3, q1d3=0.9))
    assert num_missing(second, "q1d1", "q1d2", "q1d3", "q1d3") == 1
    assert num_missing(second, "q1d1", scorer_id="another") == 1
    second.commit("t", scored(q1d3=0.3))
    for name, values in (
        ("t", {"q1d1": 0.1, "q1d2": 0.2, "q1d3": 0.3}),
        ("cosine", {"q1d1": 0.7, "q1d2": -0.3, "q1d3": 0.9}),
    ):
        by_itself.commit(name, scored(**values))
    rule = JoinRule((Part("t"), Part("cosine", 1.7)))
    found = [logits(store, rule, "q1d3", "q1d1", "q1d2") for store in (first, second, by_itself)]
    assert found[0] == found[1] == found[2], "to the last bit"
    assert first.warehouse.read("pair_scores").num_rows == 0 and first.count(["t"]) == second.count(["t"]) == 3


def test_switching_on_pays_for_nothing_again_and_moves_no_score(tmp_path: Path) -> None:
    """What a line paid for before lies in its own warehouse: not read any more, all of it is scored again.

    Of a pair that both have, the line's own logit counts, and once: two rows would double a document in every list.
    """
    line(tmp_path, "a", is_sharing=False).commit("t", scored(q1d1=1.0, q1d2=2.0))
    line(tmp_path, "b").commit("t", scored(q1d1=1.0001, q1d3=3.0))
    switched_on = line(tmp_path, "a")
    assert num_missing(switched_on, "q1d1", "q1d2", "q1d3", "q1d4") == 1
    assert logits(switched_on, alone("t"), "q1d1", "q1d2", "q1d3") == [1.0, 2.0, 3.0]
    with pytest.raises(WarehouseError, match="1 of 2 pairs have no score"):
        logits(switched_on, alone("t"), "q1d1", "q1d4")


def test_a_scorer_that_is_in_a_teacher_twice_counts_each_pair_once(tmp_path: Path) -> None:
    """Folds share the untouched student's cosine: copied once for each of them, every pair comes out several times."""
    line(tmp_path, "a").commit("cosine", scored(q1d1=0.5, q1d2=0.25))
    assert logits(line(tmp_path, "b"), JoinRule((Part("cosine"), Part("cosine", 3.0))), "q1d1", "q1d2") == [2.0, 1.0]


def test_a_select_of_the_line_is_joined_with_what_is_shared(tmp_path: Path) -> None:
    """Wanted pairs come from tables of the line, which the shared file has, too, and empty: read there, nothing would be wanted."""
    store = line(tmp_path, "a")
    row = {"asset": ["x"], "partition_key": ["q1"], "teacher_fingerprint": ["d1"], "num_pairs": [1], "seconds": [0.0]}
    store.warehouse.append("scoring_costs", pa.table({**row, "scored_at": pa.array([0], pa.timestamp("us"))}))
    sql = "SELECT 'k' AS key, partition_key AS query_hash, teacher_fingerprint AS doc_hash FROM scoring_costs WHERE asset = $chosen"
    chosen = WantedPairs(sql, {"chosen": "x"})
    store.commit("t", scored(q1d1=5.0))
    with store.missing("t", chosen) as missing:
        assert missing.num_pairs == 0
    assert store.join(alone("t"), chosen).to_pydict() == {"key": ["k"], "teacher_logit": [5.0]}


def test_a_shared_file_that_is_held_is_waited_for(tmp_path: Path) -> None:
    """Another line commits at any moment: without the wait every read beside it dies, or takes what is there for missing."""
    store = line(tmp_path, "a")
    store.commit("t", scored(q1d1=1.0))
    command = [sys.executable, "-c", HOLDER, str(store.home.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "held\n"
        with pytest.raises(WarehouseBusyError, match=rf"pair_scores.duckdb was held by another process.*{process.pid}"):
            num_missing(line(tmp_path, "a", timeout_s=0.2), "q1d1")
        threading.Timer(0.5, process.stdin.close).start()
        assert num_missing(store, "q1d1", "q1d2") == 1
    assert logits(store, alone("t"), "q1d1") == [1.0]


def test_threads_that_commit_and_read_side_by_side_lose_nothing(tmp_path: Path) -> None:
    """A chunk that is lost is paid again, one that is half there is joined into a wrong sum; both are silent."""
    failures: list[BaseException] = []

    def score(name: str) -> None:
        try:
            store = line(tmp_path, name)
            for number in range(8):
                store.commit("t", scored(**{f"q{number}{name}": float(number), f"q{number}both": 9.0}))
                assert num_missing(store, f"q{number}{name}", f"q{number}both") == 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=score, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    keys = [f"q{number}{name}" for number in range(8) for name in ("a", "b", "both")]
    store = line(tmp_path, "c")
    assert (store.count(["t"]), num_missing(store, *keys)) == (24, 0)
    assert logits(store, alone("t"), "q3a", "q3b", "q3both") == [3.0, 3.0, 9.0]


@pytest.mark.parametrize("content", ["other tables", "not a valid DuckDB"])
def test_a_file_that_is_no_warehouse_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    """Somebody's own DuckDB file at that place must not be filled with our tables, nor be read as a store without any score."""
    store = line(tmp_path, "a")
    store.home.path.parent.mkdir()
    if content == "other tables":
        with duckdb.connect(str(store.home.path)) as connection:
            connection.execute("CREATE TABLE theirs (x INTEGER)")
    else:
        store.home.path.write_text("hello " * 1000, encoding="ascii")
    before = store.home.path.read_bytes()
    for use in (lambda: num_missing(store, "q1d1"), lambda: store.commit("t", scored(q1d1=1.0))):
        with pytest.raises(WarehouseError, match=rf"pair_scores.duckdb.*{content}"):
            use()
    assert store.home.path.read_bytes() == before
