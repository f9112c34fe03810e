"""What is kept on disk: the DuckDB warehouse, the two content-keyed stores, the BM25 cache and checkpoint folders.

Nothing here imports dagster, torch or the assets. Every write is atomic: a killed process leaves the old state or the
new one.
"""
