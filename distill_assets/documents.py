"""The documents of one batch in a file of their own: there may be more than memory holds.

The file is in the folder of temporary files (TMPDIR), and is deleted with the last reference to it, at the latest when the process
ends. It holds the rows of the table `corpus`, so that the warehouse takes them as they are.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distill_assets.records import Document, Documents, fingerprint_each, hash_text
from distill_assets.spilling import enough_space, scratch, temporary_folder

_WHAT = "the documents of a batch"
_SCHEMA = pa.schema([(name, pa.large_string()) for name in ("doc_id", "title", "text", "content_hash")])
_ROWS, _CHARACTERS = 20_000, 8_000_000  # of one write: 10 to 30 MB of memory
# `fingerprint` of a row in SQL: before each value the number of its bytes, as 8 bytes, the lowest first. Most values are short.
_LENGTH = (
    r"CASE WHEN strlen({0}) < 128 THEN encode(chr(strlen({0})::INTEGER)) || '\x00\x00\x00\x00\x00\x00\x00'::BLOB ELSE "
    "unhex(printf('%02x%02x%02x%02x00000000', strlen({0}) & 255, "
    "strlen({0}) >> 8 & 255, strlen({0}) >> 16 & 255, strlen({0}) >> 24)) END"
)
_ROW = " || ".join(f"{_LENGTH.format(name)} || encode({name})" for name in sorted(_SCHEMA.names))


class StoredDocuments:
    """Documents in a Parquet file; they can be gone through more than once.

    Attributes:
        path: the file, with the columns doc_id, title, text and content_hash.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        """Write the file.

        Raises:
            NoSpaceError: the disk is full, or memory is.
        """
        folder = ExitStack()
        self.path = folder.enter_context(temporary_folder("distill-documents-")) / "documents.parquet"
        self._delete = weakref.finalize(self, folder.close)
        try:
            with enough_space(self.path, _WHAT):
                self._count = _write(self.path, documents)
        except BaseException:
            self._delete()
            raise

    def __len__(self) -> int:
        """Number of documents."""
        return self._count

    def __iter__(self) -> Iterator[Document]:
        """The documents, in the order in which they were read."""
        for batch in pq.ParquetFile(self.path).iter_batches(_ROWS // 10, columns=["doc_id", "title", "text"]):
            yield from map(Document, *(column.to_pylist() for column in batch.columns))

    def __eq__(self, other: object) -> bool:
        """Equal to every sequence of the same documents in the same order."""
        return isinstance(other, Sequence | StoredDocuments) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def version(self) -> str:
        """Data version of these rows in the table `corpus`: that of the same rows in any order (`records.fingerprint_rows`)."""
        sql = f"SELECT sha256({_ROW})[1:32] AS row FROM documents ORDER BY row"
        return fingerprint_each(row for (row,) in self._select(sql))

    def rows(self, count: int) -> list[dict[str, str]]:
        """The first rows as they are stored."""
        return next((b.to_pylist() for b in pq.ParquetFile(self.path).iter_batches(count)), [])

    def sample(self, count: int) -> list[Document]:
        """So many documents, chosen by the hash of their content, sorted by it."""
        sql = f"SELECT doc_id, title, text FROM documents ORDER BY content_hash, doc_id LIMIT {count}"
        return [Document(*row) for row in self._select(sql)]

    def repeated_ids(self, others: Sequence[str] = ()) -> tuple[int, str]:
        """How many ids occur more than once, among these and `others` together, and the first of them; empty where none does."""
        every = "SELECT doc_id FROM documents UNION ALL SELECT unnest($others::VARCHAR[])"
        repeated = f"SELECT doc_id FROM ({every}) GROUP BY doc_id HAVING count(*) > 1"
        sql = f"SELECT count(*), coalesce(min(doc_id), '') FROM ({repeated})"
        (found,) = self._select(sql, {"others": list(others)})
        return found[0], found[1]

    def _select(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Iterator[tuple[Any, ...]]:
        with enough_space(self.path, _WHAT), scratch(self.path.parent) as connection:
            connection.read_parquet(str(self.path)).create_view("documents")
            rows = connection.execute(sql, parameters or {})
            while found := rows.fetchmany(_ROWS):
                yield from found


def stored(documents: Documents) -> StoredDocuments:
    """These documents as a file; themselves where they are one."""
    return documents if isinstance(documents, StoredDocuments) else StoredDocuments(documents)


def sample(documents: Documents, count: int) -> list[Document]:
    """All documents in their order; of more than `count` so many, chosen by the hash of their content and sorted by it."""
    return list(documents) if len(documents) <= count else stored(documents).sample(count)


def _write(path: Path, documents: Iterable[Document]) -> int:
    num_written = 0
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd", use_dictionary=False) as writer:
        for chunk in _chunks(documents):
            rows = [(d.doc_id, d.title, d.text, hash_text(d.content)) for d in chunk]
            writer.write_batch(
                pa.record_batch([pa.array(c, pa.large_string()) for c in zip(*rows, strict=True)], schema=_SCHEMA)
            )
            num_written += len(chunk)
    return num_written


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk, size = list[Document](), 0
    for document in documents:
        chunk.append(document)
        size += len(document.text)
        if len(chunk) == _ROWS or size > _CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
