"""Lines inside a team's own definitions: several in one code location, and one that reads the team's assets."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_assets.assets.upstream import MAX_BATCHES, batches_due, find_arrivals
from distill_assets.definitions import build_definitions
from distill_assets.errors import SettingsError, SourceError
from distill_assets.handles.project import Project
from distill_assets.orchestration.running import Step, run_line
from distill_assets.sources.upstream import Upstream, UpstreamAsset

TABLES = ("corpus", "queries", "qrels", "hard_negatives", "teacher_scores", "rankings", "eval_metrics")
UPSTREAM = Upstream(
    {
        "documents": UpstreamAsset(("warehouse", "tiny"), {"doc_id": "number", "text": "body"}),
        "queries": UpstreamAsset(("warehouse", "questions"), {"query_id": "number"}),
        "judgements": UpstreamAsset(("warehouse", "answers")),
    }
)


@pytest.fixture
def instance() -> dg.DagsterInstance:
    """An instance of its own, in memory."""
    return dg.DagsterInstance.ephemeral()


def frames_of(beir: Path) -> dict[str, pd.DataFrame]:
    """A BEIR folder as a team keeps the same: three frames, with names of their own."""
    judged = {path.stem: pd.read_csv(path, sep="\t", dtype=str) for path in (beir / "qrels").glob("*.tsv")}
    split_of = {query: split for split, rows in judged.items() for query in rows["query-id"]}
    documents = pd.DataFrame([json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()])
    questions = pd.DataFrame([json.loads(line) for line in (beir / "queries.jsonl").read_text().splitlines()])
    questions["split"] = questions["_id"].map(split_of)
    answers = pd.concat(judged.values()).set_axis(["query_id", "doc_id", "relevance"], axis=1)
    return {
        "tiny": documents.rename(columns={"_id": "number", "text": "body"}),
        "questions": questions.rename(columns={"_id": "number"}),
        "answers": answers.astype({"relevance": int}),
    }


def team_assets(frames: dict[str, Any]) -> list[dg.AssetsDefinition]:
    """The team's assets, which return these frames."""

    def make(name: str) -> dg.AssetsDefinition:
        @dg.asset(key=["warehouse", name])
        def table() -> Any:
            return frames[name]

        return table

    return [make(name) for name in frames]


def merged(*projects: Project, assets: list[dg.AssetsDefinition], folder: Path) -> dg.Definitions:
    """The lines beside the team's assets, as a team's code location has them."""
    team = dg.Definitions(assets=assets, resources={"io_manager": dg.FilesystemIOManager(base_dir=str(folder / "io"))})
    return dg.Definitions.merge(team, *(build_definitions(project) for project in projects))


def materialise(definitions: dg.Definitions, instance: dg.DagsterInstance, *keys: str, partition: str = "") -> None:
    """Materialise the team's assets."""
    job = definitions.resolve_implicit_global_asset_job_def()
    for key in keys:
        job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey(["warehouse", key])], partition_key=partition or None
        )


def run(
    definitions: dg.Definitions, project: Project, instance: dg.DagsterInstance, until: str = "champion"
) -> list[Step]:
    """All steps of a line."""
    return list(run_line(definitions, project, instance, until=until))


def made(steps: list[Step]) -> list[str]:
    """What was materialised."""
    return [asset for step in steps if step.was_materialised for asset in step.assets]


def rows_of(project: Project, table: str) -> list[dict[str, Any]]:
    """A table's rows without times, in a total order."""
    rows = project.places.warehouse.read(table).to_pylist()
    return sorted(({k: v for k, v in row.items() if not k.endswith("_at")} for row in rows), key=str)


@pytest.fixture
def line(project: Project) -> Callable[..., Project]:
    """A named line with the tiny models; it reads the team's assets."""

    def make(name: str = "support", upstream: Upstream | None = UPSTREAM, **changes: Any) -> Project:
        values = {k: v for k, v in project.overrides.items() if k != "collection" or upstream is None}
        folder = Path(str(values["data_folder"])).with_name(name)
        return Project(overrides={**values, "data_folder": str(folder), **changes}, name=name, upstream=upstream)

    return make


def test_a_line_over_team_assets_makes_what_the_folder_makes(
    project: Project, line: Callable[..., Project], instance: dg.DagsterInstance, beir_folder: Path, tmp_path: Path
) -> None:
    """A way in of its own could read ids, splits or grades otherwise, and all numbers would differ without a word."""
    run(build_definitions(project), project, instance)
    support = line()
    definitions = merged(support, assets=team_assets(frames_of(beir_folder)), folder=tmp_path)
    materialise(definitions, instance, "tiny", "questions", "answers")
    assert made(run(definitions, support, instance))[:2] == ["inbox", "corpus"]
    for table in TABLES:
        assert rows_of(support, table) == rows_of(project, table), table
    assert made(run(definitions, support, instance)) == [], "a second run has nothing to do"
    materialise(definitions, instance, "tiny")
    assert made(run(definitions, support, instance)) == ["inbox"], (
        "the same rows upstream change nothing after the inbox"
    )


def test_two_lines_share_a_code_location(
    line: Callable[..., Project], instance: dg.DagsterInstance, beir_folder: Path, tmp_path: Path
) -> None:
    """Names that meet fail when definitions load; sensors and partitions that meet would start each other's work."""
    first, second = line("first"), line("second", upstream=None)
    definitions = merged(first, second, assets=team_assets(frames_of(beir_folder)), folder=tmp_path)
    graph = definitions.resolve_asset_graph()
    assert graph.get(dg.AssetKey(["first", "corpus"])).parent_keys == {dg.AssetKey(["first", "inbox"])}
    assert graph.get(dg.AssetKey(["second", "champion"])).parent_keys == {dg.AssetKey(["second", "eval_metrics"])}
    repository = definitions.get_repository_def()
    for found in (repository.sensor_defs, repository.schedule_defs):
        assert {name.name.split("_")[0] for name in found} == {"first", "second"}
    [first_sensor] = [s for s in repository.sensor_defs if s.name == "first_automation"]
    asked = first_sensor.asset_selection.resolve(graph)  # type: ignore[union-attr]
    assert {key.path[0] for key in asked} == {"first"}, "the team's assets and other lines keep their own conditions"
    run(definitions, second, instance, until="corpus")
    assert instance.get_dynamic_partitions("second_batches") == ["tiny"]
    assert instance.get_dynamic_partitions("first_batches") == instance.get_dynamic_partitions("batches") == []


def test_a_named_line_does_not_read_the_environment(
    line: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DISTILL_POOL_DEPTH of a shell would change the numbers of every line of the deployment at once."""
    monkeypatch.setenv("DISTILL_POOL_DEPTH", "3")
    assert line(upstream=None).settings.pool_depth == 10
    assert Project(overrides={**line(upstream=None).overrides, "pool_depth": 4}, name="").settings.pool_depth == 4


@pytest.mark.parametrize("name", ["a/b", "1st", "a b", "x" * 61, "ä"])
def test_a_name_that_no_key_can_carry_is_refused(name: str) -> None:
    """Dagster's own message names a job that the user has never heard of."""
    with pytest.raises(SettingsError, match="cannot name a line"):
        Project(name=name)


def test_partitions_upstream_are_batches(
    line: Callable[..., Project], instance: dg.DagsterInstance, beir_folder: Path, tmp_path: Path
) -> None:
    """Read as one, every new day would read, mine and score all days again."""
    frames = frames_of(beir_folder)
    days = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-03")

    @dg.asset(key=["warehouse", "tiny"], partitions_def=days)
    def tiny(context: dg.AssetExecutionContext) -> pl.DataFrame:
        half = 0 if context.partition_key == "2026-01-01" else 60
        return pl.DataFrame(frames["tiny"].iloc[half : half + 60].to_dict("list"))

    support = line()
    others = team_assets({name: frames[name] for name in ("questions", "answers")})
    definitions = merged(support, assets=[tiny, *others], folder=tmp_path)
    materialise(definitions, instance, "questions", "answers")
    materialise(definitions, instance, "tiny", partition="2026-01-01")
    run(definitions, support, instance, until="qrels")
    assert support.collection.source.batches() == ["2026-01-01", "tiny"], "what has no partitions is a batch of its own"
    materialise(definitions, instance, "tiny", partition="2026-01-02")
    assert batches_due(support, instance) == ["2026-01-02"]
    steps = run(definitions, support, instance, until="corpus")
    assert [(s.assets[0], s.partition) for s in steps if s.was_materialised][:2] == [
        ("inbox", "2026-01-02"),
        ("corpus", "2026-01-02"),
    ]
    assert len(rows_of(support, "corpus")) == 120
    as_one = line("as_one", upstream=replace(UPSTREAM, is_one_batch=True))
    definitions = merged(as_one, assets=[tiny, *others], folder=tmp_path)
    run(definitions, as_one, instance, until="qrels")
    assert as_one.collection.source.batches() == ["tiny"]
    assert len(rows_of(as_one, "corpus")) == 120


def test_more_partitions_than_batches_can_be(instance: dg.DagsterInstance) -> None:
    """Ten years of days would start eleven thousand runs by themselves."""
    key = dg.AssetKey(["warehouse", "tiny"])
    for day in range(MAX_BATCHES + 1):
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=f"day-{day}"))
    upstream = Upstream({"documents": UpstreamAsset(("warehouse", "tiny"))})
    with pytest.raises(SourceError, match=r"501 partitions.*at most 500.*one_batch: true"):
        find_arrivals(upstream, instance)
    assert list(find_arrivals(replace(upstream, is_one_batch=True), instance)) == ["tiny"]


BAD_FRAMES: list[tuple[str, Any, str]] = [
    (
        "lacks a column",
        pd.DataFrame({"id": ["1"], "body": ["x"]}),
        r"warehouse/tiny has no column 'number' for doc_id: it has id, body",
    ),
    ("null id", pd.DataFrame({"number": ["1", None], "body": ["x", "y"]}), r"1 of 2 rows have no number, first row 1"),
    ("tab in an id", pd.DataFrame({"number": ["a\tb"], "body": ["x"]}), r"number = 'a\\tb' holds a tab"),
    ("lists as text", pa.table({"number": ["1"], "body": [["x"]]}), r"column body"),
    ("no frame", "SELECT 1", r"gave a str: expected a pandas, polars or Arrow table"),
]


@pytest.mark.parametrize(("frame", "message"), [case[1:] for case in BAD_FRAMES], ids=[case[0] for case in BAD_FRAMES])
def test_a_bad_frame_is_named_and_the_batch_before_stays(
    frame: Any,
    message: str,
    line: Callable[..., Project],
    instance: dg.DagsterInstance,
    beir_folder: Path,
    tmp_path: Path,
) -> None:
    """A missing column must not become documents without text, nor take away the batch that stood before."""
    support, frames = line(), frames_of(beir_folder)
    definitions = merged(support, assets=team_assets(frames), folder=tmp_path)
    materialise(definitions, instance, "tiny", "questions", "answers")
    run(definitions, support, instance, until="corpus")
    frames["tiny"] = frame
    materialise(definitions, instance, "tiny")
    [refusal] = [step.refusal for step in run(definitions, support, instance, until="corpus") if step.refusal]
    with pytest.raises(SourceError, match=message):
        raise SourceError(refusal)
    assert len(rows_of(support, "corpus")) == 120


def test_an_asset_that_is_not_there_is_named(
    line: Callable[..., Project], instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Dagster takes an unknown key for an asset of somebody else, and the line would wait for ever."""
    support = line()
    instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(["warehouse", "tiny"])))
    definitions = merged(support, assets=[], folder=tmp_path)
    steps = run_line(definitions, support, instance, until="corpus")
    assert "this code location has no asset warehouse/tiny" in str(next(steps).refusal)


def test_tables_and_files_that_metadata_names(
    line: Callable[..., Project], instance: dg.DagsterInstance, beir_folder: Path, tmp_path: Path
) -> None:
    """An asset that writes its table itself gives its I/O manager nothing: an empty corpus would be read."""
    frames, database = frames_of(beir_folder), tmp_path / "team.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.register("frame", frames["tiny"])
        connection.execute("CREATE TABLE articles AS SELECT * FROM frame")
    pq.write_table(pa.Table.from_pandas(frames["questions"], preserve_index=False), tmp_path / "questions.parquet")

    @dg.asset(key=["warehouse", "tiny"], metadata={"dagster/table_name": "team.main.articles"})
    def tiny() -> None: ...

    @dg.asset(key=["warehouse", "questions"])
    def questions() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"dagster/uri": str(tmp_path / "questions.parquet")})

    upstream = Upstream(
        {
            "documents": UpstreamAsset(("warehouse", "tiny"), {"doc_id": "number", "text": "body"}, database),
            "queries": UpstreamAsset(("warehouse", "questions"), {"query_id": "number"}),
        }
    )
    support = line(upstream=upstream)
    definitions = merged(support, assets=[tiny, questions], folder=tmp_path)
    materialise(definitions, instance, "tiny", "questions")
    run(definitions, support, instance, until="qrels")
    assert (len(rows_of(support, "corpus")), len(rows_of(support, "queries"))) == (120, 120)


def test_clicks_and_a_source_that_an_asset_names_go_through(
    line: Callable[..., Project], instance: dg.DagsterInstance, beir_folder: Path, tmp_path: Path
) -> None:
    """A text as value, or counts of clicks, would fail where the inbox asks for lineage, samples or a data version of a frame."""

    @dg.asset(key=["warehouse", "export"])
    def export() -> str:
        return f"beir:{beir_folder}"

    @dg.asset(key=["warehouse", "clicks"])
    def clicks() -> list[dict[str, Any]]:
        return [{"query": "a new question", "doc_id": "1", "shown": 9, "clicked": 3}]

    for part, asset, table, rows in (("source", export, "corpus", 120), ("clicks", clicks, "queries", 1)):
        found = line(f"{part}_line", upstream=Upstream({part: UpstreamAsset(tuple(asset.key.path))}))  # type: ignore[dict-item]
        definitions = merged(found, assets=[asset], folder=tmp_path)
        materialise(definitions, instance, asset.key.path[-1])
        run(definitions, found, instance, until=table)
        assert len(rows_of(found, table)) == rows


def test_column_lineage_goes_through(
    line: Callable[..., Project], instance: dg.DagsterInstance, beir_folder: Path, tmp_path: Path
) -> None:
    """The UI shows lineage as a fact: a gap at the inbox hides which column of the team a number comes from."""
    support = line()
    definitions = merged(support, assets=team_assets(frames_of(beir_folder)), folder=tmp_path)
    materialise(definitions, instance, "tiny", "questions", "answers")
    run(definitions, support, instance, until="corpus")

    def sources(asset: str, column: str) -> list[tuple[str, str]]:
        event = instance.get_latest_materialization_event(support.key(asset))
        assert event and event.asset_materialization
        lineage: Any = event.asset_materialization.metadata["dagster/column_lineage"].value
        return [(dep.asset_key.to_user_string(), dep.column_name) for dep in lineage.deps_by_column[column]]

    assert sources("corpus", "text") == [("support/inbox", "documents.text")]
    assert sources("inbox", "documents.text") == [("warehouse/tiny", "body")]


def test_a_new_materialisation_upstream_is_read_without_a_click(
    line: Callable[..., Project], instance: dg.DagsterInstance, beir_folder: Path, tmp_path: Path
) -> None:
    """The team's daily run would end at its own table, and search would go on with the documents of the first day."""
    support = line()
    definitions = merged(support, assets=team_assets(frames_of(beir_folder)), folder=tmp_path)
    inbox, sensor = support.key("inbox"), definitions.get_sensor_def("support_new_batches")
    context = dg.build_sensor_context(instance=instance, definitions=definitions)

    def due(cursor: Any) -> tuple[set[str], Any]:
        found = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)
        return {key or "" for key in found.get_requested_partitions(inbox)}, found.cursor

    nothing, cursor = due(None)
    assert nothing == set()
    materialise(definitions, instance, "tiny", "questions", "answers")
    result: Any = sensor(context)
    for change in result.dynamic_partitions_requests:
        instance.add_dynamic_partitions(change.partitions_def_name, list(change.partition_keys))
    assert instance.get_dynamic_partitions("support_batches") == ["tiny"]
    asked, cursor = due(cursor)
    assert asked == {"tiny"}
    job = definitions.resolve_job_def("support_read_upstream")
    assert job.execute_in_process(instance=instance, partition_key="tiny").success
    asked, cursor = due(cursor)
    assert asked == set(), "its folder is what is upstream now"
    landed: Any = sensor(context)
    assert [request.partition_key for request in landed.run_requests] == ["tiny"], (
        "from here on as any folder of an inbox"
    )
    materialise(definitions, instance, "tiny")
    assert due(cursor)[0] == {"tiny"}
