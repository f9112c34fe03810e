"""The embedded collection, on a small package that is never imported."""

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from distill_assets.errors import SourceError, UnknownBatchError
from distill_assets.records import Collection, assign_split, fingerprint
from distill_assets.sources.python_api import PythonApiSource

PACKAGE = "distill_fake_package"
FILES = {
    "__init__.py": '''
raise RuntimeError("a source must parse, never import")

def top_level(a: int, b: str = "x") -> float:
    """Return the weighted total of two values.

    The body says what weighting means here.
    """
''',
    "frames.py": '''
class Frame:
    """Hold rows and columns of named values.

    Frames grow by columns.
    """

    def __init__(self, rows, *, copy: bool = False) -> None:
        """Build a frame out of given rows."""

    def cummax(self, axis=0) -> "Frame":
        """Return cumulative maximum over an axis. Missing values are skipped.

        Examples
        --------
        >>> secret_doctest()
        """

    def _hidden(self):
        """Return something that nobody may call."""

class Series:
    """Hold one column of values."""

    def cummax(self) -> "Series":
        """Return cumulative maximum over an axis."""

class _Private:
    """Serve as a base class for others."""

    def method(self):
        """Return what a private class returns."""

def short():
    """Too short."""

def undocumented():
    pass
''',
    "_core/__init__.py": "",
    "_core/tools.py": '''
async def fetch(url):
    """Fetch the content behind an address."""
''',
    "tests/test_frames.py": '''
def helper():
    """Return the helper of the test suite."""
''',
}
NAMES = [
    f"{PACKAGE}.top_level",
    f"{PACKAGE}.frames.Frame",
    f"{PACKAGE}.frames.Frame.cummax",
    f"{PACKAGE}.frames.Series",
    f"{PACKAGE}.frames.Series.cummax",
    f"{PACKAGE}.tools.fetch",
]


def write_package(root: Path, name: str = PACKAGE, version: str = "1.0") -> None:
    """Write the package and its metadata as pip would have installed it."""
    for path, content in FILES.items():
        target = root / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
    for old in root.glob(f"{name}-*.dist-info/*"):
        old.unlink()
    info = root / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    for old in root.glob(f"{name}-*.dist-info"):
        if old != info:
            old.rmdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (info / "top_level.txt").write_text(f"{name}\n", encoding="utf-8")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder on `sys.path` that holds the package."""
    write_package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def collection(installed: Path) -> Collection:
    """The package, read with the default settings."""
    return PythonApiSource((PACKAGE,)).read(PACKAGE)


def relevant(collection: Collection) -> dict[str, list[str]]:
    """Names of the documents that are relevant to each query text."""
    texts = {query.query_id: query.text for query in collection.queries}
    found: dict[str, list[str]] = {}
    for qrel in collection.qrels:
        assert qrel.relevance == 1
        found.setdefault(texts[qrel.query_id], []).append(qrel.doc_id)
    return found


def test_public_documented_names_become_documents(collection: Collection) -> None:
    """Private names, tests and one-word docstrings would be distractors that nobody searches; private modules stay."""
    assert sorted(document.doc_id for document in collection.documents) == sorted(NAMES)


def test_nothing_is_imported(collection: Collection) -> None:
    """Importing runs code of the package, here an exception, elsewhere minutes and side effects."""
    assert collection.documents
    assert PACKAGE not in sys.modules


def test_documents_carry_name_and_signature_without_annotations(collection: Collection) -> None:
    """Annotations of arguments fill three quarters of pandas' signatures; a lost return annotation is lost meaning."""
    texts = {document.doc_id: document.text for document in collection.documents}
    assert texts == {
        NAMES[0]: f"{NAMES[0]}(a, b='x') -> float",
        NAMES[1]: f"{NAMES[1]}(rows, *, copy=False)",
        NAMES[2]: f"{NAMES[2]}(axis=0) -> 'Frame'",
        NAMES[3]: NAMES[3],
        NAMES[4]: f"{NAMES[4]}() -> 'Series'",
        NAMES[5]: f"{NAMES[5]}(url)",
    }


@pytest.mark.parametrize("body_words", [0, 50])
def test_a_document_never_holds_its_own_query(installed: Path, body_words: int) -> None:
    """The first sentence inside the document turns retrieval into string matching, with wonderful numbers."""
    collection = PythonApiSource((PACKAGE,), body_words=body_words).read(PACKAGE)
    texts = {document.doc_id: document.text.casefold() for document in collection.documents}
    pairs = [(query, name) for query, names in relevant(collection).items() for name in names]
    assert len(pairs) == len(NAMES)
    for query, name in pairs:
        assert query.rstrip(".").casefold() not in texts[name]


def test_body_words_brings_that_many_words_after_the_first_sentence(installed: Path) -> None:
    """Off by one sentence is a leak; doctests and section rules are no words of a person."""
    texts = {d.doc_id: d.text for d in PythonApiSource((PACKAGE,), body_words=4).read(PACKAGE).documents}
    assert texts[NAMES[0]] == f"{NAMES[0]}(a, b='x') -> float The body says what"
    assert texts[NAMES[2]] == f"{NAMES[2]}(axis=0) -> 'Frame' Missing values are skipped."
    longer = {d.doc_id: d.text for d in PythonApiSource((PACKAGE,), body_words=50).read(PACKAGE).documents}
    assert longer[NAMES[2]] == f"{NAMES[2]}(axis=0) -> 'Frame' Missing values are skipped. Examples"


def test_a_shared_first_sentence_is_one_query_with_two_judgements(collection: Collection) -> None:
    """Two queries with one text, each judging the other's answer wrong, punish a right ranking."""
    judged = relevant(collection)
    assert sorted(judged["Return cumulative maximum over an axis."]) == [NAMES[2], NAMES[4]]
    assert len(collection.queries) == 5
    assert len(collection.qrels) == 6


def test_the_split_is_stable_and_hashed_from_the_sentence(installed: Path, collection: Collection) -> None:
    """A split that moves between reads, or that depends on the package's name, trains on tested sentences."""
    assert PythonApiSource((PACKAGE,)).read(PACKAGE) == collection
    for query in collection.queries:
        assert query.split == assign_split(query.text.rstrip(".").casefold())
    twin = "distill_fake_twin"
    write_package(installed, twin)
    of_twin = {query.text: query.split for query in PythonApiSource((twin,)).read(twin).queries}
    assert of_twin == {query.text: query.split for query in collection.queries}


def test_max_queries_keeps_all_documents_and_drops_their_judgements(installed: Path, collection: Collection) -> None:
    """Fewer documents would make the search easier and the quick run look better than the full one."""
    source = PythonApiSource((PACKAGE,), max_queries=2)
    limited = source.read(PACKAGE)
    assert limited.documents == collection.documents
    assert len(limited.queries) == 2
    kept = {query.query_id for query in limited.queries}
    assert limited.qrels == [qrel for qrel in collection.qrels if qrel.query_id in kept]
    one_more = {query.query_id for query in PythonApiSource((PACKAGE,), max_queries=3).read(PACKAGE).queries}
    assert kept < one_more


def test_the_fingerprint_follows_version_and_settings(installed: Path) -> None:
    """An upgraded package or a longer document must count as stale; the same must not, or every run starts anew."""
    source = PythonApiSource((PACKAGE,))
    first = source.fingerprint(PACKAGE)
    assert source.fingerprint(PACKAGE) == first
    others = [PythonApiSource((PACKAGE,), body_words=8), PythonApiSource((PACKAGE,), max_queries=2)]
    seen = {first, *(other.fingerprint(PACKAGE) for other in others)}
    write_package(installed, version="1.1")
    assert len({*seen, source.fingerprint(PACKAGE)}) == 4


def link_as_editable(checkout: Path, site: Path, direct_url: dict | None, name: str = PACKAGE) -> None:
    """What an editable install leaves: a link to the checkout in site-packages, and metadata that lists no module."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "RECORD").write_text(f"_{name}.pth,,\n{name}-1.0.dist-info/METADATA,,\n", encoding="utf-8")
    if direct_url is not None:
        (info / "direct_url.json").write_text(json.dumps(direct_url), encoding="utf-8")
    for path, content in FILES.items():
        target = checkout / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")


def test_an_editable_install_is_stale_when_its_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version stays 1.0 while its docstrings are written: the index would hold last month's for ever."""
    link_as_editable(
        tmp_path / "src", tmp_path / "site-packages", {"dir_info": {"editable": True}, "url": "file:///src"}
    )
    monkeypatch.syspath_prepend(tmp_path / "src")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    source, frames = PythonApiSource((PACKAGE,)), tmp_path / "src" / PACKAGE / "frames.py"
    seen = [source.fingerprint(PACKAGE)]
    frames.touch()
    (frames.parent / "notes.txt").write_text("no source", encoding="utf-8")
    (frames.parent / "tests" / "test_more.py").write_text("x = 1", encoding="utf-8")
    (frames.parent / ".#frames.py").symlink_to("somebody@somewhere:1")  # an editor's lock
    assert source.fingerprint(PACKAGE) == seen[0], "nothing that is read has changed"
    frames.write_text(frames.read_text(encoding="utf-8").replace("rows and columns", "lines and columns"), "utf-8")
    seen.append(source.fingerprint(PACKAGE))
    (frames.parent / "more.py").write_text("x = 1", encoding="utf-8")
    seen.append(source.fingerprint(PACKAGE))
    assert len(set(seen)) == 3
    assert "lines and columns" in " ".join(query.text for query in source.read(PACKAGE).queries)


@pytest.mark.parametrize(
    "direct_url",
    [
        {"vcs_info": {"vcs": "git", "commit_id": "1" * 40}, "url": "https://example.org/x.git"},
        {"dir_info": {}, "url": "file:///src"},
        {"archive_info": {}, "url": "file:///x-1.0.whl"},
    ],
)
def test_what_no_index_gave_is_known_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct_url: dict
) -> None:
    """Installed again from a checkout or a wheel of one's own, the version is often the same and the text another."""
    site = tmp_path / "site-packages"
    write_package(site)
    monkeypatch.syspath_prepend(site)
    source, frames = PythonApiSource((PACKAGE,)), site / PACKAGE / "frames.py"
    by_version = source.fingerprint(PACKAGE)
    (site / f"{PACKAGE}-1.0.dist-info" / "direct_url.json").write_text(json.dumps(direct_url), encoding="utf-8")
    before = source.fingerprint(PACKAGE)
    assert before != by_version
    frames.write_text("", encoding="utf-8")
    assert source.fingerprint(PACKAGE) != before


def test_a_package_from_an_index_keeps_its_fingerprint_and_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another fingerprint makes every stored batch stale; numpy and pandas are asked for theirs all the time.

    The value is `fingerprint("1", "distill_fake_package", "1.0", 0, None)` as it has been stored since the first release.
    """
    write_package(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    assert PythonApiSource((PACKAGE,)).fingerprint(PACKAGE) == fingerprint("1", PACKAGE, "1.0", 0, None)
    version = importlib.metadata.version("numpy")
    assert PythonApiSource(("numpy",)).fingerprint("numpy") == fingerprint("1", "numpy", version, 0, None)


def test_a_source_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback hides which file it was; passed over, the package would lose the functions in it."""
    write_package(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    (tmp_path / "site-packages" / PACKAGE / "gone.py").symlink_to("nowhere")
    with pytest.raises(
        SourceError, match=r"cannot read .*gone\.py: No such file or directory; .*install the package again"
    ):
        PythonApiSource((PACKAGE,)).read(PACKAGE)


def test_half_a_surrogate_pair_in_a_docstring_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hash and no table takes one: a single escape in a docstring would end the reading of the whole package."""
    write_package(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    escaped = 'def odd():\n    """Return the code point \\ud800 as text."""\n'
    (tmp_path / "site-packages" / PACKAGE / "odd.py").write_text(escaped, encoding="utf-8")
    texts = {query.text for query in PythonApiSource((PACKAGE,)).read(PACKAGE).queries}
    assert "Return the code point ? as text." in texts


def test_batches_are_the_packages_sorted() -> None:
    """Batches in the order of the setting would make two projects with the same packages differ."""
    assert PythonApiSource(("pandas", "numpy")).batches() == ["numpy", "pandas"]


def test_a_package_that_is_not_installed_is_named() -> None:
    """An empty batch would be the alternative: a run that succeeds on nothing."""
    source = PythonApiSource(("distill_no_such_package",))
    for use in (source.read, source.fingerprint):
        with pytest.raises(SourceError, match=r"'distill_no_such_package' is not installed.*pip install"):
            use("distill_no_such_package")


@pytest.mark.parametrize("name", ["scipy", "../numpy", "numpy'"])
def test_a_package_outside_the_setting_is_refused(name: str) -> None:
    """A partition key that stands from an older setting must not be read under the new one."""
    with pytest.raises(UnknownBatchError):
        PythonApiSource(("numpy",)).read(name)


def test_numpy_is_read_whole() -> None:
    """A parser that stops at the first odd file would still return a collection, only a small one."""
    collection = PythonApiSource(("numpy",)).read("numpy")
    texts = {document.doc_id: document.text for document in collection.documents}
    assert len(texts) > 800
    assert texts["numpy.ma.core.argsort"].startswith("numpy.ma.core.argsort(a, axis=np._NoValue")
