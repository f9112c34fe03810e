"""What a notebook needs: one collection's leaderboard, rankings, scores and checks as pandas frames, and search.

from distill_assets import open_line
line = open_line("path/to/data")
line.leaderboard()
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from distill_assets.errors import DistillError
from distill_assets.handles.project import Project
from distill_assets.records import SPLITS
from distill_assets.serving.searcher import search


@dataclass(frozen=True)
class Line:
    """The line of one project, read only. `open_line` makes it."""

    project: Project

    @classmethod
    def open(cls, data_folder: str | Path | None, **settings: Any) -> "Line":
        """See `distill_assets.open_line`."""
        project = Project(overrides=settings if data_folder is None else {**settings, "data_folder": str(data_folder)})
        folder = project.places.folder
        if not project.places.warehouse.exists():
            others = ", ".join(
                sorted(path.parent.name for path in project.settings.data_folder.glob("*/distill.duckdb"))
            )
            raise DistillError(
                f"no data in {folder.resolve()} for the collection {project.settings.collection!r}: run distill-assets run first, or "
                f"give the data folder and the collection that were used{f'; data there: {others}' if others else ''}"
            )
        return cls(project)

    def leaderboard(self) -> pd.DataFrame:
        """One row per system, best first: nDCG@10 with its 95 % interval, the other metrics, p values, times."""
        rows = self.project.places.warehouse.read("leaderboard").to_pandas()
        if rows.empty:
            raise DistillError("there is no leaderboard yet: run distill-assets run first")
        return rows.sort_values(["ndcg_at_10", "system"], ascending=[False, True], ignore_index=True)

    def rankings(self, system: str, split: str = "test") -> pd.DataFrame:
        """What a system found for each query of `test` or `dev`: query_id, doc_id, rank from 1, and the system's own score."""
        warehouse = self.project.places.warehouse
        sql = (
            "SELECT query_id, doc_id, rank, score FROM rankings WHERE system = ? AND split = ? ORDER BY query_id, rank"
        )
        rows = warehouse.query(sql, [system, split]).to_pandas() if warehouse.exists() else pd.DataFrame()
        if rows.empty:
            raise DistillError(
                f"no ranking of {system!r} on {split}: run distill-assets run first, or name a system of the leaderboard"
            )
        return rows

    def scores(self, batch: str | None = None, *, with_texts: bool = False) -> pd.DataFrame:
        """The teacher's raw logit of each scored pair, of one batch or of all; `label` is 1 for a positive.

        `with_texts` adds `query` and `document`; empty where the collection does not hold the text any more.

        Raises:
            MissingPartitionError: the batch is not scored yet.
        """
        rows = self.project.places.warehouse.read("teacher_scores", slice_keys=None if batch is None else [batch])
        frame = rows.to_pandas()
        if frame.empty:
            raise DistillError("no pair is scored yet: run distill-assets run first")
        if with_texts:
            with self.project.collection.snapshot() as collection:
                texts = {query.query_id: query.text for query in collection.queries(SPLITS)}
                frame["query"] = frame["query_id"].map(texts)
                frame["document"] = frame["doc_id"].map(collection.contents(sorted(set(frame["doc_id"]))))
        return frame

    def checks(self) -> pd.DataFrame:
        """The latest result of each check of each asset and partition, from the Dagster instance; `checked_at` is UTC."""
        import dagster as dg

        from distill_assets.assets.checks import newest_evaluations
        from distill_assets.definitions import build_definitions

        home = self.project.places.dagster_home
        if not home.is_dir():
            raise DistillError(f"no Dagster instance in {home}: run distill-assets run first, or set DAGSTER_HOME")
        rows: list[dict[str, Any]] = []
        keys = build_definitions(self.project).resolve_asset_graph().asset_check_keys
        with dg.DagsterInstance.from_config(str(home)) as instance:
            for key in sorted(keys):
                for partition, (found, checked_at) in newest_evaluations(instance, key).items():
                    rows.append(
                        {
                            "asset": key.asset_key.path[-1],
                            "partition": partition,
                            "check": key.name,
                            "passed": found.passed,
                            "severity": found.severity.value,
                            "description": found.description,
                            "checked_at": pd.Timestamp(checked_at, unit="s"),
                        }
                    )
        if not rows:
            raise DistillError("no check has run yet: run distill-assets run first")
        return pd.DataFrame(rows)

    def search(self, text: str, k: int = 10) -> pd.DataFrame:
        """The champion's top `k` documents: rank, doc_id, student_score (cosine), text, passage_id. `attrs` names the champion.

        Raises:
            PromotionError: there is no champion yet.
        """
        found = search(self.project, text, k)
        frame = pd.DataFrame([asdict(hit) for hit in found.hits])
        frame.attrs = {"champion": found.champion, "missing_batches": found.missing_batches}
        return frame
