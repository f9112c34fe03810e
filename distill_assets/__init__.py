"""Distil a slow cross-encoder teacher into a fast bi-encoder student, as a Dagster asset graph over DuckDB."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from distill_assets.notebook import Line

__version__ = "0.1.0"


def open_line(data_folder: "str | Path | None" = None, **settings: Any) -> "Line":
    """Open what `distill-assets run` has made, to read it as pandas frames.

    Args:
        data_folder: as in the setting; None takes that of `distill.toml` and DISTILL_* variables.
        settings: win over file and variables, for example ``collection="beir:PATH"``.

    Raises:
        DistillError: a setting is refused, or the folder has no data of this collection.
    """
    from distill_assets.notebook import Line  # late: importing the package must stay light

    return Line.open(data_folder, **settings)
