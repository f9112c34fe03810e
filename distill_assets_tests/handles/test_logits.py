"""Pairs to logits: each member is paid once, by whichever run, and a new way to join them costs nothing."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distill_assets.handles.logits import ENSEMBLE_FILE, FOLDS_FILE, Logits
from distill_assets.handles.models import Models
from distill_assets.handles.places import Places
from distill_assets.handles.vectors import Vectors
from distill_assets.models.catalog import fingerprint_model, write_trained_on
from distill_assets.models.cross_fitting import query_key
from distill_assets.records import fingerprint, hash_text
from distill_assets.settings.values import load_settings
from distill_assets.storage.missing_pairs import WantedPairs
from distill_assets.storage.warehouse import SliceWrite
from distill_assets_tests.conftest import make_project

QUERIES, DOCUMENTS = [f"query {'y' * i}" for i in range(5)], [f"document {'x' * i}" for i in range(6)]
PAIRS = [(q, d) for q in QUERIES for d in DOCUMENTS]
Pair = tuple[str, str]


@dataclass
class Scorer:
    """Scores a pair by its lengths times a factor, slowly; remembers what it was paid for. Its window of 4 pairs makes a chunk."""

    factor: float
    paid: list[Pair] = field(default_factory=list)
    dies_after: int | None = None
    window: int = 4

    def __call__(self, pairs: Sequence[Pair]) -> np.ndarray:
        """One logit per pair."""
        if self.dies_after is not None and len(self.paid) >= self.dies_after:
            raise KeyboardInterrupt
        self.paid += pairs
        time.sleep(0.005)
        return np.array([self.factor * length(pair) for pair in pairs], dtype=np.float32)


def length(pair: Pair) -> float:
    """By hand: "query y" and "document xx" are 7 and 11 letters long, 7 - 1.1 = 5.9."""
    return len(pair[0]) - len(pair[1]) / 10


def cosine(pair: Pair) -> float:
    """What the stand-in for an encoder says of a pair."""
    return len(pair[1]) / 100


@dataclass
class Cosines:
    """Stands for `Vectors`: a cosine is cheap, but counted all the same."""

    paid: list[Pair] = field(default_factory=list)

    def cosines(self, path: Path, pairs: Sequence[Pair], load: Callable[[], Any] | None = None) -> np.ndarray:
        """One cosine per pair."""
        self.paid += pairs
        return np.array([cosine(pair) for pair in pairs], dtype=np.float32)


@dataclass(frozen=True)
class CheapLogits(Logits):
    """The handle with models that cost nothing: a folder's weights are the factor of its scorer."""

    scorers: dict[str, Scorer] = field(default_factory=dict)

    def open_cross_encoder(self, path: Path) -> Scorer:
        """The scorer of a folder, made at its first use."""
        factor = (path / "model.safetensors").read_text(encoding="ascii")
        return self.scorers.setdefault(factor, Scorer(float(factor)))

    @property
    def paid(self) -> list[Pair]:
        """What the cross-encoders were paid for, together."""
        return [pair for scorer in self.scorers.values() for pair in scorer.paid]


@pytest.fixture
def wanted() -> WantedPairs:
    """Five queries by six documents, in the order of `PAIRS`."""
    return wanted_pairs(PAIRS)


def wanted_pairs(pairs: Sequence[Pair]) -> WantedPairs:
    """Pairs by hash; their place among `pairs` is the order of a join."""
    columns = {
        "place": range(len(pairs)),
        "query_hash": [hash_text(q) for q, _ in pairs],
        "doc_hash": [hash_text(d) for _, d in pairs],
    }
    return WantedPairs.of_table(pa.table({name: pa.array(list(values)) for name, values in columns.items()}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project's folder with the texts of the pairs in its warehouse, and a student."""
    documents = [{"doc_id": d, "title": "", "text": d, "content_hash": hash_text(d)} for d in DOCUMENTS]
    queries = [{"query_id": q, "text": q, "text_key": q, "split": "train"} for q in QUERIES]
    Places(tmp_path / "data").warehouse.write(
        SliceWrite(table="corpus", rows=pa.Table.from_pylist(documents), slice_key="a"),
        SliceWrite(table="queries", rows=pa.Table.from_pylist(queries), slice_key="a"),
    )
    save(tmp_path / "student", "0.0")
    return tmp_path


def save(path: Path, factor: str, *, cosine_weight: float | None = None, way: str = "packed") -> Path:
    """A cross-encoder's folder, joined with a cosine where a weight is given."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.safetensors").write_text(factor, encoding="ascii")
    (path / "manifest.json").write_text(json.dumps({"ways": {"": way}}), encoding="utf-8")
    if cosine_weight is not None:
        (path / ENSEMBLE_FILE).write_text(json.dumps({"cosine_weight": cosine_weight}), encoding="utf-8")
    return path


def open_logits(folder: Path, **overrides: Any) -> CheapLogits:
    """The handle as a new process would have it."""
    values: dict[str, Any] = {
        "data_folder": str(folder / "data"), "student": str(folder / "student"), "chunk_size": 4, "device": "cpu",
        "precision": "fp32", "student_precision": "fp32",
    }  # fmt: skip
    chosen = load_settings(None, **(values | overrides))
    vectors: Any = Cosines()
    places = Places(folder / "data", chosen.shared_stores)
    return CheapLogits(chosen, places, Models(chosen), vectors, payer=("teacher_scores", "a"))


def score(logits: CheapLogits, path: Path, wanted: WantedPairs) -> tuple[list[float], int]:
    """Joined logits in the order of the wanted pairs, and the number of forward passes."""
    rows, num_scored = logits.score(logits.teacher(path), wanted)
    return rows["teacher_logit"].to_pylist(), num_scored


def test_two_runs_at_the_same_time_pay_once(folder: Path, wanted: WantedPairs) -> None:
    """Two runs that look before either has stored anything would each pay for all of it."""
    path, runs, found = save(folder / "teacher", "1.0"), [open_logits(folder), open_logits(folder)], []
    threads = [threading.Thread(target=lambda run=run: found.append(score(run, path, wanted))) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    paid = runs[0].paid + runs[1].paid
    assert len(paid) == len(set(paid)) == 30
    assert sorted(num_scored for _, num_scored in found) == [0, 30]
    assert found[0][0] == found[1][0] == pytest.approx([length(pair) for pair in PAIRS])


def test_two_lines_with_one_store_pay_once(folder: Path, wanted: WantedPairs) -> None:
    """Two lines that each pay for all of it, side by side or one after the other; a line that pays again when it begins to share.

    Half of the pairs was paid for before by the first line alone, in its own warehouse.
    """
    path = save(folder / "teacher", "1.0", cosine_weight=2.0)
    alone, _ = score(open_logits(folder), path, wanted)
    for name in ("first", "second"):
        shutil.copytree(folder / "data", folder / name / "data")
        shutil.copytree(folder / "student", folder / name / "student")
        with Places(folder / name / "data").warehouse.transaction() as connection:
            connection.execute("DELETE FROM pair_scores")
    assert score(open_logits(folder / "first"), path, wanted_pairs(PAIRS[:15]))[1] == 15
    shared = {"shared_stores": str(folder / "shared" / "stores")}
    runs, found = [open_logits(folder / name, **shared) for name in ("first", "second")], {}
    threads = [
        threading.Thread(target=lambda n=n, run=run: found.update({n: score(run, path, wanted)}))
        for n, run in enumerate(runs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[0][0] == found[1][0] == alone, "to the last bit"
    assert len(runs[0].paid) + len(runs[1].paid) == found[0][1] + found[1][1] == 30
    assert set(runs[0].paid).isdisjoint(PAIRS[:15])
    third = open_logits(folder / "second", **shared)
    assert score(third, path, wanted) == (alone, 0) and third.paid == []


def test_a_killed_run_loses_one_chunk_and_changes_no_logit(folder: Path, wanted: WantedPairs) -> None:
    """Killed after 12 of 30 pairs: the second run pays for the other 18, and every logit is its own pair's."""
    path, killed, again = save(folder / "teacher", "2.0"), open_logits(folder), open_logits(folder)
    killed.scorers["2.0"] = Scorer(2.0, dies_after=12)
    with pytest.raises(KeyboardInterrupt):
        score(killed, path, wanted)
    member = killed.teacher(path).members[0].scorer_id
    assert killed.places.pair_scores.count([member]) == 12
    logits, num_scored = score(again, path, wanted)
    assert num_scored == len(again.paid) == 18
    assert set(killed.paid) | set(again.paid) == set(PAIRS)
    assert logits == pytest.approx([2 * length(pair) for pair in PAIRS])
    costs = again.places.warehouse.read("scoring_costs").to_pylist()
    assert [(c["asset"], c["partition_key"], c["num_pairs"]) for c in costs] == [
        ("teacher_scores", "a", 12),
        ("teacher_scores", "a", 18),
    ]


def test_nothing_missing_opens_no_model(folder: Path, wanted: WantedPairs) -> None:
    """A run with nothing to do that loads a model takes a minute to say so, and writes down a cost that nobody had."""
    path = save(folder / "teacher", "1.0", cosine_weight=2.0)
    logits, num_scored = score(open_logits(folder), path, wanted)
    again = open_logits(folder)
    assert num_scored == 30
    assert score(again, path, wanted) == (logits, 0)
    assert again.scorers == {} and again.vectors.paid == []
    assert again.places.warehouse.read("scoring_costs").num_rows == 1


@pytest.mark.parametrize(
    ("way", "overrides", "num_paid"),
    [
        ("packed", {"precision": "bf16"}, 30),
        ("packed", {"teacher_max_length": 64}, 30),
        ("packed", {"teacher_prompt": "rank: "}, 30),
        ("packed", {"teacher_prompt": ""}, 30),  # the model's own is left out
        ("predict", {"precision": "bf16"}, 0),  # it computes in fp32 whatever is asked for
        ("packed", {"chunk_size": 8, "chunk_seconds": 1.0}, 0),
    ],
)
def test_what_moves_a_logit_has_a_key_of_its_own(
    folder: Path, wanted: WantedPairs, way: str, overrides: dict[str, Any], num_paid: int
) -> None:
    """Half a list in bf16 and half in fp32, or half of it cut at 64 tokens, is ranked by rounding. What moves none costs none."""
    path = save(folder / "teacher", "1.0", way=way)
    assert score(open_logits(folder), path, wanted)[1] == 30
    other = open_logits(folder, **overrides)
    assert score(other, path, wanted)[1] == len(other.paid) == num_paid


def test_a_teacher_without_a_set_prompt_keeps_its_id(folder: Path) -> None:
    """Everything that was scored before there were prompts would be paid for again."""
    path = save(folder / "teacher", "1.0")
    content = fingerprint_model(path, frozenset({"bi_encoder", "ensemble.json", "folds.json", "trained_on.txt"}))
    found = open_logits(folder, teacher_max_length=512, precision="fp32").cross_encoder_id(path)
    assert found == fingerprint("cross_encoder", content, 512, "fp32")


def test_a_new_joining_weight_costs_no_forward_pass(folder: Path, wanted: WantedPairs) -> None:
    """The weight is measured anew with every batch of labels. Logits that are kept joined are all paid for again."""
    assert score(open_logits(folder), save(folder / "teacher", "1.0", cosine_weight=2.0), wanted)[1] == 30
    again = open_logits(folder)
    logits, num_scored = score(again, save(folder / "teacher", "1.0", cosine_weight=50.0), wanted)
    assert (num_scored, again.paid, again.vectors.paid) == (0, [], [])
    assert logits == pytest.approx([length(pair) + 50 * cosine(pair) for pair in PAIRS])
    (folder / "teacher" / ENSEMBLE_FILE).unlink()
    assert score(again, folder / "teacher", wanted) == (pytest.approx([length(pair) for pair in PAIRS]), 0)


def save_folds(folder: Path, *, scales: Sequence[float] = (1.0, 0.5)) -> Path:
    """A teacher of two folds: the first saw the labels of queries 0 and 1, the second those of 1 and 2."""
    for fold, (factor, seen) in enumerate((("1.0", QUERIES[:2]), ("10.0", QUERIES[1:3]))):
        path = save(folder / "teacher" / f"fold-{fold}", factor, cosine_weight=(4.0, 8.0)[fold])
        write_trained_on(path, [query_key(query) for query in seen])
    (folder / "teacher" / FOLDS_FILE).write_text(json.dumps({"scales": scales}), encoding="utf-8")
    return folder / "teacher"


def test_a_fold_scores_no_query_whose_label_it_saw(folder: Path, wanted: WantedPairs) -> None:
    """A fold repeats the labels that it saw, so its soft labels say no more than they. Query 1 both saw: both score it."""
    logits = open_logits(folder)
    path = save_folds(folder)
    assert score(logits, path, wanted)[1] == (4 + 4) * 6
    assert {query for query, _ in logits.scorers["1.0"].paid} == set(QUERIES) - {QUERIES[0]}
    assert {query for query, _ in logits.scorers["10.0"].paid} == set(QUERIES) - {QUERIES[2]}
    assert score(open_logits(folder), path, wanted)[1] == 0


def test_joined_logits_are_those_of_a_hand_computation(folder: Path, wanted: WantedPairs) -> None:
    """One scale, weight or share in another's place is a plausible teacher that ranks otherwise.

    Fold 0 says 1 x (length + 4 cosine); fold 1 says 0.5 x (10 length + 8 cosine) = 5 length + 4 cosine.
    Query 0 is scored by fold 1 alone, query 2 by fold 0 alone, and the others by the mean, 3 length + 4 cosine.
    """
    found, _ = score(open_logits(folder), save_folds(folder), wanted)
    lengths = {QUERIES[0]: 5.0, QUERIES[2]: 1.0}
    assert found == pytest.approx(
        [lengths.get(pair[0], 3.0) * length(pair) + 4 * cosine(pair) for pair in PAIRS], rel=1e-6
    )
    assert found[0] == pytest.approx(5 * (6 - 0.9) + 4 * 0.09)  # "query " and "document " are 6 and 9 letters long
    rescaled, num_scored = score(open_logits(folder), save_folds(folder, scales=(1.0, 0.1)), wanted)
    assert (rescaled[0], num_scored) == (pytest.approx(5.1 + 0.8 * 0.09), 0)


def test_the_opened_teacher_says_what_the_store_says(folder: Path, wanted: WantedPairs) -> None:
    """Timing and search open the teacher; scores that are joined by another rule there rank otherwise than the student learned."""
    logits, path = open_logits(folder), save_folds(folder)
    stored, _ = score(logits, path, wanted)
    assert logits.open(path)(PAIRS).tolist() == pytest.approx(stored, rel=1e-6)
    assert logits.open(path)([]).shape == (0,)
    single = save(folder / "single", "3.0")
    assert logits.open(single)(PAIRS).tolist() == pytest.approx(score(logits, single, wanted)[0])


def test_a_member_of_two_teachers_is_not_paid_twice(folder: Path, wanted: WantedPairs) -> None:
    """A teacher of one more fold, or one that is joined now, has its old members: hours of logits that are there already."""
    assert score(open_logits(folder), save(folder / "single", "10.0", cosine_weight=1.0), wanted)[1] == 30
    again = open_logits(folder)
    assert score(again, save_folds(folder), wanted)[1] == len(again.scorers["1.0"].paid) == 24
    assert list(again.scorers) == ["1.0"] and again.vectors.paid == []
    assert again.score_alone(folder / "teacher" / "fold-1", PAIRS[:2]).tolist() == pytest.approx([51.0, 50.0])
    assert list(again.scorers) == ["1.0"]


def test_texts_are_answered_in_the_order_asked(folder: Path) -> None:
    """Sorted answers beside unsorted texts give each document another document's logit; a pair asked twice is paid once."""
    logits = open_logits(folder)
    asked = [PAIRS[7], PAIRS[0], PAIRS[29], PAIRS[7]]
    found, num_scored = logits.score_texts(logits.teacher(save(folder / "teacher", "1.0")), asked)
    assert found == pytest.approx([length(pair) for pair in asked])
    assert (num_scored, len(logits.paid)) == (3, 3)


def test_real_models_are_joined_as_their_own_libraries_score(
    beir_folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, folder: Path
) -> None:
    """The stand-ins above know nothing of tokens: a member that reads the texts the other way round, or cut elsewhere, looks alike."""
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer

    path = folder / "teacher"
    shutil.copytree(tiny_cross_encoder, path)
    (path / ENSEMBLE_FILE).write_text(json.dumps({"cosine_weight": 2.0}), encoding="utf-8")
    settings = {"precision": "fp32", "student_precision": "fp32"}
    project = make_project(beir_folder, tiny_encoder, tiny_cross_encoder, folder / "unused", **settings)
    places = Places(folder / "data")
    vectors = Vectors(project.settings, project.models, places.embeddings)
    logits = Logits(project.settings, places, project.models, vectors)
    found, num_scored = logits.score_texts(logits.teacher(path), PAIRS)
    cross_encoder = CrossEncoder(str(path), device="cpu")
    expected = cross_encoder.predict(PAIRS, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    encoder = SentenceTransformer(str(tiny_encoder), device="cpu")
    queries, documents = (encoder.encode([pair[side] for pair in PAIRS], normalize_embeddings=True) for side in (0, 1))
    assert num_scored == 30
    assert np.allclose(found, expected + 2.0 * (queries * documents).sum(axis=1), atol=1e-4)
    assert np.allclose(logits.open(path)(PAIRS), found, atol=1e-5)
