"""What is written into a teacher's folder: one cross-encoder, or one per fold, each joined with a bi-encoder's cosine where that helps.

one teacher            cross-encoder, bi_encoder/ where it brings one, ensemble.json where a cosine joins it
a cross-fitted one     fold-0/, fold-1/, ... of these, each with trained_on.txt; folds.json
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill_assets.assets.reading import choose_queries, read_labels, read_qrels, read_step_groups, read_train_queries
from distill_assets.core.cross_fitting import outside_fold, query_key
from distill_assets.core.ensemble import balance_spreads, spread_within
from distill_assets.core.groups import DevGroup, build_teacher_epochs, pairs_of, per_group
from distill_assets.core.metrics import rerank_ndcg
from distill_assets.core.model_folders import is_cross_encoder, read_json
from distill_assets.core.records import Query
from distill_assets.resources import ENSEMBLE_FILE, FOLDS_FILE, Project
from distill_assets.settings import BUNDLED
from distill_assets.storage.models import (
    BI_ENCODER_FOLDER,
    CROSS_ENCODER_FOLDER,
    fold_folder,
    fold_folders,
    packaged_encoder,
    read_trained_on,
    write_trained_on,
)


def build_teacher(project: Project, folder: Path, work_folder: Path) -> dict[str, Any]:
    """Write the teacher's files into `folder` and return what the manifest says of it.

    With `joined`, its nDCG@10 of reranking the dev queries that choose steps, where that was measured on the way.
    """
    num_folds = project.num_teacher_folds
    if num_folds == 1:
        about = _build_member(project, folder, work_folder, fold=0)
    else:
        about = {"folds": [_build_fold(project, folder, work_folder, fold) for fold in range(num_folds)]}
    if num_folds > 1 or project.is_teacher_joined:
        about["joined"] = _join(project, folder)
    return {"source": project.teacher_choice} | about


def _build_fold(project: Project, folder: Path, work_folder: Path, fold: int) -> dict[str, Any]:
    """One fold of a cross-fitted teacher, and the keys of the queries whose labels it saw."""
    about = _build_member(project, fold_folder(folder, fold), fold_folder(work_folder, fold), fold)
    keys = {query_key(query.text) for query in _labelled(project, fold)} if project.is_teacher_trained else set()
    if project.teacher_choice == BUNDLED:
        keys |= read_trained_on(fold_folder(project.teacher_source_path, fold))
    write_trained_on(fold_folder(folder, fold), keys)
    return about


def _build_member(project: Project, folder: Path, work_folder: Path, fold: int) -> dict[str, Any]:
    """One cross-encoder, with a bi-encoder of its own where it brings one; returns where they come from."""
    source = project.teacher_source_path
    about: dict[str, Any] = {}
    if project.teacher_choice == BUNDLED:
        model, about = _open_bundled(project, fold_folder(source, fold), folder)
    elif project.is_teacher_trained:
        model = _open_for_training(project, source)
    else:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return {}
    if project.is_teacher_trained:
        about["training"] = _fine_tune(project, model, work_folder, fold)
    model.save_pretrained(str(folder))
    return about


def _open_bundled(project: Project, source: Path, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A bundled fold's cross-encoder, and where it comes from; its bi-encoder is written into `folder` where the two are joined."""
    from distill_assets.core.adapters import load_adapted_student, load_adapted_teacher

    length, device = project.settings.teacher_max_length, project.device
    if project.is_teacher_joined:
        bi_encoder = load_adapted_student(
            packaged_encoder(), source / BI_ENCODER_FOLDER, device=device, max_length=length
        )
        bi_encoder.save_pretrained(str(folder / BI_ENCODER_FOLDER), create_model_card=False)
    model = load_adapted_teacher(packaged_encoder(), source / CROSS_ENCODER_FOLDER, device=device, max_length=length)
    members = (CROSS_ENCODER_FOLDER, BI_ENCODER_FOLDER)
    return model, {name: read_json(source / name / "provenance.json") for name in members}


def _open_for_training(project: Project, source: Path) -> Any:
    from distill_assets.core.encoders import grow_cross_encoder

    if is_cross_encoder(source):
        return project.load_teacher(source)
    return grow_cross_encoder(source, device=project.device, max_length=project.settings.teacher_max_length)


def _fine_tune(project: Project, model: Any, work_folder: Path, fold: int) -> dict[str, Any]:
    from distill_assets.core.training import TrainingRun, train_teacher

    recipe, labels = project.settings.teacher_recipe, read_labels(project)
    recipe = replace(recipe, seed=recipe.seed + fold)
    epochs = build_teacher_epochs(_labelled(project, fold), labels, recipe)
    run = TrainingRun(work_folder, project.device, show_progress=project.show_progress)
    report = train_teacher(model, epochs, read_step_groups(project, labels), recipe, run)
    return {"recipe": asdict(recipe), **asdict(report)}


def _labelled(project: Project, fold: int) -> list[Query]:
    """The train queries whose labels a fold is fine-tuned on: those of the other folds, all where there is one."""
    others = outside_fold(read_train_queries(project), project.num_teacher_folds, fold)
    return choose_queries(others, read_qrels(project), project.settings.teacher_recipe.num_queries)


def _join(project: Project, folder: Path) -> dict[str, Any]:
    """Measure the members on dev candidates, write how they are joined; returns nDCG@10 of reranking for each and for all.

    Weights and scales balance spreads and read no label, so that dev stays a fair judge of them.
    """
    groups = read_step_groups(project, read_labels(project))
    pairs, members = pairs_of(groups), fold_folders(folder) or [folder]
    joined, found = [], []
    for path in members:
        scores, measured = _join_with_cosine(project, path, groups, pairs)
        joined.append(scores)
        found.append(measured)
    spreads = [spread_within(per_group(groups, scores)) for scores in joined]
    scales = [spreads[0] / spread if spread else 1.0 for spread in spreads]
    if len(members) > 1:
        _write_json(folder / FOLDS_FILE, {"scales": scales})
    whole = np.mean([scale * scores for scale, scores in zip(scales, joined, strict=True)], axis=0)
    return {"dev_ndcg_at_10_joined": rerank_ndcg(groups, per_group(groups, whole)), "scales": scales, "members": found}


def _join_with_cosine(
    project: Project, folder: Path, groups: Sequence[DevGroup], pairs: Sequence[tuple[str, str]]
) -> tuple[np.ndarray, dict[str, float]]:
    """One member's scores of `pairs`, joined with a cosine where the project joins; and nDCG@10 of its parts."""

    def measure(scores: np.ndarray) -> float:
        return rerank_ndcg(groups, per_group(groups, scores))

    logits = project.fold_scorer(folder)(pairs)
    if not project.is_teacher_joined:
        return logits, {"dev_ndcg_at_10": measure(logits)}
    cosines = project.cosines(project.teacher_bi_encoder(folder), pairs)
    weight = balance_spreads(per_group(groups, logits), per_group(groups, cosines))
    _write_json(folder / ENSEMBLE_FILE, {"cosine_weight": weight, "student": project.student_fingerprint})
    joined = logits + weight * cosines
    parts = {"cross_encoder": logits, "bi_encoder_cosine": cosines, "joined": joined}
    measured = {f"dev_ndcg_at_10_{name}": measure(scores) for name, scores in parts.items()}
    return joined, {"cosine_weight": weight} | measured


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
