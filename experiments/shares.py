"""A collection as somebody sees it who has judged a share of the train queries alone."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from distill_assets.handles.collection import CollectionHandle
from distill_assets.handles.project import Project
from distill_assets.models.cross_fitting import query_key
from distill_assets.records import Collection, fingerprint
from distill_assets.sources.base import Source


@dataclass(frozen=True)
class LabelShare:
    """A source without the judgements of some train queries; the queries stay, as ones that nobody judged.

    Which queries keep theirs is decided by a hash of the text: a larger share only adds, and one sentence in two batches is kept
    or hidden in both.
    """

    whole: Source
    share: float

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.whole.name

    @property
    def is_inbox(self) -> bool:
        """As the whole source."""
        return self.whole.is_inbox

    def batches(self) -> list[str]:
        """As the whole source."""
        return self.whole.batches()

    def refused(self) -> dict[str, str]:
        """As the whole source."""
        return self.whole.refused()

    def look(self, batch: str) -> str | None:
        """As the whole source."""
        return self.whole.look(batch)

    def fingerprint(self, batch: str) -> str:
        """Changes with the share, and with every batch: another one may bring the query that this one judges."""
        return fingerprint(batch, self.share, *((b, self.whole.fingerprint(b)) for b in self.batches()))

    def read(self, batch: str) -> Collection:
        """The batch without the hidden judgements."""
        hidden = _hidden_queries(self.whole, self.share, self.fingerprint(batch))
        found = self.whole.read(batch)
        return replace(found, qrels=[qrel for qrel in found.qrels if qrel.query_id not in hidden])


@lru_cache(maxsize=2)
def _hidden_queries(whole: Source, share: float, content: str) -> frozenset[str]:
    """Ids of the train queries whose judgements are hidden; `content` says of which state of the source."""
    queries = {query.query_id: query for batch in whole.batches() for query in whole.read(batch).queries}
    train = (query for query in queries.values() if query.split == "train")
    return frozenset(query.query_id for query in train if _place(query.text) >= share)


def _place(text: str) -> float:
    """Where a query's text stands in [0, 1), independent of its fold."""
    return int(fingerprint("share of labels", query_key(text))[:8], 16) / 16**8


@dataclass(eq=False)
class StudyProject(Project):
    """A project whose line sees a share of the train labels."""

    share: float = 1.0

    @cached_property
    def collection(self) -> CollectionHandle:
        """The source and what was read from it."""
        whole = super().collection
        return whole if self.share == 1 else replace(whole, source=LabelShare(whole.source, self.share))
