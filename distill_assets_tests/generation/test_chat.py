"""A chat model behind a server: its answers are checked before they are believed, and a bad one stores nothing."""

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from distill_assets.errors import GeneratorError
from distill_assets.generation import generate
from distill_assets.generation.chat import ChatGenerator, ChatServer, parse_answer
from distill_assets.models import remote
from distill_assets.records import Document
from distill_assets_tests.generation.chat_server import Behaviour, chatting

NOUNS = ("Pumps", "Valves", "Pipes", "Tanks", "Meters")
DOCUMENTS = [Document(noun.lower(), f"{noun} {{x}}", f"{noun} move water quickly") for noun in NOUNS]


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(remote, "TIMEOUT_S", (0.5, 0.5))


@pytest.fixture
def behaviour() -> Behaviour:
    """A server that behaves."""
    return Behaviour()


@pytest.fixture
def generator(behaviour: Behaviour) -> Iterator[ChatGenerator]:
    """A generator behind it."""
    with chatting(behaviour) as url:
        yield ChatGenerator(ChatServer([f"{url}/v1/"], "secret"))


def test_each_document_is_asked_once_and_gets_its_own_queries(behaviour: Behaviour, generator: ChatGenerator) -> None:
    """Four requests run at once: answers in the order in which they come would belong to other documents."""
    made = generate(DOCUMENTS, generator, 2, 7)
    expected = {noun.lower(): [f"what is {noun.lower()}?", f"{noun.lower()} move water"] for noun in NOUNS}
    assert {noun: [query.text for query in made if query.doc_id == noun] for noun in expected} == expected
    assert {query.kind for query in made} == {"model"} and len(behaviour.bodies) == len(DOCUMENTS)
    assert set(behaviour.headers) == {"Bearer secret"}
    body = behaviour.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny-chat", 0.7, 512)
    seeds = {body["seed"] for body in behaviour.bodies}
    assert len(seeds) == len(DOCUMENTS), "a seed of each document, whatever its place"
    generate(DOCUMENTS[::-1], generator, 2, 7)
    assert {body["seed"] for body in behaviour.bodies} == seeds
    generate(DOCUMENTS, generator, 2, 8)
    assert len({body["seed"] for body in behaviour.bodies}) == 2 * len(DOCUMENTS)


def test_the_identity_is_what_is_served_and_never_where(generator: ChatGenerator) -> None:
    """With the address in it, a server that moves makes every query anew; without the model, another one's queries stay."""
    assert generator.identity.startswith("chat tiny-chat, temperature 0.7") and "127.0.0.1" not in generator.identity


@pytest.mark.parametrize(
    ("answer", "queries"),
    [
        (
            '1. refund deadline\n2) how to pay?\n- "card expired"\n\n* **late fee**',
            ["refund deadline", "how to pay?", "card expired", "late fee"],
        ),
        ('["refund deadline", "how to pay?"]', ["refund deadline", "how to pay?"]),
        (
            '```json\n{"queries": [{"query": "refund deadline"}, {"query": "how to pay?"}]}\n```',
            ["refund deadline", "how to pay?"],
        ),
        ("<think>Which ones?\nperhaps this</think>\nQuery 1: refund deadline", ["refund deadline"]),
        ("<think>a thought that does not end", []),
        ("Sure, here are the queries:\nrefund deadline", ["refund deadline"]),
        ("[1] refund deadline", ["[1] refund deadline"]),
        ("2024 budget of the city", ["2024 budget of the city"]),
        ("", []),
    ],
)
def test_an_answer_is_read_in_the_forms_that_models_give(answer: str, queries: list[str]) -> None:
    """A number, a quote or "Here are three queries:" in a query is trained on."""
    assert parse_answer(answer) == queries


def test_endless_texts_are_dropped_and_counted(behaviour: Behaviour, generator: ChatGenerator) -> None:
    """A model that repeats itself to the last token gives one line of thousands of characters, cut in a word."""
    behaviour.say = lambda passage: f"what do {passage.split()[0]} move?\n" + "water " * 60_000
    dropped = Counter[str]()
    made = generate(DOCUMENTS, generator, 3, 0, dropped)
    assert [query.text for query in made] == [f"what do {noun} move?" for noun in sorted(NOUNS)]
    assert dropped["too long"] == len(DOCUMENTS)
    behaviour.finish, behaviour.say = "length", lambda passage: f"what is {passage}?\nhow to con"
    assert [query.text for query in generate(DOCUMENTS[:1], generator, 3, 0)] == ["what is Pumps move water quickly?"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "gave no query for 5 of 5 documents, expected one for at least half"),
        ("I cannot help with that:", "it said 'I cannot help with that:'"),
        ("what is this?", "gave 'what is this?' for 5 of 5 documents, expected a query of each"),
    ],
)
def test_a_model_that_says_nothing_of_the_documents_is_refused(
    answer: str, message: str, behaviour: Behaviour, generator: ChatGenerator
) -> None:
    """Without a query, or with the same for all, the line would end with students that learned nothing, hours later."""
    behaviour.say = lambda passage: answer
    with pytest.raises(GeneratorError, match=re.escape(message)):
        generate(DOCUMENTS, generator, 2, 0)


def test_a_model_that_says_nothing_is_stopped_early(behaviour: Behaviour, generator: ChatGenerator) -> None:
    """Found out at the end, ten thousand empty answers are paid."""
    behaviour.say = lambda passage: ""
    with pytest.raises(GeneratorError, match="for 20 of 20 documents"):
        generate([Document(f"d{i}", "", f"Text{i} of it") for i in range(200)], generator, 2, 0)
    assert len(behaviour.bodies) <= 64


def test_a_server_that_is_busy_is_asked_again_and_a_dead_one_is_named(
    behaviour: Behaviour, generator: ChatGenerator
) -> None:
    """One 503 among thousands of requests must not end a run; a server that is gone must."""
    behaviour.statuses = [503, 0, 429]
    assert len(generate(DOCUMENTS, generator, 2, 0)) == 2 * len(DOCUMENTS)
    behaviour.dead = True
    with pytest.raises(
        GeneratorError, match=r"no server of the generator answers: http://127.0.0.1:\d+/v1/chat/completions.*is stored"
    ):
        generate(DOCUMENTS, generator, 2, 0)


def test_a_token_that_is_refused_names_its_variable(behaviour: Behaviour, generator: ChatGenerator) -> None:
    """The teacher's variable in the message would send a user to the wrong place."""
    behaviour.statuses = [401] * 5
    with pytest.raises(GeneratorError, match="401.*set DISTILL_GENERATOR_TOKEN"):
        generate(DOCUMENTS, generator, 2, 0)


def test_a_model_that_changes_within_a_batch_is_refused(behaviour: Behaviour, generator: ChatGenerator) -> None:
    """Half of the queries from another model, under the identity of the first."""

    def say(passage: str) -> str:
        behaviour.answering = "other" if passage.startswith("Meters") else "tiny-chat"
        return f"what is {passage}?"

    behaviour.say = say
    with pytest.raises(GeneratorError, match="answers for '(other|tiny-chat)', expected '(other|tiny-chat)' as before"):
        generate(DOCUMENTS * 10, generator, 2, 0)


@pytest.mark.parametrize(
    ("models", "named", "expected"),
    [
        (["a", "b"], None, "lists a, b, expected one model, as none is named: set generator_model"),
        (["a"], "b", "lists a, expected 'b': set generator_model"),
        ([], None, "lists no model"),
        (None, None, "lists no model"),
        (["a", "b"], "b", "b"),
        (None, "b", "b"),
        (["a"], None, "a"),
    ],
)
def test_which_model_is_meant(models: list[str] | None, named: str | None, expected: str) -> None:
    """A server takes any name, or none, and answers with the model that it likes."""
    with chatting(Behaviour(models=models)) as url:
        generator = ChatGenerator(ChatServer([url]), named)
        if "lists" in expected:
            with pytest.raises(GeneratorError, match=expected):
                generate(DOCUMENTS, generator, 1, 0)
        else:
            assert generator.served == expected
