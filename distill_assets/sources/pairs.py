"""Files of pairs and triplets, where texts stand for themselves: `pairs:PATH`, one file or a folder.

sentence-transformers'   JSON Lines, CSV, TSV or Parquet with a query, a positive, and often negatives and a label
FlagEmbedding's          JSON Lines with query, pos and neg, which are lists
MS MARCO's               *triples*.tsv without a header: query, positive, negative as texts; or their ids, with collection.tsv
                         and queries*.tsv beside

A text's id is its hash, so equal texts are one document, or one query. A negative that a column names is a judgement: not
relevant. The negatives of MS MARCO's triples are none. They were drawn from BM25's ranking, and nobody has read them: of such
unlabelled passages that a retriever ranks at the top, RocketQA found 70 % to be positive or highly relevant (arXiv 2010.08191).
They are documents, and mining finds its own negatives.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from distill_assets.errors import SourceError
from distill_assets.records import Document, Qrel, hash_text
from distill_assets.sources.base import AskedQuery, Options, Parts, split_of_name
from distill_assets.sources.file_sets import FileSet, list_files
from distill_assets.sources.files import Faults, malformed, shown
from distill_assets.sources.row_files import (
    ENDINGS,
    Row,
    ending_of,
    first_columns,
    is_table,
    iter_cells,
    iter_rows,
    one_of,
    text_of,
    whole_number_of,
)

_NEGATIVE = re.compile(r"(hard_)?neg(ative)?s?(_?[0-9]+)?", re.IGNORECASE)
_LABELS = ("label", "relevance", "score")  # the first that is there
_SCORES = ("pos_scores", "neg_scores")
_COLLECTION, _QUERIES = "collection.tsv", "queries"  # what MS MARCO's ids stand for


@dataclass(frozen=True)
class Names:
    """What the columns of the query and of its positive may be called."""

    query: tuple[str, ...] = ("anchor", "query", "question", "sentence1")
    positive: tuple[str, ...] = ("positive", "pos", "answer", "document", "passage", "response", "sentence2")

    def find(self, columns: Iterable[str]) -> tuple[str, str] | None:
        """The columns of the query and of the positive; None where there is not exactly one of each."""
        found = one_of(self.query, columns), one_of(self.positive, columns)
        return (found[0][0], found[1][0]) if len(found[0]) == len(found[1]) == 1 else None


class Told(NamedTuple):
    """A document of a row. Its text is empty where the file holds ids; its relevance is None where nobody judged it."""

    doc_id: str
    text: str
    relevance: int | None


class Judged(NamedTuple):
    """What one row says of its query."""

    query_id: str
    text: str
    documents: list[Told]


@dataclass(frozen=True)
class PairFiles(FileSet):
    """One file of pairs, or a folder of them. Files named after train, dev and test are splits."""

    names: Names = Names()

    scheme, version = "pairs", "1"

    def read(self) -> Parts:
        """Read the files.

        Raises:
            MalformedRecordError: rows without a query or positive, or with a label that is no whole number.
            SourceError: there is no file of pairs.
        """
        files, unread = self.sort_out()
        queries: dict[str, str] = {}
        relevance: dict[tuple[str, str], int] = {}
        judged = []
        for path in files:
            asked = set[str]()
            for row in self.rows(path):
                asked.add(row.query_id)
                queries.setdefault(row.query_id, row.text)
                for doc_id, _, grade in row.documents:
                    if (
                        grade is not None
                    ):  # a document that one row calls a positive and another one a negative is a positive
                        relevance[row.query_id, doc_id] = max(grade, relevance.get((row.query_id, doc_id), grade))
            judged.append((split_of_name(path.name), asked))
        return Parts(
            documents=_Documents(self, tuple(files)),
            queries=[AskedQuery(*query) for query in _with_texts(queries, files).items()],
            qrels=[Qrel(*pair, grade) for pair, grade in relevance.items()],
            judged=judged,
            unread=unread,
        )

    def sort_out(self) -> tuple[list[Path], dict[str, str]]:
        """The files of pairs; and the others, with the reason why they are not read."""
        files: list[Path] = []
        unread: dict[str, str] = {}
        for path in list_files(self.path):
            if self.is_read(path):
                files.append(path)
                if ignored := one_of(_SCORES, first_columns(path)):
                    unread[f"{self.name_of(path)}: {', '.join(ignored)}"] = (
                        "the teacher scores; import-scores takes them"
                    )
            elif path.name.casefold().endswith(self.endings()) and not _is_beside(path):
                unread[self.name_of(path)] = self.why_unread(path)
        self.require_any(files, unread, f"files of pairs, such as {self.example}")
        return files, unread

    def why_unread(self, path: Path) -> str:
        """Why a file is not one of pairs, and what to do."""
        if not is_table(path):
            return f"it is none of {', '.join(ENDINGS)}: write it as one"
        return (
            f"it needs one column of {', '.join(self.names.query)} and one of {', '.join(self.names.positive)}, and has "
            f"{', '.join(first_columns(path)) or 'no row'}: rename them"
        )

    example = 'JSON Lines of {"query": "...", "positive": "...", "negative": "..."}'

    def is_read(self, path: Path) -> bool:
        """Whether it is a file of pairs."""
        return is_table(path) and (self.names.find(first_columns(path)) is not None or _is_triples(path))

    def rows(self, path: Path) -> Iterator[Judged]:
        """Rows of one file. All faults are told together, after the last row."""
        faults = Faults(path)
        columns = self.names.find(first_columns(path))
        if columns is None:
            yield from _of_triples(path, faults)
        else:
            yield from _of_columns(path, columns, faults)
        faults.raise_any()


@dataclass(frozen=True)
class _Documents:
    """Every text once, in the order of the files. They are read anew at each pass: of a text only its hash is remembered."""

    source: PairFiles
    files: tuple[Path, ...]

    def __iter__(self) -> Iterator[Document]:
        seen = set[str]()
        for path in self.files:
            for row in self.source.rows(path):
                for doc_id, text, _ in row.documents:
                    if text and doc_id not in seen:
                        seen.add(doc_id)
                        yield Document(doc_id, "", text)
        for folder in _folders_of_ids(self.files):
            for doc_id, text in iter_texts(folder / _COLLECTION):
                yield Document(doc_id, "", text)


def _of_columns(path: Path, columns: tuple[str, str], faults: Faults) -> Iterator[Judged]:
    for number, row in iter_rows(path, faults):
        found = None
        with faults.kept():
            found = _judged(path, number, row, columns)
        if found is not None:
            yield found


def _judged(path: Path, number: int, row: Row, columns: tuple[str, str]) -> Judged:
    query, positive = columns
    text, labels = text_of(path, number, row, query), sorted(one_of(_LABELS, row), key=str.casefold)
    grade = whole_number_of(path, number, row, labels[0]) if labels else 1
    negatives = [column for column in row if _NEGATIVE.fullmatch(column) and row[column] not in (None, "", [])]
    told = [Told(hash_text(t), t, grade) for t in _texts(path, number, row, positive)]
    told += [Told(hash_text(t), t, 0) for column in negatives for t in _texts(path, number, row, column)]
    if not told:
        raise malformed(path, number, f'a text under "{positive}", or a negative', repr(dict(row)))
    return Judged(hash_text(text), text, told)


def _texts(path: Path, number: int, row: Row, column: str) -> list[str]:
    """The text of a cell, or those of the list in it."""
    cell = row.get(column)
    return [text_of(path, number, {column: t}, column) for t in (cell if isinstance(cell, list) else [cell])]


def _is_triples(path: Path) -> bool:
    """Whether it is one of MS MARCO's files of three columns without a header: only its name tells them from other tables."""
    return ending_of(path) == ".tsv" and "triples" in path.name.casefold() and len(first_columns(path)) == 3


def _is_beside(path: Path) -> bool:
    """Whether it holds the texts of ids."""
    name = path.name.casefold()
    return ending_of(path) == ".tsv" and name.startswith((_COLLECTION.partition(".")[0], _QUERIES))


def _holds_ids(path: Path) -> bool:
    return _is_triples(path) and all(cell.isdecimal() for cell in first_columns(path))


def _folders_of_ids(files: Iterable[Path]) -> list[Path]:
    return sorted({path.parent for path in files if _holds_ids(path)})


def _of_triples(path: Path, faults: Faults) -> Iterator[Judged]:
    holds_ids = _holds_ids(path)
    for number, cells in iter_cells(path, faults):
        if len(cells) != 3 or not all(cells):
            with faults.kept():
                raise malformed(
                    path, number, "three texts or ids parted by tabs: query, positive, negative", "\t".join(cells)
                )
        elif holds_ids:
            yield Judged(cells[0], "", [Told(cells[1], "", 1)])
        else:
            query, positive, other = cells
            told = [Told(hash_text(positive), positive, 1), Told(hash_text(other), other, None)]
            yield Judged(hash_text(query), query, told)


def _with_texts(queries: Mapping[str, str], files: Iterable[Path]) -> dict[str, str]:
    """The queries, those that are ids with the text that `queries*.tsv` beside gives them; without it they stay unknown."""
    beside: dict[str, str] = {}
    for folder in _folders_of_ids(files):
        found = [path for path in list_files(folder) if path.name.casefold().startswith(_QUERIES) and _is_beside(path)]
        if not found or not (folder / _COLLECTION).exists():
            raise SourceError(
                f"{shown(folder)} holds triples of ids: expected {_COLLECTION} and {_QUERIES}*.tsv beside, lines of id and text parted "
                "by a tab; put them there"
            )
        beside |= {key: text for path in found for key, text in iter_texts(path) if key in queries}
    return {key: text or beside[key] for key, text in queries.items() if text or key in beside}


def iter_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Id and text of every line `id<TAB>text`. Raises `MalformedRecordError`."""
    faults = Faults(path)
    for number, cells in iter_cells(path, faults):
        if len(cells) == 2 and cells[0]:
            yield cells[0], cells[1]
            continue
        with faults.kept():
            raise malformed(path, number, "an id and a text parted by a tab", "\t".join(cells))
    faults.raise_any()


def open_pairs(rest: str, options: Options) -> PairFiles:
    """The reader of `pairs:PATH`."""
    return PairFiles(Path(rest).expanduser().resolve())


def recognise(folder: Path) -> PairFiles | None:
    """The reader of a folder of an inbox that holds pairs under names of columns; triples without a header are not guessed."""
    found = PairFiles(folder)
    try:
        files = list_files(folder)
    except SourceError:
        return None
    return found if any(is_table(path) and found.names.find(first_columns(path)) for path in files) else None
