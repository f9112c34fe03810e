"""Metrics of rankings, significance, comparison of systems, and the gate."""
