"""The embedding store: one vector per (encoder fingerprint, text hash), memory-mapped, appended to and never rewritten.

Each encoder has a folder: `vectors.f32` (row-major little-endian float32), `hashes.bin` (16 bytes a row) and `meta.json` (dimension).
Vectors are flushed before their hashes, so a hash on disk always has its vector. Readers ignore what a crash leaves past the
shorter of the two files, and the next append cuts it.

Limit: the hashes of one encoder are held in a dict, about 180 MB per million texts.
"""

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distill_assets.errors import NonFiniteError, ShapeError, WarehouseError
from distill_assets.storage.folders import flush_folder, read_json_object, require_folder_name, write_json

_HASH_BYTES = 16
_FLOAT = np.dtype("<f4")
_COPIED = 8192  # vectors that are copied at once from a former store


@dataclass
class EmbeddingStore:
    """Vectors by content. Several processes may read and append at once; vectors are stored as given.

    Attributes:
        former: where vectors were kept before. Those that `missing` finds there are copied.
    """

    root: Path
    former: "EmbeddingStore | None" = None
    _shards: "dict[str, _Shard]" = field(default_factory=dict, init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def missing(self, fingerprint: str, text_hashes: Sequence[str]) -> list[str]:
        """The distinct hashes that this encoder has no vector for, in order of first appearance."""
        with self._lock:
            rows = self._shard(fingerprint).refresh()
            lacking = [h for h in dict.fromkeys(text_hashes) if _to_bytes(h) not in rows]
            if self.former is None or not lacking:
                return lacking
            nowhere = set(self.former.missing(fingerprint, lacking))
            there = [h for h in lacking if h not in nowhere]
            for start in range(0, len(there), _COPIED):
                part = there[start : start + _COPIED]
                self.append(fingerprint, part, self.former.view(fingerprint, part)[:])
            return [h for h in lacking if h in nowhere]

    def append(self, fingerprint: str, text_hashes: Sequence[str], vectors: np.ndarray) -> None:
        """Store `vectors` (len(text_hashes), dimension); hashes that are there already are skipped.

        Raises:
            ShapeError: not one row per hash, or another dimension than this encoder's vectors have.
            NonFiniteError: a NaN or an infinity; nothing is written then.
        """
        values = _check_vectors(text_hashes, vectors)
        if not len(values):
            return
        with self._lock:
            shard = self._shard(fingerprint)
            with shard.locked():
                shard.require_dimension(values.shape[1])
                known = shard.refresh()
                new: dict[bytes, int] = {}
                for position, key in enumerate(map(_to_bytes, text_hashes)):
                    if key not in known:
                        new.setdefault(key, position)
                if new:
                    shard.write(list(new), values[list(new.values())])

    def view(self, fingerprint: str, text_hashes: Sequence[str]) -> "StoredVectors":
        """The vectors in the order asked, (len(text_hashes), dimension); rows are read from the memory-mapped file when asked for.

        Raises:
            WarehouseError: some are not stored; says how many.
        """
        with self._lock:
            shard = self._shard(fingerprint)
            rows = shard.refresh()
            found = np.array([rows.get(_to_bytes(h), -1) for h in text_hashes], dtype=np.int64)
            num_missing = np.count_nonzero(found < 0)
            if num_missing:
                raise WarehouseError(
                    f"embeddings: {num_missing} of {len(found)} texts have no vector of encoder {fingerprint!r}; "
                    "expected all: encode those that missing() names, append them, and read again"
                )
            return StoredVectors(shard.map(), found)

    def _shard(self, fingerprint: str) -> "_Shard":
        require_folder_name(fingerprint, "fingerprint")
        return self._shards.setdefault(fingerprint, _Shard(self.root / fingerprint))


class StoredVectors:
    """A view of some rows of one encoder's file, in the caller's order. Nothing is loaded until rows are read.

    Texts that were appended in that order are neighbours in the file, so a slice of them is read in one go.
    """

    def __init__(self, stored: np.ndarray, rows: np.ndarray) -> None:
        self._stored, self._rows = stored, rows
        self._is_run = bool(len(rows)) and bool((np.diff(rows) == 1).all())

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dimension)."""
        return len(self._rows), self._stored.shape[1]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: "slice | np.ndarray") -> np.ndarray:
        """A copy of the vectors at these places, float32."""
        if self._is_run and isinstance(key, slice) and key.step in (None, 1):
            start, stop, _ = key.indices(len(self._rows))
            return np.array(self._stored[self._rows[0] + start : self._rows[0] + max(start, stop)], dtype=np.float32)
        return np.asarray(self._stored[self._rows[key]], dtype=np.float32)


@dataclass
class _Shard:
    """The folder of one encoder, and what was last read of it."""

    folder: Path
    dimension: int | None = None
    rows: dict[bytes, int] = field(default_factory=dict)
    num_rows: int = 0

    def __post_init__(self) -> None:
        self.vectors_path, self.hashes_path = self.folder / "vectors.f32", self.folder / "hashes.bin"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other appending processes. The kernel frees the lock when a process dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def require_dimension(self, dimension: int) -> None:
        """Under the lock: fix the dimension at the first append, refuse another one later."""
        stored = self._read_dimension()
        if stored is None:
            write_json(self.folder / "meta.json", {"dimension": dimension})
        elif stored != dimension:
            raise ShapeError(
                f"vectors have dimension {dimension}, the vectors of {self.folder.name} have {stored}: "
                "one fingerprint is one encoder; give another model its own fingerprint"
            )

    def refresh(self) -> dict[bytes, int]:
        """Row by hash, with what other processes appended since."""
        dimension = self._read_dimension()
        num_hashes, num_bytes = _size(self.hashes_path) // _HASH_BYTES, _size(self.vectors_path)
        num_rows = min(num_hashes, num_bytes // (dimension * _FLOAT.itemsize)) if dimension else 0
        if num_rows < self.num_rows:  # the folder was removed and begun again
            self.rows, self.num_rows = {}, 0
        if num_rows > self.num_rows:
            with self.hashes_path.open("rb") as file:
                file.seek(self.num_rows * _HASH_BYTES)
                data = file.read((num_rows - self.num_rows) * _HASH_BYTES)
            for offset in range(0, len(data), _HASH_BYTES):
                self.rows.setdefault(data[offset : offset + _HASH_BYTES], self.num_rows + offset // _HASH_BYTES)
            self.num_rows = num_rows
        return self.rows

    def write(self, hashes: list[bytes], vectors: np.ndarray) -> None:
        """Under the lock, after `refresh`: cut a torn tail, then append vectors and, once they are on disk, hashes."""
        row_bytes = vectors.shape[1] * _FLOAT.itemsize
        if _size(self.hashes_path) > self.num_rows * _HASH_BYTES:
            # First: beside the new vectors another process would read the hashes whose vectors were lost.
            _append_at(self.hashes_path, self.num_rows * _HASH_BYTES, b"")
        _append_at(self.vectors_path, self.num_rows * row_bytes, vectors.astype(_FLOAT).tobytes())
        _append_at(self.hashes_path, self.num_rows * _HASH_BYTES, b"".join(hashes))
        flush_folder(self.folder)
        self.refresh()

    def map(self) -> np.ndarray:
        """The vectors that are complete, memory-mapped."""
        if not self.num_rows:
            return np.empty((0, self.dimension or 0), dtype=np.float32)
        return np.memmap(self.vectors_path, dtype=_FLOAT, mode="r", shape=(self.num_rows, self.dimension or 0))

    def _read_dimension(self) -> int | None:
        meta = read_json_object(self.folder / "meta.json")
        self.dimension = int(meta["dimension"]) if meta else None
        return self.dimension


def _check_vectors(text_hashes: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    values = np.asarray(vectors, dtype=np.float32)
    if values.ndim != 2 or len(values) != len(text_hashes) or (len(values) and not values.shape[1]):
        raise ShapeError(
            f"got vectors of shape {values.shape} for {len(text_hashes)} hashes, expected one row each: "
            "otherwise texts would get each other's vectors"
        )
    num_bad = int((~np.isfinite(values)).any(axis=1).sum())
    if num_bad:
        raise NonFiniteError(
            f"{num_bad} of {len(values)} vectors hold a NaN or an infinity, expected finite numbers; "
            "nothing was stored; check the encoder"
        )
    return values


def _to_bytes(text_hash: str) -> bytes:
    try:
        key = bytes.fromhex(text_hash)
    except ValueError:
        key = b""
    if len(key) != _HASH_BYTES:
        raise WarehouseError(f"{text_hash!r} is not a text hash: expected the 32 hex digits of records.hash_text")
    return key


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _append_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(offset)  # cuts what a crash left behind the last complete row
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
