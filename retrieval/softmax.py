"""Sampled softmax with the batch's own candidates as negatives."""

from __future__ import annotations

from foundation.tf import tf
from strategies import LocalCommunicator
from strategies.share import BatchShare, gathered, share_of

MASKED = -1e9


def in_batch_softmax(
    queries: tf.Tensor, candidates: tf.Tensor, items: tf.Tensor, log_q: tf.Tensor, share: BatchShare | None = None
) -> tf.Tensor:
    """Mean cross-entropy of each row's own candidate against all of the batch; of a rank that holds a share of it, what
    its rows add to that mean: the sum of `in_batch_softmax_by_row`."""
    return tf.reduce_sum(in_batch_softmax_by_row(queries, candidates, items, log_q, share))


def in_batch_softmax_by_row(
    queries: tf.Tensor, candidates: tf.Tensor, items: tf.Tensor, log_q: tf.Tensor, share: BatchShare | None = None
) -> tf.Tensor:
    """[B] what each row adds to the batch's mean cross-entropy of its own candidate against all of the batch.

    Logits are corrected by each candidate's log sampling probability (Yi et al., "Sampling-Bias-Corrected Neural
    Modeling for Large Corpus Item Recommendations", RecSys 2019, eq. 3): a popular item is in the batch as a negative
    more often than a rare one, and would else be pushed down for it. An accidental hit, the same item standing in
    another row, is no negative for this one: it is masked.

    queries, candidates: [B, D] float32; items: [B] int64 positions; log_q: [B] float32: this rank's.
    A row whose item is negative only fills up its batch: it is nobody's negative and adds nothing (its log_q is
    FILLED_LOG_Q).
    Between ranks: one exchange of vectors and one of their gradients, one of the rest.
    """
    share = share or share_of(LocalCommunicator(), tf.shape(items)[0])
    own, first = items, share.first
    candidates = gathered(share, candidates)
    items, log_q = _side_information(share, items, log_q)
    logits = tf.matmul(queries, candidates, transpose_b=True) - log_q[tf.newaxis, :]
    labels = first + tf.range(tf.size(own, tf.int64))
    same = tf.equal(own[:, tf.newaxis], items[tf.newaxis, :])
    itself = tf.equal(labels[:, tf.newaxis], tf.range(tf.size(items, tf.int64))[tf.newaxis, :])
    logits = tf.where(tf.logical_and(same, tf.logical_not(itself)), MASKED, logits)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    there = tf.math.count_nonzero(items >= 0, dtype=tf.float32)
    return tf.where(own >= 0, losses, 0.0) / there


def _side_information(share: BatchShare, items: tf.Tensor, log_q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Both of the whole batch, in one exchange: log_q's bits as integers."""
    bits = tf.cast(tf.bitcast(log_q, tf.int32), tf.int64)
    both = gathered(share, tf.stack([items, bits], 1))
    return both[:, 0], tf.bitcast(tf.cast(both[:, 1], tf.int32), tf.float32)
