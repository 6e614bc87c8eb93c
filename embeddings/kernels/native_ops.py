"""The compiled ops behind the twin's functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embeddings.config import TableConfig
from embeddings.hashing import signed, table_key
from embeddings.kernels.group import Bag, TableGroup
from embeddings.kernels.native_ids import NativeIdTable
from foundation.tf import tf

if TYPE_CHECKING:
    from embeddings.tables.identity import IdPolicy


class NativeKernels:
    """`module`: the loaded library of `embeddings/kernels/native`, whose sources say how each op works."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def new_rows(self, config: TableConfig, ids: np.ndarray | None = None, first_column: int = 0) -> tf.Variable:
        """As `reference.new_rows`, to the bit, in one buffer on huge pages."""
        values = self._module.headrace_initial_rows(
            key=signed(table_key(config.seed, config.name)),
            scale=config.scale,
            ids=[] if ids is None else ids,
            first_column=first_column,
            dtype=tf.as_dtype(config.precision),
            vocabulary_size=config.vocabulary_size,
            dim=config.dim,
        )
        return tf.Variable(values, trainable=False, name=f"{config.name}/rows")

    def new_slot(self, shape: tuple[int, ...], value: float, dtype: tf.DType, name: str) -> tf.Variable:
        """As `reference.new_slot`, on huge pages."""
        filled = self._module.headrace_filled(value=value, dtype=dtype, shape=shape)
        return tf.Variable(filled, trainable=False, name=name)

    def id_table(self, policy: IdPolicy) -> NativeIdTable:
        """A new table of ids."""
        return NativeIdTable(self._module, policy)

    def unique_by_owner(
        self, ids: tf.Tensor, owners: tf.Tensor, ranks: int, modulo: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """As `reference.unique_by_owner`."""
        distinct, splits, places = self._module.headrace_unique_by_owner(
            ids=ids, owners=owners, ranks=ranks, modulo=modulo
        )
        distinct.set_shape([None])
        splits.set_shape([ranks + 1])
        places.set_shape(ids.shape)
        return distinct, splits, places

    def dots(self, vectors: Sequence[tf.Tensor]) -> tf.Tensor:
        """As `reference.dots`."""
        dots = self._module.headrace_dots(vectors=list(vectors))
        dots.set_shape([vectors[0].shape[0], len(vectors) * (len(vectors) - 1) // 2])
        return dots

    def dots_gradient(self, vectors: Sequence[tf.Tensor], gradient: tf.Tensor) -> list[tf.Tensor]:
        """As `reference.dots_gradient`."""
        gradients = self._module.headrace_dots_gradient(vectors=list(vectors), gradient=gradient)
        for of_vector, vector in zip(gradients, vectors, strict=True):
            of_vector.set_shape(vector.shape)
        return gradients

    def lookup(self, group: TableGroup, bags: list[Bag]) -> list[tf.Tensor]:
        """As `reference.lookup`."""
        outputs = self._module.headrace_lookup(
            tables=[table.rows.handle for table in group.tables], **_tensors(bags), **_layout(bags)
        )
        for output in outputs:
            output.set_shape([None, group.dim])
        return outputs

    def update(self, group: TableGroup, bags: list[Bag], gradients: list[tf.Tensor]) -> None:
        """As `reference.update`: a row's gradients are summed in the order of features, then of positions."""
        tables = group.tables
        self._module.headrace_update(
            tables=[table.rows.handle for table in tables],
            slots=[table.slots[slot].handle for slot in group.optimizer.slots for table in tables],
            identities=[table.identities.handle for table in tables if table.identities is not None],
            updates=[table.updates.handle for table in tables],
            **_tensors(bags),
            gradients=[tf.convert_to_tensor(gradient) for gradient in gradients],
            steps=_steps(group),
            optimizer=group.optimizer.__name__,
            keys=[signed(table.key) for table in tables],
            **_layout(bags),
        )


def _steps(group: TableGroup) -> tf.Tensor:
    """[tables, NUMBERS] float32."""
    optimizers = [table.config.optimizer for table in group.tables]
    if all(optimizer.constant for optimizer in optimizers):
        with tf.init_scope():  # once, not at every step
            numbers = tf.stack([optimizer.numbers(tf.constant(0, tf.int64)) for optimizer in optimizers]).numpy()
        return tf.constant(numbers)
    return tf.stack([table.config.optimizer.numbers(table.updates.read_value()) for table in group.tables])


def _tensors(bags: list[Bag]) -> dict[str, list[tf.Tensor]]:
    nothing, no_weight = tf.zeros([0], tf.int64), tf.zeros([0], tf.float32)
    return {
        "ids": [bag.ids for bag in bags],
        "splits": [nothing if bag.splits is None else bag.splits for bag in bags],
        "weights": [no_weight if bag.weights is None else bag.weights for bag in bags],
    }


def _layout(bags: list[Bag]) -> dict[str, list[Any]]:
    return {
        "table_of": [bag.table for bag in bags],
        "combiners": [bag.combiner or "none" for bag in bags],
        "feature_names": [bag.name for bag in bags],
    }
