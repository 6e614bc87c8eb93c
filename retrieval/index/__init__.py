"""The nearest-neighbour index over candidate vectors."""

from retrieval.index.build import build_sharded
from retrieval.index.filters import Filter
from retrieval.index.index import Index
from retrieval.index.live import LiveIndex
from retrieval.index.live_config import LiveConfig
from retrieval.index.searcher import Searcher
from retrieval.index.setting import Effort, TreeSetting
from retrieval.index.sharded import ShardedIndex
from retrieval.index.versioned import VersionedIndex
from retrieval.index.versions import Versions

__all__ = [
    "Effort",
    "Filter",
    "Index",
    "LiveConfig",
    "LiveIndex",
    "Searcher",
    "ShardedIndex",
    "TreeSetting",
    "VersionedIndex",
    "Versions",
    "build_sharded",
]
