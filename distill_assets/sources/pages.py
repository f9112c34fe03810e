"""An HTML page as blocks: its headings, and the text that a reader sees under them."""

import re
from html.parser import HTMLParser

from distill_assets.sources.sections import Block, one_line

# Elements that begin a line in a browser, and those that are no text of the page.
# fmt: off
_LINES = {
    "address", "article", "aside", "blockquote", "br", "caption", "dd", "details", "div", "dl", "dt", "fieldset", "figcaption",
    "figure", "form", "header", "hr", "li", "main", "ol", "option", "p", "pre", "section", "summary", "table", "tr", "ul",
}
# fmt: on
_LEFT_OUT = {"footer", "iframe", "nav", "noscript", "script", "style", "svg", "template"}
_CELLS = {"td", "th"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_WITHOUT_END = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
_SPACES = re.compile(r"\s+")
_BEFORE_END = re.compile(r" +\n")
Attributes = list[tuple[str, str | None]]


def split_html(text: str) -> tuple[str, list[Block]]:
    """What `<title>` says, and a block for each of `<h1>` to `<h6>`; of `<main>` alone where the page has one.

    Menus, scripts, styles, footers and the links of headings to themselves are left out. Lines are kept in `<pre>`; elsewhere
    an element that begins a line in a browser begins one here.
    """
    page = _Page()
    page.feed(text)
    page.close()
    return page.title, page.blocks()


class _Inside:
    """How deep the parser is in one element: those of the same name inside of it count, the others need not be closed."""

    def __init__(self) -> None:
        self.tag, self.depth = "", 0

    def opens(self, tag: str, *, is_one: bool) -> None:
        if self.depth:
            self.depth += tag == self.tag
        elif is_one and tag not in _WITHOUT_END:
            self.tag, self.depth = tag, 1

    def closes(self, tag: str) -> bool:
        """Whether this end is that of the element itself."""
        self.depth -= self.depth > 0 and tag == self.tag
        return not self.depth and tag == self.tag


class _Page(HTMLParser):
    """Collects text up to the next heading, inside of the main part and outside."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self._found: list[tuple[bool, Block]] = []
        self._level, self._heading, self._opened = 0, "", ""
        self._pieces: list[str] = []
        self._left_out, self._main, self._pre = _Inside(), _Inside(), _Inside()

    def blocks(self) -> list[Block]:
        """All blocks of the page, or those of its main part."""
        self._end_block()
        has_main = any(is_main for is_main, _ in self._found)
        return [block for is_main, block in self._found if is_main or not has_main]

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        self._left_out.opens(tag, is_one=tag in _LEFT_OUT or _is_furniture(dict(attrs)))
        if self._left_out.depth:
            return
        is_main = tag == "main" or ("role", "main") in attrs
        if tag == "title" or tag in _HEADINGS or (is_main and not self._main.depth):
            self._end_block()
            self._opened = tag if tag in _HEADINGS else ""
        self._main.opens(tag, is_one=is_main)
        self._pre.opens(tag, is_one=tag == "pre")
        self._space(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._left_out.depth:
            self._left_out.closes(tag)
            return
        if tag == "title":
            self.title = self.title or self._taken_line()
        if tag in _HEADINGS and self._opened:  # any of them ends the open one, as in browsers
            self._level, self._heading, self._opened = int(self._opened[1]), self._taken_line().rstrip("¶ "), ""
        if self._main.depth == 1 and tag == self._main.tag:
            self._end_block()
        self._main.closes(tag)
        self._pre.closes(tag)
        self._space(tag)

    def handle_data(self, data: str) -> None:
        if self._left_out.depth:
            return
        text = data if self._pre.depth else _SPACES.sub(" ", data)
        if not self._pre.depth and (not self._pieces or self._pieces[-1].endswith((" ", "\n"))):
            text = text.lstrip(" ")
        self._pieces += [text] if text else []

    def _space(self, tag: str) -> None:
        space = "\n" if tag in _LINES else " " if tag in _CELLS else ""
        if space and self._pieces and not self._pieces[-1].endswith((space, "\n")):
            self._pieces.append(space)

    def _taken_line(self) -> str:
        pieces, self._pieces = self._pieces, []
        return one_line("".join(pieces))

    def _end_block(self) -> None:
        text = _BEFORE_END.sub("\n", "".join(self._pieces)).strip("\n").rstrip()
        if text or self._heading:
            self._found.append((self._main.depth > 0, Block(self._level, self._heading, text)))
        self._level, self._heading, self._pieces = 0, "", []


def _is_furniture(attributes: dict[str, str | None]) -> bool:
    """Menus, and the link of a heading to itself."""
    classes = (attributes.get("class") or "").split()
    return attributes.get("role") == "navigation" or attributes.get("aria-hidden") == "true" or "headerlink" in classes
