"""The negatives that a query scores highest."""

from __future__ import annotations

from foundation.tf import tf

MASKED = -1e9  # a logit that no softmax sees


def hardest(logits: tf.Tensor, items: tf.Tensor, excluded: tf.Tensor, most: int) -> tf.Tensor:
    """[B, k] the highest logits of each row, each item's once, k = the smaller of `most` and P; MASKED where a row has
    fewer.

    logits: [B, P]; items: [P] int64 positions of the columns; excluded: [B, P] bool. Of an item's columns it is the
    first that counts.
    """
    logits = tf.where(excluded | _again(items)[tf.newaxis, :], MASKED, logits)
    width = logits.shape[1]
    return tf.math.top_k(logits, min(most, width) if width else tf.minimum(most, tf.shape(logits)[1])).values


def known_to(known: tf.RaggedTensor, items: tf.Tensor) -> tf.Tensor:
    """[B, P] bool: whether column p's item is among row b's. known: ragged [B, None] int64; items: [P] int64."""
    in_order = tf.sort(items)
    found = tf.searchsorted(in_order, known.values)  # the first place of an item that is there
    there = tf.equal(tf.gather(in_order, tf.minimum(found, tf.size(items) - 1)), known.values)
    cells = tf.stack([known.value_rowids(), tf.cast(found, tf.int64)], 1)
    cells = tf.boolean_mask(cells, there)
    shape = tf.stack([known.nrows(), tf.size(items, tf.int64)])
    by_item = tf.scatter_nd(cells, tf.ones_like(cells[:, 0], tf.int32), shape) > 0
    return tf.gather(by_item, tf.searchsorted(in_order, items), axis=1)


def _again(items: tf.Tensor) -> tf.Tensor:
    """[P] bool: whether an earlier column has the same item."""
    order = tf.argsort(items, stable=True)
    first = tf.searchsorted(tf.gather(items, order), items)
    return tf.not_equal(tf.gather(order, first), tf.range(tf.size(items)))
