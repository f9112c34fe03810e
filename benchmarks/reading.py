"""How long the asset `corpus` takes for many documents, and the most memory that it has: it must not grow with their number.

    python -m benchmarks.reading --documents 1000000 10000000       # of a BEIR folder that is written here and deleted
    python -m benchmarks.reading --scheme hf                        # of a folder as the hub keeps it; or ir_datasets
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
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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
    parser.add_argument("--scheme", choices=_WRITERS, default="beir")
    parser.add_argument("--collection", help="SCHEME:REST, read as it is")
    parser.add_argument("--work", type=Path, help="a folder on a disk with room for the texts three times")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(_measure(given.one, given.work)), flush=True)
        return
    for count in [0] if given.collection else given.documents:
        with tempfile.TemporaryDirectory(dir=given.work, prefix="reading-") as work:
            collection = given.collection or _WRITERS[given.scheme](Path(work) / "made", count)
            command = [sys.executable, "-m", "benchmarks.reading", "--one", collection, "--work", work]
            subprocess.run(command, check=True)


def _documents(count: int) -> Iterator[tuple[str, str, str]]:
    """Id, title and text of short documents, each with a text of its own."""
    for number in range(count):
        drawn = hashlib.sha256(str(number).encode()).digest()
        text = " ".join(_WORDS[byte % len(_WORDS)] for byte in drawn[:10])
        yield f"d{number}", f"Note {number}", f"{text} {number}."


def _write_beir(folder: Path, count: int) -> str:
    folder.mkdir()
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for doc_id, title, text in _documents(count):
            file.write(json.dumps({"_id": doc_id, "title": title, "text": text}) + "\n")
    return f"beir:{folder}"


def _write_data_set(folder: Path, count: int) -> str:
    """As the hub keeps it: a Parquet file of several row groups, and the config that it is of."""
    folder.mkdir()
    schema = pa.schema([(name, pa.string()) for name in ("_id", "title", "text")])
    documents = _documents(count)
    with pq.ParquetWriter(folder / "corpus.parquet", schema) as writer:
        while rows := list(islice(documents, 100_000)):
            writer.write_table(pa.table(list(zip(*rows, strict=True)), schema=schema))
    lines = ["configs:", "- config_name: corpus", "  data_files:", "  - split: corpus", "    path: corpus.parquet"]
    (folder / "README.md").write_text("\n".join(["---", *lines, "---", ""]), encoding="utf-8")
    return f"hf:{folder}"


def _name_data_set(folder: Path, count: int) -> str:
    """Nothing is written: `_register` makes the documents while they are read."""
    return f"ir_datasets:made-{count}"


def _register(name: str, count: int) -> None:
    package, formats = import_module("ir_datasets"), import_module("ir_datasets.formats.base")
    title_doc = import_module("ir_datasets.datasets.beir").BeirTitleDoc

    def of(base: type, kind: str, rows: Callable[[], Iterator[Any]]) -> Any:
        return type("Made", (base,), {f"{kind}_iter": lambda _: rows()})()

    documents = of(
        formats.BaseDocs, "docs", lambda: (title_doc(d, text, title) for d, title, text in _documents(count))
    )
    query = of(formats.BaseQueries, "queries", lambda: iter([formats.GenericQuery("q", "which note is the first?")]))
    qrels = of(formats.BaseQrels, "qrels", lambda: iter([formats.GenericQrel("q", "d0", 1)]))
    package.registry.register(name, import_module("ir_datasets.datasets.base").Dataset(documents, query, qrels))


_WRITERS = {"beir": _write_beir, "hf": _write_data_set, "ir_datasets": _name_data_set}


def _measure(collection: str, work: Path) -> dict[str, object]:
    from distill_assets.assets.collection import CORPUS
    from distill_assets.handles.project import Project

    tempfile.tempdir = str(work)
    if collection.startswith("ir_datasets:made-"):
        _register(collection.partition(":")[2], int(collection.rpartition("-")[2]))
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
