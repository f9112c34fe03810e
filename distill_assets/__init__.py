"""Distil a slow cross-encoder teacher into a fast bi-encoder student, as a Dagster asset graph over DuckDB."""

__version__ = "0.1.0"
