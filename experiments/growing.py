"""Growing the bundled teacher: per fold a bi-encoder and a cross-encoder that starts from it, each an adapter with its provenance."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill_assets.assets.comparison import step_lists
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.manifests import package_versions
from distill_assets.assets.reads import Reads
from distill_assets.assets.teacher_building import train_queries
from distill_assets.evaluation.metrics import DevList
from distill_assets.handles.project import Project
from distill_assets.models.catalog import BI_ENCODER_FOLDER, CROSS_ENCODER_FOLDER, fold_folder, write_trained_on
from distill_assets.models.cross_fitting import outside_fold, query_key
from distill_assets.records import Query, fingerprint
from distill_assets.storage.folders import read_json_object
from distill_assets.training.lists import build_student_epochs, build_teacher_epochs, choose_queries
from distill_assets.training.recipes import Recipe, TeacherMember, TeacherRecipe, hashed_fields
from experiments.study import make_until

logger = logging.getLogger("experiments")
_NUM_EVALUATIONS = 4
_READS = Reads(
    inputs=("student", "training_queries", "training_judgements", "candidates", "documents"),
    settings=("step_queries", "teacher_max_length"),
)


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a teacher is grown: folds, the adapters' rank, train queries (None: all), epochs, peak learning rate."""

    folds: int
    rank: int
    num_queries: int | None
    epochs: int
    learning_rate: float


def grow_teacher(project: Project, out: Path, growth: Growth, *, say: Callable[[str], None]) -> None:
    """Train the members of every fold on the student's encoder; one that is there from the same recipe and data is kept.

    A fold's bi-encoder learns as the recipe `hard_labels` does, on the labels of the other folds (with one fold: on all). Its
    cross-encoder starts from that adapter (Trans-Encoder, arXiv 2109.13059, goes the same way without labels) and learns by
    listwise softmax over one positive, three mined negatives and a random one. The dev split decides which step is kept; no test
    query is read.
    """
    make_until(project, "hard_negatives")
    inputs = Inputs(project, "grow-teacher", _READS, "", logger)
    train = choose_queries(train_queries(inputs), inputs.training_judgements, growth.num_queries)
    lists = step_lists(inputs)
    for fold in range(growth.folds):
        grower = _FoldGrower(inputs, growth, fold, outside_fold(train, growth.folds, fold), lists, say)
        grower.grow(fold_folder(out, fold))


@dataclass(frozen=True)
class _FoldGrower:
    inputs: Inputs
    growth: Growth
    fold: int
    seen: Sequence[Query]
    step_lists: Sequence[DevList]
    say: Callable[[str], None]

    def grow(self, folder: Path) -> None:
        """Both members, and the keys of the queries that they saw."""
        start = folder / BI_ENCODER_FOLDER
        bi_encoder = Recipe(
            name="bi_encoder",
            loss="hard_labels",
            epochs=self.growth.epochs,
            learning_rate=self.growth.learning_rate,
            seed=13 + self.fold,
        )
        cross_encoder = TeacherRecipe(
            num_queries=self.growth.num_queries,
            epochs=self.growth.epochs,
            learning_rate=self.growth.learning_rate,
            positives="found",
            lora_rank=self.growth.rank,
            max_length=self.inputs.settings.teacher_max_length,
            seed=7 + self.fold,
        )
        grown_from = self._keep(
            "bi_encoder", start, bi_encoder, "", lambda run: self._train_bi_encoder(bi_encoder, run)
        )
        self._keep(
            "cross_encoder",
            folder / CROSS_ENCODER_FOLDER,
            cross_encoder,
            grown_from,
            lambda run: self._train_cross_encoder(cross_encoder, start, run),
        )
        write_trained_on(folder, (query_key(query.text) for query in self.seen))

    def _train_bi_encoder(self, recipe: Recipe, run: Any) -> tuple[Any, Any, Any]:
        from distill_assets.training.trainer import train_student
        from experiments.adapters import add_adapter

        model = self.inputs.project.models.load_student(self.inputs.student_path)
        adapted = add_adapter(model, self.growth.rank)
        epochs = build_student_epochs(self.seen, self.inputs.labels, recipe)
        return adapted, model, train_student(model, epochs, self.step_lists, recipe, run)

    def _train_cross_encoder(self, recipe: TeacherRecipe, start: Path, run: Any) -> tuple[Any, Any, Any]:
        from distill_assets.models.encoders import grow_cross_encoder
        from distill_assets.training.trainer import train_teacher
        from experiments.adapters import add_adapter

        models = self.inputs.project.models
        model = grow_cross_encoder(self.inputs.student_path, device=models.device, max_length=recipe.max_length)
        adapted = add_adapter(model, self.growth.rank, start=start)
        epochs = build_teacher_epochs(self.seen, self.inputs.labels, recipe)
        return adapted, model, train_teacher(model, epochs, self.step_lists, recipe, run)

    def _keep(
        self,
        member: TeacherMember,
        out: Path,
        recipe: Recipe | TeacherRecipe,
        grown_from: str,
        train: Callable[[Any], tuple[Any, Any, Any]],
    ) -> str:
        """Train unless `out` holds what these inputs give; write the adapter, and provenance.json last. Returns the member's key."""
        from distill_assets.training.trainer import TrainingRun
        from experiments.adapters import save_adapter

        growth, project, versions = self.growth, self.inputs.project, self.inputs.versions
        decides = {
            "member": member,
            "fold": self.fold,
            "growth": asdict(growth),
            "recipe": hashed_fields(recipe),
            "inputs": versions,
        }
        key = fingerprint(json.dumps(decides, sort_keys=True), grown_from)
        if (read_json_object(out / "provenance.json") or {}).get("key") == key:
            self.say(f"{out} is there already")
            return key
        shutil.rmtree(out, ignore_errors=True)
        work_folder = project.places.folder / "grow-teacher" / key
        run = TrainingRun(work_folder, project.models.device, num_evaluations=_NUM_EVALUATIONS)
        adapted, model, report = train(run)
        out.mkdir(parents=True)
        save_adapter(adapted, model, out)
        provenance = {
            **decides,
            "key": key,
            "fold": f"{self.fold} of {growth.folds}: trained on the labels of the other folds",
            "base": project.settings.student,
            "collection": project.collection.source.name,
            "batches": self.inputs.slice_versions(("qrels",))["qrels"],
            "split": "train alone; dev chose the step; no test query was read",
            "num_queries": len(self.seen),
            "lora_rank": growth.rank,
            "training": asdict(report),
            "packages": package_versions(),
        }
        (out / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(work_folder, ignore_errors=True)
        self.say(f"{out}: dev nDCG@10 {report.best_dev_ndcg_at_10:.4f}")
        return key
