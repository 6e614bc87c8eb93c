"""Model inputs at a SavedModel's door: ragged values as two plain tensors, so that any runtime can call it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foundation.tf import tf
from inputs.entities import FeatureSpec
from inputs.features import Inputs
from inputs.ragged import Ragged

VALUES, ROW_SPLITS = "__values", "__row_splits"


def flatten(inputs: Inputs) -> dict[str, np.ndarray]:
    """`name` -> array; a ragged `name` -> `name__values` [total] and `name__row_splits` [rows + 1] int64."""
    flat: dict[str, np.ndarray] = {}
    for name, value in inputs.items():
        if isinstance(value, Ragged):
            flat[name + VALUES], flat[name + ROW_SPLITS] = value.values, value.row_splits
        else:
            flat[name] = value
    return flat


def signature_of(features: Mapping[str, FeatureSpec]) -> dict[str, tf.TensorSpec]:
    """The flattened signature of these inputs."""
    specs: dict[str, tf.TensorSpec] = {}
    for name, spec in features.items():
        if spec.kind == "categories":
            for suffix in (VALUES, ROW_SPLITS):
                specs[name + suffix] = tf.TensorSpec([None], tf.int64, name + suffix)
        else:
            specs[name] = tf.TensorSpec([None], tf.float32 if spec.kind == "number" else tf.int64, name)
    return specs


def unflatten(features: Mapping[str, FeatureSpec], flat: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The model's own inputs again, ragged where they were."""
    return {
        name: tf.RaggedTensor.from_row_splits(flat[name + VALUES], flat[name + ROW_SPLITS], validate=False)
        if spec.kind == "categories"
        else flat[name]
        for name, spec in features.items()
    }
