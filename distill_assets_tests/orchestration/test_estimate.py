"""The time that a run is said to take: what is counted, by hand."""

from pathlib import Path

import pytest

from distill_assets.handles.project import Project
from distill_assets.orchestration.estimate import Sizes, Work, _assets_until, _time_passes, work_of
from distill_assets.settings.values import load_settings

SIZES = Sizes(documents=1000, train=200, dev=40, test=50, generated=150, unjudged=90)


@pytest.mark.parametrize(
    ("asset", "partition", "expected"),
    [
        ("student_choice", "", Work(texts=2 * 2 * 1040, trained_texts=2 * 200 * 3)),
        ("generated_queries", "", Work(texts=1000 + 2 * 150)),
        ("teacher_judgements", "", Work(pairs=90 * 17 * 2)),
        ("hard_negatives", "", Work(texts=1240)),
        ("teacher_checkpoint", "", Work(pairs=40 * 17 * 2, trained_pairs=2 * 2 * 100 * 5)),
        ("teacher_scores", "", Work(pairs=200 * 11)),
        ("student_checkpoint", "hard_labels", Work(texts=680, trained_texts=2 * 200 * 3)),
        ("student_checkpoint", "kl", Work(texts=680, trained_texts=2 * 200 * 7)),
        ("eval_metrics", "kl", Work(texts=1090)),
        ("leaderboard", "", Work(texts=5 * 256 + 1090, pairs=50 * 17 * 2 + 600)),
        ("champion", "", Work()),
    ],
)
def test_the_work_of_each_asset_by_hand(asset: str, partition: str, expected: Work) -> None:
    """An asset that is left out makes an hour look like ten minutes."""
    several = {"students": ("a", "b"), "baselines": ("c",)}
    settings = load_settings(collection="beir:x", pool_depth=10, teacher_queries=100, teacher_epochs=2, **several)
    found = work_of(asset, partition, SIZES, settings, num_folds=2, trains_teacher=True)
    assert vars_of(found) == pytest.approx(vars_of(expected))


def vars_of(work: Work) -> tuple[float, ...]:
    """The four counts."""
    return work.texts, work.pairs, work.trained_texts, work.trained_pairs


def test_a_pass_with_its_gradient_takes_three() -> None:
    """Training would be told as a third of what it takes."""
    assert Work(10, 20, 30, 40).seconds(text_s=1.0, pair_s=0.5) == 10 + 90 + 0.5 * (20 + 120)


def test_a_run_that_ends_early_is_not_told_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--until teacher_scores` would be told the time of all students; and of a trial that nothing asks for."""
    monkeypatch.chdir(tmp_path)
    project = Project()
    assert [asset for _, asset in _assets_until(project, "teacher_scores")] == [
        "hard_negatives",
        "teacher_checkpoint",
        "teacher_scores",
    ]
    assert _assets_until(project, "corpus") == []
    several = Project(overrides={"students": ("a", "b")})
    assert [asset for _, asset in _assets_until(several, "hard_negatives")] == ["student_choice", "hard_negatives"]


def test_pairs_are_timed_at_a_length_that_the_students_encoder_has(
    tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """A teacher that reads more tokens than the student has positions would end `run` before its first step."""
    overrides = {"student": str(tiny_encoder), "teacher": str(tiny_cross_encoder), "data_folder": str(tmp_path)}
    project = Project(overrides={**overrides, "collection": "beir:x", "teacher_max_length": 512, "device": "cpu"})
    text_s, pair_s = _time_passes(project, ["sort"] * 4, ["sort the frame " * 100] * 4)
    assert 0 < text_s < pair_s
