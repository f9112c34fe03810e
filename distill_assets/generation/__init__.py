"""Queries made from documents: by rules, by a sequence-to-sequence model, or by a chat model behind a server.

Values in, values out: no dagster, no duckdb, no clock, no global random state. The door is `open_generator`, then `generate`.
"""

from distill_assets.generation.opening import open_generator
from distill_assets.generation.queries import GeneratedQuery, Generator, deduplicate, generate

__all__ = ["GeneratedQuery", "Generator", "deduplicate", "generate", "open_generator"]
