"""Judging: protocols, full-ranking metrics with confidence intervals, baselines in the same harness, the report."""
