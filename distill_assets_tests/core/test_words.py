"""The words of a text, by hand and by property, in the scripts that people write."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_assets.core.metrics import evaluate_run, mean_of
from distill_assets.core.splits import query_shingles
from distill_assets.core.words import has_unspaced_script, runs, split_run, words
from distill_assets.sources.beir import BeirSource
from distill_assets.storage.lexical import LexicalCache

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("read_HTMLTable2 of x.y", ["read", "html", "table", "2", "of", "x", "y"]),
        ("", []),
        ("<= !?", []),
        ("图书证到期", ["图书", "书证", "证到", "到期"]),
        ("书", ["书"]),
        ("第3章 API", ["第", "3", "章", "api"]),
        ("日本語のBERTモデル", ["日本", "本語", "語の", "bert", "モデ", "デル"]),
        ("दिन, दान, दीन", ["दिन", "दान", "दीन"]),
        ("ไปไหน", ["ไป", "ปไ", "ไห", "หน"]),
        ("도서관에서 책", ["도서관에서", "책"]),
        ("Straße ÉTÉ", ["straße", "été"]),
        ("e\u0301te\u0301", ["été"]),
        ("\u0301", []),
        ("می‌خواهم", ["میخواهم"]),
        ("🙂 ok", ["ok"]),
        ("naïveModel", ["naïve", "model"]),
    ],
)
def test_words_by_hand(text: str, expected: list[str]) -> None:
    """A script whose words are not seen has no BM25, no copies and no leaks: Chinese had nDCG@10 0.180 instead of 0.961."""
    assert words(text) == expected


@given(st.text(max_size=40))
def test_however_a_character_was_typed(text: str) -> None:
    """Two keyboards compose characters differently: a query typed on one would not find what was typed on the other."""
    composed, decomposed = unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)
    assert words(composed) == words(decomposed) == [word for run in runs(text) for word in split_run(run)]


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_space_parts_words(first: str, second: str) -> None:
    """A pair of letters across a space would be a word of neither text."""
    assert words(f"{first} {second}") == words(first) + words(second)


@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_the_fast_way_for_ascii_is_the_same_way(text: str) -> None:
    """Two ways that differ would give a document other words than the same text beside one accented letter."""
    assert words(text) == words(f"{text} é")[:-1]


def test_signs_tell_queries_apart_and_unspaced_scripts_are_cut() -> None:
    """A Chinese question is one "word" between spaces: one other character, and it no longer leaks; or all signs vanish."""
    asked = "图书证到期以后在哪里续办"
    assert query_shingles(asked) == query_shingles(f" {asked}？") == query_shingles(f"「{asked}」")
    assert len(query_shingles(asked)) == 9
    assert query_shingles("x < y") != query_shingles("x <= y")
    assert has_unspaced_script("api 第") and not has_unspaced_script("दिन") and not has_unspaced_script("api")


@pytest.mark.parametrize(("name", "least"), [("xquad-en", 0.958), ("xquad-zh", 0.95), ("xquad-hi", 0.94)])
def test_bm25_on_xquad(name: str, least: float, tmp_path: Path) -> None:
    """The same questions on the same paragraphs in three scripts: a script that is not cut into words falls far behind."""
    if not (DATA / name).is_dir():
        pytest.skip("the test collections are not here")
    found = BeirSource(DATA / name).read(name)
    ids, texts = [d.doc_id for d in found.documents], [d.content for d in found.documents]
    index = LexicalCache(tmp_path).load_or_build("corpus", ids, texts)
    rankings = index.search_rows([q.text for q in found.queries], 100).rankings(ids)
    run = {q.query_id: ranking for q, ranking in zip(found.queries, rankings, strict=True)}
    qrels: dict[str, dict[str, int]] = {}
    for qrel in found.qrels:
        qrels.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    value = mean_of(evaluate_run(run, qrels), "ndcg_at_10")
    assert value >= least
