"""What an exchange's kernels make is the same to the bit at any number of threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embeddings.kernels import compiled

ROOT = Path(__file__).parents[3]
STEP = """
import hashlib, os
import numpy as np
from foundation.tf import tf
tf.config.threading.set_intra_op_parallelism_threads(int(os.environ["THREADS"]))
from embeddings.kernels import kernels
from embeddings.kernels.group import Bag
from embeddings.kernels.streams import Own, Owners, Stream
rng, nothing = np.random.default_rng(0), np.zeros(0, np.int64)
tables = [Owners(rng.integers(0, 3, 1024), True, nothing, 5000), Owners(rng.integers(0, 3, 1024), False, nothing, None)]
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
vectors = [tf.constant(rng.normal(size=(d, dim)), tf.float32) for d, dim in zip(splits[:, -1].numpy(), dims)]
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
print(hashlib.blake2b(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest())
"""


@pytest.mark.skipif(not compiled(), reason="no compiler here: the twin does the work")
def test_the_same_bits_at_any_number_of_threads():
    digests = []
    for threads in ("1", "2", "8"):
        environment = {**os.environ, "THREADS": threads}
        done = subprocess.run([sys.executable, "-c", STEP], cwd=ROOT, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        digests.append(done.stdout)
    assert len(digests[0]) > 100
    assert len(set(digests)) == 1
