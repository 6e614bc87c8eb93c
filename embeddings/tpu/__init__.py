"""Tables that a TPU holds and trains, behind `ShardedEmbedding`'s configuration."""

from embeddings.tpu.layer import TpuEmbedding
from embeddings.tpu.transfer import from_ordinary, to_ordinary

__all__ = ["TpuEmbedding", "from_ordinary", "to_ordinary"]
