"""The line as a Dagster component: in a team's own project, beside their assets, one or several in a code location.

    type: distill_assets.DistillationLine
    attributes:
      name: support_articles
      upstream:
        documents: {asset: warehouse/articles, columns: {doc_id: article_id, text: body}}

`distill.toml` and DISTILL_* variables are not read: they are for a line that is alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
from dagster.components.core.component_tree import ComponentTree
from pydantic import Field, PrivateAttr, model_validator

from distill_assets.definitions import build_definitions
from distill_assets.errors import DistillError, SettingsError
from distill_assets.handles.project import Project
from distill_assets.settings.values import Settings
from distill_assets.sources.catalog import is_path
from distill_assets.sources.upstream import PARTS, Upstream, UpstreamAsset

_PATHS = ("student", "teacher")  # a folder, where there is one of that name below the project; else a hub name
_EXAMPLE = Path(__file__).parent / "settings" / "defs.yaml"


def _rooted(root: Path, name: str) -> str:
    return str(root / name) if (root / name).is_dir() else name


class UpstreamPart(dg.Model, dg.Resolvable):
    """One asset of the team that brings a part of the collection."""

    asset: Annotated[str, Field(description="Its key, with slashes: warehouse/articles.")]
    columns: Annotated[
        dict[str, str],
        Field(
            default_factory=dict, description="Our column to theirs, where the names differ: {doc_id: id, text: body}."
        ),
    ]
    duckdb: Annotated[
        str | None,
        Field(
            default=None,
            description="DuckDB file of the table that the asset names in its metadata (dagster/table_name). By default the asset's "
            "I/O manager reads it, or the Parquet file that it names (dagster/uri).",
        ),
    ]


class UpstreamParts(dg.Model, dg.Resolvable):
    """The team's own assets that bring the collection."""

    documents: Annotated[
        UpstreamPart | None, Field(default=None, description="Columns doc_id, title (may be absent), text.")
    ]
    queries: Annotated[
        UpstreamPart | None,
        Field(default=None, description="Columns query_id, text, split (train, dev or test; may be absent)."),
    ]
    judgements: Annotated[
        UpstreamPart | None, Field(default=None, description="Columns query_id, doc_id, relevance (1 where absent).")
    ]
    clicks: Annotated[
        UpstreamPart | None,
        Field(
            default=None,
            description="Columns query_id or query (its text), doc_id, shown, clicked: counts. They train, and judge nothing.",
        ),
    ]
    pairs: Annotated[
        UpstreamPart | None,
        Field(
            default=None,
            description="Columns query, positive, negative (may be absent), as texts. Alone, a whole batch.",
        ),
    ]
    source: Annotated[
        UpstreamPart | None,
        Field(
            default=None,
            description="An asset whose value is the text SCHEME:REST, such as pairs:/data/today.jsonl: what it wrote. Alone.",
        ),
    ]
    one_batch: Annotated[
        bool,
        Field(default=False, description="Read all partitions as one batch. By default each is a batch of its own."),
    ]


class LineScaffolder(dg.Scaffolder):
    """Writes a commented `defs.yaml` that loads as it is."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write it, with the folder's name as the line's."""
        request.target_path.mkdir(parents=True, exist_ok=True)
        text = _EXAMPLE.read_text(encoding="utf-8").replace("NAME", request.target_path.name)
        (request.target_path / "defs.yaml").write_text(text, encoding="utf-8")


@dg.scaffold_with(LineScaffolder)
class DistillationLine(dg.Component, dg.Model, dg.Resolvable):
    """Distils a cross-encoder into a bi-encoder for search over your own documents: from corpus to champion."""

    name: Annotated[
        str, Field(description="Of the line: asset keys, jobs and sensors begin with it. Letters, digits and '_'.")
    ]
    collection: Annotated[
        str | None,
        Field(
            default=None,
            description="SCHEME:PATH such as beir:PATH, inbox or python_api. Not with `upstream`. By default python_api, the demo.",
        ),
    ]
    upstream: Annotated[
        UpstreamParts | None,
        Field(default=None, description="Assets of this project that bring documents, queries and judgements."),
    ]
    teacher: Annotated[
        str | None,
        Field(
            default=None, description="A cross-encoder: hub name, folder or server. By default made from the student."
        ),
    ]
    student: Annotated[
        str | None, Field(default=None, description="A bi-encoder, hub name or folder. By default all-MiniLM-L6-v2.")
    ]
    recipes: Annotated[
        list[str] | None,
        Field(default=None, description="Train these recipes alone. By default hard_labels, kl and margin_mse."),
    ]
    data_folder: Annotated[
        str | None,
        Field(
            default=None,
            description="Where tables, stores and checkpoints lie, from the project's folder. By default data/<name>.",
        ),
    ]
    schedule: Annotated[
        str | None, Field(default=None, description="When to retrain, as cron in UTC. By default Sundays at 3:00.")
    ]
    owners: Annotated[list[str], Field(default_factory=list, description="E-mail addresses, or team:NAME.")]
    tags: Annotated[dict[str, str], Field(default_factory=dict, description="Tags of all assets of the line.")]
    settings: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict, description="Every other setting by its name (distill-assets settings lists them)."
        ),
    ]

    _flags: dict[str, Any] = PrivateAttr(default_factory=dict)  # of the command line, for its process alone

    @model_validator(mode="after")
    def _check(self) -> "DistillationLine":
        """Refuse a wrong value where the file is read, so that the error names the file."""
        try:
            _ = self.project(Path()).settings
        except DistillError as error:
            raise ValueError(str(error)) from error
        return self

    def project(self, root: Path) -> Project:
        """The line's project; paths are relative to `root`.

        Raises:
            SettingsError: a value is refused, or stands in two places.
        """
        said = {"retrain_cron": self.schedule} | {
            name: getattr(self, name) for name in ("collection", "teacher", "student", "owners", "tags")
        }
        given = {name: value for name, value in said.items() if value}
        if twice := sorted({*given, "data_folder"} & self.settings.keys()):
            raise SettingsError(f"settings name {', '.join(twice)}: give them as attributes of the line, and once")
        values = {**self.settings, **given, "data_folder": str(root / (self.data_folder or f"data/{self.name}"))}
        for name in _PATHS:
            if isinstance(values.get(name), list):
                values[name] = [_rooted(root, each) for each in values[name]]
            elif name in values:
                values[name] = _rooted(root, str(values[name]))
        if values.get("shared_stores"):
            values["shared_stores"] = str(root / values["shared_stores"])
        scheme, _, rest = str(values.get("collection", "")).partition(":")
        if is_path(scheme):
            values["collection"] = f"{scheme}:{root / rest}"
        values |= self._flags
        if self.recipes is not None and "skip_recipes" not in self._flags:
            values["skip_recipes"] = Settings(**values).all_but(self.recipes)
        return Project(overrides=values, name=self.name, upstream=_upstream(self.upstream, root))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The line's definitions.

        Raises:
            SettingsError: another line of the code location has the same name or folder.
        """
        root = Path(context.project_root)
        lines = context.component_tree.get_all_components(of_type=DistillationLine)
        if lines[0] is self:  # once for all lines: each alone would read the settings of all others again
            _require_apart([line.project(root) for line in lines])
        return build_definitions(self.project(root))


def _require_apart(projects: list[Project]) -> None:
    names, folders = set[str](), dict[Path, str]()
    for project in projects:
        if project.name in names:
            raise SettingsError(f"two lines are called {project.name!r}: give one of them another name")
        names.add(project.name)
        other = folders.setdefault(project.places.folder.resolve(), project.name)
        if other != project.name:
            raise SettingsError(
                f"the lines {other!r} and {project.name!r} share the data folder {project.places.folder}: give one another "
                "data_folder; to pay for no pair twice, give both the same shared_stores"
            )


def _upstream(parts: UpstreamParts | None, root: Path) -> Upstream | None:
    if parts is None:
        return None
    named = {part: found for part in PARTS if (found := getattr(parts, part)) is not None}
    return Upstream(
        {
            part: UpstreamAsset(
                key=tuple(found.asset.split("/")),
                columns=found.columns,
                duckdb=None if found.duckdb is None else root / found.duckdb,
            )
            for part, found in named.items()
        },
        is_one_batch=parts.one_batch,
    )


def find_line(name: str, folder: Path, flags: Mapping[str, Any]) -> Project:
    """The line of that name in the Dagster project that holds `folder`; `flags` win over what it says.

    Raises:
        SettingsError: there is no Dagster project, or no such line in it.
    """
    try:
        tree = ComponentTree.for_project(folder)
    except dg.DagsterError as error:
        raise SettingsError(
            f"--line {name} looks for a Dagster project (pyproject.toml with [tool.dg]) here: {error}"
        ) from error
    lines: Mapping[str, DistillationLine] = {
        line.name: line for line in tree.get_all_components(of_type=DistillationLine)
    }
    if name not in lines:
        raise SettingsError(f"no line {name!r} in {tree.project_root}: there are {', '.join(sorted(lines)) or 'none'}")
    line = lines[name]
    line._flags = dict(flags)
    return replace(line.project(Path(tree.project_root)), load_location=tree.build_defs)
