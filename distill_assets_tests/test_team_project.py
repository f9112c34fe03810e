"""The sample project: both lines run over the team's assets, and a pair that both have is paid for once."""

import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest

from distill_assets.component import find_line
from distill_assets.handles.project import Project
from distill_assets.orchestration.running import run_line

SAMPLE = Path(__file__).parents[1] / "examples" / "team_project"


def num_paid(project: Project) -> int:
    """Pairs that the line's teacher has scored for training."""
    costs = project.places.warehouse.read("scoring_costs").to_pylist()
    return sum(row["num_pairs"] for row in costs if row["asset"] == "teacher_scores")


def logits(project: Project) -> dict[tuple[str, str], float]:
    """What the teacher said, by pair."""
    rows = project.places.warehouse.read("teacher_scores").to_pylist()
    return {(row["query_id"], row["doc_id"]): row["teacher_logit"] for row in rows}


def test_both_lines_run_and_share_what_they_score(
    tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that does not run is the first thing that a team sees; a store that is not shared doubles their bill."""
    root = tmp_path / "project"
    shutil.copytree(SAMPLE, root)
    monkeypatch.syspath_prepend(root / "src")
    for name in [name for name in sys.modules if name.split(".")[0] == "team_project"]:
        monkeypatch.delitem(sys.modules, name)
    tiny = {"student": str(tiny_encoder), "teacher": str(tiny_cross_encoder), "device": "cpu"}
    instance = dg.DagsterInstance.ephemeral()

    def run(name: str, until: str, **flags: object) -> Project:
        project = find_line(name, root, {**tiny, **flags})
        assert project.load_location is not None
        definitions = project.load_location()
        job = definitions.resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey(["warehouse", asset]) for asset in ("articles", "invoicing_articles")]
        job.execute_in_process(instance=instance, asset_selection=keys)
        assert [step.refusal for step in run_line(definitions, project, instance, until=until) if step.refusal] == []
        return project

    whole = run("help_centre", "champion", student_epochs=1)
    assert whole.places.warehouse.read("champion_history").num_rows
    part = run("invoicing", "teacher_scores")
    alone = run("invoicing", "teacher_scores", shared_stores=None, data_folder=str(tmp_path / "alone"))
    # A batch of other pairs is padded otherwise: the last bits of fp32 differ.
    assert logits(part) == pytest.approx(logits(alone), abs=1e-6), "a shared store changes no number"
    shared = len(logits(whole).keys() & logits(part).keys())
    assert num_paid(part) == num_paid(alone) - shared
    print(f"pairs of the second line: {num_paid(alone)}, paid for: {num_paid(part)}")  # noqa: T201
    assert shared > 0
