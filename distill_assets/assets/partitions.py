"""The two ways the line is cut: by batch (what arrived together) and by recipe (one way to train a student)."""

import dagster as dg

from distill_assets.settings.values import load_settings

batches = dg.DynamicPartitionsDefinition(name="batches")


def recipe_partitions(names: list[str] | None = None) -> dg.StaticPartitionsDefinition:
    """One partition per recipe of the settings, or per given name."""
    return dg.StaticPartitionsDefinition(sorted(names if names is not None else load_settings().all_recipes))
