"""Tests of the handles: models, vectors, logits."""
