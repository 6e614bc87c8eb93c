"""The retrieval loss for towers of one's own, as a model of TensorFlow Recommenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from embeddings import ShardedEmbedding
from foundation.errors import UserError
from foundation.tf import tf
from retrieval.config import RetrievalConfig
from retrieval.loss import RetrievalLoss
from retrieval.negatives.rows import Rows
from retrieval.normalise import unit
from strategies import LocalCommunicator
from strategies.share import share_of

import tensorflow_recommenders as tfrs  # isort: skip - after the gateway, which chooses Keras 2 for it

Tower = Callable[..., tf.Tensor]


class RetrievalModel(tfrs.Model):
    """Two towers, any Keras models or callables of a dict of features that give [B, dim] float32, trained by
    `RetrievalLoss` in plain `compile(); fit()`: logQ correction by frequencies that it estimates itself, accidental
    hits masked, a queue of earlier candidates, hard negatives, temperature, normalised vectors.

    A batch is a dict of features [B, ...] of positives. item: the feature, of any integer dtype, that says which item
    is each row's own; it may be a tower's input too. items: how many there are. config: of its keys those of the loss
    are heeded: log_q ("streaming", or "given": the feature `log_q`; by default "streaming"), log_q_of, frequency,
    negatives.queue and .hard, normalise, temperature, learn_temperature; dim and batch_size with a queue.

    embedding: a ShardedEmbedding whose features both towers share: it is called once a step, as it must be, and the
    towers get its vectors under their features' names in place of the ids. Without it they get the batch as it is, and
    look up in layers of their own. Among several ranks, whose slices of a batch are each other's negatives, it is what
    knows them.

    Raises:
      UserError: the config asks for negatives from the catalogue, which only batches of `inputs.batches` hold; log_q is
        "given" and a batch has no feature `log_q`.
    """

    def __init__(
        self,
        query_tower: Tower,
        candidate_tower: Tower,
        items: int,
        item: str = "item_id",
        embedding: ShardedEmbedding | None = None,
        config: RetrievalConfig | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        config = config or RetrievalConfig()
        if "log_q" not in config.model_fields_set:
            config = config.model_copy(update={"log_q": "streaming"})
        beside = config.beside
        if beside.uniform or beside.popular or beside.catalogue:
            raise UserError(
                "RetrievalModel: negatives.uniform, negatives.popular and loss: full_softmax want items of the "
                "catalogue in every batch.",
                "Leave them out, or train with `headrace train retrieval`.",
            )
        self.query_tower, self.candidate_tower, self.embedding = query_tower, candidate_tower, embedding
        self.retrieval_loss = RetrievalLoss(config, items, seed)
        self._item, self._given, self._normalised = item, config.log_q == "given", config.normalise

    def compute_loss(self, features: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Of a rank's slice of a batch: its share of the batch's mean. Only a training step is remembered."""
        inputs = self._looked_up(features, training)
        queries = self._vectors(self.query_tower, inputs, training)
        candidates = self._vectors(self.candidate_tower, inputs, training)
        items = tf.cast(features[self._item], tf.int64)
        if self._given and "log_q" not in features:
            raise UserError(
                'RetrievalModel: log_q is "given", and a batch has no feature log_q.', 'Say log_q="streaming".'
            )
        log_q = tf.cast(features["log_q"], tf.float32) if self._given else tf.zeros_like(items, tf.float32)
        communicator = LocalCommunicator() if self.embedding is None else self.embedding.communicator
        share = share_of(communicator, tf.shape(items)[0])
        own = Rows.of(candidates, items, log_q, None)
        return tf.reduce_sum(self.retrieval_loss.by_row(queries, own, share, remembers=training))

    def embed_queries(self, features: Mapping[str, Any]) -> tf.Tensor:
        """[B, dim]; features: those of the query tower."""
        return self._vectors(self.query_tower, self._looked_up(features, False), False)

    def embed_candidates(self, features: Mapping[str, Any]) -> tf.Tensor:
        """[B, dim]; features: those of the candidate tower."""
        return self._vectors(self.candidate_tower, self._looked_up(features, False), False)

    def _looked_up(self, features: Mapping[str, Any], training: bool) -> dict[str, Any]:
        if self.embedding is None:
            return dict(features)
        ids = {name: features[name] for name in self.embedding.features if name in features}
        return {**features, **self.embedding(ids, training=training)}

    def _vectors(self, tower: Tower, inputs: Mapping[str, Any], training: bool) -> tf.Tensor:
        vectors = tf.cast(tower(inputs, training=training), tf.float32)
        if vectors.shape.rank != 2:
            raise ValueError(f"RetrievalModel: a tower gave {vectors.shape}; it gives one vector a row, [B, dim]")
        return unit(vectors, biased=False) if self._normalised else vectors
