"""A folder as TREC tools have it: `trec:PATH`, with documents, topics and judgements.

documents    *.trec, *.sgml, or a folder docs/, documents/, corpus/ or collection/: `<DOC><DOCNO>`; collection.tsv: id<TAB>text;
             JSON Lines with id and contents, as Anserini has them
topics       topics*, queries*: id<TAB>text, or `<top><num><title>`
judgements   *qrels*, or the folder qrels/: `qid 0 docid rel`; files named after train, dev and test are splits

Ranked results (`qid Q0 docid rank score tag`) are recognised and not read: what a system found is no judgement.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distill_assets.errors import SourceError
from distill_assets.records import Document
from distill_assets.sources.base import AskedQuery, Options, Parts, split_of_name
from distill_assets.sources.file_sets import DATA_ENDINGS, FileSet, list_files
from distill_assets.sources.files import Faults, iter_lines, malformed
from distill_assets.sources.pairs import iter_texts
from distill_assets.sources.parsing import is_run, read_judgements
from distill_assets.sources.row_files import ending_of, iter_rows, one_of, text_of

_OF_DOCUMENTS = ("docs", "documents", "corpus", "collection")
_OF_TOPICS = ("topics", "queries")
_SGML = (".trec", ".sgml", ".sgm", ".xml", "")
_FIELD = re.compile(r"<(title|headline|head)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"<docno>(.*?)</docno>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_TOPIC = re.compile(
    r"<num>\s*(?:number:)?\s*([^\s<]+)(?:.*?)<title>\s*(?:topic:)?\s*([^<]*)", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class TrecFolder(FileSet):
    """One folder of documents, topics and judgements."""

    scheme, version = "trec", "1"

    def endings(self) -> tuple[str, ...]:
        """Any: TREC's own files of documents have none."""
        return ("",)

    def read(self) -> Parts:
        """Read the folder.

        Raises:
            MalformedRecordError: lines are not what the format says.
            SourceError: there is nothing to read.
        """
        files = {"documents": list[Path](), "topics": list[Path](), "judgements": list[Path]()}
        unread: dict[str, str] = {}
        for path in self._data():
            kind = _kind_of(path, self.path)
            if kind in files:
                files[kind].append(path)
            elif kind:
                unread[self.name_of(path)] = kind
        self.require_any(any(files.values()), unread, "documents, topics or qrels as TREC has them")
        qrels, judged = read_judgements(files["judgements"])
        names = [split_of_name(path.name) for path in files["judgements"]]
        return Parts(
            documents=_Documents(tuple(files["documents"])),
            queries=[query for path in files["topics"] for query in _topics(path)],
            qrels=qrels,
            judged=[(name, ids) for name, (_, ids) in zip(names, judged, strict=True)],
            unread=unread,
        )


def _kind_of(path: Path, root: Path) -> str:
    """What a file holds: documents, topics or judgements; else why it is not read, empty where it does not look like data."""
    name, folders = path.name.casefold(), {part.casefold() for part in path.relative_to(root).parts[:-1]}
    if is_run(path):
        return "ranked results (qid Q0 docid rank score tag) are no judgements: remove it, or put qrels there"
    if "qrels" in name or "qrels" in folders:
        return "judgements"
    if name.startswith(_OF_TOPICS) or not folders.isdisjoint(_OF_TOPICS):
        return "topics"
    if (
        name.startswith(_OF_DOCUMENTS)
        or not folders.isdisjoint(_OF_DOCUMENTS)
        or ending_of(path) in (".trec", ".sgml", ".sgm")
    ):
        return "documents"
    if not path.name.casefold().endswith(DATA_ENDINGS):
        return ""
    return "its name says neither documents (collection*, docs/), topics (topics*, queries*) nor judgements (*qrels*): rename it"


@dataclass(frozen=True)
class _Documents:
    """The documents, read anew at each pass."""

    files: tuple[Path, ...]

    def __iter__(self) -> Iterator[Document]:
        for path in self.files:
            ending = ending_of(path)
            read: Callable[[Path], Iterator[Document]] = (
                _of_tsv if ending == ".tsv" else _of_sgml if ending in (*_SGML, ".txt") else _of_rows
            )
            yield from read(path)


def _of_tsv(path: Path) -> Iterator[Document]:
    for doc_id, text in iter_texts(path):
        yield Document(doc_id, "", text)


def _of_rows(path: Path) -> Iterator[Document]:
    faults = Faults(path)
    for number, row in iter_rows(path, faults):
        found = None
        with faults.kept():
            ids, texts = one_of(("id", "_id", "docno", "docid", "doc_id"), row), one_of(("contents", "text"), row)
            if len(ids) != 1 or len(texts) != 1:
                raise malformed(
                    path, number, "an id under id or docno, and the text under contents or text", repr(dict(row))
                )
            title = str(row.get("title") or "").strip()
            found = Document(str(row[ids[0]]).strip(), title, text_of(path, number, row, texts[0]))
        if found is not None:
            yield found
    faults.raise_any()


def _of_sgml(path: Path) -> Iterator[Document]:
    """`<DOC>` by `<DOC>`: one is held in memory. A title or headline is the title, all other text is the text."""
    for number, content in _blocks(path, "doc"):
        found = _NUMBER.search(content)
        if found is None:
            raise malformed(path, number, "<DOCNO> in each <DOC>", content)
        title = _FIELD.search(content)
        text = _NUMBER.sub(" ", content if title is None else content.replace(title[0], " ", 1))
        yield Document(found[1].strip(), "" if title is None else _plain(title[2]), _plain(text))


def _topics(path: Path) -> Iterator[AskedQuery]:
    if ending_of(path) == ".tsv":
        yield from (AskedQuery(query_id, text) for query_id, text in iter_texts(path))
        return
    for number, content in _blocks(path, "top"):
        found = _TOPIC.search(content)
        if found is None:
            raise malformed(path, number, "<num> and <title> in each <top>", content)
        yield AskedQuery(found[1], _plain(found[2]))


def _plain(text: str) -> str:
    return " ".join(_TAG.sub(" ", text).split())


def _blocks(path: Path, tag: str) -> Iterator[tuple[int, str]]:
    """Line and content of each `<tag>`...`</tag>`, whose tags begin and end a line."""
    faults, begin, lines = Faults(path), 0, list[str]()
    for number, line in iter_lines(path, faults):
        name = line.strip().casefold()
        if name.startswith(f"<{tag}>"):
            begin, lines = number, []
        lines.append(line)
        if begin and name.endswith(f"</{tag}>"):
            yield begin, "\n".join(lines)
            begin = 0
    faults.raise_any()
    if begin:
        raise malformed(path, begin, f"</{tag}> after each <{tag}>", "the end of the file")


def open_trec(rest: str, options: Options) -> TrecFolder:
    """The reader of `trec:PATH`."""
    return TrecFolder(Path(rest).expanduser().resolve())


def recognise(folder: Path) -> TrecFolder | None:
    """The reader of a folder of an inbox whose files are named as topics and judgements, or as documents and one of these."""
    try:
        kinds = {_kind_of(path, folder) for path in list_files(folder)}
    except SourceError:
        return None
    return TrecFolder(folder) if len(kinds & {"documents", "topics", "judgements"}) > 1 else None
