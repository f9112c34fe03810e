"""Does an id still stand for the same document? Two sources that number alike overwrite each other, and an editor changes a text."""

from distill_assets.retrieval.words import words

MIN_COMMON_WORDS = 0.5


def is_same_document(former: str, now: str) -> bool:
    """Whether the later text may be an edit of the former one, so that what was judged of one holds for the other.

    It may where the sets of their words have a Jaccard similarity of at least one half. "Numbered alike" and "rewritten from scratch"
    look the same from here: of both, old judgements do not count.
    """
    ours, theirs = (set(words(text)) for text in (former, now))
    return former == now or len(ours & theirs) >= MIN_COMMON_WORDS * len(ours | theirs) > 0
