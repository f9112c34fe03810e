"""The pair-score store under load: flat memory, second runs, changed documents, kills. Each case in a process of its own."""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import Options, Row, peak_rss_mb, reset_peak_rss, rss_mb

_PER_QUERY = 100
_TEACHER = "t" * 32
_SLOW_CHUNK = 2048  # pairs between two commits of the runs that are killed


class CheapScorer:
    """A logit from the lengths of both texts; `seconds_per_pair` makes it as slow as a teacher."""

    def __init__(self, seconds_per_pair: float = 0.0) -> None:
        self.seconds_per_pair = seconds_per_pair
        self.num_forwards = 0

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """One float32 per pair."""
        self.num_forwards += len(pairs)
        time.sleep(self.seconds_per_pair * len(pairs))
        return np.fromiter((len(q) / (1 + len(d)) for q, d in pairs), dtype=np.float32, count=len(pairs))


def rows(options: Options) -> list[Row]:
    """Memory curve, second run, one percent changed, twenty kills."""
    sizes = (10_000, 100_000) if options.quick else (10_000, 100_000, 1_000_000, 10_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        curve = {size: _child("fill", folder / str(size), size) for size in sizes}
        main = 100_000 if options.quick else 1_000_000
        again = _child("fill", folder / str(main), main)
        changed = _child("change", folder / str(main), main)
        kills = _kills(folder / "kills", 5 if options.quick else 20)
    lines = [
        f"| {size:,} | {c['peak_mb']:.0f} | {c['seconds']:.1f} | {c['file_mb']:.0f} |" for size, c in curve.items()
    ]
    table = "\n".join(["| pairs | MB above start | s | MB on disk |", "|---:|---:|---:|---:|", *lines])
    peak = curve[main]["peak_mb"]
    share = changed["num_forwards"] / main
    return [
        Row(
            "store: peak memory of a first run",
            peak,
            None,
            300 / peak,
            1.0,
            f"MB above start, {main:,} pairs",
            "",
            table,
        ),
        Row(
            "store: a second run, nothing changed",
            again["seconds"],
            None,
            2.0 / again["seconds"],
            1.0,
            f"s, {main:,} pairs",
            f"{again['num_forwards']} forwards",
        ),
        Row(
            "store: 1 % of documents changed, forwards",
            share,
            None,
            0.03 / max(share, 1e-9),
            1.0,
            "share of the pairs",
            f"{changed['num_forwards']:,} forwards; the store's own part took {changed['seconds']:.1f} s",
        ),
        kills,
    ]


def _child(case: str, folder: Path, size: int, *, seconds_per_pair: float = 0.0) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scoring_store", case, str(folder), str(size), str(seconds_per_pair)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _kills(folder: Path, times: int) -> Row:
    """Kill a run at random moments until it ends, then compare with an unbroken run of the same pairs."""
    size, slow, generator = 20_000, 1 / 2000, random.Random(11)
    lost, at_most = [], 0
    _child("make", folder / "killed", size)
    for _ in range(times):
        before = _stored(folder / "killed")
        (folder / "killed" / "paid").write_text("0", encoding="ascii")  # a run killed while it starts has paid nothing
        command = [
            sys.executable,
            "-m",
            "benchmarks.scoring_store",
            "fill",
            str(folder / "killed"),
            str(size),
            str(slow),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(generator.uniform(1.5, 4.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        paid = _paid(folder / "killed")
        lost.append(paid - (_stored(folder / "killed") - before))
        at_most = max(at_most, lost[-1])
    _child("fill", folder / "killed", size)
    _child("fill", folder / "whole", size)
    same = _content(folder / "killed") == _content(folder / "whole")
    chunk = _SLOW_CHUNK
    return Row(
        f"store: killed {times} times at random moments",
        float(at_most),
        None,
        (chunk / max(1, at_most)) if same else 0.0,
        1.0,
        "pairs lost at most",
        f"a chunk is {chunk} pairs; result {'identical' if same else 'DIFFERENT'}; total lost {sum(lost):,} pairs",
    )


def _make(folder: Path, size: int) -> None:
    """A collection with `size` wanted pairs: one document per ten pairs, a hundred pairs per query."""
    from distill_assets.handles.places import Places

    warehouse = Places(folder).warehouse
    if warehouse.exists():
        return
    documents, queries = max(200, size // 10), max(1, size // _PER_QUERY)
    with warehouse.transaction() as connection:
        connection.execute(
            f"INSERT INTO corpus SELECT 'b', 'd' || i, '', t, sha256(t)[1:32] "
            f"FROM (SELECT i, {_TEXT} AS t FROM range({documents}) r(i))"
        )
        connection.execute(
            f"INSERT INTO queries SELECT 'b', 'q' || i, 'query number ' || i, 'key' || i, 'train' FROM range({queries}) r(i)"
        )
        connection.execute("CREATE TEMP MACRO wanted_doc(i, n) AS hash(i * 31) % n")
        connection.execute(
            f"COPY (SELECT DISTINCT i // {_PER_QUERY} AS query, wanted_doc(i, {documents}) AS document FROM range({size}) r(i)) "
            f"TO '{folder}/pairs.parquet'"
        )


_TEXT = "'document number ' || i || repeat(' some words of a passage', 8)"


def _wanted(folder: Path) -> Any:
    from distill_assets.storage.missing_pairs import WantedPairs

    sql = f"""
        SELECT sha256(queries.text)[1:32] AS query_hash, content_hash AS doc_hash
        FROM read_parquet('{folder}/pairs.parquet') AS pairs
        JOIN queries ON query_id = 'q' || pairs.query JOIN corpus ON doc_id = 'd' || pairs.document
    """
    return WantedPairs(sql)


def _fill(folder: Path, seconds_per_pair: float) -> dict[str, Any]:
    from distill_assets.handles.logits import Logits, Member, Teacher
    from distill_assets.handles.models import Models
    from distill_assets.handles.places import Places
    from distill_assets.handles.vectors import Vectors
    from distill_assets.settings.values import load_settings

    places, scorer = Places(folder), CheapScorer(seconds_per_pair)
    chunk = (_SLOW_CHUNK, 1.0) if seconds_per_pair else (65_536, 10.0)
    settings = load_settings(None, data_folder=folder, chunk_size=chunk[0], chunk_seconds=chunk[1])
    models = Models(settings)
    logits = Logits(settings, places, models, Vectors(settings, models, places.embeddings))
    # A teacher whose one member costs nothing, so that only the store is seen.
    teacher = Teacher(_TEACHER, (Member(_TEACHER, 1.0, 0, lambda: _Paying(scorer, folder)),))
    before = rss_mb()
    reset_peak_rss()
    started = time.perf_counter()
    logits.score(teacher, _wanted(folder))
    return {
        "seconds": time.perf_counter() - started,
        "peak_mb": peak_rss_mb() - before,
        "num_forwards": scorer.num_forwards,
        "file_mb": places.warehouse.path.stat().st_size / 1e6,
    }


class _Paying:
    """Writes down what was paid before it is stored, so that a killed run can be held to account."""

    def __init__(self, scorer: CheapScorer, folder: Path) -> None:
        self.scorer, self.path = scorer, folder / "paid"
        self.path.write_text("0", encoding="ascii")

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        logits = self.scorer(pairs)
        self.path.write_text(str(self.scorer.num_forwards), encoding="ascii")
        return logits


def _paid(folder: Path) -> int:
    return int((folder / "paid").read_text(encoding="ascii") or 0) if (folder / "paid").is_file() else 0


def _stored(folder: Path) -> int:
    from distill_assets.handles.places import Places

    return Places(folder).pair_scores.count([_TEACHER])


def _content(folder: Path) -> str:
    from distill_assets.handles.places import Places

    rows = Places(folder).warehouse.read("pair_scores")
    return hashlib.sha256(repr(rows.to_pydict()).encode()).hexdigest()


def _change(folder: Path) -> None:
    """Every hundredth document gets another text."""
    from distill_assets.handles.places import Places

    with Places(folder).warehouse.transaction() as connection:
        connection.execute("UPDATE corpus SET text = text || ' changed' WHERE hash(doc_id) % 100 = 0")
        connection.execute("UPDATE corpus SET content_hash = sha256(text)[1:32]")


def main() -> None:
    """One case, in this process; prints its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=("make", "fill", "change"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("size", type=int)
    parser.add_argument("seconds_per_pair", type=float)
    given = parser.parse_args()
    _make(given.folder, given.size)
    if given.case == "make":
        print("{}")
        return
    if given.case == "change":
        _change(given.folder)
    print(json.dumps(_fill(given.folder, given.seconds_per_pair)))


if __name__ == "__main__":
    main()
