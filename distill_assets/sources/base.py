"""The interface of a source, and the checks that every collection must pass whatever it comes from."""

import re
from collections import Counter
from collections.abc import Iterable, Set
from typing import Protocol

from distill_assets.errors import SourceError, UnknownBatchError, UnknownJudgementError
from distill_assets.records import Collection, Document, Qrel, Query

_MAX_READS = 5
_MAX_BLANK_SHARE = 0.05
_BATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Source(Protocol):
    """A named collection that arrives in batches. Hashable: equal sources read the same things."""

    def __hash__(self) -> int:
        """Sources are frozen values."""
        ...

    @property
    def name(self) -> str:
        """What the leaderboard calls the collection."""
        ...

    @property
    def is_inbox(self) -> bool:
        """Whether batches arrive here one by one, so that a broken one must not hold up the others."""
        ...

    def batches(self) -> list[str]:
        """Names of the batches that are there now, sorted."""
        ...

    def refused(self) -> dict[str, str]:
        """What lies among the batches and can never be one, with the reason: a folder with an impossible name, say."""
        ...

    def look(self, batch: str) -> str | None:
        """Changes with every write to the batch; None where the batch is known to be complete. Opens no file.

        A batch that changes between two looks is still being copied. Only what reads by itself waits for two equal looks, the
        sensor `new_batches`: who starts a run by hand says that the batches are complete, and they are read at once.
        """
        ...

    def fingerprint(self, batch: str) -> str:
        """Changes when, and only when, reading the batch would give something else. Cheap: it parses nothing.

        A batch of an inbox that cannot be read has one, too: it stays while nothing changes and `read` would fail again.
        """
        ...

    def read(self, batch: str) -> Collection:
        """Read one batch. Raises `SourceError` with what, where and the next step."""
        ...


def read_settled(source: Source, batch: str) -> tuple[Collection, str]:
    """Read one batch, and return it with the fingerprint of exactly what was read.

    A batch that moved while it was read is read again: its parts may come from before and after the change.

    Raises:
        SourceError: the batch cannot be read, and did not change while that was found out; or it changed during each of 5
            readings.
    """
    key = source.fingerprint(batch)
    for _ in range(_MAX_READS):
        found: Collection | SourceError
        try:
            found = source.read(batch)
        except SourceError as error:
            found = error  # of a half-written line, say: it counts if the line is still the same
        before, key = key, source.fingerprint(batch)
        if key != before:
            continue
        if isinstance(found, SourceError):
            raise found
        return found, key
    raise SourceError(
        f"batch {batch!r} of {source.name} changed during each of {_MAX_READS} readings; expected a batch that is complete: "
        "start again when nothing writes to it any more, or copy it under a hidden name and rename it"
    )


def require_batch_name(name: str) -> str:
    """Return `name` if it may name a batch, else raise `UnknownBatchError`.

    Batch names become partition keys, folder names and SQL parameters; slashes, `..`, quotes and control
    characters are refused so that none of those can be steered by a file name.
    """
    if not _BATCH_NAME.fullmatch(name) or ".." in name:
        raise UnknownBatchError(
            f"{name!r} cannot name a batch: expected 1 to 100 letters, digits, '.', '_' or '-', starting with a letter "
            "or digit and without '..'; rename the folder or package"
        )
    return name


def require_known_batch(name: str, known: Iterable[str]) -> str:
    """Return `name` if the source has that batch, else raise `UnknownBatchError` that lists those it has."""
    names = sorted(known)
    if require_batch_name(name) not in names:
        raise UnknownBatchError(f"no batch {name!r}: the source has {', '.join(names) or 'none'}")
    return name


def check_collection(
    documents: list[Document], queries: list[Query], qrels: list[Qrel], *, where: str, max_unknown_share: float
) -> Collection:
    """Refuse duplicate ids; drop blank texts, up to 5 %, and judgements of unknown ids, up to `max_unknown_share` of them.

    `qrels` are checked against the documents (queries) of this batch only when the batch has documents (queries) of its own:
    a batch that brings queries alone is judged against the corpus that stands already, one that brings judgements alone
    judges the queries that stand already.

    Raises:
        SourceError: an id occurs twice, or too many texts are blank.
        UnknownJudgementError: the share of judgements that name an unknown id is above `max_unknown_share`.
    """
    _require_unique(where, "document", (document.doc_id for document in documents))
    _require_unique(where, "query", (query.query_id for query in queries))
    with_text = [document for document in documents if document.content.strip()]
    asked = [query for query in queries if query.text.strip()]
    blank = {d.doc_id for d in documents if not d.content.strip()}, {q.query_id for q in queries if not q.text.strip()}
    _require_few_blank(where, "document", blank[0], len(documents))
    _require_few_blank(where, "query", blank[1], len(queries))
    about_text = [q for q in qrels if q.doc_id not in blank[0] and q.query_id not in blank[1]]
    kept = _drop_unknown(with_text, asked, about_text, where=where, max_unknown_share=max_unknown_share)
    return Collection(with_text, asked, kept, len(qrels) - len(kept), sum(map(len, blank)))


def _require_unique(where: str, kind: str, ids: Iterable[str]) -> None:
    repeated = sorted(key for key, count in Counter(ids).items() if count > 1)
    if repeated:
        raise SourceError(
            f"{where}: {len(repeated)} {kind} ids occur more than once, first {repeated[0]!r}: "
            "ids must be unique within a batch; remove or rename the repeats"
        )


def _require_few_blank(where: str, kind: str, blank: Set[str], num_texts: int) -> None:
    """An encoder has nothing to read in a blank text. FiQA and Cranfield have some as published; many are a wrong field."""
    if len(blank) > _MAX_BLANK_SHARE * num_texts:
        raise SourceError(
            f"{where}: {len(blank)} of {num_texts} {kind} texts are blank, first id {min(blank)!r}; expected a share of "
            f'{_MAX_BLANK_SHARE:.0%} at most, which is dropped: is the text under another key than "text"? Remove the records, or give '
            "them text"
        )


def _drop_unknown(
    documents: list[Document], queries: list[Query], qrels: list[Qrel], *, where: str, max_unknown_share: float
) -> list[Qrel]:
    doc_ids = {document.doc_id for document in documents}
    query_ids = {query.query_id for query in queries}
    kept = [q for q in qrels if (not query_ids or q.query_id in query_ids) and (not doc_ids or q.doc_id in doc_ids)]
    num_unknown = len(qrels) - len(kept)
    if qrels and num_unknown / len(qrels) > max_unknown_share:
        kept_set = set(kept)
        first = next(q for q in qrels if q not in kept_set)
        raise UnknownJudgementError(
            f"{where}: {num_unknown} of {len(qrels)} judgements name an unknown query or document, first "
            f"({first.query_id!r}, {first.doc_id!r}); allowed is a share of {max_unknown_share:g} "
            "(setting max_unknown_qrels). Check that corpus, queries and qrels belong together"
        )
    return kept
