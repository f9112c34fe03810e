"""The words of a text, in every script: one tokenizer for BM25, for copies among documents, and for leaks among queries.

- Text is composed first (NFC, Unicode annex 15): "é" is one word however it was typed.
- A word is a run of letters with their combining marks, or of digits. A mark belongs to the letter before it (annex 29): without its
  vowel signs, which are marks, Hindi would be single consonants.
- Scripts that put no space between words (Han, Kana, Thai, Lao, Khmer, Myanmar) give overlapping pairs of letters, as Lucene's
  CJKAnalyzer does; a letter alone is one word.
- Identifiers are split: `read_HTMLTable2` gives read, html, table, 2. There are no stop words.
"""

import re
import sys
import unicodedata
from functools import cache
from itertools import pairwise

_ASCII_RUN = re.compile(r"[A-Za-z]+|[0-9]+")
_JOINERS = "\u200c\u200d"  # shape letters, typed or left out at will: no part of a word
# Code points by Unicode block.
_UNSPACED = (
    "\u0e01-\u0e7f"  # Thai
    "\u0e81-\u0eff"  # Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar and its extensions
    "\u1780-\u17ff"  # Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b"  # radicals and signs of Han
    "\u3041-\u3096\u309d-\u309f"  # Hiragana
    "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def words(text: str) -> list[str]:
    """Words of a text in their order, lower-cased."""
    return [word for run in runs(text) for word in split_run(run)]


def runs(text: str) -> list[str]:
    """Runs of letters or of digits, in their order; each gives the same words wherever it stands (`split_run`)."""
    if text.isascii():
        return _ASCII_RUN.findall(text)
    return _run_of_any_script().findall(unicodedata.normalize("NFC", text))


def split_run(run: str) -> list[str]:
    """The words of one run."""
    if run.isascii():
        return _split_identifier(run)
    for joiner in _JOINERS:
        run = run.replace(joiner, "")
    return [word for part in _parts_by_spacing().findall(run) for word in _split_part(part)]


def has_unspaced_script(text: str) -> bool:
    """Whether spaces do not tell the words of a text."""
    return not text.isascii() and _IS_UNSPACED.search(text) is not None


def _split_part(part: str) -> list[str]:
    if not _IS_UNSPACED.match(part):
        return _split_identifier(part)
    letters = _letter_with_marks().findall(part)
    if len(letters) < 2:
        return letters
    return [first + second for first, second in pairwise(letters)]


def _split_identifier(run: str) -> list[str]:
    if run.islower() or run.isupper() or not run.isalpha():
        return [run.lower()]
    return [part.lower() for part in _split_camel_case(run)]


def _split_camel_case(word: str) -> list[str]:
    """Split before an upper-case letter that follows a lower-case one, or that begins a word after an acronym."""
    parts, start = [], 0
    for i in range(1, len(word)):
        begins_after_lower = word[i].isupper() and word[i - 1].islower()
        begins_after_acronym = word[i].islower() and word[i - 1].isupper() and i - 1 > start
        if begins_after_lower or begins_after_acronym:
            cut = i if begins_after_lower else i - 1
            parts.append(word[start:cut])
            start = cut
    return [*parts, word[start:]]


@cache
def _marks() -> str:
    """Every combining mark, as the inside of a character class."""
    found = (chr(code) for code in range(0x300, sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    return "".join(found) + _JOINERS


@cache
def _run_of_any_script() -> re.Pattern[str]:
    return re.compile(rf"(?:[^\W\d_][{_marks()}]*)+|\d+")


@cache
def _parts_by_spacing() -> re.Pattern[str]:
    marks = _marks()
    return re.compile(rf"(?:[{_UNSPACED}][{marks}]*)+|(?:[^{_UNSPACED}{marks}][{marks}]*)+")


@cache
def _letter_with_marks() -> re.Pattern[str]:
    return re.compile(rf"[^{_marks()}][{_marks()}]*")
