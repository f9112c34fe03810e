"""What is written into a teacher's folder: one cross-encoder, or one per fold, each joined with a bi-encoder's cosine where that helps.

The layout stands in `handles/logits.py`.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from distill_assets.assets.comparison import step_lists
from distill_assets.assets.inputs import Inputs
from distill_assets.errors import ModelError, TrainingError
from distill_assets.evaluation.metrics import DevList, rerank_ndcg
from distill_assets.handles.logits import ENSEMBLE_FILE, FOLDS_FILE, TEACHERS_FILE, write_served
from distill_assets.handles.places import IMPORTED_FILE
from distill_assets.models import canary
from distill_assets.models.catalog import (
    BI_ENCODER_FOLDER,
    BUNDLED_JOIN,
    CROSS_ENCODER_FOLDER,
    fold_folder,
    fold_folders,
    member_folder,
    member_folders,
    packaged_encoder,
    read_trained_on,
    write_trained_on,
)
from distill_assets.models.cross_fitting import outside_fold, query_key
from distill_assets.models.ensemble import balance_spreads, mean_weights, spread_within
from distill_assets.models.folders import is_cross_encoder, read_json
from distill_assets.models.remote import Served
from distill_assets.records import Query
from distill_assets.settings.values import BUNDLED
from distill_assets.training.lists import build_teacher_epochs, choose_queries, pairs_of, per_list


def ask_servers(inputs: Inputs) -> list[Served | None]:
    """What the servers of each teacher serve, compared with its local copy where there is one; None for one that is not served."""
    models = inputs.project.models
    found = [
        models.open_servers(i).served() if is_served else None for i, is_served in enumerate(models.are_teachers_served)
    ]
    copy, served = inputs.settings.teacher_local_copy, found[0]
    if copy is not None and served is not None:
        logits = inputs.logits_handle.open_cross_encoder(models.resolve(copy))(canary.PAIRS)
        canary.require_same(
            logits.tolist(),
            served.logits,
            f"the scores of {served.identity.model_id} behind the server and of its copy {copy!r}",
            "check that both are the same model, and the server's template and pooling",
        )
    return found


def build_teacher(inputs: Inputs, folder: Path, work_folder: Path, served: Sequence[Served | None]) -> dict[str, Any]:
    """Write the teacher's files into `folder` and return what the manifest says of it. `served` is that of `ask_servers`."""
    models = inputs.project.models
    num_folds = models.num_teacher_folds
    prompt = inputs.settings.teacher_prompt
    names = [
        one.identity.model_id if one else choice for choice, one in zip(models.teacher_choices, served, strict=True)
    ]
    about: dict[str, Any] = {"source": " + ".join(names), **({} if prompt is None else {"prompt": prompt})}
    if len(names) > 1:
        about["joined"] = _build_several(inputs, folder, served)
    elif served[0] is not None:
        write_served(folder, served[0])
    elif models.imported_teacher is not None:
        shutil.copyfile(models.imported_teacher, folder / IMPORTED_FILE)
        about |= {"imported": read_json(folder / IMPORTED_FILE)}
    elif num_folds == 1:
        about |= _build_member(inputs, folder, work_folder, fold=0)
    else:
        about["folds"] = [_build_fold(inputs, folder, work_folder, fold) for fold in range(num_folds)]
    if len(names) == 1 and models.is_teacher_of_collection and (num_folds > 1 or models.is_teacher_joined):
        about["joined"] = _join(inputs, folder)
    elif models.teacher_choice == BUNDLED:
        _write_bundled_join(folder, is_joined=models.is_teacher_joined)
    parts = [*fold_folders(folder), *member_folders(folder)]
    members = {path.name if path != folder else "": path for path in parts or [folder]}
    return about | {"ways": {name: inputs.logits_handle.way(path) for name, path in members.items()}}


def train_queries(inputs: Inputs) -> list[Query]:
    """All judged train queries, sorted by id. Raises `TrainingError` when there is none."""
    found = inputs.training("train")
    if not found:
        raise TrainingError(
            "no train query has a judgement: nothing can be learned; give qrels/train.tsv, or one qrels file of more queries, "
            "which is then split 80/10/10"
        )
    return found


def _build_several(inputs: Inputs, folder: Path, served: Sequence[Served | None]) -> dict[str, Any]:
    """Each of several teachers as it is, and the weight of its logits, measured on dev candidates; nDCG@10 of reranking with each."""
    lists, scores = step_lists(inputs), []
    for number, choice in enumerate(inputs.project.models.teacher_choices):
        path, one = member_folder(folder, number), served[number]
        if one is not None:
            path.mkdir()
            write_served(path, one)
        else:
            _copy_cross_encoder(inputs.project.models.resolve(choice), path, choice)
        scores.append(per_list(lists, inputs.logits_handle.score_alone(path, pairs_of(lists))))
    weights = mean_weights(scores)
    _write_json(folder / TEACHERS_FILE, {"weights": weights})
    whole = [np.average(of_query, axis=0, weights=weights).tolist() for of_query in zip(*scores, strict=True)]
    found = [rerank_ndcg(lists, of_one) for of_one in scores]
    return {"dev_ndcg_at_10_joined": rerank_ndcg(lists, whole), "weights": weights, "dev_ndcg_at_10": found}


def _copy_cross_encoder(source: Path, folder: Path, choice: str) -> None:
    if not is_cross_encoder(source):
        raise ModelError(
            f"{choice!r} has no scoring head, and in a list of teachers each is taken as it is: name cross-encoders, or this encoder "
            "alone, which is then trained"
        )
    shutil.copytree(source, folder)


def _build_fold(inputs: Inputs, folder: Path, work_folder: Path, fold: int) -> dict[str, Any]:
    """One fold of a cross-fitted teacher, and the keys of the queries whose labels it saw."""
    models = inputs.project.models
    about = _build_member(inputs, fold_folder(folder, fold), fold_folder(work_folder, fold), fold)
    keys = {query_key(query.text) for query in labelled(inputs, fold)} if models.is_teacher_trained else set()
    if models.teacher_choice == BUNDLED:
        keys |= read_trained_on(fold_folder(models.teacher_source_path, fold))
    write_trained_on(fold_folder(folder, fold), keys)
    return about


def _build_member(inputs: Inputs, folder: Path, work_folder: Path, fold: int) -> dict[str, Any]:
    """One cross-encoder, with a bi-encoder of its own where it brings one; returns where they come from."""
    from distill_assets.models.encoders import set_prompt

    models = inputs.project.models
    source, about = models.teacher_source_path, dict[str, Any]()
    if models.teacher_choice == BUNDLED:
        model, about = _open_bundled(inputs, fold_folder(source, fold), folder)
    elif models.is_teacher_trained:
        model = models.load_teacher(source) if is_cross_encoder(source) else models.grow_teacher(source)
    else:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return {}
    set_prompt(model, inputs.settings.teacher_prompt)
    if models.is_teacher_trained:
        about["training"] = _fine_tune(inputs, model, work_folder, fold)
    model.save_pretrained(str(folder))
    return about


def _open_bundled(inputs: Inputs, source: Path, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A bundled fold's cross-encoder, and where it comes from; its bi-encoder is written into `folder` where the two are joined."""
    from distill_assets.models.adapters import load_adapted_student, load_adapted_teacher

    models = inputs.project.models
    length, device = models.settings.teacher_max_length, models.device
    if models.is_teacher_joined:
        bi_encoder = load_adapted_student(
            packaged_encoder(), source / BI_ENCODER_FOLDER, device=device, max_length=length
        )
        bi_encoder.save_pretrained(str(folder / BI_ENCODER_FOLDER), create_model_card=False)
    model = load_adapted_teacher(packaged_encoder(), source / CROSS_ENCODER_FOLDER, device=device, max_length=length)
    members = (CROSS_ENCODER_FOLDER, BI_ENCODER_FOLDER)
    return model, {name: read_json(source / name / "provenance.json") for name in members}


def _fine_tune(inputs: Inputs, model: Any, work_folder: Path, fold: int) -> dict[str, Any]:
    from distill_assets.training.trainer import TrainingRun, train_teacher

    recipe = inputs.settings.teacher_recipe
    recipe = replace(recipe, seed=recipe.seed + fold)
    epochs = build_teacher_epochs(labelled(inputs, fold), inputs.labels, recipe)
    run = TrainingRun(work_folder, inputs.project.models.device)
    report = train_teacher(model, epochs, step_lists(inputs), recipe, run)
    return {"recipe": asdict(recipe), **asdict(report)}


def labelled(inputs: Inputs, fold: int) -> list[Query]:
    """The train queries whose labels a fold is fine-tuned on: those of the other folds, all where there is one."""
    others = outside_fold(train_queries(inputs), inputs.project.models.num_teacher_folds, fold)
    return choose_queries(others, inputs.training_judgements, inputs.settings.teacher_recipe.num_queries)


def _join(inputs: Inputs, folder: Path) -> dict[str, Any]:
    """Measure the members on dev candidates, write how they are joined; returns nDCG@10 of reranking for each and for all.

    Weights and scales balance spreads and read no label, so that dev stays a fair judge of them. They are constants of the teacher
    from then on: a batch that lands moves no logit.
    """
    lists = step_lists(inputs)
    pairs, members = pairs_of(lists), fold_folders(folder) or [folder]
    joined, found = [], []
    for path in members:
        scores, measured = _join_with_cosine(inputs, path, lists, pairs)
        joined.append(scores)
        found.append(measured)
    spreads = [spread_within(per_list(lists, scores)) for scores in joined]
    scales = [spreads[0] / spread if spread else 1.0 for spread in spreads]
    if len(members) > 1:
        _write_json(folder / FOLDS_FILE, {"scales": scales})
    whole = np.mean([scale * scores for scale, scores in zip(scales, joined, strict=True)], axis=0)
    return {"dev_ndcg_at_10_joined": rerank_ndcg(lists, per_list(lists, whole)), "scales": scales, "members": found}


def _join_with_cosine(
    inputs: Inputs, folder: Path, lists: Sequence[DevList], pairs: Sequence[tuple[str, str]]
) -> tuple[np.ndarray, dict[str, float]]:
    """One member's scores of `pairs`, joined with a cosine where the teacher is joined; and nDCG@10 of its parts."""

    def measure(scores: np.ndarray) -> float:
        return rerank_ndcg(lists, per_list(lists, scores))

    models, logits = inputs.project.models, inputs.logits_handle.score_alone(folder, pairs)
    if not models.is_teacher_joined:
        return logits, {"dev_ndcg_at_10": measure(logits)}
    cosines = inputs.project.vectors.cosines(models.teacher_bi_encoder(folder), pairs)
    weight = balance_spreads(per_list(lists, logits), per_list(lists, cosines))
    _write_json(folder / ENSEMBLE_FILE, {"cosine_weight": weight, "student": models.student_id})
    joined = logits + weight * cosines
    parts = {"cross_encoder": logits, "bi_encoder_cosine": cosines, "joined": joined}
    measured = {f"dev_ndcg_at_10_{name}": measure(scores) for name, scores in parts.items()}
    return joined, {"cosine_weight": weight} | measured


def _write_bundled_join(folder: Path, *, is_joined: bool) -> None:
    """The bundled teacher brings its weights and scales along, so that it needs nothing of the collection."""
    constants = read_json(BUNDLED_JOIN)["joined" if is_joined else "alone"]
    _write_json(folder / FOLDS_FILE, {"scales": constants["scales"]})
    for path, weight in zip(fold_folders(folder), constants.get("cosine_weights", []), strict=False):
        _write_json(path / ENSEMBLE_FILE, {"cosine_weight": weight})


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
