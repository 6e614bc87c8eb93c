"""Tables as plain files, and the memory that making, writing and reading them takes."""

import subprocess
import sys

import numpy as np
import pytest

from embeddings import FeatureConfig, ShardedEmbedding, TableConfig
from embeddings.table_files import read_table, write_table
from foundation.errors import UserError
from foundation.tf import tf


def _layer(size=1000, seed=0, **options):
    return ShardedEmbedding({"v": FeatureConfig(TableConfig("t", size, 6, seed=seed, **options), None)})


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_was_written_is_read_by_numpy_and_by_another_layer(tmp_path, precision):
    layer, other = _layer(precision=precision), _layer(seed=1, precision=precision)
    write_table(layer, "t", tmp_path / "t")
    rows = np.load(tmp_path / "t" / "rows.npy")
    assert rows.dtype == np.float32
    assert np.array_equal(rows, tf.cast(layer.table("t"), tf.float32))
    read_table(other, "t", tmp_path / "t")
    assert np.array_equal(layer.table("t"), other.table("t"))


def test_a_dynamic_table_is_written_by_id(tmp_path):
    layer = _layer(None)
    ids = np.array([5, -3, 10**15, 5])
    layer({"v": tf.constant(ids)}, training=True)
    write_table(layer, "t", tmp_path / "t")
    written = np.load(tmp_path / "t" / "ids.npy")
    assert written.tolist() == [-3, 5, 10**15]
    rows = np.load(tmp_path / "t" / "rows.npy")
    assert np.array_equal(rows[1 + np.searchsorted(written, ids)], layer({"v": tf.constant(ids)})["v"])
    with pytest.raises(ValueError, match="table 't' is dynamic"):
        read_table(layer, "t", tmp_path / "t")


def test_files_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    layer = _layer(1000)
    before = layer.table("t").numpy()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="this is there already"):
        write_table(layer, "t", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(UserError, match=r"rows\.npy: there is no such file"):
        read_table(layer, "t", tmp_path / "none")
    write_table(_layer(999), "t", tmp_path / "other")
    with pytest.raises(UserError, match=r"float32 of shape \(999, 6\); table 't' wants float32 of \(1000, 6\)"):
        read_table(layer, "t", tmp_path / "other")
    write_table(layer, "t", tmp_path / "cut")
    file = tmp_path / "cut" / "rows.npy"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"rows\.npy: damaged"):
        read_table(layer, "t", tmp_path / "cut")
    assert np.array_equal(before, layer.table("t"))


_PEAK = """
import sys
from pathlib import Path
from embeddings import *
from embeddings.table_files import read_table, write_table
from foundation.tf import tf
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
def small(size):
    return ShardedEmbedding({"v": FeatureConfig(TableConfig("t", size, 64), None)})
warm = small(400_000)  # pieces as large as those below: what is held besides does not grow with the table
write_table(warm, "t", sys.argv[1] + "/warm")
read_table(warm, "t", sys.argv[1] + "/warm")
before, rows = peak(), 3_000_000
layer = small(rows)
made = peak()
write_table(layer, "t", sys.argv[1] + "/t")
written = peak()
read_table(layer, "t", sys.argv[1] + "/t")
print(*((after - before) / (rows * (64 * 4 + 4)) for after in (made, written, peak())))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_second_copy_is_ever_held(tmp_path):
    done = subprocess.run([sys.executable, "-c", _PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
    made, written, read = map(float, done.stdout.split())
    assert 0.5 < made <= written <= read < 1.1
