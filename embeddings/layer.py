"""ShardedEmbedding: a Keras layer whose tables are updated in its own backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from embeddings.bags import bag_of, in_shape_of
from embeddings.begun import Begun
from embeddings.config import FeatureConfig, TableConfig, need_known, tables_of
from embeddings.dense import tables_left_out
from embeddings.exchange import Exchange
from embeddings.fused import FusedUpdate
from embeddings.kernels.group import Bag
from embeddings.local import LocalTables
from embeddings.parameter_server import ServerTables, ServerUpdate
from embeddings.pooling import pooled
from embeddings.replicas import looked_up, place_here, ranks_here
from embeddings.sharding.held import HeldShard, held_shards, whole
from embeddings.sharding.plan import ShardingPlan
from embeddings.sharding.sharded import sharded_tables
from embeddings.tables.dynamic import DynamicTable, Vocabulary
from embeddings.tables.static import StaticTable
from embeddings.wire import Wire
from foundation.tf import as_written, is_watched, keras, own_variables, tf
from strategies import LocalCommunicator, MirroredCommunicator, communicator_of, is_tpu, replicas_of, servers_of

if TYPE_CHECKING:
    from strategies import Communicator

_OF_TABLES = ("_tables", "_table_variables", "_dynamic_tables", "_step_variables")  # what tracks them


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

    Among several ranks (processes, one device each, or the replicas of a MirroredStrategy) the tables are spread as
    `plan` says, and ids, vectors and gradients travel through `communicator`; all ranks call the layer alike, each with
    its slice of the batch. Made in the scope of a MirroredStrategy or MultiWorkerMirroredStrategy it finds the
    communicator itself; without a plan it takes `sharding.default_plan`. A rank's loss is its slice's share of the
    global batch's, so that gradients sum to those of one process. A process holds the shards of all its ranks, under
    names such as "rank_0/video". Called outside what `strategy.run` runs, replicas' tables are only looked up. wire:
    the precision of what travels, float32 unless told.

    Made in the scope of a ParameterServerStrategy its tables are on the servers, row-wise over all or as `plan` says,
    "server_0/video": see `embeddings.parameter_server`. They are static, and combiners, optimizers and precisions as
    elsewhere; workers update them without waiting for each other. There a second backward pass, or a second training
    call in one traced step, is a ValueError when it is traced.

    Raises:
      ValueError: two different tables have one name, an input is not a feature, or the plan is not of these tables and
        ranks. RuntimeError: used under a strategy with other replicas than it was made for, whose copies would drift
        apart, or replicas' tables trained outside what `strategy.run` runs. tf.errors.InvalidArgumentError: an id is
        outside its vocabulary (the feature is named), a second backward pass follows one forward pass, or the last
        training step never asked for the gradient of `gradient_trap`.
    """

    def __new__(cls, *arguments: Any, **options: Any) -> ShardedEmbedding:
        """Under a TPUStrategy, the one whose tables the TPU holds."""
        made = cls
        if cls is ShardedEmbedding and is_tpu(tf.distribute.get_strategy()):
            from embeddings.tpu import TpuEmbedding  # which is built on this class

            made = TpuEmbedding
        return super().__new__(made, *arguments, **options)

    def __init__(
        self,
        features: Mapping[str, FeatureConfig],
        name: str = "sharded_embedding",
        communicator: Communicator | None = None,
        plan: ShardingPlan | None = None,
        wire: Wire | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, autocast=False, **options)
        self.features = dict(features)
        self._communicator, self._wire = communicator or _communicator_here(), wire
        # A layer kept in float32 inside a mixed_float16 model sees scaled gradients just the same.
        policies = {self.dtype_policy.name, keras.mixed_precision.global_policy().name}
        scaled = "mixed_float16" in policies
        configs = tables_of(self.features)
        self._place = {name: place for place, name in enumerate(configs)}
        self._ranks = _Ranks(tuple(self._rank(configs, plan, scaled, each) for each in ranks_here(self._communicator)))
        self._tables = {name: table for rank in self._ranks.here for name, table in rank.tables.items()}
        self._table_variables = {  # for Keras and checkpoints to find
            f"{table}/{name}": variable
            for table, held in self._tables.items()
            if isinstance(held, StaticTable)
            for name, variable in held.variables.items()
        }
        self._dynamic_tables = {  # they save themselves
            name: table for name, table in self._tables.items() if isinstance(table, DynamicTable)
        }
        self._step_variables = [variable for rank in self._ranks.here for variable in rank.fused.variables]
        self.gradient_trap = self.add_weight(
            name="gradient_trap",
            shape=(),
            dtype=tf.float32,
            initializer="zeros",
            trainable=True,
            experimental_autocast=False,
            constraint=self._ranks.here[0].fused.commit if scaled else None,
        )
        self._scaled = scaled
        self.built = True

    def _rank(
        self, configs: Mapping[str, TableConfig], plan: ShardingPlan | None, scaled: bool, communicator: Communicator
    ) -> _Rank:
        """Makes the tables of one rank."""
        dynamic = {self._place[name]: name for name, config in configs.items() if config.vocabulary_size is None}
        servers = servers_of(tf.distribute.get_strategy())
        with own_variables():
            if servers:
                if scaled:
                    raise ValueError(f"{self.name}: mixed_float16 on parameter servers is not built; use bfloat16")
                spread = ServerTables(configs, plan, servers)
                return _Rank(spread, spread.held(), spread.shards(), ServerUpdate(servers[0]))
            if communicator.size == 1:
                tables = {name: _new_table(config) for name, config in configs.items()}
                shards = tuple(map(whole, tables.values()))
                return _Rank(LocalTables(list(tables.values())), tables, shards, FusedUpdate(tables, dynamic, scaled))
            if scaled:
                raise ValueError(f"{self.name}: mixed_float16 among several ranks is not built yet; use bfloat16")
            sharded = sharded_tables(configs, plan, communicator)
            alone = communicator is self._communicator
            prefix = "" if alone else f"rank_{communicator.rank}/"
            held = {f"{prefix}{name}": part for table in sharded for name, part in table.held().items()}
            shards = tuple(shard for table in sharded for shard in held_shards(table))
            return _Rank(Exchange(communicator, sharded, self._wire), held, shards, FusedUpdate(held, dynamic, scaled))

    @property
    def begins_ahead(self) -> bool:
        """Whether `begin` does some of the work, and exactly the same a step early: processes exchange ids and no table
        gives them rows."""
        if isinstance(self._communicator, MirroredCommunicator) or self._communicator.size == 1:
            return False
        return all(config.vocabulary_size is not None for config in self.table_configs.values())

    def begin(self, inputs: Mapping[str, Any], training: bool | None = None) -> Begun:
        """The part of a call that reads no row: where `begins_ahead`, the exchange of ids, which a training loop may do
        for the next batch while this one computes. The call that takes what it gives has the same `training`.

        Raises:
          As a call with these inputs.
        """
        if not self.begins_ahead:
            return Begun(inputs, bool(training), None)
        lookups: Any = self._ranks.here[0].lookups
        with tf.name_scope(self.name):  # as in a call
            routed = lookups.input_dist(self._bags(inputs), bool(training) and self.trainable)
        return Begun(inputs, bool(training), routed)

    def call(self, inputs: Mapping[str, Any] | Begun, training: bool | None = None) -> dict[str, Any]:
        """See the class. inputs: by feature, or what `begin` gave. training: True also checks that the step before was
        applied."""
        return self._outputs_of(inputs, training)

    @as_written
    def _outputs_of(self, inputs: Mapping[str, Any] | Begun, training: bool | None) -> dict[str, Any]:
        _refuse_replicas(self._communicator)
        inputs, routed = self._as_begun(inputs, training)
        bags = self._bags(inputs)
        trains = bool(training) and self.trainable
        alone = isinstance(self._ranks.here[0].lookups, LocalTables)
        asked = bags if alone else [_without_learned_weights(bag) for bag in bags]
        vectors = self._vectors(asked, trains, routed)
        outputs = {}
        for bag, was, of_bag in zip(bags, asked, vectors, strict=True):
            if bag.combiner != was.combiner:
                of_bag = pooled(of_bag, bag)
            if bag.combiner is None:
                of_bag = in_shape_of(inputs[bag.name], of_bag)
            outputs[bag.name] = tf.cast(of_bag, self.compute_dtype)
        return outputs

    def _as_begun(self, inputs: Mapping[str, Any] | Begun, training: bool | None) -> tuple[Mapping[str, Any], Any]:
        if not isinstance(inputs, Begun):
            return inputs, None
        if inputs.training != bool(training):
            raise ValueError(f"{self.name}: begun with training={inputs.training} and called with {bool(training)}")
        return inputs.inputs, inputs.routed

    def _bags(self, inputs: Mapping[str, Any]) -> list[Bag]:
        need_known(self.name, inputs, self.features)
        of_features = [(name, value, self.features[name]) for name, value in inputs.items()]
        return [bag_of(name, value, feature, self._place[feature.table.name]) for name, value, feature in of_features]

    def _vectors(self, bags: list[Bag], trains: bool, routed: Any) -> list[tf.Tensor]:
        """[B, dim] of each bag."""
        place = place_here(self._communicator)
        if place is None:
            lookups: list[Any] = [rank.lookups for rank in self._ranks.here]
            return looked_up(self._communicator, lookups, bags, self.gradient_trap, trains)
        rank = self._ranks.here[place]
        if trains and place == 0:  # replicas are one program: one speaks for all, and its failure is told once
            rank.fused.expect_gradient()
        dist: Any = routed or rank.lookups.input_dist(bags, trains)
        if not self.trainable:
            return rank.lookups.output_dist(dist, bags)
        vectors, probe = rank.fused.lookup(self.gradient_trap, rank.lookups, dist, bags, trains)
        if self._scaled:
            self.add_loss(probe)
        return vectors

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

    @property
    def communicator(self) -> Communicator:
        """The ranks over which the tables are spread."""
        return self._communicator

    @property
    def local_ranks(self) -> list[int]:
        """Those that this process runs."""
        return [each.rank for each in ranks_here(self._communicator)]

    @property
    def table_configs(self) -> dict[str, TableConfig]:
        """The tables' configurations by name, whatever this rank holds of them."""
        return tables_of(self.features)

    def shards(self) -> list[HeldShard]:
        """What each of `local_ranks` holds, part by part, table by table: for checkpoints and exports."""
        return [shard for rank in self._ranks.here for shard in rank.shards]

    def take(self, shards: Sequence[HeldShard]) -> None:
        """To be called when what `shards` gave was written to: where they are copies, the tables become them."""

    @property
    def answers_between_steps(self) -> bool:
        """Whether it can be called outside a training step, with some of the features, in any shape."""
        return True

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

    def traffic(self) -> dict[str, float]:
        """What the exchange moved in the last training step, seen from this process' first rank: see
        `embeddings.traffic.Traffic.read`. {}: there is no exchange."""
        lookups = self._ranks.here[0].lookups
        return lookups.traffic.read() if isinstance(lookups, Exchange) else {}

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
        """A SavedModel holds the backward pass too, and must then hold what that writes to; a checkpoint need not, and
        a DenseCheckpoint holds nothing of the tables."""
        children = super()._trackable_children(save_type, **options)
        if save_type == "checkpoint" and tables_left_out():
            return {name: child for name, child in children.items() if name not in _OF_TABLES}
        return {**children, **self._ranks.here[0].fused.transient} if save_type == "savedmodel" else children


@dataclass(frozen=True, eq=False)
class _Rank:
    """A rank that this process runs: how it looks up, what it holds by name and part by part, its updates."""

    lookups: LocalTables | Exchange | ServerTables
    tables: dict[str, StaticTable | DynamicTable]
    shards: tuple[HeldShard, ...]
    fused: FusedUpdate


@dataclass(frozen=True)
class _Ranks:
    """Keeps what it holds out of Keras' tracking: the tables are tracked by name."""

    here: tuple[_Rank, ...]


def _new_table(config: TableConfig) -> StaticTable | DynamicTable:
    return DynamicTable(config) if config.vocabulary_size is None else StaticTable(config)


def _without_learned_weights(bag: Bag) -> Bag:
    """A bag whose weights a gradient may be asked for is pooled outside the exchange, where TensorFlow finds it."""
    if bag.weights is None or not is_watched(bag.weights):
        return bag
    return replace(bag, splits=None, weights=None, combiner=None)


def _communicator_here() -> Communicator:
    """That of the ranks which the tf.distribute strategy in force has joined; else there is one."""
    strategy = tf.distribute.get_strategy()
    communicator = communicator_of(strategy) or replicas_of(strategy) or LocalCommunicator()
    _refuse_replicas(communicator)
    return communicator


def _refuse_replicas(communicator: Communicator) -> None:
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync not in (1, communicator.size):
        raise RuntimeError(
            f"ShardedEmbedding cannot be used under {type(strategy).__name__} with {strategy.num_replicas_in_sync} "
            f"replicas: it was made for {communicator.size}. Each would update a copy of its own, and they would drift "
            "apart. Make it in a MirroredStrategy's scope, or run one process per device."
        )
