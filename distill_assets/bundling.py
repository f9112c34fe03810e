"""Growing the bundled teacher's members: long runs on the train split, each kept as an adapter of 2 MB with its provenance."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill_assets.assets.inputs import data_version
from distill_assets.assets.manifests import package_versions
from distill_assets.assets.reading import choose_queries, read_labels, read_qrels, read_step_groups, read_train_queries
from distill_assets.core.groups import build_student_epochs, build_teacher_epochs
from distill_assets.core.recipes import Recipe, TeacherMember, TeacherRecipe
from distill_assets.resources import Project


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a member is grown: which one, the adapter's rank, train queries per epoch (None: all), epochs, peak learning rate."""

    member: TeacherMember
    rank: int
    num_queries: int | None
    epochs: int
    learning_rate: float


def grow_adapter(project: Project, out: Path, growth: Growth) -> dict[str, Any]:
    """Train one member on the student's encoder as a low-rank adapter; returns what provenance.json says.

    The cross-encoder learns by listwise softmax over one positive, three mined and one random negative; the bi-encoder as the
    recipe `hard_labels` does. The dev split decides which step is kept; no test query is read.
    """
    from distill_assets.core.adapters import add_adapter, save_adapter
    from distill_assets.core.encoders import grow_cross_encoder
    from distill_assets.core.training import TrainingRun, train_student, train_teacher

    labels = read_labels(project)
    queries = choose_queries(read_train_queries(project), read_qrels(project), growth.num_queries)
    step_groups = read_step_groups(project, labels)
    work_folder = project.folder / f"work-{growth.member}"
    run = TrainingRun(work_folder, project.device, num_evaluations=4, show_progress=project.show_progress)
    recipe: Recipe | TeacherRecipe
    model: Any
    if growth.member == "cross_encoder":
        recipe = TeacherRecipe(
            num_queries=growth.num_queries,
            epochs=growth.epochs,
            learning_rate=growth.learning_rate,
            lora_rank=growth.rank,
            max_length=project.settings.teacher_max_length,
        )
        model = grow_cross_encoder(project.student_path, device=project.device, max_length=recipe.max_length)
        adapted = add_adapter(model, growth.rank)
        groups = build_teacher_epochs(queries, labels, recipe)
        report = train_teacher(model, groups, step_groups, recipe, run)
    else:
        recipe = Recipe(
            name=growth.member, loss="hard_labels", epochs=growth.epochs, learning_rate=growth.learning_rate
        )
        model = project.load_student(project.student_path)
        adapted = add_adapter(model, growth.rank)
        groups = build_student_epochs(queries, labels, recipe)
        report = train_student(model, groups, step_groups, recipe, run)
    out.mkdir(parents=True, exist_ok=True)
    save_adapter(adapted, model, out)
    provenance = {
        "member": growth.member,
        "base": project.settings.student,
        "collection": project.source.name,
        "batches": {batch: data_version(project, "qrels", batch) for batch in project.batches()},
        "split": "train alone; dev chose the step; no test query was read",
        "num_queries": len(queries),
        "lora_rank": growth.rank,
        "recipe": asdict(recipe),
        "training": asdict(report),
        "packages": package_versions(),
    }
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return provenance
