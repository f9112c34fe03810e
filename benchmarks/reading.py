"""How long the asset `corpus` takes for many documents, and the most memory that it has: it must not grow with their number.

    python -m benchmarks.reading --documents 1000000 10000000       # of a BEIR folder that is written here and deleted
    python -m benchmarks.reading --collection sql:/data/shop.toml   # of any other source

Each size is read by a process of its own. What was read and stored lies below --work until the end.
"""

import argparse
import hashlib
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_WORDS = (
    "granite",
    "river",
    "signal",
    "harbour",
    "ledger",
    "copper",
    "meadow",
    "engine",
    "winter",
    "compass",
    "paper",
    "orchard",
)


def main() -> None:
    """Print one line a collection: documents, seconds, peak memory, data version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--collection", help="SCHEME:REST, read as it is")
    parser.add_argument("--work", type=Path, help="a folder on a disk with room for the texts three times")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(_measure(given.one, given.work)), flush=True)
        return
    for count in [0] if given.collection else given.documents:
        with tempfile.TemporaryDirectory(dir=given.work, prefix="reading-") as work:
            collection = given.collection or _write(Path(work) / "made", count)
            command = [sys.executable, "-m", "benchmarks.reading", "--one", collection, "--work", work]
            subprocess.run(command, check=True)


def _write(folder: Path, count: int) -> str:
    """A BEIR folder of short documents, each with a text of its own."""
    folder.mkdir()
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for number in range(count):
            drawn = hashlib.sha256(str(number).encode()).digest()
            text = " ".join(_WORDS[byte % len(_WORDS)] for byte in drawn[:10])
            file.write(json.dumps({"_id": f"d{number}", "title": f"Note {number}", "text": f"{text} {number}."}) + "\n")
    return f"beir:{folder}"


def _measure(collection: str, work: Path) -> dict[str, object]:
    from distill_assets.assets.collection import CORPUS
    from distill_assets.handles.project import Project

    tempfile.tempdir = str(work)
    project = Project(overrides={"collection": collection, "data_folder": str(work / "data")})
    (batch,) = project.collection.source.batches()
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = CORPUS.make(project, batch, logging.getLogger("reading"))
    assert result.metadata is not None and result.data_version is not None
    return {
        "collection": collection,
        "documents": result.metadata["dagster/row_count"],
        "seconds": round(time.perf_counter() - start, 1),
        "CPU seconds": round(time.process_time(), 1),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "MB before": before // 1024,
        "warehouse MB": project.places.warehouse.path.stat().st_size // 2**20,
        "data version": result.data_version.value,
    }


if __name__ == "__main__":
    main()
