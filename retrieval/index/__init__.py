"""The nearest-neighbour index over candidate vectors."""

from retrieval.index.filters.filter import Filter
from retrieval.index.index import Index
from retrieval.index.live.config import LiveConfig
from retrieval.index.live.index import LiveIndex
from retrieval.index.searcher import Searcher
from retrieval.index.setting import Effort, TreeSetting
from retrieval.index.sharded.build import build_sharded
from retrieval.index.sharded.index import ShardedIndex
from retrieval.index.versions.reader import VersionedIndex
from retrieval.index.versions.versions import Versions

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
