"""Random numbers that are a function of step, seed and row alone: the same in a resumed run, and whichever rank holds
the row."""

from __future__ import annotations

from foundation.tf import tf

_PHILOX = 1  # the algorithm's number
_PER_BLOCK = 4  # float32 numbers of one value of Philox's counter


def uniform(rows: tf.Tensor, width: int, first_row: tf.Tensor | int, step: tf.Tensor, seed: int) -> tf.Tensor:
    """[rows, width] float32 in [0, 1): those from `first_row` on of `tf.random.stateless_uniform` over a whole batch.

    rows: [] integer. first_row: [] int64, this part's first among the batch's rows. step: [] int64; seed: tells one
    use from another. The numbers are Philox's (Salmon et al., SC 2011), whose n-th is found without those before.
    Not for what XLA compiles: its Philox gives others.
    """
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(
        seed=tf.stack([tf.cast(step, tf.int64), tf.constant(seed, tf.int64)])
    )
    first = tf.cast(first_row, tf.int64) * width
    skipped = first % _PER_BLOCK
    count = tf.cast(rows, tf.int64) * width
    drawn = tf.raw_ops.StatelessRandomUniformV2(
        shape=tf.reshape(skipped + count, [1]),
        key=key,
        counter=counter + tf.stack([tf.cast(first // _PER_BLOCK, tf.uint64), tf.constant(0, tf.uint64)]),
        alg=_PHILOX,
        dtype=tf.float32,
    )
    return tf.reshape(drawn[skipped:], tf.stack([rows, width]))


def dropout(values: tf.Tensor, rate: float, draws: tf.Tensor) -> tf.Tensor:
    """values [rows, width] float32 with a share `rate` of them 0 and the others the larger for it (Srivastava et al.,
    JMLR 2014). draws: as many, of `uniform`."""
    return tf.where(draws >= rate, values * (1.0 / (1.0 - rate)), 0.0)
