"""A batch as a TPU wants it, made on the host before the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embeddings.bags import bag_of
from embeddings.config import FeatureConfig
from embeddings.kernels.group import Bag
from embeddings.pooling import assert_finite, assert_inside, norms, rows_of_ids
from foundation.tf import tf


def prepared(features: Mapping[str, FeatureConfig], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Each feature's input as ids [B], a RaggedTensor of ids [B, None], a pair (ids, weights) of these, or, where one
    vector per id is wanted of ids [B, L], as ids [B, L, 1]; int32 and float32.

    A TPU takes what the step is called with as it is, so nothing of this can wait for the step; and it looks up an id
    that has no row without a word, so ids are checked here. A mean or sqrtn is a sum with weights.

    Raises:
      TypeError, ValueError, tf.errors.InvalidArgumentError: as `ShardedEmbedding` does.
    """
    return {name: _prepared(name, inputs[name], feature) for name, feature in features.items()}


def _prepared(name: str, value: Any, feature: FeatureConfig) -> Any:
    value = _not_prepared_yet(value, feature)
    bag = bag_of(name, value, feature, 0)
    assert feature.table.vocabulary_size is not None
    checks = [assert_inside(name, bag.ids, feature.table.vocabulary_size)]
    if bag.weights is not None:
        checks.append(assert_finite(bag))
    with tf.control_dependencies([check for check in checks if check is not None]):
        ids = tf.cast(bag.ids, tf.int32)
    if feature.combiner is None:
        return _sequence(name, ids, value)
    if bag.splits is None:
        return ids
    weights = _weights(bag)
    ids, weights = (_ragged(flat, bag, value) for flat in (ids, weights))
    return ids if weights is None else (ids, weights)


def _not_prepared_yet(value: Any, feature: FeatureConfig) -> Any:
    """What is prepared may come once more."""
    again = feature.combiner is None and not isinstance(value, tuple) and len(value.shape) == 3 and value.shape[2] == 1
    return tf.squeeze(value, 2) if again else value


def _sequence(name: str, ids: tf.Tensor, value: Any) -> tf.Tensor:
    if isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        raise ValueError(
            f"feature '{name}': one vector per id of a {type(value).__name__} has no fixed shape, which a TPU needs; "
            "give ids [B, L], such as ids.to_tensor(0, shape=[None, L]), and mask what fills them up"
        )
    value = tf.convert_to_tensor(value)
    restored = tf.reshape(ids, tf.shape(value))
    restored.set_shape(value.shape)
    return restored if value.shape.rank == 1 else restored[:, :, tf.newaxis]


def _weights(bag: Bag) -> tf.Tensor | None:
    """[n] float32, by which a sum is what the combiner says; None: by none."""
    if bag.combiner == "sum":
        return bag.weights
    of_bags = tf.gather(norms(bag), rows_of_ids(bag.splits))
    return of_bags if bag.weights is None else bag.weights * of_bags


def _ragged(flat: tf.Tensor | None, bag: Bag, value: Any) -> tf.RaggedTensor | None:
    if flat is None:
        return None
    splits = bag.splits
    ids = value[0] if isinstance(value, tuple) and not isinstance(value, tf.SparseTensor) else value
    batch = ids.shape[0]
    if batch is not None:  # which a TPU must know
        splits = tf.ensure_shape(splits, [batch + 1])
    return tf.RaggedTensor.from_row_splits(flat, splits, validate=False)


def output_shapes(features: Mapping[str, FeatureConfig], shapes: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Of each feature's output, without its dim, from its input's shape, that of (ids, weights) being two of them.

    Raises:
      ValueError: a feature's is missing, or not known before the step.
    """
    outputs = {}
    for name, feature in features.items():
        shape = shapes.get(name)
        if isinstance(shape, list | tuple) and shape and not isinstance(shape[0], int | None):
            shape = shape[0]  # of the ids
        known = tf.TensorShape(shape)
        wanted = known[:1] if feature.combiner is not None else known[:2]
        if name not in shapes or known.rank is None or not wanted.is_fully_defined():
            raise ValueError(
                f"feature '{name}': its shape on one replica is {known}; a TPU needs a batch of fixed size, and a "
                "fixed length too where one vector per id is wanted: drop the last, smaller batch or fill it up"
            )
        outputs[name] = wanted.as_list()
    return outputs
