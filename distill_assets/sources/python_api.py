"""The embedded collection: the documented functions and classes of installed Python packages.

Source files are parsed with `ast`, nothing is imported, nothing is downloaded. A query is the first sentence of a public
docstring, which a person wrote; its relevant document is that function or class: qualified name, signature, return
annotation and the opening words of the docstring's body (never the first sentence itself).
"""

import ast
import importlib.metadata
import importlib.util
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from distill_assets.errors import SourceError
from distill_assets.records import Collection, Document, Qrel, Query, assign_split, fingerprint, hash_text
from distill_assets.sources.base import check_collection, require_known_batch

# Raised whenever the same files would give other documents or queries, so that stored batches count as stale.
PARSER_VERSION = "1"
_SKIPPED_PARTS = frozenset(
    {
        "tests",
        "test",
        "testing",
        "_testing",
        "conftest",
        "setup",
        "externals",
        "_vendor",
        "vendored",
        "examples",
        "benchmarks",
        "array_api_compat",
        "array_api_extra",
        "typing",
        "f2py",
    }
)
_MIN_QUERY_WORDS, _MAX_QUERY_WORDS = 4, 40
# numpy's C functions open with their signature ("copyto(dst, src, ...)"), some with a placeholder in parentheses.
_NOT_A_SENTENCE = re.compile(r"[\w.]+\(|\(this docstring", re.IGNORECASE)
_SIGNATURE_LIMIT = 120  # characters; pandas.read_csv alone has 1,900, which no 128-token encoder would read


@dataclass(frozen=True)
class PythonApiSource:
    """Each package is a batch.

    Attributes:
        packages: import names, for example ``("numpy", "pandas")``.
        body_words: how many opening words of the docstring's body a document carries; 0 for none.
        max_queries: at most this many queries per package, chosen by hash of their id; None for all. Documents stay.
    """

    packages: tuple[str, ...]
    body_words: int = 0
    max_queries: int | None = None
    name: str = "python_api"

    is_inbox = False

    def batches(self) -> list[str]:
        """The package names, sorted."""
        return sorted(set(self.packages))

    def refused(self) -> dict[str, str]:
        """Nothing: a package that cannot be read is an error of the settings."""
        return {}

    def look(self, batch: str) -> None:
        """None: an installed package is complete."""

    def fingerprint(self, batch: str) -> str:
        """Version of the installed package and everything that shapes what is read from it.

        The bytes of its source files are part of it where the version may stay while they change: in an editable install, and
        in whatever else was not installed by version from an index.
        """
        require_known_batch(batch, self.batches())
        folder, distribution = _package_folder(batch), _distribution(batch)
        content = () if _is_known_by_version(distribution, folder) else (_content(folder),)
        return fingerprint(PARSER_VERSION, batch, distribution.version, self.body_words, self.max_queries, *content)

    def read(self, batch: str) -> Collection:
        """Parse one package."""
        require_known_batch(batch, self.batches())
        entries = read_entries(batch)
        documents = [
            Document(entry.qualified_name, "", entry.document_text(self.body_words)) for entry in entries.values()
        ]
        queries, qrels = _build_queries(batch, entries)
        if self.max_queries is not None:
            kept = {q.query_id for q in sorted(queries, key=lambda q: hash_text(q.query_id))[: self.max_queries]}
            queries = [query for query in queries if query.query_id in kept]
            qrels = [qrel for qrel in qrels if qrel.query_id in kept]
        return check_collection(documents, queries, qrels, where=f"package {batch}", max_unknown_share=0.0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A documented function or class."""

    qualified_name: str
    signature: str
    summary: str
    body: str

    def document_text(self, body_words: int) -> str:
        """Name, signature and the opening words of the docstring's body."""
        body = self.body.replace(
            self.summary, ""
        )  # some bodies repeat the first sentence, which would give the answer away
        opening = " ".join(body.split()[:body_words])
        return f"{self.qualified_name}{self.signature} {opening}".strip()


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(
            f"package {package!r} is not installed: python_api reads installed packages by import name; "
            f"pip install it or take it out of the setting packages"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _distribution(package: str) -> importlib.metadata.Distribution:
    # An editable install lists no module among its files; its name is mostly that of the package.
    names = importlib.metadata.packages_distributions().get(package) or [package]
    try:
        return importlib.metadata.distribution(names[0])
    except importlib.metadata.PackageNotFoundError as error:
        raise SourceError(
            f"package {package!r} has no installed version: python_api reads packages that pip installed"
        ) from error


def _is_known_by_version(distribution: importlib.metadata.Distribution, folder: Path) -> bool:
    """Whether the package came by version from an index, which never gives two contents under one version.

    Installers write `direct_url.json` (PEP 610) for all others: an editable install, a checkout, a folder, a wheel of one's own.
    """
    is_installed = not {"site-packages", "dist-packages"}.isdisjoint(folder.parts)
    return is_installed and distribution.read_text("direct_url.json") is None


def _content(folder: Path) -> str:
    """Hash of the source files that are read; they are opened again only when a size or time has moved."""
    stamps = []
    for path in _source_files(folder):
        try:
            found = path.stat()
        except OSError as error:
            raise _cannot_read(path, error) from error
        stamps.append((path, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return _content_once(folder, tuple(stamps))


@lru_cache(maxsize=32)
def _content_once(folder: Path, stamps: tuple[tuple[Path, int, int, int], ...]) -> str:
    digest = [(path.relative_to(folder).as_posix(), hash_text(_read_text(path))) for path, *_ in stamps]
    return fingerprint(*digest)


def _source_files(folder: Path) -> list[Path]:
    """The Python files that are read, sorted; hidden ones are locks and backups of editors."""
    return [
        path
        for path in sorted(folder.rglob("*.py"))
        if not path.name.startswith(".") and _SKIPPED_PARTS.isdisjoint(path.relative_to(folder).with_suffix("").parts)
    ]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _cannot_read(path, error) from error


def _cannot_read(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"cannot read {path}: {error.strerror or error}; expected a source file of the package that may be read; "
        "mend or remove it, or install the package again"
    )


def read_entries(package: str) -> dict[str, Entry]:
    """The documented functions and classes of an installed package by qualified name; of equal names the first."""
    entries: dict[str, Entry] = {}
    for _, found in read_modules(package):
        for entry in found:
            entries.setdefault(entry.qualified_name, entry)
    return entries


def read_modules(package: str) -> Iterator[tuple[ast.Module, list[Entry]]]:
    """The syntax tree of each source file of an installed package, with its documented functions and classes."""
    folder = _package_folder(package)
    for path in _source_files(folder):
        # Private modules hold much of the public API (numpy._core.fromnumeric), under names that nobody types.
        public = [part for part in path.relative_to(folder).with_suffix("").parts if not part.startswith("_")]
        tree = _parse(path)
        yield tree, list(_walk(tree.body, ".".join([package, *public])))


def _parse(path: Path) -> ast.Module:
    """Syntax tree of one file; empty for a file that this Python cannot parse (templates, other versions' syntax)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        try:
            return ast.parse(_read_text(path))
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
            return ast.Module(body=[], type_ignores=[])


def _walk(body: list[ast.stmt], prefix: str) -> Iterator[Entry]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        summary, rest = _split_docstring(_docstring(node))
        if _MIN_QUERY_WORDS <= len(summary.split()) <= _MAX_QUERY_WORDS and not _NOT_A_SENTENCE.match(summary):
            yield Entry(name, _signature(node), summary, rest)
        if isinstance(node, ast.ClassDef):
            yield from _walk(node.body, name)


def _docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """The docstring, with `?` for half a surrogate pair, which an escape can write and no hash or table takes."""
    return (ast.get_docstring(node) or "").encode("utf-8", "replace").decode("utf-8")


def first_sentence(docstring: str) -> str:
    """The sentence that a docstring opens with, without markup."""
    return _split_docstring(docstring)[0]


def _split_docstring(docstring: str) -> tuple[str, str]:
    """First sentence, and what follows it with section rules, markup and doctests taken out."""
    paragraph, _, rest = docstring.strip().partition("\n\n")
    paragraph = " ".join(paragraph.split())
    match = re.search(r"(?<=[a-z0-9)\]'\"`])\.(?=\s+[A-Z(])", paragraph)
    summary, remainder = (paragraph[: match.end()], paragraph[match.end() :]) if match else (paragraph, "")
    lines = [line for line in rest.splitlines() if not re.match(r"\s*(>>>|\.\.\s|[-=~^]{3,}\s*$)", line)]
    return _plain(summary), _plain(f"{remainder} {' '.join(lines)}")


def _plain(text: str) -> str:
    text = re.sub(r":[a-z:]+:`~?\.?([^`<]+)(?:<[^`]*>)?`", r"\1", text)
    return " ".join(text.replace("`", "").split())


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        return _signature(init) if init else ""
    for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg):
        if argument is not None:
            argument.annotation = None  # no query speaks of types, and they cost an eighth of all tokens
    arguments = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(node.args))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    return f"({arguments[:_SIGNATURE_LIMIT]}){returns}"


def _build_queries(package: str, entries: dict[str, Entry]) -> tuple[list[Query], list[Qrel]]:
    """One query per distinct first sentence; every entry that opens with that sentence is relevant to it.

    The split is hashed from the sentence, not from the id, so that the same sentence in two packages cannot be
    trained on in one and tested in the other.
    """
    by_sentence: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries.values():
        by_sentence[entry.summary.rstrip(".").casefold()].append(entry)
    queries: list[Query] = []
    qrels: list[Qrel] = []
    for sentence, sharing in sorted(by_sentence.items()):
        query_id = f"{package}:{hash_text(sentence)[:12]}"
        queries.append(Query(query_id, sharing[0].summary, assign_split(sentence)))
        qrels.extend(Qrel(query_id, entry.qualified_name, 1) for entry in sharing)
    return queries, qrels
