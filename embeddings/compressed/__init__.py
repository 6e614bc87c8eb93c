"""Static tables for when memory is short: ids that share rows, or rows of several widths."""

from embeddings.compressed.hashed import HashedFeature, UnifiedEmbedding
from embeddings.compressed.mixed_dimension import Block, MixedDimensionEmbedding, dims_by_popularity
from embeddings.compressed.quotient_remainder import QuotientRemainderEmbedding

__all__ = [
    "Block",
    "HashedFeature",
    "MixedDimensionEmbedding",
    "QuotientRemainderEmbedding",
    "UnifiedEmbedding",
    "dims_by_popularity",
]
