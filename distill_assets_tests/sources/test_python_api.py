"""The embedded collection, on a small package that is never imported."""

import sys
from pathlib import Path

import pytest

from distill_assets.core.errors import SourceError, UnknownBatchError
from distill_assets.core.records import Collection, assign_split
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
