"""The embedding store: each text encoded once, each hash with its own vector, whatever a crash leaves behind."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_assets.errors import NonFiniteError, ShapeError, WarehouseError
from distill_assets.records import hash_text
from distill_assets.storage import embeddings
from distill_assets.storage.embeddings import EmbeddingStore

A, B, C, D = (hash_text(letter) for letter in "abcd")


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    """An empty store."""
    return EmbeddingStore(tmp_path / "embeddings")


def vectors(*rows: tuple[float, float]) -> np.ndarray:
    """Rows as float32."""
    return np.array(rows, dtype=np.float32)


def test_vectors_come_back_in_the_order_asked(store: EmbeddingStore) -> None:
    """Rows in the order of the file would give each document its neighbour's vector at plausible cosines."""
    store.append("f", [A, B], vectors((1, 2), (3, 4)))
    store.append("f", [C], vectors((5, 6)))
    gathered = EmbeddingStore(store.root).view("f", [C, A, B, A])[:]
    assert gathered.dtype == np.float32
    assert gathered.tolist() == [[5, 6], [1, 2], [3, 4], [1, 2]]
    gathered[:] = 0  # a copy: writing to it must not reach the file
    assert store.view("f", [A])[:].tolist() == [[1, 2]]


def test_a_view_reads_the_same_rows_in_any_slice(store: EmbeddingStore) -> None:
    """The fast way for neighbours in the file must not begin at the file's first row, nor reach past the view's last."""
    store.append("f", [A, B, C, D], vectors((1, 1), (2, 2), (3, 3), (4, 4)))
    for hashes, rows in (([B, C, D], [2, 3, 4]), ([D, B, B], [4, 2, 2]), ([B, C], [2, 3]), ([C], [3])):
        view = store.view("f", hashes)
        assert view.shape == (len(rows), 2) and len(view) == len(rows)
        for part in (slice(None), slice(1, None), slice(0, 9), slice(1, 2), slice(2, 1), np.array([len(rows) - 1, 0])):
            assert view[part].tolist() == [[row, row] for row in np.array(rows)[part]]
    assert store.view("f", []).shape == (0, 2)
    with pytest.raises(WarehouseError, match="1 of 1 texts have no vector"):
        store.view("f", [hash_text("unseen")])


def test_missing_is_distinct_and_in_order_of_appearance(store: EmbeddingStore) -> None:
    """A text that occurs in two batches must be encoded once."""
    store.append("f", [B], vectors((3, 4)))
    assert store.missing("f", [D, B, A, D, C, A]) == [D, A, C]
    assert store.missing("never-seen", [A, A]) == [A]


def test_two_encoders_share_nothing(store: EmbeddingStore) -> None:
    """Vectors of the untouched student under a trained one's name would evaluate the wrong model."""
    store.append("f", [A], vectors((1, 2)))
    store.append("g", [A], np.array([[7, 8, 9]], dtype=np.float32))
    assert store.view("f", [A])[:].tolist() == [[1, 2]]
    assert store.view("g", [A])[:].tolist() == [[7, 8, 9]]


@pytest.mark.parametrize(("name", "num_bytes"), [("vectors.f32", 8 + 3), ("vectors.f32", 16), ("hashes.bin", 5)])
def test_a_torn_tail_is_ignored_and_then_cut(store: EmbeddingStore, name: str, num_bytes: int) -> None:
    """A crash between the two files shifts every later row by one, if the next append goes behind the tail."""
    store.append("f", [A], vectors((1, 2)))
    with (store.root / "f" / name).open("ab") as file:
        file.write(b"\xff" * num_bytes)
    after_crash = EmbeddingStore(store.root)
    assert after_crash.missing("f", [A, B]) == [B]
    after_crash.append("f", [B], vectors((3, 4)))
    assert EmbeddingStore(store.root).view("f", [B, A])[:].tolist() == [[3, 4], [1, 2]]
    assert (store.root / "f" / "vectors.f32").stat().st_size == 2 * 2 * 4
    assert (store.root / "f" / "hashes.bin").stat().st_size == 2 * 16


def test_vectors_lost_behind_their_hashes_are_asked_for_again(store: EmbeddingStore) -> None:
    """A hash whose vector is gone must count as missing, not read past the end of the file."""
    store.append("f", [A, B], vectors((1, 2), (3, 4)))
    path = store.root / "f" / "vectors.f32"
    path.write_bytes(path.read_bytes()[:11])
    reopened = EmbeddingStore(store.root)
    assert reopened.missing("f", [A, B]) == [B]
    reopened.append("f", [C, B], vectors((5, 6), (3, 4)))
    assert reopened.view("f", [A, B, C])[:].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_what_is_stored_is_not_stored_again(store: EmbeddingStore) -> None:
    """Two runs that encode the same text at once would let the files grow for ever."""
    store.append("f", [A, A], vectors((1, 2), (9, 9)))
    store.append("f", [A, B], vectors((8, 8), (3, 4)))
    assert store.view("f", [A, B])[:].tolist() == [[1, 2], [3, 4]]
    assert (store.root / "f" / "hashes.bin").stat().st_size == 2 * 16


def test_an_open_store_sees_what_another_appends(store: EmbeddingStore) -> None:
    """A stale index would encode again what another process has just stored."""
    store.append("f", [A], vectors((1, 2)))
    EmbeddingStore(store.root).append("f", [B], vectors((3, 4)))
    assert store.missing("f", [A, B]) == []
    assert store.view("f", [B])[:].tolist() == [[3, 4]]


def test_bad_vectors_are_refused_and_nothing_is_stored(store: EmbeddingStore) -> None:
    """A stored NaN is never encoded again; a wrong dimension shifts every row that follows."""
    store.append("f", [A], vectors((1, 2)))
    with pytest.raises(NonFiniteError, match="1 of 2"):
        store.append("f", [B, C], vectors((1, 2), (float("nan"), 1)))
    with pytest.raises(ShapeError, match=r"dimension 3.* have 2"):
        store.append("f", [B], np.ones((1, 3), dtype=np.float32))
    with pytest.raises(ShapeError, match="expected one row each"):
        store.append("f", [B, C], vectors((1, 2)))
    assert store.missing("f", [A, B, C]) == [B, C]


def test_missing_vectors_are_counted_and_bad_names_refused(store: EmbeddingStore) -> None:
    """A row of zeros in place of a missing vector would rank as cosine 0."""
    store.append("f", [A], vectors((1, 2)))
    with pytest.raises(WarehouseError, match="2 of 3 texts have no vector"):
        store.view("f", [A, B, C])[:]
    with pytest.raises(WarehouseError, match="not a text hash"):
        store.missing("f", ["the text itself"])
    with pytest.raises(WarehouseError, match="cannot be the fingerprint"):
        store.missing("../elsewhere", [A])
    assert store.view("f", [])[:].shape == (0, 2)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from distill_assets.records import hash_text
from distill_assets.storage.embeddings import EmbeddingStore
store = EmbeddingStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for i in [*range(int(sys.argv[2]), 100, 2), 100]:  # one writer the even, one the odd numbers, both the last
    store.append("f", [hash_text(str(i))], np.full((1, 2), i, dtype=np.float32))
"""


def test_two_processes_do_not_interleave(store: EmbeddingStore) -> None:
    """Vectors of one process between the hashes of another would mix up texts without any error."""
    command = [sys.executable, "-c", WRITER, str(store.root)]
    pipe = subprocess.PIPE
    writers = [subprocess.Popen([*command, start], stdin=pipe, stdout=pipe, text=True) for start in ("0", "1")]
    assert [writer.stdout.readline() for writer in writers if writer.stdout] == ["ready\n", "ready\n"]
    for writer in writers:  # both have imported what they need: from here on they run side by side
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    hashes = [hash_text(str(i)) for i in range(101)]
    assert store.view("f", hashes)[:].tolist() == [[i, i] for i in range(101)]
    assert (store.root / "f" / "hashes.bin").stat().st_size == 101 * 16


def test_vectors_of_a_former_store_are_copied_and_no_others(store: EmbeddingStore, tmp_path: Path) -> None:
    """A line that begins to share would encode its corpus again, and each search until then; a text in another's row is silent."""
    store.append("f", [A, B, C], vectors((1, 2), (3, 4), (5, 6)))
    shared = EmbeddingStore(tmp_path / "shared", former=store)
    shared.append("f", [B], vectors((30, 40)))
    assert shared.missing("f", [D, C, B, C]) == [D]
    assert shared.view("f", [C, B])[:].tolist() == [[5, 6], [30, 40]]
    later = EmbeddingStore(tmp_path / "shared")
    assert later.missing("f", [A, B, C]) == [A], "what nobody asked for stays where it was"
    assert shared.missing("another", [A]) == [A] and not (tmp_path / "shared" / "another").exists()
    assert store.view("f", [A, B, C])[:].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_lost_row_is_never_read_with_another_texts_vector(
    store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk lost a vector and kept its hash: while the next one is written in its place, another process reads it for the lost one."""
    store.append("f", [A, B], vectors((1, 2), (3, 4)))
    with (store.root / "f" / "vectors.f32").open("r+b") as file:
        file.truncate(8)
    append_at, seen = embeddings._append_at, []

    def append_and_look(*arguments: Any) -> None:
        append_at(*arguments)
        seen.append(EmbeddingStore(store.root).missing("f", [B, C]))

    monkeypatch.setattr(embeddings, "_append_at", append_and_look)
    EmbeddingStore(store.root).append("f", [C], vectors((5, 6)))
    assert seen[:-1] == [[B, C]] * (len(seen) - 1) and seen[-1] == [B]
