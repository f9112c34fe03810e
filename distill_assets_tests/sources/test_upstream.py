"""What a team's assets bring beside documents, queries and judgements: clicks, pairs, and a source that an asset names."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from distill_assets.errors import SettingsError, SourceError
from distill_assets.records import Collection, Document, Qrel, hash_text
from distill_assets.sources.beir import BeirSource
from distill_assets.sources.upstream import Upstream, UpstreamAsset, read_part, write_batch
from distill_assets_tests.sources.test_beir import write_batch as write_beir


def arrive(inbox: Path, columns: dict[str, str] | None = None, **frames: Any) -> Collection:
    """What the line reads of a batch whose parts are these frames."""
    asset = UpstreamAsset(("warehouse", "frames"), columns or {})
    parts: dict[Any, Any] = {part: read_part(part, asset, frame) for part, frame in frames.items()}  # type: ignore[arg-type]
    write_batch(inbox, "day", parts, {})
    source = BeirSource(inbox)
    assert source.batches() == ["day"] and source.look("day") is None
    return source.read("day")


def test_clicks_upstream_train_and_judge_nothing(tmp_path: Path) -> None:
    """Written as judgements they would fall into dev and test by hash; a query without an id is one by its text."""
    clicks = pl.DataFrame(
        {
            "query_id": ["q1", None, None],
            "query": [None, "Join two frames", "sort"],
            "doc_id": ["d1", "d1", "d2"],
            "shown": [10, 20, 30],
            "clicked": [5, 10, 0],
        }
    )
    documents = pl.DataFrame({"doc_id": ["d1", "d2"], "text": ["one", "two"]})
    queries = pl.DataFrame({"query_id": ["q1"], "text": ["What is it?"], "split": ["test"]})
    found = arrive(tmp_path, documents=documents, queries=queries, clicks=clicks)
    assert found.qrels == [Qrel("q1", "d1", 1), Qrel(hash_text("Join two frames"), "d1", 1)]
    assert {query.split for query in found.queries} == {"train"} and len(found.queries) == 3
    with pytest.raises(SourceError, match=r"clicks\.jsonl, row 1: 'd1' was shown 1 times and clicked 2 times"):
        arrive(tmp_path, documents=documents, clicks=[{"query": "a", "doc_id": "d1", "shown": 1, "clicked": 2}])
    with pytest.raises(SourceError, match=r"frames has no column 'shown' for shown"):
        arrive(tmp_path, clicks=[{"query": "a", "doc_id": "d1"}])


def test_pairs_upstream_are_a_batch(tmp_path: Path) -> None:
    """A null negative written as text would be a document "None" that is judged not relevant for every query."""
    rows = pl.DataFrame({"question": ["why", "how"], "positive": ["because", "so"], "negative": ["banana", None]})
    found = arrive(tmp_path, {"query": "question"}, pairs=rows)
    assert [document.text for document in found.documents] == ["because", "banana", "so"]
    texts = {document.doc_id: document.text for document in found.documents}
    judged = {(qrel.query_id, texts[qrel.doc_id], qrel.relevance) for qrel in found.qrels}
    assert judged == {(hash_text("why"), "because", 1), (hash_text("why"), "banana", 0), (hash_text("how"), "so", 1)}


def test_a_source_upstream_is_read_where_the_asset_wrote_it(tmp_path: Path) -> None:
    """The folder is read in place and followed: a copy of the name alone would never see that it was written again."""
    written = write_beir(tmp_path / "export", {"d1": "one"})
    found = arrive(tmp_path / "inbox", source=f"beir:{written}")
    assert found.documents == [Document("d1", "", "one")]
    source = BeirSource(tmp_path / "inbox")
    before = source.fingerprint("day")
    write_beir(written, {"d1": "two"})
    assert source.fingerprint("day") != before and source.read("day").documents == [Document("d1", "", "two")]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, r"warehouse/frames gave None as its source: expected SCHEME:REST as text, with one of beir, .*pairs"),
        ("/data/export", r"gave '/data/export' as its source"),
        ("nope:x", r"gave 'nope:x' as its source"),
        ("pairs:", r"gave 'pairs:' as its source"),
        ("pairs:export", r"gave 'pairs:export': expected an absolute path behind pairs:"),
    ],
)
def test_a_value_that_names_no_source_is_refused(tmp_path: Path, value: Any, error: str) -> None:
    """A relative path would be looked for in the inbox, and found by chance or never."""
    with pytest.raises(SourceError, match=error):
        arrive(tmp_path, source=value)


def test_several_sources_are_no_batch(tmp_path: Path) -> None:
    """Of two partitions read as one batch, the first would be the collection and the second gone."""
    two = {"source": pl.DataFrame({"collection": ["pairs:/a", "pairs:/b"]}).to_arrow()}
    with pytest.raises(SourceError, match="one batch has 2 sources, first pairs:/a"):
        write_batch(tmp_path, "day", two, {})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize("part", ["pairs", "source"])
def test_a_whole_batch_stands_alone(part: Any) -> None:
    """Documents beside would be written into the folder, and not read."""
    with pytest.raises(SettingsError, match=rf"upstream\.{part} brings a whole batch, and documents beside it"):
        Upstream({part: UpstreamAsset(("a",)), "documents": UpstreamAsset(("b",))})
