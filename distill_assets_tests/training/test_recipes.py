"""Recipes: refused at birth when wrong, and told apart by every field."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_assets.errors import SettingsError, UnknownRecipeError
from distill_assets.records import RESERVED_SYSTEMS
from distill_assets.training.recipes import (
    BUILT_IN_RECIPES,
    LATER,
    Recipe,
    TeacherRecipe,
    find_recipe,
    require_recipe_name,
)

RECIPE = Recipe(name="mine", loss={"margin_mse": 1.0, "info_nce": 1.0})
OTHER_WORDS = {"human": "found", "found": "human", "top": "stratified", "raw": "standardised", "both": "query_tower"}


def other_value(value: Any) -> Any:
    """A valid value that differs."""
    if isinstance(value, dict):
        return "margin_mse"
    if isinstance(value, str):
        return OTHER_WORDS.get(value, value + "_x")
    return 7 if value is None else value / 2 if isinstance(value, float) and value else value + 1


@pytest.mark.parametrize("recipe", [RECIPE, TeacherRecipe()], ids=["student", "teacher"])
def test_every_field_changes_the_fingerprint(recipe: Any) -> None:
    """A field left out of the fingerprint would let an old checkpoint stand for a changed recipe."""
    changed = {f.name: replace(recipe, **{f.name: other_value(getattr(recipe, f.name))}) for f in fields(recipe)}
    prints = {name: other.fingerprint for name, other in changed.items()}
    assert len(set(prints.values())) == len(prints)
    assert recipe.fingerprint not in prints.values()


def test_fingerprints_are_those_of_stored_checkpoints() -> None:
    """Another fingerprint of the same recipe trains every stored student and teacher again.

    The built-in ones took any judged document as positive until "found" was their default.
    """
    any_judged = {name: replace(recipe, positives="human") for name, recipe in BUILT_IN_RECIPES.items()}
    assert {name: recipe.fingerprint for name, recipe in any_judged.items()} == {
        "hard_labels": "e6435822d3a5a26eefa508961a3ff3d8",
        "kl": "3bb55d3032c49ffb03def26c5108449a",
        "margin_mse": "3c3490a5dfaec086e1c743807cff0e57",
    }
    learned = Recipe(name="a", loss="margin_mse", margin_scale="learned", positives="human")
    assert learned.fingerprint == "e860d80de4c14322a61f2f2cc15dd8ad"
    assert TeacherRecipe().fingerprint == "2bd95989be9f4bfd929609350dbea3b0"


@dataclass(frozen=True, kw_only=True)
class _LaterRecipe(Recipe):
    """A recipe of a later version, with one field more."""

    label_smoothing: float = field(default=0.5, metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class _LaterTeacherRecipe(TeacherRecipe):
    label_smoothing: float = field(default=0.5, metadata=LATER)


@pytest.mark.parametrize(
    ("recipe", "later"),
    [(Recipe(name="a", loss="kl"), _LaterRecipe(name="a", loss="kl")), (TeacherRecipe(), _LaterTeacherRecipe())],
    ids=["student", "teacher"],
)
def test_a_field_of_a_later_version_counts_where_it_is_set(recipe: Any, later: Any) -> None:
    """Each new field would train every stored model again. One that never counts leaves a changed recipe with its old model."""
    assert later.fingerprint == recipe.fingerprint
    assert replace(later, label_smoothing=0.1).fingerprint != recipe.fingerprint
    assert replace(later, seed=99).fingerprint == replace(recipe, seed=99).fingerprint != recipe.fingerprint


_REALS = [f.name for f in fields(Recipe) if "float" in str(f.type) and f.name not in ("loss", "warmup_share")]


@given(st.sampled_from(_REALS), st.integers(1, 10**6))
def test_a_whole_number_is_the_same_recipe_as_its_real_one(name: str, number: int) -> None:
    """A settings file holds 10 or 10.0: as two recipes, rewriting it trains the student again."""
    whole, real = replace(RECIPE, **{name: number}), replace(RECIPE, **{name: float(number)})
    assert whole.fingerprint == real.fingerprint
    assert repr(whole) == repr(real)


def test_numbers_of_a_teacher_recipe_have_one_way_of_writing() -> None:
    """The same for the teacher, whose training takes longest; -0.0 equals 0 and is written otherwise."""
    assert TeacherRecipe(learning_rate=1).fingerprint == TeacherRecipe(learning_rate=1.0).fingerprint
    assert len({TeacherRecipe(warmup_share=share).fingerprint for share in (0, 0.0, -0.0)}) == 1
    assert len({replace(RECIPE, warmup_share=share).fingerprint for share in (0, 0.0, -0.0)}) == 1


def test_equal_recipes_have_equal_fingerprints() -> None:
    """An unstable fingerprint would train every recipe again on every run."""
    again = Recipe(loss={"info_nce": 1.0, "margin_mse": 1}, name="mine")
    assert again.fingerprint == RECIPE.fingerprint == replace(RECIPE).fingerprint
    assert Recipe(name="a", loss={"kl": 1.0}).fingerprint == Recipe(name="a", loss="kl").fingerprint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_negatives", 0),
        ("epochs", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("cosine_scale", -20.0),
        ("margin_scale", 0.0),
        ("max_queries", 0),
        ("warmup_share", 1.0),
        ("warmup_share", -0.1),
        ("warmup_share", float("nan")),
        ("loss", "margin"),
        ("loss", {}),
        ("loss", {"margin": 1.0}),
        ("loss", {"hard_labels": 1.0}),
        ("loss", {"kl": 0.0}),
        ("loss", {"kl": float("nan")}),
        ("loss", 3),
        ("sampling", "hard"),
        ("positives", "best"),
        ("teacher_logits", "scaled"),
        ("margin_scale", "learn"),
        ("teacher_temperature", 0.0),
        ("student_temperature", -1.0),
        ("mask_above", 0.0),
        ("num_random", -1),
        ("num_random", 0.5),
        ("num_positives", 0),
        ("train", "document_tower"),
        ("mini_batch_size", 0),
        ("batch_size", 2.5),
        ("epochs", True),
        ("seed", 1.0),
        ("learning_rate", float("inf")),
        ("learning_rate", True),
        ("warmup_share", False),
        ("warmup_share", "0.1"),
    ],
)
def test_bad_fields_are_refused_by_name(field: str, value: Any) -> None:
    """Most of these train without an error and give a model that is quietly worse."""
    with pytest.raises(SettingsError, match=field):
        replace(RECIPE, **{field: value})


@pytest.mark.parametrize(
    ("fields_", "words"),
    [
        ({"loss": "hard_labels", "positives": "teacher"}, "hard_labels reads no teacher"),
        ({"loss": "hard_labels", "sampling": "stratified"}, "hard_labels reads no teacher"),
        ({"loss": "hard_labels", "mask_above": 0.6}, "hard_labels reads no teacher"),
        ({"loss": "kl", "num_random": 2}, "num_random.*give info_nce a weight"),
        ({"loss": "kl", "mask_above": 0.6}, "mask_above acts on info_nce"),
        ({"loss": "kl", "positives": "teacher", "num_positives": 2}, "leave num_positives out"),
        ({"loss": "info_nce", "teacher_logits": "standardised"}, "teacher_logits is read by"),
        ({"loss": "kl", "margin_scale": "learned"}, "margin_scale is read by margin_mse"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields_: dict[str, Any], words: str) -> None:
    """A field that nothing reads makes two rows of an ablation table the same experiment under two names."""
    with pytest.raises(SettingsError, match=words):
        Recipe(name="mine", **fields_)


@pytest.mark.parametrize(
    ("fields_", "uses_teacher"),
    [
        ({"loss": "hard_labels"}, False),
        ({"loss": "info_nce"}, False),
        ({"loss": "info_nce", "mask_above": 0.6}, True),
        ({"loss": "info_nce", "positives": "teacher"}, True),
        ({"loss": "info_nce", "sampling": "stratified"}, True),
        ({"loss": "hard_labels", "sampling": "random"}, False),
        ({"loss": "adr_mse"}, True),
        ({"loss": {"info_nce": 1.0, "ranknet": 0.1}}, True),
    ],
)
def test_who_reads_the_teacher(fields_: dict[str, Any], uses_teacher: bool) -> None:
    """A recipe that reads logits and does not say so is not trained again when they change, or finds none."""
    assert Recipe(name="mine", **fields_).uses_teacher == uses_teacher


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("num_queries", 0),
        ("num_hard", 0),
        ("learning_rate", -1.0),
        ("num_random", -1),
        ("lora_rank", -1),
        ("warmup_share", 1.0),
        ("num_queries", 2.5),
        ("seed", 1.0),
        ("epochs", True),
    ],
)
def test_bad_teacher_fields_are_refused_by_name(field: str, value: Any) -> None:
    """A teacher takes the longest to train: its recipe must fail before, not after."""
    with pytest.raises(SettingsError, match=field):
        replace(TeacherRecipe(), **{field: value})


def test_wrong_fields_are_named_all_at_once() -> None:
    """Naming one per run makes the user run once per mistake."""
    with pytest.raises(SettingsError, match=r"recipe 'mine': .*num_negatives = 0.*; cosine_scale = -1.*; epochs = 2.5"):
        replace(RECIPE, num_negatives=0, cosine_scale=-1, epochs=2.5)


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a-b", "a/b", "..", "ä", "a" * 51, "two\n", *RESERVED_SYSTEMS])
def test_names_that_break_folders_or_the_leaderboard_are_refused(name: str) -> None:
    """A recipe named like a system of the leaderboard would overwrite that row; one with a slash would leave its folder."""
    with pytest.raises(SettingsError, match="cannot name a recipe"):
        require_recipe_name(name)


@pytest.mark.parametrize("name", ["a", "margin_mse_2", "a" * 50])
def test_good_names_pass(name: str) -> None:
    """The limits themselves are allowed."""
    assert require_recipe_name(name) == name


def test_find_recipe_lists_those_there_are() -> None:
    """A typo must show the right spelling."""
    assert find_recipe(BUILT_IN_RECIPES, "margin_mse").uses_teacher
    with pytest.raises(UnknownRecipeError, match="hard_labels, kl, margin_mse"):
        find_recipe(BUILT_IN_RECIPES, "margin")


def test_only_hard_labels_trains_without_a_teacher() -> None:
    """A baseline marked as distilled would wait for teacher scores, and a distilled one without would skip them."""
    assert {name: recipe.uses_teacher for name, recipe in BUILT_IN_RECIPES.items()} == {
        "hard_labels": False,
        "kl": True,
        "margin_mse": True,
    }
