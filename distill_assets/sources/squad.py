"""SQuAD's JSON: `squad:PATH`, one file or a folder. `data[].paragraphs[].qas[]`, as XQuAD, COVID-QA and GermanQuAD have it.

A context is a document with its article's title, a question that it answers is a query. Questions without an answer
(SQuAD 2.0's impossible ones) have no document to find. They are left out and counted.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_assets.errors import SourceError
from distill_assets.records import Document, Qrel, hash_text
from distill_assets.sources.base import AskedQuery, Options, Parts, split_of_name
from distill_assets.sources.file_sets import FileSet, list_files
from distill_assets.sources.files import malformed, opened
from distill_assets.sources.row_files import read_json

_BEGINS = re.compile(rb'\s*\{.{0,65536}"paragraphs"\s*:', re.DOTALL)
_HEAD = 65_536  # bytes. Articles begin within them; a file of one long article is named by squad:PATH itself


@dataclass(frozen=True)
class SquadFiles(FileSet):
    """One file of SQuAD's form, or a folder of them. Files named after train, dev and test are splits."""

    scheme, version = "squad", "1"

    def read(self) -> Parts:
        """Read the files; each is held in memory as a whole, because it is one JSON value.

        Raises:
            MalformedRecordError: a file is not of the form.
            SourceError: there is no such file.
        """
        files = [path for path in list_files(self.path) if path.name.casefold().endswith((".json", ".json.gz"))]
        self.require_any(files, {}, "JSON files of SQuAD's form")
        documents: dict[str, Document] = {}
        queries: dict[str, AskedQuery] = {}
        qrels: dict[Qrel, None] = {}
        judged, unread = [], dict[str, str]()
        for path in files:
            asked, num_impossible = set[str](), 0
            for title, context, question in _questions(path):
                document = Document(hash_text(f"{title}\n{context}"), title, context)
                documents.setdefault(document.doc_id, document)
                if question is None:
                    continue
                if not question.get("answers") or question.get("is_impossible"):
                    num_impossible += 1
                    continue
                query = AskedQuery(str(question["id"]), question["question"].strip())
                if queries.setdefault(query.query_id, query) != query:
                    raise malformed(path, 1, f"one question under the id {query.query_id}", query.text)
                asked.add(query.query_id)
                qrels[Qrel(query.query_id, document.doc_id, 1)] = None
            judged.append((split_of_name(path.name), asked))
            if num_impossible:
                unread[f"{self.name_of(path)}: {num_impossible:,} questions"] = (
                    "no context answers them, as the file says"
                )
        return Parts(list(documents.values()), list(queries.values()), list(qrels), judged, unread=unread)


def _questions(path: Path) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Title, context and question; None once for each context, so that one without a question is a document as well."""
    found = read_json(path)
    try:
        for article in found["data"]:
            for paragraph in article["paragraphs"]:
                title, context = str(article.get("title", "")).replace("_", " "), paragraph["context"]
                yield title, context, None
                for question in paragraph["qas"]:
                    _ = question["id"], question["question"].strip()
                    yield title, context, question
    except (KeyError, TypeError, AttributeError) as error:
        told = f"SQuAD's data[].paragraphs[] of context and qas[] of id, question and answers ({error} is missing or of another kind)"
        raise malformed(path, 1, told, str(found)) from error


def open_squad(rest: str, options: Options) -> SquadFiles:
    """The reader of `squad:PATH`."""
    return SquadFiles(Path(rest).expanduser().resolve())


def recognise(folder: Path) -> SquadFiles | None:
    """The reader of a folder of an inbox whose JSON files have paragraphs."""
    try:
        files = [path for path in list_files(folder) if path.name.casefold().endswith(".json")]
        return SquadFiles(folder) if files and all(map(_has_paragraphs, files)) else None
    except SourceError:
        return None


def _has_paragraphs(path: Path) -> bool:
    with opened(path) as file:
        return _BEGINS.match(file.read(_HEAD)) is not None
