"""Studies: recipes, teachers and label budgets compared over several seeds, outside the asset graph, with one command.

A study reads a collection, grows its teachers and students through the same core as the assets do, judges them per query and writes one
JSON document; `tables` turns such documents into the tables of `docs/results.md`. It imports neither dagster nor duckdb, so it runs
on a bare GPU machine.
"""
