"""What every engine's module shares: a row of the table, the options, alternating runs, peak memory, agreement.

A module is `benchmarks/NAME.py` with `rows(options) -> list[Row]`; `bench.py` finds it by its name in `ENGINES`.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill_assets.evaluation.agreement import kendall_tau_b


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured and on what.

    Attributes:
        quick: small sizes, for a look; its rows do not count against targets.
        device: torch device of both sides.
        data: BEIR folder that pairs and texts come from; None takes documents of the installed packages.
        model: folder of a cross-encoder, or None for the bundled teacher.
        repeats: alternating runs of each side; the median counts.
    """

    quick: bool = False
    device: str = "cpu"
    data: Path | None = None
    model: Path | None = None
    repeats: int = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: key in results.json.
        ours, peer: medians in `unit`; None where there is no such side.
        ratio: the figure that `target` is held against, bigger is better.
        target: None where the row is for information.
        agreement: how far both sides give the same result, in words and figures.
        detail: markdown shown below the table: a curve, a profile, what limits.
    """

    name: str
    ours: float | None
    peer: float | None
    ratio: float | None
    target: float | None
    unit: str
    agreement: str = ""
    detail: str = ""


@dataclass
class Timed:
    """Seconds of each alternating run, and each side's last result."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Median seconds of one side."""
        return statistics.median(self.seconds[name])

    def ratio(self, ours: str, peer: str) -> float:
        """How many times faster `ours` is than `peer`: the median of the ratios of neighbouring runs.

        Neighbours share the machine's momentary speed, which moves by some ten percent within minutes.
        """
        pairs = zip(self.seconds[ours], self.seconds[peer], strict=True)
        return statistics.median(theirs / own for own, theirs in pairs)


def alternate(sides: dict[str, Callable[[], Any]], repeats: int) -> Timed:
    """Run all sides in turn, `repeats` rounds; every other round in reverse order. Warm up before calling."""
    timed = Timed({name: [] for name in sides})
    for number in range(repeats):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in order:
            started = time.perf_counter()
            timed.results[name] = sides[name]()
            timed.seconds[name].append(time.perf_counter() - started)
    return timed


def mean_kendall(groups: Sequence[int], ours: np.ndarray, peer: np.ndarray) -> float:
    """Mean Kendall tau-b per query; `groups` holds the number of neighbouring scores of each query."""
    bounds = np.cumsum(groups)[:-1]
    pairs = zip(np.split(ours, bounds), np.split(peer, bounds), strict=True)
    taus = [tau for first, second in pairs if (tau := kendall_tau_b(first, second)) is not None]
    return float(np.mean(taus)) if taus else float("nan")


def processor_name() -> str:
    """Name of the processor, and which instructions for matrix products it has and oneDNN may use."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = next(
        (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "unknown"
    )
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return f"{name}, {' '.join(f for f in known if f in flags)}{f', oneDNN up to {limit}' if limit else ''}"


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, MB (2**20 bytes), from the kernel's own mark."""
    return _status_mb("VmHWM")


def rss_mb() -> float:
    """Resident memory of this process now, MB."""
    return _status_mb("VmRSS")


def reset_peak_rss() -> None:
    """Lower the kernel's peak mark to what is resident now (Linux: writing 5 to clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status_mb(key: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {key}: memory is measured on Linux only")
