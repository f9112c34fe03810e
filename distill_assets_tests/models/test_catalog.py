"""Finding models: a hub name is looked up once, and in the hub's cache first."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from distill_assets.errors import ModelError
from distill_assets.models import catalog
from distill_assets.models.catalog import resolve_model, weights_mb

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """What the hub's library is asked for; its cache is in the test's folder, the network is off."""
    made: list[dict[str, Any]] = []
    ask = huggingface_hub.snapshot_download

    def count(name: str, **wanted: Any) -> str:
        made.append({"name": name, **wanted})
        return ask(name, **wanted)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", count)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    catalog._from_hub.cache_clear()
    yield made
    catalog._from_hub.cache_clear()


def put_in_cache(cache: Path, commit: str, ref: str, *, listed: tuple[str, ...] = ("config.json",)) -> Path:
    """A snapshot of `me/model` with a config.json, as the hub's library lays it out; `listed` is what the hub has of it."""
    repository = cache / "models--me--model"
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "refs", repository / "trees"):
        folder.mkdir(parents=True, exist_ok=True)
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    (repository / "refs" / ref).write_text(commit, encoding="utf-8")
    huggingface_hub._tree_cache.write_tree_cache(
        str(repository),
        commit,
        {name: huggingface_hub._tree_cache.TreeCacheEntry(size=2, blob_id="b") for name in listed},
    )
    return snapshot


def test_a_model_in_the_cache_is_found_once_and_without_the_network(calls: list, tmp_path: Path) -> None:
    """The folder is asked for dozens of times a run: each was a question to the hub, and an error where there is none."""
    snapshot = put_in_cache(tmp_path, FIRST, "main")
    assert [resolve_model("me/model") for _ in range(5)] == [snapshot] * 5
    assert [call["local_files_only"] for call in calls] == [True]


def test_a_revision_is_part_of_the_name(calls: list, tmp_path: Path) -> None:
    """Without it a published result cannot be made again: the branch has moved on."""
    first, second = put_in_cache(tmp_path, FIRST, "v1"), put_in_cache(tmp_path, SECOND, "main")
    for name, folder in (("me/model", second), ("me/model@v1", first), (f"me/model@{SECOND}", second)):
        assert resolve_model(name) == folder
    assert [(call["name"], call["revision"]) for call in calls] == [
        ("me/model", None),
        ("me/model", "v1"),
        ("me/model", SECOND),
    ]


@pytest.mark.parametrize("is_half_there", [False, True])
def test_what_is_not_there_whole_is_downloaded(
    calls: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_half_there: bool
) -> None:
    """A download that was broken off leaves a folder: taken for the model, it would be one without its weights."""
    if is_half_there:
        put_in_cache(tmp_path, FIRST, "main", listed=("config.json", "model.safetensors"))
    in_cache: Callable[..., str] = huggingface_hub.snapshot_download

    def download(name: str, **wanted: Any) -> str:
        found = in_cache(name, **wanted) if wanted["local_files_only"] else str(tmp_path / "downloaded")
        calls.append(wanted)
        return found

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("me/model") == tmp_path / "downloaded"
    assert [call["local_files_only"] for call in calls] == [True, False]
    assert calls[0]["ignore_patterns"] == calls[1]["ignore_patterns"]


def test_pickles_and_code_are_downloaded_for_trusted_models_alone(calls: list, tmp_path: Path) -> None:
    """Weights that are there twice cost a download of gigabytes, and what is not on the disk cannot be run by mistake."""
    put_in_cache(tmp_path, FIRST, "main")
    for is_trusted in (False, True):
        resolve_model("me/model", is_trusted=is_trusted)
    ignored = [set(call["ignore_patterns"]) for call in calls]
    assert ignored[0] - ignored[1] == {"pytorch_model*.bin", "*.py"}


def test_a_revision_that_is_not_there_is_named(calls: list, tmp_path: Path) -> None:
    """The branch in its place would give other numbers under the name of the revision."""
    put_in_cache(tmp_path, FIRST, "main")
    with pytest.raises(
        ModelError, match="revision 'v9' of 'me/model' is neither in the hub's cache nor given by the hub"
    ):
        resolve_model("me/model@v9")


def test_a_failure_is_not_remembered(calls: list, tmp_path: Path) -> None:
    """A hub that does not answer once must not make the model missing until somebody restarts the daemon."""
    with pytest.raises(ModelError, match="'me/model' is neither a local folder nor a model that the hub gives"):
        resolve_model("me/model")
    snapshot = put_in_cache(tmp_path, FIRST, "main")
    assert resolve_model("me/model") == snapshot


def test_a_folder_wins_over_the_hub(calls: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local model of the same name, replaced by the hub's, gives other numbers and no word."""
    (tmp_path / "me" / "model@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("me/model@v1") == tmp_path / "me" / "model@v1"
    with pytest.raises(ModelError, match="no model at './me/other'"):
        resolve_model("./me/other")
    assert calls == []


def test_weights_are_counted_once_where_a_folder_has_both_formats(tmp_path: Path) -> None:
    """Many published models bring the same weights as safetensors and as a pickle: twice the size on the leaderboard.

    By hand: 3 MB beside a pickle of 4 MB that is not loaded, and a head of 0.5 MB that is a pickle alone.
    """
    for name, size in {
        "0_Transformer/model.safetensors": 3_000_000,
        "0_Transformer/pytorch_model.bin": 4_000_000,
        "1_Head/pytorch_model.bin": 500_000,
        "config.json": 700,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
    assert weights_mb(tmp_path) == pytest.approx(3.5)


def test_every_part_of_split_weights_is_counted(tmp_path: Path) -> None:
    """A large model lies in several files of one folder: the first alone would make it the smallest of all."""
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(bytes(2_000_000))
    assert weights_mb(tmp_path) == pytest.approx(4.0)
