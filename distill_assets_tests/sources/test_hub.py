"""Data sets in the hub's format, from folders: nothing is downloaded here."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_assets.errors import SettingsError, SourceError
from distill_assets.records import Collection, Document, Qrel, Query
from distill_assets.sources import base, hub
from distill_assets.sources.base import DEFAULT_RULES, OneBatch, Options, PartOptions
from distill_assets.sources.catalog import open_source
from distill_assets.sources.columns import PARTS

pytest.importorskip("datasets")
Rows = list[dict[str, Any]]
DOCUMENTS: Rows = [{"_id": "1", "title": "T", "text": "one"}, {"_id": "2", "title": "", "text": "two"}]
QUERIES: Rows = [{"_id": "q1", "text": "first"}, {"_id": "q2", "text": "second"}]
TRAIN: Rows = [{"query-id": "q1", "corpus-id": "1", "score": 1.0}]
TEST: Rows = [{"query-id": "q2", "corpus-id": "2", "score": 2.0}]
EXPECTED = Collection(
    documents=[Document("1", "T", "one"), Document("2", "", "two")],
    queries=[Query("q1", "first", "train"), Query("q2", "second", "test")],
    qrels=[Qrel("q1", "1", 1), Qrel("q2", "2", 2)],
)


def data_set(folder: Path, configs: Mapping[str, Mapping[str, Rows]]) -> Path:
    """A folder as the hub keeps it: Parquet files, and which config and split each of them is."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = folder / config / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), path)
            lines += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
    return folder


def source(folder: Path, **parts: Any) -> OneBatch:
    """The collection `hf:FOLDER`."""
    found = tuple((part, PartOptions(**parts[part])) for part in PARTS if part in parts)
    opened = open_source(f"hf:{folder}", Options(found), DEFAULT_RULES)
    assert isinstance(opened, OneBatch)
    return opened


def read(folder: Path, **parts: Any) -> Collection:
    """What it brings."""
    return source(folder, **parts).read(folder.name)


TEXTS = {"corpus": {"corpus": DOCUMENTS}, "queries": {"queries": QUERIES}}


@pytest.mark.parametrize("config", ["qrels", "default"])
def test_configs_as_mteb_has_them(config: str, tmp_path: Path) -> None:
    """A split whose name is lost would train on the test queries; no place of this machine may be the collection's name."""
    folder = data_set(tmp_path / "shop", {**TEXTS, config: {"train": TRAIN, "test": TEST}})
    assert read(folder) == EXPECTED
    assert (source(folder).name, source(folder).batches()) == ("hf:shop", ["shop"])


def test_judgements_in_a_data_set_beside_it(tmp_path: Path) -> None:
    """BeIR keeps them so: without that data set a judged collection would count as one that nobody judged."""
    folder = data_set(tmp_path / "shop", TEXTS)
    alone = read(folder)
    assert alone.qrels == [] and "name another config" in alone.unread[f"{folder}-qrels"]
    before = source(folder).fingerprint("shop")
    data_set(tmp_path / "shop-qrels", {"default": {"train": TRAIN, "test": TEST}})
    assert read(folder) == EXPECTED
    assert source(folder).fingerprint("shop") != before


def test_other_columns_and_configs(tmp_path: Path) -> None:
    """A column map that is not handed on leaves only data sets that are named as BEIR's are."""
    articles = [{"nr": 7, "body": "one", "year": 2020}]
    folder = data_set(tmp_path / "shop", {"all": {"train": articles, "rest": [{"nr": 8, "body": "two", "year": 2021}]}})
    columns = {"doc_id": "nr", "text": "body"}
    both = read(folder, documents={"config": "all", "columns": columns})
    assert both.documents == [Document("7", "", "one"), Document("8", "", "two")]
    part = read(folder, documents={"config": "all", "split": "rest", "columns": columns})
    assert part.documents == [Document("8", "", "two")]
    with pytest.raises(
        SourceError, match=r"configs all: expected corpus and queries as BEIR has; say in \[data\.documents\]"
    ):
        read(folder)
    with pytest.raises(SourceError, match=r"split = 'dev': hf:.*shop has train, rest"):
        read(folder, documents={"config": "all", "split": "dev", "columns": columns})
    with pytest.raises(
        SourceError, match=r"has no column 'text' for text: it has nr, body, year; say in data\.documents\.columns"
    ):
        read(folder, documents={"config": "all", "columns": {"doc_id": "nr"}})
    with pytest.raises(SettingsError, match=r"\[data\.documents\] has a query"):
        read(folder, documents={"query": "SELECT 1"})


def test_a_folder_counts_as_changed_by_its_bytes(tmp_path: Path) -> None:
    """A revision is no guard of a folder: what was replaced there must be read again."""
    folder = data_set(tmp_path / "shop", TEXTS)
    before, look = source(folder).fingerprint("shop"), source(folder).look("shop")
    assert source(folder).fingerprint("shop") == before
    data_set(folder, {"corpus": {"corpus": [{**DOCUMENTS[0], "text": "eno"}]}, "queries": {"queries": QUERIES}})
    assert source(folder).fingerprint("shop") != before and source(folder).look("shop") != look


def test_a_file_is_not_decoded_ahead_of_its_reader(tmp_path: Path) -> None:
    """Ten million documents took 2.1 GB, and no row was wrong."""
    folder = data_set(tmp_path / "long", TEXTS)
    ids = [f"{number:05}" for number in range(60_000)]
    table = pa.table({"_id": ids, "title": [""] * len(ids), "text": [doc_id * 80 for doc_id in ids]})
    pq.write_table(table, folder / "corpus" / "corpus.parquet", row_group_size=1000)
    before, found, held = pa.total_allocated_bytes(), list[str](), 0
    for document in hub.HubDataset(str(folder)).read().documents:
        found.append(document.doc_id)
        if len(found) % 1000 == 0:
            time.sleep(0.005)  # storing takes longer than decoding
            held = max(held, pa.total_allocated_bytes() - before)
    assert found == ids
    assert held < table.nbytes / 2


def test_a_commit_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pinned data set must not be stale because the network is down; one that is not pinned follows the hub's newest commit."""
    commits = iter(["a" * 40, "b" * 40, "c" * 40])
    monkeypatch.setattr(hub, "_newest_commit", lambda name, revision, minute: next(commits))
    pinned = hub.open_hub(f"me/shop@{'d' * 40}", Options())
    assert pinned.revision == "d" * 40 and pinned.fingerprint() == pinned.fingerprint() and pinned.look() is None
    assert next(commits) == "a" * 40
    floating = hub.open_hub("me/shop", Options((("judgements", PartOptions(config="x")),)))
    assert floating.fingerprint() != floating.fingerprint()


def test_what_the_hub_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack of the hub's client says nothing of the way on; its message moves with each try, and the fingerprint must not."""

    def refuse(name: str, revision: str, minute: int) -> str:
        with hub._told(f"hf:{name}"):
            raise ConnectionError("request 17")

    monkeypatch.setattr(hub, "_newest_commit", refuse)
    gone = hub.open_hub("me/shop", Options())
    assert gone.fingerprint() == gone.fingerprint()
    with pytest.raises(SourceError, match=r"hf:me/shop cannot be read: request 17; check the name.*HF_TOKEN"):
        gone.read()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError from the depth names no extra."""
    monkeypatch.setattr(base, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(SettingsError, match=r"pip install 'distill_assets\[hub\]'"):
        open_source("hf:me/shop", Options(), DEFAULT_RULES)
