"""Bytes of a file as text, whatever encoding they are in."""

import re

from charset_normalizer import from_bytes

from distill_assets.errors import SourceError

_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# charset-normalizer took "Copyright ©" for cp852 and "naïve" for cp1006: it may choose among few, by what kind of script it is.
_LATIN = ["cp1252", "cp1250"]
_OTHER = ["cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp932", "euc_jp", "gb18030", "big5", "cp949"]
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
_LATIN_RUN = 1.5  # bytes above 127 stand alone in Latin script (about 1.1 in a row), and by the word or sign in others (2 and more)


def decode(content: bytes) -> str:
    """The text: by its mark, else as UTF-8, else in the encoding that it is most like. A short text may be guessed wrong.

    Raises:
        SourceError: the bytes are no text.
    """
    encoding = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), None)
    try:
        text = content.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        text = "\0" if encoding or b"\0" in content else _guessed(content)
    if "\0" in text:
        raise SourceError("it is no text, or in an encoding that is not known: save it as UTF-8")
    return text


def _guessed(content: bytes) -> str:
    """The text in the likeliest of the older encodings; a NUL where it fits none."""
    runs = _HIGH_BYTES.findall(content)
    is_latin = sum(map(len, runs)) < _LATIN_RUN * len(runs)
    found = from_bytes(content, cp_isolation=_LATIN if is_latin else _OTHER)
    if is_latin and any("cp1252" in match.could_be_from_charset for match in found):
        return content.decode("cp1252")
    best = found.best()
    return "\0" if best is None else str(best)
