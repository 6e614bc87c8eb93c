"""Bags as the compiled ops take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embeddings.kernels.group import Bag
from foundation.tf import tf


def tensors_of(bags: Sequence[Bag]) -> dict[str, list[tf.Tensor]]:
    """The inputs that say what is in each."""
    nothing, no_weight = tf.zeros([0], tf.int64), tf.zeros([0], tf.float32)
    return {
        "ids": [bag.ids for bag in bags],
        "splits": [nothing if bag.splits is None else bag.splits for bag in bags],
        "weights": [no_weight if bag.weights is None else bag.weights for bag in bags],
    }


def layout_of(bags: Sequence[Bag]) -> dict[str, list[Any]]:
    """The attributes that say what each is."""
    return {
        "table_of": [bag.table for bag in bags],
        "combiners": [bag.combiner or "none" for bag in bags],
        "feature_names": [bag.name for bag in bags],
    }
