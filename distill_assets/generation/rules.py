"""Queries by rules: no model, nothing downloaded.

Four kinds, of which each document gives some, in an order that its id draws:

keyword    two neighbouring words, or one more, that are typical for the document (tf-idf); a clause, where no spaces tell the words
question   of a heading ("Resetting a password": how to reset a password) or a sentence ("To pay by card, open ...": how to pay by card)
sentence   what the text claims ("we show that ..."), or its first sentence
title      the last heading, with the one above it or a typical word

Templates are English and used for English text alone. Keywords, sentences and questions of the text come from every script.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import NamedTuple

from distill_assets.generation.prose import Prose, read_prose
from distill_assets.generation.queries import MIN_LETTERS, Kind, MadeText, flaw_of
from distill_assets.records import Document, hash_share, hash_text, normalise
from distill_assets.retrieval.words import PUNCTUATION, TOKENISER_VERSION, has_unspaced_script, words

# Raised whenever the same document would give other queries.
RULES_VERSION = 1
_MAX_SHARE = (
    0.05  # of the documents: what more of them say is no topic but boilerplate ("See also", "Was this page helpful?")
)
_MIN_SHARED = 2  # documents: 5 % of thirty is one or two
_RARE = 4  # documents: a word of fewer is no more typical than one of four, else slips of the pen would come first
_MANY, _COMMON = 64, 3  # documents; weight of a word that an eighth to a quarter of them holds
_NUM_SENTENCES = 12  # from the start of the text, that rules look at
_ROTATION: tuple[Kind, ...] = ("keyword", "question", "sentence", "title")
# English function words: no keyword begins, ends or goes across with one.
_FUNCTION_WORDS = frozenset(
    words("""
    a about above after again against all also although an and any are as at be because been before being below between both but by
    can cannot could did do does done down during each either else etc every few for from further had has have he her here him his
    how however i if in into is it its itself just may me might more most must my neither no nor not of off often on once only or
    other our out over own per same several shall she should since so some such than that the their them then there therefore these
    they this those though through thus to too under until up upon us use used using very via was we well were what when where
    whether which while who whom whose why will with within without would yet you your see
    """)
)
# Of the words of an English text, a fifth and more are of these; "of", "is" and "for" alone are Dutch and Danish, too.
_ENGLISH, _MIN_ENGLISH = frozenset(words("the of and to with that for this are from you is it")), 0.08
_VERBS = frozenset(
    words("""
    add adjust apply assign attach avoid build calculate call cancel change check choose clear clone combine compare compute
    configure connect convert copy count create customize debug decode define delete deploy detect disable download draw edit enable
    encode evaluate export extract fill filter find fit fix format generate get group handle identify import improve insert inspect
    install join keep limit list load make manage mark measure merge migrate monitor move normalize open optimize order parse pass
    pay plot prepare prevent print publish query read receive record reduce register release remove rename render reorder replace
    report request reset resize resolve restore retrieve return reverse round run sample save scale search select send set share
    show skip solve sort specify split start stop store submit subset switch test track train transform translate try turn update
    upgrade upload use validate verify view visualize wait write
    """)
)
_NO_OBJECT = frozenset(
    words("is are was were has have can may must should will does of")
)  # "Search is exact" tells nobody to search
_QUESTION = re.compile(
    r"(how|what|when|where|why|who|which|can|could|do|does|is|are|should|will)\b(?! to be\b)", re.IGNORECASE
)
_HOW_DO_I = re.compile(r"how (?:do|can|should|would) (?:i|you|we|one) ", re.IGNORECASE)
_NO_TOPIC = r"(?!(?:this|that|these|those|there|it|they|we|he|she|you|here|which|what|one|such|each|both)\b)"
_DEFINITION = re.compile(
    rf"(?:the |an? )?({_NO_TOPIC}[\w.-]+(?: (?!which|that)[\w.-]+){{0,4}}?) (is|are) "
    r"(?:an?|the|one of|used|any|defined|designed) .*",
    re.IGNORECASE,
)
_PURPOSE = re.compile(r"(?:in order )?to ((?!be\b|date\b)[a-z]+ [^,;:]{4,90}), .+", re.IGNORECASE)
_CONDITION = re.compile(r"if (you|your|the|an?) ([^,;:]{6,90}), .+", re.IGNORECASE)
_ALLOWS = re.compile(
    r".{2,90}? (?:allow|let|enable|help)s? (?:you|us|users?|one) (?:to )?([a-z]+ [^,;:.]{4,90}).*", re.IGNORECASE
)
_CLAIM = re.compile(
    r".*?\b(?:shows?|showed|shown|finds?|found|reports?|reported|demonstrates?|demonstrated|suggests?|suggested|indicates?|indicated|"
    r"concludes?|concluded|reveals?|revealed|means|note|ensure|remember) that (.+)",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"(?:(?:however|moreover|furthermore|therefore|thus|here|finally|in addition|in contrast|in conclusion|note|for example),?\s+)|"
    r"(?-i:[A-Z]{5,}(?: [A-Z]+)*:?\s+(?=[A-Z]))",  # BACKGROUND, METHODS AND RESULTS
    re.IGNORECASE,
)
_CLAUSE = re.compile(rf"[\s{re.escape(PUNCTUATION)}（）()\[\]]+")
_MAX_CLAUSE = 20  # letters
_MAX_TITLE = 8  # words: a longer one with a word behind it is no longer what a person asks
_ASKS = "?？؟"
# No class of letters: marks, the vowels of Hindi among them, are none for `re`.
_NO_WORD = re.compile(r"[()\[\]{}<>=|/\\@#$%^*~:;,!?\"“”«»]")
_WORD_EDGES = PUNCTUATION + "()[]*`–—-/&"


@dataclass(frozen=True)
class Counts:
    """What is known of a collection: in how many documents a word stands, and which lines are boilerplate."""

    num_documents: int
    with_word: Mapping[str, int]
    boilerplate: frozenset[str]

    def without_boilerplate(self, lines: Iterable[str]) -> tuple[str, ...]:
        """The lines that few documents have."""
        return tuple(line for line in lines if hash_text(normalise(line)) not in self.boilerplate)

    def weight(self, word: str) -> int:
        """How few documents hold a word, as the number of times that the collection can be halved: 1 for a word of every document.

        Whole numbers, so that one more document changes the queries of another one only where a count passes a power of two.
        """
        return 1 + max(0, self.num_documents.bit_length() - max(_RARE, self.with_word.get(word, 0)).bit_length())

    def is_common(self, word: str) -> bool:
        """Whether a quarter of a large collection holds a word, as function words of any language are held."""
        return self.num_documents >= _MANY and self.weight(word) <= _COMMON


def count(documents: Iterable[Document]) -> Counts:
    """Count words and lines of the documents, in one pass."""
    num_documents, with_word, with_line = 0, Counter[str](), Counter[str]()
    for document in documents:
        num_documents += 1
        prose = read_prose(document)
        with_word.update({*words(document.content)})
        with_line.update({hash_text(normalise(line)) for line in chain(*prose)})
    most = max(_MIN_SHARED, _MAX_SHARE * num_documents)
    return Counts(num_documents, with_word, frozenset(line for line, num in with_line.items() if num > most))


@dataclass(frozen=True)
class RuleGenerator:
    """A `generation.queries.Generator` by rules.

    Args:
        counts: of the whole collection, where the documents that are given are a part of it; None: they are counted.
    """

    counts: Counts | None = None

    @property
    def identity(self) -> str:
        """Version of the rules and of the words."""
        return f"rules {RULES_VERSION}, words {TOKENISER_VERSION}"

    def queries_of(
        self, documents: Sequence[Document], per_document: int, seed: int
    ) -> Iterator[Sequence[tuple[str, Kind]]]:
        """As the protocol says. What a document gives depends on it, the seed and the counts alone."""
        counts = self.counts or count(documents)
        for document in documents:
            yield _queries_of(document, counts, per_document, seed)


class _Source(NamedTuple):
    """A document as the rules look at it."""

    document: Document
    prose: Prose
    counts: Counts
    scores: Mapping[str, int]  # of each word: times in the document, 3 at most, by its weight

    @property
    def sentences(self) -> tuple[str, ...]:
        return self.prose.sentences[:_NUM_SENTENCES]


def _queries_of(document: Document, counts: Counts, per_document: int, seed: int) -> list[MadeText]:
    times = Counter(words(document.content))
    scores = {word: min(num, 3) * counts.weight(word) for word, num in times.items()}
    source = _Source(
        document, Prose(*(counts.without_boilerplate(lines) for lines in read_prose(document))), counts, scores
    )
    start = int(hash_share(f"{seed} {document.doc_id}") * len(_ROTATION))
    order = [*_ROTATION[start:], *_ROTATION[:start]]
    found = {kind: _RULES[kind](source) for kind in order}
    title, taken, has_titled = {*words(document.title)}, list[MadeText](), False
    seen = {
        _key(document.title),
        _key(document.text),
    }  # never these as they are: encoders read them, and a copy finds itself
    while len(taken) < per_document and found:
        for kind in [kind for kind in order if kind in found][: per_document - len(taken)]:
            text = next((text for text in found[kind] if not flaw_of(text) and _key(text) not in seen), None)
            is_titled = text is not None and {*words(text)} - _FUNCTION_WORDS <= title
            if text is None:
                del found[kind]
            elif not (is_titled and has_titled):
                has_titled = has_titled or is_titled
                seen.add(_key(text))
                taken.append(MadeText(text, kind))
    return taken


def _keywords(source: _Source) -> Iterator[str]:
    """Best first."""
    text = " \n ".join((*source.prose.path[-1:], *source.prose.headings, *source.prose.sentences))
    if has_unspaced_script(text):
        clauses = [c for c in _CLAUSE.split(text) if MIN_LETTERS <= len(c) <= _MAX_CLAUSE and has_unspaced_script(c)]
        yield from sorted(dict.fromkeys(clauses), key=lambda clause: -_mean_score(clause, source))[:3]
        return
    runs = list(_runs(text, source.counts))
    place = {word: i for i, word in reversed([*enumerate(chain(*runs))])}
    pairs = Counter((one, two) for run in runs for one, two in pairwise(run) if one != two)
    ranked = sorted(pairs, key=lambda pair: (-_score(pair, source) - min(pairs[pair], 3), place[pair[0]]))
    singles = sorted(place, key=lambda word: (-_score((word,), source), place[word]))
    used = set[str]()
    for pair in ranked:
        if used.isdisjoint(pair):
            others = (word for word in singles if word not in used and word not in pair)
            more = next(others, None) if hash_share(" ".join(pair)) < 0.5 else None  # people type two words, or three
            used |= {*pair, *([more] if more else [])}
            yield " ".join([*pair, more] if more and place[more] > place[pair[0]] else [more, *pair] if more else pair)
        if len(used) >= 9:
            return


def _runs(text: str, counts: Counts) -> Iterator[list[str]]:
    """Neighbouring words, cut where a function word, a number or punctuation stands; in lower case but for capitals inside."""
    run = list[str]()
    for item in text.split():
        bare = item.strip(_WORD_EDGES).removesuffix("'s").removesuffix("’s")
        is_word = len(bare) > 1 and bare[0].isalpha() and not _NO_WORD.search(bare)
        is_content = is_word and bare.lower() not in _FUNCTION_WORDS and not counts.is_common(bare.lower())
        if run and not (is_content and item.startswith(bare)):
            yield run
            run = []
        if is_content:
            run.append(bare.lower() if bare[1:].islower() else bare)
        if run and not item.endswith(bare):
            yield run
            run = []
    if run:
        yield run


def _score(phrase: Iterable[str], source: _Source) -> int:
    """Of a word of several parts (read_csv), the best part counts."""
    return sum(max((source.scores.get(part, 0) for part in words(word)), default=0) for word in phrase)


def _mean_score(text: str, source: _Source) -> float:
    found = words(text)
    return sum(source.scores.get(word, 0) for word in found) / max(1, len(found))


def _questions(source: _Source) -> Iterator[str]:
    headings = (*source.prose.headings, *source.prose.path[-1:])
    yield from (line for line in (*headings, *source.sentences) if line.endswith(tuple(_ASKS)))
    if _is_english(source.document.content):
        sentences = [bare for line in source.sentences if not line.endswith(tuple(_ASKS)) and (bare := _bare(line))]
        yield from filter(None, (rule(line) for line in sentences for rule in _OF_SENTENCES))
        yield from filter(None, (_ask_heading(_bare(line), source) for line in headings))


def _definition(sentence: str) -> str | None:
    found = _DEFINITION.fullmatch(sentence)
    return f"what {found[2].lower()} {_lowered(found[1])}?" if found else None


def _purpose(sentence: str) -> str | None:
    found = _PURPOSE.fullmatch(sentence) or _ALLOWS.fullmatch(sentence)
    return f"how to {_lowered(found[1])}?" if found else None


def _condition(sentence: str) -> str | None:
    found = _CONDITION.fullmatch(sentence)
    return f"what happens if {found[1].lower()} {found[2]}?" if found else None


def _instruction(sentence: str) -> str | None:
    first, *rest = sentence.split()
    is_told = first.lower() in _VERBS and 0 < len(rest) <= 13 and rest[0].lower() not in _NO_OBJECT
    return f"how to {_lowered(sentence)}?" if is_told else None


_OF_SENTENCES: tuple[Callable[[str], str | None], ...] = (_purpose, _definition, _condition, _instruction)


def _ask_heading(heading: str, source: _Source) -> str | None:
    """A question that a section of this heading answers; None where no template fits."""
    if not heading or len(heading.split()) > 12:
        return None
    if _QUESTION.match(heading):
        return f"{_HOW_DO_I.sub('how to ', _lowered(heading))}?"
    first, _, rest = heading.partition(" ")
    verb = _verb_of(first.lower(), source.counts)
    if verb and rest:
        return f"how to {verb} {rest}?"
    is_plural = heading.endswith("s") and not heading.endswith(("ss", "us", "is"))
    return f"what {'are' if is_plural else 'is'} {_lowered(heading)}?" if len(heading.split()) <= 4 else None


def _verb_of(word: str, counts: Counts) -> str | None:
    """The verb that a heading begins with: `install`, or of `installing` the form that the collection knows best."""
    if word in _VERBS:
        return word
    stem = word.removesuffix("ing")
    if stem == word or len(stem) < 3:
        return None
    forms = [stem, f"{stem}e", *([stem[:-1]] if stem[-1] == stem[-2] else [])]
    best = max(forms, key=lambda form: (form in _VERBS, counts.with_word.get(form, 0)))
    return best if best in _VERBS or counts.with_word.get(best) else None


def _sentences(source: _Source) -> Iterator[str]:
    """Claims first, then the first sentence and the most typical one."""
    lines = (_OPENING.sub("", line, count=1) for line in source.sentences)
    # A line in lower case is the rest of a sentence that began in the passage before.
    kept = [line for line in lines if line and not line[0].islower() and line[-1] not in _ASKS + ":"]
    claims = [found[1] for line in kept if (found := _CLAIM.fullmatch(line)) and len(found[1].split()) > 4]
    typical = sorted(kept, key=lambda line: -_mean_score(line, source))[:1]
    yield from (_bare(line) for line in dict.fromkeys((*claims, *kept[:1], *typical)))


def _titles(source: _Source) -> Iterator[str]:
    if not source.prose.path:
        return
    *above, last = (_bare(part) for part in source.prose.path)
    if above:
        yield f"{_lowered(above[-1])} {_lowered(last)}"
        yield last
        return
    if source.prose.path[-1].endswith(tuple(_ASKS)):
        return
    topic, _, rest = last.partition(": ")
    more = (word for text in _keywords(source) for word in text.split() if not {*words(word)} <= {*words(last)})
    if rest:
        yield _lowered(topic)
    elif len(last.split()) <= _MAX_TITLE and not has_unspaced_script(last):
        yield from (f"{_lowered(last)} {word}" for word in islice(more, 1))


_RULES: dict[Kind, Callable[[_Source], Iterator[str]]] = {
    "keyword": _keywords,
    "question": _questions,
    "sentence": _sentences,
    "title": _titles,
}


def _is_english(text: str) -> bool:
    found = words(text[:4000])
    num_ascii = sum(map(str.isascii, text[:4000]))
    return num_ascii >= 0.95 * len(text[:4000]) and sum(word in _ENGLISH for word in found) >= _MIN_ENGLISH * len(found)


def _bare(text: str) -> str:
    """Without the punctuation and numbers (1.2) around it."""
    return re.sub(r"^[\d.]+\s+", "", text.strip().rstrip(PUNCTUATION + " "))


def _key(text: str) -> str:
    return normalise(_bare(text))


def _lowered(text: str) -> str:
    """The first letter in lower case, but for a word with capitals inside."""
    first = text.split(maxsplit=1)[0] if text.split() else ""
    return text[:1].lower() + text[1:] if first[1:].islower() or len(first) == 1 else text
