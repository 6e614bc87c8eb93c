"""The multi-objective ranker: one list's candidates scored for every objective at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from embeddings import RowWiseAdagrad, ShardedEmbedding, Wire
from embeddings.feature_tables import tables_for
from embeddings.sharding import ShardingPlan
from foundation.draws import uniform
from foundation.tf import keras, tf
from inputs.entities import FeatureSpec
from inputs.schema import ITEM, USER
from ranking.bias import PositionTower, bias_features
from ranking.config import Objective, RankingConfig
from ranking.dense import MLP, ListDense
from ranking.experts import MixtureOfExperts
from ranking.interactions import Interactions
from ranking.listwise import ListwiseLoss
from ranking.losses import inverse_link, known_rows, pointwise_loss
from ranking.value import ValueModel
from strategies import Communicator, LocalCommunicator
from strategies.share import shares_of, summed

Inputs = Mapping[str, Any]
HIDDEN_BY_ID_DROPOUT = (USER, ITEM)


class Ranker(keras.Model):
    """Embeddings and their interactions, shared experts with a gate and a head per objective, and a position tower
    beside them in training.

    Each head's output is a hidden path through the experts plus a linear path (Cheng et al., DLRS 2016), on which
    little data learns as a factorisation does. Every variable exists after construction, and its initial value follows
    `seed`. Inputs and batches: docs/architecture.md, "Names in batches". Context features other than
    `config.bias_features` are not used. communicator, plan, wire: among several ranks, see `ShardedEmbedding`; a rank
    holds whole lists. track_updates: see `TableConfig`.

    Raises:
      ValueError: `config` names no objectives (`RankingConfig.resolved` fills them in for a dataset).
      UserError: `config.bias_features` names what the dataset lacks.
    """

    def __init__(
        self,
        query_features: Mapping[str, FeatureSpec],
        item_features: Mapping[str, FeatureSpec],
        context_features: Mapping[str, FeatureSpec],
        config: RankingConfig,
        seed: int,
        communicator: Communicator | None = None,
        plan: ShardingPlan | None = None,
        wire: Wire | None = None,
        track_updates: bool = False,
    ) -> None:
        if not config.objectives:
            raise ValueError("config names no objectives: use config.resolved(labels)")
        super().__init__(name="ranker")
        self._communicator = communicator or LocalCommunicator()
        self.objectives: tuple[Objective, ...] = config.objectives
        self._id_dropout, self._seed = config.id_dropout, seed
        self._value = ValueModel(config.objectives)
        self._interactions = Interactions(query_features, item_features, config.dim)
        self.embedding = ShardedEmbedding(
            tables_for(
                {**query_features, **item_features},
                config.dim,
                RowWiseAdagrad(config.embedding_learning_rate),
                seed,
                config.embedding_precision,
                track_updates,
            ),
            communicator=self._communicator,
            plan=plan,
            wire=wire,
        )
        widths, tasks = (self._interactions.query_width, self._interactions.row_width), len(config.objectives)
        self._experts = MixtureOfExperts(*widths, config.num_experts, config.expert_units, tasks, seed + 1_000)
        self._linear = ListDense(*widths, tasks, seed + 2_000, "linear")
        self._heads = [
            MLP(
                config.expert_units[-1],
                config.head_units,
                1,
                seed + 3_000 + 100 * task,
                f"head_{task}",
                bias=_initial_output(objective),
            )
            for task, objective in enumerate(config.objectives)
        ]
        biased_by = bias_features(context_features, config)
        # Position sways whether an item is looked at: what follows only given a click is already looked at.
        self._biased = [o.name for o in config.objectives if o.kind == "binary" and o.given is None]
        self._position_tower = (
            PositionTower(biased_by, config.bias_units, len(self._biased), config.bias_dropout, seed + 4_000)
            if biased_by and self._biased
            else None
        )
        self._listwise = ListwiseLoss(config.listwise, config.objectives) if config.listwise else None

    def begin(self, batch: Inputs, step: tf.Tensor) -> dict[str, Any]:
        """What `losses_of` goes on from: that part of a training step on a ranking batch, or on a rank's slice of one,
        which reads no weight. step: [] int64, seeds what is dropped at random."""
        lists, rows = shares_of(
            self._communicator, [tf.size(batch["list_row_splits"]) - 1, tf.shape(batch["item_position"])[0]]
        )
        firsts = {USER: lists.first, ITEM: rows.first}
        inputs = {name: self._hidden(name, value, step, firsts) for name, value in batch.items()}
        lookups = self.embedding.begin(self._looked_up(inputs), training=True)
        return {"batch": dict(batch), "inputs": inputs, "first_row": rows.first, "lookups": lookups}

    def losses_of(self, begun: Mapping[str, Any], step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scalar losses of what `begin` began: each objective's by name, "listwise" where configured, and "loss", their
        weighted sum. The same step and batch give the same losses. Of a rank's slice of a batch: its shares, which sum
        to the losses over all ranks."""
        batch = begun["batch"]
        vectors = self.embedding(begun["lookups"], training=True)
        outputs = self._outputs(vectors, begun["inputs"], batch["list_row_splits"])
        return self._losses_from(outputs, batch, step, begun["first_row"])

    def held_out_losses(self, batch: Inputs) -> dict[str, tf.Tensor]:
        """The same losses of a batch that is not trained on: nothing is dropped, nothing changes. Shares of them too,
        on a rank that is given its slice."""
        return self._losses_from(self._predicted(batch, batch["list_row_splits"]), batch)

    def predict(self, query_inputs: Inputs, item_inputs: Inputs, list_row_splits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predictions [R] float32 by objective, in natural units: a probability (given the event that `given` names),
        the label's own unit, or seconds. Position plays no part.

        query_inputs: per list [L]; item_inputs: per row [R]; list_row_splits: [L + 1] int64.
        """
        outputs = self._predicted({**query_inputs, **item_inputs}, list_row_splits)
        return {o.name: inverse_link(o, outputs[o.name]) for o in self.objectives}

    def value(self, predictions: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """[R] float32: what rows are ranked by, see `ranking.value.ValueModel`."""
        return self._value(predictions)

    def _looked_up(self, inputs: Inputs) -> dict[str, Any]:
        return {name: inputs[name] for name in self._interactions.categorical}

    def _predicted(self, inputs: Inputs, list_row_splits: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._outputs(self.embedding(self._looked_up(inputs)), inputs, list_row_splits)

    def _outputs(self, vectors: Mapping[str, Any], inputs: Inputs, list_row_splits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Head outputs [R] by objective, before the inverse link."""
        list_of_row = tf.ragged.row_splits_to_segment_ids(list_row_splits)
        query = self._interactions.query(vectors, inputs)
        rows = self._interactions.rows(vectors, inputs, list_of_row)
        mixed = self._experts(query, rows, list_of_row)
        linear = self._linear(query, rows, list_of_row)
        return {
            objective.name: head(mixed[:, task])[:, 0] + linear[:, task]
            for task, (objective, head) in enumerate(zip(self.objectives, self._heads, strict=True))
        }

    def _losses_from(
        self,
        outputs: dict[str, tf.Tensor],
        batch: Inputs,
        step: tf.Tensor | None = None,
        first_row: tf.Tensor | int = 0,
    ) -> dict[str, tf.Tensor]:
        if self._position_tower is not None:
            additions = tf.unstack(self._position_tower(batch, step, first_row), num=len(self._biased), axis=1)
            outputs |= {name: outputs[name] + logit for name, logit in zip(self._biased, additions, strict=True)}
        known, pieces = self._counts(batch)
        losses = {
            o.name: pointwise_loss(o, outputs[o.name], batch[f"label_{o.label}"], known[place])
            for place, o in enumerate(self.objectives)
        }
        total = tf.add_n([o.weight * losses[o.name] for o in self.objectives])
        if self._listwise is not None:
            listed = self._listwise.objective
            scores, labels = outputs[listed.name], batch[f"label_{listed.label}"]
            losses["listwise"] = self._listwise(scores, labels, batch["list_row_splits"], pieces)
            total += self._listwise.weight * losses["listwise"]
        return {"loss": total, **losses}

    def _counts(self, batch: Inputs) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Over all ranks: the rows with each objective's label known, and the lists or pieces of them."""
        known = [known_rows(batch[f"label_{o.label}"]) for o in self.objectives]
        pieces = self._listwise.pieces(batch["list_row_splits"]) if self._listwise is not None else tf.zeros([])
        *known, pieces = summed(self._communicator, [*known, pieces])
        return known, pieces

    def _hidden(self, name: str, value: Any, step: tf.Tensor, firsts: Mapping[str, tf.Tensor]) -> Any:
        """Ids of a share of the rows replaced by the unknown id, 0."""
        if name not in HIDDEN_BY_ID_DROPOUT or not self._id_dropout:
            return value
        seed = self._seed + HIDDEN_BY_ID_DROPOUT.index(name)
        hidden = uniform(tf.shape(value)[0], 1, firsts[name], step, seed)[:, 0] < self._id_dropout
        return tf.where(hidden, tf.zeros_like(value), value)


def _initial_output(objective: Objective) -> float:
    """What an untrained head says, on the scale of its output."""
    if objective.initial is None:
        return 0.0
    if objective.kind == "binary":
        return math.log(objective.initial / (1 - objective.initial))
    return math.log1p(objective.initial) if objective.kind == "duration" else objective.initial
