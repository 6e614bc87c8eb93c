"""What the ids of a dynamic table are governed by, as plain numbers for either kernel."""

from __future__ import annotations

from dataclasses import dataclass

from embeddings.config import TableConfig
from embeddings.hashing import table_key

MOST_BUCKET_BITS = 10
IDS_PER_BUCKET = 64  # at least, where the capacity is small

# What `counts` of an id table holds, in this order.
COUNTS = ("steps", "rows", "insertions", "evictions", "rejected")


@dataclass(frozen=True)
class IdPolicy:
    """admission: "all", "frequency" or "probability"; eviction: "none", "ttl", "lru" or "lfu"; capacity 0: no bound.

    An id belongs to the bucket that the first `bucket_bits` of its hash name. Buckets share nothing: a bucket's sketch
    counts its own ids, and its share of the capacity is its own, so that what is admitted and evicted does not depend
    on who holds which buckets.
    """

    key: int
    bucket_bits: int
    admission: str = "all"
    threshold: int = 0
    counters: int = 0
    probability: float = 1.0
    eviction: str = "none"
    steps_to_live: int = 0
    capacity: int = 0

    @property
    def cells(self) -> int:
        """How many counters a bucket's sketch has."""
        return max(self.counters >> self.bucket_bits, 16) if self.admission == "frequency" else 0

    @classmethod
    def of(cls, config: TableConfig) -> IdPolicy:
        options = {}
        for policy in (config.admission, config.eviction):
            options.update(policy.options() if policy else {})
        capacity = config.capacity or 0
        bits = MOST_BUCKET_BITS
        while bits and capacity and capacity >> bits < IDS_PER_BUCKET:
            bits -= 1
        return cls(table_key(config.seed, config.name), bits, capacity=capacity, **options)
