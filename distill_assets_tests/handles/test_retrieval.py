"""Searching passages for documents."""

from collections.abc import Sequence

from distill_assets.handles.retrieval import Corpus, search_documents
from distill_assets.retrieval.rankings import Ranking


def test_a_search_goes_on_until_there_are_enough_documents() -> None:
    """Recall@100 of passages that are of ten documents is recall@10, and no figure says so."""
    # Query 0 meets 9 passages of "a" first, then those of "b" and "c"; query 1 finds three documents at once.
    parent_of = {f"a#{i}": "a" for i in range(9)} | {"b#1": "b", "b#2": "b"}
    rankings: list[Ranking] = [
        [(doc_id, 20.0 - i) for i, doc_id in enumerate([*parent_of, "c", "d"])],
        [("d", 4.0), ("b#2", 3.0), ("c", 2.0), ("a#1", 1.0)],
    ]
    asked: list[tuple[list[int], int]] = []

    def search(rows: Sequence[int], depth: int) -> list[Ranking]:
        asked.append((list(rows), depth))
        return [rankings[row][:depth] for row in rows]

    corpus = Corpus([*parent_of, "c", "d"], [""] * 13, "v", parent_of)
    found = search_documents(corpus, [0, 1], 3, 1, search)
    assert found == [[("a#0", 20.0), ("b#1", 11.0), ("c", 9.0)], [("d", 4.0), ("b#2", 3.0), ("c", 2.0)]]
    assert asked == [([0, 1], 3), ([0], 12)]
    asked.clear()
    assert len(search_documents(corpus, [0], 10, 1, search)[0]) == 4, "there are no more"
    assert asked == [([0], 10), ([0], 13)]
    asked.clear()
    whole = Corpus([*parent_of, "c", "d"], [""] * 13, "v")
    assert [d for d, _ in search_documents(whole, [1], 5, 1, search)[0]] == ["d", "b#2", "c", "a#1"]
    assert asked == [([1], 5)], "without passages one search is enough"
