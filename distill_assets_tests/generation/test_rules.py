"""Queries by rules: three documents whose queries are worked out by hand, and what must not become a query."""

import time
from collections import Counter

import pytest

from distill_assets.generation import GeneratedQuery, deduplicate, generate
from distill_assets.generation.prose import read_prose
from distill_assets.generation.queries import flaw_of
from distill_assets.generation.rules import Counts, RuleGenerator, count
from distill_assets.records import Document, normalise

MARKDOWN = Document(
    "md",
    "Billing > Refunds > Resetting a refund",
    """## Refund deadline

To ask for a refund, open the billing page and press **Refund**. The [refund deadline](x.md) is 30 days after
the order, cf. Fig. 3 of the terms.

```python
refund = billing.ask(order)
```

| day | fee |
- If your card has expired, we send the refund to your bank.
""",
)
FAQ = Document(
    "faq",
    "How do I reset my password?",
    "Open the login page and choose Forgot password. The reset link is a message that expires after one hour.",
)
HINDI = Document("hi", "", "दान की रसीद डाक से आती है। रसीद में दान की राशि होती है।")
CHINESE = Document("zh", "图书证到期", "图书证到期以后，请到一楼服务台办理续期。办理时需要带身份证。")
DOCUMENTS = [MARKDOWN, FAQ, CHINESE]
# All that the rules find. No word is rarer than another in three documents, so a word counts by its times in the document.
EXPECTED = {
    "md": [
        (
            "refund deadline billing",
            "keyword",
        ),  # refund 3 times, deadline 2; billing is next, and first of those with 2
        ("how to ask for a refund?", "question"),
        ("what happens if your card has expired?", "question"),
        ("what is refund deadline?", "question"),
        ("how to reset a refund?", "question"),
        ("To ask for a refund, open the billing page and press Refund", "sentence"),
        ("refunds resetting a refund", "title"),
    ],
    "faq": [
        ("reset link", "keyword"),  # reset twice, link once; with a third word where the pair's hash says so
        ("forgot password", "keyword"),
        ("open login page", "keyword"),
        ("one hour", "keyword"),
        ("how to open the login page and choose Forgot password?", "question"),
        ("what is reset link?", "question"),
        ("how to reset my password?", "question"),
        ("Open the login page and choose Forgot password", "sentence"),
    ],
    "zh": [
        ("图书证到期以后", "keyword"),
        ("办理时需要带身份证", "keyword"),
        ("图书证到期以后，请到一楼服务台办理续期", "sentence"),
    ],
}


def texts_of(queries: list[GeneratedQuery], doc_id: str) -> set[tuple[str, str]]:
    """Texts and kinds of one document's queries."""
    return {(query.text, query.kind) for query in queries if query.doc_id == doc_id}


@pytest.mark.parametrize("doc_id", EXPECTED)
def test_three_documents_give_what_a_hand_finds(doc_id: str) -> None:
    """Code, tables and marks in a query, or English templates around Chinese, teach a student to find what nobody asks."""
    assert texts_of(generate(DOCUMENTS, RuleGenerator(), 20, 0), doc_id) == set(EXPECTED[doc_id])


def test_hindi_words_keep_their_vowel_signs() -> None:
    """A letter's class in `re` leaves vowel signs out: nearly no word of Hindi would be one, and no keyword be left."""
    made = generate([HINDI], RuleGenerator(), 9, 0)
    # "दान की" stands twice, "रसीद" is the next word that does.
    assert next(query.text for query in made if query.kind == "keyword") == "दान की रसीद"


def test_prose_is_cut_at_sentences_and_not_at_abbreviations() -> None:
    """A part that ends with "Fig." would be asked as a sentence."""
    prose = read_prose(MARKDOWN)
    assert prose.path == ("Billing", "Refunds", "Resetting a refund") and prose.headings == ("Refund deadline",)
    assert prose.sentences[1] == "The refund deadline is 30 days after the order, cf. Fig. 3 of the terms."
    assert len(prose.sentences) == 3
    title = Document(
        "rst", "", "Title here\n==========\nSee :class:`pandas.Frame` and ``x``.\n\n.. note:: x\n>>> code\n"
    )
    assert read_prose(title) == ((), ("Title here",), ("See pandas.Frame and x.",))


def test_markup_without_end_takes_no_time() -> None:
    """100,000 characters of "<a" took 16 s, and of "**a" minutes: one damaged file would hold up a collection."""
    begun = time.process_time()
    for mark in ("<a", "**a ", "[a", "```\n", "<!-- "):
        generate([Document("d", f"Marks > {mark}", mark * (100_000 // len(mark)))], RuleGenerator(), 3, 0)
    assert time.process_time() - begun < 10


def test_kinds_are_mixed_and_a_document_has_one_query_of_its_title_s_words_at_most() -> None:
    """Queries that the title's words find teach nothing but to read titles; the title as it is finds itself."""
    documents = [
        Document(
            f"d{i}", f"Cache of item{i}", f"The item{i}x cache{i} is a store that holds pages. It forgets the oldest."
        )
        for i in range(40)
    ]
    made = generate(documents, RuleGenerator(), 3, 0)
    kinds = Counter(query.kind for query in made)
    assert set(kinds) == {"keyword", "question", "sentence", "title"} and min(kinds.values()) >= 10
    for document in documents:
        own = [text for text, _ in texts_of(made, document.doc_id)]
        titled = [
            text
            for text in own
            if {*normalise(text.strip("?")).split()} <= {*normalise(document.title).split(), "what", "is"}
        ]
        assert len(own) == 3 and len(titled) <= 1 and document.title.lower() not in own


def test_what_another_document_gives_does_not_depend_on_one_more() -> None:
    """Exact tf-idf would change queries of every document with each new one: all of them scored and trained anew."""
    documents = [
        Document(f"d{i}", "", f"Subject{i} moves the lever of machine{i % 7} with force{i % 3}.") for i in range(40)
    ]
    more = [*documents, Document("new", "", "Subject99 moves nothing at all today.")]
    before = generate(documents, RuleGenerator(), 3, 0)
    assert [query for query in generate(more, RuleGenerator(), 3, 0) if query.doc_id != "new"] == before
    part = generate(documents[::2], RuleGenerator(count(documents)), 3, 0)
    assert part == [query for query in before if int(query.doc_id[1:]) % 2 == 0], (
        "a part of a collection, with its counts"
    )


def test_weights_are_powers_of_two() -> None:
    """Of 1,000 documents (10 bits), a word of 4 weighs 1 + 10 - 3; of fewer the same; of 100, 1 + 10 - 7; of all 1."""
    counts = Counts(1000, {"once": 1, "four": 4, "hundred": 100, "all": 1000}, frozenset())
    assert [counts.weight(word) for word in ("once", "four", "hundred", "all")] == [8, 8, 4, 1]


def test_what_many_documents_say_is_no_query() -> None:
    """A line like "Was this page helpful?" would be a query with the answer in every document, or dropped with nothing in its place."""
    helpful = "Was this page helpful?"
    documents = [Document(f"d{i}", "", f"Item{i} opens the valve. {helpful}") for i in range(4)]
    made = generate(documents, RuleGenerator(), 9, 0)
    assert {query.doc_id for query in made} == {"d0", "d1", "d2", "d3"}
    assert helpful not in {query.text for query in made}
    assert ("Item0 opens the valve", "sentence") in texts_of(made, "d0")


def test_a_text_of_two_documents_is_dropped_for_both_and_counted() -> None:
    """Kept for one of them, the other one is a false negative of its own words."""
    documents = [
        Document("a", "", "Pumps move water."),
        Document("b", "", "Pumps MOVE water. Valves stop gas."),
        CHINESE,
    ]
    dropped = Counter[str]()
    made = generate(documents, RuleGenerator(), 9, 0, dropped)
    assert dropped["given for several documents"] == 2  # "pumps move", as keyword of both
    assert texts_of(made, "b") == {("Pumps MOVE water", "sentence"), ("water valves stop", "keyword")}
    assert texts_of(made, "a") == set(), "its sentence is all that it says: a ranking leaves a copy of the query out"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("refund deadline", None),
        ("refund", "too short"),
        ("2024 30", "too short"),
        ("到期", "too short"),
        ("图书证到期", None),
        (" \n", "empty"),
        ("see https://x.org now", "an address"),
        ("mail to me@x.org now", "an address"),
        ("x = read_csv(path)", "code"),
        ("return frame;", "code"),
        ("from x import y", "code"),
        ("import data from another table", None),
        ("what does read_csv() return?", None),
        ("word " * 31, "too long"),
        ("word " * 30, None),
        ("a " + "x" * 299, "too long"),
    ],
)
def test_texts_that_nobody_asks(text: str, reason: str | None) -> None:
    """One line of code among queries is trained on like any other."""
    assert flaw_of(text) == reason


def test_near_identical_queries_are_one_and_the_first_kind_stays() -> None:
    """A question and a sentence that say the same, one in train and one in test, are a leak."""
    sentence = GeneratedQuery("the refund deadline of an order is thirty days after it", "a", "sentence")
    question = GeneratedQuery("The refund deadline of an order is thirty days after it?", "b", "question")
    other = GeneratedQuery("refund deadline", "a", "keyword")
    assert deduplicate([sentence, other, question]) == [other, question]


def test_order_seed_and_number() -> None:
    """Queries in another order, or others from the same seed, would be scored again; a larger number only adds."""
    made = generate(DOCUMENTS, RuleGenerator(), 2, 0)
    assert [query.doc_id for query in made] == ["faq", "faq", "md", "md", "zh", "zh"]
    assert generate(DOCUMENTS[::-1], RuleGenerator(), 2, 0) == made
    assert set(made) <= set(generate(DOCUMENTS, RuleGenerator(), 3, 0))
    assert len({tuple(generate(DOCUMENTS, RuleGenerator(), 2, seed)) for seed in range(8)}) > 1
    with pytest.raises(ValueError, match="at least 1, got 0"):
        generate(DOCUMENTS, RuleGenerator(), 0, 0)
