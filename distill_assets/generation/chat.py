"""Queries from a chat model behind a server that speaks OpenAI's protocol (vLLM, llama.cpp, Ollama, hosted ones).

`GET /v1/models` says what is served, `POST /v1/chat/completions` gives the queries, one a line or as a JSON list.
"""

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from distill_assets.errors import GeneratorError
from distill_assets.generation.queries import Kind, require_answers
from distill_assets.models import remote
from distill_assets.records import Document, fingerprint, hash_share

TOKEN_VARIABLE = "DISTILL_GENERATOR_TOKEN"
PROMPT = """Write {num} search queries that a person would type to find the passage below.
The passage answers each of them. Use the language of the passage, at most 12 words, and other words than the passage where you can.
Mix questions and keywords. Answer with the queries alone, one a line.

Title: {title}
Passage: {text}"""
_TEMPERATURE, _TOP_P, _MAX_TOKENS = 0.7, 0.95, 512
_MAX_READ = 6000  # characters of a passage: some 1,500 tokens, which every chat model's window holds beside the answer
_MAX_ANSWER = 20_000  # characters that are looked at: 512 tokens are a tenth of that
_CONCURRENCY = 4
_CHUNK = 32  # documents asked together: as many may still be asked when an answer turns out to be unusable
_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_MARK = re.compile(r"^\s*(?:[-*•]+|\(?\d{1,2}[.):]|(?:query|q)\s*\d*\s*[.:)])\s*", re.IGNORECASE)
_QUOTES = "\"'“”„«»` *"


class ChatServer(remote.Servers):
    """A server of a chat model."""

    role, token_variable = "generator", TOKEN_VARIABLE
    kept = lost = "no generated query of this batch is stored"
    error = unreachable = GeneratorError


@dataclass(frozen=True)
class ChatGenerator:
    """A `generation.queries.Generator` behind a server.

    Args:
        server: where it is.
        model: its name there; None: the only one that is served.
    """

    server: ChatServer
    model: str | None = None

    @property
    def identity(self) -> str:
        """The model, prompt and decoding; never an address. The server is asked only where no model is named."""
        decoding = f"temperature {_TEMPERATURE}, top_p {_TOP_P}, {_MAX_TOKENS} tokens, {_MAX_READ} characters"
        return f"chat {self.model or self.served}, {decoding}, prompt {fingerprint(PROMPT)[:8]}"

    @cached_property
    def served(self) -> str:
        """Name of the model at the server.

        Raises:
            GeneratorError: the server does not answer, does not serve this model, or serves several and none is named.
        """
        url = f"{_base(self.server)}/v1/models"
        _, page = self.server.ask([url], remote.WAITS_S)
        entries = page.get("data") if isinstance(page, dict) else None
        names = [str(entry.get("id")) for entry in entries or [] if isinstance(entry, dict)]
        if not names and self.model is not None:  # some servers have no such page
            return self.model
        if self.model in names or (self.model is None and len(names) == 1):
            return self.model or names[0]
        wanted = "one model, as none is named" if self.model is None else repr(self.model)
        raise GeneratorError(
            f"{url} lists {', '.join(names[:10]) or 'no model'}, expected {wanted}: set generator_model to a name that is served"
        )

    def queries_of(
        self, documents: Sequence[Document], per_document: int, seed: int
    ) -> Iterator[Sequence[tuple[str, Kind]]]:
        """As the protocol says. Each document is asked for alone, with a seed of its own.

        Raises:
            GeneratorError: no answer, or another model answers than before; most answers hold no query, or the same one.
        """
        answers = self._answers(documents, per_document, seed)
        parsed = ((answer, parse_answer(answer)) for answer in answers)
        for texts in require_answers(parsed, f"the model {self.served} at {_base(self.server)}"):
            yield [(text, "model") for text in texts]

    def _answers(self, documents: Sequence[Document], per_document: int, seed: int) -> Iterator[str]:
        answering: str | None = None
        ask = partial(self._ask, per_document=per_document, seed=seed)
        with ThreadPoolExecutor(_CONCURRENCY) as executor:
            for start in range(0, len(documents), _CHUNK):
                for model, answer in executor.map(ask, documents[start : start + _CHUNK]):
                    answering = answering or model
                    if model != answering:
                        raise GeneratorError(
                            f"{_base(self.server)} answers for {model!r}, expected {answering!r} as before: {self.server.lost}. Serve "
                            "one model under this name, then go on"
                        )
                    yield answer

    def _ask(self, document: Document, per_document: int, seed: int) -> tuple[str | None, str]:
        """Name of the model that answers, and its text."""
        prompt = PROMPT.format(num=per_document, title=document.title, text=document.text[:_MAX_READ])
        body = {
            "model": self.served,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": _TEMPERATURE,
            "top_p": _TOP_P,
            "max_tokens": _MAX_TOKENS,
            "seed": int(hash_share(f"{seed} {document.doc_id}") * 2**31),
        }
        url, found = self.server.ask([f"{_base(self.server)}/v1/chat/completions"], remote.WAITS_S, body)
        try:
            choice = found["choices"][0]
            text = str(choice["message"]["content"] or "")[:_MAX_ANSWER]
        except (KeyError, IndexError, TypeError) as error:
            raise GeneratorError(
                f"{url} answers {str(found)[:200]!r}, expected choices with a message: check that it serves a chat model; "
                f"{self.server.lost}"
            ) from error
        if choice.get("finish_reason") == "length":  # its last line is a part of one
            text = text.rpartition("\n")[0]
        return found.get("model"), text


def parse_answer(answer: str) -> list[str]:
    """The queries of an answer: a JSON list, or an object with one, or one query a line. Thoughts and introductions are left out."""
    text = _FENCE.sub("", _THOUGHTS.sub("", answer)).strip()
    if text[:1] in ("[", "{"):
        try:
            return list(_strings(json.loads(text)))
        except ValueError:
            pass
    lines = (_MARK.sub("", line).strip(_QUOTES) for line in text.splitlines())
    return [line for line in lines if line and not line.endswith(":")]


def _strings(found: Any) -> Iterator[str]:
    if isinstance(found, str):
        yield found
    elif isinstance(found, list | dict):
        for item in found.values() if isinstance(found, dict) else found:
            yield from _strings(item)


def _base(server: ChatServer) -> str:
    return server.urls[0].rstrip("/").removesuffix("/v1")
