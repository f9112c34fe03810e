"""Encoders and rerankers: find, load, encode, score. Values in, values out: no dagster, no duckdb.

models, retrieval, evaluation, quality and training read no clock and no global random state.
"""
