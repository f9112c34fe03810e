"""Checks of data, scores and models: each gives a verdict with figures and samples."""
