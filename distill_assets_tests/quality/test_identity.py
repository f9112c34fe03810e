"""Does an id still stand for the same document?"""

import pytest

from distill_assets.quality.identity import is_same_document

KETTLE = "The kettle belongs in the attic on the middle shelf."


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (KETTLE, True),
        (KETTLE.upper(), True),
        ("The kettle belongs in the cellar on the middle shelf.", True),  # 7 of 9 words
        ("The toaster has a guarantee of two years.", False),  # "the" of 14
        ("", False),
    ],
)
def test_an_edit_keeps_its_judgements_and_another_document_does_not(now: str, expected: bool) -> None:
    """Two help desks that number alike overwrite each other, and judgements of the one name texts of the other."""
    assert is_same_document(KETTLE, now) is expected


def test_texts_without_words_are_the_same_where_they_are_equal() -> None:
    """A share of no words is no number: it must neither fail nor displace anything."""
    assert is_same_document("<=", "<=")
    assert not is_same_document("<=", ">=")
