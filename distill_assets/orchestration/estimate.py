"""How long a run will take on this machine: the forward passes that are left, times what one was measured to take.

Texts and pairs that are in the stores already are counted too, so a run after a small change ends sooner than told.
"""

import time
from dataclasses import dataclass

from distill_assets.assets.student_choice import TRIAL_DOCUMENTS
from distill_assets.handles.collection import State
from distill_assets.handles.project import Project
from distill_assets.models.catalog import weights_mb
from distill_assets.models.folders import own_max_tokens
from distill_assets.orchestration.stages import INGEST, IsStale, Stage, partitions_of, stages_of
from distill_assets.progress import as_duration
from distill_assets.records import SPLITS
from distill_assets.settings.values import BUNDLED, Settings
from distill_assets.storage.collection import EVALUATION, Collection

_SAMPLE, _MEASURED_S = 96, 1.0  # texts that are timed, and for how long, as texts and as pairs
_WITH_GRADIENT = 3  # forward passes that one with its gradient takes (Kaplan et al. 2020, arXiv 2001.08361, table 1)
_MADE_PER_KEPT = 2  # generated queries; about half of them find the document that they were made from
_IN_POOL = 1.7  # documents of a pool of BM25's and dense search's first n, over n: 51.6 at n = 30 (python_api)
_TIMED_TEXTS, _TIMED_PAIRS = 256, 600  # of each student, and of the teacher, for the leaderboard's latencies


@dataclass(frozen=True)
class Sizes:
    """What decides the work: documents, and queries by split that have an answer or get one, at most as many as the settings allow.

    Attributes:
        generated: queries that are still to be made from documents; they are counted in their splits, too.
        unjudged: dev and test queries that the teacher judges.
    """

    documents: int
    train: int
    dev: int
    test: int
    generated: int = 0
    unjudged: int = 0


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
        case "generated_queries" | "hard_negatives" | "teacher_judgements":
            return _searching_work(asset, sizes, pool * num_folds)
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


def _searching_work(asset: str, sizes: Sizes, pairs_per_query: float) -> Work:
    """Of the assets that search for queries, and of having the teacher judge what is found."""
    if asset == "teacher_judgements":
        return Work(pairs=sizes.unjudged * pairs_per_query)
    num_queries = _MADE_PER_KEPT * sizes.generated if asset == "generated_queries" else sizes.train + sizes.dev
    return Work(texts=sizes.documents + num_queries)


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
    state = project.collection.state()
    with project.collection.snapshot() as collection:
        num_documents, sample = collection.sample(_SAMPLE)
        counts, queries = _count_queries(project, state, collection), collection.queries(SPLITS)
        has_generated = collection.has_generated()
    unjudged, generated = sum(counts[split] for split in EVALUATION if state.judges.get(split) == "teacher"), 0
    if state.generates and not has_generated:
        generated = _expected_queries(project, num_documents)
        shares = {"train": 1.0} if state.has_queries else {"train": 0.8, "dev": 0.1, "test": 0.1}
        for split, share in shares.items():
            counts[split] += round(share * generated)
        unjudged += 0 if state.has_queries else counts["dev"] + counts["test"]
    asked = [queries[i % len(queries)].text if queries else "" for i in range(len(sample))]
    pairs = [f"{query} {document}" for query, document in zip(asked, sample, strict=True)]
    return Sizes(documents=num_documents, **counts, generated=generated, unjudged=unjudged), sample, pairs


def _count_queries(project: Project, state: State, collection: Collection) -> dict[str, int]:
    """Queries of each split that have an answer, or get one from the teacher."""
    counts: dict[str, int] = {}
    unjudged = [query.split for query, _ in collection.unjudged()]
    for split in SPLITS:
        limit = getattr(project.settings, f"{split}_queries")
        if split in EVALUATION and state.judges.get(split) == "teacher":
            counts[split] = unjudged.count(split)
            continue
        # The limit of train is of each batch, those of dev and test are of all.
        for batch in collection.batches if split == "train" else ("",):
            is_taught = split == "train" and state.is_train_unjudged
            found = collection.queries((split,), batch) if is_taught else collection.judgements((split,), batch)
            counts[split] = counts.get(split, 0) + (len(found) if limit is None else min(limit, len(found)))
    return {split: counts.get(split, 0) for split in SPLITS}


def _expected_queries(project: Project, num_documents: int) -> int:
    """How many generated queries will be kept, about."""
    settings = project.settings
    num_batches = len(project.collection.batches())
    return min(
        num_documents * settings.queries_per_document // _MADE_PER_KEPT, settings.generated_queries * num_batches
    )


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
