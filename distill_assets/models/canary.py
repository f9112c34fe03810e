"""The canary: 32 fixed pairs of known order, which tell a server that answers from one that answers rightly.

Servers are known to answer 200 with scores that rank like chance: the model's template is not applied (vLLM issues 21681, 20794), or
the pooling is another one than the model was trained with (Text Embeddings Inference issue 615).
"""

from collections.abc import Sequence

import numpy as np

from distill_assets.errors import TeacherServerError
from distill_assets.models.value_space import SATURATED, ValueSpace, is_saturated, logits_of_probabilities

# Of 16 queries, how many a teacher must order rightly. One that guesses gets so many in one case of a hundred (binomial, 1.06 %).
MIN_RIGHT = 13
# The largest difference between two scorings of the canary, over the spread (standard deviation) of its logits. Half precision moves
# a logit by about a hundredth with the batch that it is in; another template, pooling or model moves it by half the spread and more.
TOLERANCE = 0.05
_MAX_LOST = 8  # of 32 scores: saturated ones, and those that tie with another

# A query, its answer, and a document that is near but wrong. With other texts, stored canaries compare with nothing: a change here
# needs a new code version of `teacher_checkpoint`.
TRIPLES: tuple[tuple[str, str, str], ...] = (
    (
        "what is the capital of France",
        "Paris is the capital of France and its largest city.",
        "London is the capital of England and its largest city.",
    ),
    (
        "how long should an egg boil",
        "An egg should boil for six minutes if you like it soft, and for ten if you like it hard.",
        "A potato is cooked in its skin and is then peeled while it is hot.",
    ),
    (
        "who wrote Romeo and Juliet",
        "Romeo and Juliet is a tragedy that William Shakespeare wrote in the 1590s.",
        "War and Peace is a long novel by Leo Tolstoy.",
    ),
    (
        "at what temperature does water freeze",
        "Water does freeze at a temperature of zero degrees Celsius.",
        "Iron melts at 1538 degrees Celsius.",
    ),
    (
        "how do I change a flat tyre",
        "To change a flat tyre, loosen the nuts, lift the car with a jack and put the spare wheel on.",
        "To clean the windows of a car, use warm water and a soft cloth.",
    ),
    (
        "which planet is closest to the sun",
        "Mercury is the planet that is closest to the sun.",
        "Neptune was found in 1846 by its pull on Uranus.",
    ),
    (
        "sort a list in Python",
        "In Python, sort a list in place with list.sort(), or call sorted() for a new list.",
        "In Java, a string is compared with equals().",
    ),
    (
        "symptoms of the flu",
        "The symptoms of the flu are fever, cough, a sore throat and aching muscles.",
        "A broken bone is held still by a plaster cast.",
    ),
    (
        "when did the second world war end",
        "The second world war did end in 1945.",
        "The Olympic games of 1936 took place in Berlin.",
    ),
    (
        "how many legs does a spider have",
        "A spider does have eight legs.",
        "An elephant drinks 150 litres of water a day.",
    ),
    (
        "return policy for damaged goods",
        "Damaged goods: our return policy gives you 30 days to send them back for free.",
        "Our shop is open from nine to five on working days.",
    ),
    (
        "what do bees make",
        "Bees make honey out of nectar.",
        "Cows eat grass and hay.",
    ),
    (
        "reset a forgotten password",
        "If you have forgotten it, reset your password with the link on the login page.",
        "You can pay by card or by bank transfer.",
    ),
    (
        "why is the sky blue",
        "The sky is blue because air scatters blue light more than red light.",
        "Grass grows fast in spring because there is more rain.",
    ),
    (
        "how tall is Mount Everest",
        "Mount Everest is 8,849 metres tall.",
        "The Nile is about 6,650 kilometres long.",
    ),
    (
        "benefits of regular exercise",
        "The benefits of regular exercise are a stronger heart, better sleep and a lower risk of diabetes.",
        "The bus to the airport leaves every twenty minutes.",
    ),
)
PAIRS: tuple[tuple[str, str], ...] = tuple((query, document) for query, *documents in TRIPLES for document in documents)


def require_order(scores: Sequence[float]) -> None:
    """Raise `TeacherServerError` unless scores of `PAIRS` put the answer above the wrong document for at least `MIN_RIGHT` queries."""
    rows = np.asarray(scores, dtype=np.float64).reshape(len(TRIPLES), 2)
    num_right = int((rows[:, 0] > rows[:, 1]).sum())
    if num_right < MIN_RIGHT:
        raise TeacherServerError(
            f"the server orders {num_right} of {len(TRIPLES)} plain English questions rightly, expected at least {MIN_RIGHT}: it "
            "answers 200 but ranks like chance. Its template is not applied, its pooling is wrong, or the model is no reranker; "
            "compare it with the model's own example, then try again"
        )


def value_space(scores: Sequence[float]) -> ValueSpace:
    """What scores of `PAIRS` are: outputs of a sigmoid where all lie in [0, 1], else logits.

    Raises:
        TeacherServerError: outputs of a sigmoid that cannot be turned back, because too many are 0, 1 or equal.
    """
    found = np.asarray(scores, dtype=np.float64)
    if found.min() < 0 or found.max() > 1:
        return "logit"
    num_saturated = int(is_saturated(found).sum())
    num_tied = len(found) - len(np.unique(found))
    if num_saturated + num_tied > _MAX_LOST:
        raise TeacherServerError(
            f"the server gives probabilities that cannot be turned back into logits: of {len(found)} scores {num_saturated} are "
            f"within {SATURATED:g} of 0 or 1 and {num_tied} equal another, expected at most {_MAX_LOST} together; switch its "
            "sigmoid off, or serve the model in fp32"
        )
    return "sigmoid"


def as_logits(scores: np.ndarray, space: ValueSpace) -> np.ndarray:
    """Logits, float64 (n,), of a server's scores.

    Raises:
        TeacherServerError: a score is no probability although the canary's all were.
    """
    found = np.asarray(scores, dtype=np.float64)
    if space == "logit":
        return found
    if len(found) and (found.min() < 0 or found.max() > 1):
        raise TeacherServerError(
            f"the server gave scores from {found.min():g} to {found.max():g}, expected probabilities, as it gave for the canary: "
            "it was changed since; nothing of this chunk is stored"
        )
    return logits_of_probabilities(found)


def require_same(before: Sequence[float], now: Sequence[float], whose: str, next_step: str) -> None:
    """Raise `TeacherServerError` where two scorings of `PAIRS`, as logits, differ by more than `TOLERANCE` of the first one's spread.

    Args:
        before: 32 logits.
        now: 32 logits.
        whose: what is compared, as the subject of the error's sentence.
        next_step: what the user can do.
    """
    differences = np.abs(np.asarray(now, dtype=np.float64) - np.asarray(before, dtype=np.float64))
    drift = float(differences.max() / max(1e-9, float(np.std(before))))
    if drift > TOLERANCE:
        query, document = PAIRS[int(differences.argmax())]
        raise TeacherServerError(
            f"{whose} differ by {drift:.0%} of their spread, expected at most {TOLERANCE:.0%}; most for {query!r} and {document!r}: "
            f"{next_step}"
        )
