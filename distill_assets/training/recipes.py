"""Recipes: everything that changes the numbers of a model, as frozen values that are checked at birth.

Device, precision and batch sizes of pure inference are not here: they change the speed alone.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from distill_assets.errors import SettingsError, UnknownRecipeError
from distill_assets.records import HARD_LABELS, RESERVED_SYSTEMS, fingerprint

Sampling = Literal["top", "stratified", "random"]
Positives = Literal["found", "human", "teacher"]
TeacherLogits = Literal["raw", "standardised"]
Trained = Literal["both", "query_tower"]
TeacherMember = Literal["cross_encoder", "bi_encoder"]  # of the bundled teacher, whose scores are summed

INFO_NCE = "info_nce"
LEARNED = "learned"
LISTWISE_LOSSES: tuple[str, ...] = ("margin_mse", "kl", "ranknet", "adr_mse")  # each fits the teacher's view of a list
LOSSES: tuple[str, ...] = (*LISTWISE_LOSSES, INFO_NCE)
_MAY_BE_0 = frozenset({"num_random", "lora_rank", "seed"})
# A field that was added after models had been stored: it is hashed only where it differs from its default. Their ids stay valid.
LATER: Mapping[str, bool] = {"is_later": True}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train a student.

    A *list* is what a query is trained on: a positive, `num_negatives` mined negatives, `num_random` random documents. The teacher
    has a logit for the positive and the mined negatives. Random documents have none and are read by ``info_nce`` alone.

    Attributes:
        name: partition key and row of the leaderboard.
        loss: ``hard_labels`` (InfoNCE on the human labels, no teacher), one of `LOSSES`, or weights of several:
            ``{"kl": 1.0, "info_nce": 0.1}``. Formulas and sources are in `training/losses.py`.
        positives: ``found``: a judged document that search finds; where it finds none of the query's, any of them. Negatives are
            always found by search, so with any judged document as positive "less similar" comes to mean "relevant" where many are
            judged (docs/results.md). ``human``: any judged document. ``teacher``: the candidate that the teacher puts first, so that a
            query without any human label can be trained on; a judged document is one of the candidates.
        num_positives: at most this many judged documents of a query, each with a list of its own, drawn anew each epoch.
        sampling: which of the mined candidates. ``top``: the first ones as mined. ``random``: any, drawn anew each epoch.
            ``stratified``: over the range of the teacher's logits, drawn anew each epoch (`training.lists.draw_stratified`). The last
            two draw from all candidates that the teacher scored, for ``hard_labels`` from all that were mined.
        num_random: documents drawn from the whole corpus, anew each epoch; for ``info_nce``.
        teacher_logits: ``standardised`` divides the logits by their spread within a list (root mean square over the training
            set). Scales and temperatures then mean the same for a teacher with margins of 2 and one with margins of 20.
        margin_scale: ``margin_mse``: multiplies the cosine before margins are compared. Cosine margins live in [-2, 2] and logit
            margins do not (sentence-transformers #3540). ``"learned"`` trains it along, from 10 times the logits' spread.
        teacher_temperature: ``kl`` and ``ranknet``: divides the teacher's logits.
        student_temperature: ``kl``, ``ranknet`` and ``adr_mse``: divides the cosine. CADET: 0.05 (with 0.3 for its teacher, whose
            logits it maps to 0..1).
        cosine_scale: ``info_nce``: multiplies the cosine (1 / temperature); 20 is sentence-transformers' default.
        mask_above: ``info_nce``: leave out a list's negative that the teacher puts above this share of the positive, both mapped
            to 0..1 between the 1st and 99th percentile of the training set's logits (CADET: 0.6); None leaves out none.
        train: ``query_tower``: only the side that embeds queries. Documents keep the untouched student's vectors, so a new student
            needs no new index.
        batch_size: queries per step; in-batch negatives grow with it.
        mini_batch_size: texts per forward pass whose activations are computed again when the gradient is taken: memory of a small
            batch, gradient of the large one (as GradCache, arXiv 2101.06983). None keeps all activations.
        learning_rate: peak of a linear schedule.
        warmup_share: share of the steps spent warming up.
        max_queries: at most this many training queries, chosen by hash; None for all.
        seed: order of the lists, what is drawn, dropout.
    """

    name: str
    loss: str | dict[str, float]
    positives: Positives = "found"
    num_positives: int = 1
    num_negatives: int = 1
    sampling: Sampling = "top"
    num_random: int = 0
    teacher_logits: TeacherLogits = "raw"
    margin_scale: float | str = 20.0
    teacher_temperature: float = 1.0
    student_temperature: float = 0.05
    cosine_scale: float = 20.0
    mask_above: float | None = None
    train: Trained = "both"
    epochs: int = 1
    batch_size: int = 32
    mini_batch_size: int | None = None
    learning_rate: float = 5e-5
    warmup_share: float = 0.1
    max_queries: int | None = None
    seed: int = 13

    def __post_init__(self) -> None:
        require_recipe_name(self.name)
        owner = f"recipe {self.name!r}"
        object.__setattr__(self, "loss", _normalised_loss(owner, self.loss))
        _check_fields(owner, self)
        _refuse_contradictions(owner, self)

    @property
    def fingerprint(self) -> str:
        """Changes when any field changes; not when a later version brings a field that is left at its default."""
        return fingerprint(*sorted(hashed_fields(self).items()))

    @property
    def loss_weights(self) -> dict[str, float]:
        """Loss -> weight; ``hard_labels`` is ``info_nce`` alone."""
        if isinstance(self.loss, dict):
            return dict(self.loss)
        return {INFO_NCE if self.loss == HARD_LABELS else self.loss: 1.0}

    @property
    def uses_teacher(self) -> bool:
        """Whether training reads teacher logits."""
        reads = any(name in LISTWISE_LOSSES for name in self.loss_weights)
        return reads or self.mask_above is not None or self.positives == "teacher" or self.sampling == "stratified"


def _normalised_loss(owner: str, loss: object) -> str | dict[str, float]:
    """The loss in one way of writing: a table sorted by name; a name where one loss has weight 1."""
    if isinstance(loss, str) and (loss == HARD_LABELS or loss in LOSSES):
        return loss
    if not isinstance(loss, Mapping):
        raise SettingsError(
            f"{owner}: loss {loss!r} is not one of {', '.join((*LOSSES, HARD_LABELS))}, nor a table of weights such as "
            "{ kl = 1.0, info_nce = 0.1 }"
        )
    unknown = sorted(str(name) for name in loss if name not in LOSSES)
    if unknown or not loss:
        raise SettingsError(
            f"{owner}: loss names {', '.join(unknown) or 'nothing'}: expected weights for one or more of {', '.join(LOSSES)}"
        )
    _refuse(owner, [_wrong_number(f"loss.{name}", weight) for name, weight in loss.items()])
    weights = {name: float(loss[name]) for name in sorted(loss)}
    only = next(iter(weights))
    return only if weights == {only: 1.0} else weights


def _refuse_contradictions(owner: str, recipe: Recipe) -> None:
    """Raise `SettingsError` for fields that cannot go together, or that the recipe's losses would never read."""
    reads_in_batch = INFO_NCE in recipe.loss_weights
    reads_lists = any(name in LISTWISE_LOSSES for name in recipe.loss_weights)
    contradictions = [
        (recipe.loss == HARD_LABELS and recipe.uses_teacher, "loss hard_labels reads no teacher, but positives, sampling or "
         "mask_above do: write loss = \"info_nce\" for the same loss with a teacher's choice of pairs"),
        (recipe.num_random > 0 and not reads_in_batch, "num_random documents have no teacher logit and are read by info_nce "
         "alone: give info_nce a weight in loss, or leave num_random out"),
        (recipe.mask_above is not None and not reads_in_batch, "mask_above acts on info_nce alone: give info_nce a weight in "
         "loss, or leave mask_above out"),
        (recipe.positives == "teacher" and recipe.num_positives > 1, "positives = \"teacher\" is the one candidate that the "
         "teacher puts first: leave num_positives out, or set positives = \"found\""),
        (recipe.teacher_logits == "standardised" and not reads_lists, f"teacher_logits is read by "
         f"{', '.join(LISTWISE_LOSSES)} alone: leave it out"),
        (recipe.margin_scale == LEARNED and "margin_mse" not in recipe.loss_weights, "margin_scale is read by margin_mse "
         "alone: leave it out, or give margin_mse a weight in loss"),
    ]  # fmt: skip
    _refuse(owner, [text for is_wrong, text in contradictions if is_wrong])


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """How a cross-encoder is grown from an encoder, or fine-tuned further, on the human labels.

    Listwise softmax over one positive, `num_hard` mined and `num_random` random negatives per query.

    Attributes:
        num_queries: training queries per epoch, chosen by seed; None for all.
        positives: ``found`` or ``human``, as in `Recipe`. The default is what older versions did; the settings say ``found``.
        lora_rank: train low-rank adapters of this rank (Hu et al. 2021) in place of all weights; 0 trains all.
    """

    epochs: int = 1
    num_queries: int | None = 1000
    positives: Literal["found", "human"] = field(default="human", metadata=LATER)
    num_hard: int = 3
    num_random: int = 1
    batch_size: int = 16
    learning_rate: float = 1e-4
    warmup_share: float = 0.06
    lora_rank: int = 0
    max_length: int = 128
    seed: int = 7

    def __post_init__(self) -> None:
        _check_fields("teacher", self)

    @property
    def fingerprint(self) -> str:
        """As `Recipe.fingerprint`."""
        return fingerprint(*sorted(hashed_fields(self).items()))


def hashed_fields(recipe: Recipe | TeacherRecipe) -> dict[str, Any]:
    """The fields that a recipe's id is made of: a `LATER` one only where it is set.

    Student recipes had the field `rounds`. It is gone, and its constant 1 keeps the ids of stored students.
    """
    is_default = {f.name: bool(f.metadata) and getattr(recipe, f.name) == f.default for f in fields(recipe)}
    found = {name: value for name, value in asdict(recipe).items() if not is_default[name]}
    return found | {"rounds": 1} if isinstance(recipe, Recipe) else found


def _check_fields(owner: str, recipe: Recipe | TeacherRecipe) -> None:
    """Raise `SettingsError` naming every value that its field's type or range does not allow; a settings file can hold 2.5 or true.

    Numbers of fields that hold a float become floats: 10 and 10.0 are one recipe, and so are 0.0 and -0.0.
    """
    _refuse(owner, [_wrong_value(of.name, getattr(recipe, of.name), of.type) for of in fields(recipe)])
    for of in fields(recipe):
        value = getattr(recipe, of.name)
        if float in (of.type, *get_args(of.type)) and isinstance(value, int | float):
            object.__setattr__(recipe, of.name, float(value) + 0.0)  # -0.0 + 0.0 is 0.0


def _wrong_value(name: str, value: Any, kind: Any) -> str:
    """What is wrong with a value for a field of this type; nothing where all is well."""
    kinds = get_args(kind) or (kind,)
    if get_origin(kind) is Literal:
        return "" if value in kinds else f"{name} = {value!r} is not one of {', '.join(kinds)}"
    if (value is None and NoneType in kinds) or (name == "margin_scale" and value == LEARNED):
        return ""
    if int in kinds:
        least = 0 if name in _MAY_BE_0 else 1
        is_good = type(value) is int and value >= least
        return "" if is_good else f"{name} = {value!r}: expected a whole number of {least} or more"
    return _wrong_number(name, value) if float in kinds else ""


def _wrong_number(name: str, value: Any) -> str:
    """What is wrong with a number that must be finite and above 0, or with a share; nothing where all is well."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)  # true of a settings file is an int
    if name == "warmup_share":
        is_good, expected = is_number and 0.0 <= value < 1.0, "a number from 0 up to below 1"
    else:
        is_good, expected = is_number and 0.0 < value < float("inf"), "a number above 0"
    return "" if is_good else f"{name} = {value!r}: expected {expected}"


def _refuse(owner: str, wrong: list[str]) -> None:
    if any(wrong):
        raise SettingsError(f"{owner}: {'; '.join(filter(None, wrong))}")


def require_recipe_name(name: str) -> str:
    """Return `name` if it may name a recipe (a partition key and a folder), else raise `SettingsError`."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,49}", name):
        raise SettingsError(
            f"{name!r} cannot name a recipe: expected 1 to 50 of a-z, 0-9 and _, starting with a letter"
        )
    if name in RESERVED_SYSTEMS:
        raise SettingsError(f"{name!r} cannot name a recipe: the leaderboard uses {', '.join(RESERVED_SYSTEMS)} itself")
    return name


def find_recipe(recipes: dict[str, Recipe], name: str) -> Recipe:
    """Return the recipe of that name. Raises `UnknownRecipeError` that lists those there are."""
    if name not in recipes:
        raise UnknownRecipeError(
            f"no recipe {name!r}: there are {', '.join(sorted(recipes)) or 'none'}; see distill.toml"
        )
    return recipes[name]


def derive_recipe(name: str, table: Mapping[str, Any], like: str | None) -> Recipe:
    """The recipe `name` from a table of fields; those it leaves out are the built-in recipe `like`'s, or the defaults.

    Raises:
        SettingsError: a field that no recipe has, a value that cannot be, no such built-in recipe.
    """
    base: dict[str, Any] = {}
    if like is not None:
        if like not in BUILT_IN_RECIPES:
            known = ", ".join(sorted(BUILT_IN_RECIPES))
            raise SettingsError(f"recipe {name!r}: like = {like!r} is no built-in recipe: expected one of {known}")
        base = {field.name: getattr(BUILT_IN_RECIPES[like], field.name) for field in fields(Recipe)}
    try:
        return Recipe(**{**base, **table, "name": name})
    except TypeError as error:
        raise SettingsError(f"recipe {name!r}: {error}") from error


BUILT_IN_RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # Two epochs each, so that all take the same steps: chosen on dev for kl (docs/results.md), hard_labels gains nothing there.
        Recipe(name=HARD_LABELS, loss=HARD_LABELS, epochs=2),
        # Chosen on dev (docs/results.md): ahead of hard_labels on python_api and SciFact.
        Recipe(
            name="kl",
            loss={"kl": 1.0, INFO_NCE: 2.0},
            teacher_logits="standardised",
            teacher_temperature=0.5,
            num_negatives=5,
            sampling="stratified",
            epochs=2,
            mini_batch_size=32,  # all activations of a step take 1.5 GB
        ),
        Recipe(
            name="margin_mse",
            loss={"margin_mse": 1.0, INFO_NCE: 1.0},
            teacher_logits="standardised",
            margin_scale=10.0,
            num_negatives=5,
            sampling="stratified",
            epochs=2,
            mini_batch_size=32,
        ),
    )
}
