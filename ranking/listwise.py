"""A TensorFlow Ranking loss over whole lists."""

from __future__ import annotations

from collections.abc import Sequence

from foundation.tf import keras, tf
from ranking import tfr
from ranking.config import Listwise, Objective
from ranking.losses import target


class ListwiseLoss:
    """The mean TensorFlow Ranking loss of a batch's lists, on one objective's scores and labels (see `Listwise`).

    A row whose label is unknown (NaN) takes no part. ApproxNDCG's gain is 2 ** relevance - 1: it is for grades, such as
    clicks and stars, not for large numbers.
    """

    def __init__(self, config: Listwise, objectives: Sequence[Objective]) -> None:
        self.weight = config.weight
        self.objective = next((o for o in objectives if o.name == config.objective), objectives[0])
        self._list_size = config.list_size
        self._per_list = tfr.losses.get(f"{config.loss}_loss", reduction=keras.losses.Reduction.NONE)

    def pieces(self, list_row_splits: tf.Tensor) -> tf.Tensor:
        """[] float32: of how many losses a call takes the mean: the lists, the pieces of long ones."""
        lengths = list_row_splits[1:] - list_row_splits[:-1]
        return tf.cast(tf.reduce_sum((lengths + self._list_size - 1) // self._list_size), tf.float32)

    def __call__(
        self,
        scores: tf.Tensor,
        labels: tf.Tensor,
        list_row_splits: tf.Tensor,
        pieces_in_batch: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """scores, labels: [R] float32; list_row_splits: [L + 1] int64. Returns a scalar; of a share of a batch, what
        its lists add to the mean over `pieces_in_batch`, [] float32."""
        relevance = tf.nn.relu(target(self.objective, labels))
        relevance = tf.where(tf.math.is_nan(labels), -tf.ones_like(labels), relevance)  # TF-Ranking's "not there"
        pieces = _pieces(list_row_splits, self._list_size)
        dense_relevance = tf.RaggedTensor.from_value_rowids(relevance, pieces, validate=False).to_tensor(-1.0)
        dense_scores = tf.RaggedTensor.from_value_rowids(scores, pieces, validate=False).to_tensor(0.0)
        total = tf.reduce_sum(self._per_list(dense_relevance, dense_scores))
        return total / tf.maximum(self.pieces(list_row_splits) if pieces_in_batch is None else pieces_in_batch, 1.0)


def _pieces(list_row_splits: tf.Tensor, size: int) -> tf.Tensor:
    """[R] int64: the list of each row, lists longer than `size` cut into several."""
    starts = tf.gather(list_row_splits, tf.ragged.row_splits_to_segment_ids(list_row_splits))
    places = tf.range(tf.shape(starts, out_type=starts.dtype)[0]) - starts
    return tf.cumsum(tf.cast(places % size == 0, tf.int64)) - 1
