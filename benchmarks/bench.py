"""Measure every engine against its peer and write `benchmarks/README.md` and `benchmarks/results.json`.

    python -m benchmarks.bench [--only scoring mining] [--quick] [--data ../shared/data/scifact] [--device cuda]

With `--only`, rows of other engines stay as they were measured last.
"""

import argparse
import importlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measuring import Options, Row, processor_name

ENGINES = ("scoring", "scoring_store", "mining", "training")
_HERE = Path(__file__).parent
_ABOUT = (
    "Written by `make bench`; medians of alternating runs on one machine. Pairs, documents and queries are real ones of the collection "
    "named under *texts*; rows of the store, of 10k x 100k and of growth have made-up texts and vectors, for size. A target is held "
    "against *ratio*: times faster or smaller than the peer, or than the target's own limit where there is no peer."
)


def main() -> None:
    """Run the chosen engines' modules, one after the other, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=_HERE, help="folder of README.md and results.json")
    given = parser.parse_args()
    options = Options(given.quick, given.device, given.data, given.model, given.repeats)
    saved = _read(given.out)
    for engine in given.only:
        found = importlib.import_module(f"benchmarks.{engine}").rows(options)
        saved = {name: row for name, row in saved.items() if row["engine"] != engine}
        saved |= {row.name: _entry(engine, row, options) for row in found}
        _write(given.out, saved)


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _entry(engine: str, row: Row, options: Options) -> dict[str, Any]:
    values = asdict(row)
    del values["name"]
    is_held = not (row.ratio is None or row.target is None or options.quick)
    return values | {
        "met": (row.ratio or 0) >= (row.target or 0) if is_held else None,
        "engine": engine,
        "device": options.device,
        "machine": _machine(options),
        "data": options.data.name if options.data else "python_api",
        "quick": options.quick,
    }


def _machine(options: Options) -> str:
    if options.device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores, {processor_name()}"


def _write(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    lines = ["# Benchmarks", "", _ABOUT, ""]
    lines += [
        "| work | texts | ours | peer | unit | ratio | target | met | agreement |",
        "|---|---|---:|---:|---|---:|---:|---|---|",
    ]
    lines += [_line(name, row) for name, row in entries.items()]
    for name, row in entries.items():
        if row["detail"]:
            lines += ["", f"## {name}", "", row["detail"]]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(name: str, row: dict[str, Any]) -> str:
    ratio, target = row["ratio"], row["target"]
    met = {True: "yes", False: "**no**", None: ""}[row.get("met")]
    title = name + (" (quick)" if row["quick"] else "")
    cells = [title, row["data"], _figure(row["ours"]), _figure(row["peer"]), row["unit"]]
    return "| " + " | ".join([*cells, _figure(ratio), _figure(target), met, row["agreement"]]) + " |"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
