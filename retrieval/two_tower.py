"""The two-tower model: a user as a query vector, an item as a candidate vector, interest as their dot product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embeddings import ShardedEmbedding, Wire
from embeddings.feature_tables import OPTIMIZERS, tables_for
from embeddings.sharding import ShardingPlan
from foundation.draws import uniform
from foundation.tf import keras, tf
from inputs.entities import FeatureSpec
from retrieval.config import RetrievalConfig
from retrieval.softmax import in_batch_softmax
from retrieval.towers import Tower, side_by_side, width_of
from strategies import Communicator, LocalCommunicator
from strategies.share import share_of

_HIDDEN_BY_ID_DROPOUT = ("user_id", "item_id")


class TwoTower(keras.Model):
    """Query tower over user features and watch history, candidate tower over item features (Covington et al., RecSys
    2016; Yi et al., RecSys 2019). Inputs: docs/architecture.md, "Names in batches".

    The candidate's bias is its vector's last element, against which the query's is 1: plain maximum inner product
    search serves it.

    steps: the training's, over which the tables' learning rate falls. communicator, plan, wire: among several ranks,
    see `ShardedEmbedding`. track_updates: see `TableConfig`.
    """

    def __init__(
        self,
        query_features: Mapping[str, FeatureSpec],
        item_features: Mapping[str, FeatureSpec],
        config: RetrievalConfig,
        seed: int,
        steps: int = 1,
        communicator: Communicator | None = None,
        plan: ShardingPlan | None = None,
        wire: Wire | None = None,
        track_updates: bool = False,
    ) -> None:
        super().__init__(name="two_tower")
        self._communicator = communicator or LocalCommunicator()
        self._query_features, self._item_features = dict(query_features), dict(item_features)
        self._id_dropout, self._seed = config.id_dropout, seed
        rate = falling(config.embedding_learning_rate, steps)
        self.embedding = ShardedEmbedding(
            tables_for(
                {**query_features, **item_features},
                config.embedding_dim,
                OPTIMIZERS[config.embedding_optimizer](rate),
                seed,
                config.embedding_precision,
                track_updates,
            ),
            communicator=self._communicator,
            plan=plan,
            wire=wire,
        )
        towers: dict[str, Any] = {"units": config.units, "dropout": config.dropout}
        query_width, item_width = (width_of(side, config.embedding_dim) for side in (query_features, item_features))
        self._query_tower = Tower("query_tower", query_width, dim=config.dim - 1, seed=seed + 1_000, **towers)
        self._item_tower = Tower("item_tower", item_width, dim=config.dim, seed=seed + 2_000, **towers)

    def begin(self, batch: Mapping[str, Any], step: tf.Tensor) -> dict[str, Any]:
        """What `losses_of` goes on from: that part of a training step on a retrieval batch, or on a rank's slice of it,
        which reads no weight. `step` [] int64 seeds what is random in it."""
        share = share_of(self._communicator, tf.shape(batch["item_position"])[0])
        inputs = {name: self._hidden(name, value, step, share.first) for name, value in batch.items()}
        names = [*self._query_features, *self._item_features]
        lookups = self.embedding.begin({n: inputs[n] for n in names if self._categorical(n)}, training=True)
        others = [*(n for n in names if not self._categorical(n)), "item_position", "log_q"]
        rows = tf.shape(batch["item_position"])[0]
        draws = {side: tower.draws(rows, step, share.first) for side, tower in self._towers().items()}
        return {"inputs": {n: inputs[n] for n in others}, "share": share, "lookups": lookups, "draws": draws}

    def _towers(self) -> dict[str, Tower]:
        return {"query": self._query_tower, "item": self._item_tower}

    def losses_of(self, begun: Mapping[str, Any], step: tf.Tensor) -> dict[str, tf.Tensor]:
        """{"loss": scalar} of what `begin` began. Of a rank's slice of a batch: its share, which sums to the loss over
        all ranks."""
        inputs, share, draws = begun["inputs"], begun["share"], begun["draws"]
        activations = self.embedding(begun["lookups"], training=True)
        queries = self._query(activations, inputs, draws["query"])
        item_inputs = side_by_side(self._item_features, activations, inputs)
        candidates = self._item_tower(item_inputs, draws["item"])
        return {"loss": in_batch_softmax(queries, candidates, inputs["item_position"], inputs["log_q"], share)}

    def embed_queries(self, inputs: Mapping[str, Any]) -> tf.Tensor:
        """[B, dim] query vectors."""
        activations = self.embedding({n: inputs[n] for n in self._query_features if self._categorical(n)})
        return self._query(activations, inputs)

    def embed_items(self, inputs: Mapping[str, Any]) -> tf.Tensor:
        """[B, dim] candidate vectors."""
        activations = self.embedding({n: inputs[n] for n in self._item_features if self._categorical(n)})
        return self._item_tower(side_by_side(self._item_features, activations, inputs))

    def _query(
        self, activations: Mapping[str, tf.Tensor], inputs: Mapping[str, Any], draws: Sequence[tf.Tensor] = ()
    ) -> tf.Tensor:
        query_inputs = side_by_side(self._query_features, activations, inputs)
        vectors = self._query_tower(query_inputs, draws)
        return tf.concat([vectors, tf.ones_like(vectors[:, :1])], axis=1)

    def _categorical(self, name: str) -> bool:
        spec = self._query_features.get(name) or self._item_features[name]
        return spec.kind != "number"

    def _hidden(self, name: str, value: Any, step: tf.Tensor, first_row: tf.Tensor) -> Any:
        """The ids of a share of the rows replaced by the unknown id, 0."""
        if name not in _HIDDEN_BY_ID_DROPOUT or not self._id_dropout:
            return value
        purpose = self._seed + 1 + _HIDDEN_BY_ID_DROPOUT.index(name)
        draws = uniform(tf.shape(value)[0], 1, first_row, step, purpose)[:, 0]
        return tf.where(draws < self._id_dropout, tf.zeros_like(value), value)


def falling(learning_rate: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """From the learning rate to nothing along a cosine (Loshchilov and Hutter, ICLR 2017): the end of a training is
    calm, whichever batches come last."""
    return keras.optimizers.schedules.CosineDecay(learning_rate, max(steps, 1))
