"""Tests of `distill_assets.sources`."""
