"""The line with a teacher behind an inference server: a bad server stores nothing, a new start pays nothing twice."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.cli import commands
from distill_assets.definitions import build_definitions
from distill_assets.errors import TeacherServerError
from distill_assets.handles.score_sets import export_scores
from distill_assets.models import remote
from distill_assets.orchestration.plan import make_plan
from distill_assets.orchestration.running import run_line
from distill_assets.orchestration.stages import is_stale, status_of
from distill_assets.storage.checkpoints import CANARY_FILE
from distill_assets_tests.conftest import make_project
from distill_assets_tests.models.rerank_server import Behaviour, overlap, serving

Make = Callable[..., Any]
SECRET = "token-of-the-server"


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS_S", (0.0,))
    monkeypatch.setenv("DISTILL_TEACHER_TOKEN", SECRET)


@pytest.fixture(params=["tei"])
def behaviour(request: pytest.FixtureRequest) -> Behaviour:
    """What the server does."""
    return Behaviour(request.param, token=SECRET)


@pytest.fixture
def url(behaviour: Behaviour) -> Iterator[str]:
    """Where it is."""
    with serving(behaviour) as address:
        yield address


@pytest.fixture
def make(beir_folder: Path, tiny_encoder: Path, url: str, tmp_path: Path) -> Make:
    """The project with a served teacher, as a new process would have it."""

    def project(teacher: Any = url, **overrides: Any) -> Any:
        return make_project(beir_folder, tiny_encoder, teacher, tmp_path / "data", promotion_alpha=0.9, **overrides)

    return project


def run(project: Any, until: str = "teacher_scores") -> list[Any]:
    """Run the line in memory."""
    return list(run_line(build_definitions(project), project, dg.DagsterInstance.ephemeral(), until=until))


def stored(project: Any) -> dict[tuple[str, str], float]:
    """Every stored logit by its pair."""
    rows = project.places.warehouse.query("SELECT query_hash, doc_hash, teacher_logit FROM pair_scores").to_pylist()
    return {(row["query_hash"], row["doc_hash"]): row["teacher_logit"] for row in rows}


def test_a_served_teacher_leads_to_a_champion_and_is_paid_once(
    behaviour: Behaviour, make: Make, tmp_path: Path
) -> None:
    """A line that works with a folder and not with a server; or a folder or an export that keeps the server's address or token."""
    project = make()
    assert not any(step.was_up_to_date for step in run(project, "champion"))
    num_paid = sum(row["num_pairs"] for row in project.places.warehouse.read("scoring_costs").to_pylist())
    assert num_paid == len(stored(project)) == len(set(behaviour.pairs))
    assert_logits_are_the_servers(project)
    folder = project.places.checkpoint_path("teacher")
    assert len(json.loads((folder / CANARY_FILE).read_text("utf-8"))) == 32
    for file in folder.iterdir():
        assert "127.0.0.1" not in file.read_text("utf-8") and SECRET not in file.read_text("utf-8")
    for name in ("checkpoints", "scoring_costs"):
        assert SECRET not in str(project.places.warehouse.read(name).to_pylist())
    num_asked = len(behaviour.bodies)
    assert all(step.was_up_to_date for step in run(make(), "champion"))
    assert len(behaviour.bodies) == num_asked
    told = str(export_scores(project, tmp_path / "out"))
    assert "127.0.0.1" not in told and SECRET not in told and behaviour.model_id in told


@pytest.mark.parametrize("behaviour", ["cohere"], indirect=True)
def test_probabilities_are_stored_as_logits(behaviour: Behaviour, make: Make) -> None:
    """`teacher_logit` is always raw: with probabilities in it, every temperature is wrong."""
    behaviour.is_sigmoid = True
    run(make())
    assert_logits_are_the_servers(make())
    told = json.loads((make().places.checkpoint_path("teacher") / "remote.json").read_text("utf-8"))
    assert (told["protocol"], told["value_space"]) == ("cohere", "sigmoid")


def assert_logits_are_the_servers(project: Any) -> None:
    """Each stored logit is what the server's formula gives for its texts."""
    rows = project.places.warehouse.read("teacher_scores").to_pylist()
    query_of = {row["query_id"]: row["text"] for row in project.places.warehouse.read("queries").to_pylist()}
    text_of = {
        row["doc_id"]: f"{row['title']} {row['text']}" for row in project.places.warehouse.read("corpus").to_pylist()
    }
    expected = [overlap(query_of[row["query_id"]], text_of[row["doc_id"]]) for row in rows]
    assert len(rows) > 100
    assert [row["teacher_logit"] for row in rows] == pytest.approx(expected, abs=1e-4)


def test_a_server_that_dies_in_the_middle_costs_nothing_twice(behaviour: Behaviour, make: Make) -> None:
    """A kill after hours would score from the start again, or leave pairs without a score."""
    run(make(), "teacher_checkpoint")
    behaviour.pairs.clear()
    project = make(chunk_size=8)
    behaviour.fault, behaviour.after = "dead", 60
    with pytest.raises(TeacherServerError, match="no server of the teacher answers"):
        run(project)
    kept, seen = stored(project), len(behaviour.pairs)
    assert kept and seen - len(kept) <= 8, "a chunk at the most is lost"
    behaviour.fault = ""
    behaviour.pairs.clear()
    run(make(chunk_size=8))
    after = stored(project)
    assert after.items() >= kept.items()
    assert len(behaviour.pairs) == len(set(behaviour.pairs)) == len(after) - len(kept)
    costs = project.places.warehouse.read("scoring_costs").to_pylist()
    assert sum(row["num_pairs"] for row in costs) == len(after)


def test_a_bad_answer_stores_nothing(behaviour: Behaviour, make: Make) -> None:
    """A wrong logit in the store is there for ever: it is never asked again."""
    run(make(), "teacher_checkpoint")
    before = stored(make())
    for fault in ("NaN", "fewer", "twice", "shape", "no json", "500"):
        behaviour.fault = fault
        with pytest.raises(TeacherServerError):
            run(make())
        assert stored(make()) == before, fault


def test_a_server_that_moves_pays_nothing_and_makes_nothing_again(behaviour: Behaviour, make: Make) -> None:
    """With the address in the scorer's id, a new host would score every pair again."""
    run(make())
    num_pairs, version = len(behaviour.pairs), make().places.warehouse.slice_info("checkpoints", "teacher").data_version
    with serving(behaviour) as moved:
        project = make(teacher=moved)
        assert is_stale(project, "teacher_checkpoint", "")
        steps = run(project)
    assert [step.assets for step in steps if not step.was_up_to_date] == [("teacher_checkpoint",)]
    assert project.places.warehouse.slice_info("checkpoints", "teacher").data_version == version
    assert len(behaviour.pairs) == num_pairs


def test_another_model_stops_scoring_and_is_taken_when_asked_for(
    behaviour: Behaviour, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models' scores under one name: no later check could tell them apart."""
    run(make(train_queries=20))
    before = stored(make())
    behaviour.model_id = "org/new"
    with pytest.raises(TeacherServerError, match="--fresh-teacher"):
        run(make())
    assert stored(make()) == before
    _run_command(make(skip_recipes=("kl", "margin_mse")), monkeypatch, ["retrain", "--fresh-teacher"])
    assert (
        json.loads((make().places.checkpoint_path("teacher") / "remote.json").read_text("utf-8"))["model_id"]
        == "org/new"
    )
    scorers = make().places.warehouse.query("SELECT count(DISTINCT scorer_id) AS n FROM pair_scores")["n"][0].as_py()
    assert scorers == 2


def _run_command(project: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """A command of the command line on this project."""
    monkeypatch.setattr(commands, "_open_project", lambda given: project)
    commands.app(arguments, standalone_mode=False)


def test_a_drift_under_the_same_name_stops_scoring(behaviour: Behaviour, make: Make) -> None:
    """The server's image was renewed, its template lost: the same name, other scores."""
    run(make(train_queries=10))
    before = stored(make())
    behaviour.scale = 2.0
    with pytest.raises(TeacherServerError, match="of their spread"):
        run(make())
    assert stored(make()) == before


def test_definitions_status_and_estimate_ask_no_server(behaviour: Behaviour, make: Make) -> None:
    """A sensor that waits for a dead server every 30 seconds holds up every batch."""
    run(make(), "hard_negatives")
    project = make(teacher="http://127.0.0.1:9", precision="fp32")
    build_definitions(project)
    assert status_of(project, "teacher_checkpoint").condition == "missing"
    assert "what a server takes for" in make_plan(project, is_stale, "champion", 0).sentence
    assert not behaviour.bodies


def test_the_copy_must_be_the_served_model(make: Make, tiny_cross_encoder: Path) -> None:
    """TEI 615: pooling as another model's. Both answer, and only a comparison tells."""
    with pytest.raises(TeacherServerError, match="and of its copy .* differ by"):
        run(make(teacher_local_copy=str(tiny_cross_encoder)), "teacher_checkpoint")


def test_a_copy_that_agrees_is_taken(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison that never passes would be switched off by everybody."""
    import numpy as np

    from distill_assets.handles.logits import Logits

    monkeypatch.setattr(
        Logits, "open_cross_encoder", lambda self, path: lambda pairs: np.array([overlap(*pair) for pair in pairs])
    )
    run(make(teacher_local_copy=str(make().settings.student)), "teacher_checkpoint")
    assert (make().places.checkpoint_path("teacher") / "remote.json").is_file()
