"""ShardedEmbedding: a Keras layer whose tables are updated in its own backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from embeddings.bags import bag_of, in_shape_of
from embeddings.config import FeatureConfig, TableConfig, need_known, tables_of
from embeddings.fused import FusedUpdate
from embeddings.kernels import kernels
from embeddings.kernels.group import Bag, TableGroup, grouped
from embeddings.tables.dynamic import DynamicTable, Vocabulary
from embeddings.tables.static import StaticTable
from foundation.tf import keras, tf


@keras.utils.register_keras_serializable("headrace")
class ShardedEmbedding(keras.layers.Layer):
    """Looks up features in embedding tables: dict in, dict out, any subset of the features.

    Input by feature name: ids [B], [B, L], RaggedTensor or SparseTensor, any integer dtype, or a pair (ids, weights).
    Output: [B, dim], or with combiner None one vector per id, ragged where the ids were.

    A table whose vocabulary_size is None is dynamic: with training=True it gives new ids a row (`embeddings.tables`);
    otherwise, and where an id is not admitted, they share the table's row 0. Dynamic tables are no Keras weights at
    all: a tf.train.Checkpoint holds them; `get_weights` (so EarlyStopping's restore_best_weights) and HDF5 do not.

    Every variable exists after construction. The tables are not trainable weights: when a gradient is asked through
    the layer, the backward pass applies each table's own optimizer to the rows that were looked up, summed over their
    occurrences. The idiom is TPUEmbedding's gradient trap: a scalar weight stands among the trainable ones so that a
    gradient is asked. A plain call changes nothing. Call the layer once a step, with all features.

    Under the policy "mixed_float16" tables and updates stay float32; the update waits until Keras' LossScaleOptimizer
    has decided that the step counts. The total loss must then include `model.losses`, unscaled, as `fit` does, and an
    optimizer of Keras, scaling or not, must apply the trap's gradient. Set the policy before the layer is made: a
    LossScaleOptimizer without it scales the tables' gradients too, and the layer cannot know.

    Raises:
      ValueError: two different tables have one name, or an input is not a feature. RuntimeError: built under a strategy
      with several replicas, whose copies would drift apart. tf.errors.InvalidArgumentError: an id is outside its
      vocabulary (the feature is named), a second backward pass follows one forward pass, or the last training step
      never asked for the gradient of `gradient_trap`.
    """

    def __init__(self, features: Mapping[str, FeatureConfig], name: str = "sharded_embedding", **options: Any) -> None:
        super().__init__(name=name, autocast=False, **options)
        _refuse_replicas()
        self.features = dict(features)
        self._tables = {config.name: _new_table(config) for config in tables_of(self.features).values()}
        self._groups = grouped(list(self._tables.values()))
        self._place = {
            table.config.name: (g, place)
            for g, group in enumerate(self._groups)
            for place, table in enumerate(group.tables)
        }
        self._table_variables = {  # for Keras and checkpoints to find
            f"{table}/{name}": variable
            for table, held in self._tables.items()
            if isinstance(held, StaticTable)
            for name, variable in held.variables.items()
        }
        self._dynamic_tables = {  # they save themselves
            name: table for name, table in self._tables.items() if isinstance(table, DynamicTable)
        }
        # A layer kept in float32 inside a mixed_float16 model sees scaled gradients just the same.
        policies = {self.dtype_policy.name, keras.mixed_precision.global_policy().name}
        scaled = "mixed_float16" in policies
        self._fused = FusedUpdate(self._tables, scaled)
        self._step_variables = self._fused.variables
        self.gradient_trap = self.add_weight(
            name="gradient_trap",
            shape=(),
            dtype=tf.float32,
            initializer="zeros",
            trainable=True,
            experimental_autocast=False,
            constraint=self._fused.commit if scaled else None,
        )
        self._scaled = scaled
        self.built = True

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> dict[str, Any]:
        """See the class. training: True also checks that the step before was applied."""
        _refuse_replicas()
        need_known(self.name, inputs, self.features)
        asked: list[list[Bag]] = [[] for _ in self._groups]
        for name, value in inputs.items():
            feature = self.features[name]
            group, place = self._place[feature.table.name]
            asked[group].append(bag_of(name, value, feature, place))
        trains = bool(training) and self.trainable
        if trains:
            self._fused.expect_gradient()
        asked = [_numbered(group, bags, trains) for group, bags in zip(self._groups, asked, strict=True)]
        used = [(group, bags) for group, bags in zip(self._groups, asked, strict=True) if bags]
        if self.trainable:
            groups, of_groups = [group for group, _ in used], [bags for _, bags in used]
            pooled, probe = self._fused.lookup(self.gradient_trap, groups, of_groups, trains)
            if self._scaled:
                self.add_loss(probe)
        else:
            pooled = [kernels().lookup(group, bags) for group, bags in used]
        by_feature = {}
        for (_, bags), vectors in zip(used, pooled, strict=True):
            for bag, of_bag in zip(bags, vectors, strict=True):
                if bag.combiner is None:
                    of_bag = in_shape_of(inputs[bag.name], of_bag)
                by_feature[bag.name] = tf.cast(of_bag, self.compute_dtype)
        return {name: by_feature[name] for name in inputs}

    @property
    def tables(self) -> dict[str, tf.Variable]:
        """The rows [vocabulary_size, dim] of each table, by name. A dynamic table's are [n, dim], of no meaning without
        their ids: see `vocabulary`."""
        return {name: table.rows for name, table in self._tables.items()}

    def table(self, name: str) -> tf.Variable:
        """The rows of one table."""
        return self.held(name).rows

    def held(self, name: str) -> StaticTable | DynamicTable:
        """A table with all that belongs to it: `rows`, `slots`, `updates`.

        Raises:
          ValueError: the layer has no such table.
        """
        if name not in self._tables:
            raise ValueError(f"{self.name}: no table '{name}'; the layer has {sorted(self._tables)}")
        return self._tables[name]

    def vocabulary(self, name: str) -> Vocabulary:
        """The ids and rows of a dynamic table, by id: static from now on, to be looked up or exported."""
        table = self.held(name)
        if not isinstance(table, DynamicTable):
            raise ValueError(f"table '{name}' is static: its ids are 0 to {table.config.vocabulary_size} - 1")
        return table.vocabulary()

    def counts(self) -> dict[str, dict[str, tf.Tensor]]:
        """Of each dynamic table, by name, [] int64 since it began: `steps`, `rows` now, ids' `insertions` and
        `evictions`, and occurrences `rejected` (not admitted, or no room): they used the table's shared row."""
        return {name: table.counts() for name, table in self._dynamic_tables.items()}

    def save_own_variables(self, store: Any) -> None:
        if self._dynamic_tables:
            raise ValueError(
                f"{self.name}: Keras' own files cannot hold dynamic tables ({', '.join(self._dynamic_tables)}): save a "
                "tf.train.Checkpoint, or take their `vocabulary`"
            )
        super().save_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        tables = [feature.table.document() for feature in self.features.values()]
        features = {
            name: {"table": feature.table.name, "combiner": feature.combiner} for name, feature in self.features.items()
        }
        by_name = {table["name"]: table for table in tables}
        return {**super().get_config(), "tables": list(by_name.values()), "features": features}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ShardedEmbedding:
        options = dict(config)
        tables = {document["name"]: TableConfig.from_document(document) for document in options.pop("tables")}
        features = {
            name: FeatureConfig(tables[entry["table"]], entry["combiner"])
            for name, entry in options.pop("features").items()
        }
        return cls(features, **options)

    def _trackable_children(self, save_type: str = "checkpoint", **options: Any) -> dict[str, Any]:
        """A SavedModel holds the backward pass too, and must then hold what that writes to; a checkpoint need not."""
        children = super()._trackable_children(save_type, **options)
        return {**children, **self._fused.transient} if save_type == "savedmodel" else children


def _new_table(config: TableConfig) -> StaticTable | DynamicTable:
    return DynamicTable(config) if config.vocabulary_size is None else StaticTable(config)


def _numbered(group: TableGroup, bags: list[Bag], inserts: bool) -> list[Bag]:
    """Bags whose ids are the numbers of rows. A table's features are looked up together: in training they are one step
    of it."""
    numbered = list(bags)
    for place, table in enumerate(group.tables):
        if isinstance(table, DynamicTable) and (chosen := [b for b, bag in enumerate(bags) if bag.table == place]):
            number = table.find_or_insert if inserts else table.find
            for b, rows in zip(chosen, number([bags[b].ids for b in chosen]), strict=True):
                numbered[b] = replace(bags[b], ids=rows)
    return numbered


def _refuse_replicas() -> None:
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync > 1:
        raise RuntimeError(
            f"ShardedEmbedding cannot be used under {type(strategy).__name__} with {strategy.num_replicas_in_sync} "
            "replicas: each would update a copy of its own, and they would drift apart. Run one process per device."
        )
