"""Checkpoint folders: a model with its manifest.json, found by (kind, name, key), never by "the newest folder".

The key is the fingerprint of everything that the model was made from, so a checkpoint that exists is one that need not
be trained again. State of a training that is not finished lives apart, under `work/`.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_assets.errors import ModelError
from distill_assets.storage.folders import publish_folder, read_json_object, require_folder_name, temporary_folder

MANIFEST = "manifest.json"
CANARY_FILE = "canary.json"  # what a server said of fixed pairs when the teacher was made
_WORK = "work"
# Facts about a model's making, and state that only a resumed training reads: neither changes what the model computes.
_NOT_MODEL_NAMES = frozenset(
    {MANIFEST, CANARY_FILE, "README.md", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"}
    | {"trainer_state.json", "training_args.bin"}
)


@dataclass(frozen=True)
class CheckpointStore:
    """Folders `root/kind/name/key`, each complete or absent."""

    root: Path

    def path(self, kind: str, name: str, key: str) -> Path:
        """Where the checkpoint is, or would be. Raises `WarehouseError` for names that would leave the folder."""
        require_folder_name(kind, "kind")
        if kind == _WORK:
            raise ModelError(f"{kind!r} cannot be a kind of checkpoint: that folder holds unfinished trainings")
        return self.root / kind / require_folder_name(name, "name") / require_folder_name(key, "key")

    def has(self, kind: str, name: str, key: str) -> bool:
        """Whether the checkpoint is there, with a readable manifest."""
        return read_json_object(self.path(kind, name, key) / MANIFEST) is not None

    def read_manifest(self, path: Path) -> dict[str, Any]:
        """The manifest of a checkpoint folder. Raises `ModelError` when there is none that can be read."""
        manifest = read_json_object(Path(path) / MANIFEST)
        if manifest is None:
            raise ModelError(
                f"{path} has no readable {MANIFEST}: expected a checkpoint of this project; materialise it again"
            )
        return manifest

    def link_to(self, root: Path) -> None:
        """Put links to all checkpoints under another root: a store there reads these, and writes none of them."""
        for path in self.root.glob("*/*/*"):
            if path.parts[-3] != _WORK:
                link = root / path.relative_to(self.root)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve(), target_is_directory=True)

    @contextmanager
    def writing(self, kind: str, name: str, key: str) -> Iterator[Path]:
        """A temporary folder that becomes the checkpoint when the block ends well, and is removed when it does not.

        An older checkpoint of the same key is replaced only then.

        Raises:
            ModelError: the block left no readable manifest.json.
        """
        target = self.path(kind, name, key)
        with temporary_folder(target) as folder:
            yield folder
            self.read_manifest(folder)
            publish_folder(folder, target)

    def work_folder(self, kind: str, name: str, key: str) -> Path:
        """The folder, made if need be, for the state of a training that may be resumed."""
        folder = self._work_path(kind, name, key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_work(self, kind: str, name: str, key: str) -> None:
        """Remove the state of a training that has ended."""
        shutil.rmtree(self._work_path(kind, name, key), ignore_errors=True)

    def _work_path(self, kind: str, name: str, key: str) -> Path:
        return self.root / _WORK / self.path(kind, name, key).relative_to(self.root)


def fingerprint_folder(path: Path, ignored: frozenset[str] = frozenset()) -> str:
    """Content fingerprint of a model folder, 32 hex digits: SHA-256 over relative names and bytes of its files.

    Left out are hidden files, the manifest, README.md, the state of an optimiser, and what lies in the folder itself under one of
    the `ignored` names. Reads every byte; callers cache.

    Raises:
        ModelError: not a folder, or no model file in it.
    """
    root = Path(path)
    every = ((file.relative_to(root), file) for file in root.rglob("*") if _is_model_file(root, file))
    files = sorted((name.as_posix(), file) for name, file in every if name.parts[0] not in ignored)
    if not files:
        raise ModelError(f"no model files in {path}: expected a folder with weights, tokenizer and config")
    digest = hashlib.sha256()
    for name, file in files:
        encoded = name.encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
        with file.open("rb") as stream:
            # A digest per file has a fixed length, so bytes cannot move from one file to the next unseen.
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def _is_model_file(root: Path, file: Path) -> bool:
    parts = file.relative_to(root).parts
    if not file.is_file() or any(part.startswith(".") or part == "__pycache__" for part in parts):
        return False
    return file.name not in _NOT_MODEL_NAMES and not file.name.startswith("rng_state")
