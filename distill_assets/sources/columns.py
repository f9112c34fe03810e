"""The columns that a table of documents, queries, judgements or clicks has, and which of a table's own columns they are.

Settings are checked against them, so this loads without pyarrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from distill_assets.errors import SourceError

# Pairs and a source bring a whole batch, from assets of a team (`sources/upstream.py`); settings describe the other parts.
Part = Literal["documents", "queries", "judgements", "clicks", "pairs", "source"]
PARTS: tuple[Part, ...] = ("documents", "queries", "judgements", "clicks")
# Column of a part -> whether it must be there. Without `relevance` a judgement is positive, grade 1.
COLUMNS: dict[Part, dict[str, bool]] = {
    "documents": {"doc_id": True, "title": False, "text": True},
    "queries": {"query_id": True, "text": True, "split": False, "group": False},
    "judgements": {"query_id": True, "doc_id": True, "relevance": False, "split": False},
    "clicks": {"query_id": False, "query": False, "doc_id": True, "shown": True, "clicked": True},
    "pairs": {"query": True, "positive": True, "negative": False},
    "source": {},
}


@dataclass(frozen=True)
class Origin:
    """Where the rows of one part come from, and which of their columns is what.

    Attributes:
        name: what errors call it.
        setting: the setting that holds the column map.
        columns: our column -> theirs, where the names differ.
    """

    part: Part
    name: str
    setting: str
    columns: Mapping[str, str] = field(default_factory=dict)

    def find(self, there: Sequence[str]) -> dict[str, str]:
        """Our columns that are there, each with the name it has there. Raises `SourceError` for a missing one."""
        found: dict[str, str] = {}
        for ours, is_needed in COLUMNS[self.part].items():
            theirs = self.columns.get(ours, ours)
            if theirs in there:
                found[ours] = theirs
            elif is_needed or ours in self.columns:
                near = get_close_matches(theirs, there, 1)
                guess = f" (did you mean {near[0]!r}?)" if near else ""
                raise SourceError(
                    f"{self.name} has no column {theirs!r} for {ours}{guess}: it has {', '.join(there)}; say in {self.setting} "
                    f"which of them is {ours}"
                )
        return found


def fault_of_columns(part: Part, columns: Mapping[str, str]) -> str | None:
    """What is wrong with the keys of a column map; None where each is a column of ours."""
    unknown = sorted(set(columns) - set(COLUMNS[part]))
    if not unknown:
        return None
    return f"names {', '.join(unknown)}: a column map goes from our names ({', '.join(COLUMNS[part])}) to those"
