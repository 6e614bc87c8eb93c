"""The two-tower model: a user as a query vector, an item as a candidate vector, interest as their dot product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from embeddings import ShardedEmbedding, Wire
from embeddings.feature_tables import OPTIMIZERS, tables_for
from embeddings.sharding import ShardingPlan
from foundation.draws import uniform
from foundation.errors import UserError
from foundation.tf import keras, tf
from inputs.entities import FeatureSpec
from retrieval.config import RetrievalConfig
from retrieval.encoders.features import chosen
from retrieval.encoders.make import encoder_of
from retrieval.interests import nearest_interest
from retrieval.item_rows import ItemRows
from retrieval.loss import RetrievalLoss
from retrieval.normalise import unit
from retrieval.objectives import REWARD
from retrieval.towers import Identity, Tower, item_tower_of, item_vectors, side_by_side, width_of
from strategies import Communicator, LocalCommunicator

TOLD = (
    "item_position",
    "log_q",
    "log_draws",
    "sampled_position",
    "sampled_log_q",
    "sampled_log_draws",
    "known_items",
)
_HIDDEN_BY_ID_DROPOUT = ("user_id", "item_id")


class TwoTower(keras.Model):
    """Query tower over user features and watch history, candidate tower over item features (Covington et al., RecSys
    2016; Yi et al., RecSys 2019). Inputs: docs/architecture.md, "Names in batches".

    The candidate's bias is its vector's last element, against which the query's is 1: plain maximum inner product
    search serves it. (Towers that are the identity have none; where vectors are normalised it stands beside them.)
    With an encoder of several interests a query is as many vectors, and its score for an item the largest of their
    products (`retrieval.interests`). What is minimised, and what a training remembers for it, is `retrieval_loss`.

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
        self._query_features = chosen("query_features", query_features, config.query_features)
        self._item_features = chosen("item_features", item_features, config.item_features)
        self._config, self._id_dropout, self._seed = config, config.id_dropout, seed
        self._encoder = encoder_of(config, self._query_features, item_features, seed + 3_000)
        self._beside = {n: spec for n, spec in self._query_features.items() if n not in self._encoder.features}
        self._weights = {REWARD + objective.name: objective.weight for objective in config.objectives}
        rate = falling(config.embedding_learning_rate, steps)
        features = tables_for(
            {**self._query_features, **self._item_features},
            config.embedding_dim,
            OPTIMIZERS[config.embedding_optimizer](rate),
            seed,
            config.embedding_precision,
            track_updates,
        )
        watched = {n: replace(features[n], combiner=self._encoder.combiner) for n in self._encoder.features}
        self.embedding = ShardedEmbedding(
            {**features, **watched},
            communicator=self._communicator,
            plan=plan,
            wire=wire,
        )
        query_width = width_of(self._beside, config.embedding_dim) + self._encoder.width
        item_width = width_of(self._item_features, config.embedding_dim)
        self._biased, self._normalised = config.tower == "mlp", config.normalise
        self._query_tower = _query_tower(config, query_width, item_width, seed)
        self._item_tower = item_tower_of(config, item_width, seed)
        catalogue = item_features["item_id"].vocabulary_size if "item_id" in item_features else 1
        self.retrieval_loss = RetrievalLoss(config, catalogue, seed)

    def begin(self, batch: Mapping[str, Any], step: tf.Tensor) -> dict[str, Any]:
        """What `losses_of` goes on from: that part of a training step on a retrieval batch, or on a rank's slice of it,
        which reads no weight. `step` [] int64 seeds what is random in it."""
        rows = ItemRows.of(self._communicator, batch)
        share, count = rows.share, tf.shape(batch["item_position"])[0]
        inputs = {name: self._hidden(name, value, step, rows) for name, value in batch.items()}
        names = [*self._query_features, *self._item_features]
        lookups = self.embedding.begin({n: inputs[n] for n in names if self._categorical(n)}, training=True)
        told = [*(n for n in names if not self._categorical(n)), *(n for n in TOLD if n in batch), *self._weights]
        vectors = self._encoder.interests or 1
        draws = {
            "encoder": self._encoder.draws(count, step, share.first),
            "query": self._query_tower.draws(count * vectors, step, share.first * vectors),
            "item": rows.drawn(lambda count, first: self._item_tower.draws(count, step, first)),
        }
        return {"inputs": {n: inputs[n] for n in told}, "rows": rows, "lookups": lookups, "draws": draws}

    def losses_of(self, begun: Mapping[str, Any], step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scalars of what `begin` began: {"loss"}, and with objectives the loss of each under its name. Of a rank's
        slice of a batch: its share, which sums to the loss over all ranks."""
        inputs, rows, draws = begun["inputs"], begun["rows"], begun["draws"]
        activations = self.embedding(begun["lookups"], training=True)
        queries = self._query(activations, inputs, draws)
        own, sampled = rows.candidates(self._items(activations, inputs, draws["item"]), inputs)
        if self._encoder.interests is not None:
            queries = nearest_interest(queries, own.vectors)
        by_row = self.retrieval_loss.by_row(
            queries, own, rows.share, sampled, rows.sampled_share, inputs.get("known_items")
        )
        if not self._weights:
            return {"loss": tf.reduce_sum(by_row)}
        losses = {name: tf.reduce_sum(inputs[name] * by_row) for name in self._weights}
        total = tf.add_n([weight * losses[name] for name, weight in self._weights.items()])
        by_objective = {name.removeprefix(REWARD): loss for name, loss in losses.items()}
        return {"loss": total / sum(self._weights.values()), **by_objective}

    def embed_queries(self, inputs: Mapping[str, Any]) -> tf.Tensor:
        """[B, dim] query vectors, or [B, interests, dim]."""
        activations = self.embedding({n: inputs[n] for n in self._query_features if self._categorical(n)})
        return self._query(activations, inputs)

    def embed_items(self, inputs: Mapping[str, Any]) -> tf.Tensor:
        """[B, dim] candidate vectors."""
        activations = self.embedding({n: inputs[n] for n in self._item_features if self._categorical(n)})
        return self._items(activations, inputs)

    def _items(
        self, activations: Mapping[str, tf.Tensor], inputs: Mapping[str, Any], draws: Sequence[tf.Tensor] = ()
    ) -> tf.Tensor:
        return item_vectors(self._config, self._item_tower, self._item_features, activations, inputs, draws)

    def _query(
        self, activations: Mapping[str, Any], inputs: Mapping[str, Any], draws: Mapping[str, Sequence[tf.Tensor]] = {}
    ) -> tf.Tensor:
        """Each interest goes through the tower as a row of its own, beside the query's other inputs."""
        vectors, interests = None, self._encoder.interests
        if self._encoder.features:
            vectors = self._encoder(activations, draws.get("encoder", ()))
            vectors = vectors if interests is None else tf.reshape(vectors, [-1, self._encoder.width])
        if self._beside:
            beside = side_by_side(self._beside, activations, inputs)
            beside = beside if interests is None else tf.repeat(beside, interests, axis=0)
            vectors = beside if vectors is None else tf.concat([beside, vectors], axis=1)
        vectors = self._query_tower(vectors, draws.get("query", ()))
        if self._biased:
            vectors = tf.concat([vectors, tf.ones_like(vectors[:, :1])], axis=1)
        if self._normalised:
            vectors = unit(vectors, self._biased)
        return vectors if interests is None else tf.reshape(vectors, [-1, interests, vectors.shape[1]])

    def _categorical(self, name: str) -> bool:
        spec = self._query_features.get(name) or self._item_features[name]
        return spec.kind != "number"

    def _hidden(self, name: str, value: Any, step: tf.Tensor, rows: ItemRows) -> Any:
        """The ids of a share of the rows replaced by the unknown id, 0."""
        if name not in _HIDDEN_BY_ID_DROPOUT or not self._id_dropout:
            return value
        purpose = self._seed + 1 + _HIDDEN_BY_ID_DROPOUT.index(name)

        def drawn(count: tf.Tensor, first_row: tf.Tensor) -> list[tf.Tensor]:
            return [uniform(count, 1, first_row, step, purpose)[:, 0]]

        [draws] = rows.drawn(drawn) if name == "item_id" else drawn(tf.shape(value)[0], rows.share.first)
        return tf.where(draws < self._id_dropout, tf.zeros_like(value), value)


def _query_tower(config: RetrievalConfig, query_width: int, item_width: int, seed: int) -> Tower | Identity:
    """The query's, which leaves its last element to the bias.

    Raises:
      UserError: towers are to be the identity, and their inputs are not `config.dim` wide.
    """
    if config.tower == "mlp":
        return Tower("query_tower", query_width, config.units, config.dim - 1, config.dropout, seed + 1_000)
    if (query_width, item_width) != (config.dim, config.dim):
        raise UserError(
            f"retrieval.tower: 'identity' wants inputs as wide as retrieval.dim, {config.dim}; the query's are "
            f"{query_width} wide and the item's {item_width}.",
            "Choose retrieval.query_features, retrieval.item_features, embedding_dim and the encoder's units so.",
        )
    return Identity(name="query_tower")


def falling(learning_rate: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """From the learning rate to nothing along a cosine (Loshchilov and Hutter, ICLR 2017): the end of a training is
    calm, whichever batches come last."""
    return keras.optimizers.schedules.CosineDecay(learning_rate, max(steps, 1))
