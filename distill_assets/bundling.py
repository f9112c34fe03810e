"""Growing the bundled teacher: one long run on the train split, kept as an adapter of a few MB with its provenance."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill_assets.assets.inputs import data_version
from distill_assets.assets.manifests import package_versions
from distill_assets.assets.reading import choose_queries, read_labels, read_qrels, read_step_groups, read_train_queries
from distill_assets.core.groups import build_teacher_groups
from distill_assets.core.recipes import TeacherRecipe
from distill_assets.resources import Project


def grow_adapter(
    project: Project, out: Path, *, rank: int, num_queries: int | None, epochs: int, learning_rate: float
) -> dict[str, Any]:
    """Train a cross-encoder on the student's encoder as a low-rank adapter; returns what provenance.json says.

    The dev split decides which step is kept; no test query is read.
    """
    from distill_assets.core.adapters import add_adapter, save_adapter
    from distill_assets.core.encoders import grow_cross_encoder
    from distill_assets.core.training import TrainingRun, train_teacher

    recipe = TeacherRecipe(
        num_queries=num_queries,
        epochs=epochs,
        learning_rate=learning_rate,
        lora_rank=rank,
        max_length=project.settings.teacher_max_length,
    )
    labels = read_labels(project)
    queries = choose_queries(read_train_queries(project), read_qrels(project), num_queries)
    groups = build_teacher_groups(
        queries, labels, num_hard=recipe.num_hard, num_random=recipe.num_random, epochs=epochs, seed=recipe.seed
    )
    model = grow_cross_encoder(project.student_path, device=project.device, max_length=recipe.max_length)
    adapted = add_adapter(model, rank)
    work_folder = project.folder / "work-adapter"
    run = TrainingRun(work_folder, project.device, num_evaluations=4, show_progress=project.show_progress)
    report = train_teacher(model, groups, read_step_groups(project, labels), recipe, run)
    out.mkdir(parents=True, exist_ok=True)
    save_adapter(adapted, model, out)
    batches = project.source.batches()
    provenance = {
        "base": project.settings.student,
        "collection": project.source.name,
        "batches": {batch: data_version(project, "qrels", batch) for batch in batches},
        "split": "train alone; dev chose the step; no test query was read",
        "num_queries": len(queries),
        "recipe": asdict(recipe),
        "training": asdict(report),
        "packages": package_versions(),
    }
    (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return provenance
