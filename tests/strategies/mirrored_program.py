"""What replicas of one process do with their communicator and strategy: `mirrored_program.py FOLDER`, under
HEADRACE_DEVICES, does every case once and writes what each replica got to FOLDER/found.npz."""

import sys
from pathlib import Path

import numpy as np

from foundation.tf import keras, tf
from strategies import create_strategy
from tests.strategies.communicator_cases import CASES, sizes_of, values_of

DTYPES = ("int64", "float32", "bfloat16")
ROUNDS, EPOCHS, STEPS = 5, 2, 4


def every_kind(strategy):
    """Every exchange of every dtype, eagerly and in a tf.function."""
    communicator = strategy.communicator

    def step():
        rank, ranks = communicator.rank, communicator.size
        found = {}
        for dtype in DTYPES:
            for case in CASES:
                sizes = sizes_of(case, ranks)
                rows = tf.cast(values_of(rank, (sizes[rank].sum(), 3)), dtype)
                found[f"all_to_all/{case}/{dtype}"] = communicator.all_to_all(rows, tf.constant(sizes))
            value = tf.cast(values_of(rank, (4, 3)), dtype)
            found[f"all_gather/{dtype}"] = communicator.all_gather(value)
            found[f"all_reduce/{dtype}"] = communicator.all_reduce(value)
            found[f"broadcast/{dtype}"] = communicator.broadcast(value, root=1)
        return {name: tf.cast(value, tf.float32) for name, value in found.items()}

    return {"eager": _everywhere(strategy, step), "graph": tf.function(lambda: _everywhere(strategy, step))()}


def in_a_backward_pass_and_a_loop(strategy):
    """Rows go round in the forward pass, their gradients back in the backward pass, round after round."""
    communicator = strategy.communicator
    sizes = np.roll(np.eye(communicator.size, dtype=np.int64) * 4, 1, axis=1)  # all to the next rank

    @tf.custom_gradient
    def to_the_next(rows):
        return communicator.all_to_all(rows, sizes), lambda upstream: communicator.all_to_all(upstream, sizes.T)

    def step(rows):
        rank = tf.cast(communicator.rank, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(rows)
            loss = tf.reduce_sum(to_the_next(rows) * (rank + 1.0))
        return rows + tape.gradient(loss, rows)

    def of_each(function):
        return strategy.distribution.experimental_distribute_values_from_function(function)

    @tf.function
    def run(rows):
        for _ in tf.range(ROUNDS):
            rows = strategy.distribution.run(step, args=(rows,))
        return rows

    rows = of_each(lambda context: tf.constant(values_of(context.replica_id_in_sync_group, (4, 3))))
    return {"rows": strategy.distribution.experimental_local_results(run(rows))}


def steps_from_datasets(strategy):
    """Several steps a call of a tf.function, from an iterator for each rank, ragged values among them."""
    traces = []

    def step(batch):
        return strategy.communicator.all_gather(tf.reduce_sum(batch["ragged"], 1) + batch["value"])

    @tf.function(reduce_retracing=True)
    def run(sources, count):
        traces.append(1)
        batches = strategy.distribute(sources)
        total = strategy.run(step, next(batches))
        for _ in tf.range(count - 1):
            total += strategy.run(step, next(batches))
        return total

    def batches_of(rank):
        def every():
            for k in range(STEPS):
                ragged = tf.RaggedTensor.from_row_lengths(tf.range(rank + k), [rank, k])
                yield {"ragged": ragged, "value": [k, 10 * rank]}

        specs = {
            "ragged": tf.RaggedTensorSpec([None, None], tf.int32, 1, tf.int64),
            "value": tf.TensorSpec([2], tf.int32),
        }
        return tf.data.Dataset.from_generator(every, output_signature=specs)

    totals = [run([iter(batches_of(rank)) for rank in strategy.ranks], tf.constant(STEPS)) for _ in range(EPOCHS)]
    return {"totals": totals, "traces": len(traces)}


def dense_gradients(strategy):
    """Summed by the step itself, as one tensor, or left to Keras: the same weights."""
    communicator = strategy.communicator

    def trained(by_hand):
        with strategy.scope():
            weights = [tf.Variable(tf.ones([3, 2])), tf.Variable(tf.zeros([2]))]
            optimizer = keras.optimizers.Adam(0.1)
            optimizer.build(weights)

        def step(inputs):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(inputs @ weights[0] + weights[1])) / 8.0
            gradients = tape.gradient(loss, weights)
            if by_hand:
                flat = communicator.all_reduce(tf.concat([tf.reshape(each, [-1]) for each in gradients], 0))
                parts = tf.split(flat, [tf.size(each) for each in weights])
                gradients = [tf.reshape(part, each.shape) for part, each in zip(parts, weights, strict=True)]
            optimizer.apply_gradients(zip(gradients, weights, strict=True), skip_gradients_aggregation=by_hand)

        run = tf.function(lambda inputs: strategy.run(step, inputs))
        batches = [[tf.constant(values_of(rank, (4, 3), salt=k)) for k in range(6)] for rank in strategy.ranks]
        for inputs in strategy.distribute(batches):
            run(inputs)
        copies = strategy.distribution.experimental_local_results(weights[0])
        return [*(copy.numpy() for copy in copies), int(optimizer.iterations.numpy())]

    return {"by hand": trained(True)[:-1], "by Keras": trained(False)[:-1], "iterations": trained(True)[-1]}


def errors(strategy):
    """What is said of what cannot be."""
    communicator = strategy.communicator

    def message(call):
        try:
            call()
        except (tf.errors.InvalidArgumentError, ValueError, RuntimeError) as error:
            return str(error)
        return "none"

    def in_a_branch():
        return tf.cond(tf.constant(True), lambda: communicator.all_reduce(1.0), lambda: 0.0)

    def too_many():
        return communicator.all_to_all(tf.zeros([3]), tf.zeros([communicator.size] * 2, tf.int64))

    return {
        "rank": message(lambda: communicator.rank),
        "outside": message(lambda: communicator.all_reduce(1.0)),
        "outside, of a replica": message(lambda: communicator.replicas[0].all_reduce(1.0)),
        "root": message(lambda: strategy.run(lambda: communicator.broadcast(1.0, root=communicator.size))),
        "cover": message(lambda: strategy.run(too_many)),
        "cover, traced": message(tf.function(lambda: strategy.run(too_many))),
        "branch": message(tf.function(lambda: strategy.run(in_a_branch))),
        "ranks": message(lambda: strategy.distribute([[]])),
        "after": str(float(strategy.run(lambda: communicator.all_reduce(1.0)))),
    }


def _everywhere(strategy, step):
    """What each replica's step gave, by name and rank."""
    found = {}
    for name, value in strategy.distribution.run(step).items():
        values = strategy.distribution.experimental_local_results(value)
        for rank in strategy.ranks:
            found[f"{name}/{rank}"] = values[rank % len(values)]
    return found


def _flat(value, name):
    if isinstance(value, dict):
        value = {f"{name}/{key}": each for key, each in value.items()}
    elif isinstance(value, (list, tuple)):
        value = {f"{name}/{place}": each for place, each in enumerate(value)}
    else:
        return {name: np.asarray(value)}
    return {key: array for inner, each in value.items() for key, array in _flat(each, inner).items()}


def main() -> None:
    tf.config.threading.set_inter_op_parallelism_threads(1)
    strategy = create_strategy("mirrored")
    topology = strategy.topology
    found = {"topology": np.array([topology.ranks, topology.ranks_per_host, len(strategy.ranks), strategy.is_chief])}
    for case in (every_kind, in_a_backward_pass_and_a_loop, steps_from_datasets, dense_gradients, errors):
        found |= _flat(case(strategy), case.__name__)
    strategy.barrier()
    np.savez(Path(sys.argv[1]) / "found.npz", **found)


if __name__ == "__main__":
    main()
