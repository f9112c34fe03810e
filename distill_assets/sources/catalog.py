"""Which source a value of the setting `collection` names: SCHEME:REST.

A package adds a scheme through an entry point of the group `distill_assets.sources`: its name is the scheme, its value a function
that takes what stands behind the colon and `Options`, and returns a `Reader` (`sources/base.py`). Installed code runs with all
rights of the user, as every package does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from distill_assets.errors import SettingsError, SourceError
from distill_assets.sources.archives import is_archive
from distill_assets.sources.base import OneBatch, Options, Reader, Rules, Source, batch_name
from distill_assets.sources.beir import BeirSource, holds_beir

GROUP = "distill_assets.sources"
BEIR, FILES = "beir", "files"
Open = Callable[[str, Options], Reader]


@dataclass(frozen=True)
class Scheme:
    """A kind of source that is one batch.

    Attributes:
        function: `module:name` of a function (rest, options) -> Reader. The module is imported at its first use.
        is_path: whether a file or folder stands behind the colon.
        reads_parts: whether it reads what `[data.documents]` and its like say.
    """

    function: str
    is_path: bool = True
    reads_parts: bool = False


_SOURCES = "distill_assets.sources"
SCHEMES: dict[str, Scheme] = {
    "faq": Scheme(f"{_SOURCES}.faq:open_faq"),
    FILES: Scheme(f"{_SOURCES}.document_files:open_folder"),
    "hf": Scheme(f"{_SOURCES}.hub:open_hub", is_path=False, reads_parts=True),
    "ir_datasets": Scheme(f"{_SOURCES}.ir_data:open_ir_datasets", is_path=False),
    "pairs": Scheme(f"{_SOURCES}.pairs:open_pairs"),
    "sql": Scheme(f"{_SOURCES}.tables:open_tables", is_path=False, reads_parts=True),
    "squad": Scheme(f"{_SOURCES}.squad:open_squad"),
    "tables": Scheme(f"{_SOURCES}.tables:open_tables", is_path=False, reads_parts=True),
    "trec": Scheme(f"{_SOURCES}.trec:open_trec"),
}


@cache
def _from_outside() -> dict[str, EntryPoint]:
    return {found.name: found for found in entry_points(group=GROUP)}


def known_schemes() -> list[str]:
    """All schemes, sorted."""
    return sorted({BEIR, *SCHEMES, *_from_outside()})


def is_path(scheme: str) -> bool:
    """Whether a file or folder stands behind the colon."""
    return scheme == BEIR or (scheme in SCHEMES and SCHEMES[scheme].is_path)


def reads_parts(scheme: str) -> bool:
    """Whether the source reads what `[data.documents]` and its like say. One from outside may."""
    return SCHEMES[scheme].reads_parts if scheme in SCHEMES else scheme in _from_outside()


def recognise(path: Path) -> str:
    """The scheme that reads what lies at `path`: a BEIR folder, a folder of such or an archive; else what an inbox tells by its files.

    Raises:
        SourceError: nothing is there, or nothing in it is read.
    """
    from distill_assets.sources import inbox
    from distill_assets.sources.document_files import find_documents
    from distill_assets.sources.file_sets import FileSet

    if is_archive(path):
        return BEIR
    if not path.is_dir():
        raise SourceError(f"no folder at {path}: expected a folder of documents, or a BEIR folder; correct the path")
    if holds_beir(path):
        return BEIR
    found = inbox.recognise(path)
    if isinstance(found, FileSet):
        return found.scheme
    find_documents(path)
    return FILES


def find_opener(scheme: str) -> Open:
    """The function that opens a source of this scheme. Raises `SettingsError` for an unknown one."""
    if scheme in SCHEMES:
        module, _, name = SCHEMES[scheme].function.partition(":")
        found: Open = getattr(import_module(module), name)
        return found
    if scheme not in _from_outside():
        raise SettingsError(f"no source {scheme!r}: there are {', '.join(known_schemes())}")
    entry = _from_outside()[scheme]
    try:
        loaded: Open = entry.load()
    except Exception as error:  # another package's code: whatever it raises must name it
        package = entry.dist.name if entry.dist else "unknown"
        raise SettingsError(
            f"the source {scheme!r} of the package {package} cannot be loaded from {entry.value}: {error!r}; mend or update that "
            f"package, or name another source"
        ) from error
    return loaded


def open_source(collection: str, options: Options, rules: Rules) -> Source:
    """The source of a value SCHEME:REST. Raises `SettingsError` where there is no such scheme."""
    scheme, _, rest = collection.partition(":")
    if scheme == BEIR:
        return BeirSource(Path(rest).expanduser().resolve(), rules)
    path = Path(
        rest
    ).expanduser()  # a data set of the hub may lie in a folder, and no place of this machine names a collection
    stem = path.resolve().name if is_path(scheme) or path.is_dir() else rest
    return OneBatch(f"{scheme}:{stem}", batch_name(stem), find_opener(scheme)(rest, options), rules)
