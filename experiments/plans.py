"""A plan: what a study varies, read from a TOML file.

seeds = 3                    # of each recipe, from 13 on
shares = [0.1, 1.0]          # of the train queries that keep their labels; or, in place of shares:
[teachers.NAME]              # settings whose names start with "teacher"
[settings]                   # as in distill.toml, over which they are laid
[recipes.NAME]               # as in distill.toml
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from distill_assets.errors import SettingsError
from distill_assets.settings.values import BUNDLED, load_settings
from distill_assets.training.recipes import BUILT_IN_RECIPES, Recipe
from experiments.shares import StudyProject

FIRST_SEED = 13
_OWN = ("recipes", "skip_recipes", "data_folder")  # settings that the study itself sets


def seeded_name(recipe: str, seed: int) -> str:
    """The recipe of one seed, as a partition of the line."""
    return f"{recipe}_seed_{seed}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study varies.

    Attributes:
        recipes: tables as in distill.toml, by name.
        settings: laid over distill.toml, in every variant.
        teachers: settings of each teacher, by its name; none: the one teacher that the settings give.
        shares: of the train queries that keep their labels, each above 0 and up to 1; none: all keep them.
        num_seeds: trainings of each recipe.
    """

    recipes: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    teachers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    num_seeds: int = 1

    def __post_init__(self) -> None:
        """Raise `SettingsError` for a plan that cannot be run."""
        if not self.recipes or self.num_seeds < 1:
            raise SettingsError("the plan has no [recipes.NAME] table, or no seed: a study needs at least one of each")
        if self.teachers and self.shares:
            raise SettingsError("the plan varies teachers and shares: write two plans, each is read for itself")
        if not all(0 < share <= 1 for share in self.shares):
            raise SettingsError(f"shares = {list(self.shares)}: expected numbers above 0 and up to 1")
        own = sorted({*self.settings} & {*_OWN})
        if own:
            raise SettingsError(f"[settings] has {', '.join(own)}, which the study sets itself: remove them")
        wrong = sorted({key for table in self.teachers.values() for key in table if not key.startswith("teacher")})
        if wrong:
            raise SettingsError(
                f"a teacher of the plan sets {', '.join(wrong)}: expected settings that start with teacher"
            )

    @property
    def experiment(self) -> str:
        """What is compared: `recipes`, `teachers` or `labels`."""
        return "teachers" if self.teachers else "labels" if self.shares else "recipes"

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        return [FIRST_SEED + i for i in range(self.num_seeds)]

    def resolved_recipes(self) -> dict[str, Recipe]:
        """The recipes with every field, in the plan's order, as the settings would have them."""
        skipped = tuple(sorted({*BUILT_IN_RECIPES} - {*self.recipes}))
        found = load_settings(**self.settings, recipes=self.recipes, skip_recipes=skipped).all_recipes
        return {name: found[name] for name in self.recipes}

    def variants(self, data_folder: Path) -> Iterator[tuple[str, StudyProject]]:
        """(label, project) of each variant; all share one data folder, and so what was scored and embedded.

        Raises:
            SettingsError: labels are hidden from a teacher that saw them long ago.
        """
        recipes = self.resolved_recipes()
        changes: dict[str, Any] = {
            **self.settings,
            "data_folder": str(data_folder),
            "recipes": {
                seeded_name(name, seed): recipe_table(r, seed) for name, r in recipes.items() for seed in self.seeds
            },
            "skip_recipes": tuple(BUILT_IN_RECIPES),
        }
        for name, teacher in self.teachers.items():
            yield name, StudyProject(overrides=changes | dict(teacher))
        for share in () if self.teachers else self.shares or (1.0,):
            project = StudyProject(overrides=changes, share=share)
            if share < 1 and project.models.teacher_choice == BUNDLED:
                raise SettingsError(
                    'the bundled teacher was trained on the labels that shares hide: set teacher = "packaged"'
                )
            yield f"{100 * share:g}%" if self.shares else "", project


def read_plan(path: Path, num_seeds: int | None = None) -> Plan:
    """The plan in a TOML file; `num_seeds` wins over its own.

    Raises:
        SettingsError: it cannot be read, or says what no plan can.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is no plan: {error}") from error
    allowed = {"seeds", "shares", "settings", "teachers", "recipes"}
    unknown = sorted({*table} - allowed)
    if unknown:
        raise SettingsError(f"{path} has {', '.join(unknown)}: a plan has {', '.join(sorted(allowed))}")
    return Plan(
        recipes=table.get("recipes", {}),
        settings=table.get("settings", {}),
        teachers=table.get("teachers", {}),
        shares=tuple(table.get("shares", ())),
        num_seeds=num_seeds or table.get("seeds", 1),
    )


def recipe_table(recipe: Recipe, seed: int) -> dict[str, Any]:
    """A recipe with another seed as a table of settings; None is every such field's default."""
    fields = asdict(replace(recipe, seed=seed))
    return {name: value for name, value in fields.items() if name != "name" and value is not None}
