"""Saves of a training: a half one is never gone on from, nor is one of another training."""

import json
from pathlib import Path

import pytest

from distill_assets.training.saves import keep_saves_of, mark_whole, newest_save

FILES = ("trained.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def write_save(work_folder: Path, step: int, best: int) -> Path:
    """A whole save with the files that transformers writes, as of a run whose best step is `best`."""
    save = work_folder / f"checkpoint-{step}"
    save.mkdir(parents=True)
    for name in FILES:
        (save / name).write_bytes(b"0123456789")
    state = {"best_model_checkpoint": str(work_folder / f"checkpoint-{best}")}
    (save / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    mark_whole(save)
    return save


def steps_left(work_folder: Path) -> list[str]:
    """Names of the save folders that are still there."""
    return sorted(path.name for path in work_folder.glob("checkpoint-*"))


def test_the_newest_whole_save_is_taken(tmp_path: Path) -> None:
    """Sorted as text, checkpoint-8 would come after checkpoint-12, and four steps would be trained twice in silence."""
    assert newest_save(tmp_path / "nowhere") is None
    write_save(tmp_path, 8, best=8)
    newest = write_save(tmp_path, 12, best=8)
    (tmp_path / "checkpoint-notes").mkdir()
    assert newest_save(tmp_path) == newest
    assert steps_left(tmp_path) == ["checkpoint-12", "checkpoint-8", "checkpoint-notes"]


@pytest.mark.parametrize("name", [*FILES, "files.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_half_save_is_passed_over_and_removed(name: str, damage: str, tmp_path: Path) -> None:
    """Gone on from without its optimiser, a run ends with weights that nobody can repeat; without its state, every run dies."""
    older, half = write_save(tmp_path, 4, best=4), write_save(tmp_path, 8, best=4)
    content = (half / name).read_bytes()
    (half / name).unlink()
    if damage != "missing":
        (half / name).write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    assert newest_save(tmp_path) == older
    assert steps_left(tmp_path) == ["checkpoint-4"]


@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "half"])
def test_a_save_whose_best_step_is_lost_is_not_gone_on_from(is_gone: bool, tmp_path: Path) -> None:
    """The trainer would forget the best step's weights, keep its score, and report it for the weights of the last step."""
    best = write_save(tmp_path, 4, best=4)
    write_save(tmp_path, 8, best=4)
    for path in list(best.iterdir()) if is_gone else [best / FILES[0]]:
        path.unlink()
    if is_gone:
        best.rmdir()
    assert newest_save(tmp_path) is None
    assert steps_left(tmp_path) == []


def test_saves_of_another_run_are_removed_and_those_of_this_one_kept(tmp_path: Path) -> None:
    """At its last step a foreign save trains nothing more: its weights would come back under this recipe's name."""
    keep_saves_of(tmp_path / "work", {"recipe": "a", "seed": 1})
    save = write_save(tmp_path / "work", 4, best=4)
    keep_saves_of(tmp_path / "work", {"seed": 1, "recipe": "a"})
    assert newest_save(tmp_path / "work") == save
    keep_saves_of(tmp_path / "work", {"recipe": "a", "seed": 2})
    assert newest_save(tmp_path / "work") is None


def test_saves_that_no_run_signed_are_removed(tmp_path: Path) -> None:
    """Nothing says of what recipe and data they are."""
    write_save(tmp_path, 4, best=4)
    keep_saves_of(tmp_path, {"recipe": "a"})
    assert newest_save(tmp_path) is None
