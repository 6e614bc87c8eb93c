"""What a model must beat, in the same harness: popularity, recent popularity, ItemKNN, EASE, iALS."""

from evaluation.baselines.ease import EASE
from evaluation.baselines.ials import IALS, Factorisation
from evaluation.baselines.item_knn import ItemKNN
from evaluation.baselines.popularity import Popularity, RecentPopularity

__all__ = ["EASE", "IALS", "Factorisation", "ItemKNN", "Popularity", "RecentPopularity"]
