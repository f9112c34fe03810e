"""A teacher behind an inference server: raw logits of pairs over HTTP, from one server or from a pool that serves the same model.

Two protocols, found out by asking:

tei     Text Embeddings Inference: `GET /info`; `POST /rerank` with raw scores
cohere  vLLM, Infinity and others: `GET /v1/models`; `POST /v1/rerank`, as Cohere's, or the same paths without `/v1`

What a server says of itself is the scorer's identity, whatever its address. Whether it still is the same model is asked, and checked
with the canary (`models/canary.py`), at the start and every `CHECK_EVERY` pairs.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from typing import Any, Literal

import numpy as np
import requests
from requests.adapters import HTTPAdapter

from distill_assets.errors import DistillError, ModelError, TeacherServerError
from distill_assets.models import canary
from distill_assets.models.value_space import ValueSpace

CHECK_EVERY = 512  # pairs between two canaries: 6 % more pairs where chunks are this small, less where they are larger
WAITS_S = (1, 2, 4, 8, 16, 32)  # between rounds over the pool: a server that restarts is back within a minute
TIMEOUT_S = (10, 120)  # to connect, and for an answer
_BUSY = {429, 502, 503, 504}
_TRIES_OF_500 = 3
_MAX_BYTES = 16 << 20  # of an answer: 32 scores or some queries are a few kB, an endless answer would fill the memory
BATCH = 32  # texts of a request, where the server says nothing: the default of Text Embeddings Inference
# Texts in flight per server: half of what Text Embeddings Inference takes before it answers 429 (--max-concurrent-requests 512).
_IN_FLIGHT, _MIN_REQUESTS, _MAX_REQUESTS = 256, 8, 32
# What servers need to be told so that they cut long texts, and give logits where they can.
_OPTIONS: dict[str, dict[str, Any]] = {
    "tei": {"raw_scores": True, "truncate": True},
    "vllm": {"truncate_prompt_tokens": -1, "use_activation": False},
    "infinity": {"raw_scores": True},
}
_FRESH = "distill-assets retrain --fresh-teacher makes the teacher anew, and scores all pairs by it"


@dataclass(frozen=True)
class Identity:
    """What decides the logits of a served model, as the server tells it; None where it does not. Never an address."""

    protocol: Literal["tei", "cohere"]
    model_id: str
    revision: str | None = None
    dtype: str | None = None
    max_length: int | None = None
    value_space: ValueSpace = "logit"

    @property
    def words(self) -> str:
        """For people."""
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items() if value is not None)


@dataclass(frozen=True)
class Served:
    """A served model and its logits of the canary's 32 pairs."""

    identity: Identity
    logits: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """The identity by field."""
        return asdict(self.identity)


@dataclass(frozen=True)
class _Door:
    """Where and how one server is asked to rerank."""

    url: str
    identity: Identity
    path: str
    options: dict[str, Any]
    batch: int = BATCH


class _UnreachableError(TeacherServerError):
    """No answer after every wait."""


class Servers:
    """Inference servers that are asked for JSON, patiently. What a subclass says of itself goes into messages.

    Args:
        urls: of each, without a path of the protocol.
        token: sent as a bearer token; never told, not even where a server repeats it.

    Attributes:
        role: of the model that they serve.
        token_variable: the environment variable that a user keeps the token in.
        kept: what of the work before a failure stays.
        lost: what of it does not.
        error: raised for an answer that cannot be used.
        unreachable: raised where none answers after every wait.
    """

    role, token_variable = "teacher", "DISTILL_TEACHER_TOKEN"
    kept, lost = "what was scored is kept", "nothing of this chunk is stored"
    error: type[DistillError] = TeacherServerError
    unreachable: type[DistillError] = _UnreachableError

    def __init__(self, urls: Sequence[str], token: str | None = None) -> None:
        self.urls, self._token = tuple(urls), token
        self._session = requests.Session()
        self._session.auth = self._sign  # a function, so that no password of a .netrc takes its place
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=len(self.urls), pool_maxsize=_MAX_REQUESTS))

    def ask(self, urls: Sequence[str], waits: Sequence[float], body: Any = None) -> tuple[str, Any]:
        """The JSON of the first server that gives one, and its address; of a GET, None where there is no such page.

        A server that is busy or does not answer is asked again after the others of the pool, then after each of the `waits`.
        """
        failure, num_500 = "", 0
        for wait in (0, *waits):
            time.sleep(wait)
            for url in urls:
                try:
                    status, text = self._send(url, body)
                except requests.RequestException as error:
                    failure = f"{url}: {type(error).__name__}: {error}"
                    continue
                if status == 200 or (body is None and status in (404, 405)):
                    return url, self._parsed(text if status == 200 else "", url, is_page=body is None)
                failure = f"{url} answers {status}: {text[:300]}"
                num_500 += status == 500
                if status not in _BUSY | {500} or num_500 >= _TRIES_OF_500:
                    hint = f"; set {self.token_variable} to the server's token" if status in (401, 403) else ""
                    raise self.error(f"{failure}{hint}")
        raise self.unreachable(
            f"no server of the {self.role} answers: {failure[:400]}; start it, then go on: {self.kept}"
        )

    def _send(self, url: str, body: Any) -> tuple[int, str]:
        """Status and text of an answer."""
        method = "GET" if body is None else "POST"
        with self._session.request(
            method, url, json=body, timeout=TIMEOUT_S, allow_redirects=False, stream=True
        ) as response:
            data = b""
            for part in response.iter_content(1 << 16):
                data += part
                if len(data) > _MAX_BYTES:
                    raise self.error(
                        f"{url} answers with more than {_MAX_BYTES >> 20} MiB, expected some kB: is it an inference server? {self.lost}"
                    )
        text = data.decode("utf-8", "replace")
        return response.status_code, text.replace(self._token, "***") if self._token else text

    def _parsed(self, text: str, url: str, *, is_page: bool) -> Any:
        """Its JSON. Of a page that is not there, or is none of the protocol's, None."""
        try:
            return json.loads(text)
        except ValueError as error:
            if is_page:
                return None
            raise self.error(
                f"{url} answers no JSON but {text[:200]!r}: is it an inference server? {self.lost.capitalize()}"
            ) from error

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class ServerPool(Servers):
    """Servers of one reranker."""

    def __init__(self, urls: Sequence[str], token: str | None = None) -> None:
        super().__init__(urls, token)
        self._doors = list[_Door]()

    def identify(self) -> Identity:
        """What the servers that answer serve; the others are left alone until asked again.

        Raises:
            TeacherServerError: none answers, two serve different models, or what they serve is no reranker.
        """
        doors, failures = list[_Door](), list[str]()
        for url in self.urls:
            is_last_hope = url == self.urls[-1] and not doors
            try:
                doors.append(self._knock(url, WAITS_S if is_last_hope else ()))
            except _UnreachableError as error:
                failures.append(str(error))
        if not doors:
            raise _UnreachableError("; ".join(failures))
        for door in doors[1:]:
            if door.identity != doors[0].identity:
                raise TeacherServerError(
                    f"the servers of the pool serve different models: {doors[0].url} {doors[0].identity.words}; {door.url} "
                    f"{door.identity.words}: serve the same one on all of them"
                )
        self._doors = doors
        return doors[0].identity

    def served(self) -> Served:
        """The model that all servers serve, with its canary.

        Raises:
            TeacherServerError: as `identify`; or it orders the canary like chance, gives probabilities that are saturated, or two
                servers give different scores.
        """
        identity = self.identify()
        first, *others = self._canaries()
        canary.require_order(first.tolist())
        identity = replace(identity, value_space=canary.value_space(first.tolist()))
        served = Served(identity, tuple(canary.as_logits(first, identity.value_space).tolist()))
        for scores in others:
            logits = canary.as_logits(scores, identity.value_space).tolist()
            canary.require_same(served.logits, logits, "the scores of two servers of the pool", "serve them alike")
        return served

    def require(self, expected: Served) -> None:
        """Raise `TeacherServerError` unless every server that answers serves what was served when `expected` was asked."""
        found = replace(self.identify(), value_space=expected.identity.value_space)
        if found != expected.identity:
            raise TeacherServerError(
                f"the server now serves {found.words}, expected {expected.identity.words}; nothing of this chunk is stored. Serve the "
                f"former model again, or take the new one: {_FRESH}"
            )
        for scores in self._canaries():
            logits = canary.as_logits(scores, expected.identity.value_space).tolist()
            canary.require_same(
                expected.logits,
                logits,
                "the server's scores of the canary now and when the teacher was made",
                "nothing of this chunk is stored. Serve the model as it was (weights, precision, template, pooling); if the new "
                f"scores are the right ones, serve it under another name (--served-model-name): {_FRESH}",
            )

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """The servers' scores, float64 (len(pairs),), in the order given. Texts of a query share requests.

        Raises:
            TeacherServerError: no answer, or one that cannot be used.
        """
        return self._score(self._doors, pairs)

    def _canaries(self) -> Iterator[np.ndarray]:
        return (self._score([door], canary.PAIRS) for door in self._doors)

    def _score(self, doors: Sequence[_Door], pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        scores = np.empty(len(pairs))
        requested = list(requests_of(pairs, min(door.batch for door in doors)))
        most = _IN_FLIGHT * len(requested) // max(1, len(pairs))
        executor = ThreadPoolExecutor(len(doors) * min(_MAX_REQUESTS, max(_MIN_REQUESTS, most)))
        try:
            turns = [
                executor.submit(
                    self._rerank, [*doors[i:], *doors[:i]], pairs[rows[0]][0], [pairs[row][1] for row in rows]
                )
                for i, rows in zip(cycle(range(len(doors))), requested, strict=False)
            ]
            for rows, turn in zip(requested, turns, strict=True):
                scores[rows] = turn.result()
        finally:
            executor.shutdown(cancel_futures=True)
        return scores

    def _rerank(self, doors: Sequence[_Door], query: str, texts: Sequence[str]) -> list[float]:
        identity = doors[0].identity
        name, model = ("texts", {}) if identity.protocol == "tei" else ("documents", {"model": identity.model_id})
        body = {**model, "query": query, name: texts, **doors[0].options}
        url, found = self.ask([f"{door.url}{door.path}" for door in doors], WAITS_S, body)
        if isinstance(found, dict) and found.get("model") not in (None, identity.model_id):
            raise TeacherServerError(
                f"{url} answers for {found['model']!r}, expected {identity.model_id!r}; nothing of this chunk is stored. Serve the "
                f"former model again, or take the new one: {_FRESH}"
            )
        return _scores_of(found, len(texts), url)

    def _knock(self, url: str, waits: Sequence[float]) -> _Door:
        """Find out what a server speaks and serves."""
        _, info = self.ask([f"{url}/info"], waits)
        if isinstance(info, dict) and "model_id" in info:
            return _tei_door(url, info)
        for prefix in ("/v1", ""):
            _, models = self.ask([f"{url}{prefix}/models"], waits)
            if isinstance(models, dict) and models.get("data"):
                return _cohere_door(url, prefix, models["data"])
        raise TeacherServerError(
            f"{url} answers neither /info, as Text Embeddings Inference, nor /v1/models, as vLLM and Infinity: expected one of them; "
            "check the address"
        )


class RemoteScorer:
    """Scores pairs on the servers of a pool; a `models.scoring.PairScorer`.

    Args:
        pool: the servers.
        expected: what they served when the teacher was made.

    Raises:
        TeacherServerError: they do not answer, or serve something else. From a call, too: nothing of the call may be stored then.
    """

    window = CHECK_EVERY  # so that a chunk is checked before it is stored, but for one at the end that is shorter

    def __init__(self, pool: ServerPool, expected: Served) -> None:
        self._pool, self._expected, self._num_unchecked = pool, expected, 0
        pool.require(expected)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Raw logits, float32 (len(pairs),), in the order given."""
        scores = self._pool.score(pairs)
        self._num_unchecked += len(pairs)
        if self._num_unchecked >= CHECK_EVERY:
            self._pool.require(self._expected)
            self._num_unchecked = 0
        return canary.as_logits(scores, self._expected.identity.value_space).astype(np.float32)


def read_served(identity: dict[str, Any], logits: Sequence[float]) -> Served:
    """What `Served.as_json` and its logits were. Raises `ModelError` where the fields are not those of an identity."""
    try:
        return Served(Identity(**identity), tuple(map(float, logits)))
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the teacher's checkpoint says of its server what cannot be read: {error}; delete its folder, then run again"
        ) from error


def requests_of(pairs: Sequence[tuple[str, str]], batch: int = BATCH) -> Iterator[list[int]]:
    """Rows of pairs that go into one request: those of one query, at most `batch`."""
    rows_of: dict[str, list[int]] = {}
    for row, (query, _) in enumerate(pairs):
        rows_of.setdefault(query, []).append(row)
    for rows in rows_of.values():
        yield from (rows[start : start + batch] for start in range(0, len(rows), batch))


def _tei_door(url: str, info: dict[str, Any]) -> _Door:
    if "reranker" not in str(info.get("model_type", "reranker")).lower():
        raise TeacherServerError(
            f"{url} serves {info['model_id']} as {info['model_type']}, expected a reranker: serve a cross-encoder with one output"
        )
    identity = Identity(
        "tei", str(info["model_id"]), info.get("model_sha"), info.get("model_dtype"), info.get("max_input_length")
    )
    return _Door(url, identity, "/rerank", _OPTIONS["tei"], int(info.get("max_client_batch_size") or BATCH))


def _cohere_door(url: str, prefix: str, models: Sequence[dict[str, Any]]) -> _Door:
    if len(models) > 1:
        names = ", ".join(str(model.get("id")) for model in models)
        raise TeacherServerError(f"{url} serves several models ({names}), expected the teacher alone: serve it alone")
    model = models[0]
    identity = Identity("cohere", str(model.get("id")), max_length=model.get("max_model_len"))
    return _Door(url, identity, f"{prefix}/rerank", _OPTIONS.get(str(model.get("owned_by")), {}))


def _scores_of(found: Any, num_texts: int, url: str) -> list[float]:
    """Scores in the order of the texts. Raises `TeacherServerError` unless each text has one, and it is finite."""
    try:
        rows = found["results"] if isinstance(found, dict) else found
        pairs = [(row["index"], float(row.get("relevance_score", row.get("score")))) for row in rows]
        scores = dict(pairs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TeacherServerError(
            f"{url} answers {str(found)[:200]!r}, expected a list of index and score; nothing of this chunk is stored: check that "
            "it serves a reranker"
        ) from error
    if len(pairs) != num_texts or set(scores) != set(range(num_texts)):
        raise TeacherServerError(
            f"{url} gave {len(pairs)} scores, {len(scores)} of them for different texts, expected one for each of {num_texts}; nothing "
            "of this chunk is stored: mend the server, then go on"
        )
    if not np.isfinite(list(scores.values())).all():
        raise TeacherServerError(
            f"{url} gave scores that are not finite (NaN or infinite); nothing of this chunk is stored: its weights are damaged, or "
            "half precision overflows"
        )
    return [scores[index] for index in range(num_texts)]
