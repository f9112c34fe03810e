"""Checkpoints: a folder is there whole or not at all, and is known by its content."""

import json
from pathlib import Path

import pytest

from distill_assets.errors import DistillError, ModelError, WarehouseError
from distill_assets.storage.checkpoints import CheckpointStore, fingerprint_folder


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """An empty store."""
    return CheckpointStore(tmp_path / "checkpoints")


def save(store: CheckpointStore, weights: str) -> Path:
    """Write one checkpoint of a student."""
    with store.writing("student", "margin_mse", "k1") as folder:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(weights)
        (folder / "manifest.json").write_text(json.dumps({"recipe": "margin_mse", "weights": weights}))
    return store.path("student", "margin_mse", "k1")


def entries(store: CheckpointStore) -> list[str]:
    """Every file below the store."""
    return sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())


def test_a_half_written_checkpoint_is_never_visible(store: CheckpointStore) -> None:
    """A run killed while saving would leave weights that load and are half of a model."""
    target = store.path("student", "margin_mse", "k1")
    with pytest.raises(KeyboardInterrupt), store.writing("student", "margin_mse", "k1") as folder:
        (folder / "manifest.json").write_text("{}")
        assert folder.parent == target.parent  # the same file system, so that the rename is atomic
        assert not target.exists()
        assert not store.has("student", "margin_mse", "k1")
        raise KeyboardInterrupt
    assert not target.exists()
    assert entries(store) == []


@pytest.mark.parametrize("manifest", [None, "", "{", "[1]"])
def test_no_manifest_no_checkpoint(store: CheckpointStore, manifest: str | None) -> None:
    """A model that cannot say what it was made from would be taken for up to date."""
    with pytest.raises(ModelError, match=r"manifest\.json"), store.writing("teacher", "teacher", "k") as folder:
        (folder / "model.safetensors").write_text("w")
        if manifest is not None:
            (folder / "manifest.json").write_text(manifest)
    assert not store.has("teacher", "teacher", "k")
    assert entries(store) == []


def test_a_finished_checkpoint_is_found_by_its_key_only(store: CheckpointStore) -> None:
    """Looking for the newest folder would find another recipe's, or an older corpus's, model."""
    path = save(store, "w1")
    assert store.has("student", "margin_mse", "k1")
    assert not store.has("student", "margin_mse", "k2")
    assert not store.has("teacher", "margin_mse", "k1")
    assert store.read_manifest(path) == {"recipe": "margin_mse", "weights": "w1"}
    assert entries(store) == [
        f"student/margin_mse/k1/{name}" for name in ("1_Pooling/config.json", "manifest.json", "model.safetensors")
    ]
    (path / "manifest.json").write_text("{ torn")
    assert not store.has("student", "margin_mse", "k1")
    with pytest.raises(ModelError, match="materialise it again"):
        store.read_manifest(path)


def test_replacing_keeps_the_old_one_until_the_new_one_is_whole(store: CheckpointStore) -> None:
    """Deleting first would lose a good model to a failed retraining."""
    path = save(store, "w1")
    with pytest.raises(RuntimeError), store.writing("student", "margin_mse", "k1") as folder:
        (folder / "manifest.json").write_text("{}")
        raise RuntimeError
    assert store.read_manifest(path)["weights"] == "w1"
    save(store, "w2")
    assert store.read_manifest(path)["weights"] == "w2"
    assert len(entries(store)) == 3


def test_unfinished_training_lives_apart(store: CheckpointStore) -> None:
    """Training state beside checkpoints would be found as one."""
    work = store.work_folder("student", "margin_mse", "k1")
    (work / "manifest.json").write_text("{}")
    assert store.work_folder("student", "margin_mse", "k1") == work
    assert (work / "manifest.json").exists()
    assert not store.has("student", "margin_mse", "k1")
    store.clear_work("student", "margin_mse", "k1")
    store.clear_work("student", "margin_mse", "k1")
    assert not work.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "../x", "a..b", ".hidden", "a\n", "a'b", "x" * 201])
def test_names_cannot_leave_the_folder(store: CheckpointStore, name: str) -> None:
    """A recipe called ../../x would write, and clear_work would delete, outside the store."""
    for call in (store.path, store.has, store.work_folder, store.clear_work):
        with pytest.raises(WarehouseError, match="cannot be the name"):
            call("student", name, "k")
        with pytest.raises(WarehouseError, match="cannot be the key"):
            call("student", "n", name)
    with pytest.raises(DistillError):
        store.path("work", "n", "k")
    assert not store.root.exists()


def test_the_fingerprint_follows_what_the_model_computes(tmp_path: Path) -> None:
    """Two models under one fingerprint would share embeddings and teacher scores."""
    model = tmp_path / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "1_Pooling" / "config.json").write_text("{}")
    before = fingerprint_folder(model)
    assert len(before) == 32
    for name in ("manifest.json", "README.md", "optimizer.pt", "trainer_state.json", "rng_state.pth", ".gitattributes"):
        (model / name).write_text("changes no number")
    assert fingerprint_folder(model) == before
    (model / "1_Pooling" / "config.json").write_text('{"mode": "cls"}')
    changed = fingerprint_folder(model)
    assert changed != before
    (model / "1_Pooling" / "config.json").rename(model / "config.json")
    assert fingerprint_folder(model) not in (before, changed)


def test_bytes_cannot_move_between_files_unseen(tmp_path: Path) -> None:
    """Plain concatenation would give `ab` + `c` and `a` + `bc` one fingerprint."""
    for name, first, second in (("x", "ab", "c"), ("y", "a", "bc")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1").write_text(first)
        (tmp_path / name / "2").write_text(second)
    assert fingerprint_folder(tmp_path / "x") != fingerprint_folder(tmp_path / "y")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """All empty folders share one hash: a mistyped path would look like a known model."""
    (tmp_path / "README.md").write_text("only words")
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError, match="no model files"):
            fingerprint_folder(path)
