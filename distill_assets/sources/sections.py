"""Text of one file as sections: a heading and what stands under it, up to the next heading. Values in, values out."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from markdown_it import MarkdownIt

# Between two lines of marks; the first line that is no comment has a key, or the marks are rules of the text.
_FRONT_MATTER = re.compile(
    r"\A(?P<mark>---|\+\+\+)[ \t]*\n"
    r"(?P<body>(?:[ \t]*\n|#.*\n)*(?:[\w\"'.-]+[ \t]*[:=].*\n(?:.*\n)*?)?)"
    r"(?:(?P=mark)|\.\.\.)[ \t]*(?:\n|\Z)"
)
_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*([^\s>|].*?)[ \t]*$", re.MULTILINE)
_OWN_ID = re.compile(r"\s*\{#[^}]*\}$")  # `## Heading {#its-id}`
_ADORNMENT = re.compile(r"([!-/:-@[-`{-~])\1*$")
# A line that begins so begins something else in reStructuredText, and is no title even where a line of signs follows.
_NO_TITLE = re.compile(r"\s|[-*+•] |:[^:]+:(\s|$)|>>> |\| |\.\. |__ ")
_LABEL = re.compile(r"\.\. _.*:$")  # names a place; most stand before a title, as the last words of another section
_NO_SLUG = re.compile(r"[^\w\- ]")


class Block(NamedTuple):
    """A heading with the text up to the next one. Level 1 is the highest; text before the first heading has level 0."""

    level: int
    heading: str
    text: str


class Section(NamedTuple):
    """A section of a file.

    Attributes:
        anchor: tells it from the file's other sections; empty for the file's own text, what stands under its first title.
        title: the file's title, then the headings above the text, joined by ` > `.
        text: what stands under the heading, as the file has it.
    """

    anchor: str
    title: str
    text: str


def sections_of(blocks: Sequence[Block], own_title: str, name: str) -> Iterator[Section]:
    """Sections with text, in the order of the file.

    The file's title is its first heading if no other has level 1, else `own_title` (what its metadata says), else `name`.

    An anchor is the path of the headings below the file's first title, each as GitHub writes it in links: `linux/from-source`.
    GitHub numbers headings that are the same in one file. Most such headings stand under different ones ("Fixed" of each
    version), and a new one at the top would move all numbers, and with them what was judged. So only equal paths are numbered.
    """
    blocks = _with_opening(blocks)
    first = blocks[0] if blocks and blocks[0].level == 1 else None
    is_sole = sum(block.level == 1 for block in blocks) == 1
    title = first.heading if first and is_sole else own_title or name
    path: list[Block] = []
    used = set[str]()
    for block in blocks:
        path = [above for above in path if above.level < block.level]
        path += [block] if block.level else []
        below = path[1:] if path and path[0] is first else path
        anchor = _unused("/".join(_slug(above.heading) for above in below), used)
        if block.text.strip():
            headings = [above.heading for above in (below if is_sole else path)]
            yield Section(anchor, " > ".join([title, *headings]), block.text)


def _with_opening(blocks: Sequence[Block]) -> Sequence[Block]:
    """Text before the title of a file (badges, a label, a licence) belongs to what stands under the title."""
    if len(blocks) > 1 and (blocks[0].level, blocks[1].level) == (0, 1):
        opening, first, *rest = blocks
        return [first._replace(text="\n\n".join(filter(None, (opening.text, first.text)))), *rest]
    return blocks


def _slug(heading: str) -> str:
    return _NO_SLUG.sub("", heading.casefold()).strip().replace(" ", "-") or "section"


def _unused(anchor: str, used: set[str]) -> str:
    number, found = 0, anchor
    while found in used:
        number += 1
        found = f"{anchor}-{number}"
    used.add(found)
    return found


def split_markdown(text: str) -> tuple[str, list[Block]]:
    """Title from the front matter (YAML or TOML), empty where there is none, and the blocks by CommonMark's rules.

    A `#` in a code block is no heading; neither is a heading within a quote or a list.
    """
    title = ""
    if front := _FRONT_MATTER.match(text):
        text, found = text[front.end() :], _TITLE.search(front["body"])
        title = found[1].strip("\"'") if found else ""
    starts = []
    tokens = _markdown().parse(text)
    for token, content in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            start, end = token.map
            starts.append((start, end, int(token.tag[1:]), _plain(content.content)))
    return title, _blocks(text.split("\n"), starts)


@cache
def _markdown(*, inline: bool = False) -> MarkdownIt:
    """The parser; of the places of blocks alone where text is to stay as it is."""
    parser = MarkdownIt("commonmark")
    return parser if inline else parser.disable("inline")


def _plain(heading: str) -> str:
    """A heading without its marks: `code`, *emphasis*, links."""
    (token,) = _markdown(inline=True).parseInline(_OWN_ID.sub("", heading))
    told = (" " if child.type.endswith("break") else child.content for child in token.children or ())
    return one_line("".join(told))


def one_line(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def _blocks(lines: Sequence[str], starts: Iterable[tuple[int, int, int, str]]) -> list[Block]:
    """Blocks from the places of headings: first line, line after the last, level, heading."""
    found, level, heading, begin = [], 0, "", 0
    for start, end, next_level, next_heading in [*starts, (len(lines), len(lines), 0, "")]:
        text = "\n".join(lines[begin:start]).strip("\n").rstrip()
        if level or text:
            found.append(Block(level, heading, text))
        level, heading, begin = next_level, next_heading, end
    return found


def split_rst(text: str) -> tuple[str, list[Block]]:
    """No title, and the blocks of a reStructuredText file: titles are underlined, or between two lines of signs.

    As in docutils, levels are in the order in which the signs are first used. Directives and code stay in the text, labels do not.
    """
    lines = [_LABEL.sub("", line.rstrip()) for line in text.split("\n")]
    starts: list[tuple[int, int, int, str]] = []
    styles: list[tuple[str, bool]] = []
    number, may_start = 0, True
    while number < len(lines):
        height = _title_height(lines[number : number + 3]) if may_start else 0
        if height:
            style = (lines[number + height - 1][0], height == 3)
            styles += [] if style in styles else [style]
            heading = one_line(lines[number + height - 2])
            starts.append((number, number + height, styles.index(style) + 1, heading))
        may_start = bool(height) or not lines[number] or lines[number].startswith(".. ")
        number += height or 1
    return "", _blocks(lines, starts)


def _title_height(lines: Sequence[str]) -> int:
    """3 or 2 lines, if a title begins with the first of these lines, else 0."""
    if (
        len(lines) == 3
        and _ADORNMENT.match(lines[0])
        and lines[0] == lines[2]
        and _underlines(lines[2], lines[1].strip())
    ):
        return 3 if not _ADORNMENT.match(lines[1]) else 0
    if len(lines) > 1 and not _ADORNMENT.match(lines[0]) and not _NO_TITLE.match(lines[0]):
        return 2 if _underlines(lines[1], lines[0]) else 0
    return 0


def _underlines(line: str, title: str) -> bool:
    # docutils takes a line that is too short with a warning, from four signs on
    return bool(title and _ADORNMENT.match(line)) and len(line) >= min(len(title), 4)


def split_plain(text: str) -> tuple[str, list[Block]]:
    """No title, and the file as one block without a heading."""
    return "", _blocks(text.split("\n"), [])
