"""The work of a run: what is counted, by hand."""

from collections.abc import Sequence
from dataclasses import replace
from math import exp
from types import SimpleNamespace
from typing import Any

import pytest

from distill_assets.orchestration import estimate
from distill_assets.orchestration.estimate import Sizes, Work, generated_of_splits, work_of
from distill_assets.records import Split
from distill_assets.settings.values import load_settings

SIZES = Sizes(documents=1000, train=200, dev=40, test=50, answers=210, generated=150)
DEV = 1000 * (1 - exp(-0.68))  # documents among 40 pools of 17
# Twice 200 lists in batches of 32, of which the last of each pass is left out; a document stands in a batch once.
HARD, KL = (2 * 6 * (32 + 1000 * (1 - exp(-width * 32 / 1000))) for width in (2, 6))


@pytest.mark.parametrize(
    ("asset", "partition", "expected"),
    [
        ("student_choice", "", Work(texts=2 * 2 * 1040, trained_texts=2 * 200 * 3)),
        ("generated_queries", "", Work(texts=1000 + 2 * 150)),
        ("teacher_judgements", "", Work()),
        ("hard_negatives", "", Work(texts=1240)),
        ("teacher_checkpoint", "", Work(pairs=40 * 17 * 2, trained_pairs=2 * 2 * 100 * 5)),
        ("teacher_scores", "", Work(pairs=210 + 200 * 10)),
        ("student_checkpoint", "hard_labels", Work(texts=3 * (40 + DEV), trained_texts=HARD)),
        ("student_checkpoint", "kl", Work(texts=4 * (40 + DEV), trained_texts=KL)),
        ("eval_metrics", "kl", Work(texts=1090)),
        ("leaderboard", "", Work(texts=5 * 296 + 1090, pairs=50 * 17 * 2, timed_pairs=6 * 17 * 2)),
        ("champion", "", Work()),
    ],
)
def test_the_work_of_each_asset_by_hand(asset: str, partition: str, expected: Work) -> None:
    """An asset that is left out makes an hour look like ten minutes."""
    found = work_of(asset, partition, SIZES, project_with(num_folds=2, is_trained=True))
    assert vars(found) == pytest.approx(vars(expected))


def test_a_query_is_a_part_of_a_text_and_refused_ones_train_nothing() -> None:
    """Queries of 12 tokens were told as passages of 120: a folder's run was told a third too long."""
    sizes = replace(SIZES, query_share=0.1, refused=80)
    project = project_with(num_folds=2, is_trained=False)
    trained = work_of("student_checkpoint", "kl", sizes, project)
    assert trained.trained_texts == pytest.approx(2 * 3 * (3.2 + 1000 * (1 - exp(-0.192))))
    assert trained.texts == pytest.approx(3 * (4 + DEV)), "1,068 texts pay for two searches of dev, beside the first"
    assert work_of("eval_metrics", "kl", sizes, project).texts == 1000 + 9
    assert work_of("teacher_scores", "", sizes, project).pairs == 2 * (210 + 200 * 10), (
        "they are scored before they are refused"
    )


@pytest.mark.parametrize(
    ("unjudged", "pairs"),
    [((), (1360, 4420, 0, 1700)), (("dev",), (0, 4420, 1360, 1700)), (("dev", "test"), (0, 4420, 3060, 0))],
)
def test_what_the_teacher_judges_is_scored_to_judge_and_not_again(
    unjudged: tuple[Split, ...], pairs: tuple[int, ...]
) -> None:
    """The first line of a run over a folder of documents told 1,377 pairs three times that are scored once: 505 s for 345."""
    sizes, project = replace(SIZES, unjudged=unjudged), project_with(num_folds=2, is_trained=False)
    assets = ("teacher_checkpoint", "teacher_scores", "teacher_judgements", "leaderboard")
    assert tuple(work_of(asset, "", sizes, project).pairs for asset in assets) == pairs


def project_with(*, num_folds: int, is_trained: bool, is_joined: bool = False, teachers: int = 1) -> Any:
    """A project without files: its settings, and what its teacher is."""
    several = {"students": ("a", "b"), "baselines": ("c",)}
    settings = load_settings(collection="beir:x", pool_depth=10, teacher_queries=100, teacher_epochs=2, **several)
    models = SimpleNamespace(num_teacher_folds=num_folds, is_teacher_trained=is_trained, is_teacher_joined=is_joined)
    models.teacher_choices = ("teacher",) * teachers
    return SimpleNamespace(settings=settings, models=models)


def test_a_teacher_of_several_parts_is_asked_for_each() -> None:
    """Two teachers, or the packaged one, whose folds saw none of these labels, would be told as half of what they take."""
    two = work_of("teacher_scores", "", SIZES, project_with(num_folds=1, is_trained=False, teachers=2))
    assert two.pairs == 2 * (210 + 200 * 10)
    folds = work_of("teacher_scores", "", SIZES, project_with(num_folds=2, is_trained=False, is_joined=True))
    assert folds.pairs == 2 * (210 + 200 * 10)
    # Of 680 + 2,210 documents that are drawn among 1,000: those that were not among the first 680; encoded by two encoders.
    assert folds.texts == pytest.approx(2 * 1000 * (exp(-0.68) - exp(-2.89)))


def test_a_pass_with_its_gradient_takes_three() -> None:
    """Training would be told as a third of what it takes."""
    work = Work(texts=10, pairs=20, trained_texts=30, trained_pairs=40, timed_pairs=2)
    assert work.seconds(text_s=1.0, pair_s=0.5) == 10 + 90 + 0.5 * (20 + 2 + 120)


def test_generated_queries_beyond_the_limit_are_not_planned() -> None:
    """A folder of documents has 1,000 generated queries and trains on 240: the plan told five times the training."""
    settings = load_settings(collection="beir:x", train_queries=240, dev_queries=80, test_queries=200)
    assert generated_of_splits(1000, settings, 2, has_queries=False) == {"train": 480, "dev": 80, "test": 100}
    assert generated_of_splits(1000, settings, 1, has_queries=True) == {"train": 240}
    assert generated_of_splits(1000, load_settings(collection="beir:x"), 1, has_queries=True) == {"train": 1000}


def test_a_speed_is_taken_from_as_many_as_fill_two_seconds_after_the_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first pass that starts threads, or eight texts on a card that takes a thousand at once, told hours for minutes."""
    sizes, clock = list[int](), [0.0]

    def work(part: Sequence[str]) -> None:
        sizes.append(len(part))
        clock[0] += 0.01 * len(part) + {1: 5.0, 3: 0.7}.get(len(sizes), 0.0)  # set-up, then something else that runs

    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(estimate, "_MEASURED_S", 2.0)
    assert estimate._seconds_of_each(work, ["a", "b", "c"]) == pytest.approx(0.01)
    assert sizes == [8, 8, 200, 200]
    assert estimate._seconds_of_each(work, []) == 0.0
