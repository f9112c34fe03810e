"""Benchmarks that nobody runs every day still run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_store_is_filled_once_then_again_for_nothing_then_for_what_changed(tmp_path: Path) -> None:
    """A benchmark whose stand-in for the project lacks what scoring uses now fails after minutes, and with it the whole table."""

    def child(case: str) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.scoring_store", case, str(tmp_path / "store"), "2000", "0.0"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result

    first = child("fill")["num_forwards"]
    assert 1500 < first <= 2000  # distinct pairs of 2,000 drawn ones
    assert child("fill")["num_forwards"] == 0
    assert 0 < child("change")["num_forwards"] < first / 10


def test_the_script_for_a_gpu_runs_to_its_end() -> None:
    """A card is lent for minutes: a script that stops at its last line wastes them, and nobody sees it on a CPU."""
    from benchmarks import gpu, training
    from benchmarks.measuring import Options

    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu.scoring, "open_model", lambda options: gpu.classifier(gpu._SMALL, options.device))
        patch.setattr(training, "rows", lambda options: [])  # minutes of a MiniLM on two cores
        found = [row.name for row in gpu.rows(Options(quick=True, repeats=1), is_small=True)]
    assert {"512 tokens, MiniLM-L6", "512 tokens, BERT-base"} <= set(found)
    assert any("bundled teacher" in name for name in found)
