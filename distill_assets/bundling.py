"""Growing the bundled teacher: per fold a bi-encoder and a cross-encoder that starts from it, each an adapter with its provenance."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill_assets.assets.inputs import data_version
from distill_assets.assets.manifests import package_versions
from distill_assets.assets.reading import (
    choose_queries,
    read_labels,
    read_qrels,
    read_step_groups,
    read_train_queries,
)
from distill_assets.core.cross_fitting import outside_fold, query_key
from distill_assets.core.groups import DevGroup, Labels, build_student_epochs, build_teacher_epochs
from distill_assets.core.recipes import Recipe, TeacherMember, TeacherRecipe
from distill_assets.core.records import Query
from distill_assets.resources import Project
from distill_assets.storage.models import BI_ENCODER_FOLDER, CROSS_ENCODER_FOLDER, fold_folder, write_trained_on

_NUM_EVALUATIONS = 4


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a teacher is grown: folds, the adapters' rank, train queries (None: all), epochs, peak learning rate."""

    folds: int
    rank: int
    num_queries: int | None
    epochs: int
    learning_rate: float


def grow_teacher(project: Project, out: Path, growth: Growth, *, say: Callable[[str], None]) -> None:
    """Train the members of every fold on the student's encoder; a member that is there already is kept.

    A fold's bi-encoder learns as the recipe `hard_labels` does, on the labels of the other folds (with one fold: on all). Its
    cross-encoder starts from that adapter (Trans-Encoder, arXiv 2109.13059, goes the same way without labels) and learns by
    listwise softmax over one positive, three mined negatives and a random one. The dev split decides which step is kept; no test
    query is read.
    """
    for fold in range(growth.folds):
        grow_fold(project, out, growth, fold, say=say)


def grow_fold(project: Project, out: Path, growth: Growth, fold: int, *, say: Callable[[str], None]) -> None:
    """One fold of `grow_teacher`."""
    labels = read_labels(project)
    train = choose_queries(read_train_queries(project), read_qrels(project), growth.num_queries)
    seen = outside_fold(train, growth.folds, fold)
    grower = _FoldGrower(project, growth, fold, seen, labels, read_step_groups(project, labels), say)
    folder = fold_folder(out, fold)
    grower.grow_bi_encoder(folder / BI_ENCODER_FOLDER)
    grower.grow_cross_encoder(folder / CROSS_ENCODER_FOLDER, folder / BI_ENCODER_FOLDER)
    write_trained_on(folder, (query_key(query.text) for query in seen))


@dataclass(frozen=True)
class _FoldGrower:
    project: Project
    growth: Growth
    fold: int
    seen: Sequence[Query]
    labels: Labels
    step_groups: Sequence[DevGroup]
    say: Callable[[str], None]

    def grow_bi_encoder(self, out: Path) -> None:
        from distill_assets.core.adapters import add_adapter
        from distill_assets.core.training import train_student

        recipe = Recipe(
            name="bi_encoder",
            loss="hard_labels",
            epochs=self.growth.epochs,
            learning_rate=self.growth.learning_rate,
            seed=13 + self.fold,
        )
        if self._is_there(out):
            return
        model = self.project.load_student(self.project.student_path)
        adapted = add_adapter(model, self.growth.rank)
        groups = build_student_epochs(self.seen, self.labels, recipe)
        self._keep("bi_encoder", out, (adapted, model), train_student, groups, recipe)

    def grow_cross_encoder(self, out: Path, bi_encoder: Path) -> None:
        from distill_assets.core.adapters import add_adapter
        from distill_assets.core.encoders import grow_cross_encoder
        from distill_assets.core.training import train_teacher

        recipe = TeacherRecipe(
            num_queries=self.growth.num_queries,
            epochs=self.growth.epochs,
            learning_rate=self.growth.learning_rate,
            lora_rank=self.growth.rank,
            max_length=self.project.settings.teacher_max_length,
            seed=7 + self.fold,
        )
        if self._is_there(out):
            return
        model = grow_cross_encoder(self.project.student_path, device=self.project.device, max_length=recipe.max_length)
        adapted = add_adapter(model, self.growth.rank, start=bi_encoder)
        groups = build_teacher_epochs(self.seen, self.labels, recipe)
        self._keep("cross_encoder", out, (adapted, model), train_teacher, groups, recipe)

    def _keep(self, member: TeacherMember, out: Path, models: Any, train: Any, groups: Any, recipe: Any) -> None:
        """Train, write the adapter, and provenance.json last: what has none is grown again."""
        from distill_assets.core.adapters import save_adapter
        from distill_assets.core.training import TrainingRun

        adapted, model = models
        run = TrainingRun(
            self._work_folder(member),
            self.project.device,
            num_evaluations=_NUM_EVALUATIONS,
            show_progress=self.project.show_progress,
        )
        report = train(model, groups, self.step_groups, recipe, run)
        out.mkdir(parents=True, exist_ok=True)
        save_adapter(adapted, model, out)
        project = self.project
        provenance = {
            "member": member,
            "fold": f"{self.fold} of {self.growth.folds}: trained on the labels of the other folds",
            "base": project.settings.student,
            "collection": project.source.name,
            "batches": {batch: data_version(project, "qrels", batch) for batch in project.batches()},
            "split": "train alone; dev chose the step; no test query was read",
            "num_queries": len(self.seen),
            "lora_rank": self.growth.rank,
            "recipe": asdict(recipe),
            "training": asdict(report),
            "packages": package_versions(),
        }
        (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
        self.say(f"{out}: dev nDCG@10 {report.best_dev_ndcg_at_10:.4f}")

    def _is_there(self, out: Path) -> bool:
        if not (out / "provenance.json").is_file():
            return False
        self.say(f"{out} is there already")
        return True

    def _work_folder(self, name: str) -> Path:
        return self.project.folder / f"work-fold-{self.fold}" / name
