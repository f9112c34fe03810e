"""Group `student`: one bi-encoder per recipe."""

import json
import shutil
from dataclasses import asdict
from typing import Any

import dagster as dg

from distill_assets.assets.checks import check_results, check_specs
from distill_assets.assets.examination import examine_student
from distill_assets.assets.failures import retrying
from distill_assets.assets.inputs import CODE_VERSIONS, data_version, input_fingerprint
from distill_assets.assets.manifests import code_state, record_checkpoint
from distill_assets.assets.reporting import OWNERS, markdown_table, table_schema
from distill_assets.assets.rounds import train_rounds
from distill_assets.core.recipes import Recipe
from distill_assets.resources import Project


def make_student_checkpoint(recipes: dg.StaticPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset for a given set of recipes; the settings say which those are."""

    @dg.asset(
        deps=[dg.AssetDep("teacher_scores", partition_mapping=dg.AllPartitionMapping())],
        partitions_def=recipes,
        group_name="student",
        kinds={"pytorch", "huggingface"},
        owners=OWNERS,
        pool="trainer",
        code_version=CODE_VERSIONS["student_checkpoint"],
        metadata={"dagster/column_schema": table_schema("checkpoints")},
        check_specs=check_specs("student_checkpoint", recipes),
    )
    @retrying
    def student_checkpoint(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
        """A bi-encoder trained by one recipe; loads with `SentenceTransformer(path)`."""
        name = context.partition_key
        recipe, key, store = (
            project.settings.recipe(name),
            input_fingerprint(project, "student_checkpoint", name),
            project.checkpoints,
        )
        if store.has("student", name, key):
            context.log.info(f"{name}: a checkpoint from exactly these inputs is there already; nothing is trained")
        else:
            _train(project, context, recipe, key)
        path = store.path("student", name, key)
        training = store.read_manifest(path)["training"]
        verdicts, charts = examine_student(project, recipe, path, training)
        metadata: dict[str, Any] = {
            "num_groups": training["num_groups"],
            "best_step": training["best_step"],
            "best_dev_rerank_ndcg_at_10": training["best_dev_ndcg_at_10"],
        }
        if recipe.rounds > 1:
            shown = [{k: v for k, v in r.items() if k != "training"} for r in store.read_manifest(path)["rounds"]]
            metadata["rounds"] = markdown_table(shown)
        return record_checkpoint(
            project,
            kind="student",
            name=name,
            path=path,
            checks=check_results("student_checkpoint", verdicts),
            metadata=charts | metadata,
        )

    return student_checkpoint


def _train(project: Project, context: dg.AssetExecutionContext, recipe: Recipe, key: str) -> None:
    store = project.checkpoints
    work_folder = store.work_folder("student", recipe.name, key)
    about = {
        "recipe": asdict(recipe),
        "input_fingerprint": key,
        "student": {"model": project.settings.student, "fingerprint": project.student_fingerprint},
        "inputs": _input_versions(project, recipe),
        **code_state(),
    }
    path, rounds = train_rounds(project, context, recipe, work_folder, about)
    best = max(rounds, key=lambda r: (r["training"]["best_dev_ndcg_at_10"], -r["round"]))
    with store.writing("student", recipe.name, key) as folder:
        shutil.copytree(path(best["round"]), folder, dirs_exist_ok=True)
        manifest = about | {"training": best["training"], "rounds": rounds, "kept_round": best["round"]}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    store.clear_work("student", recipe.name, key)


def _input_versions(project: Project, recipe: Recipe) -> dict[str, Any]:
    """Data version of every slice that the student was trained from: the way back from a model to its data."""
    tables = ["queries", "qrels", "hard_negatives"] + (["teacher_scores"] if recipe.uses_teacher else [])
    versions: dict[str, Any] = {
        table: {batch: data_version(project, table, batch) for batch in project.batches()} for table in tables
    }
    if recipe.uses_teacher:
        versions["teacher_checkpoint"] = data_version(project, "checkpoints", "teacher")
    return versions
