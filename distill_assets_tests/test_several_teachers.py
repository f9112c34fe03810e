"""Several teachers: each keeps its own logits, and the mean of them is made on reading."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.definitions import build_definitions
from distill_assets.errors import ModelError
from distill_assets.handles.logits import TEACHERS_FILE
from distill_assets.models import encoders, remote
from distill_assets.models.catalog import member_folders
from distill_assets.orchestration.running import run_line
from distill_assets.records import hash_text
from distill_assets_tests.conftest import make_project
from distill_assets_tests.models.rerank_server import Behaviour, serving

Make = Callable[..., Any]


@pytest.fixture
def make(beir_folder: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> Make:
    """The project with these teachers, as a new process would have it."""

    def project(teacher: Any = tiny_cross_encoder, **overrides: Any) -> Any:
        sizes = {"promotion_alpha": 0.9, "train_queries": 12, "skip_recipes": ("kl", "hard_labels"), **overrides}
        found = make_project(beir_folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", **sizes)
        return type(found)(
            overrides={**found.overrides, "teacher": teacher if isinstance(teacher, list) else str(teacher)}
        )

    return project


def run(project: Any, until: str = "teacher_scores") -> None:
    """Run the line in memory."""
    list(run_line(build_definitions(project), project, dg.DagsterInstance.ephemeral(), until=until))


def pairs_by_scorer(project: Any) -> dict[str, int]:
    """Stored logits of each scorer."""
    sql = "SELECT scorer_id, count(*) AS n FROM pair_scores GROUP BY ALL"
    return {row["scorer_id"]: row["n"] for row in project.places.warehouse.query(sql).to_pylist()}


def test_a_plan_trusts_the_teachers_that_the_settings_trust(
    make: Make, tiny_cross_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that refuses a model which the run then opens stops who trusted it; one that trusts all runs code of nobody's choice."""
    other = Path(shutil.copytree(tiny_cross_encoder, tmp_path / "other"))
    project = make([str(tiny_cross_encoder), str(other)], trusted_models=(str(other),))
    loaded, load = dict[Path, bool](), encoders.load_teacher
    monkeypatch.setattr(
        encoders, "load_teacher", lambda path, **how: loaded.update({path: how["is_trusted"]}) or load(path, **how)
    )
    for _, path in project.models.local_teachers:
        assert len(project.models.open_before_it_is_made(path)([("a query", "a document")])) == 1
    assert loaded == {tiny_cross_encoder: False, other: True}


def test_adding_a_teacher_scores_only_that_one(make: Make, tiny_cross_encoder: Path, monkeypatch: Any) -> None:
    """Joined logits in the store, or an id of the list, and each new teacher would have all the others paid for again.

    From a folder alone to the folder and a server, through to a champion.
    """
    monkeypatch.setattr(remote, "WAITS_S", (0.0,))
    run(make())
    [alone] = pairs_by_scorer(make())
    behaviour = Behaviour()
    with serving(behaviour) as url:
        project = make([str(tiny_cross_encoder), url])
        before = pairs_by_scorer(project)[alone]
        run(project)
        after = pairs_by_scorer(project)
        [other] = set(after) - {alone}
        assert after[alone] == before, "no pair of the first is scored again, and none is new"
        assert after[other] == len(behaviour.pairs) == before
        assert_joined(project, alone, other)
        run(project, "champion")
    folders = member_folders(project.places.checkpoint_path("teacher"))
    assert [folder.name for folder in folders] == ["teacher-0", "teacher-1"]
    assert (folders[0] / "model.safetensors").is_file() and (folders[1] / "remote.json").is_file()
    assert not any(step.was_materialised for step in _again(make([str(tiny_cross_encoder), url])))


def _again(project: Any) -> Any:
    return run_line(build_definitions(project), project, dg.DagsterInstance.ephemeral(), until="champion")


def assert_joined(project: Any, first: str, second: str) -> None:
    """Each logit is half the first teacher's, and the second's times its weight."""
    weights = json.loads((project.places.checkpoint_path("teacher") / TEACHERS_FILE).read_text("utf-8"))["weights"]
    assert weights[0] == 0.5
    read = project.places.warehouse.read
    query_of = {row["query_id"]: hash_text(row["text"]) for row in read("queries").to_pylist()}
    document_of = {row["doc_id"]: row["content_hash"] for row in read("corpus").to_pylist()}
    sql = "SELECT scorer_id, query_hash, doc_hash, teacher_logit FROM pair_scores"
    logits = {tuple(row.values())[:3]: row["teacher_logit"] for row in project.places.warehouse.query(sql).to_pylist()}
    rows = read("teacher_scores").to_pylist()
    keys = [(query_of[row["query_id"]], document_of[row["doc_id"]]) for row in rows]
    expected = [weights[0] * logits[first, *key] + weights[1] * logits[second, *key] for key in keys]
    assert len(rows) > 50 and [row["teacher_logit"] for row in rows] == pytest.approx(expected, abs=1e-5)


def test_a_list_of_one_is_that_one(make: Make, tiny_cross_encoder: Path) -> None:
    """Whoever writes the brackets would pay for every pair again."""
    run(make())
    before = pairs_by_scorer(make())
    project = make([str(tiny_cross_encoder)])
    assert not any(step.was_materialised for step in run_line(
        build_definitions(project), project, dg.DagsterInstance.ephemeral(), until="teacher_scores"
    ))  # fmt: skip
    assert pairs_by_scorer(project) == before


def test_an_encoder_in_a_list_is_refused(make: Make, tiny_encoder: Path, tiny_cross_encoder: Path) -> None:
    """Its head would be of random weights: half of the mean would be noise."""
    with pytest.raises(ModelError, match="has no scoring head"):
        run(make([str(tiny_cross_encoder), str(tiny_encoder)]), "teacher_checkpoint")
