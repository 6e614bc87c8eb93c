"""Floor 2: embedding tables, looked up by a Keras layer and updated in its backward pass."""

from embeddings.config import FeatureConfig, TableConfig
from embeddings.layer import ShardedEmbedding
from embeddings.optimizers import FTRL, SGD, Adagrad, Adam, RowWiseAdagrad

__all__ = ["FTRL", "SGD", "Adagrad", "Adam", "FeatureConfig", "RowWiseAdagrad", "ShardedEmbedding", "TableConfig"]
