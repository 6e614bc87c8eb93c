"""The nearest-neighbour index over candidate vectors."""

from retrieval.index.build import build_sharded
from retrieval.index.index import Index
from retrieval.index.searcher import Searcher
from retrieval.index.setting import Effort, TreeSetting
from retrieval.index.sharded import ShardedIndex

__all__ = ["Effort", "Index", "Searcher", "ShardedIndex", "TreeSetting", "build_sharded"]
