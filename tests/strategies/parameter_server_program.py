"""A coordinator that has steps taken until a file ENOUGH is there.

python parameter_server_program.py FOLDER     under TF_CONFIG
"""

import sys
from pathlib import Path

import numpy as np

from foundation.errors import UserError
from foundation.tf import keras, tf
from strategies import create_strategy

ROWS = 4


def arguments(folder, given):
    """Inputs whose lengths differ, until it is enough; `given` notes how many."""
    while not (folder / "enough").exists():
        k = given[0]
        given[0] += 1
        if k % 100 == 0:
            print(f"at step {k}.", flush=True)
        ragged = tf.RaggedTensor.from_row_lengths(np.arange(k % 5 + 2), [k % 5, 0, 2])
        yield {"ragged": ragged, "dense": (np.ones(ROWS + k % 3, np.float32), 1.0)}, k


def main():
    folder = Path(sys.argv[1])
    strategy = create_strategy("parameter_server")
    assert strategy.is_chief
    with strategy.scope():
        counted = tf.Variable(0, dtype=tf.int64, trainable=False)
        weight = tf.Variable(0.0)
        optimizer = keras.optimizers.SGD(0.001)
        optimizer.build([weight])
    assert "/job:ps/" in counted.device
    traced = []

    def step(batch, k):
        traced.append(k)
        counted.assign_add(1)
        with tf.GradientTape() as tape:
            loss = tf.square(weight - 1.0) * tf.reduce_mean(batch["dense"][0]) * batch["dense"][1]
        optimizer.apply_gradients([(tape.gradient(loss, weight), weight)])
        return {"k": k, "ids": tf.reduce_sum(batch["ragged"].values)}

    given, got = [0], []
    try:
        for result in strategy.results(step, arguments(folder, given)):
            k = len(got)
            got.append(int(result["k"]))
            assert int(result["ids"]) == sum(range(k % 5 + 2))
    except UserError as error:
        print(f"error: {error.message}", flush=True)
        sys.exit(2)
    assert got == list(range(given[0]))
    assert len(traced) == 1, "traced again"
    strategy.barrier()
    print(f"topology {strategy.topology.ranks} {strategy.topology.ranks_per_host}", flush=True)
    print(f"given {given[0]} counted {int(counted)} weight {float(weight):.3f}", flush=True)


if __name__ == "__main__":
    main()
