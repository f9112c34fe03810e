"""Scoring what is missing: paid once, by whichever run, under the precision it was scored in."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distill_assets.assets.scoring import score_pairs, scores_key
from distill_assets.core.errors import ModelError
from distill_assets.core.records import hash_text
from distill_assets.storage.missing_pairs import WantedPairs
from distill_assets.storage.pair_scores import PairScoreStore
from distill_assets.storage.warehouse import Warehouse

TEACHER = "t" * 32


class SlowScorer:
    """Scores by length, slowly; remembers every pair that it was paid for. Its window of 4 pairs is what a chunk is made of."""

    window = 4

    def __init__(self) -> None:
        self.paid: list[tuple[str, str]] = []
        self.dies_after: int | None = None

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """One logit per pair."""
        if self.dies_after is not None and len(self.paid) >= self.dies_after:
            raise KeyboardInterrupt
        self.paid += pairs
        time.sleep(0.01)
        return np.array([len(q) - len(d) / 10 for q, d in pairs], dtype=np.float32)


def make_project(folder: Path, scorer: SlowScorer, precision: str = "fp32") -> Any:
    """What `score_pairs` uses of a project."""
    warehouse = Warehouse(folder / "w.duckdb")
    return SimpleNamespace(
        warehouse=warehouse,
        pair_scores=PairScoreStore(warehouse),
        folder=folder,
        scoring_precision=precision,
        teacher_scorer=lambda path, precision=None: scorer,
        settings=SimpleNamespace(chunk_size=4, chunk_seconds=10.0),
        show_progress=False,
    )


@pytest.fixture
def wanted(tmp_path: Path) -> WantedPairs:
    """Five queries by six documents, in a warehouse with a teacher."""
    warehouse = Warehouse(tmp_path / "w.duckdb")
    documents = [f"document {'x' * i}" for i in range(6)]
    queries = [f"query {'y' * i}" for i in range(5)]
    rows = [{"doc_id": d, "title": "", "text": d, "content_hash": hash_text(d)} for d in documents]
    warehouse.replace_slice("corpus", pa.Table.from_pylist(rows), slice_key="a")
    rows = [{"query_id": q, "text": q, "split": "train"} for q in queries]
    warehouse.replace_slice("queries", pa.Table.from_pylist(rows), slice_key="a")
    row = {"kind": "teacher", "path": ".", "model_fingerprint": TEACHER, "manifest_json": "{}"}
    warehouse.replace_slice("checkpoints", pa.Table.from_pylist([row]), slice_key="teacher")
    pairs = [(hash_text(q), hash_text(d)) for q in queries for d in documents]
    return WantedPairs.of_table(pa.table({"query_hash": [q for q, _ in pairs], "doc_hash": [d for _, d in pairs]}))


CONTEXT = SimpleNamespace(log=SimpleNamespace(info=lambda _: None))


def test_two_runs_at_the_same_time_pay_once(tmp_path: Path, wanted: WantedPairs) -> None:
    """Two runs that look before either has stored anything would each pay for all of it."""
    scorers = [SlowScorer(), SlowScorer()]
    runs = [
        threading.Thread(target=score_pairs, args=(make_project(tmp_path, scorer), CONTEXT, wanted))
        for scorer in scorers
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    paid = scorers[0].paid + scorers[1].paid
    assert len(paid) == len(set(paid)) == 30


def test_a_killed_run_loses_one_chunk_and_changes_no_logit(tmp_path: Path, wanted: WantedPairs) -> None:
    """Killed after 12 of 30 pairs: the second run pays for the other 18, and every logit is its own pair's."""
    scorer = SlowScorer()
    scorer.dies_after = 12
    project = make_project(tmp_path, scorer)
    with pytest.raises(KeyboardInterrupt):
        score_pairs(project, CONTEXT, wanted)
    assert project.pair_scores.count(TEACHER) == 12
    again = SlowScorer()
    key, num_scored = score_pairs(make_project(tmp_path, again), CONTEXT, wanted)
    assert num_scored == len(again.paid) == 18
    expected = {(hash_text(q), hash_text(d)): len(q) - len(d) / 10 for q, d in scorer.paid + again.paid}
    found = project.pair_scores.lookup(key, wanted.incoming)
    assert {(r["query_hash"], r["doc_hash"]): pytest.approx(r["teacher_logit"]) for r in found.to_pylist()} == expected


def test_nothing_missing_opens_no_model(tmp_path: Path, wanted: WantedPairs) -> None:
    """A run with nothing to do that loads a model takes a minute to say so."""
    score_pairs(make_project(tmp_path, SlowScorer()), CONTEXT, wanted)
    project = make_project(tmp_path, SlowScorer())
    project.teacher_scorer = None
    assert score_pairs(project, CONTEXT, wanted) == (TEACHER, 0)


def test_precisions_share_no_logit(tmp_path: Path, wanted: WantedPairs) -> None:
    """Half a list in bf16 and half in fp32 is ranked by rounding; fp32 keeps the key that older versions stored under."""
    assert score_pairs(make_project(tmp_path, SlowScorer(), "fp32"), CONTEXT, wanted) == (TEACHER, 30)
    key, num_scored = score_pairs(make_project(tmp_path, SlowScorer(), "bf16"), CONTEXT, wanted)
    assert num_scored == 30
    assert key == scores_key(TEACHER, "bf16") != TEACHER


class Reversed(SlowScorer):
    """Orders one query's documents the other way round."""

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """One logit per pair."""
        logits = super().__call__(pairs)
        return np.where([q == "query " for q, _ in pairs], -logits, logits).astype(np.float32)


def test_int8_that_orders_otherwise_is_refused_before_anything_is_paid(tmp_path: Path, wanted: WantedPairs) -> None:
    """By hand: of five queries one is reversed, so the mean tau is (4 - 1) / 5 = 0.6. Its logits would stay in the store for ever."""
    project = make_project(tmp_path, Reversed(), "int8")
    reference = SlowScorer()
    project.teacher_scorer = lambda path, precision=None: reference if precision == "fp32" else Reversed()
    with pytest.raises(
        ModelError, match=r"tau per query of int8 with fp32 0\.600 on 30 pairs of 5 queries, expected at least 0\.98"
    ):
        score_pairs(project, CONTEXT, wanted)
    assert len(reference.paid) == 30
    assert project.pair_scores.count(scores_key(TEACHER, "int8")) == 0


def test_int8_that_keeps_the_order_scores_under_a_key_of_its_own(tmp_path: Path, wanted: WantedPairs) -> None:
    """8-bit logits under the key of fp32 would be mixed with exact ones within a list."""
    key, num_scored = score_pairs(make_project(tmp_path, SlowScorer(), "int8"), CONTEXT, wanted)
    assert (key, num_scored) == (scores_key(TEACHER, "int8"), 30)
    assert key != TEACHER
