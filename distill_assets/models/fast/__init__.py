"""A cross-encoder's forward passes without padding, checked against the model's own on probe pairs. The door is `open_scorer`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill_assets.models.fast.scorer import open_scorer, used_precision

__all__ = ["open_scorer", "used_precision"]


def __getattr__(name: str) -> Any:
    """Load torch when one of the two is asked for, not when the package is imported."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from distill_assets.models.fast import scorer

    return getattr(scorer, name)
