"""Recipes: everything that changes the numbers of a model, as frozen values that are checked at birth.

Device, precision and batch sizes of pure inference are not here: they change the speed alone.
"""

import re
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from distill_assets.core.errors import SettingsError, UnknownRecipeError
from distill_assets.core.records import fingerprint

StudentLoss = Literal["margin_mse", "hard_labels"]
TeacherMember = Literal["cross_encoder", "bi_encoder"]  # of the bundled teacher, whose scores are summed


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train a student.

    Attributes:
        name: partition key and row of the leaderboard.
        loss: ``margin_mse`` fits the teacher's margins; ``hard_labels`` is InfoNCE on the human labels alone.
        num_negatives: hard negatives per query, drawn from the mined list with `seed`.
        epochs: passes over the training groups.
        batch_size: queries per step; in-batch negatives grow with it.
        learning_rate: peak of a linear schedule with `warmup_share` warm-up.
        warmup_share: share of the steps spent warming up.
        cosine_scale: multiplies the cosine in the softmax (1 / temperature); 20 is sentence-transformers' default.
        margin_scale: multiplies the cosine before margins are compared with the teacher's. Cosine margins live in
            [-2, 2] and logit margins do not, so one of the two has to be scaled (sentence-transformers #3540).
        in_batch_weight: weight of in-batch InfoNCE added to the Margin-MSE loss; 0 leaves it out. Measured to help
            dense students (TAS-B uses 0.75 on its in-batch part, CADET 0.1).
        max_queries: at most this many training queries, chosen by hash; None for all.
        seed: order of the groups, choice of negatives, dropout.
    """

    name: str
    loss: StudentLoss
    num_negatives: int = 1
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 5e-5
    warmup_share: float = 0.1
    cosine_scale: float = 20.0
    margin_scale: float = 20.0
    in_batch_weight: float = 0.0
    max_queries: int | None = None
    seed: int = 13

    def __post_init__(self) -> None:
        require_recipe_name(self.name)
        if self.loss not in get_args(StudentLoss):
            raise SettingsError(
                f"recipe {self.name!r}: loss {self.loss!r} is not one of {', '.join(get_args(StudentLoss))}"
            )
        require_whole(
            f"recipe {self.name!r}",
            num_negatives=self.num_negatives,
            epochs=self.epochs,
            batch_size=self.batch_size,
            max_queries=1 if self.max_queries is None else self.max_queries,
            seed=self.seed,
        )
        require_positive(
            f"recipe {self.name!r}",
            num_negatives=self.num_negatives,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            cosine_scale=self.cosine_scale,
            margin_scale=self.margin_scale,
            max_queries=1 if self.max_queries is None else self.max_queries,
        )
        if not 0.0 <= self.warmup_share < 1.0:
            raise SettingsError(
                f"recipe {self.name!r}: warmup_share is {self.warmup_share:g}, expected 0 up to below 1"
            )
        if not self.in_batch_weight >= 0:  # refuses NaN too
            raise SettingsError(
                f"recipe {self.name!r}: in_batch_weight is {self.in_batch_weight:g}, expected 0 or more"
            )

    @property
    def fingerprint(self) -> str:
        """Changes when any field changes."""
        return fingerprint(*sorted(asdict(self).items()))

    @property
    def uses_teacher(self) -> bool:
        """Whether training reads teacher logits."""
        return self.loss != "hard_labels"


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """How a cross-encoder is grown from an encoder, or fine-tuned further, on the human labels.

    Listwise softmax over one positive, `num_hard` mined and `num_random` random negatives per query.

    Attributes:
        num_queries: training queries per epoch, chosen by seed; None for all.
        lora_rank: train low-rank adapters of this rank (Hu et al. 2021) in place of all weights; 0 trains all.
    """

    epochs: int = 1
    num_queries: int | None = 1000
    num_hard: int = 3
    num_random: int = 1
    batch_size: int = 16
    learning_rate: float = 1e-4
    warmup_share: float = 0.06
    lora_rank: int = 0
    max_length: int = 128
    seed: int = 7

    def __post_init__(self) -> None:
        require_positive(
            "teacher",
            epochs=self.epochs,
            num_queries=1 if self.num_queries is None else self.num_queries,
            num_hard=self.num_hard,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            max_length=self.max_length,
        )
        if self.num_random < 0 or self.lora_rank < 0 or not 0.0 <= self.warmup_share < 1.0:
            raise SettingsError("teacher: num_random and lora_rank must be 0 or more, warmup_share 0 up to below 1")

    @property
    def fingerprint(self) -> str:
        """Changes when any field changes."""
        return fingerprint(*sorted(asdict(self).items()))


def require_positive(owner: str, **values: float) -> None:
    """Raise `SettingsError` naming every value that is not a finite number above 0."""
    wrong = {
        n: value for n, value in values.items() if not (isinstance(value, int | float) and 0 < value < float("inf"))
    }
    if wrong:
        listed = ", ".join(f"{name} = {value!r}" for name, value in wrong.items())
        raise SettingsError(f"{owner}: {listed}: expected a number above 0")


def require_whole(owner: str, **values: int) -> None:
    """Raise `SettingsError` naming every value that is not an integer; a settings file can hold 2.5 or true."""
    wrong = {name: value for name, value in values.items() if type(value) is not int}
    if wrong:
        listed = ", ".join(f"{name} = {value!r}" for name, value in wrong.items())
        raise SettingsError(f"{owner}: {listed}: expected a whole number")


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


BM25, UNTOUCHED_STUDENT, TEACHER = "bm25", "untouched_student", "teacher"
RESERVED_SYSTEMS: tuple[str, ...] = (BM25, UNTOUCHED_STUDENT, TEACHER)
BUILT_IN_RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="hard_labels", loss="hard_labels"),
        Recipe(name="margin_mse", loss="margin_mse", num_negatives=2, in_batch_weight=5.0),
    )
}
