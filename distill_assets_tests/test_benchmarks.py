"""Benchmarks that nobody runs every day still run."""

import json
import subprocess
import sys
from pathlib import Path

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
