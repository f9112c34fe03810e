"""Distil a slow cross-encoder teacher into a fast bi-encoder student, as a Dagster asset graph over DuckDB."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from distill_assets.notebook import Line

# How long a thread of OpenMP spins before it sleeps; read when torch is loaded. Beside another process the others' spinning takes the
# core that work waits for: a training step on two cores of an AMD EPYC took 6.4 s by default and 3.8 s so; alone 2.2 and 2.3 s.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

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


def __getattr__(name: str) -> Any:
    """`DistillationLine` when it is asked for: importing the package must stay light, and a component imports Dagster."""
    if name == "DistillationLine":
        from distill_assets.component import DistillationLine

        return DistillationLine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What `dg` finds components in."""
    return [*globals(), "DistillationLine"]
