"""How a table is laid over ranks."""

from embeddings.sharding.plan import KINDS, Kind, Shard, ShardingPlan, TableSharding

__all__ = ["KINDS", "Kind", "Shard", "ShardingPlan", "TableSharding"]
