"""int8 rows: near what they stand for, in a quarter of the memory, in stock TensorFlow."""

import numpy as np
import pytest

from embeddings import FeatureConfig, ShardedEmbedding, TableConfig
from embeddings.quantized import QuantizedRows
from foundation.tf import tf


def test_no_element_is_off_by_more_than_half_its_rows_scale():
    rows = np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32) * np.logspace(-6, 6, 300)[:, None]
    rows[7] = 0
    rows = rows.astype(np.float32)
    quantized = QuantizedRows.of(tf.constant(rows))
    scales = np.abs(rows).max(axis=1) / 127
    found = quantized.look_up(tf.range(300)).numpy()
    assert np.all(np.abs(found - rows) <= scales[:, None] * 0.5001)
    assert np.array_equal(quantized.scales, scales.astype(np.float32))
    assert not np.any(found[7])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_table_is_read_chunk_by_chunk_and_saved(tmp_path, precision):
    table = TableConfig("t", 70_000, 4, precision=precision)
    layer = ShardedEmbedding({"v": FeatureConfig(table, None)})
    quantized = QuantizedRows.of(layer.table("t"))
    assert quantized.values.dtype == tf.int8
    look_up = tf.function(quantized.look_up, input_signature=[tf.TensorSpec([None, None], tf.int64)])
    tf.saved_model.save(quantized, str(tmp_path / "q"), signatures=look_up.get_concrete_function())
    ids = tf.constant([[0, 69_999], [65_535, 65_536]], tf.int64)
    served = tf.saved_model.load(str(tmp_path / "q")).signatures["serving_default"](ids)["output_0"]
    assert served.shape == (2, 2, 4)
    assert np.allclose(served, layer({"v": ids})["v"], atol=0.05 / 127)


def test_rows_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        QuantizedRows.of(tf.constant([[1.0, float("nan")]]))
