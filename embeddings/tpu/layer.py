"""TpuEmbedding: what `ShardedEmbedding` is under a TPUStrategy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow_recommenders as tfrs

from embeddings.begun import Begun
from embeddings.config import FeatureConfig, need_known
from embeddings.dense import tables_left_out
from embeddings.layer import ShardedEmbedding
from embeddings.tpu.inputs import output_shapes, prepared
from embeddings.tpu.optimizers import TpuOptimizers
from embeddings.tpu.tables import tpu_features
from embeddings.wire import Wire
from foundation.errors import UserError
from foundation.tf import keras, tf
from strategies import LocalCommunicator, TpuCommunicator, is_tpu

if TYPE_CHECKING:
    from embeddings.sharding.held import HeldShard
    from embeddings.sharding.plan import ShardingPlan
    from strategies import Communicator

_OF_TABLES = ("_lookups", "_updates")  # what tracks them
_THEIR_TRAP = "tpu_embedding_helper_dummy"  # TensorFlow Recommenders' name
_Feature = tf.tpu.experimental.HardwareFeature.EmbeddingFeature


@keras.utils.register_keras_serializable("headrace")
class TpuEmbedding(ShardedEmbedding):
    """A ShardedEmbedding whose tables a TPU's embedding hardware holds, looks up and trains, through TensorFlow
    Recommenders' TPUEmbedding. Numbers are ShardedEmbedding's (`optimizers` says to what), with three differences in
    use, all the hardware's:

    - The step is called with what `prepare` made of a batch, on the host, and with every feature.
    - Shapes are fixed: `build` is given them, or the first call's are taken. One vector per id (combiner None) is had
      of ids [B, L] only.
    - The tables are in the TPU's memory. A tf.train.Checkpoint of this layer saves them and loads them; made outside a
      TPUStrategy, from the same features, the layer restores such a checkpoint, looks up in it, and `to_ordinary` gives
      a ShardedEmbedding that trains on or is served. `shards`, `tables` and so `save_tables` read them out so, into
      copies; `take` and so `restore_tables` put copies back.

    Raises:
      UserError: a TPU cannot hold a table or train it as configured, or this one has no embedding hardware.
      ValueError: it is given a plan, several ranks, or a wire of 16 bits: a TPU spreads tables itself.
    """

    def __init__(
        self,
        features: Mapping[str, FeatureConfig],
        name: str = "sharded_embedding",
        communicator: Communicator | None = None,
        plan: ShardingPlan | None = None,
        wire: Wire | None = None,
        **options: Any,
    ) -> None:
        keras.layers.Layer.__init__(self, name=name, autocast=False, **options)  # it has no table of ShardedEmbedding's
        ranks = 1 if communicator is None or isinstance(communicator, TpuCommunicator) else communicator.size
        if plan is not None or ranks != 1:
            raise ValueError(f"{name}: a TPU spreads its tables itself; give neither a plan nor several ranks")
        if wire is not None and wire != Wire():
            raise ValueError(f"{name}: a TPU's cores exchange in their own way; leave `wire` at float32")
        if "mixed_float16" in {self.dtype_policy.name, keras.mixed_precision.global_policy().name}:
            raise ValueError(f"{name}: a TPU computes in bfloat16; take mixed_bfloat16 in place of mixed_float16")
        self.features = dict(features)
        self._communicator = LocalCommunicator()
        distribution = tf.distribute.get_strategy()
        self._on_tpu = is_tpu(distribution)
        hardware = _embedding_hardware(distribution) if self._on_tpu else None
        self._by_shards = hardware != _Feature.V2
        self._updates = tf.Variable(
            0,
            dtype=tf.int64,
            trainable=False,
            name="updates",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self._optimizers = TpuOptimizers(lambda: self._updates - 1, sparse_core=hardware == _Feature.V2)
        tpu_features(self.features, {}, self._optimizers, self._by_shards)  # what a TPU cannot do is said at once
        self._lookups: Any = None
        if self._on_tpu:
            self.gradient_trap = self.add_weight(
                name="gradient_trap",
                shape=(),
                dtype=tf.float32,
                initializer="zeros",
                trainable=True,
                experimental_autocast=False,
            )
        else:
            self._make({})
            self.built = True

    def build(self, input_shape: Mapping[str, Any]) -> None:
        """Makes the tables, on a TPU. input_shape: of each feature's input on one replica, such as {"video": [128],
        "tags": [128, None]}. Called in the strategy's scope before the first step, it leaves nothing to be made there.
        """
        if self._lookups is None:
            self._make(output_shapes(self.features, input_shape))
            # the trap is ours, as every ShardedEmbedding's: dense checkpoints are then read wherever the tables lie
            setattr(self._lookups, _THEIR_TRAP, self.gradient_trap)
        self.built = True

    def _make(self, shapes: Mapping[str, Any]) -> None:
        configs = tpu_features(self.features, shapes, self._optimizers, self._by_shards)
        self._lookups = tfrs.layers.embedding.TPUEmbedding(configs, optimizer=None)
        self._lookups.build(None)

    def prepare(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """A batch's features as the step on a TPU takes them: see `embeddings.tpu.inputs`. On the host, before the
        replicas get the batch; elsewhere than on a TPU a call does it.

        Raises:
          ValueError: a feature is missing, or not one of the layer's. Otherwise as a ShardedEmbedding's call.
        """
        self._need_all(inputs)
        return prepared(self.features, inputs)

    def begin(self, inputs: Mapping[str, Any], training: bool | None = None) -> Begun:
        """`prepare`, for a training loop to do on the host."""
        return Begun(self.prepare(inputs), bool(training), None)

    def call(self, inputs: Mapping[str, Any] | Begun, training: bool | None = None) -> dict[str, Any]:
        """See the class; output as ShardedEmbedding's. A TPU updates its tables when a gradient is asked, whatever
        `training` is."""
        inputs, _ = self._as_begun(inputs, training)
        self._need_all(inputs)
        if not self._on_tpu:
            inputs = prepared(self.features, inputs)
        ids, weights = {}, {}
        for name, value in inputs.items():
            ids[name], weights[name] = value if isinstance(value, tuple) else (value, None)
            _need_prepared(name, ids[name], self.features[name])
        weighted = any(weight is not None for weight in weights.values())
        vectors = self._counted(self._lookups(ids, weights if weighted else None))
        outputs = {}
        for name, value in vectors.items():
            if self.features[name].combiner is None:
                of_ids = tf.shape(ids[name])[: 1 if ids[name].shape.rank == 1 else 2]
                shape = [*ids[name].shape[:2], value.shape[-1]]
                value = tf.ensure_shape(tf.reshape(value, tf.concat([of_ids, [value.shape[-1]]], 0)), shape)
            outputs[name] = tf.cast(value, self.compute_dtype)
        return outputs

    def _counted(self, vectors: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The same, counting the update that begins when their gradient is asked: learning rates go by it."""

        @tf.custom_gradient
        def counting(*values: tf.Tensor) -> Any:
            def backward(*upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
                self._updates.assign_add(1)
                return tuple(map(tf.identity, upstream))

            return tuple(map(tf.identity, values)), backward

        return dict(zip(vectors, counting(*vectors.values()), strict=True))

    @property
    def updates(self) -> tf.Variable:
        """[] int64: how many were made."""
        return self._updates

    def variables_of(self, name: str) -> dict[str, tf.Variable]:
        """A table's rows, "parameters", and slot variables [vocabulary_size, dim] float32, by TensorFlow's names.

        Raises:
          ValueError: the layer has no such table, or a TPU holds it.
        """
        if name not in self.table_configs:
            raise ValueError(f"{self.name}: no table '{name}'; the layer has {sorted(self.table_configs)}")
        if self._on_tpu:
            raise ValueError(self._in_the_tpu())
        # TensorFlow shows the tables alone, not what its optimizers keep beside them
        return dict(self._lookups._tpu_embedding._variables[name])

    @property
    def tables(self) -> dict[str, tf.Variable]:
        if self._on_tpu:
            return {shard.config.name: shard.held.rows for shard in self.shards()}
        return {name: self.variables_of(name)["parameters"] for name in self.table_configs}

    def table(self, name: str) -> tf.Variable:
        return self.variables_of(name)["parameters"]

    def held(self, name: str) -> Any:
        raise ValueError(self._in_the_tpu())

    def shards(self) -> list[HeldShard]:
        """Copies of the tables, whole, with slot variables and number of updates."""
        from embeddings.tpu.transfer import to_ordinary

        copy = self._made_elsewhere(ShardedEmbedding)
        to_ordinary(self._moved(self, self._made_elsewhere(TpuEmbedding)) if self._on_tpu else self, copy)
        return copy.shards()

    def take(self, shards: Sequence[HeldShard]) -> None:
        from embeddings.tpu.transfer import from_tables

        held = self._made_elsewhere(TpuEmbedding) if self._on_tpu else self
        from_tables({shard.config.name: shard.held for shard in shards}, held)
        if self._on_tpu:
            self._moved(held, self)

    @property
    def answers_between_steps(self) -> bool:
        return not self._on_tpu

    def _made_elsewhere(self, kind: Callable[..., Any]) -> Any:
        """A layer of the same tables in this process' own memory."""
        return kind(self.features, name=self.name)

    @staticmethod
    def _moved(source: TpuEmbedding, target: TpuEmbedding) -> TpuEmbedding:
        """The target, with the source's tables: by TensorFlow's checkpoints, which is how a TPU's are had."""
        with tempfile.TemporaryDirectory(prefix="headrace-tpu-") as folder:
            path = tf.train.Checkpoint(embedding=source).write(str(Path(folder) / "tables"))
            read = tf.train.Checkpoint(embedding=target).read(path)
            read.assert_nontrivial_match()
            if not target._on_tpu:  # which has a trap besides
                read.assert_existing_objects_matched()
            read.expect_partial()
        return target

    def traffic(self) -> dict[str, float]:
        """{}: what a TPU's cores exchange is not counted."""
        return {}

    def counts(self) -> dict[str, dict[str, tf.Tensor]]:
        """None: a TPU has no dynamic table."""
        return {}

    def save_own_variables(self, store: Any) -> None:
        raise ValueError(self._in_the_tpu())

    def _trackable_children(self, save_type: str = "checkpoint", **options: Any) -> dict[str, Any]:
        children = keras.layers.Layer._trackable_children(self, save_type, **options)
        if save_type == "checkpoint" and tables_left_out():
            return {name: child for name, child in children.items() if name not in _OF_TABLES}
        return children

    def _need_all(self, inputs: Mapping[str, Any]) -> None:
        need_known(self.name, inputs, self.features)
        if missing := self.features.keys() - inputs.keys():
            raise ValueError(f"{self.name}: a TPU looks up all features in every step; missing: {sorted(missing)}")

    def _in_the_tpu(self) -> str:
        return (
            f"{self.name}: its tables are a TPU's. Save a tf.train.Checkpoint of the layer, restore it into a "
            "TpuEmbedding of the same features made outside the TPUStrategy, and take embeddings.tpu.to_ordinary of it"
        )


def _need_prepared(name: str, ids: Any, feature: FeatureConfig) -> None:
    rank = len(ids.shape)
    if isinstance(ids, tf.SparseTensor) or (not isinstance(ids, tf.RaggedTensor) and rank not in (1, 3)):
        raise ValueError(
            f"feature '{name}': a TPU's step takes what `prepare` made of a batch on the host; this is a "
            f"{type(ids).__name__} {ids.shape}"
        )
    if isinstance(ids, tf.RaggedTensor) and feature.combiner is None:
        raise ValueError(f"feature '{name}': ragged ids, of which a TPU gives no vector each; see `prepare`")


def _embedding_hardware(distribution: Any) -> Any:
    hardware = distribution.extended.tpu_hardware_feature.embedding_feature
    if hardware == _Feature.UNSUPPORTED:
        raise UserError(
            "tpu: this TPU has no embedding hardware (a v5e has none), and would hold every table whole on each core.",
            "Take a TPU v4, v5p or v6e, or another strategy.",
        )
    return hardware
