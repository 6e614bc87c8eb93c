"""Versions of an index: published whole and judged, swapped, rolled back, read."""
