"""Query and document prompts of a bi-encoder: what its own config says, else a table of published families, else none.

Without its prompt, E5 or BGE ranks worse, and nothing shows it. A setting wins over both.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill_assets.models.folders import read_json, unreadable

_CONFIG = "config_sentence_transformers.json"
_DOCUMENT_NAMES = ("document", "passage", "corpus")  # as sentence-transformers looks for them, first to last
_SEARCHING = "Represent this sentence for searching relevant passages: "
_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
# Last part of a published name (small letters) -> query and document prompt, with the model card that says so.
_FAMILIES: tuple[tuple[str, str, str], ...] = (
    (r"bge-(small|base|large)-en(-v1\.5)?", _SEARCHING, ""),  # BAAI/bge-base-en-v1.5
    (r"bge-(small|base|large)-zh(-v1\.5)?", "为这个句子生成表示以用于检索相关文章：", ""),  # BAAI/bge-base-zh-v1.5
    (r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?", "query: ", "passage: "),  # intfloat/e5-base-v2
    (
        r"multilingual-e5-large-instruct|e5-mistral-7b-instruct",
        _INSTRUCT,
        "",
    ),  # intfloat/multilingual-e5-large-instruct
    (
        r"nomic-embed-text-v(1|1\.5|2-moe)(-unsupervised)?",
        "search_query: ",
        "search_document: ",
    ),  # nomic-ai/nomic-embed-text-v1.5
    (
        r"modernbert-embed-(base|large)(-unsupervised)?",
        "search_query: ",
        "search_document: ",
    ),  # nomic-ai/modernbert-embed-base
    (r"mxbai-embed-(large|2d-large)-v1", _SEARCHING, ""),  # mixedbread-ai/mxbai-embed-large-v1
    (r"deepset-mxbai-embed-de-large-v1", "query: ", "passage: "),  # mixedbread-ai/deepset-mxbai-embed-de-large-v1
    (r"snowflake-arctic-embed-(xs|s|m|l|m-long|m-v1\.5)", _SEARCHING, ""),  # Snowflake/snowflake-arctic-embed-m
    (r"snowflake-arctic-embed-(m|l)-v2\.0", "query: ", ""),  # Snowflake/snowflake-arctic-embed-l-v2.0
    # Alibaba-NLP/gte-modernbert-base and thenlper/gte-base say that none is needed; so does BAAI/bge-m3.
    (r"gte-(small|base|large|(base|large)-en-v1\.5|multilingual-base|modernbert-base)|bge-m3", "", ""),
)
# Families whose members were trained with prompts: a name that looks like one and has none is worth a warning.
_LOOKS_PROMPTED = re.compile(r"bge-(small|base|large)|\be5-|nomic-embed|modernbert-embed|mxbai-embed|arctic-embed")
PromptSource = Literal["model", "table", "setting", "none"]


@dataclass(frozen=True)
class Prompts:
    """What stands before each text of a role.

    Attributes:
        query, document: the prompts; empty where there is none.
        source: `model` (its own config), `table` (the families of this file), `setting`, or `none`.
        is_loaded: sentence-transformers takes the same prompts from the folder by itself.
        warning: a sentence where the model was probably trained with a prompt and gets none; else empty.
    """

    query: str
    document: str
    source: PromptSource
    is_loaded: bool
    warning: str = ""

    def __str__(self) -> str:
        """As the leaderboard and the logs show them."""
        told = [f"{role} {text!r}" for role, text in (("query", self.query), ("document", self.document)) if text]
        return f"{', '.join(told)} ({self.source})" if told else "none"


def find_prompts(path: Path, *, query: str | None = None, document: str | None = None) -> Prompts:
    """The prompts of the bi-encoder in a folder; `query` and `document` are what the settings say, and win.

    Raises:
        ModelError: the folder's config cannot be read.
    """
    try:
        config: dict[str, Any] = read_json(path / _CONFIG) if (path / _CONFIG).is_file() else {}
        named = {str(name): str(text) for name, text in (config.get("prompts") or {}).items() if text}
    except (ValueError, AttributeError) as error:  # no JSON, or JSON of another shape
        raise unreadable(path, "a sentence-transformers model", error) from error
    # sentence-transformers 6 always finds "document", an empty one if need be, and then never asks for "passage".
    own = named.get("query", ""), next((named[name] for name in _DOCUMENT_NAMES if name in named), "")
    name = _published_name(path)
    family = next((row[1:] for row in _FAMILIES if re.fullmatch(row[0], name)), None)
    found = own if any(own) else family or own
    source: PromptSource = "model" if any(own) else "table" if any(found) else "none"
    chosen = found[0] if query is None else query, found[1] if document is None else document
    if chosen != found:
        source = "setting" if any(chosen) else "none"
    loaded = named.get("query", ""), named.get("document", "")
    told = "" if any(chosen) else _warning(name, found, sorted(named), is_known=family is not None)
    return Prompts(*chosen, source, chosen == loaded, told)


def _published_name(path: Path) -> str:
    """Last part of the hub name, in small letters: of a folder in the hub's cache, else the folder's name; empty for a checkpoint."""
    if (path / "manifest.json").is_file():  # trained here: its own config holds what it was trained with
        return ""
    cached = next((part for part in reversed(path.parts) if part.startswith("models--")), None)
    return (cached.split("--")[-1] if cached else path.name).lower()


def _warning(name: str, found: tuple[str, str], named: list[str], *, is_known: bool) -> str:
    """For a model that gets no prompt; empty where it probably needs none."""
    if any(found):
        return f"{name} was published with the query prompt {found[0]!r}, and the settings take it away"
    if named:
        return f"{name} has the prompts {', '.join(named)}, none of them named query or document: set query_prompt, document_prompt"
    if _LOOKS_PROMPTED.search(name) and not is_known:
        return f"{name} looks like a model that was trained with prompts, and none is known for it: set query_prompt"
    return ""
