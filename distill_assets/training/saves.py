"""The saves of a training in its work folder: which can be gone on from, and whether they are of the same training.

transformers writes a save file by file into its final folder `checkpoint-STEP`, so a kill leaves half a save under the name of a
whole one. Each whole save therefore holds a list of its files and their sizes, written last.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

_FILE_LIST = "files.json"
_STATE = "trainer_state.json"  # transformers' name
_RUN = "run.json"


def mark_whole(save: Path) -> None:
    """Write down the files of a save and their sizes in bytes. To be called after the last file is written."""
    (save / _FILE_LIST).write_text(json.dumps(_sizes(save)), encoding="utf-8")


def newest_save(work_folder: Path) -> Path | None:
    """The newest save that a training can go on from, None where there is none. Saves that cannot be used are removed.

    A save can be used if it is whole and if the save of the best step, which it names, is whole too: without the second, the run
    would end with the weights of its last step under the score of its best one.
    """
    usable = []
    for save in _saves(work_folder):
        if _is_whole(save) and _is_whole(_best_of(save)):
            usable.append(save)
        else:
            shutil.rmtree(save)
    return usable[-1] if usable else None


def keep_saves_of(work_folder: Path, run: Mapping[str, object]) -> None:
    """Remove the saves of any other run than `run`, and write `run` into the work folder.

    `run` is what decides the result of a training, as JSON values. A save of another recipe or of other data would be taken for
    the training that is asked for: at its last step nothing would be trained, and foreign weights would be returned.
    """
    path, text = work_folder / _RUN, json.dumps(run, indent=2, sort_keys=True)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    for save in _saves(work_folder):
        shutil.rmtree(save)
    work_folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _saves(work_folder: Path) -> list[Path]:
    """Folders of saves, half ones too, by step."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in work_folder.glob("checkpoint-*")}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def _sizes(save: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(save.iterdir()) if path.name != _FILE_LIST}


def _is_whole(save: Path) -> bool:
    """Whether every file is there in full."""
    try:
        return json.loads((save / _FILE_LIST).read_text(encoding="utf-8")) == _sizes(save)
    except (OSError, ValueError):  # no list, or half a list
        return False


def _best_of(save: Path) -> Path:
    """The save of the best step so far; a whole save names one, itself where no step was measured."""
    return Path(json.loads((save / _STATE).read_text(encoding="utf-8"))["best_model_checkpoint"] or save)
