"""What a rank asks an owner for: distinct ids, or a bag's ids together where that moves fewer bytes."""

from __future__ import annotations

from dataclasses import dataclass

from embeddings.planner.tables import TableSpec
from embeddings.planner.traffic import ID_BYTES


@dataclass(frozen=True)
class Asked:
    """Of the rows that are not replicated. distinct: ids that are asked for one by one, each once; pooled: the pooling
    factors of the features whose bags are pooled at their owners; ids: in those bags. bags: of each such feature."""

    distinct: float
    pooled: tuple[float, ...]
    ids: float
    bags: float

    def ids_of(self, share: float) -> float:
        """Sent to an owner of this share of the rows."""
        return (self.distinct + self.ids) * share

    def vectors_of(self, share: float) -> float:
        """That such an owner answers with: of each bag one, if it holds any of its ids."""
        return self.distinct * share + sum(self.bags * (1.0 - (1.0 - share) ** factor) for factor in self.pooled)


def asked_of(table: TableSpec, examples: float, hot_rows: int, share: float, vector_bytes: float) -> Asked:
    """What a rank with so many examples asks for of the rows but the `hot_rows` hottest, of owners of `share` of the
    rows each, or of columns of all of them. vector_bytes: of a vector, and of its gradient. As the exchange decides it
    (embeddings/kernels/reference_requests.py), feature by feature."""
    cold = 1.0 - (table.law.share(hot_rows) if hot_rows else 0.0)

    def distinct(draws: float) -> float:
        hottest = table.law.distinct_hottest(draws, hot_rows) if hot_rows else 0.0
        return table.law.distinct(draws) - hottest

    pooled: list[float] = []
    alone: list[float] = []
    for factor in table.factors:
        draws = examples * factor
        one = Asked(0.0, (factor * cold,), draws * cold, examples)
        together = ID_BYTES * one.ids + 2 * vector_bytes * one.vectors_of(share) / share
        less = together < (ID_BYTES + 2 * vector_bytes) * distinct(draws)
        (pooled if less else alone).append(factor)
    return Asked(
        distinct(examples * sum(alone)) if alone else 0.0,
        tuple(factor * cold for factor in pooled),
        examples * sum(pooled) * cold,
        examples,
    )
