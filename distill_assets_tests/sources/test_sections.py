"""Headings, paths and anchors of Markdown, reStructuredText, HTML and plain text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_assets.sources.pages import split_html
from distill_assets.sources.sections import _FRONT_MATTER, Block, sections_of, split_markdown, split_plain, split_rst

SPLITTERS = {"markdown": split_markdown, "rst": split_rst, "html": split_html, "plain": split_plain}


def found(kind: str, text: str) -> list[tuple[str, str, str]]:
    """(anchor, title, text) of each section of a file called `name`."""
    own_title, blocks = SPLITTERS[kind](text)
    return [tuple(section) for section in sections_of(blocks, own_title, "name")]


MARKDOWN = """\
[badge](x.svg)

# Install `tool` on [Linux](linux.md) & *more*

Words.

```sh
# a comment of the shell, no heading
```

    # indented code

> ## a quote's
- # a list's

Packages
--------

apt

## Fixed {#its-own-id}

### Closed ###
a
## Empty
## Fixed
b
"""


def test_markdown() -> None:
    """A comment in a code block that became a heading would tear its section apart; a lost badge would lose text."""
    assert found("markdown", MARKDOWN) == [
        (
            "",
            "Install tool on Linux & more",
            "[badge](x.svg)\n\nWords.\n\n```sh\n# a comment of the shell, no heading\n```\n\n    # indented code\n\n"
            "> ## a quote's\n- # a list's",
        ),
        ("packages", "Install tool on Linux & more > Packages", "apt"),
        ("fixed/closed", "Install tool on Linux & more > Fixed > Closed", "a"),
        ("fixed-1", "Install tool on Linux & more > Fixed", "b"),
    ]


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ('---\ntitle: "Of the site"\ntags:\n  - a\n---\n', "Of the site"),
        ("+++\n# note\ntitle = 'Of the site'\n[params]\nx = 1\n+++\n", "Of the site"),
        ("---\nlayout: page\n---\n", "name"),
        ("---\n---\n", "name"),
        ("---\ntitle: >\n  folded\n---\n", "name"),
    ],
)
def test_front_matter_is_no_text(front: str, title: str) -> None:
    """Tags and dates in the text would make all pages of a site alike."""
    assert found("markdown", f"{front}\nOpening.\n\n## Linux\n\nx") == [
        ("", title, "Opening."),
        ("linux", f"{title} > Linux", "x"),
    ]


def test_the_only_top_heading_wins_over_the_front_matter() -> None:
    """With both, each title would say the same thing twice."""
    assert found("markdown", "---\ntitle: Site\n---\n# Page\nx\n## Sub\ny") == [
        ("", "Page", "x"),
        ("sub", "Page > Sub", "y"),
    ]


def test_rules_at_the_top_are_no_front_matter() -> None:
    """What stands between two rules would be lost as metadata."""
    assert found("markdown", "---\nA sentence.\n\n---\nx") == [("", "name", "---\nA sentence.\n\n---\nx")]


def test_several_top_headings_stand_below_the_name_of_the_file() -> None:
    """The first of many questions is no title of the others."""
    assert found("markdown", "# First?\na\n## More\nb\n# Second?\nc\n## More\nd") == [
        ("", "name > First?", "a"),
        ("more", "name > First? > More", "b"),
        ("second", "name > Second?", "c"),
        ("second/more", "name > Second? > More", "d"),
    ]


RST = """\
.. _label:

=======
 Guide
=======

Opening.

1. First
--------
.. code-block:: python

   Not a title
   -----------

=====  =====
A      B
=====  =====
1      2
=====  =====

Deeper
~~~~~~
- item
------

A paragraph that goes
on before a rule

----------

後
====
文

.. _label-of-the-next:

Second
------
::

    x
"""


def test_rst() -> None:
    """Tables, rules and code between lines of signs would be torn apart as titles; levels come in order of use."""
    assert found("rst", RST) == [
        ("", "Guide", "Opening."),
        (
            "1-first",
            "Guide > 1. First",
            ".. code-block:: python\n\n   Not a title\n   -----------\n\n=====  =====\nA      B\n=====  =====\n1      2\n=====  =====",
        ),
        (
            "1-first/deeper",
            "Guide > 1. First > Deeper",
            "- item\n------\n\nA paragraph that goes\non before a rule\n\n----------",
        ),
        ("1-first/deeper/後", "Guide > 1. First > Deeper > 後", "文"),
        ("second", "Guide > Second", "::\n\n    x"),
    ]


HTML = """\
<!doctype html><html><head><title>Page &amp; site</title><script>var x = "<h1>no</h1>";</script></head><body>
<nav><ul><li>Menu</ul></nav><div role="navigation"><div>Side</div>bar</div><h1>Site</h1>outside
<main class="x"><h1>Install<a class="headerlink" href="#i">¶</a></h1>
<p>Hello&nbsp;<b>bold</b>,
  text.<p>Second<br>line<ul><li>One<li>Two &lt;3</ul><svg><title>icon</title></svg><img aria-hidden="true" src="x">
<pre>def f():

    return  1</pre>
<h2>C#</h2><table><tr><th>a<td>b<tr><td>c</table></main><footer>foot</footer></body></html>
"""


def test_html() -> None:
    """Menus and footers on every page would make all pages alike; lost white space would break code."""
    assert found("html", HTML) == [
        ("", "Install", "Hello bold, text.\nSecond\nline\nOne\nTwo <3\ndef f():\n\n    return  1"),
        ("c", "Install > C#", "a b\nc"),
    ]
    assert split_html(HTML)[0] == "Page & site"


def test_html_without_main_and_top_heading() -> None:
    """The page's own name stands in where no heading does; nothing outside a `main` is lost where there is none."""
    assert found("html", "<title>Notes</title>before<h2>A</h2>x<h3>B</h3>y") == [
        ("", "Notes", "before"),
        ("a", "Notes > A", "x"),
        ("a/b", "Notes > A > B", "y"),
    ]


def test_plain_text_is_one_section() -> None:
    """A line of signs in plain text is decoration."""
    assert found("plain", "\nTitle\n=====\n\n  # x\n") == [("", "name", "Title\n=====\n\n  # x")]
    assert found("plain", " \n\n") == []


def test_a_new_section_moves_no_other_id() -> None:
    """Judgements name ids: with GitHub's numbers, a new version at the top of a changelog would give each its neighbour's text."""
    versions = [f"## {number}.0\n### Added\nnew in {number}\n### Fixed\nmended in {number}\n" for number in (3, 2, 1)]
    before = {anchor: text for anchor, _, text in found("markdown", "# Changes\n" + "".join(versions[1:]))}
    after = {anchor: text for anchor, _, text in found("markdown", "# Changes\n" + "".join(versions))}
    assert list(before) == ["20/added", "20/fixed", "10/added", "10/fixed"]
    assert after == before | {"30/added": "new in 3", "30/fixed": "mended in 3"}


def test_equal_paths_are_numbered_and_each_anchor_is_one() -> None:
    """Two sections of one id would refuse the whole batch; `a-1` may be a heading of its own."""
    text = "## A\n1\n## a-1\n2\n## A\n3\n## A\n4\n## ?!\n5\n## \U0001f600\n6"
    assert [(anchor, text) for anchor, _, text in found("markdown", text)] == [
        ("a", "1"),
        ("a-1", "2"),
        ("a-2", "3"),
        ("a-3", "4"),
        ("section", "5"),
        ("section-1", "6"),
    ]


PIECES = {
    "markdown": [
        "# A",
        "## B b",
        "text",
        "",
        "```",
        "    code",
        "===",
        "---",
        "- x",
        "~~~~",
        "> q",
        "1. y",
        "c | d",
        "+++",
        "k: v",
    ],
    "rst": [
        "A",
        "==",
        "====",
        "B b",
        "-----",
        "text",
        "",
        ".. note::",
        "   more",
        "- x",
        "::",
        "1. y",
        "=  =",
        ":k: v",
        "...",
    ],
    "html": [
        "<h1>A</h1>",
        "<h2>B b</h2>",
        "text",
        "",
        "<pre>",
        "</pre>",
        "<p>p",
        "<ul><li>x",
        "</ul>",
        "<br>",
        "<h3>",
        "</h3>",
        "<td>y",
    ],
    "plain": ["# A", "text", "", "===", "   more", "- x"],
}


@pytest.mark.parametrize("kind", sorted(PIECES))
@given(data=st.data())
def test_every_word_is_in_a_heading_or_a_text(kind: str, data: st.DataObject) -> None:
    """A line that is in no section is lost to search, and nothing would say so."""
    text = "\n".join(data.draw(st.lists(st.sampled_from(PIECES[kind]), max_size=25)))
    _, blocks = SPLITTERS[kind](text)
    body = (
        re.sub(r"<[^>]*>", " ", text) if kind == "html" else _FRONT_MATTER.sub("", text) if kind == "markdown" else text
    )
    assert re.findall(r"\w+", " ".join(f"{block.heading} {block.text}" for block in blocks)) == re.findall(r"\w+", body)


def test_text_of_sections_is_text_of_blocks() -> None:
    """`sections_of` loses no block with text, whatever levels follow each other."""
    blocks = [Block(0, "", "a"), Block(3, "H", "b"), Block(1, "I", "c"), Block(6, "J", ""), Block(2, "H", "d")]
    assert [tuple(section) for section in sections_of(blocks, "", "n")] == [
        ("", "n", "a"),
        ("h", "n > H", "b"),
        ("i", "n > I", "c"),
        ("i/h", "n > I > H", "d"),
    ]
