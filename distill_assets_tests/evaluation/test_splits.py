"""Queries that stand in two splits: none is missed, the right one is left out, and large collections take no longer per query."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_assets.evaluation import splits
from distill_assets.evaluation.splits import find_twins, leaked_queries, query_shingles
from distill_assets.records import SPLITS, Query, assign_split


def twin_ids(queries: list[Query], jaccard: float) -> dict[str, str]:
    """Query id -> the id of its twin."""
    return {query_id: twin.query_id for query_id, twin in find_twins(queries, jaccard=jaccard).items()}


def twin_ids_one_by_one(queries: list[Query], jaccard: float) -> dict[str, str]:
    """The same by comparing every query with every other one."""
    found = {}
    for query in queries:
        own = query_shingles(query.text)
        similar = []
        for other in queries:
            theirs = query_shingles(other.text)
            if other.split != query.split and len(own & theirs) / len(own | theirs) >= jaccard:
                similar.append((-SPLITS.index(other.split), other.query_id))
        if similar:
            found[query.query_id] = min(similar)[1]
    return found


def are_twins(one: str, other: str, jaccard: float = 0.9) -> bool:
    """Whether a train query is left out for a test query."""
    leaked = leaked_queries([Query("r", one, "train"), Query("t", other, "test")], jaccard=jaccard)
    assert leaked in ({}, {"r": "t"})
    return bool(leaked)


def test_a_query_is_known_by_its_words() -> None:
    """A query that differs in case, space or one word of thirty has been trained on."""
    words = [f"word{i}" for i in range(30)]
    changed = [*words[:-1], "other"]  # 28 shingles each, 27 shared: 27 / 29 = 0.931
    assert are_twins("  Fit  THE model ", "fit the model?")
    assert are_twins(" ".join(words), " ".join(changed))
    assert not are_twins(" ".join(words), " ".join(changed), jaccard=0.94)
    assert not are_twins("something else entirely", "another thing of four")


def test_signs_tell_queries_apart_and_punctuation_does_not() -> None:
    """'c++' and 'c#', or 'x < y' and 'x <= y', are one query to a tokeniser that keeps letters alone."""
    assert not are_twins("c++", "c#", jaccard=0.1) and not are_twins("c++", "c", jaccard=0.1)
    assert not are_twins("return (x1 < x2) element-wise", "return (x1 <= x2) element-wise", jaccard=0.5)
    assert are_twins("What is C++?", "what is c++") and are_twins("C++", "c++")
    assert are_twins("?", "?") and not are_twins("?", "!"), "equal texts are equal, without a word too"


def test_test_is_the_most_precious_then_dev_then_train() -> None:
    """A dev query that repeats a test query chooses the model by the test: it was never looked for."""
    everywhere = [Query(f"{split}-{i}", "how do i sort", split) for split in SPLITS for i in (2, 1)]
    assert leaked_queries(everywhere, jaccard=0.9) == dict.fromkeys(["dev-1", "dev-2", "train-1", "train-2"], "test-1")
    no_test = [query for query in everywhere if query.split != "test"]
    assert leaked_queries(no_test, jaccard=0.9) == dict.fromkeys(["train-1", "train-2"], "dev-1")
    assert leaked_queries([query for query in everywhere if query.split == "test"], jaccard=0.9) == {}
    assert find_twins(everywhere, jaccard=0.9)["test-1"].query_id == "dev-1", "the other side is told as well"


def test_of_several_twins_the_first_by_id_is_named() -> None:
    """A sample that names another twin in every process cannot be compared with yesterday's.

    The rarer shingle "a b c" is looked up first and leads to t2; t1 shares the commoner "b c d". Both have 1 of 2 shingles.
    """
    tests = {"t1": "b c d", "t2": "a b c", "t3": "b c d"}
    queries = [Query("r", "a b c d", "train"), *(Query(query_id, text, "test") for query_id, text in tests.items())]
    assert leaked_queries(queries, jaccard=0.5) == {"r": "t1"}


def test_a_twin_of_a_dev_query_that_is_left_out_is_left_out_too() -> None:
    """Similarity is not handed on: the train query repeats dev alone. Were it kept, a later batch could bring it back.

    Shingles of a..j: 8. dev shares 7 of 9 with test and with train; train shares 6 of 10 with test.
    """
    chain = [
        Query("t", "a b c d e f g h i j", "test"),
        Query("d", "a b c d e f g h i X", "dev"),
        Query("r", "Y b c d e f g h i X", "train"),
    ]
    assert leaked_queries(chain, jaccard=0.7) == {"d": "t", "r": "d"}


def test_a_share_that_is_no_binary_number_loses_no_twin() -> None:
    """0.55 * 100 is a little above 55 in floating point: the filter asked for 56 shared shingles and lost a pair with 55."""
    words = [f"w{i}" for i in range(102)]
    assert are_twins(" ".join(words), " ".join(words[:57]), jaccard=0.55)
    assert are_twins(" ".join(words[:57]), " ".join(words), jaccard=0.55)
    assert not are_twins(" ".join(words), " ".join(words[:56]), jaccard=0.55)


queries_of_few_words = st.lists(
    st.tuples(st.lists(st.sampled_from("abcd?"), min_size=1, max_size=9), st.sampled_from(SPLITS)), max_size=14
).map(lambda found: [Query(f"q{i:02}", " ".join(words), split) for i, (words, split) in enumerate(found)])


@settings(max_examples=300, deadline=None)
@given(queries_of_few_words, st.sampled_from([0.1, 0.3, 0.5, 0.55, 0.7, 0.9, 1.0]), st.randoms())
def test_the_index_loses_no_twin(queries: list[Query], jaccard: float, random: Random) -> None:
    """A filter that is off by one lets a leak through and says that there is none; the order of the rows must not matter."""
    expected = twin_ids_one_by_one(queries, jaccard)
    shuffled = random.sample(queries, len(queries))
    assert list(twin_ids(shuffled, jaccard).items()) == sorted(expected.items())


@settings(max_examples=200, deadline=None)
@given(queries_of_few_words, st.sampled_from([0.3, 0.5, 0.7, 1.0]), st.integers(0, 14))
def test_what_is_kept_has_no_twin_and_a_new_batch_brings_nothing_back(
    queries: list[Query], jaccard: float, num_earlier: int
) -> None:
    """A train query that comes and goes with other batches would change what earlier models were trained on, unseen."""
    leaked = leaked_queries(queries, jaccard=jaccard)
    split_of = {query.query_id: query.split for query in queries}
    assert all(split_of[out] != "test" and split_of[stays] != "train" for out, stays in leaked.items())
    assert twin_ids_one_by_one([query for query in queries if query.query_id not in leaked], jaccard) == {}
    assert leaked_queries(queries[:num_earlier], jaccard=jaccard).keys() <= leaked.keys()


@pytest.mark.parametrize(("num_words", "are_all_twins"), [(12, False), (60, True)])
def test_queries_of_one_template_are_not_compared_two_by_two(
    monkeypatch: pytest.MonkeyPatch, num_words: int, are_all_twins: bool
) -> None:
    """Questions that differ in one word share all their common shingles: of 100,000 that is 3,400,000,000 pairs.

    With 12 words the last one makes 1 of 10 shingles differ, 9 / 11 = 0.82: no twins. With 60 words 57 / 59 = 0.97: all are.
    """
    num_compared = 0
    is_similar = splits._Index._is_similar

    def counting(*args: object) -> bool:
        nonlocal num_compared
        num_compared += 1
        return is_similar(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(splits._Index, "_is_similar", counting)
    template = " ".join(f"word{i}" for i in range(num_words - 1))
    ids = [f"q{i}" for i in range(2000)]
    found = leaked_queries([Query(i, f"{template} {i}", assign_split(i)) for i in ids], jaccard=0.9)
    assert set(found) == ({i for i in ids if assign_split(i) != "test"} if are_all_twins else set())
    assert num_compared <= 20 * len(ids)
