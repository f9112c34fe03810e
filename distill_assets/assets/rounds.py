"""Rounds of a student's training: mine with the student of the round before, score the new pairs, train again."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distill_assets.assets.fitness import step_groups
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.negatives import mine_all, mining_rules
from distill_assets.assets.teacher_building import train_queries
from distill_assets.records import Query, hash_text
from distill_assets.storage.checkpoints import MANIFEST
from distill_assets.training.lists import Labels, build_student_epochs


@dataclass(frozen=True)
class Pairs:
    """What a round trains on: queries, their candidates, and what the teacher says of them."""

    queries: Sequence[Query]
    labels: Labels
    logit_of: dict[tuple[str, str], float] | None


def train_rounds(
    inputs: Inputs, work_folder: Path, about: dict[str, Any]
) -> tuple[Callable[[int], Path], list[dict[str, Any]]]:
    """Train every round that is not finished in `work_folder`; returns where a round's model is, and what each did.

    `about` is what a manifest says of the model whatever the round.
    """
    recipe, pairs, groups = inputs.recipe, _read_pairs(inputs), step_groups(inputs)
    rounds: list[dict[str, Any]] = []

    def path(number: int) -> Path:
        return work_folder / f"round-{number}" / "model" if number else inputs.student_path

    for number in range(1, recipe.rounds + 1):
        done: dict[str, Any] = {"round": number, "num_new_pairs": 0, "mining_s": 0.0, "scoring_s": 0.0}
        if number > 1:
            pairs, cost = _mine_again(inputs, pairs, path(number - 1))
            done |= cost
        if not (path(number) / MANIFEST).is_file():
            started = time.perf_counter()
            model, training = _train_once(inputs, pairs, groups, (number, path(number - 1), path(number)))
            done |= {"training_s": time.perf_counter() - started, "dev_ndcg_at_10": training["best_dev_ndcg_at_10"]}
            if training["best_step"] == 0:  # no step was better: it is the model that it began as, file by file
                shutil.copytree(
                    path(number - 1), path(number), ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True
                )
            else:
                model.save_pretrained(str(path(number)), create_model_card=False)
            manifest = json.dumps(about | {"round": done | {"training": training}}, indent=2)
            (path(number) / MANIFEST).write_text(manifest, encoding="utf-8")
        rounds.append(inputs.project.places.checkpoints.read_manifest(path(number))["round"])
        inputs.log.info(f"{recipe.name}: round {number}, dev nDCG@10 {rounds[-1]['dev_ndcg_at_10']:.4f}")
    return path, rounds


def _train_once(inputs: Inputs, pairs: Pairs, groups: Any, where: tuple[int, Path, Path]) -> tuple[Any, dict[str, Any]]:
    """One training from the model of the round before; returns the model and its report."""
    from distill_assets.models.query_tower import split_towers
    from distill_assets.training.trainer import TrainingRun, train_student

    number, start, target = where
    recipe, models = inputs.recipe.of_round(number), inputs.project.models
    model = models.load_student(start)
    if recipe.train == "query_tower":
        model = split_towers(model)
    epochs = build_student_epochs(pairs.queries, pairs.labels, recipe, pairs.logit_of)
    run = TrainingRun(
        target.parent / "state", models.device, num_evaluations=3, show_progress=inputs.project.show_progress
    )
    return model, asdict(train_student(model, epochs, groups, recipe, run))


def _read_pairs(inputs: Inputs) -> Pairs:
    recipe, labels = inputs.recipe, inputs.labels
    unjudged = [query for query in inputs.training_queries if query.split == "train"]
    everything = unjudged if recipe.positives == "teacher" else train_queries(inputs)
    mined = [q for q in everything if q.query_id in inputs.candidates]
    queries = sorted(mined, key=lambda q: hash_text(q.query_id))[: recipe.max_queries]
    return Pairs(queries, labels, inputs.logits if recipe.uses_teacher else None)


def _mine_again(inputs: Inputs, pairs: Pairs, student: Path) -> tuple[Pairs, dict[str, Any]]:
    """Candidates of the student at `student` before those there were, scored where the teacher has not scored them; and the cost."""
    settings, labels = inputs.settings, pairs.labels
    started = time.perf_counter()
    dense = inputs.retrieval.dense(student, pairs.queries, settings.mining_depth)
    found: dict[str, list[str]] = {q.query_id: [] for q in pairs.queries}
    mined_anew = mine_all(inputs.retrieval, pairs.queries, ({}, dense), labels.judged, mining_rules(settings))
    for query_id, candidate in mined_anew:
        found[query_id].append(candidate.doc_id)
    candidates = {q: list(dict.fromkeys([*ids, *labels.candidates.get(q, ())])) for q, ids in found.items()}
    mined = time.perf_counter()
    logit_of, num_scored = pairs.logit_of, 0
    if logit_of is not None:
        text_of = {q.query_id: q.text for q in pairs.queries}
        unjudged = {q: [d for d in ids if d not in labels.judged.get(q, ())] for q, ids in found.items()}
        wanted = [(q, d) for q, ids in unjudged.items() for d in ids[: settings.num_scored_negatives]]
        new = [pair for pair in wanted if pair not in logit_of]
        texts = [(text_of[q], labels.content_of[d]) for q, d in new]
        logits, num_scored = inputs.logits_handle.score_texts(inputs.teacher, texts, inputs.log.info)
        logit_of = logit_of | dict(zip(new, logits, strict=True))
    cost = {"num_new_pairs": num_scored, "mining_s": mined - started, "scoring_s": time.perf_counter() - mined}
    return Pairs(pairs.queries, replace(labels, candidates=candidates), logit_of), cost
