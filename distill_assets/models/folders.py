"""What a model folder says of itself, read without opening the model (and without importing torch)."""

import json
from pathlib import Path
from typing import Any

from distill_assets.errors import ModelError

# Classes that modules.json may name: of the library, and of this package, which are installed and not brought by the folder.
_KNOWN_CLASSES = ("sentence_transformers.", "distill_assets.")
_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")


def require_safe(path: Path, *, is_trusted: bool) -> None:
    """Raise `ModelError` where a folder brings pickled weights alone, or Python code of its own, and is not trusted.

    A pickle runs code when it is read. `.bin` beside `.safetensors` is not read.
    """
    if is_trusted:
        return
    remedy = "; if you trust its authors, name the model in trusted_models as the settings name it"
    folders = [path, *(folder for folder in sorted(path.rglob("*")) if folder.is_dir())]
    for folder in folders:
        pickles = [file for pattern in _PICKLES for file in sorted(folder.glob(pattern))]
        if pickles and not any(folder.glob("*.safetensors")):
            raise ModelError(f"{pickles[0]} is a pickle, expected weights in a .safetensors file{remedy}")
    if not any(path.rglob("*.safetensors")):
        raise ModelError(
            f"{path} has no weights in a .safetensors file (pickled ones are left out of a download){remedy}"
        )
    if code := _foreign_code(path):
        raise ModelError(f"{code}: expected a model that needs no code of its own{remedy}")


def _foreign_code(path: Path) -> str | None:
    """Which file asks for Python code of the folder's authors, and what it names; None where no file does."""
    try:
        for config in sorted(path.rglob("*config.json")):
            content = read_json(config)
            if isinstance(content, dict) and content.get("auto_map"):
                return f"{config} names code of its own in auto_map"
        entries = read_json(path / "modules.json") if (path / "modules.json").is_file() else []
        foreign = [entry["type"] for entry in entries if not entry["type"].startswith(_KNOWN_CLASSES)]
        outside = [e["path"] for e in entries if not (path / e["path"]).resolve().is_relative_to(path.resolve())]
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # no JSON, or JSON of another shape
        raise unreadable(path, "a model", error) from error
    named = [f"the class {name}" for name in foreign] + [f"a folder outside of the model, {name}" for name in outside]
    return f"{path / 'modules.json'} names {named[0]}" if named else None


def require_model_folder(path: Path) -> None:
    """Raise `ModelError` unless `path` is a folder that holds a model's configuration."""
    if not path.is_dir():
        raise ModelError(f"no model at {path}: expected a folder saved by sentence-transformers or transformers")
    if not any((path / name).is_file() for name in ("modules.json", "config.json")):
        raise ModelError(f"{path} is not a model: neither modules.json nor config.json is in it")


def is_cross_encoder(path: Path) -> bool:
    """Whether a model folder holds a cross-encoder (saved `CrossEncoder`, or a sequence-classification checkpoint).

    Raises:
        ModelError: not a folder, not a model, or configuration that cannot be read.
    """
    require_model_folder(path)
    try:
        if (path / "modules.json").is_file():
            saved = path / "config_sentence_transformers.json"
            model_type = read_json(saved).get("model_type") if saved.is_file() else None
            if model_type is not None:  # modular cross-encoders pool, too
                return bool(model_type == "CrossEncoder")
            kinds = [entry["type"] for entry in read_json(path / "modules.json")]
            return not any(kind.endswith((".Pooling", ".StaticEmbedding")) for kind in kinds)
        architectures = read_json(path / "config.json").get("architectures") or [""]
        return str(architectures[0]).endswith(("ForSequenceClassification", "ForCausalLM"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # no JSON, or JSON of another shape
        raise unreadable(path, "a model", error) from error


def own_max_tokens(path: Path) -> int | None:
    """Tokens of a text that the model in a folder reads by itself: as sentence-transformers saved it, else its positions."""
    require_model_folder(path)
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("config.json", "max_position_embeddings")):
        for folder in (path, *_module_folders(path)):
            found = read_json(folder / name).get(key) if (folder / name).is_file() else None
            if isinstance(found, int):
                return found
    return None


def tokenizer_file(path: Path) -> Path:
    """The tokenizer.json of a model folder. Raises `ModelError` where there is none."""
    for folder in (path, *_module_folders(path)):
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    raise ModelError(f"{path} has no tokenizer.json: save the model's fast tokenizer beside its weights")


def _module_folders(path: Path) -> list[Path]:
    """Folders like 0_Transformer, in which sentence-transformers keeps modules."""
    return sorted(folder for folder in path.glob("*_*") if folder.is_dir())


def read_json(path: Path) -> Any:
    """Parsed content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def unreadable(path: Path, wanted: str, error: Exception) -> ModelError:
    """The error for a folder that could not be loaded as what was wanted."""
    return ModelError(
        f"{path} could not be loaded as {wanted}: {type(error).__name__}: {str(error)[:300]}; "
        "copy the model again if a file is truncated"
    )
