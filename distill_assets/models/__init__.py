"""The functional core: values in, values out.

No dagster, no duckdb, no files of the warehouse, no clock, no global random state. `torch`, `transformers` and
`sentence_transformers` are imported only by `encoders`, `interaction`, `losses` and `training`.
"""
