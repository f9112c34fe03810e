"""Every setting, typed, with its default and meaning: one class per table of `distill.toml`.

A setting has one name everywhere: a key of its table, the environment variable `DISTILL_<NAME>`, an attribute of `Settings`.
The file is `distill.toml` in the working folder, or the one that DISTILL_SETTINGS names; where there is none, the `distill.toml`
beside this module. Variables win over the file: `DISTILL_COLLECTION=beir:PATH`, `DISTILL_PACKAGES='["numpy"]'`. Unknown names and
bad values are refused.
"""

import json
import os
import re
import sys
import tomllib
from contextlib import suppress
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from distill_assets.errors import SettingsError, SourceError, UnknownRecipeError
from distill_assets.records import RESERVED_SYSTEMS, Rule, Split, is_hybrid
from distill_assets.sources.base import Options, PartOptions
from distill_assets.sources.catalog import FILES, is_path, known_schemes, reads_parts, recognise
from distill_assets.sources.columns import PARTS, Part, fault_of_columns
from distill_assets.storage.folders import is_folder_name
from distill_assets.training.recipes import BUILT_IN_RECIPES, Recipe, TeacherRecipe, derive_recipe, find_recipe

PACKAGED = "packaged"
BUNDLED = "bundled"
INBOX = "inbox"
IMPORTED = "scores:"  # before the name of imported scores, as a teacher
PYTHON_API = "python_api"
KINDS = (PYTHON_API, FILES)  # of collections that have a table of their own in the file
AUTO, OFF, RULES = "auto", "off", "rules"  # values of `query_generator` that name no model
_JUDGED_BY_TEACHER = 300  # queries of dev and of test that the teacher judges where no other limit is set
# What --quick and --full change; everything else stays as set.
QUICK: dict[str, Any] = {
    "packages": ("numpy",),
    "train_queries": 128,
    "test_queries": 24,
    "dev_queries": 60,
    "step_queries": 24,
}
FULL: dict[str, Any] = {
    "packages": ("numpy", "pandas", "scipy", "sklearn"),  # the last two come with sentence-transformers
    "train_queries": None,
    "test_queries": 500,
    "dev_queries": 500,
    "student_epochs": None,
}
# What a folder without a file reads, and what `distill-assets init` writes: defaults, and the sizes of the demo.
EXAMPLE_FILE = Path(__file__).with_name("distill.toml")
_VARIABLE = "DISTILL_"
_FILE_VARIABLE = "DISTILL_SETTINGS"
TOKEN_VARIABLE = "DISTILL_TEACHER_TOKEN"  # of an inference server; no setting, because settings are printed and stored
GENERATOR_TOKEN_VARIABLE = "DISTILL_GENERATOR_TOKEN"  # likewise, of the server that generates queries
# In an address, in a connection string or CREATE SECRET, and in a signed address.
_SECRETS = re.compile(
    r"//[^/\s]*@|\b(?:password|secret|session_token|key_id)\s*=?\s*'[^']*'|\bpassword\s*=\s*[^\s'\"]+"
    r"|[?&](?:sig|[\w-]*signature|token)=[^&\s'\"]+",
    re.IGNORECASE,
)
_NO_SECRETS = (
    "settings are printed and stored: leave out user and password. PGPASSWORD and PGUSER of the environment serve PostgreSQL, "
    "CREATE SECRET (TYPE s3, PROVIDER credential_chain) takes S3's from where AWS tools look"
)


def _masked(secret: re.Match[str]) -> str:
    return "//***@" if secret[0].startswith("//") else "***"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Table):
    """What is read: documents, queries, judgements."""

    # python_api; inbox: the folder in the data folder; SCHEME:PATH or SCHEME:NAME of docs/sources.md, such as beir:PATH.
    collection: str = PYTHON_API
    # Where tables:NAME, sql:NAME and hf:NAME read each part: path or query, and columns (docs/sources.md).
    documents: PartOptions | None = None
    queries: PartOptions | None = None
    judgements: PartOptions | None = None
    clicks: PartOptions | None = None
    sql_setup: tuple[str, ...] = ()  # statements of DuckDB that are run before those: ATTACH, INSTALL, LOAD, SET
    # A SELECT whose answer changes with what is read, such as max(updated_at). By default all rows are read to see a change.
    sql_version: str | None = None
    packages: tuple[str, ...] = Field(("numpy", "pandas"), min_length=1)  # batches of python_api, by import name
    body_words: int = Field(0, ge=0)  # opening words of the docstring's body in a python_api document
    passage_overlap: int = Field(32, ge=0)  # tokens that a passage may repeat of the one before; less than half of it
    # Longer documents are cut into passages of at most so many tokens of the student, title and prompt included. None: none is cut.
    passage_tokens: int | None = Field(None, ge=16)
    local_ids: bool = False  # the same id in two batches names two documents; ids then read BATCH/ID everywhere
    # The lowest grade that is relevant. Lower ones above 0 are neither positive nor negative; nDCG counts them.
    min_relevance: int = Field(1, ge=1)
    max_unknown_qrels: float = Field(
        0.05, ge=0, le=1
    )  # share of judgements of unknown ids that is dropped, not refused
    train_share_of_dev: float = Field(
        0.0, ge=0, lt=1
    )  # of the dev queries, by hash: they train if there is no train file
    max_leaked_queries: float = Field(
        0.05, ge=0, le=1
    )  # share of test queries with a twin in train; above it a batch is rejected
    inbox_settle_s: float = Field(30, ge=0)  # seconds without a change after which a folder in an inbox is complete


class ModelChoice(_Table):
    """Which models, and how they read."""

    student: str = PACKAGED  # packaged (all-MiniLM-L6-v2 from PyPI), a local folder or a hub name
    # Instead of `student`: each trains briefly on hard labels, and the one that is then best on dev is distilled.
    students: tuple[str, ...] = ()
    trial_queries: int = Field(256, ge=8)  # train queries of that short training
    student_max_length: int | None = Field(None, ge=8)  # tokens of a text; by default as many as the model can read
    # What stands before each query and each document. By default what the model's config says, or what is known of its family.
    query_prompt: str | None = None
    document_prompt: str | None = None
    # What bi-encoders encode in. auto: bf16 if the hardware multiplies in it. Training has its own.
    student_precision: Literal["auto", "fp32", "bf16"] = "auto"
    # A cross-encoder (local folder or hub name), bundled (trained for python_api), or an inference server: http://HOST:PORT, or
    # several that serve the same model, with commas. A server's bearer token is read from DISTILL_TEACHER_TOKEN alone.
    # A list of cross-encoders and servers: the mean of their logits, each scaled to the spread of the first one's.
    # scores:NAME: scores of another tool that `distill-assets import-scores` brought in under that name.
    # auto: bundled for python_api, otherwise trained from the student's encoder on the train labels.
    teacher: str | tuple[str, ...] = "auto"
    # The model that a server serves, as a folder or hub name: its scores must be the server's when the teacher is made.
    teacher_local_copy: str | None = None
    # Add the untouched student's cosine to the teacher's logit. By default only if the teacher was trained from an encoder.
    teacher_with_cosine: bool | None = None
    teacher_max_length: int = Field(
        512, ge=8
    )  # tokens of a (query, document) pair; fewer if the model cannot read as many
    teacher_prompt: str | None = None  # read before every query, in place of the model's own; "" for none
    # Models, named as above, that may bring pickled weights (.bin) or Python code of their own. Both can do anything on this machine.
    trusted_models: tuple[str, ...] = ()
    # What the teacher scores in. auto: bf16 if the hardware multiplies in it. Logits of two precisions are never mixed in the
    # store: set it where several kinds of machine share a warehouse.
    precision: Literal["auto", "fp32", "bf16"] = "auto"


class Generation(_Table):
    """Queries made from documents, for a collection that brings none, or not enough."""

    # rules; a sequence-to-sequence model (hub name or folder); http://HOST:PORT of an OpenAI-compatible server; off.
    # auto: rules, while the collection brings no query; off for python_api. A named generator always generates.
    query_generator: str = AUTO
    generator_model: str | None = None  # name of the model at that server
    queries_per_document: int = Field(3, ge=1)  # at most
    generated_queries: int = Field(1500, ge=1)  # of a batch, at most; chosen by hash, so a larger limit only adds


class FineTuning(_Table):
    """The teacher's own training on the human labels."""

    teacher_finetune: bool = False  # fine-tune a cross-encoder first; an encoder always is
    teacher_epochs: int = Field(1, ge=1)  # passes over the train queries
    teacher_queries: int | None = Field(None, ge=1)  # at most this many train queries
    teacher_learning_rate: float = Field(1e-4, gt=0)  # at its peak
    # The teacher is trained this many times, each time without the labels of one fold of the train queries. A train query is
    # scored by the models that did not see its label. The bundled teacher has its own folds.
    teacher_folds: int = Field(1, ge=1)
    teacher_lora_rank: int = Field(0, ge=0)  # train low-rank adapters of this rank; 0 trains all weights


class Mining(_Table):
    """Which queries are mined, and how many hard negatives each gets."""

    train_queries: int | None = Field(None, ge=1)  # per batch, at most this many are mined, scored and trained on
    mining_depth: int = Field(50, ge=10)  # candidates that BM25 and dense search each bring per query
    negatives_per_query: int = Field(10, ge=1)  # hard negatives kept per query
    scored_negatives: int = Field(10, ge=1)  # of those, how many the teacher scores; more if a recipe reads more
    # Jaccard of token shingles from which a document is a positive's twin, and a train query a test query's.
    near_identical: float = Field(0.9, gt=0, le=1)


class Training(_Table):
    """What the students' recipes share."""

    skip_recipes: tuple[str, ...] = ()  # built-in recipes that are not trained
    student_epochs: int | None = Field(
        None, ge=1
    )  # passes over the train queries, of a recipe that does not set epochs
    step_queries: int = Field(96, ge=1)  # dev queries that choose the best training step and judge the teacher


class Evaluation(_Table):
    """Comparison of the systems, and the gate."""

    dev_queries: int | None = Field(None, ge=1)  # dev queries that choose the champion; all by default
    test_queries: int | None = Field(None, ge=1)  # test queries on the leaderboard; all by default
    # Published bi-encoders as they are (hub name, name@revision or folder): further rows of the leaderboard, never champion.
    baselines: tuple[str, ...] = ()
    # Rules that split the leaderboard by groups of queries. source: the label that came with the query ("group" in queries.jsonl);
    # batch; length: short, medium, long; code: whether there is a code token. The gate names a group that a champion loses.
    query_groups: tuple[Rule, ...] = ("source", "batch", "length", "code")
    pool_depth: int = Field(30, ge=1)  # documents of each first-stage system in the pool that the teacher reranks
    # nDCG@10 by which a new champion may be worse than a trained one. It has to be better than the untouched student.
    promotion_margin: float = Field(0.01, ge=0)
    promotion_alpha: float = Field(0.05, gt=0, lt=1)  # significance level of the gate's paired test
    teacher_may_promote: bool = False  # whether a champion may be chosen on dev queries that the teacher alone judged


class Retraining(_Table):
    """What the schedule does."""

    retrain_cron: str = "0 3 * * 0"  # UTC; weekly
    remine_before_retraining: bool = False  # mine older batches again first, against all documents


class Machine(_Table):
    """Places, speed and alarms. Nothing here changes a number, so assets read these without declaring them."""

    data_folder: Path = Path("data")  # warehouse, stores, checkpoints and reports
    shared_stores: Path | None = None  # folder of pair scores and vectors of several lines: what two have is paid once
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    search_memory_mb: int = Field(256, ge=1)  # of dense search, above its vectors and results
    batch_tokens: int | None = Field(
        None, ge=16
    )  # tokens of pairs per forward pass of the teacher; by default by device
    batch_size: int = Field(32, ge=1)  # texts per forward pass of a bi-encoder
    chunk_size: int = Field(65_536, ge=1)  # pairs scored between two commits, at most
    chunk_seconds: float = Field(10, gt=0)  # seconds of scoring between two commits, about: what a kill can cost
    owners: tuple[str, ...] = ("team:search",)  # of all assets, as Dagster shows them: an e-mail address or team:NAME
    tags: dict[str, str] = {}  # of all assets, to find and group them in the Dagster UI
    alert_webhook: str | None = (
        None  # URL: gets a JSON POST when a run fails and when the champion moves; the log has both
    )


TABLES: dict[str, type[BaseModel]] = {
    "data": Data,
    "models": ModelChoice,
    "generation": Generation,
    "fine_tuning": FineTuning,
    "mining": Mining,
    "training": Training,
    "evaluation": Evaluation,
    "retraining": Retraining,
    "machine": Machine,
}
SPEED_SETTINGS = frozenset(Machine.model_fields)
_TABLE_OF = {name: table for table, settings in TABLES.items() for name in settings.model_fields}


class Settings(Data, ModelChoice, Generation, FineTuning, Mining, Training, Evaluation, Retraining, Machine):
    """All settings of one project. Immutable: what a run used is what it was started with."""

    # Own recipes, or changed fields of built-in ones; `like` names the built-in one that an own recipe starts from.
    recipes: dict[str, dict[str, Any]] = {}

    @field_validator("collection")
    @classmethod
    def _check_collection(cls, value: str) -> str:
        scheme, _, rest = value.partition(":")
        if value not in (PYTHON_API, INBOX) and not (rest and scheme in known_schemes()):
            near = ""
            with suppress(SourceError):
                near = f"; did you mean {recognise(Path(value))}:{value}?"
            schemes = ", ".join(f"{known}:{'PATH' if is_path(known) else 'NAME'}" for known in known_schemes())
            raise ValueError(f"{value!r} is not a collection: expected {PYTHON_API}, {INBOX}, {schemes}{near}")
        return value

    @field_validator(*PARTS)
    @classmethod
    def _check_part(cls, value: PartOptions | None, info: ValidationInfo) -> PartOptions | None:
        part: Any = info.field_name
        scheme = str(info.data.get("collection", "")).partition(":")[0]
        if value is not None and scheme and not reads_parts(scheme):
            readers = ", ".join(f"{known}:NAME" for known in known_schemes() if reads_parts(known))
            raise ValueError(f"the collection {scheme} reads no [data.{part}]: expected collection = one of {readers}")
        if value is not None and (fault := fault_of_columns(part, dict(value.columns))):
            raise ValueError(f"columns {fault} of the file or query")
        if value is not None and any(_SECRETS.search(text) for text in (value.path, value.query) if text):
            raise ValueError(_NO_SECRETS)
        return value

    @field_validator("sql_setup")
    @classmethod
    def _check_sql_setup(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(_SECRETS.search(statement) for statement in value):
            raise ValueError(_NO_SECRETS)
        return value

    @field_validator("students")
    @classmethod
    def _check_students(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) == 1 or len({*value}) < len(value):
            raise ValueError(f"{list(value)}: expected two or more names, each once; a single one is set as student")
        return value

    @field_validator("teacher")
    @classmethod
    def _check_teacher(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        several = (value,) if isinstance(value, str) else value
        if not several or len(set(several)) < len(several):
            raise ValueError("expected one teacher, or a list of different ones")
        if len(several) > 1 and any(name in ("auto", BUNDLED) or imported_name(name) is not None for name in several):
            raise ValueError(
                f"a list holds cross-encoders and servers: name models, not auto or {BUNDLED}, and no scores:NAME"
            )
        if (name := imported_name(several[0])) is not None and not is_folder_name(name):
            raise ValueError("imported scores are scores:NAME, with the name that import-scores gave them")
        for url in (url for teacher in several for url in server_urls(teacher)):
            parts = urlsplit(url)
            _ = parts.port  # raises ValueError for one that is no number
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                raise ValueError("a server is http://HOST:PORT or https://HOST:PORT, several are separated by commas")
            if "@" in parts.netloc:
                raise ValueError(f"settings are printed and stored: leave out user and password, set {TOKEN_VARIABLE}")
        return value if len(several) > 1 else several[0]

    @field_validator("passage_tokens")
    @classmethod
    def _check_passages(cls, value: int | None, info: ValidationInfo) -> int | None:
        overlap = info.data.get("passage_overlap", 0)
        if value is not None and 2 * overlap >= value:
            raise ValueError(f"passage_overlap is {overlap}: expected less than half of passage_tokens")
        if value is not None and info.data.get("students"):
            raise ValueError("it counts tokens of one student, and students names several: set student")
        return value

    @field_validator("recipes")
    @classmethod
    def _check_recipes(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        allowed = {field.name for field in fields(Recipe)} - {"name"} | {"like"}
        for name, table in value.items():
            if "rounds" in table:
                raise ValueError(
                    f"recipe {name!r}: rounds is gone, a second round gained no more than a second epoch: remove the line, "
                    "and set epochs for more passes"
                )
            if unknown := sorted(set(table) - allowed):
                raise ValueError(
                    f"recipe {name!r} has unknown fields {unknown}: allowed are {', '.join(sorted(allowed))}"
                )
        return value

    @field_validator("query_prompt", "document_prompt")
    @classmethod
    def _check_prompts(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("students"):
            raise ValueError("each of several students reads with its own prompts: remove it, or set one student")
        return value

    @property
    def collection_path(self) -> Path | None:
        """Folder or file of the collection; None where it is not read from one."""
        if self.collection == INBOX:
            return self.data_folder.expanduser().resolve() / INBOX
        scheme, _, rest = self.collection.partition(":")
        return Path(rest).expanduser().resolve() if is_path(scheme) else None

    @property
    def source_options(self) -> Options:
        """What a source is told beside its name."""
        parts: list[tuple[Part, PartOptions]] = [(p, o) for p in PARTS if (o := getattr(self, p)) is not None]
        return Options(tuple(parts), self.sql_setup, self.sql_version)

    @property
    def may_generate(self) -> bool:
        """Whether queries may be made from documents: by a named generator always, else while the source brings none."""
        is_off = self.query_generator == OFF or (self.query_generator == AUTO and self.collection == PYTHON_API)
        return not is_off

    @property
    def num_judged_by_teacher(self) -> dict[Split, int]:
        """How many queries of dev and test the teacher may judge, where people judged none; none of python_api."""
        if self.collection == PYTHON_API:
            return {}
        return {"dev": self.dev_queries or _JUDGED_BY_TEACHER, "test": self.test_queries or _JUDGED_BY_TEACHER}

    @property
    def known_recipes(self) -> set[str]:
        """Names of built-in and own recipes, skipped ones too."""
        return {*BUILT_IN_RECIPES, *self.recipes}

    @property
    def named_baselines(self) -> dict[str, str]:
        """The baselines by their name on the leaderboard: the last part of the hub name, or the folder's name. Sorted by name.

        Raises:
            SettingsError: a name is empty, stands twice, or is that of a recipe or another system.
        """
        found: dict[str, str] = {}
        for model in self.baselines:
            name = model.rstrip("/").rpartition("/")[2].partition("@")[0]
            if name in ("", ".", "..", "~"):
                raise SettingsError(
                    f"baselines: {model!r} gives no name for the leaderboard: write a hub name or the folder's path"
                )
            if name in {*RESERVED_SYSTEMS, *self.known_recipes} or is_hybrid(name):
                raise SettingsError(
                    f"baselines: {model!r} would be the system {name!r}, which the leaderboard has already: give the model in a folder "
                    "of another name"
                )
            if name in found:
                raise SettingsError(
                    f"baselines: {found[name]!r} and {model!r} would both be the system {name!r}: remove one, or put it in a folder of "
                    "another name"
                )
            found[name] = model
        return dict(sorted(found.items()))

    @property
    def all_recipes(self) -> dict[str, Recipe]:
        """Built-in recipes as changed by the settings, and own ones, without those skipped; sorted by name."""
        known = self.known_recipes
        if unknown := sorted(set(self.skip_recipes) - known):
            raise SettingsError(f"skip_recipes names unknown recipes {unknown}: there are {', '.join(sorted(known))}")
        found: dict[str, Recipe] = {}
        for name in sorted(known - set(self.skip_recipes)):
            table = dict(self.recipes.get(name, {}))
            like = table.pop("like", name if name in BUILT_IN_RECIPES else None)
            if self.student_epochs is not None:
                table.setdefault("epochs", self.student_epochs)
            found[name] = derive_recipe(name, table if like else {"loss": "margin_mse", **table}, like)
            self._require_candidates(found[name])
        if not found:
            raise SettingsError("no recipe is left: skip_recipes names them all")
        return found

    def _require_candidates(self, recipe: Recipe) -> None:
        """Raise `SettingsError` where fewer candidates are mined or scored than the recipe draws from."""
        wanted, mined = recipe.num_negatives, self.negatives_per_query
        if wanted > mined:
            raise SettingsError(
                f"recipe {recipe.name!r} reads {wanted} negatives, {mined} are mined per query: raise negatives_per_query, or lower "
                "num_negatives"
            )
        there = min(self.scored_negatives, mined) if recipe.uses_teacher else mined
        if recipe.sampling != "top" and there <= wanted:
            name = "scored_negatives" if recipe.uses_teacher else "negatives_per_query"
            raise SettingsError(
                f"recipe {recipe.name!r} draws {wanted} negatives ({recipe.sampling}) from {there}: there is nothing to draw; raise "
                f'{name} above {wanted} (20 to 50 are usual), or set sampling = "top"'
            )

    def require_teacher(self) -> None:
        """Raise `SettingsError` where a teacher cannot be made as other settings say."""
        if not isinstance(self.teacher, str):
            for name in ("teacher_finetune", "teacher_with_cosine", "teacher_local_copy", "teacher_prompt"):
                if getattr(self, name) not in (None, False):
                    raise SettingsError(
                        f"{name} is set, and teacher is a list of {len(self.teacher)}: several teachers are taken as they are; "
                        f"remove {name}, or name one teacher"
                    )
            return
        changes = [
            name for name in ("teacher_finetune", "teacher_with_cosine", "teacher_prompt") if getattr(self, name)
        ]
        if imported_name(self.teacher) is not None and changes:
            raise SettingsError(
                f"{changes[0]} is set and teacher = {self.teacher!r}: imported scores are taken as they are; set teacher to a model, "
                f"or remove {changes[0]}"
            )
        if server_urls(self.teacher) and self.teacher_finetune:
            raise SettingsError(
                f"teacher_finetune = true and teacher = {self.teacher!r}: a model behind a server cannot be trained; set teacher to "
                "its folder or hub name, or teacher_finetune to false"
            )
        if server_urls(self.teacher) and self.teacher_prompt is not None:
            raise SettingsError(
                f"teacher_prompt is set and teacher = {self.teacher!r}: a server puts its own template around a pair; set the prompt "
                "there, and remove teacher_prompt"
            )
        if self.teacher_local_copy is not None and not server_urls(self.teacher):
            raise SettingsError(
                f"teacher_local_copy = {self.teacher_local_copy!r} and teacher = {self.teacher!r}: a copy is compared with a server; "
                "set teacher to the server's address, or remove teacher_local_copy"
            )

    def require_generator(self) -> None:
        """Raise `SettingsError` where generator and model do not belong together."""
        is_server = bool(server_urls(self.query_generator))
        if is_server == (self.generator_model is None):
            told = "a server needs the name of its model: set generator_model"
            if not is_server:
                told = "only a server is asked for a model by name: remove generator_model, or set query_generator to http://HOST:PORT"
            raise SettingsError(
                f"query_generator = {self.query_generator!r} and generator_model = {self.generator_model!r}: {told}"
            )

    def recipe(self, name: str) -> Recipe:
        """The recipe of that name. Raises `UnknownRecipeError`."""
        return find_recipe(self.all_recipes, name)

    def all_but(self, wanted: list[str]) -> tuple[str, ...]:
        """The `skip_recipes` that leaves these recipes alone, skipped ones too. Raises `UnknownRecipeError`."""
        known = self.known_recipes
        if unknown := sorted(set(wanted) - known):
            raise UnknownRecipeError(f"no recipe {', '.join(unknown)}: there are {', '.join(sorted(known))}")
        return tuple(sorted(known - set(wanted)))

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


@dataclass(frozen=True)
class ReadSettings:
    """Settings and where they are from.

    Attributes:
        sources: by name: default, file, [python_api] or [files] (the file's table for such a collection), environment or flag.
        file: the user's file that was read; None where there is none.
    """

    settings: Settings
    sources: dict[str, str]
    file: Path | None


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """The settings of `read_settings`."""
    return read_settings(path, **overrides).settings


def read_settings(path: Path | None = None, *, is_alone: bool = True, **overrides: Any) -> ReadSettings:
    """Read the settings file, then environment variables, then `overrides`, each winning over the one before.

    For one line of several, which is not `is_alone`, defaults and `overrides` are all: the working folder's file and the environment
    would be those of every line.

    The file's tables `[python_api]` and `[files]` hold values for that collection, and for folders of documents, alone: sizes that
    suit the demo would leave most of other people's documents unread. Keys outside a table, as older versions wrote them, are read
    with a note on stderr.

    Raises:
        SettingsError: the file is missing or not TOML, a name is unknown, or a value is refused; all of them are listed.
    """
    named = path or (os.environ.get(_FILE_VARIABLE) if is_alone else None)
    own = Path(named or "distill.toml")
    is_own = bool(named) or (is_alone and own.is_file())
    chosen = own if is_own else EXAMPLE_FILE
    tables = _read_file(chosen)
    of_kinds = {kind: tables.pop(kind) for kind in KINDS if isinstance(tables.get(kind), dict)}
    of_file, mistakes = _flatten(tables, chosen)
    of_environment, of_variables = _read_environment() if is_alone else ({}, [])
    mistakes += of_variables
    collection = (of_file | of_environment | overrides).get("collection", PYTHON_API)
    kind = str(collection).partition(":")[0]
    layers = {
        "file" if is_own else "default": of_file,
        f"[{kind}]": of_kinds.get(kind, {}),
        "environment": of_environment,
        "flag": overrides,
    }
    values = {name: value for layer in layers.values() for name, value in layer.items()}
    sources = {name: source for source, layer in layers.items() for name in layer}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        mistakes += [_explain(entry, sources) for entry in error.errors()]
    if mistakes:
        raise SettingsError(f"settings{f' ({chosen})' if is_own else ''}: {'; '.join(mistakes)}")
    _ = settings.all_recipes  # a bad recipe is refused when settings load, not hours later when it is trained
    settings.require_teacher()
    settings.require_generator()
    _ = settings.named_baselines
    return ReadSettings(settings, dict.fromkeys(Settings.model_fields, "default") | sources, own if is_own else None)


def server_urls(teacher: str) -> tuple[str, ...]:
    """The inference servers that a value of the setting `teacher` names; none where it names a model."""
    is_server = teacher.startswith(("http://", "https://"))
    return tuple(url.strip().rstrip("/") for url in teacher.split(",")) if is_server else ()


def imported_name(teacher: str) -> str | None:
    """The name of the imported scores that a value of the setting `teacher` names; None where it names a model."""
    return teacher.removeprefix(IMPORTED) if teacher.startswith(IMPORTED) else None


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingsError(
            f"no settings file at {path}: create it (distill-assets init writes distill.toml) or unset {_FILE_VARIABLE}"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # TOMLDecodeError, or UnicodeDecodeError for what is not text
        raise SettingsError(f"{path} is not valid TOML: {error}") from error


def _flatten(tables: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[str]]:
    """Values by name, and a sentence per mistake."""
    values: dict[str, Any] = {}
    flat: dict[str, Any] = {}
    mistakes: list[str] = []
    for table, content in tables.items():
        if table in TABLES and isinstance(content, dict):
            mistakes += [_unknown(name, table) for name in content if _TABLE_OF.get(name) != table]
            values |= {name: value for name, value in content.items() if _TABLE_OF.get(name) == table}
        elif table in _TABLE_OF and not isinstance(content, dict):
            flat[table] = content
        elif table != "recipes":
            mistakes.append(_unknown(table))
    if flat:
        _note(f"{path}: settings stand in tables now; move {', '.join(f'{n} to [{_TABLE_OF[n]}]' for n in flat)}")
    twice = [(name, _TABLE_OF[name]) for name in flat if name in values]
    mistakes += [f"{name} stands in [{table}] and above all tables: keep the one in [{table}]" for name, table in twice]
    return values | flat | {name: tables[name] for name in tables if name == "recipes"}, mistakes


@cache  # a process reads the file several times
def _note(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


def _read_environment() -> tuple[dict[str, Any], list[str]]:
    """Values by name, and a sentence per mistake. `none` lifts a limit; lists and tables are JSON."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    variables = {f"{_VARIABLE}{name.upper()}": name for name in Settings.model_fields}
    for variable in sorted(
        name
        for name in os.environ
        if name.startswith(_VARIABLE) and name not in (_FILE_VARIABLE, TOKEN_VARIABLE, GENERATOR_TOKEN_VARIABLE)
    ):
        name, text = variables.get(variable), os.environ[variable]
        if name is None:
            mistakes.append(f"unknown variable {variable}: {_nearest(variable, {each: each for each in variables})}")
            continue
        kind = Settings.model_fields[name].annotation
        kinds = {get_origin(each) for each in (kind, *get_args(kind))}
        is_table = PartOptions in get_args(kind)
        is_json = is_table or get_origin(kind) in (tuple, dict) or (text.startswith("[") and tuple in kinds)
        try:
            values[name] = None if text == "none" else json.loads(text) if is_json else text
        except ValueError:
            mistakes.append(f"{variable} = {text!r}: lists and tables are written as JSON")
    return values, mistakes


def _unknown(name: str, table: str | None = None) -> str:
    if table is not None and name in _TABLE_OF:
        return f"{name} stands in [{table}]: move it to [{_TABLE_OF[name]}]"
    places = {name: f"{name} in [{table}]" for name, table in _TABLE_OF.items()}
    places |= {table: f"[{table}]" for table in (*TABLES, *KINDS)} | {"recipes": "[recipes.NAME]"}
    return f"unknown setting {name!r}{f' in [{table}]' if table else ''}: {_nearest(name, places)}"


def _nearest(name: str, known: dict[str, str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"did you mean {known[near[0]]}?" if near else f"there are {', '.join(sorted(known.values()))}"


def _explain(error: ErrorDetails, sources: dict[str, str]) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown(".".join(str(part) for part in error["loc"]))
    key, *rest = (str(part) for part in error["loc"])
    source = sources.get(key, "default")
    value = _SECRETS.sub(_masked, repr(error["input"]))
    return f"{'.'.join([key, *rest])} = {value} ({source}): {error['msg']}"
