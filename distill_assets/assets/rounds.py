"""Rounds of a student's training: mine with the student of the round before, score the new pairs, train again."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg

from distill_assets.assets.reading import (
    read_labels,
    read_logits,
    read_queries,
    read_step_groups,
    read_train_queries,
    search_student,
)
from distill_assets.assets.scoring import score_texts
from distill_assets.core.groups import Labels, build_student_epochs
from distill_assets.core.mining import MiningRules, mine_hard_negatives
from distill_assets.core.recipes import Recipe
from distill_assets.core.records import Query, hash_text
from distill_assets.resources import Project


@dataclass(frozen=True)
class Pairs:
    """What a round trains on: queries, their candidates, and what the teacher says of them."""

    queries: Sequence[Query]
    labels: Labels
    logit_of: dict[tuple[str, str], float] | None


def train_rounds(
    project: Project, context: dg.AssetExecutionContext, recipe: Recipe, work_folder: Path, about: dict[str, Any]
) -> tuple[Callable[[int], Path], list[dict[str, Any]]]:
    """Train every round that is not finished in `work_folder`; returns where a round's model is, and what each did.

    `about` is what a manifest says of the model whatever the round.
    """
    pairs = _read_pairs(project, recipe)
    step_groups = read_step_groups(project, read_labels(project))
    rounds: list[dict[str, Any]] = []

    def path(number: int) -> Path:
        return work_folder / f"round-{number}" / "model" if number else project.student_path

    for number in range(1, recipe.rounds + 1):
        done: dict[str, Any] = {"round": number, "num_new_pairs": 0, "mining_s": 0.0, "scoring_s": 0.0}
        if number > 1:
            pairs, cost = _mine_again(project, context, pairs, path(number - 1))
            done |= cost
        if not (path(number) / "manifest.json").is_file():
            started = time.perf_counter()
            model, training = _train_once(project, recipe, pairs, step_groups, (number, path(number - 1), path(number)))
            done |= {"training_s": time.perf_counter() - started, "dev_ndcg_at_10": training["best_dev_ndcg_at_10"]}
            model.save_pretrained(str(path(number)), create_model_card=False)
            manifest = json.dumps(about | {"round": done | {"training": training}}, indent=2)
            (path(number) / "manifest.json").write_text(manifest, encoding="utf-8")
        rounds.append(project.checkpoints.read_manifest(path(number))["round"])
        context.log.info(f"{recipe.name}: round {number}, dev nDCG@10 {rounds[-1]['dev_ndcg_at_10']:.4f}")
    return path, rounds


def _train_once(
    project: Project, recipe: Recipe, pairs: Pairs, step_groups: Any, where: tuple[int, Path, Path]
) -> tuple[Any, dict[str, Any]]:
    """One training from the model of the round before; returns the model and its report."""
    from distill_assets.core.query_tower import split_towers
    from distill_assets.core.training import TrainingRun, train_student

    number, start, target = where
    recipe = recipe.of_round(number)
    model = project.load_student(start)
    if recipe.train == "query_tower":
        model = split_towers(model)
    epochs = build_student_epochs(pairs.queries, pairs.labels, recipe, pairs.logit_of)
    run = TrainingRun(target.parent / "state", project.device, show_progress=project.show_progress)
    return model, asdict(train_student(model, epochs, step_groups, recipe, run))


def _read_pairs(project: Project, recipe: Recipe) -> Pairs:
    labels = read_labels(project)
    everything = (
        read_queries(project, splits=("train",)) if recipe.positives == "teacher" else read_train_queries(project)
    )
    mined = [q for q in everything if q.query_id in labels.negatives]
    queries = sorted(mined, key=lambda q: hash_text(q.query_id))[: recipe.max_queries]
    return Pairs(queries, labels, read_logits(project) if recipe.uses_teacher else None)


def _mine_again(
    project: Project, context: dg.AssetExecutionContext, pairs: Pairs, student: Path
) -> tuple[Pairs, dict[str, Any]]:
    """Candidates of the student at `student` before those there were, scored where the teacher has not scored them; and the cost."""
    settings, labels = project.settings, pairs.labels
    rules = MiningRules(num_negatives=settings.negatives_per_query, near_identical_jaccard=settings.near_identical)
    started = time.perf_counter()
    run = search_student(project, student, pairs.queries, settings.mining_depth)
    found = {
        q.query_id: [
            candidate.doc_id
            for candidate in mine_hard_negatives(
                q.query_id,
                [],
                [doc_id for doc_id, _ in run[q.query_id]],
                positives=set(labels.positives.get(q.query_id, ())),
                texts=labels.content_of,
                rules=rules,
            )
        ]
        for q in pairs.queries
    }
    negatives = {q: list(dict.fromkeys([*ids, *labels.negatives.get(q, ())])) for q, ids in found.items()}
    mined = time.perf_counter()
    logit_of, num_scored = pairs.logit_of, 0
    if logit_of is not None:
        text_of = {q.query_id: q.text for q in pairs.queries}
        wanted = [(q, d) for q, ids in found.items() for d in ids[: settings.num_scored_negatives]]
        new = [pair for pair in wanted if pair not in logit_of]
        logits, num_scored = score_texts(project, context, [(text_of[q], labels.content_of[d]) for q, d in new])
        logit_of = logit_of | dict(zip(new, logits, strict=True))
    cost = {"num_new_pairs": num_scored, "mining_s": mined - started, "scoring_s": time.perf_counter() - mined}
    return Pairs(pairs.queries, replace(labels, negatives=negatives), logit_of), cost
