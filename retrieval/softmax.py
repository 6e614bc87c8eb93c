"""Sampled softmax with the batch's own candidates as negatives."""

from __future__ import annotations

from foundation.tf import tf

MASKED = -1e9


def in_batch_softmax(queries: tf.Tensor, candidates: tf.Tensor, items: tf.Tensor, log_q: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of each row's own candidate against all of the batch.

    Logits are corrected by each candidate's log sampling probability (Yi et al., "Sampling-Bias-Corrected Neural
    Modeling for Large Corpus Item Recommendations", RecSys 2019, eq. 3): a popular item is in the batch as a negative
    more often than a rare one, and would else be pushed down for it. An accidental hit, the same item standing in
    another row, is no negative for this one: it is masked.

    queries, candidates: [B, D] float32; items: [B] int64 positions; log_q: [B] float32. Returns a scalar.
    """
    logits = tf.matmul(queries, candidates, transpose_b=True) - log_q[tf.newaxis, :]
    rows = tf.shape(items)[0]
    same = tf.equal(items[:, tf.newaxis], items[tf.newaxis, :])
    accidental = tf.logical_and(same, tf.logical_not(tf.eye(rows, dtype=tf.bool)))
    logits = tf.where(accidental, MASKED, logits)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.range(rows), logits=logits))
