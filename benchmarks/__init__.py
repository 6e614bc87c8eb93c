"""Speeds as ratios, each against a named peer in one interleaved run: `python -m benchmarks SUITE --json FILE`."""
