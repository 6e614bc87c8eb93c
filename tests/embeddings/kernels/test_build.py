"""Kernels are compiled once for a machine, safely, or done without in words."""

import os
import shutil
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
if threads := os.environ.get("THREADS"):
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
from embeddings import *
rng = np.random.default_rng(0)
tables = [TableConfig("a", 5000, 16, RowWiseAdagrad(0.1, clipnorm=2.0)), TableConfig("b", 300, 16, RowWiseAdagrad(0.2))]
tables += [TableConfig("c", 300, 16, Adam(0.1), precision="bfloat16", slot_precision="bfloat16"),
           TableConfig("d", None, 16, RowWiseAdagrad(0.1), admission=FrequencyAdmission(2), capacity=2000,
                       eviction=LeastFrequentlyUsed())]
layer = ShardedEmbedding({"one": FeatureConfig(tables[0], None), "many": FeatureConfig(tables[0], "sqrtn"),
                          "other": FeatureConfig(tables[1], "mean"), "half": FeatureConfig(tables[2], "sum"),
                          "open": FeatureConfig(tables[3], "mean")})
ragged = lambda rows: tf.RaggedTensor.from_row_lengths(rng.integers(0, rows, 60000), [20] * 3000)
inputs = {"one": tf.constant(rng.zipf(1.3, 40000) % 5000), "many": ragged(5000), "other": ragged(300),
          "half": ragged(300), "open": ragged(10**9)}
weights = {name: tf.constant(rng.normal(size=(n, 16)), tf.float32) for name, n in
           (("one", 40000), ("many", 3000), ("other", 3000), ("half", 3000), ("open", 3000))}
for step in range(4):
    inputs["open"] = tf.RaggedTensor.from_row_lengths(rng.zipf(1.2, 60000) % 5000, [20] * 3000)
    with tf.GradientTape() as tape:
        outputs = layer(inputs, training=True)
        loss = sum(tf.reduce_sum(outputs[name] * weights[name]) for name in outputs)
    tape.gradient(loss, layer.trainable_variables)
vocabulary = layer.vocabulary("d")
arrays = [v.numpy() for v in layer.weights] + [vocabulary.ids, vocabulary.rows]
print(hashlib.blake2b(b"".join(array.tobytes() for array in arrays)).hexdigest())
"""


def _python(code, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ended(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out.strip(), err


@pytest.mark.skipif(not compiled(), reason="no compiler here")
def test_the_same_bits_at_any_number_of_threads():
    digests = {threads: _ended(_python(STEP, THREADS=threads))[1] for threads in ("1", "2", "3", "8")}
    assert len(digests["1"]) == 128
    assert len(set(digests.values())) == 1, digests


@pytest.fixture
def no_compiler(tmp_path):
    """A PATH on which there is no compiler."""
    (tmp_path / "bin").mkdir()
    for name in ("uname", "lscpu"):
        if found := shutil.which(name):
            (tmp_path / "bin" / name).symlink_to(found)
    return {"PATH": str(tmp_path / "bin"), "HEADRACE_CACHE": str(tmp_path / "cache")}


def test_without_a_compiler_the_twin_works_and_says_what_it_costs(no_compiler):
    code, digest, said = _ended(_python(STEP, **no_compiler))
    assert code == 0, said
    assert len(digest) == 128
    assert said.count("no C++ compiler (g++) on PATH. Tables are looked up and updated by TensorFlow's own ops") == 1


def test_required_kernels_that_cannot_be_had_are_an_error(no_compiler):
    code, _, said = _ended(_python(STEP, HEADRACE_KERNELS="require", **no_compiler))
    assert code == 1
    assert "UserError: kernels: no C++ compiler (g++) on PATH.\nInstall g++, or name one: CXX=..." in said


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    code, _, said = _ended(_python(STEP, HEADRACE_CACHE=str(tmp_path / "file" / "cache")))
    assert code == 0, said
    if shutil.which("g++"):
        assert "the cache of kernels cannot be written" in said


def test_the_mode_is_one_of_three():
    code, _, said = _ended(_python(STEP, HEADRACE_KERNELS="maybe"))
    assert code == 1
    assert "HEADRACE_KERNELS is 'maybe'.\nIt may be auto, off, require." in said
