"""The map of distill_assets: assets in data-flow order.

by batch                                              by recipe                               not partitioned
corpus ---+                                                                              +-> leaderboard
queries --+-> hard_negatives -> teacher_scores -----> student_checkpoint -> eval_metrics +
qrels ----+                          ^                                                   +-> champion
                                     +--- teacher_checkpoint

A recipe (training/recipes.py) is one way to train; champion moves only if the paired test in evaluation/gate.py says so.
"""

import dagster as dg

from distill_assets.assets import assets_of, dependencies_of
from distill_assets.assets.line import By
from distill_assets.assets.upstream import make_inbox
from distill_assets.handles.project import Project
from distill_assets.orchestration.automation import (
    make_jobs,
    make_quarantine_check,
    make_schedule,
    make_sensors,
    with_automation,
)
from distill_assets.orchestration.plan import before_run
from distill_assets.orchestration.terminal import NAME, terminal_logger


def build_definitions(project: Project | None = None) -> dg.Definitions:
    """One line, to be merged into a team's own definitions (`dg.Definitions.merge`).

    It brings no resources and no executor, which are the team's. Lines of one code location need a `name` each.
    """
    project = project or Project()
    partitions: dict[By, dg.PartitionsDefinition | None] = {
        "batch": project.batch_partitions,
        "recipe": dg.StaticPartitionsDefinition(sorted(project.settings.all_recipes)),
        "none": None,
    }
    assets = [
        asset.to_dagster(project, partitions[asset.by], dependencies_of(name, project), before_run(project, name))
        for name, asset in assets_of(project).items()
    ]
    if project.upstream is not None:
        assets.insert(0, make_inbox(project, project.upstream))
    jobs = make_jobs(project, partitions)
    return dg.Definitions(
        assets=with_automation(assets, project),
        asset_checks=[make_quarantine_check(project)],
        jobs=list(jobs.values()),
        schedules=[make_schedule(project, jobs)],
        sensors=make_sensors(project, jobs),
        loggers={NAME: terminal_logger},
    )


def build_location() -> dg.Definitions:
    """The line as a code location of its own: what `distill-assets ui` shows."""
    alone = dg.Definitions(executor=dg.in_process_executor, loggers={"console": dg.colored_console_logger})
    return dg.Definitions.merge(build_definitions(), alone)


defs = build_location()
