"""The compiled ops behind the twin's functions."""

from __future__ import annotations

from typing import Any

from embeddings.config import TableConfig
from embeddings.hashing import table_key
from embeddings.kernels.group import Bag, TableGroup
from foundation.tf import tf


class NativeKernels:
    """`module`: the loaded library of `embeddings/kernels/native`, whose sources say how each op works."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def new_rows(self, config: TableConfig) -> tf.Variable:
        """As `reference.new_rows`, to the bit, in one buffer on huge pages."""
        key = table_key(config.seed, config.name)
        values = self._module.headrace_initial_rows(
            key=key - (1 << 64) if key >= 1 << 63 else key,
            scale=config.scale,
            vocabulary_size=config.vocabulary_size,
            dim=config.dim,
        )
        return tf.Variable(values, trainable=False, name=f"{config.name}/rows")

    def new_slot(self, shape: tuple[int, ...], value: float, name: str) -> tf.Variable:
        """As `reference.new_slot`, on huge pages."""
        return tf.Variable(self._module.headrace_filled(value=value, shape=shape), trainable=False, name=name)

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
        slots = group.tables[0].config.optimizer.slots
        self._module.headrace_update(
            tables=[table.rows.handle for table in group.tables],
            slots=[table.slots[slot].handle for slot in slots for table in group.tables],
            **_tensors(bags),
            gradients=[tf.convert_to_tensor(gradient) for gradient in gradients],
            steps=tf.stack([table.config.optimizer.numbers(table.updates.read_value()) for table in group.tables]),
            optimizer=group.optimizer_name,
            **_layout(bags),
        )
        for place in {bag.table for bag in bags}:
            group.tables[place].updates.assign_add(1)


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
