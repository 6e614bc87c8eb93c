"""Rows of int8 for serving: a quarter of the memory."""

from __future__ import annotations

from collections.abc import Callable

from foundation.tf import tf

_LARGEST = 127
_ROWS_PER_CHUNK = 1 << 16


class QuantizedRows(tf.Module):
    """A table's rows as int8 with one float32 scale a row: value = int8 * scale, scale = max |row| / 127, so no element
    is off by more than half its row's scale (symmetric per-row quantization: Guan et al., arXiv 1911.02079). It runs,
    and is saved, in TensorFlow's own ops.
    """

    def __init__(
        self, read: Callable[[int, int], tf.Tensor], size: int, dim: int, name: str = "quantized_rows"
    ) -> None:
        """read: gives rows [start, stop) as [stop - start, dim] float32, so that a large table is never held twice.
        size: rows in all.

        Raises:
          ValueError: a row is not finite.
        """
        super().__init__(name=name)
        self.values = tf.Variable(tf.zeros((size, dim), tf.int8), trainable=False, name="values")
        self.scales = tf.Variable(tf.zeros((size,)), trainable=False, name="scales")
        for start in range(0, size, _ROWS_PER_CHUNK):
            stop = min(start + _ROWS_PER_CHUNK, size)
            rows = tf.cast(read(start, stop), tf.float32)
            if not tf.reduce_all(tf.math.is_finite(rows)):
                raise ValueError(f"{name}: a row between {start} and {stop} is not finite")
            scales = tf.reduce_max(tf.abs(rows), axis=1) / _LARGEST
            values = tf.round(tf.math.divide_no_nan(rows, scales[:, tf.newaxis]))
            places = tf.range(start, stop)
            self.values.scatter_update(tf.IndexedSlices(tf.cast(values, tf.int8), places))
            self.scales.scatter_update(tf.IndexedSlices(scales, places))

    @classmethod
    def of(cls, rows: tf.Tensor | tf.Variable, name: str = "quantized_rows") -> QuantizedRows:
        """Of a table's variable, or rows that are at hand."""
        if rows.shape[0] is None:
            raise ValueError(
                f"{name}: a dynamic table's rows lie in no order of their own; take those of its vocabulary"
            )
        return cls(lambda start, stop: tf.gather(rows, tf.range(start, stop)), int(rows.shape[0]), rows.shape[1], name)

    def look_up(self, ids: tf.Tensor) -> tf.Tensor:
        """[..., dim] float32: the rows of ids of any shape and integer dtype."""
        return tf.cast(tf.gather(self.values, ids), tf.float32) * tf.gather(self.scales, ids)[..., tf.newaxis]
