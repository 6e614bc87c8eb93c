"""The nearest-neighbour index over candidate vectors."""

from retrieval.index.index import Index
from retrieval.index.searcher import Searcher
from retrieval.index.setting import Effort, TreeSetting

__all__ = ["Effort", "Index", "Searcher", "TreeSetting"]
