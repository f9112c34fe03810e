"""Group `student`: one bi-encoder per recipe."""

import json
from dataclasses import asdict
from typing import Any

import dagster as dg

from distill_assets.assets.checks import check_results, check_specs
from distill_assets.assets.examination import examine_student
from distill_assets.assets.failures import retrying
from distill_assets.assets.inputs import CODE_VERSIONS, data_version, input_fingerprint
from distill_assets.assets.manifests import code_state, record_checkpoint
from distill_assets.assets.reading import read_labels, read_step_groups, read_train_queries
from distill_assets.assets.reporting import OWNERS, table_schema
from distill_assets.core.groups import TrainingGroup, build_student_epochs
from distill_assets.core.recipes import Recipe
from distill_assets.core.records import hash_text
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
            _train(project, recipe, key)
        path = store.path("student", name, key)
        training = store.read_manifest(path)["training"]
        verdicts, charts = examine_student(project, recipe, path, training)
        metadata = {
            "num_groups": training["num_groups"],
            "best_step": training["best_step"],
            "best_dev_rerank_ndcg_at_10": training["best_dev_ndcg_at_10"],
        }
        return record_checkpoint(
            project,
            kind="student",
            name=name,
            path=path,
            checks=check_results("student_checkpoint", verdicts),
            metadata=charts | metadata,
        )

    return student_checkpoint


def _train(project: Project, recipe: Recipe, key: str) -> None:
    from distill_assets.core.training import TrainingRun, train_student

    store = project.checkpoints
    epochs = _training_epochs(project, recipe)
    step_groups = read_step_groups(project, read_labels(project))
    work_folder = store.work_folder("student", recipe.name, key)
    run = TrainingRun(work_folder, project.device, show_progress=project.show_progress)
    model = project.load_student(project.student_path)
    report = train_student(model, epochs, step_groups, recipe, run)
    with store.writing("student", recipe.name, key) as folder:
        model.save_pretrained(str(folder), create_model_card=False)
        manifest = {
            "recipe": asdict(recipe),
            "input_fingerprint": key,
            "student": {"model": project.settings.student, "fingerprint": project.student_fingerprint},
            "inputs": _input_versions(project, recipe),
            "training": asdict(report),
            **code_state(),
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    store.clear_work("student", recipe.name, key)


def _training_epochs(project: Project, recipe: Recipe) -> list[list[TrainingGroup]]:
    labels = read_labels(project)
    mined = [q for q in read_train_queries(project) if q.query_id in labels.negatives]
    queries = sorted(mined, key=lambda q: hash_text(q.query_id))[: recipe.max_queries]
    logit_of = None
    if recipe.uses_teacher:
        table = project.warehouse.read(
            "teacher_scores", slice_keys=project.batches(), columns=["query_id", "doc_id", "teacher_logit"]
        )
        logit_of = {(row["query_id"], row["doc_id"]): row["teacher_logit"] for row in table.to_pylist()}
    return build_student_epochs(queries, labels, recipe, logit_of)


def _input_versions(project: Project, recipe: Recipe) -> dict[str, Any]:
    """Data version of every slice that the student was trained from: the way back from a model to its data."""
    tables = ["queries", "qrels", "hard_negatives"] + (["teacher_scores"] if recipe.uses_teacher else [])
    versions: dict[str, Any] = {
        table: {batch: data_version(project, table, batch) for batch in project.batches()} for table in tables
    }
    if recipe.uses_teacher:
        versions["teacher_checkpoint"] = data_version(project, "checkpoints", "teacher")
    return versions
