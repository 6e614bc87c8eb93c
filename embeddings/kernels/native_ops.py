"""The compiled ops behind the twin's functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embeddings.config import TableConfig
from embeddings.hashing import signed, table_key
from embeddings.kernels.group import Bag, TableGroup
from embeddings.kernels.native_bags import layout_of, tensors_of
from embeddings.kernels.native_exchange import NativeExchange
from embeddings.kernels.native_ids import NativeIdTable
from foundation.tf import tf

if TYPE_CHECKING:
    from embeddings.tables.identity import IdPolicy


class NativeKernels(NativeExchange):
    """`module`: the loaded library of `embeddings/kernels/native`, whose sources say how each op works."""

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

    def empty(self, variables: Sequence[tf.Variable], rows: int) -> None:
        """As `reference.empty`, what was there given back first, in buffers that grow in place."""
        self._module.headrace_emptied(variables=[variable.handle for variable in variables], rows=rows)

    def addresses(self, variables: Sequence[tf.Variable]) -> list[int] | None:
        """As `reference.addresses`."""
        handles = [variable.handle for variable in variables]
        return [int(address) for address in self._module.headrace_addresses(variables=handles)]

    def id_table(self, policy: IdPolicy) -> NativeIdTable:
        """A new table of ids."""
        return NativeIdTable(self._module, policy)

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
            tables=[table.rows.handle for table in group.tables], **tensors_of(bags), **layout_of(bags)
        )
        for output in outputs:
            output.set_shape([None, group.dim])
        return outputs

    def update(self, group: TableGroup, bags: list[Bag], gradients: list[tf.Tensor]) -> None:
        """As `reference.update`: a row's gradients are summed in the order of features, then of positions."""
        self._call(self._module.headrace_update, group, bags, gradients)

    def step(self, group: TableGroup, bags: list[Bag], gradients: list[tf.Tensor]) -> None:
        """As `reference.step`."""
        self._call(self._module.headrace_step, group, bags, gradients)

    def _call(self, op: Any, group: TableGroup, bags: list[Bag], gradients: list[tf.Tensor]) -> None:
        tables = group.tables
        op(
            tables=[table.rows.handle for table in tables],
            slots=[table.slots[slot].handle for slot in group.optimizer.slots for table in tables],
            identities=[table.identities.handle for table in tables if table.identities is not None],
            updates=[table.updates.handle for table in tables],
            **tensors_of(bags),
            gradients=[tf.convert_to_tensor(gradient) for gradient in gradients],
            steps=_steps(group),
            optimizer=group.optimizer.__name__,
            keys=[signed(table.key) for table in tables],
            **layout_of(bags),
        )


def _steps(group: TableGroup) -> tf.Tensor:
    """[tables, NUMBERS] float32."""
    optimizers = [table.config.optimizer for table in group.tables]
    if all(optimizer.constant for optimizer in optimizers):
        with tf.init_scope():  # once, not at every step
            numbers = tf.stack([optimizer.numbers(tf.constant(0, tf.int64)) for optimizer in optimizers]).numpy()
        return tf.constant(numbers)
    return tf.stack([table.config.optimizer.numbers(table.updates.read_value()) for table in group.tables])
