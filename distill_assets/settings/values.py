"""Every setting, typed, with its default and meaning.

Read from `distill.toml` (or the file that DISTILL_SETTINGS names) and from `DISTILL_*` environment variables, which win:
`DISTILL_COLLECTION=beir:PATH`, `DISTILL_PACKAGES='["numpy"]'`. Unknown keys and bad values are refused.
"""

import os
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from distill_assets.errors import SettingsError
from distill_assets.training.recipes import BUILT_IN_RECIPES, Recipe, TeacherRecipe, derive_recipe, find_recipe

SETTINGS_FILE_VARIABLE = "DISTILL_SETTINGS"
PACKAGED = "packaged"
BUNDLED = "bundled"
INBOX = "inbox"
# What --quick and --full change; everything else stays as set.
QUICK: dict[str, Any] = {
    "packages": ("numpy",),
    "train_queries": 128,
    "test_queries": 24,
    "dev_queries": 60,
    "step_queries": 24,
}
FULL: dict[str, Any] = {
    "packages": ("numpy", "pandas", "scipy", "sklearn"),
    "train_queries": None,
    "test_queries": 500,
    "dev_queries": 500,
    "student_epochs": None,
}


# What changes speed, places and alarms, and no number: an asset reads these without naming them.
SPEED_SETTINGS = frozenset(
    {
        "device",
        "search_memory_mb",
        "batch_tokens",
        "batch_size",
        "chunk_size",
        "chunk_seconds",
        "data_folder",
        "alert_webhook",
    }
)


class Settings(BaseSettings):
    """All settings of one project. Immutable: what a run used is what it was started with."""

    model_config = SettingsConfigDict(env_prefix="DISTILL_", extra="forbid", frozen=True, env_parse_none_str="none")

    data_folder: Path = Field(Path("data"), description="Warehouse, stores, checkpoints and reports live here.")
    collection: str = Field(
        "python_api",
        description="`python_api`, `beir:PATH` of a BEIR folder or an inbox of them, or `inbox`: the one in the data folder.",
    )
    packages: tuple[str, ...] = Field(
        ("numpy", "pandas"), min_length=1, description="Batches of `python_api`, by import name."
    )
    body_words: int = Field(0, ge=0, description="Opening words of the docstring's body in a `python_api` document.")
    max_unknown_qrels: float = Field(
        0.05, ge=0, le=1, description="Share of judgements of unknown ids that is dropped, not refused."
    )

    min_relevance: int = Field(
        1,
        ge=1,
        description="The lowest grade that is relevant. Lower ones above 0 are neither positive nor negative; nDCG counts them.",
    )
    local_ids: bool = Field(
        False,
        description="Ids are a batch's own: the same id in two batches names two documents. They then read BATCH/ID everywhere.",
    )
    train_share_of_dev: float = Field(
        0.0, ge=0, lt=1, description="Share of the dev queries, by hash, that train where a folder has no train file."
    )
    max_leaked_queries: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of test queries that may stand in train, equal or nearly so, before a batch is refused.",
    )

    inbox_settle_s: float = Field(
        30, ge=0, description="Seconds without a change after which a folder in an inbox counts as complete."
    )

    student: str = Field(PACKAGED, description="`packaged` (all-MiniLM-L6-v2 from PyPI), a local folder or a hub name.")
    student_max_length: int | None = Field(
        None, ge=8, description="Tokens that the student reads of a text; as many as the model can by default."
    )
    student_precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="What bi-encoders encode in; `auto`: bf16 where the hardware multiplies in it. Training has its own.",
    )
    teacher: str = Field(
        "auto",
        description="A cross-encoder (local folder or hub name), or `bundled` (grown for python_api), or `auto`: bundled for "
        "python_api, else one grown from the student's encoder on the train labels.",
    )
    teacher_with_cosine: bool | None = Field(
        None,
        description="Join the teacher's logit with the untouched student's cosine; by default where the teacher was grown from "
        "an encoder.",
    )
    teacher_finetune: bool = Field(
        False, description="Fine-tune the teacher on the train labels first; an encoder always is."
    )
    teacher_max_length: int = Field(
        512,
        ge=8,
        description="Tokens of a (query, document) pair that the teacher reads; fewer where the model cannot.",
    )
    teacher_epochs: int = Field(1, ge=1, description="Fine-tuning: passes over the train queries.")
    teacher_queries: int | None = Field(None, ge=1, description="Fine-tuning: at most this many train queries.")
    teacher_learning_rate: float = Field(1e-4, gt=0, description="Fine-tuning: peak learning rate.")
    teacher_folds: int = Field(
        1,
        ge=1,
        description="Fine-tuning: trained this many times, each without the labels of one fold of the train queries; a query is "
        "scored by those that never saw its label, any other by all. The bundled teacher brings its own folds.",
    )
    teacher_lora_rank: int = Field(
        0, ge=0, description="Fine-tuning: train low-rank adapters of this rank; 0 trains all weights."
    )

    train_queries: int | None = Field(
        None, ge=1, description="At most this many train queries per batch are mined, scored, trained on."
    )
    mining_depth: int = Field(50, ge=10, description="Candidates that BM25 and dense search each bring per query.")
    negatives_per_query: int = Field(10, ge=1, description="Hard negatives kept per query.")
    scored_negatives: int = Field(
        10, ge=1, description="Of those, how many the teacher scores; a recipe that reads more raises it."
    )
    near_identical: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Token-shingle Jaccard from which a document is a positive's twin, and a train query a test query's.",
    )

    skip_recipes: tuple[str, ...] = Field((), description="Built-in recipes that are not trained.")
    recipes: dict[str, dict[str, Any]] = Field(
        {},
        description="Own recipes, or changed fields of built-in ones; `like` names the built-in one that an own recipe starts from.",
    )
    student_epochs: int | None = Field(
        None,
        ge=1,
        description="Passes over the train queries of a recipe that does not say `epochs`; none: what is built in.",
    )
    step_queries: int = Field(
        96, ge=1, description="Dev queries that choose the best training step and judge the teacher."
    )
    dev_queries: int | None = Field(None, ge=1, description="Dev queries that choose the champion; all by default.")
    test_queries: int | None = Field(None, ge=1, description="Test queries on the leaderboard; all by default.")
    pool_depth: int = Field(
        30, ge=1, description="Documents of each first-stage system in the pool that the teacher reranks."
    )
    promotion_margin: float = Field(
        0.01,
        ge=0,
        description="nDCG@10 by which a new champion may be worse than a trained one; it has to be better than the untouched student.",
    )
    promotion_alpha: float = Field(0.05, gt=0, lt=1, description="Significance level of the gate's paired test.")

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where models run.")
    search_memory_mb: int = Field(
        256, ge=1, description="Memory of dense search above its vectors and results; speed only."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Of the teacher's matrix products; `auto`: bf16 where the hardware multiplies in it. Logits of different "
        "precision are never mixed in the store; say which where several kinds of machine share a warehouse.",
    )
    batch_tokens: int | None = Field(
        None,
        ge=16,
        description="Tokens of (query, document) pairs per forward pass of the teacher; by device when unset.",
    )
    batch_size: int = Field(32, ge=1, description="Texts per forward pass of a bi-encoder; speed only.")
    chunk_size: int = Field(65_536, ge=1, description="Pairs scored between two commits at the most.")
    chunk_seconds: float = Field(
        10, gt=0, description="Seconds of scoring between two commits, about; what a kill can cost."
    )
    retrain_cron: str = Field("0 3 * * 0", description="When the retraining schedule runs, UTC; weekly by default.")
    remine_before_retraining: bool = Field(
        False, description="Mine older batches again, against all documents, before a retraining."
    )
    alert_webhook: str | None = Field(
        None,
        description="URL that gets a JSON POST when a run fails and when the champion moves; the log always has both.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then what `load_settings` read from the file."""
        return env_settings, init_settings

    @field_validator("collection")
    @classmethod
    def _check_collection(cls, value: str) -> str:
        if value not in ("python_api", INBOX) and not (value.startswith("beir:") and value.removeprefix("beir:")):
            raise ValueError(f"{value!r} is not a collection: expected 'python_api' or 'beir:PATH' or 'inbox'")
        return value

    @field_validator("precision", mode="before")
    @classmethod
    def _check_precision(cls, value: object) -> object:
        if value == "int8":
            raise ValueError(
                "8-bit scoring is gone, it changed the order of documents: expected auto, fp32 or bf16; "
                'write precision = "auto" or remove the line'
            )
        return value

    @field_validator("recipes")
    @classmethod
    def _check_recipes(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        allowed = {field.name for field in fields(Recipe)} - {"name"} | {"like"}
        for name, table in value.items():
            if "in_batch_weight" in table:
                raise ValueError(
                    f"recipe {name!r}: in_batch_weight is gone, in-batch InfoNCE is a loss with a weight: write "
                    f"loss = {{ margin_mse = 1.0, info_nce = {table['in_batch_weight']} }}"
                )
            if "rounds" in table:
                raise ValueError(
                    f"recipe {name!r}: rounds is gone, a second round gained no more than a second epoch: remove the line, "
                    "and set epochs for more passes"
                )
            unknown = sorted(set(table) - allowed)
            if unknown:
                raise ValueError(
                    f"recipe {name!r} has unknown fields {unknown}: allowed are {', '.join(sorted(allowed))}"
                )
        return value

    @property
    def collection_path(self) -> Path | None:
        """Folder of the collection; None where it is not read from a folder."""
        if self.collection == "python_api":
            return None
        if self.collection == INBOX:
            return self.data_folder.expanduser().resolve() / "inbox"
        return Path(self.collection.removeprefix("beir:")).expanduser().resolve()

    @property
    def all_recipes(self) -> dict[str, Recipe]:
        """Built-in recipes as changed by the settings, own ones after them, skipped ones left out; sorted by name."""
        known = {*BUILT_IN_RECIPES, *self.recipes}
        unknown = sorted(set(self.skip_recipes) - known)
        if unknown:
            raise SettingsError(f"skip_recipes names unknown recipes {unknown}: there are {', '.join(sorted(known))}")
        found: dict[str, Recipe] = {}
        for name in sorted(known - set(self.skip_recipes)):
            table = dict(self.recipes.get(name, {}))
            like = table.pop("like", name if name in BUILT_IN_RECIPES else None)
            if self.student_epochs is not None:
                table.setdefault("epochs", self.student_epochs)
            found[name] = derive_recipe(name, table if like else {"loss": "margin_mse", **table}, like)
        if not found:
            raise SettingsError("no recipe is left: skip_recipes names them all")
        for recipe in found.values():
            self._require_candidates(recipe)
        return found

    def _require_candidates(self, recipe: Recipe) -> None:
        """Raise `SettingsError` where fewer candidates are mined or scored than the recipe draws from."""
        if recipe.num_negatives > self.negatives_per_query:
            raise SettingsError(
                f"recipe {recipe.name!r} reads {recipe.num_negatives} negatives, {self.negatives_per_query} are mined per query: "
                f"raise negatives_per_query, or lower num_negatives"
            )
        scored = (
            min(self.scored_negatives, self.negatives_per_query) if recipe.uses_teacher else self.negatives_per_query
        )
        if recipe.sampling != "top" and scored <= recipe.num_negatives:
            name = "scored_negatives" if recipe.uses_teacher else "negatives_per_query"
            raise SettingsError(
                f"recipe {recipe.name!r} draws {recipe.num_negatives} negatives ({recipe.sampling}) from {scored}: there is nothing to "
                f'draw; raise {name} above {recipe.num_negatives} (20 to 50 are usual), or set sampling = "top"'
            )

    def recipe(self, name: str) -> Recipe:
        """The recipe of that name. Raises `UnknownRecipeError`."""
        return find_recipe(self.all_recipes, name)

    @property
    def teacher_recipe(self) -> TeacherRecipe:
        """How the teacher is fine-tuned where it is."""
        return TeacherRecipe(
            epochs=self.teacher_epochs,
            num_queries=self.teacher_queries,
            positives="found",
            learning_rate=self.teacher_learning_rate,
            lora_rank=self.teacher_lora_rank,
            max_length=self.teacher_max_length,
        )

    @property
    def num_scored_negatives(self) -> int:
        """How many mined negatives of a train query the teacher scores: what is set, or what the recipes read."""
        read = [recipe.num_negatives for recipe in self.all_recipes.values() if recipe.uses_teacher]
        return max([self.scored_negatives, *read])

    @property
    def reads_unjudged_queries(self) -> bool:
        """Whether a recipe trains on queries that nobody judged."""
        return any(recipe.positives == "teacher" for recipe in self.all_recipes.values())


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings file, then environment variables, then `overrides`, each winning over the one before.

    A table `[python_api]` of the file holds values for that collection alone: sizes that suit the demo would leave most of other
    people's documents unread.

    Raises:
        SettingsError: the file is missing or not TOML, a key is unknown, or a value is refused; all of them are listed.
    """
    chosen = path or Path(os.environ.get(SETTINGS_FILE_VARIABLE, "distill.toml"))
    table = _read_file(chosen, is_required=path is not None or SETTINGS_FILE_VARIABLE in os.environ)
    of_demo = table.pop("python_api", {})
    _refuse_unknown_variables()
    try:
        settings = Settings(**table)
        if overrides.get("collection", settings.collection) == "python_api":
            settings = Settings(**table | of_demo)
        if overrides:
            # The environment is in `settings` already and must not win again: no variable's name starts with "=".
            settings = Settings(**{"_env_prefix": "=", **settings.model_dump(exclude_unset=True), **overrides})
    except ValidationError as error:
        raise SettingsError(_explain(error, chosen)) from error
    except Exception as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(
            f"a DISTILL_* variable cannot be read: {error}; lists and tables are written as JSON"
        ) from error
    _ = settings.all_recipes  # a bad recipe is refused when settings load, not hours later when it is trained
    return settings


def _read_file(path: Path, *, is_required: bool) -> dict[str, Any]:
    if not path.is_file():
        if is_required:
            raise SettingsError(
                f"no settings file at {path}: create it (see distill.toml in the repository) or unset {SETTINGS_FILE_VARIABLE}"
            )
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # TOMLDecodeError, or UnicodeDecodeError for what is not text
        raise SettingsError(f"{path} is not valid TOML: {error}") from error


def _refuse_unknown_variables() -> None:
    allowed = {f"DISTILL_{name.upper()}" for name in Settings.model_fields} | {SETTINGS_FILE_VARIABLE}
    unknown = sorted(name for name in os.environ if name.startswith("DISTILL_") and name not in allowed)
    if unknown:
        raise SettingsError(
            f"unknown environment variables {', '.join(unknown)}: allowed are {', '.join(sorted(allowed))}"
        )


def _explain(error: ValidationError, path: Path) -> str:
    lines = []
    for entry in error.errors():
        key = ".".join(str(part) for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            lines.append(f"unknown setting {key!r}: allowed are {', '.join(sorted(Settings.model_fields))}")
        else:
            lines.append(f"{key} = {entry['input']!r}: {entry['msg']}")
    return f"settings ({path} and DISTILL_* variables): " + "; ".join(lines)
