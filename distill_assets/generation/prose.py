"""What a person wrote in a document: its headings and sentences, without code, tables and marks of Markdown, reStructuredText, HTML."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from distill_assets.records import Document

# Characters that are looked at, of a document and of one paragraph: what rules ask about stands at the beginning, and a pattern's time
# grows with the square of a text that is no prose ("<a<a<a").
_MAX_TEXT, _MAX_BLOCK = 20_000, 2_000
_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+(.*?)\s*#*\s*")
_UNDERLINE = re.compile(r"\s{0,3}([=\-~^\"'*+#])\1{2,}\s*")
_ITEM = re.compile(r"\s*(?:[-*+•·]|\d{1,3}[.)])\s+")
# A table's row, a line at a prompt, a directive or comment of reStructuredText, a field, a quoted block.
_SKIPPED = re.compile(r"\s*(\||\+[-=]+\+|>>>|\.\.\.($| )|\.\. |\$ |:[\w -]+:|[-=]{3,}\s)")
_INLINE = [
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),  # an image
    (re.compile(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])"), r"\1"),  # a link
    (re.compile(r":[\w:+-]+:`~?([^`<]*?)(?:\s*<[^>]*>)?`"), r"\1"),  # a role of reStructuredText
    (re.compile(r"`+([^`<]*?)(?:\s*<[^>]*>)?`+_{0,2}"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^>]*>"), " "),
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<!\w)([*_])(?=\S)([^*_]+?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"\[\^?\d+(?:[,–-]\d+)*\]_?"), ""),  # a footnote
]
_SENTENCE_END = re.compile(
    r"(?<=[.!?…])[\"')\]”’]*\s+(?=[\"'(\[“‘]?[A-Z0-9À-ÞΑ-ΩА-Я])|(?<=[。！？।؟።။])\s*|(?<=:)\s*\n"
)
# What ends with a full stop and no sentence ends there: "et al. 2020", "Fig. 3", "J. Smith".
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|al|[Ff]igs?|vs|Drs?|Mrs?|Ms|Prof|St|No|cf|approx|ca|resp|Eq|Sec)|\b[A-Z])\.$"
)
_PATH = re.compile(r"\s+[>›»/|]\s+")  # between the headings of a path


class Prose(NamedTuple):
    """Headings (those of the title's path first, from outside in; then the text's) and sentences, in their order."""

    path: tuple[str, ...]
    headings: tuple[str, ...]
    sentences: tuple[str, ...]


def read_prose(document: Document) -> Prose:
    """Headings and sentences of a document, each on one line."""
    headings, sentences = list[str](), list[str]()
    for is_heading, block in _blocks(_COMMENT.sub(" ", _FENCED.sub("\n\n", document.text[:_MAX_TEXT]))):
        plain = _plain(block[:_MAX_BLOCK])
        if is_heading:
            headings.append(plain)
        else:
            sentences += _sentences(plain)
    path = [part for part in map(_plain, _PATH.split(document.title[:_MAX_BLOCK])) if part]
    return Prose(tuple(path), tuple(filter(None, headings)), tuple(sentences))


def _blocks(text: str) -> Iterator[tuple[bool, str]]:
    """Whether it is a heading, and the text, of each heading, paragraph and item of a list."""
    lines = list[str]()
    for line in [*text.splitlines(), ""]:
        heading, is_underline = _HEADING.fullmatch(line), _UNDERLINE.fullmatch(line)
        begins = heading or is_underline or not line.strip() or _ITEM.match(line) or _SKIPPED.match(line)
        if begins and lines:
            yield bool(is_underline and len(lines) == 1), "\n".join(lines)
            lines = []
        if heading:
            yield True, heading[1]
        elif not is_underline and not _SKIPPED.match(line) and line.strip():
            lines.append(_ITEM.sub("", line, count=1) if _ITEM.match(line) else line)


def _plain(text: str) -> str:
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def _sentences(paragraph: str) -> Iterator[str]:
    held = ""
    for part in _SENTENCE_END.split(paragraph):
        held = f"{held} {part}".strip()
        if held and not _ABBREVIATION.search(held):
            yield held
            held = ""
    if held:
        yield held
