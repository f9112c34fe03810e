"""The handle that an asset's body reads through: what its declaration names, read once, in one snapshot.

The version of every input is taken before the body runs and compared when its result is stored, in the same transaction.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_assets.assets.reads import READS, Moment, Reads
from distill_assets.errors import InputsMovedError, UndeclaredReadError
from distill_assets.handles.logits import Logits, Teacher
from distill_assets.handles.project import Project
from distill_assets.handles.retrieval import Retrieval
from distill_assets.records import Query
from distill_assets.settings.values import SPEED_SETTINGS
from distill_assets.sources.base import Source
from distill_assets.storage.collection import Judge, Qrels
from distill_assets.training.lists import Labels, choose_queries
from distill_assets.training.recipes import Recipe

if TYPE_CHECKING:
    import duckdb


class DeclaredSettings:
    """The settings that a declaration names, and those that change speed alone."""

    def __init__(self, project: Project, reads: Reads, owner: str) -> None:
        self._settings, self._allowed, self._owner = project.settings, {*reads.settings, *SPEED_SETTINGS}, owner

    def __getattr__(self, name: str) -> Any:
        """The setting's value. Raises `UndeclaredReadError` for one that is not declared."""
        if name not in self._allowed:
            raise UndeclaredReadError(f"{self._owner} reads the setting {name!r}: name it in its declaration")
        return getattr(self._settings, name)


class Inputs:
    """What one run of one asset's partition reads.

    Attributes:
        project: the handles that hold no input: where things lie, devices, vectors of texts.
        partition: batch or recipe; empty where the asset has no partitions.
        log: of the run.
        settings: those that the declaration names.
        versions: of every declared input by name, as they were when reading began.
        batches: those of the collection.
        recipes: names of all recipes, sorted.
        view_parameters: parameters of the statements that build on `storage/collection.py`.
        parent_of: the document of each passage. No input to declare: the version of the texts says which are passages.
        min_relevance: the lowest grade that is relevant. No setting to declare: the version of judgements says which of them are.
    """

    def __init__(self, project: Project, asset: str, reads: Reads, partition: str, log: Any) -> None:
        self.project, self.partition, self.log = project, partition, log
        self._reads, self._asset = reads, asset
        self.settings: Any = DeclaredSettings(project, reads, asset)
        self.min_relevance = project.collection.min_relevance
        with project.places.warehouse.reading() as connection:
            connection.begin()
            moment = self._moment_on(connection)
            self.versions = reads.versions(moment)
            collection = project.collection.on(connection, moment.state.batches)
            loaders = {name: reads.read(name).load for name in self.versions if name in READS}
            self._values = {name: load(collection, moment) for name, load in loaders.items() if load}
            self.batches, self.view_parameters = list(moment.state.batches), collection.parameters
            self.parent_of = collection.parents()
            self._slices, self.recipes = moment.state.slices, moment.recipes

    def __getattr__(self, name: str) -> Any:
        """What `READS` loads from the collection, by its name."""
        if name not in READS or READS[name].load is None:
            raise AttributeError(name)
        self._require(name)
        return self._values[name]

    def _require(self, name: str) -> None:
        if name not in self.versions:
            raise UndeclaredReadError(f"{self._asset} reads {name!r}: name it in its declaration")

    def _moment_on(self, connection: "duckdb.DuckDBPyConnection") -> Moment:
        return Moment(self.project, self.project.collection.state_on(connection), self.partition)

    def require_unmoved(self, connection: "duckdb.DuckDBPyConnection") -> None:
        """Raise `InputsMovedError` unless every input still has the version that it had when reading began."""
        now = self._reads.versions(self._moment_on(connection))
        moved = sorted(name for name in {*now, *self.versions} if now.get(name) != self.versions.get(name))
        if moved:
            raise InputsMovedError(
                f"{self._asset}[{self.partition}]: {', '.join(moved)} changed while it was being made: nothing was stored; "
                "materialise it again"
            )

    @property
    def source(self) -> Source:
        """Where batches come from."""
        self._require("source")
        return self.project.collection.source

    def others(self, table: str) -> list[str]:
        """The other batches that a table holds, those that are being read at this moment included; for checks."""
        if table not in self._reads.checked_against:
            raise UndeclaredReadError(f"{self._asset} is checked against {table!r}: name it in its declaration")
        there = self.project.places.warehouse.slices(table)
        return [other for other in self.source.batches() if other != self.partition and other in there]

    def slice_versions(self, tables: Sequence[str]) -> dict[str, dict[str, str]]:
        """Data version of every batch's slice, by table: the way back from a model to its data."""
        return {
            table: {b: self._slices[table, b].data_version for b in self.batches if (table, b) in self._slices}
            for table in tables
        }

    @cached_property
    def labels(self) -> Labels:
        """Positives and mined negatives of train and dev queries, with their texts: those of the whole corpus where it is read."""
        texts: Mapping[str, str] = self.documents.content_of if "documents" in self.versions else self.texts
        return Labels(self.training_judgements, self.candidates, texts, self.min_relevance, self.parent_of)

    def training(self, split: str) -> list[Query]:
        """Judged queries of one of the splits train and dev, sorted by id."""
        return [q for q in self.training_queries if q.split == split and q.query_id in self.training_judgements]

    def evaluated(self, split: str, limit: int | None) -> tuple[list[Query], Qrels]:
        """Judged queries of dev or test, at most `limit` chosen by hash, and their judgements."""
        judged = self.evaluation_judgements
        queries = choose_queries([q for q in self.evaluation_queries if q.split == split], judged, limit)
        return queries, {q.query_id: judged[q.query_id] for q in queries}

    def judge_of(self, split: str) -> Judge:
        """Who judges a split that is measured."""
        judges: Mapping[str, Judge] = self._values.get("judges", {})
        return judges.get(split, "people")

    @property
    def recipe(self) -> Recipe:
        """The recipe of this partition."""
        self._require("recipe")
        return self.project.settings.recipe(self.partition)

    @property
    def student_path(self) -> Path:
        """Folder of the untouched student."""
        self._require("student")
        return self.project.models.student_path

    @property
    def baselines(self) -> dict[str, Path]:
        """Folders of the baselines by name."""
        self._require("baselines")
        return self.project.models.baselines

    def checkpoint_path(self, recipe: str) -> Path:
        """Folder of a recipe's student."""
        self._require("checkpoint" if recipe == self.partition else "checkpoints")
        return self.project.places.checkpoint_path(recipe)

    def model_fingerprint(self, recipe: str) -> str:
        """Content of a recipe's student, as it was when reading began."""
        self._require("checkpoints")
        return self._slices["checkpoints", recipe].data_version

    @property
    def logits_handle(self) -> Logits:
        """What scores pairs; the cost is written down for this asset."""
        return self.project.logits((self._asset, self.partition))

    @property
    def teacher_path(self) -> Path:
        """Folder of the teacher."""
        self._require("teacher")
        return self.project.places.checkpoint_path("teacher")

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher's members."""
        return self.logits_handle.teacher(self.teacher_path)

    @cached_property
    def retrieval(self) -> Retrieval:
        """What searches all documents."""
        judged: Qrels = {}
        for name in ("own_judgements", "training_judgements", "evaluation_judgements"):
            judged |= self._values.get(name, {})
        return Retrieval(self.documents, self.project.places.lexical, self.project.vectors, judged)
