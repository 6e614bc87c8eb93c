"""Floor 2: embedding tables, looked up by a Keras layer and updated in its backward pass."""

from embeddings.config import FeatureConfig, TableConfig
from embeddings.layer import ShardedEmbedding
from embeddings.optimizers import FTRL, SGD, Adagrad, Adam, RowWiseAdagrad
from embeddings.tables.admission import FrequencyAdmission, ProbabilityAdmission
from embeddings.tables.dynamic import Vocabulary
from embeddings.tables.eviction import LeastFrequentlyUsed, LeastRecentlyUsed, TimeToLive

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "Adam",
    "FeatureConfig",
    "FrequencyAdmission",
    "LeastFrequentlyUsed",
    "LeastRecentlyUsed",
    "ProbabilityAdmission",
    "RowWiseAdagrad",
    "ShardedEmbedding",
    "TableConfig",
    "TimeToLive",
    "Vocabulary",
]
