"""Floor 2: embedding tables, looked up by a Keras layer and updated in its backward pass."""

from embeddings.begun import Begun
from embeddings.checkpoints import restore_tables, save_tables, verify_tables
from embeddings.config import FeatureConfig, TableConfig
from embeddings.dense import DenseCheckpoint
from embeddings.layer import ShardedEmbedding
from embeddings.optimizers import FTRL, SGD, Adagrad, Adam, RowWiseAdagrad
from embeddings.tables.admission import FrequencyAdmission, ProbabilityAdmission
from embeddings.tables.dynamic import Vocabulary
from embeddings.tables.eviction import LeastFrequentlyUsed, LeastRecentlyUsed, TimeToLive
from embeddings.wire import Wire

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "Adam",
    "Begun",
    "DenseCheckpoint",
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
    "Wire",
    "restore_tables",
    "save_tables",
    "verify_tables",
]
