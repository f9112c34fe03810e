"""Jobs, the sensor that registers batches, and the retraining schedule."""

from collections.abc import Iterator

import dagster as dg

from distill_assets.partitions import batches
from distill_assets.resources import Project

BATCH_ASSETS = ("corpus", "queries", "qrels", "hard_negatives", "teacher_scores")
TRAINING_ASSETS = ("student_checkpoint", "eval_metrics")


def make_jobs(recipes: dg.StaticPartitionsDefinition) -> dict[str, "dg.UnresolvedAssetJobDefinition"]:
    """One job per part of the line that can run as one run: assets of two partition definitions cannot share a job."""
    return {
        "ingest": dg.define_asset_job(
            "ingest", selection=["corpus", "queries", "qrels"], partitions_def=batches, description="Read one batch."
        ),
        "train": dg.define_asset_job(
            "train",
            selection=list(TRAINING_ASSETS),
            partitions_def=recipes,
            description="Train and evaluate one recipe on all scores to date.",
        ),
        "release": dg.define_asset_job(
            "release", selection=["leaderboard", "champion"], description="Compare all recipes and let the gate decide."
        ),
    }


def make_sensors(project: Project) -> list[dg.SensorDefinition]:
    """The batch sensor (registers what the source has) and the condition sensor (leaderboard and champion follow)."""

    @dg.sensor(
        name="new_batches",
        job_name="ingest",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Registers every batch that the source has as a partition and reads it.",
    )
    def new_batches(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        known = set(context.instance.get_dynamic_partitions("batches"))
        found = project.source.batches()
        new = [batch for batch in found if batch not in known]
        if not new:
            return dg.SkipReason(f"all {len(found)} batches of {project.source.name} are known")
        return dg.SensorResult(
            dynamic_partitions_requests=[batches.build_add_request(new)],
            run_requests=[dg.RunRequest(run_key=f"ingest:{batch}", partition_key=batch) for batch in new],
        )

    return [new_batches]


def make_retraining_schedule(job: "dg.UnresolvedAssetJobDefinition", project: Project) -> dg.ScheduleDefinition:
    """Trains every recipe when `retrain_cron` says; it starts stopped, because training costs hours of a machine."""

    @dg.schedule(
        name="retraining",
        job=job,
        cron_schedule=project.settings.retrain_cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="One run per recipe: train on all scores to date, then evaluate.",
    )
    def retraining(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        for name in sorted(project.settings.all_recipes):
            yield dg.RunRequest(run_key=f"{name}:{context.scheduled_execution_time}", partition_key=name)

    return retraining
