"""The words of a text, in every script: one tokenizer for BM25, for copies among documents, and for leaks among queries.

- Text is composed first (NFC, Unicode annex 15): "é" is one word however it was typed.
- A word is a run of letters with their combining marks, or of digits. A mark belongs to the letter before it (annex 29), because Hindi
  without its vowel signs, which are marks, would be single consonants. A mark without a letter is no word.
- Scripts that put no space between words (Han, Kana, Thai, Lao, Khmer, Myanmar) give overlapping pairs of letters, as in Lucene's
  CJKAnalyzer. A letter alone is one word.
- Latin letters in full width and Katakana in half width are the usual ones, as in Lucene's CJKWidthFilter.
- Identifiers are split: `read_HTMLTable2` gives read, html, table, 2. There are no stop words.

Plain ASCII takes one regular expression. Patterns for other texts are built when the first one comes, because that takes time.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from operator import add
from typing import NamedTuple

# Raised whenever the same text would give other words: indexes on disk, and what was made with these words, are then made again.
TOKENISER_VERSION = 3
# Upper case that no lower case follows, a word that upper case may begin, digits: HTML, Table and 2 of HTMLTable2.
_ASCII_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# First and last code point of the blocks of scripts without spaces; only their letters count (`_unspaced_letters`).
_UNSPACED_BLOCKS = {
    "Thai": (0x0E00, 0x0E7F),
    "Lao": (0x0E80, 0x0EFF),
    "Myanmar": (0x1000, 0x109F),
    "Khmer": (0x1780, 0x17FF),
    "CJK Symbols and Punctuation": (0x3000, 0x303F),  # its letters are Han: 々, 〇
    "Hiragana, Katakana": (0x3040, 0x30FF),
    "Katakana Phonetic Extensions": (0x31F0, 0x31FF),
    "CJK Unified Ideographs Extension A": (0x3400, 0x4DBF),
    "CJK Unified Ideographs": (0x4E00, 0x9FFF),
    "Myanmar Extended-B": (0xA9E0, 0xA9FF),
    "Myanmar Extended-A": (0xAA60, 0xAA7F),
    "CJK Compatibility Ideographs": (0xF900, 0xFAFF),
    "Halfwidth Katakana": (0xFF66, 0xFF9F),
    "Kana Supplement, Extended, Small": (0x1AFF0, 0x1B16F),
    "Supplementary and Tertiary Ideographic Planes": (0x20000, 0x3FFFF),
}
# Of ASCII, other Latin texts, Chinese and Japanese, Arabic, Devanagari, Ethiopic, Myanmar, Khmer. Brackets and operators are not among
# them: they carry meaning in queries about code.
PUNCTUATION = ".,;:?!\"'" + "¡¿«»‹›‘’‚“”„…" + "。、，；：？！・「」『』《》〈〉【】" + "،؛؟۔" + "।॥" + "።፣" + "၊။" + "។"
_FIRST_UNSPACED = chr(min(first for first, _ in _UNSPACED_BLOCKS.values()))
_BEYOND_FIRST_PLANE = re.compile("[\U00010000-\U0010ffff]")
_OTHER_WIDTH = re.compile("[\uff01-\uff9f]")  # full-width ASCII, half-width Katakana
# They change how a letter is drawn and not which one it is: soft hyphen, joiners, variation selectors.
_INVISIBLE = re.compile("[\u00ad\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def words(text: str) -> list[str]:
    """Words of a text in their order, lower-cased."""
    if text.isascii():
        return [word.lower() for word in _ASCII_WORD.findall(text)]
    composed = _compose(text)
    patterns = _patterns_for(composed)
    return _split_runs(patterns.run.findall(composed), patterns)


def words_and_signs(text: str) -> list[str]:
    """Words of a text, lower-cased, and the signs between them: `x<=y` gives x, <=, y. A run of signs is one item.

    Punctuation is no sign. In a script without spaces, letters are neighbours across punctuation and spaces, which people set or omit.
    """
    composed = _compose(text)
    patterns = _patterns_for(composed)
    found = _split_runs(patterns.run_or_signs.findall(patterns.gap.sub("", composed)), patterns)
    return [item for item in (item.strip(PUNCTUATION) for item in found) if item]


def has_unspaced_script(text: str) -> bool:
    """Whether spaces do not tell the words of a text."""
    return not text.isascii() and _patterns_for(text).unspaced.search(text) is not None


def _compose(text: str) -> str:
    """The text in NFC, in usual widths, without invisible characters."""
    if _OTHER_WIDTH.search(text):
        text = text.translate(_usual_widths())
    return _INVISIBLE.sub("", unicodedata.normalize("NFC", text))


def _split_runs(runs: list[str], patterns: "_Patterns") -> list[str]:
    """The words of some runs. Most runs are one word in lower case, so that is asked first."""
    found: list[str] = []
    for run in runs:
        lowered = run.lower()
        if run != lowered:
            found += _split_identifier(run)
        elif run >= _FIRST_UNSPACED and patterns.unspaced.match(run):
            letters = patterns.letter.findall(run)
            found += map(add, letters, letters[1:]) if len(letters) > 1 else letters
        else:
            found.append(run)
    return found


def _split_identifier(run: str) -> list[str]:
    """Split before an upper-case letter that follows a lower-case one, or that begins a word after an acronym."""
    if run.isupper() or not run.isalpha():
        return [run.lower()]
    parts, start = [], 0
    for i in range(1, len(run)):
        begins_after_lower = run[i].isupper() and run[i - 1].islower()
        begins_after_acronym = run[i].islower() and run[i - 1].isupper() and i - 1 > start
        if begins_after_lower or begins_after_acronym:
            cut = i if begins_after_lower else i - 1
            parts.append(run[start:cut].lower())
            start = cut
    return [*parts, run[start:].lower()]


class _Patterns(NamedTuple):
    """What cuts a text that is not ASCII."""

    run: re.Pattern[
        str
    ]  # letters of a script with spaces, letters of one without, or digits; marks stay with their letters
    run_or_signs: re.Pattern[str]  # the same, or what stands between them
    unspaced: re.Pattern[str]  # one letter of a script without spaces
    letter: re.Pattern[str]  # one letter with its marks, of a run
    gap: re.Pattern[str]  # punctuation and spaces between two letters of scripts without spaces


def _patterns_for(text: str) -> _Patterns:
    """Few texts go beyond the first plane. Patterns that know only this one are three times as fast."""
    return _patterns(sys.maxunicode if _BEYOND_FIRST_PLANE.search(text) else 0xFFFF)


@cache
def _patterns(last: int) -> _Patterns:
    """The patterns for texts with no code point above `last`."""
    marks, unspaced = _character_class(_marks(last)), _character_class(_unspaced_letters(last))
    kinds = (rf"[^\W\d_{unspaced}]", f"[{unspaced}]")
    run = "|".join((*(rf"{letter}+(?:[{marks}]+{letter}*)*" for letter in kinds), r"\d+"))
    return _Patterns(
        run=re.compile(run),
        run_or_signs=re.compile(rf"{run}|[^\w\s{marks}]+"),
        unspaced=re.compile(f"[{unspaced}]"),
        letter=re.compile(rf"[^{marks}][{marks}]*"),
        gap=re.compile(rf"(?<=[{unspaced}{marks}])[\s{PUNCTUATION}]+(?=[{unspaced}])"),
    )


def _marks(last: int) -> Iterator[int]:
    """Every combining mark, those of `_INVISIBLE` left out."""
    codes = (code for code in range(0x300, last + 1) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    return (code for code in codes if not _INVISIBLE.match(chr(code)))


def _unspaced_letters(last: int) -> Iterator[int]:
    """Letters of the scripts without spaces; neither their digits nor their marks."""
    codes = (code for first, final in _UNSPACED_BLOCKS.values() for code in range(first, min(final, last) + 1))
    return (code for code in codes if chr(code).isalnum() and not chr(code).isdecimal())


def _character_class(codes: Iterable[int]) -> str:
    """Ascending code points as the inside of a character class: ranges, because single ones are asked one by one."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(final)}" for first, final in ranges)


@cache
def _usual_widths() -> dict[int, str]:
    return {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFA0)}
