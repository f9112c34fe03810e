"""The map of distill_assets: assets in data-flow order.

by batch                                              by recipe                               not partitioned
corpus ---+                                                                              +-> leaderboard
queries --+-> hard_negatives -> teacher_scores -----> student_checkpoint -> eval_metrics +
qrels ----+                          ^                                                   +-> champion
                                     +--- teacher_checkpoint

A recipe (training/recipes.py) is one way to train; champion moves only if the paired test in evaluation/gate.py says so.
"""

import dagster as dg

from distill_assets.assets import ASSETS, dependencies_of
from distill_assets.handles.project import Project
from distill_assets.orchestration.automation import (
    make_jobs,
    make_quarantine_check,
    make_schedule,
    make_sensors,
    with_automation,
)
from distill_assets.orchestration.terminal import NAME, terminal_logger


def build_definitions(project: Project | None = None) -> dg.Definitions:
    """The graph for one project; tests pass a project with its own folder and models."""
    project = project or Project()
    recipes = dg.StaticPartitionsDefinition(sorted(project.settings.all_recipes))
    assets = [asset.to_dagster(recipes, dependencies_of(name)) for name, asset in ASSETS.items()]
    jobs = make_jobs(recipes)
    return dg.Definitions(
        assets=with_automation(assets, project),
        asset_checks=[make_quarantine_check(project)],
        jobs=list(jobs.values()),
        schedules=[make_schedule(project, jobs)],
        sensors=make_sensors(project, jobs),
        resources={"project": project},
        executor=dg.in_process_executor,
        loggers={"console": dg.colored_console_logger, NAME: terminal_logger},
    )


defs = build_definitions()
