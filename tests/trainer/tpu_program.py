"""CORES WORDS...: `headrace WORDS` where strategy "tpu" finds a TPU of so many cores, which this machine stands in for.

What stands in are logical devices of the processor under a MirroredStrategy, and `EmbeddingHardware`: TensorFlow's own
class for a TPU's tables, its three steps (enqueue, dequeue, apply_gradients) done here in TensorFlow's plain ops by the
formula that TensorFlow publishes. All else is what a TPU would run: the strategy, the loop, the layer, TensorFlow
Recommenders' layer in its TPU branch. No XLA, no TPUReplicateContext, no fixed-shape compiler: those are not tried.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import embeddings.layer  # noqa: E402
import embeddings.tpu.layer  # noqa: E402
import strategies  # noqa: E402
from foundation.tf import own_variables, tf  # noqa: E402
from strategies import MirroredStrategy, TpuStrategy  # noqa: E402
from trainer.main import app, exit_code_of  # noqa: E402

import tensorflow_recommenders.layers.embedding.tpu_embedding_layer as theirs  # noqa: E402  # isort: skip - after the gateway

V1 = tf.tpu.experimental.HardwareFeature.EmbeddingFeature.V1
lookup = tf.tpu.experimental.embedding.serving_embedding_lookup


class EmbeddingHardware(tf.tpu.experimental.embedding.TPUEmbedding):
    """Holds a table once for all cores: in a step each core enqueues and dequeues once, a table takes one step."""

    def build(self, per_replica_input_shapes=None, per_replica_batch_size=None):
        for feature in tf.nest.flatten(self._feature_config):
            assert all(isinstance(size, int) for size in feature.output_shape), "a TPU must know every shape"
        with own_variables():
            super().build(per_replica_input_shapes, per_replica_batch_size)
        self._held = SimpleNamespace(enqueued={})  # which no checkpoint looks into
        self._held.looked_up = {  # TensorFlow's lookup on a processor wants no shapes
            name: tf.tpu.experimental.embedding.FeatureConfig(table=feature.table, name=name)
            for name, feature in self._feature_config.items()
        }

    def enqueue(self, features, weights=None, training=True, name=None, device=None):
        for value in tf.nest.flatten(features, expand_composites=True):
            assert any(value is given for given in StandIn.given), "a TPU takes a step's inputs as they are"
        rows = {config: self._variables[config.name]["parameters"].read_value() for config in self._table_config}
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(list(rows.values()))
            vectors = lookup(features, weights, rows, self._held.looked_up)
        self._held.enqueued[name, self._core()] = (tape, rows, vectors)

    def dequeue(self, name=None):
        return self._held.enqueued[name, self._core()][-1]

    def apply_gradients(self, gradients, name=None):
        tape, rows, vectors = self._held.enqueued[name, self._core()]
        flat = [tf.nest.flatten(of) for of in (vectors, gradients)]
        mine = tape.gradient(flat[0], list(rows.values()), output_gradients=flat[1])
        mine = list(map(tf.convert_to_tensor, mine))

        def once(distribution, *of_cores):
            for config, each in zip(self._table_config, of_cores, strict=True):
                self._step(config, tf.add_n(distribution.experimental_local_results(each)))

        tf.distribute.get_replica_context().merge_call(once, args=tuple(mine))

    def _step(self, config, gradient):
        """Adagrad, as optimization_parameters.proto has it; a row of no gradient stays."""
        assert isinstance(config.optimizer, tf.tpu.experimental.embedding.Adagrad)
        held, rate = self._variables[config.name], config.optimizer.learning_rate
        rate = rate() if callable(rate) else rate
        held["accumulators"].assign_add(gradient**2)
        held["parameters"].assign_sub(rate * gradient / tf.sqrt(held["accumulators"].read_value()))

    def _core(self):
        return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))


class StandIn(TpuStrategy):
    given: list[tf.Tensor] = []  # what the step under way was called with

    def run(self, step, *arguments):
        each = [self.distribution.experimental_local_results(value) for value in tf.nest.flatten(arguments)]
        StandIn.given = [tensor for of_cores in each for tensor in of_cores]
        unknown = [t for t in StandIn.given if not t.shape.is_fully_defined()]
        assert all(t.shape.rank == 1 for t in unknown), (
            "of what a step is given only lists of ids and weights may differ"
        )
        return super().run(step, *arguments)


def main() -> int:
    cores, *words = sys.argv[1:]
    distribution = MirroredStrategy(int(cores)).distribution
    distribution.extended.num_hosts = 1
    distribution.extended.tpu_hardware_feature = SimpleNamespace(embedding_feature=V1)

    def is_the_tpu(strategy):
        return strategy is distribution

    theirs._is_tpu_strategy = embeddings.layer.is_tpu = embeddings.tpu.layer.is_tpu = is_the_tpu
    theirs.tf.tpu.experimental.embedding.TPUEmbedding = EmbeddingHardware
    strategies._BUILT["tpu"] = lambda: StandIn(distribution)
    return exit_code_of(lambda: app(words, standalone_mode=False))


if __name__ == "__main__":
    sys.exit(main())
