"""Collections of `ir_datasets`, from data sets that are registered here: nothing is downloaded."""

from collections.abc import Iterator
from typing import Any

import pytest

from distill_assets.errors import SettingsError, SourceError
from distill_assets.records import Collection, Document, Qrel, Query, assign_split
from distill_assets.sources import base
from distill_assets.sources.base import DEFAULT_RULES, Options
from distill_assets.sources.catalog import open_source


def read(name: str) -> Collection:
    """What the collection `ir_datasets:NAME` brings."""
    source = open_source(f"ir_datasets:{name}", Options(), DEFAULT_RULES)
    return source.read(*source.batches())


@pytest.fixture
def registry() -> Iterator[Any]:
    """Data sets `tiny`, as BEIR's are: all queries in the whole, judgements in the subsets train and test, and another subset."""
    package = pytest.importorskip("ir_datasets")
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.datasets.beir import BeirTitleDoc
    from ir_datasets.formats.base import BaseDocs, BaseQrels, BaseQueries, GenericDoc, GenericQrel, GenericQuery

    def of(base: Any, kind: str, found: list[Any]) -> Any:
        return type("Found", (base,), {f"{kind}_iter": lambda self: iter(found)})()

    documents = of(BaseDocs, "docs", [BeirTitleDoc("d1", "one", "T"), GenericDoc("d2", "two")])
    first, second, third = (GenericQuery(f"q{n}", text) for n, text in enumerate(("first", "second", "third"), start=1))
    train = of(BaseQrels, "qrels", [GenericQrel("q1", "d1", 1)])
    test = of(BaseQrels, "qrels", [GenericQrel("q2", "d2", 2), GenericQrel("q2", "d1", 0)])
    other = of(BaseQrels, "qrels", [GenericQrel("q3", "d1", 1)])
    known = {
        "tiny": Dataset(documents, of(BaseQueries, "queries", [first, second, third])),
        "tiny/train": Dataset(documents, of(BaseQueries, "queries", [first]), train),
        "tiny/test": Dataset(documents, of(BaseQueries, "queries", [second]), test),
        "tiny/judged-2019": Dataset(documents, of(BaseQueries, "queries", [third]), other),
        "tiny/empty": Dataset(),
    }
    for name, found in known.items():
        package.registry.register(name, found)
    yield package.registry
    for name in known:
        del package.registry._registered[name]


def test_the_whole_brings_the_judgements_of_its_subsets(registry: Any) -> None:
    """`beir/scifact` has no judgements of its own: without its subsets it would count as one that nobody judged."""
    assert read("tiny") == Collection(
        documents=[Document("d1", "T", "one"), Document("d2", "", "two")],
        queries=[
            Query("q1", "first", "train"),
            Query("q2", "second", "test"),
            Query("q3", "third", assign_split("third")),
        ],
        qrels=[Qrel("q2", "d2", 2), Qrel("q2", "d1", 0), Qrel("q1", "d1", 1)],
    )


def test_one_subset_alone(registry: Any) -> None:
    """An id of a subset means its queries alone."""
    found = read("tiny/test")
    assert [q.query_id for q in found.queries] == ["q2"] and found.qrels == [Qrel("q2", "d2", 2), Qrel("q2", "d1", 0)]


def test_an_id_without_judgements_says_so(registry: Any) -> None:
    """A set of documents and queries is a collection. That nobody judged it must be read somewhere."""
    for name in ("tiny/train", "tiny/test"):
        del registry._registered[name]
    try:
        found = read("tiny")
        assert len(found.documents) == 2 and "no judgements under this id" in found.unread["tiny"]
    finally:
        for name in ("tiny/train", "tiny/test"):
            registry._registered[name] = None
    with pytest.raises(SourceError, match="ir_datasets:tiny/empty has no documents, queries or judgements"):
        read("tiny/empty")


def test_an_unknown_id_names_near_ones(registry: Any) -> None:
    """There are hundreds of ids, and the package raises a KeyError."""
    with pytest.raises(SettingsError, match=r"no data set 'tiny/tset': did you mean tiny/test"):
        read("tiny/tset")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError from the depth names no extra."""
    monkeypatch.setattr(base, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(SettingsError, match=r"pip install 'distill_assets\[ir-datasets\]'"):
        open_source("ir_datasets:tiny", Options(), DEFAULT_RULES)
