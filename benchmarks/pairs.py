"""Real pairs to score: each query with documents that share words with it, as candidates of a first stage would."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np


def load_pairs(data: Path | None, num_pairs: int, per_query: int = 20) -> tuple[list[tuple[str, str]], list[int]]:
    """(query, document) texts and the number of neighbouring pairs of each query; always the same for the same data."""
    queries, documents = _read_beir(data) if data else _read_packages()
    index = _index(documents)
    pairs: list[tuple[str, str]] = []
    groups: list[int] = []
    generator = np.random.default_rng(7)
    for number in range(num_pairs // per_query):
        query = queries[number % len(queries)]
        candidates = _candidates(query, index, len(documents), per_query, generator)
        pairs += [(query, documents[row]) for row in candidates]
        groups.append(len(candidates))
    return pairs, groups


def _index(documents: list[str]) -> dict[str, list[int]]:
    index: dict[str, list[int]] = defaultdict(list)
    for row, document in enumerate(documents):
        for word in set(document.lower().split()):
            index[word].append(row)
    return index


def _candidates(
    query: str, index: dict[str, list[int]], num_documents: int, count: int, generator: np.random.Generator
) -> list[int]:
    shared: Counter[int] = Counter()
    for word in set(query.lower().split()):
        rows = index.get(word, [])
        if 0 < len(rows) < num_documents / 20:  # a word of every twentieth document says little
            for row in rows:
                shared[row] += 1
    best = [row for row, _ in sorted(shared.items(), key=lambda item: (-item[1], item[0]))[: count // 2]]
    others = generator.choice(num_documents, size=2 * count, replace=False).tolist()
    return [*best, *(row for row in others if row not in best)][:count]


def _read_beir(folder: Path) -> tuple[list[str], list[str]]:
    documents = [_content(record) for record in _lines(folder / "corpus.jsonl")]
    return [record["text"] for record in _lines(folder / "queries.jsonl")], documents


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _content(record: dict[str, Any]) -> str:
    return f"{record['title']} {record['text']}" if record.get("title") else record["text"]


def _read_packages() -> tuple[list[str], list[str]]:
    from distill_assets.sources.python_api import PythonApiSource

    source = PythonApiSource(("numpy", "pandas"))
    collections = [source.read(batch) for batch in source.batches()]
    documents = sorted({d.content for c in collections for d in c.documents})
    return sorted({q.text for c in collections for q in c.queries}), documents
