"""FAQ files: `faq:PATH`, one file or a folder. CSV, TSV, JSON, JSON Lines or Parquet with a question and an answer; or Markdown.

The question is the query, the answer is its document, and the title stays empty: a document that holds its own question would be
found by the question's words, and the figures would say nothing about search.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distill_assets.records import hash_text
from distill_assets.sources.base import Options
from distill_assets.sources.file_sets import DATA_ENDINGS
from distill_assets.sources.files import Faults, iter_lines
from distill_assets.sources.pairs import Judged, Names, PairFiles, Told
from distill_assets.sources.row_files import first_columns

_MARKDOWN = (".md", ".markdown")
_HEADING = re.compile(r"(#{1,6})\s+(.*?)[\s#]*")
_FENCE = re.compile(r"\s*(```|~~~)")
_NAMES = Names(("question", "questions", "q", "query"), ("answer", "answers", "a", "response", "reply"))


@dataclass(frozen=True)
class FaqFiles(PairFiles):
    """Files of questions and answers. In Markdown a heading below the first level with text of its own is a question."""

    names: Names = _NAMES

    example = "CSV with the columns question and answer, or Markdown with `## question` above each answer"

    def endings(self) -> tuple[str, ...]:
        """Markdown, too."""
        return (*DATA_ENDINGS, *_MARKDOWN)

    def is_read(self, path: Path) -> bool:
        """Whether it holds questions and answers."""
        is_markdown = path.name.casefold().endswith(_MARKDOWN)
        return any(True for _ in _answers(path)) if is_markdown else self.names.find(first_columns(path)) is not None

    def why_unread(self, path: Path) -> str:
        """Why a file is not read, and what to do."""
        if path.name.casefold().endswith(_MARKDOWN):
            return "no heading below the first level has text of its own: write each question as `## question`"
        return super().why_unread(path)

    def rows(self, path: Path) -> Iterator[Judged]:
        """Questions with their answer."""
        if not path.name.casefold().endswith(_MARKDOWN):
            yield from super().rows(path)
            return
        for question, answer in _answers(path):
            yield Judged(hash_text(question), question, [Told(hash_text(answer), answer, 1)])


def _answers(path: Path) -> Iterator[tuple[str, str]]:
    """Headings and the text below each, up to the next one. A line of a code block is no heading."""
    question, lines, is_code = "", list[str](), False
    faults = Faults(path)
    for _, line in iter_lines(path, faults, with_blank=True):
        is_code ^= _FENCE.match(line) is not None
        heading = None if is_code else _HEADING.fullmatch(line)
        if heading is None:
            lines.append(line)
            continue
        yield from _if_answered(question, lines)
        question, lines = heading[2] if len(heading[1]) > 1 else "", []
    yield from _if_answered(question, lines)
    faults.raise_any()


def _if_answered(question: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    answer = "\n".join(lines).strip()
    if question and answer:
        yield question, answer


def open_faq(rest: str, options: Options) -> FaqFiles:
    """The reader of `faq:PATH`."""
    return FaqFiles(Path(rest).expanduser().resolve())
