"""Dagster's handle on a project: its settings, and the small handles that everything else is reached through."""

from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from distill_assets.handles.collection import CollectionHandle, open_source
from distill_assets.handles.logits import Logits
from distill_assets.handles.models import Models
from distill_assets.handles.places import Places
from distill_assets.handles.vectors import Vectors
from distill_assets.settings.values import Settings, load_settings


class Project(dg.ConfigurableResource):
    """One project: its settings and the handles that they lead to.

    Nothing is opened when definitions load; each handle is made at its first use. `overrides` win over file and environment.
    """

    settings_file: str | None = None
    overrides: dict[str, Any] = {}

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once per process."""
        return load_settings(Path(self.settings_file) if self.settings_file else None, **self.overrides)

    @cached_property
    def places(self) -> Places:
        """Where warehouse, stores and checkpoints lie."""
        return Places.of(self.settings)

    @cached_property
    def collection(self) -> CollectionHandle:
        """The source and what was read from it."""
        settings = self.settings
        return CollectionHandle(
            open_source(settings), self.places.warehouse, settings.near_identical, settings.min_relevance
        )

    @cached_property
    def models(self) -> Models:
        """Student and teacher."""
        return Models(self.settings)

    @cached_property
    def vectors(self) -> Vectors:
        """Texts to vectors."""
        return Vectors(self.settings, self.models, self.places.embeddings)

    def logits(self, payer: tuple[str, str] = ("other", "")) -> Logits:
        """Pairs to logits; `payer` is the asset and partition that scoring is written down for."""
        return Logits(self.settings, self.places, self.models, self.vectors, payer)
