"""What a query encoder computes, for the planner."""

from __future__ import annotations

from embeddings.planner.tables import Dense
from retrieval.config import RetrievalConfig


def encoder_cost(config: RetrievalConfig, width: int, length: float) -> tuple[int, Dense]:
    """(width of what it gives, its dense layers per example), of a sequence encoder that reads `width` floats of each
    watched item, so many of them on average. A query of several interests goes through its tower as many times; that is
    not counted."""
    if config.encoder == "gru":
        units = config.gru.units
        return units, _each(length, [[width, 3 * units], [units, 3 * units]])
    options = config.attention if config.encoder == "attention" else config.multi_interest
    units = options.units or config.embedding_dim
    layers = [] if width == units else [[width, units]]
    if config.encoder == "attention":
        layers += 5 * config.attention.blocks * [[units, units]]  # three projections and the feed-forward network
        pairs = Dense(12.0 * config.attention.blocks * units * length**2)
        return units, _each(length, layers) + pairs
    hidden = config.multi_interest.attention_units
    return units, _each(length, [*layers, [units, hidden], [hidden, config.multi_interest.interests]])


def _each(length: float, layers: list[list[int]]) -> Dense:
    """Dense layers that every watched item goes through."""
    stacked = sum((Dense.stack(widths) for widths in layers), Dense())
    return Dense(stacked.flops * length, stacked.parameters, stacked.layers)
