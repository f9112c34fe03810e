"""A teacher behind a server: what it says is checked before it is believed, and a bad answer stores nothing."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from distill_assets.errors import TeacherServerError
from distill_assets.models import canary, remote
from distill_assets.models.remote import RemoteScorer, ServerPool
from distill_assets_tests.models.rerank_server import Behaviour, overlap, serving

PAIRS = [
    (f"sort a {noun}", f"sort the {other} of a frame") for noun in ("frame", "list") for other in ("rows", "frame")
]
PAIRS += [("join two frames", f"text number {i}") for i in range(70)]
EXPECTED = [overlap(*pair) for pair in PAIRS]


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(remote, "TIMEOUT_S", (0.5, 0.5))


@pytest.fixture(params=["tei", "cohere"])
def behaviour(request: pytest.FixtureRequest) -> Behaviour:
    """A server of each protocol."""
    return Behaviour(request.param)


@pytest.fixture
def url(behaviour: Behaviour) -> Iterator[str]:
    """Where it is."""
    with serving(behaviour) as address:
        yield address


def test_the_canary_is_32_pairs_and_one_that_guesses_seldom_passes() -> None:
    """Two equal documents could not be ordered; at 12 of 16 one guesser in 26 would teach (binomial: 3.8 %; at 13, 1.06 %)."""
    from math import comb

    assert len(canary.PAIRS) == len(set(canary.PAIRS)) == 32
    assert sum(comb(16, k) for k in range(canary.MIN_RIGHT, 17)) / 2**16 == pytest.approx(0.0106, abs=1e-4)


def test_scores_come_back_in_the_order_of_the_pairs(behaviour: Behaviour, url: str) -> None:
    """Servers answer in order of score: read in that order, each document gets its neighbour's logit."""
    pool = ServerPool([url])
    scorer = RemoteScorer(pool, pool.served())
    assert scorer(PAIRS).tolist() == np.asarray(EXPECTED, dtype=np.float32).tolist()
    assert scorer([]).shape == (0,)
    assert sorted(behaviour.pairs) == sorted(PAIRS), "each pair is asked once"


def test_a_request_is_of_one_query_and_no_larger_than_the_server_allows() -> None:
    """A server refuses a batch above its limit: every run would end at its first long list."""
    behaviour = Behaviour(max_batch=30)
    with serving(behaviour) as url:
        pool = ServerPool([url])
        pool.served()
        behaviour.sizes.clear()
        pool.score(PAIRS)
    assert sorted(behaviour.sizes) == [2, 2, 10, 30, 30]  # 70 = 30 + 30 + 10


def test_what_is_served_is_the_identity_and_no_address(behaviour: Behaviour, url: str) -> None:
    """With the address in it, moving the server would score everything again; without the model in it, nothing would."""
    told = ServerPool([url]).served().as_json()
    assert told["protocol"] == behaviour.protocol and told["model_id"] == "org/reranker"
    assert told["max_length"] == 512 and told["value_space"] == "logit"
    assert (told["revision"], told["dtype"]) == (("abc", "float16") if behaviour.protocol == "tei" else (None, None))
    assert "127.0.0.1" not in str(told)


def test_servers_are_asked_for_logits_and_to_cut_long_texts(behaviour: Behaviour, url: str) -> None:
    """A server of vLLM answers 400 to a text that is too long unless told to cut it, and probabilities unless told not to."""
    ServerPool([url]).served()
    body = behaviour.bodies[0]
    if behaviour.protocol == "tei":
        assert body["raw_scores"] is True and body["truncate"] is True
    else:
        assert (
            body["truncate_prompt_tokens"] == -1 and body["use_activation"] is False and body["model"] == "org/reranker"
        )


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("no json", "no JSON"),
        ("shape", "expected a list of index and score"),
        ("fewer", "expected one for each of"),
        ("twice", "for different texts"),
        ("NaN", "not finite"),
        ("400", "400"),
        ("500", "500"),
        ("503", "no server of the teacher answers"),
        ("dead", "no server of the teacher answers"),
        ("slow", "no server of the teacher answers"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error(behaviour: Behaviour, url: str, fault: str, told: str) -> None:
    """A missing score read as 0, or one in its neighbour's place, would be stored for ever."""
    pool = ServerPool([url])
    scorer = RemoteScorer(pool, pool.served())
    behaviour.fault = fault
    with pytest.raises(TeacherServerError, match=told):
        scorer(PAIRS)


@pytest.mark.parametrize(("fault", "times"), [("429", 2), ("502", 2), ("503", 2), ("504", 2), ("500", 2), ("dead", 1)])
def test_what_passes_is_tried_again(behaviour: Behaviour, url: str, fault: str, times: int) -> None:
    """A run of hours that ends because a server was busy for a second."""
    pool = ServerPool([url])
    scorer = RemoteScorer(pool, pool.served())
    behaviour.fault, behaviour.faults_left = fault, times
    assert scorer(PAIRS[:4]).tolist() == np.asarray(EXPECTED[:4], dtype=np.float32).tolist()


def test_a_bad_request_is_not_tried_again(behaviour: Behaviour, url: str) -> None:
    """The same request gets the same 400; what the server says of it is what the user needs."""
    pool = ServerPool([url])
    pool.served()
    behaviour.fault, behaviour.faults_left = "400", 1
    with pytest.raises(TeacherServerError, match="told to fail"):
        pool.score(PAIRS[:1])


def test_a_pool_shares_the_work_and_lives_on_without_one(behaviour: Behaviour, url: str) -> None:
    """Two servers that do the work of one; or one that dies and takes the run with it."""
    other = Behaviour(behaviour.protocol)
    with serving(other) as second:
        pool = ServerPool([url, second])
        scorer = RemoteScorer(pool, pool.served())
        assert scorer(PAIRS).tolist() == np.asarray(EXPECTED, dtype=np.float32).tolist()
        assert behaviour.pairs and other.pairs and sorted(behaviour.pairs + other.pairs) == sorted(PAIRS)
        other.fault = "dead"
        assert scorer(PAIRS).tolist() == np.asarray(EXPECTED, dtype=np.float32).tolist()
    assert RemoteScorer(ServerPool([second, url]), pool.served())(PAIRS[:2]).shape == (2,)


def test_a_pool_of_two_models_is_refused(behaviour: Behaviour, url: str) -> None:
    """Half of the pairs would be another model's."""
    other, louder = Behaviour(behaviour.protocol, model_id="org/other"), Behaviour(behaviour.protocol, scale=1.5)
    with serving(other) as second, pytest.raises(TeacherServerError, match="different models"):
        ServerPool([url, second]).served()
    with serving(louder) as second, pytest.raises(TeacherServerError, match="two servers of the pool differ by"):
        ServerPool([url, second]).served()


def test_a_server_that_ranks_backwards_is_refused(behaviour: Behaviour, url: str) -> None:
    """Issue 21681 of vLLM: status 200, and scores of a model whose template was not applied. The student would learn them."""
    behaviour.fault = "backwards"
    with pytest.raises(TeacherServerError, match="orders 0 of 16"):
        ServerPool([url]).served()


def test_probabilities_are_turned_back_into_logits(behaviour: Behaviour, url: str) -> None:
    """Distilled as they are, probabilities have hardly a margin. By hand: log(0.95 / 0.05) = 2.944."""
    behaviour.is_sigmoid = True
    pool = ServerPool([url])
    served = pool.served()
    assert served.identity.value_space == "sigmoid"
    assert RemoteScorer(pool, served)(PAIRS).tolist() == pytest.approx(EXPECTED, abs=1e-5)
    assert canary.as_logits(np.array([0.5, 0.95]), "sigmoid").tolist() == pytest.approx([0, 2.9444], abs=1e-4)
    assert canary.as_logits(np.array([0.0, 1.0]), "sigmoid").tolist() == pytest.approx([-16.6355, 16.6355], abs=1e-4)
    behaviour.is_sigmoid = False
    with pytest.raises(TeacherServerError, match="expected probabilities"):
        RemoteScorer(pool, served)


def test_saturated_probabilities_are_refused(behaviour: Behaviour, url: str) -> None:
    """All good answers at 1.0 have lost their order, and no formula brings it back."""
    behaviour.is_sigmoid, behaviour.scale = True, 20.0
    with pytest.raises(TeacherServerError, match="cannot be turned back"):
        ServerPool([url]).served()
    assert canary.value_space([0.5] * 9 + [0.1 + i / 100 for i in range(23)]) == "sigmoid"  # 8 tie with another
    with pytest.raises(TeacherServerError, match="9 equal another"):
        canary.value_space([0.5] * 10 + [0.1 + i / 100 for i in range(22)])


def test_a_changed_model_is_seen_before_its_scores_are_given(behaviour: Behaviour, url: str) -> None:
    """A model that is swapped at night writes into the scores of the old one."""
    pool = ServerPool([url])
    served = pool.served()
    many = PAIRS * 8
    scorer = RemoteScorer(pool, served)
    assert len(many) >= remote.CHECK_EVERY
    behaviour.model_id = "org/other"
    with pytest.raises(TeacherServerError, match=r"org/other.*org/reranker.*--fresh-teacher"):
        scorer(many)
    with pytest.raises(TeacherServerError, match="org/other"):
        RemoteScorer(pool, served)


def test_every_answer_that_names_another_model_is_refused() -> None:
    """Behind a load balancer, the page that names the model may be another server's."""
    behaviour = Behaviour("cohere")
    with serving(behaviour) as url:
        pool = ServerPool([url])
        scorer = RemoteScorer(pool, pool.served())
        behaviour.fault = "other model"
        with pytest.raises(TeacherServerError, match="answers for 'org/other'"):
            scorer(PAIRS[:2])


@pytest.mark.parametrize(("scale", "is_same"), [(1.01, True), (1.5, False)])
def test_drift_is_seen_and_half_precision_is_not_drift(
    behaviour: Behaviour, url: str, scale: float, is_same: bool
) -> None:
    """The same name, other scores: another template or precision. A hundredth is what the batch size moves in half precision."""
    pool = ServerPool([url])
    served = pool.served()
    scorer = RemoteScorer(pool, served)
    behaviour.scale = scale
    num_canaries = behaviour.num_canaries
    if is_same:
        scorer(PAIRS * 8)
        assert behaviour.num_canaries == num_canaries + 32
    else:
        with pytest.raises(TeacherServerError, match="of their spread"):
            scorer(PAIRS * 8)


def test_the_token_is_sent_and_never_told(behaviour: Behaviour, url: str) -> None:
    """A token in a message is in every log, and in Dagster's database."""
    behaviour.token = "secret-7"
    assert ServerPool([url], "secret-7").served().identity.model_id == "org/reranker"
    with pytest.raises(TeacherServerError, match="DISTILL_TEACHER_TOKEN") as missing:
        ServerPool([url]).served()
    assert "401" in str(missing.value)
    behaviour.token = "secret-8"
    with pytest.raises(TeacherServerError) as wrong:
        ServerPool([url], "secret-7").served()
    assert "secret-7" not in str(wrong.value) and "***" in str(wrong.value)


def test_what_is_no_reranker_is_refused() -> None:
    """An embedding model answers, too."""
    door: Any = remote._tei_door
    with pytest.raises(TeacherServerError, match="expected a reranker"):
        door("http://h", {"model_id": "org/e5", "model_type": {"embedding": {"pooling": "cls"}}})
    with serving(Behaviour("none")) as url, pytest.raises(TeacherServerError, match="neither /info"):
        ServerPool([url]).served()
