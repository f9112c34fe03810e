"""Incremental equals from scratch: any sequence of changes, then `run`, gives what an empty folder gives for the last state.

Nothing is compared with a number that somebody wrote down: the same line, run once over the last state, is the judge. The store's
commits are counted all the while, because no pair's forward pass may be paid twice.

`INCREMENTAL_SEQUENCES=500 pytest distill_assets_tests/test_incremental.py` is the long run; 20 sequences are the default.
"""

import copy
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from distill_assets.assets import ASSETS
from distill_assets.assets.rankings import FORMER_CHAMPION
from distill_assets.assets.release import roll_back
from distill_assets.errors import PromotionError
from distill_assets.models.catalog import fingerprint_model
from distill_assets.orchestration.stages import (
    INGEST,
    is_stale,
    is_stale_for_retraining,
    next_work,
    partitions_of,
    stages_of,
)
from distill_assets.records import hybrid_of
from distill_assets.report.publishing import current_champion
from distill_assets.storage.pair_scores import PairScoreStore
from distill_assets.storage.warehouse import SliceWrite
from distill_assets_tests.conftest import ACTIONS, TOPICS, make_project, save_tiny_cross_encoder, save_tiny_encoder

SEQUENCES = int(os.environ.get("INCREMENTAL_SEQUENCES", "20"))
LOG = logging.getLogger("incremental")
BATCHES = ("a", "b", "c")
Texts = dict[str, str]

# What a change may set; each value is one that a small collection can be run with.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "teacher_max_length": (48, 24),
    "student_max_length": (32, 16),
    "query_prompt": ("", "sum "),
    "scored_negatives": (3, 2),
    "negatives_per_query": (4, 3),
    "mining_depth": (12, 10),
    "step_queries": (4, 3),
    "pool_depth": (6, 4),
    "dev_queries": (6, 5),
    "test_queries": (6, 4),
    "train_queries": (8, 6),
    "promotion_margin": (0.01, 0.5),
    "min_relevance": (1, 2),
    "query_groups": (("source", "batch", "length"), ("source",)),
    "passage_tokens": (None, 16, 24),
    "passage_overlap": (4, 2),
}
LEARNING_RATES = (5e-5, 1e-3)
POSITIVES = ("found", "human", "teacher")


class Killed(BaseException):
    """Ends a run where a kill would."""


class Batch:
    """What a folder of the inbox holds."""

    def __init__(self, topic: int) -> None:
        """A third of a topic's documents and queries, in all three splits."""
        self.documents: Texts = {}
        self.queries: dict[str, tuple[str, str]] = {}
        self.judged: dict[tuple[str, str], int] = {}
        self.labels: Texts = {}
        self.is_asked, self.is_judged = True, True
        for number, action in enumerate(ACTIONS[:9]):
            name = TOPICS[topic]
            self.documents[f"{name}-{action}"] = f"{action} every value of the {name} along one axis"
            query_id = f"q-{name}-{action}"
            self.queries[query_id] = (
                f"how to {action} a {name}",
                ("train", "train", "train", "dev", "test")[number % 5],
            )
            self.judged[query_id, f"{name}-{action}"] = 2

    def write(self, folder: Path) -> None:
        """As a BEIR folder, under another name first, as one should."""
        hidden = folder.with_name(f".{folder.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        (hidden / "qrels").mkdir(parents=True)
        _write_lines(hidden / "corpus.jsonl", [{"_id": d, "text": t} for d, t in sorted(self.documents.items())])
        labels = {q: {"group": label} for q, label in self.labels.items()}
        asked = sorted(self.queries.items()) if self.is_asked else []
        _write_lines(hidden / "queries.jsonl", [{"_id": q, "text": t, **labels.get(q, {})} for q, (t, _) in asked])
        # A judgement of 0 names the query's split and no answer.
        judged = (
            {pair: relevance if self.is_judged else 0 for pair, relevance in self.judged.items()}
            if self.is_asked
            else {}
        )
        for split in ("train", "dev", "test"):
            rows = [f"{q}\t{d}\t{r}" for (q, d), r in sorted(judged.items()) if self._split(q) == split]
            (hidden / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        hidden.rename(folder)

    def _split(self, query_id: str) -> str:
        return self.queries[query_id][1] if query_id in self.queries else "train"


def _write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    if rows:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class Line(RuleBasedStateMachine):
    """One data folder through a sequence of changes."""

    teacher = "cross"  # or "encoder": grown from it, trained on the labels and joined with its cosine
    models: dict[str, Path]

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        (self.root / "inbox").mkdir()
        self.batches: dict[str, Batch] = {}
        self.overrides: dict[str, Any] = {name: values[0] for name, values in SETTINGS.items()}
        self.student, self.rate, self.positives = "encoder", LEARNING_RATES[0], POSITIVES[0]
        self.committed: Counter[tuple[str, str, str]] = Counter()

    # --- what changes --------------------------------------------------------------------------------------------------

    @initialize()
    def first_batch(self) -> None:
        """A collection to begin with."""
        self._land("a", Batch(0))
        self._land("b", Batch(1))

    @rule(name=st.sampled_from(BATCHES), topic=st.integers(0, 4))
    def land(self, name: str, topic: int) -> None:
        """A batch lands, or is replaced by another one."""
        self._land(name, Batch(topic))

    @precondition(lambda self: len(self.batches) > 2)
    @rule(data=st.data())
    def move_away(self, data: Any) -> None:
        """A batch leaves the inbox."""
        name = data.draw(st.sampled_from(sorted(self.batches)))
        del self.batches[name]
        shutil.rmtree(self.root / "inbox" / name)

    @rule(data=st.data())
    def change_document(self, data: Any) -> None:
        """A document gets another text, is added, or is withdrawn."""
        batch = self._some_batch(data)
        doc_id = data.draw(st.sampled_from(sorted(batch.documents)))
        how = data.draw(st.sampled_from(("text", "long", "add", "withdraw")))
        if how == "long":  # with passage_tokens it is cut
            batch.documents[doc_id] += "\nsplit every value of the frame along one axis" * 3
        elif how == "text":
            batch.documents[doc_id] += " again"
        elif how == "add":
            batch.documents[f"{doc_id}-new"] = f"{batch.documents[doc_id]}, new"
        elif len(batch.documents) > 7:
            del batch.documents[doc_id]
            batch.judged = {pair: r for pair, r in batch.judged.items() if pair[1] != doc_id}
        self._write_all()

    @rule(data=st.data())
    def change_query(self, data: Any) -> None:
        """A query gets another text, is added, is withdrawn, or repeats one of another split."""
        batch = self._some_batch(data)
        query_id = data.draw(st.sampled_from(sorted(batch.queries)))
        text, split = batch.queries[query_id]
        how = data.draw(st.sampled_from(("text", "add", "withdraw", "repeat")))
        if how == "text":
            batch.queries[query_id] = (f"{text} fast", split)
        elif how == "add":
            doc_id = sorted(batch.documents)[0]
            batch.queries[f"{query_id}-more"] = (f"{text}, more", "train")
            batch.judged[f"{query_id}-more", doc_id] = 1
        elif how == "withdraw" and len(batch.queries) > 7 and split == "train":
            del batch.queries[query_id]
            batch.judged = {pair: r for pair, r in batch.judged.items() if pair[0] != query_id}
        elif how == "repeat" and split == "train":
            other = data.draw(st.sampled_from(sorted(self.batches)))
            tested = [t for t, s in self.batches[other].queries.values() if s == "test"]
            batch.queries[query_id] = (tested[0] if tested else text, split)
        self._write_all()

    @rule(data=st.data(), label=st.sampled_from(("", "faq", "log")))
    def change_label(self, data: Any, label: str) -> None:
        """A query gets another group, or none."""
        batch = self._some_batch(data)
        batch.labels[data.draw(st.sampled_from(sorted(batch.queries)))] = label
        self._write_all()

    @rule(data=st.data())
    def change_judgement(self, data: Any) -> None:
        """A judgement is added, graded anew or taken back."""
        batch = self._some_batch(data)
        query_id = data.draw(st.sampled_from(sorted(batch.queries)))
        doc_id = data.draw(st.sampled_from(sorted(batch.documents)))
        batch.judged[query_id, doc_id] = data.draw(st.sampled_from((0, 1, 2)))
        self._write_all()

    @rule(data=st.data(), relevance=st.sampled_from((0, 1, 2)))
    def judge_alone(self, data: Any, relevance: int) -> None:
        """Judgements alone arrive, for queries of older batches."""
        batch, late = self._some_batch(data), self.batches.get("z", Batch(0))
        if "z" not in self.batches:
            late.documents, late.queries, late.judged = {}, {}, {}
        train = sorted(q for q, (_, split) in batch.queries.items() if split == "train")
        late.judged[data.draw(st.sampled_from(train)), data.draw(st.sampled_from(sorted(batch.documents)))] = relevance
        self._land("z", late)

    @rule(name=st.sampled_from(sorted(SETTINGS)), data=st.data())
    def change_setting(self, name: str, data: Any) -> None:
        """A setting changes, and perhaps back again."""
        self.overrides[name] = data.draw(st.sampled_from(SETTINGS[name]))

    @rule(rate=st.sampled_from(LEARNING_RATES), positives=st.sampled_from(POSITIVES))
    def change_recipe(self, rate: float, positives: str) -> None:
        """A recipe changes."""
        self.rate, self.positives = rate, positives

    @rule(baseline=st.sampled_from((None, "encoder", "other_encoder")))
    def change_baseline(self, baseline: str | None) -> None:
        """A published model comes to the leaderboard, is replaced, or leaves it."""
        self.overrides["baselines"] = (str(self.models[baseline]),) if baseline else ()

    @rule(student=st.sampled_from(("encoder", "other_encoder")))
    def change_student(self, student: str) -> None:
        """Another encoder is distilled into."""
        self.student = student

    # --- what is done --------------------------------------------------------------------------------------------------

    @rule()
    def run(self) -> None:
        """`distill-assets run`."""
        self._run(self._project(), is_stale)

    @rule()
    def retrain(self) -> None:
        """`distill-assets retrain`: batches are not read, old negatives stay."""
        project = self._project()
        if project.collection.batches() and set(project.collection.batches()) == set(
            project.collection.source.batches()
        ):
            self._run(project, is_stale_for_retraining)

    @rule(after=st.integers(1, 4))
    def run_that_is_killed(self, after: int) -> None:
        """A run ends in the middle of scoring or training."""
        with _dying(after), suppress(Killed):
            self._run(self._project(), is_stale)

    @rule(data=st.data())
    def run_while_a_file_changes(self, data: Any) -> None:
        """A file of a batch changes after it was read and before its rows are stored."""
        name = data.draw(st.sampled_from(sorted(set(self.batches) - {"z"})))
        batch = self.batches[name]
        doc_id = data.draw(st.sampled_from(sorted(batch.documents)))
        batch.documents[doc_id] += " meanwhile"
        with _changing_after_read(lambda: self._write_all()):
            self._run(self._project(), is_stale)

    @rule()
    def roll_back_champion(self) -> None:
        """A person does not want the champion."""
        project = self._project()
        if project.places.warehouse.exists() and current_champion(project) is not None:
            with suppress(PromotionError):  # the first champion
                roll_back(project)

    def teardown(self) -> None:
        """The last state, once more by changes and once from nothing."""
        try:
            if self.batches:
                project = self._project()
                self._run(project, is_stale)
                assert next_work(project, is_stale) is None, "a second run would do something"
                scratch = self._project("scratch")
                self._run(scratch, is_stale, given=project)
                compare(project, scratch)
            assert not [pair for pair, count in self.committed.items() if count > 1], "a pair was paid for twice"
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    # --- how -------------------------------------------------------------------------------------------------------------

    def _land(self, name: str, batch: Batch) -> None:
        self.batches[name] = batch
        batch.write(self.root / "inbox" / name)

    def _write_all(self) -> None:
        for name, batch in self.batches.items():
            batch.write(self.root / "inbox" / name)

    def _some_batch(self, data: Any) -> Batch:
        return self.batches[data.draw(st.sampled_from(sorted(set(self.batches) - {"z"})))]

    def _project(self, folder: str = "data") -> Any:
        recipes = {
            "hard_labels": {"batch_size": 4, "learning_rate": self.rate},
            "margin_mse": {
                "batch_size": 4,
                "num_negatives": 2,
                "sampling": "top",
                "learning_rate": self.rate,
                "positives": self.positives,
            },
        }
        return make_project(
            self.root / "inbox",
            self.models[self.student],
            self.models[self.teacher],
            self.root / folder,
            **self.overrides,
            recipes=recipes,
            precision="fp32",
            student_precision="fp32",
            max_leaked_queries=1.0,
            chunk_size=16,
        )

    def _run(self, project: Any, is_stale: Callable[[Any, str, str], bool], given: Any = None) -> None:
        """The line in one process, without Dagster's events: what decides and what is made is the same."""
        with _counting(self.committed if given is None else Counter()), _kept_open(project):
            for stage in stages_of(project):
                for partition in partitions_of(project, stage):
                    for asset in stage.assets:
                        if asset == "teacher_checkpoint" and given is not None:
                            _give_teacher(given, project)
                        if is_stale(project, asset, partition):
                            ASSETS[asset].make(project, partition, LOG)
                if stage is INGEST:
                    assert project.collection.batches() == project.collection.source.batches()


class GrownTeacherLine(Line):
    """The default kind of teacher: an encoder that is trained on the labels and joined with its cosine."""

    teacher = "encoder"


class UnjudgedLine(Line):
    """Batches bring queries and judgements later, and lose them again; queries are generated, or not."""

    @initialize(are_judged=st.booleans(), is_asked=st.booleans(), generator=st.sampled_from(("auto", "rules")))
    def first_batch(self, are_judged: bool, is_asked: bool, generator: str) -> None:
        """A collection to begin with: judged or not, one batch of documents alone or two with queries."""
        self.overrides["query_generator"] = generator
        for topic, name in enumerate(("a", "b")):
            batch = Batch(topic)
            batch.is_judged, batch.is_asked = are_judged, is_asked or name == "b"
            self._land(name, batch)

    @rule(name=st.sampled_from(("a", "b", None)), is_judged=st.booleans())
    def judge_or_not(self, name: str | None, is_judged: bool) -> None:
        """People judge a batch, or all of them, or what they judged is gone."""
        for batch in [self.batches[name]] if name in self.batches else self.batches.values():
            batch.is_judged = is_judged
        self._write_all()

    @rule(data=st.data())
    def ask_or_not(self, data: Any) -> None:
        """A batch brings documents alone, or its queries too; one keeps them."""
        name = data.draw(st.sampled_from(sorted(set(self.batches) - {"z"})))
        others = [batch for other, batch in self.batches.items() if other not in (name, "z") and batch.is_asked]
        self.batches[name].is_asked = not self.batches[name].is_asked or not others
        self._write_all()

    @rule(generator=st.sampled_from(("auto", "rules", "off")))
    def change_generator(self, generator: str) -> None:
        """Queries are generated beside those of batches, or not."""
        self.overrides["query_generator"] = generator

    @precondition(lambda self: len(self.batches) > 2)
    @rule(data=st.data())
    def move_away(self, data: Any) -> None:
        """A batch leaves the inbox; one with queries stays."""
        name = data.draw(st.sampled_from(sorted(self.batches)))
        if any(batch.is_asked for other, batch in self.batches.items() if other not in (name, "z")):
            del self.batches[name]
            shutil.rmtree(self.root / "inbox" / name)


def _give_teacher(source: Any, target: Any) -> None:
    """A teacher that was made from the collection is an input: the empty folder gets the same one."""
    if not source.models.is_teacher_of_collection:
        return
    (row,) = source.places.warehouse.read("checkpoints", slice_keys=["teacher"]).to_pylist()
    rows = pa.Table.from_pylist([row | {"path": str(source.places.checkpoint_path("teacher"))}])  # it stays where it is
    info = source.places.warehouse.slice_info("checkpoints", "teacher")
    target.places.warehouse.write(
        SliceWrite(
            table="checkpoints", rows=rows, slice_key="teacher", inputs=info.inputs, data_version=info.data_version
        )
    )


@contextmanager
def _kept_open(project: Any) -> Iterator[None]:
    """One connection of this process stays open: each of the hundred others of a run then costs 1 ms, not 20."""
    with project.places.warehouse.connect():
        yield


@contextmanager
def _counting(committed: Counter[tuple[str, str, str]]) -> Iterator[None]:
    """Count every pair that a scorer was paid for and that was committed."""
    commit = PairScoreStore.commit

    def counted(self: PairScoreStore, scorer_id: str, pairs: Any) -> int:
        num_new = commit(self, scorer_id, pairs)  # what dies here was not committed: a kill may cost a chunk
        hashes = zip(pairs["query_hash"].to_pylist(), pairs["doc_hash"].to_pylist(), strict=True)
        committed.update((scorer_id, query, document) for query, document in hashes)
        return num_new

    with mock.patch.object(PairScoreStore, "commit", counted):
        yield


@contextmanager
def _dying(after: int) -> Iterator[None]:
    """Die at the n-th commit of logits, or at the n-th training step that is saved."""
    from distill_assets.training import trainer

    calls = Counter[str]()

    def dying(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            if calls[name] == after:
                raise Killed
            return function(*args, **kwargs)

        return wrapped

    commit, save = PairScoreStore.commit, trainer.StepTrainer._save
    with (
        mock.patch.object(PairScoreStore, "commit", dying(commit, "commit")),
        mock.patch.object(trainer.StepTrainer, "_save", dying(save, "save")),
    ):
        yield


@contextmanager
def _changing_after_read(change: Callable[[], None]) -> Iterator[None]:
    """Call `change` once, as soon as a batch has been read."""
    from distill_assets.sources.beir import BeirSource

    read, changed = BeirSource.read, []

    def reading(self: BeirSource, batch: str) -> Any:
        found = read(self, batch)
        if not changed:
            changed.append(batch)
            change()
        return found

    with mock.patch.object(BeirSource, "read", reading):
        yield
    if not changed:
        change()


def compare(incremental: Any, scratch: Any) -> None:
    """Both folders hold the same: ids and choices exactly, numbers up to the rounding of another batch composition."""
    batches = incremental.collection.batches()
    made = ("generated_queries", "hard_negatives", "answers_found", "teacher_scores", "teacher_judgements")
    for table in ("corpus", "passages", "queries", "qrels", *made):
        if table == "generated_queries" and not incremental.settings.may_generate:
            continue
        _same_rows(table, *(p.places.warehouse.read(table, slice_keys=batches) for p in (incremental, scratch)))
    recipes = sorted(incremental.settings.all_recipes)
    for name in recipes:
        _same_students(name, incremental, scratch)
    baselines = sorted(incremental.settings.named_baselines)
    encoders = ["untouched_student", *baselines, *recipes]
    by_people = set(incremental.places.warehouse.read("leaderboard")["judged_by"].to_pylist()) == {"people"}
    systems = ["bm25", *(["teacher"] if by_people else []), *encoders, *map(hybrid_of, encoders)]
    for system in systems:
        _same_rows(
            "rankings", *(p.places.warehouse.read("rankings", slice_keys=[system]) for p in (incremental, scratch))
        )
    ranked = [s for s in incremental.places.warehouse.slices("rankings") if not s.startswith(FORMER_CHAMPION)]
    assert ranked == sorted(systems), "rankings of a system that is no more"
    _same_rows(
        "eval_metrics", *(p.places.warehouse.read("eval_metrics", slice_keys=recipes) for p in (incremental, scratch))
    )
    _same_rows("query_groups", *(p.places.warehouse.read("query_groups") for p in (incremental, scratch)))
    _same_rows("leaderboard", *(p.places.warehouse.read("leaderboard") for p in (incremental, scratch)))


_NOT_COMPARED = {"model_fingerprint", "query_ms_p50", "query_ms_p95", "documents_per_s", "model_mb"}


def _same_rows(table: str, first: Any, second: Any) -> None:
    assert first.num_rows == second.num_rows, table
    for name in set(first.column_names) - _NOT_COMPARED:
        ours, theirs = first[name].to_pylist(), second[name].to_pylist()
        if any(isinstance(value, float) for value in ours):
            ours, theirs = ([np.nan if v is None else v for v in values] for values in (ours, theirs))
            np.testing.assert_allclose(ours, theirs, atol=2e-4, err_msg=f"{table}.{name}")
        else:
            assert ours == theirs, f"{table}.{name}"


def _same_students(name: str, incremental: Any, scratch: Any) -> None:
    texts = [f"how to {action} a {topic}" for action in ACTIONS[:4] for topic in TOPICS[:3]]
    ours, theirs = (p.vectors.look_up(p.places.checkpoint_path(name), texts, "query") for p in (incremental, scratch))
    np.testing.assert_allclose(ours, theirs, atol=2e-3, err_msg=f"vectors of {name}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two encoders and a cross-encoder."""
    folder = tmp_path_factory.mktemp("models")
    import torch

    found = {"encoder": save_tiny_encoder(folder / "encoder"), "cross": save_tiny_cross_encoder(folder / "cross")}
    seed = torch.manual_seed
    with mock.patch.object(torch, "manual_seed", lambda value: seed(value + 7)):
        return found | {"other_encoder": save_tiny_encoder(folder / "other-encoder")}


@pytest.fixture(autouse=True)
def quiet_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and timings are no numbers that can be compared, and take most of a tiny run."""
    from distill_assets.assets import evaluation, release, student, teacher

    _load_once(monkeypatch)
    monkeypatch.setattr(evaluation, "measure_speeds", lambda *_: {})
    for module in (evaluation, release):
        monkeypatch.setattr(module, "write_project_report", lambda project: project.places.report)
    for module, name in (
        (evaluation, "leaderboard_chart"),
        (evaluation, "quality_latency_chart"),
        (student, "training_curve_chart"),
        (student, "score_scatter_chart"),
        (teacher, "score_histogram_chart"),
    ):
        monkeypatch.setattr(module, name, lambda *_, **__: b"")


def _load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a loaded model in place of a second loading: the files of a checkpoint never change."""
    from distill_assets.handles.models import Models

    for name in ("load_student", "load_teacher"):
        loaded: dict[Any, Any] = {}
        original = getattr(Models, name)

        def load(self: Models, path: Path, *rest: Any, original: Any = original, loaded: Any = loaded) -> Any:
            key = (
                path,
                fingerprint_model(path),
                self.settings.student_max_length,
                self.settings.query_prompt,
                self.settings.teacher_max_length,
                rest,
            )
            if key not in loaded:
                loaded[key] = original(self, path, *rest)
            return copy.deepcopy(loaded[key])

        monkeypatch.setattr(Models, name, load)


@pytest.mark.parametrize("machine", [Line, GrownTeacherLine, UnjudgedLine])
def test_incremental_equals_from_scratch(machine: type[Line], models: dict[str, Path]) -> None:
    """A number that depends on the way that led to it is nobody's measurement: no sequence of changes may show in the result."""
    machine.models = models
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, SEQUENCES // 2),
            stateful_step_count=6,
            deadline=None,
            database=None,
            derandomize="INCREMENTAL_SEQUENCES" not in os.environ,
            print_blob=True,
            phases=[Phase.generate] if SEQUENCES > 20 else [Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_documents_that_are_cut_anew(models: dict[str, Path]) -> None:
    """Passages of a former length that stay are found beside those of today, and their pairs are paid for again."""
    Line.models = models
    line = Line()
    line.first_batch()
    for batch in line.batches.values():
        for doc_id in sorted(batch.documents)[::3]:
            batch.documents[doc_id] += "\nsplit every value of the frame along one axis" * 3
    line._write_all()
    for line.overrides["passage_tokens"] in (None, 24, 16):
        line.run()
    parents = set(line._project().places.warehouse.read("passages")["parent_id"].to_pylist())
    assert parents == {d for batch in line.batches.values() for d in sorted(batch.documents)[::3]}
    line.teardown()
