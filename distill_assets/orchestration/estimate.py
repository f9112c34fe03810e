"""How long a run will take on this machine: the forward passes that are left, times what one was measured to take.

Texts and pairs that are in the stores already are counted too, so a run after a small change ends sooner than told.
"""

import time
from dataclasses import dataclass

from distill_assets.assets.student_choice import TRIAL_DOCUMENTS
from distill_assets.handles.project import Project
from distill_assets.models.catalog import weights_mb
from distill_assets.models.folders import own_max_tokens
from distill_assets.orchestration.stages import INGEST, IsStale, Stage, partitions_of, stages_of
from distill_assets.progress import as_duration
from distill_assets.records import SPLITS
from distill_assets.settings.values import BUNDLED, Settings

_SAMPLE, _MEASURED_S = 96, 1.0  # texts that are timed, and for how long, as texts and as pairs
_WITH_GRADIENT = 3  # forward passes that one with its gradient takes (Kaplan et al. 2020, arXiv 2001.08361, table 1)
_IN_POOL = 1.7  # documents of a pool of BM25's and dense search's first n, over n: 51.6 at n = 30 (python_api)
_TIMED_TEXTS, _TIMED_PAIRS = 256, 600  # of each student, and of the teacher, for the leaderboard's latencies


@dataclass(frozen=True)
class Sizes:
    """What decides the work: documents, and judged queries by split, at most as many as the settings allow."""

    documents: int
    train: int
    dev: int
    test: int


@dataclass(frozen=True)
class Work:
    """Forward passes: texts of a bi-encoder, pairs of a cross-encoder; and passes over texts and pairs with their gradient."""

    texts: float = 0
    pairs: float = 0
    trained_texts: float = 0
    trained_pairs: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.texts + other.texts,
            self.pairs + other.pairs,
            self.trained_texts + other.trained_texts,
            self.trained_pairs + other.trained_pairs,
        )

    def seconds(self, text_s: float, pair_s: float) -> float:
        """Time, where a text and a pair take so many seconds."""
        texts, pairs = (
            self.texts + _WITH_GRADIENT * self.trained_texts,
            self.pairs + _WITH_GRADIENT * self.trained_pairs,
        )
        return text_s * texts + pair_s * pairs


def work_of(
    asset: str, partition: str, sizes: Sizes, settings: Settings, *, num_folds: int, trains_teacher: bool
) -> Work:
    """The forward passes of one asset's partition (of `hard_negatives` and `teacher_scores`: of all batches), from nothing."""
    pool = _IN_POOL * settings.pool_depth
    step_queries = min(settings.step_queries, sizes.dev)
    match asset:
        case "student_choice":
            num_students, documents = len(settings.students), min(sizes.documents, TRIAL_DOCUMENTS)
            trained = 3 * min(sizes.train, settings.trial_queries)
            return Work(texts=2 * num_students * (documents + step_queries), trained_texts=num_students * trained)
        case "hard_negatives":
            return Work(texts=sizes.documents + sizes.train + sizes.dev)
        case "teacher_checkpoint":
            tuning = settings.teacher_recipe
            num_queries = min(sizes.train, tuning.num_queries or sizes.train)
            lists = tuning.epochs * num_queries * (1 + tuning.num_hard + tuning.num_random)
            trained = num_folds * lists if trains_teacher else 0
            return Work(pairs=step_queries * pool * num_folds, trained_pairs=trained)
        case "teacher_scores":
            return Work(pairs=sizes.train * (1 + settings.num_scored_negatives))
        case "student_checkpoint":
            recipe = settings.recipe(partition)
            lists = recipe.epochs * min(sizes.train, recipe.max_queries or sizes.train)
            trained = lists * (2 + recipe.num_negatives + recipe.num_random)
            return Work(texts=min(sizes.documents, step_queries * pool), trained_texts=trained)
        case "eval_metrics":
            return Work(texts=sizes.documents + sizes.dev + sizes.test)
        case "leaderboard":
            num_baselines, asked = len(settings.baselines), sizes.documents + sizes.dev + sizes.test
            num_systems = 1 + len(settings.all_recipes) + num_baselines
            return Work(
                texts=num_systems * _TIMED_TEXTS + num_baselines * asked,
                pairs=(sizes.test or sizes.dev) * pool * num_folds + _TIMED_PAIRS,
            )
    return Work()


def estimate(project: Project, is_stale: IsStale, until: str) -> str:
    """A sentence: about how long what is stale up to the asset `until` will take. Takes two seconds; the collection is read already."""
    settings, models = project.settings, project.models
    sizes, texts, pairs = _measure_collection(project)
    text_s, pair_s = _time_passes(project, texts, pairs)
    total, num_folds = Work(), models.num_teacher_folds
    for stage, asset in _assets_until(project, until):
        stale = [key for key in partitions_of(project, stage) if is_stale(project, asset, key)]
        for key in stale if stage.by != "batch" else stale[:1]:
            trains = models.is_teacher_trained
            total += work_of(asset, key, sizes, settings, num_folds=num_folds, trains_teacher=trains)
    speeds = f"{1 / text_s:,.0f} texts" + (f" and {1 / pair_s:,.0f} pairs" if pair_s else "")
    servers = f"; and what a server takes for {total.pairs:,.0f} pairs" if any(models.are_teachers_served) else ""
    return f"about {as_duration(total.seconds(text_s, pair_s))} from here on this machine: {speeds} a second, measured now{servers}"


def _assets_until(project: Project, until: str) -> list[tuple[Stage, str]]:
    """What follows reading, up to and with the asset `until`."""
    every = [(stage, asset) for stage in stages_of(project) if stage is not INGEST for asset in stage.assets]
    last = next((i for i, (_, asset) in enumerate(every) if asset == until), -1)
    return every[: last + 1]


def _measure_collection(project: Project) -> tuple[Sizes, list[str], list[str]]:
    """Sizes, a sample of documents, and the same documents each behind a query."""
    limits = {split: getattr(project.settings, f"{split}_queries") for split in SPLITS}
    with project.collection.snapshot() as collection:
        counts = dict.fromkeys(SPLITS, 0)
        for split, limit in limits.items():
            # The limit of train is of each batch, those of dev and test are of all.
            for batch in collection.batches if split == "train" else ("",):
                num_judged = len(collection.judgements((split,), batch))
                counts[split] += num_judged if limit is None else min(limit, num_judged)
        num_documents, sample = collection.sample(_SAMPLE)
        queries = collection.queries(SPLITS)
    asked = [queries[i % len(queries)].text if queries else "" for i in range(len(sample))]
    pairs = [f"{query} {document}" for query, document in zip(asked, sample, strict=True)]
    return Sizes(documents=num_documents, **counts), sample, pairs


def _time_passes(project: Project, texts: list[str], pairs: list[str]) -> tuple[float, float]:
    """Seconds of a text of the student, and of a pair of the teacher: an encoder of the student's size, scaled to the teacher's.

    A pair of several teachers takes what it takes of each; one behind a server, or imported scores, take no time of this machine.
    """
    from distill_assets.models.encoders import encode_texts

    models, found = project.models, []
    model = models.load_student(models.student_path, models.student_precision)
    limits = (project.settings.teacher_max_length, own_max_tokens(models.student_path))
    for sample, max_length in ((texts, model.max_seq_length), (pairs, min(n for n in limits if n is not None))):
        model.max_seq_length = max_length
        times: list[float] = []
        ends_at = time.perf_counter() + _MEASURED_S
        while len(times) < 2 or time.perf_counter() < ends_at:
            started = time.perf_counter()
            encode_texts(model, sample, "document", batch_size=project.settings.batch_size)
            times.append(time.perf_counter() - started)
        found.append(min(times) / max(1, len(sample)))  # the first pass pays for set-up, others for what else runs
    if models.is_teacher_imported:
        return found[0], 0.0
    if models.teacher_choice == BUNDLED:  # adapters of the packaged encoder
        return found[0], found[1]
    here = [
        choice
        for choice, is_served in zip(models.teacher_choices, models.are_teachers_served, strict=True)
        if not is_served
    ]
    teacher_mb = sum(weights_mb(models.resolve(choice)) for choice in here)
    return found[0], found[1] * teacher_mb / max(1e-9, weights_mb(models.student_path))
