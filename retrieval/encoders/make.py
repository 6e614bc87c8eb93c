"""The encoder that a job names, over the inputs there are."""

from __future__ import annotations

from collections.abc import Mapping

from foundation.errors import UserError
from inputs.entities import FeatureSpec
from retrieval.config import RetrievalConfig
from retrieval.encoders.attention import SelfAttention
from retrieval.encoders.encoder import Bag, Encoder
from retrieval.encoders.features import history_features, one_per_item
from retrieval.encoders.gru import Gru
from retrieval.encoders.multi_interest import MultiInterest


def encoder_of(
    config: RetrievalConfig,
    query_features: Mapping[str, FeatureSpec],
    item_features: Mapping[str, FeatureSpec],
    seed: int,
) -> Encoder:
    """`config.encoder` over the query's histories: a bag takes them all, the others those of one value per item.

    Raises:
      UserError: there is no such history.
    """
    dim = config.embedding_dim
    if config.encoder == "bag":
        return Bag(history_features(query_features), dim)
    features = one_per_item(query_features, item_features)
    if not features:
        raise UserError(
            f"retrieval.encoder: '{config.encoder}' reads the watch history item by item; the query's inputs "
            f"({', '.join(query_features) or 'none'}) have no history of a single value per item.",
            "Name history_item_id in retrieval.query_features, or choose the encoder 'bag'.",
        )
    if config.encoder == "gru":
        return Gru(features, dim, config.gru, seed)
    if config.encoder == "attention":
        return SelfAttention(features, dim, config.attention, seed)
    return MultiInterest(features, dim, config.multi_interest, seed)
