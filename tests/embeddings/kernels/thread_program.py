"""What the kernels make, in digests: `thread_program.py PART...`, of THREADS threads if that is set, prints one a part.

PART: "steps", tables after steps of training, or "exchange", all that an exchange's kernels give.
"""

import hashlib
import os
import sys

import numpy as np

from embeddings import (
    Adam,
    FeatureConfig,
    FrequencyAdmission,
    LeastFrequentlyUsed,
    RowWiseAdagrad,
    ShardedEmbedding,
    TableConfig,
)
from embeddings.kernels import kernels
from embeddings.kernels.group import Bag
from embeddings.kernels.streams import Own, Owners, Stream
from foundation.tf import tf


def steps():
    rng = np.random.default_rng(0)
    tables = [
        TableConfig("a", 5000, 16, RowWiseAdagrad(0.1, clipnorm=2.0)),
        TableConfig("b", 300, 16, RowWiseAdagrad(0.2)),
    ]
    tables += [
        TableConfig("c", 300, 16, Adam(0.1), precision="bfloat16", slot_precision="bfloat16"),
        TableConfig(
            "d",
            None,
            16,
            RowWiseAdagrad(0.1),
            admission=FrequencyAdmission(2),
            capacity=2000,
            eviction=LeastFrequentlyUsed(),
        ),
    ]
    layer = ShardedEmbedding(
        {
            "one": FeatureConfig(tables[0], None),
            "many": FeatureConfig(tables[0], "sqrtn"),
            "other": FeatureConfig(tables[1], "mean"),
            "half": FeatureConfig(tables[2], "sum"),
            "open": FeatureConfig(tables[3], "mean"),
        }
    )

    def ragged(rows):
        return tf.RaggedTensor.from_row_lengths(rng.integers(0, rows, 60000), [20] * 3000)

    inputs = {
        "one": tf.constant(rng.zipf(1.3, 40000) % 5000),
        "many": ragged(5000),
        "other": ragged(300),
        "half": ragged(300),
        "open": ragged(10**9),
    }
    weights = {
        name: tf.constant(rng.normal(size=(n, 16)), tf.float32)
        for name, n in (("one", 40000), ("many", 3000), ("other", 3000), ("half", 3000), ("open", 3000))
    }
    for _ in range(4):
        inputs["open"] = tf.RaggedTensor.from_row_lengths(rng.zipf(1.2, 60000) % 5000, [20] * 3000)
        with tf.GradientTape() as tape:
            outputs = layer(inputs, training=True)
            loss = sum(tf.reduce_sum(outputs[name] * weights[name]) for name in outputs)
        tape.gradient(loss, layer.trainable_variables)
    vocabulary = layer.vocabulary("d")
    arrays = [v.numpy() for v in layer.weights] + [vocabulary.ids, vocabulary.rows]
    return arrays


def exchange():
    rng, nothing = np.random.default_rng(0), np.zeros(0, np.int64)
    tables = [
        Owners(rng.integers(0, 3, 1024), True, nothing, 5000),
        Owners(rng.integers(0, 3, 1024), False, nothing, None),
    ]

    def bag(table, combiner, rows):
        ids = tf.constant(rng.zipf(1.3, rows * 10) % 5000)
        splits = tf.range(rows + 1, dtype=tf.int64) * 10 if combiner else None
        return Bag("f", table, ids, splits, None, combiner)

    bags = [bag(0, "mean", 6000), bag(1, None, 4000), bag(0, None, 2000), bag(1, None, 3000)]
    spread = tf.constant(rng.integers(0, 5000, 60_000))
    bags.append(Bag("f", 0, spread, tf.range(101, dtype=tf.int64) * 600, None, "sqrtn"))  # pooled at its owners
    asked = kernels().requests(bags, tables, 3, True, [640, 96])
    distinct, splits, places, bags = asked.sent, asked.splits, [b.ids for b in asked.bags], asked.bags
    assert (asked.id_splits.numpy() > splits.numpy()).any()
    streams, dims = [Stream(0, 0, 16), Stream(1, 0, 24)], [16, 24]
    starts, sizes = splits[:, :3], splits[:, 1:4] - splits[:, :3]
    vectors = [
        tf.constant(rng.normal(size=(d, dim)), tf.float32) for d, dim in zip(splits[:, -1].numpy(), dims, strict=True)
    ]
    sent = kernels().pack(vectors, [0, 1], streams, starts, sizes, 8, tf.bfloat16)
    outputs = kernels().pool(sent, {}, 0, streams, starts, sizes, dims, bags)
    gradients = [tf.constant(rng.normal(size=o.shape), tf.float32) for o in outputs]
    sums = kernels().sums(bags, gradients, splits[:, -1], dims)
    back = kernels().pack(sums, [0, 1], streams, starts, sizes, 8, tf.bfloat16, stochastic=True)
    came = kernels().unpack(back, streams, sizes)
    rows = [tf.constant(rng.zipf(1.3, 3 * len(came[0])) % 5000), tf.constant(rng.zipf(1.3, len(came[1])) % 5000)]
    cuts = [tf.range(len(came[0]) + 1, dtype=tf.int64) * 3, None]
    own = Own(1, [tf.zeros([0, 0])], [-1, -1], tf.zeros([2], tf.int64))
    merged = [each for of_kind in kernels().merge(rows, cuts, back, streams, sizes, own) for each in of_kind]
    cut = [b.splits for b in bags if b.splits is not None]
    arrays = [*distinct, splits, *places, *cut, tf.bitcast(sent, tf.uint16), *outputs, *sums, *came, *merged]
    return arrays


def main():
    if threads := os.environ.get("THREADS"):
        tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    for part in sys.argv[1:]:
        arrays = {"steps": steps, "exchange": exchange}[part]()
        print(hashlib.blake2b(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest())


if __name__ == "__main__":
    main()
