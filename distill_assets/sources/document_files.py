"""A folder of documents: Markdown, reStructuredText, HTML and plain text, each file as its sections; PDF and Office by an extra.

Only reading is here: `sections.py` and `pages.py` say what a section is. Texts that are longer than the student reads are cut
when the corpus is made (setting `passage_tokens`).
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from distill_assets.errors import SourceError
from distill_assets.records import Document, fingerprint
from distill_assets.sources.base import Options, Parts
from distill_assets.sources.encodings import decode
from distill_assets.sources.files import cannot_read, digest, opened, shown, stamp
from distill_assets.sources.pages import split_html
from distill_assets.sources.sections import Block, sections_of, split_markdown, split_plain, split_rst

# Raised whenever the same files would give other documents.
READER_VERSION = "1"
_MAX_MB = 64  # a file is held as a whole while it is split
_MAX_NAMED = 20
_Split = Callable[[str], tuple[str, list[Block]]]
_TEXTS: dict[str, _Split] = {
    **dict.fromkeys((".md", ".markdown"), split_markdown),
    ".rst": split_rst,
    **dict.fromkeys((".html", ".htm"), split_html),
    ".txt": split_plain,
}
# What markitdown makes of each: a PDF's text has no headings, and a `#` in it is one of the author's.
_CONVERTED: dict[str, _Split] = {".pdf": split_plain, **dict.fromkeys((".docx", ".pptx", ".xlsx"), split_markdown)}
_READ = _TEXTS | _CONVERTED
_EXPECTED = f"expected files that end in {', '.join(_READ)}"
# Documents to a person, too. Other files (images, code) are told of only where there is nothing to read: each folder has some.
_SIMILAR = {".adoc", ".doc", ".epub", ".ipynb", ".mdx", ".odp", ".ods", ".odt", ".org", ".ppt", ".rtf", ".tex", ".xls"}
_SKIPPED_FOLDERS = {"node_modules", "__pycache__"}
_NOT_IN_AN_ID = re.compile(r"[\s%#]")  # `#` stands before the section; TREC's files have white space between columns


@dataclass(frozen=True)
class FoundFiles:
    """What lies below a folder.

    Attributes:
        read: paths below the folder of the files that can be read, in order.
        links: symbolic links to folders and such files.
        others: number of other files by ending, the commonest first.
    """

    read: Sequence[str]
    links: Sequence[str]
    others: Mapping[str, int]

    def __str__(self) -> str:
        """Numbers of files by ending; of those that are not read, the five commonest."""
        read = Counter(_ending(name) for name in self.read).most_common()
        others = [(f"{ending or 'without ending'} (not read)", count) for ending, count in self.others.items()]
        links = [("links (not read)", len(self.links))] if self.links else []
        more = [("others (not read)", sum(count for _, count in others[5:]))] if others[5:] else []
        return ", ".join(f"{count:,} {ending}" for ending, count in [*read, *others[:5], *more, *links]) or "no file"


@dataclass(frozen=True)
class DocumentFolder:
    """The files of documents below a folder as one batch; each section of a file is a document.

    Hidden files and folders, `node_modules` and `__pycache__` are passed over. Symbolic links are not followed: they may lead
    out of the folder, or in a circle.
    """

    folder: Path

    def look(self) -> str | None:
        """Names, sizes and times of the files as one hash."""
        return self._of_each_file(stamp)

    def fingerprint(self) -> str:
        """Hash of the names and bytes of the files, and of the version of what converts them."""
        return self._of_each_file(digest)

    def _of_each_file(self, tell: Callable[[Path], str]) -> str:
        try:
            names = find_files(self.folder).read
        except SourceError as error:
            return fingerprint(READER_VERSION, str(error))
        converter = _converter_version() if any(_ending(name) in _CONVERTED for name in names) else ""
        told = (part for name in names for part in (shown(name), tell(self.folder / name)))
        return fingerprint(READER_VERSION, converter, *told)

    def read(self) -> Parts:
        """The documents, as they are gone through: a file at a time. Then `unread` is complete, too.

        Raises:
            SourceError: there is no such folder, one cannot be listed, or there is no file to read; while the documents are gone
                through: no file holds text.
        """
        found = find_documents(self.folder)
        documents = _Documents(self.folder, found)
        return Parts(documents=documents, unread=documents.unread)


def open_folder(rest: str, options: Options) -> DocumentFolder:
    """The reader of `files:PATH`."""
    return DocumentFolder(Path(rest).expanduser().resolve())


def is_folder_of_documents(folder: Path) -> bool:
    """Whether a file below the folder can be read by `DocumentFolder`. Stops at the first. Raises `SourceError` as `find_files`."""
    return any(_ending(name) in _READ and not is_link for name, is_link in _walk(folder))


def find_files(folder: Path) -> FoundFiles:
    """What lies below the folder. Opens no file.

    Raises:
        SourceError: there is no such folder, or one below it cannot be listed.
    """
    read, links, others = list[str](), list[str](), Counter[str]()
    for name, is_link in _walk(folder):
        if is_link:
            links.append(name)
        elif _ending(name) in _READ:
            read.append(name)
        else:
            others[_ending(name)] += 1
    return FoundFiles(read, links, dict(others.most_common()))


def find_documents(folder: Path) -> FoundFiles:
    """What `find_files` finds. Raises `SourceError`, too, where none of it can be read."""
    found = find_files(folder)
    if not found.read:
        raise SourceError(
            f"no document in {folder}: {_EXPECTED}; found {found}; put documents there, or correct the path"
        )
    return found


def _walk(folder: Path) -> Iterator[tuple[str, bool]]:
    """Every file and every link to a folder, by its path below the folder; and whether it is a link that would be read."""

    def refuse(error: OSError) -> None:
        raise cannot_read(Path(error.filename), error, "a folder") from error

    for at, folders, names in os.walk(folder, onerror=refuse):
        here = Path(at)
        below = here.relative_to(folder).as_posix()
        prefix = "" if below == "." else f"{below}/"
        kept = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED_FOLDERS)
        links = [name for name in kept if (here / name).is_symlink()]
        folders[:] = [name for name in kept if name not in links]
        yield from ((prefix + name, True) for name in links)
        for name in sorted(name for name in names if not name.startswith(".")):
            yield prefix + name, _ending(name) in _READ and (here / name).is_symlink()


def _ending(name: str) -> str:
    stem, dot, ending = name.rpartition("/")[2].rpartition(".")
    return dot + ending.casefold() if stem else ""


class _Documents:
    """The sections of all files; gone through again, the files are read again."""

    def __init__(self, folder: Path, found: FoundFiles) -> None:
        self._folder, self._found = folder, found
        self.unread: dict[str, str] = {}

    def __iter__(self) -> Iterator[Document]:
        faults = _Faults()
        for name in self._found.links:
            faults.add(name, "it is a symbolic link, and none is followed: copy what it points to into the folder")
        num_documents = 0
        for name in self._found.read:
            try:
                for document in _read_file(self._folder, name):
                    num_documents += 1
                    yield document
            except SourceError as error:
                faults.add(name, str(error))
        self.unread.clear()
        self.unread.update(faults.told(self._found.others))
        if not num_documents:
            raise SourceError(f"no text in {self._folder}: " + "; ".join(f"{k}: {v}" for k, v in self.unread.items()))


class _Faults:
    """Files that were not read, with the reason: the first twenty by name, the others counted by ending."""

    def __init__(self) -> None:
        self._named: dict[str, str] = {}
        self._more = Counter[str]()

    def add(self, name: str, reason: str) -> None:
        if len(self._named) < _MAX_NAMED:
            self._named[shown(name)] = reason
        else:
            self._more[_ending(name)] += 1

    def told(self, others: Mapping[str, int]) -> dict[str, str]:
        more = {f"*{ending}": f"{count:,} more, for such reasons" for ending, count in self._more.most_common()}
        similar = {e: f"{count:,} files: {_EXPECTED}; convert them" for e, count in others.items() if e in _SIMILAR}
        return self._named | more | {f"*{ending}": told for ending, told in similar.items()}


def _read_file(folder: Path, name: str) -> Iterator[Document]:
    """The sections of a file as documents; none where it is blank.

    Raises:
        SourceError: the file cannot be opened, is larger than 64 MB, is no text, cannot be converted, or has headings alone.
    """
    with opened(folder / name) as file:
        if os.fstat(file.fileno()).st_size > _MAX_MB * 2**20:
            raise SourceError(f"it is larger than {_MAX_MB} MB: split it")
        content = file.read()
    ending, stem = _ending(name), PurePosixPath(shown(name)).stem
    text = _convert(content, ending) if ending in _CONVERTED else decode(content)
    own_title, blocks = _READ[ending](text.replace("\r\n", "\n").replace("\r", "\n"))
    file_id, is_empty = _NOT_IN_AN_ID.sub(lambda found: quote(found[0]), shown(name)), bool(content.strip())
    for section in sections_of(blocks, own_title, re.sub(r"[-_]+", " ", stem).strip()):
        is_empty = False
        yield Document(f"{file_id}#{section.anchor}" if section.anchor else file_id, section.title, section.text)
    if is_empty:
        raise SourceError("it holds no text but headings; pages that are images need text recognition first")


def _convert(content: bytes, ending: str) -> str:
    """Markdown of a PDF or Office file.

    Raises:
        SourceError: the extra is not installed, or the file is damaged or locked.
    """
    if not _converter_version():
        raise SourceError(f'to read {ending}: pip install "distill_assets[documents]"')
    try:
        return str(_converter().convert_stream(BytesIO(content), file_extension=ending).markdown)
    except Exception as error:  # each of the five libraries behind it has errors of its own
        reason = (str(error).splitlines() or [""])[0][:200]
        raise SourceError(
            f"it cannot be converted ({type(error).__name__}: {reason}); is it damaged, or locked?"
        ) from error


@cache
def _converter() -> Any:
    from markitdown import MarkItDown
    from markitdown.converters import DocxConverter, PdfConverter, PptxConverter, XlsxConverter

    converter = MarkItDown(enable_builtins=False, enable_plugins=False)  # else a damaged file is read as plain text
    for kind in (DocxConverter, PdfConverter, PptxConverter, XlsxConverter):
        converter.register_converter(kind())
    return converter


@cache
def _converter_version() -> str:
    try:
        return version("markitdown")
    except PackageNotFoundError:
        return ""
