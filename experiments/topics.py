"""A collection of topics, made from installed packages: a query has dozens of judged documents, and few of them look like it.

A query is the first sentence of a module's or class's docstring; every documented function or method in it is relevant. A document
is a function's own name, signature and first sentence, without the path that would give its topic away. On such collections a
student that learns from any judged document becomes worse than the untouched one (docs/results.md).
"""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from distill_assets.errors import SourceError
from distill_assets.records import Document, assign_split, hash_text
from distill_assets.sources import python_api

_MIN_WORDS, _MAX_WORDS = 4, 40


def write_topics(folder: Path, packages: Sequence[str], *, min_members: int = 6) -> Path:
    """Write a BEIR folder of the topics with at least `min_members` documents. Splits are hashed from the query.

    Raises:
        SourceError: a package is not installed, or no package has a topic.
    """
    documents: dict[str, Document] = {}
    topics: dict[str, set[str]] = {}
    for package in packages:
        entries = python_api.read_entries(package)
        own: dict[str, set[str]] = {}
        for sentence, names in _topics_of(package, entries, min_members):
            own.setdefault(sentence, set()).update(names)
        owners = {name for name, entry in entries.items() if entry.summary.rstrip(".") in own}
        documents |= {
            name: Document(name, "", f"{name.rsplit('.', 1)[1]}{entry.signature} {entry.summary}")
            for name, entry in entries.items()
            if name not in owners
        }
        topics |= {sentence: topics.get(sentence, set()) | (names - owners) for sentence, names in own.items()}
    topics = {sentence: names for sentence, names in topics.items() if len(names) >= min_members}
    if not topics:
        raise SourceError(f"{', '.join(packages)}: no module or class has {min_members} documented members")
    _write(folder, documents, topics)
    return folder


def _topics_of(
    package: str, entries: Mapping[str, python_api.Entry], min_members: int
) -> Iterator[tuple[str, set[str]]]:
    """(first sentence, documents) of every module and class of a package that has enough of them."""
    found = [
        (entry.summary, {other for other in entries if other.startswith(f"{name}.")}) for name, entry in entries.items()
    ]
    for tree, members in python_api.read_modules(package):
        summary = python_api.first_sentence(ast.get_docstring(tree) or "")
        found.append((summary, {entry.qualified_name for entry in members} & entries.keys()))
    for sentence, names in found:
        if len(names) >= min_members and _MIN_WORDS <= len(sentence.split()) <= _MAX_WORDS:
            yield sentence.rstrip("."), names


def _write(folder: Path, documents: Mapping[str, Document], topics: Mapping[str, set[str]]) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "corpus.jsonl", [{"_id": d.doc_id, "text": d.text} for _, d in sorted(documents.items())])
    id_of = {sentence: hash_text(sentence)[:12] for sentence in sorted(topics)}
    _write_lines(folder / "queries.jsonl", [{"_id": query_id, "text": text} for text, query_id in id_of.items()])
    for split in ("train", "dev", "test"):
        chosen = [sentence for sentence in id_of if assign_split(sentence) == split]
        rows = [f"{id_of[sentence]}\t{doc_id}\t1" for sentence in chosen for doc_id in sorted(topics[sentence])]
        text = "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")


def _write_lines(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
