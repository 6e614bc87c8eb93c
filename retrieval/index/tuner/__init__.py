"""Finds the cheapest setting of an index that reaches a recall, by measuring."""
