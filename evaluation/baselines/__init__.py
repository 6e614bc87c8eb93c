"""What a model must beat, in the same harness: popularity, recent popularity, ItemKNN."""

from evaluation.baselines.item_knn import ItemKNN
from evaluation.baselines.popularity import Popularity, RecentPopularity

__all__ = ["ItemKNN", "Popularity", "RecentPopularity"]
