"""Folders of an inbox that are no BEIR folders; and sources that other packages add."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill_assets.errors import SettingsError, SourceError
from distill_assets.sources import catalog
from distill_assets.sources.base import DEFAULT_RULES, Options
from distill_assets.sources.beir import BeirSource
from distill_assets_tests.sources.test_beir import write_batch
from distill_assets_tests.sources.test_pairs import squad
from distill_assets_tests.sources.test_trec import SGML, TOPICS


def write(folder: Path, **files: str) -> Path:
    """Write files, whose names have `_` for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return folder


def test_each_format_that_is_recognised_is_a_batch(tmp_path: Path) -> None:
    """A folder that is passed over would be data that arrived and was never read; a stray one would stop nobody, as before."""
    write_batch(tmp_path / "beir", {"d1": "one"})
    write(tmp_path / "pairs", rows_jsonl='{"query": "why", "positive": "because"}\n')
    write(tmp_path / "squad", dev_json=squad(("1", "What?", False)))
    write(tmp_path / "trec", docs_trec=SGML, topics_txt=TOPICS)
    write(tmp_path / "toml", source_toml='collection = "faq:faq.md"\n', faq_md="## Why?\nBecause.\n")
    write(tmp_path / "files", guide_md="# Guide\nHow it is done, in some words that say enough.\n")
    write(tmp_path / "notes", notes_md="# Notes\n", numbers_csv="a,b\n1,2\n")
    source = BeirSource(tmp_path)
    assert source.batches() == ["beir", "files", "pairs", "squad", "toml", "trec"]
    found = {batch: source.read(batch) for batch in source.batches()}
    assert {batch: len(each.documents) for batch, each in found.items()} == {
        "beir": 1,
        "files": 1,
        "pairs": 1,
        "squad": 2,
        "toml": 1,
        "trec": 2,
    }
    assert {batch: len(each.queries) for batch, each in found.items()} == {
        "beir": 0,
        "files": 0,
        "pairs": 1,
        "squad": 1,
        "toml": 1,
        "trec": 2,
    }
    assert len({source.fingerprint(batch) for batch in found}) == len(found)


def test_a_recognised_batch_follows_its_files(tmp_path: Path) -> None:
    """What is recognised is remembered; a file that is still being copied must be looked at again."""
    folder = write(tmp_path / "late", rows_jsonl='{"query": "wh')
    write_batch(tmp_path / "beir", {"d1": "one"})
    source = BeirSource(tmp_path)
    assert source.batches() == ["beir"]
    write(folder, rows_jsonl='{"query": "why", "positive": "because"}\n')
    assert source.batches() == ["beir", "late"]
    before = source.fingerprint("late"), source.look("late")
    write(folder, more_jsonl='{"query": "how", "positive": "so"}\n')
    assert source.fingerprint("late") != before[0] and source.look("late") != before[1]
    (folder / "_READY").touch()
    assert source.look("late") is None and len(source.read("late").documents) == 2


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("collection = ", r"source\.toml is no TOML"),
        ("", r"collection = None; expected SCHEME:PATH"),
        ('collection = "pairs"', r"expected SCHEME:PATH or SCHEME:NAME as text"),
        ("collection = 3", r"collection = 3; expected"),
        ('collection = "nope:x"', r"no source 'nope': there are beir, .*pairs"),
        ('collection = "pairs:gone.jsonl"', r"cannot read .*broken/gone\.jsonl: No such file"),
        ('collection = "pairs:rows.jsonl"\nquery = "x"', r"found query, expected documents, queries"),
        ('collection = "pairs:rows.jsonl"\n[documents]\npath = "x.csv"', r"pairs reads no part"),
        ('collection = "tables:x"\n[documents]\nfile = "x.csv"', r"a part is not as the settings'"),
        ('collection = "tables:x"\n[documents]\npath = "gone.csv"', r"no file at .*broken/gone\.csv"),
        ('collection = "beir:gone"', r"cannot read .*broken/gone"),
    ],
)
def test_a_broken_source_file_stops_its_own_batch_alone(tmp_path: Path, content: str, error: str) -> None:
    """An error from one folder that anybody may write would hold up every batch of the inbox."""
    write_batch(tmp_path / "sound", {"d1": "one"})
    folder = write(tmp_path / "broken", source_toml=content)
    source = BeirSource(tmp_path)
    assert source.batches() == ["broken", "sound"] and len(source.read("sound").documents) == 1
    with pytest.raises(SourceError, match=error):
        source.read("broken")
    before = source.fingerprint("broken"), source.look("broken")
    assert before == (source.fingerprint("broken"), source.look("broken")), "asked for once, not at every look"
    write(folder, source_toml='collection = "pairs:rows.jsonl"', rows_jsonl='{"query": "why", "positive": "because"}\n')
    assert source.fingerprint("broken") != before[0] and source.look("broken") != before[1]
    assert len(source.read("broken").documents) == 1


def test_a_source_file_wins_and_may_name_a_folder_elsewhere(tmp_path: Path) -> None:
    """An asset names the folder that it wrote; read as the BEIR folder that lies beside, the batch would be another one."""
    elsewhere = write_batch(tmp_path / "elsewhere", {"d7": "seven"})
    folder = write_batch(tmp_path / "inbox" / "a", {"d1": "one"})
    write(folder, source_toml=f'collection = "beir:{elsewhere}"')
    source = BeirSource(tmp_path / "inbox")
    assert [document.doc_id for document in source.read("a").documents] == ["d7"]
    before = source.fingerprint("a")
    write_batch(elsewhere, {"d8": "eight"})
    assert source.fingerprint("a") != before


def test_tables_of_a_source_file_lie_in_its_folder(tmp_path: Path) -> None:
    """Looked for in the working folder, a table of the same name from elsewhere would be read. Clicks of a table train as well."""
    rows = "n,body\n1,one\n2,two\n"
    told = 'collection = "tables:x"\n[documents]\npath = "a.csv"\ncolumns = {doc_id = "n", text = "body"}\n[clicks]\npath = "c.csv"\n'
    folder = write(tmp_path / "t", source_toml=told, a_csv=rows, c_csv="query,doc_id,shown,clicked\nwhy,2,3,1\n")
    source = BeirSource(tmp_path)
    found = source.read("t")
    assert [document.text for document in found.documents] == ["one", "two"]
    assert [(qrel.doc_id, qrel.relevance) for qrel in found.qrels] == [("2", 1)]
    before = source.fingerprint("t")
    write(folder, a_csv=rows + "3,three\n")
    assert source.fingerprint("t") != before


# Sources from other packages.

PLUGIN = """
from dataclasses import dataclass
from distill_assets.records import Document
from distill_assets.sources.base import Parts

@dataclass(frozen=True)
class Wiki:
    name: str
    def look(self): return None
    def fingerprint(self): return f"wiki {self.name}"
    def read(self): return Parts(documents=[Document("d1", "", f"page of {self.name}")])

def open_wiki(rest, options): return Wiki(rest)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with two entry points, installed into a folder of the path; the module of the second needs what is not there."""
    folder = tmp_path / "site"
    write(folder, wiki_source_py="")
    (folder / "wiki_source.py").write_text(PLUGIN, encoding="utf-8")
    (folder / "broken_source.py").write_text("import package_that_is_not_there\n", encoding="utf-8")
    told = folder / "wiki_plugin-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: wiki-plugin\nVersion: 1.0\n", encoding="utf-8")
    entries = "wiki = wiki_source:open_wiki\nbroken = broken_source:open_it\n"
    (told / "entry_points.txt").write_text(f"[distill_assets.sources]\n{entries}", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    catalog._from_outside.cache_clear()
    yield
    catalog._from_outside.cache_clear()
    sys.modules.pop("wiki_source", None)


def test_an_installed_package_adds_a_source(installed: None, tmp_path: Path) -> None:
    """An entry point that is looked up under another group, or loaded without its options, would be a source that nobody can name."""
    assert "wiki" in catalog.known_schemes() and not catalog.is_path("wiki")
    source = catalog.open_source("wiki:en/Berlin", Options(), DEFAULT_RULES)
    assert (source.name, source.batches()) == ("wiki:en/Berlin", ["en_Berlin"])
    [document] = source.read("en_Berlin").documents
    assert document.text == "page of en/Berlin"
    write(tmp_path / "inbox" / "b", source_toml='collection = "wiki:de"')
    assert [d.text for d in BeirSource(tmp_path / "inbox").read("b").documents] == ["page of de"]


def test_a_source_that_cannot_be_loaded_or_is_unknown_is_named(installed: None) -> None:
    """An ImportError of a module that nobody has heard of does not say which package to mend."""
    with pytest.raises(
        SettingsError, match=r"'broken' of the package wiki-plugin .*broken_source.*package_that_is_not_there"
    ):
        catalog.open_source("broken:x", Options(), DEFAULT_RULES)
    with pytest.raises(SettingsError, match=r"no source 'nope': there are beir, broken, .*pairs, .*wiki"):
        catalog.open_source("nope:x", Options(), DEFAULT_RULES)
