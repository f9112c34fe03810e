"""`python -m distill_assets.study`: the same commands where neither dagster nor duckdb is installed."""

from distill_assets.core.errors import DistillError
from distill_assets.study.commands import app

if __name__ == "__main__":
    try:
        app()
    except DistillError as error:
        raise SystemExit(f"error: {error}") from error
