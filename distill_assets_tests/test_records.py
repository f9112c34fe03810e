"""Hashes and splits: literal values, because stores and splits of earlier runs depend on them."""

from collections import Counter

import pytest

from distill_assets.records import Document, assign_split, fingerprint, fingerprint_rows, hash_text


def test_content_joins_title_and_text_as_beir_does() -> None:
    """A leading space without a title is another text, with another hash and other vectors."""
    assert Document("d", "Sum", "Adds.").content == "Sum Adds."
    assert Document("d", "", "Adds.").content == "Adds."


def test_hash_text_is_sha256_cut_to_128_bits() -> None:
    """Another hash would miss every text of both stores and pay for all of them again (FIPS 180-4 test vector 'abc')."""
    assert hash_text("abc") == "ba7816bf8f01cfea414140de5dae2223"
    assert hash_text("é") != hash_text("e\u0301")


def test_fingerprint_tells_where_parts_end() -> None:
    """Plain concatenation would take ('ab', 'c') and ('a', 'bc') for one."""
    assert (
        len(
            {
                fingerprint("ab", "c"),
                fingerprint("a", "bc"),
                fingerprint("abc"),
                fingerprint("abc", ""),
                fingerprint("c", "ab"),
            }
        )
        == 5
    )
    assert fingerprint("ab", 1) == fingerprint("ab", 1)


def test_fingerprint_is_the_same_in_every_version() -> None:
    """A changed fingerprint makes every checkpoint of every user stale. SHA-256 of 8 bytes length 1, then 'a'."""
    import hashlib

    assert fingerprint("a") == hashlib.sha256(b"\x01\0\0\0\0\0\0\0a").hexdigest()[:32]


def test_fingerprint_rows_ignores_order_alone() -> None:
    """Row order comes from the reader and means nothing; a lost, doubled or changed row does."""
    rows = [("q1", "d1", 1), ("q1", "d2", 0), ("q2", "d1", 1)]
    same = fingerprint_rows(rows)
    assert fingerprint_rows(reversed(rows)) == same
    others = [
        rows[:2],
        [*rows, rows[0]],
        [("q1", "d1", 2), *rows[1:]],
        [("q1", "d1", 1), ("q1", "d1", 0), ("q2", "d2", 1)],
    ]
    assert same not in [fingerprint_rows(other) for other in others]


@pytest.mark.parametrize(
    ("key", "split"), [("numpy.sum", "train"), ("key 2", "train"), ("key 0", "dev"), ("key 9", "test")]
)
def test_assign_split_never_moves_a_query(key: str, split: str) -> None:
    """`hash()` changes per process and would move queries from test to train between two runs.

    The first 64 bits of SHA-256, big-endian, modulo 10, computed apart: 2, 7, 8 and 9.
    """
    assert assign_split(key) == split


def test_assign_split_shares() -> None:
    """A slip in the buckets would leave dev or test almost empty. 20,000 keys: 80/10/10 within one percentage point."""
    counts = Counter(assign_split(f"key {i}") for i in range(20_000))
    assert abs(counts["train"] / 20_000 - 0.8) < 0.01
    assert abs(counts["dev"] / 20_000 - 0.1) < 0.01
    assert abs(counts["test"] / 20_000 - 0.1) < 0.01
