"""One project: its settings, the small handles that everything else is reached through, and its names in Dagster."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from distill_assets.errors import SettingsError
from distill_assets.generation import Generator, open_generator
from distill_assets.generation.rules import Counts, count
from distill_assets.handles.collection import CollectionHandle, open_source
from distill_assets.handles.logits import Logits
from distill_assets.handles.models import Models
from distill_assets.handles.places import Places
from distill_assets.handles.vectors import Vectors
from distill_assets.records import Document
from distill_assets.settings.values import (
    AUTO,
    GENERATOR_TOKEN_VARIABLE,
    INBOX,
    RULES,
    ReadSettings,
    Settings,
    read_settings,
    server_urls,
)
from distill_assets.sources.catalog import FILES
from distill_assets.sources.upstream import Upstream
from distill_assets.storage.collection import Labelling

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")


@dataclass(eq=False)
class Project:
    """One line: its settings and the handles that they lead to.

    Nothing is opened when definitions load; each handle is made at its first use.

    Attributes:
        settings_file: instead of `distill.toml` in the working folder.
        overrides: settings that win over file and environment.
        name: of the line where a code location has several. Such a line takes its settings from `overrides` alone: the working
            folder's file and the environment would be those of all lines.
        upstream: the team's own assets that bring the collection; its batches are put into the inbox.
        load_location: gives the definitions of the code location that the line is a part of; None where it is alone.

    Raises:
        SettingsError: the name cannot be part of an asset key and of a job's name, or two collections are named.
    """

    settings_file: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    upstream: Upstream | None = None
    load_location: Callable[[], dg.Definitions] | None = None

    def __post_init__(self) -> None:
        if self.upstream is not None:
            if self.overrides.get("collection", INBOX) != INBOX:
                raise SettingsError(
                    f"{self.name or 'the line'} has upstream assets and collection = {self.overrides['collection']!r}: remove one"
                )
            self.overrides = {**self.overrides, "collection": INBOX}
        if self.name and not _NAME.fullmatch(self.name):
            raise SettingsError(
                f"{self.name!r} cannot name a line: expected a letter, then up to 59 letters, digits or '_', because asset keys, jobs "
                "and sensors carry the name"
            )

    def key(self, asset: str) -> dg.AssetKey:
        """The key of one of the line's assets."""
        return dg.AssetKey([self.name, asset] if self.name else [asset])

    def named(self, part: str) -> str:
        """The name of one of the line's jobs, sensors, groups or partitions."""
        return f"{self.name}_{part}" if self.name else part

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the line's assets in Dagster."""
        return {**({"distill/line": self.name} if self.name else {}), **self.settings.tags}

    def has_asset(self, name: str) -> bool:
        """Whether the line has this asset: a choice only among several students, makers of labels only where these may be missing."""
        settings = self.settings
        is_there = {
            "student_choice": bool(settings.students),
            "generated_queries": settings.may_generate,
            "teacher_judgements": bool(settings.num_judged_by_teacher),
        }
        return is_there.get(name, True)

    @cached_property
    def batch_partitions(self) -> dg.DynamicPartitionsDefinition:
        """The batches as Dagster's partitions."""
        return dg.DynamicPartitionsDefinition(name=self.named("batches"))

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once per process."""
        return self.settings_with_sources().settings

    def settings_with_sources(self, override: str = "flag") -> ReadSettings:
        """The settings, and where each is from; `override` is what those of `overrides` are called."""
        path = Path(self.settings_file) if self.settings_file else None
        found = read_settings(path, is_alone=not self.name, **self.overrides)
        sources = {name: override if name in self.overrides else source for name, source in found.sources.items()}
        return replace(found, sources=sources)

    @cached_property
    def places(self) -> Places:
        """Where warehouse, stores and checkpoints lie."""
        return Places.of(self.settings)

    @cached_property
    def collection(self) -> CollectionHandle:
        """The source and what was read from it."""
        settings = self.settings
        limits = settings.num_judged_by_teacher
        return CollectionHandle(
            open_source(settings),
            self.places.warehouse,
            settings.near_identical,
            settings.min_relevance,
            Labelling(
                generates=settings.may_generate,
                always=settings.query_generator != AUTO,
                num_dev=limits.get("dev", 0),
                num_test=limits.get("test", 0),
            ),
        )

    @cached_property
    def passage_tokens(self) -> int | None:
        """Tokens of a passage; None where documents are not cut. A folder of documents is cut to what the student reads."""
        settings = self.settings
        is_folder = settings.collection.startswith(f"{FILES}:") and not settings.students
        return settings.passage_tokens or (self.models.student_tokens if is_folder else None)

    @cached_property
    def models(self) -> Models:
        """Student and teacher."""
        return Models(self.settings, self._chosen_student, self._has_labels)

    def _has_labels(self) -> bool:
        if not self.places.warehouse.exists():
            return True
        state = self.collection.state()
        return not state.batches or state.judges.get("train") == "people"

    def _chosen_student(self) -> str | None:
        warehouse = self.places.warehouse
        if warehouse.slice_info("student_trials") is None:
            return None
        rows = warehouse.query("SELECT student FROM student_trials WHERE is_chosen", [])
        return str(rows["student"][0].as_py()) if rows.num_rows else None

    @cached_property
    def vectors(self) -> Vectors:
        """Texts to vectors."""
        return Vectors(self.settings, self.models, self.places.embeddings)

    @property
    def generator_id(self) -> str:
        """What decides the texts of generated queries. No server is asked and no model is opened."""
        return self._generator().identity

    def open_generator(self, documents: Sequence[Document]) -> Generator:
        """What makes queries of a batch's documents: rules count words over all of them."""
        if self.settings.query_generator in (AUTO, RULES):
            return self._generator(counts=count(documents))
        return self._generator(device="cpu" if server_urls(self.settings.query_generator) else self.models.device)

    def _generator(self, counts: Counts | None = None, device: str = "cpu") -> Generator:
        choice = RULES if self.settings.query_generator == AUTO else self.settings.query_generator
        return open_generator(
            choice,
            counts=counts,
            model=self.settings.generator_model,
            token=os.environ.get(GENERATOR_TOKEN_VARIABLE),
            device=device,
            is_trusted=self.models.is_trusted(choice),
        )

    def logits(self, payer: tuple[str, str] = ("other", "")) -> Logits:
        """Pairs to logits; `payer` is the asset and partition that scoring is written down for."""
        return Logits(self.settings, self.places, self.models, self.vectors, payer)
