"""What an exchange moved in its last training step, and how evenly: for TensorBoard and whoever tunes a plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embeddings.kernels.group import Bag
from embeddings.sharding.sharded import ShardedTable
from embeddings.wire import Wire
from foundation.tf import tf

_ID = 8  # bytes; with how often it came, where a table is dynamic, twice that


class Traffic:
    """Counts of the last training step. ids: [tables], occurrences that this rank asked for; id_sizes, sizes: [ranks,
    streams, ranks], how many ids and requests of each part of each table went from whom to whom."""

    def __init__(self, tables: Sequence[ShardedTable], rank: int, ranks: int, wire: Wire) -> None:
        self._tables, self._rank, self._wire = list(tables), rank, wire
        self._static = all(table.static for table in tables)
        self._parts = [(place, part) for place, table in enumerate(tables) for part in table.parts]
        self._ids = tf.Variable(np.zeros(len(tables), np.int64), trainable=False)
        nothing = np.zeros((ranks, len(self._parts), ranks), np.int64)
        self._id_sizes, self._sizes = (tf.Variable(nothing, trainable=False) for _ in range(2))

    def note(self, bags: Sequence[Bag], id_sizes: tf.Tensor, sizes: tf.Tensor) -> None:
        """bags: of the step; id_sizes, sizes: [ranks, the parts of the tables they are of, ranks] int64."""
        asked = [bag.table for bag in bags]
        counts = tf.stack([tf.size(bag.ids, tf.int64) for bag in bags])
        self._ids.assign(tf.math.unsorted_segment_sum(counts, asked, len(self._tables)))
        streams = [number for number, (place, _) in enumerate(self._parts) if place in asked]
        for held, of_step in ((self._id_sizes, id_sizes), (self._sizes, sizes)):
            if len(streams) < len(self._parts):
                spread = tf.scatter_nd(
                    np.array(streams)[:, np.newaxis],
                    tf.transpose(of_step, [1, 0, 2]),
                    np.array([len(self._parts), of_step.shape[0], of_step.shape[2]]),
                )
                of_step = tf.transpose(spread, [1, 0, 2])
            held.assign(of_step)

    def read(self) -> dict[str, float]:
        """By name: "bytes/ids", "bytes/vectors", "bytes/gradients" that left this rank for others; of each table
        "distinct/TABLE", vectors asked for over ids (each distinct id's, or a pooled bag's), and "load/TABLE", the most
        ids that a rank was asked for over the mean of the ranks."""
        id_sizes, sizes, ids, rank = self._id_sizes.numpy(), self._sizes.numpy(), self._ids.numpy(), self._rank
        widths = np.array([part.width for _, part in self._parts])
        travels = np.array([not part.replicated for _, part in self._parts])
        there, back = sizes[rank].copy(), sizes[:, :, rank].T.copy()  # [streams, ranks]: to whom, from whom
        of_ids = id_sizes[rank].copy()
        there[:, rank] = back[:, rank] = of_ids[:, rank] = 0
        found = {
            "bytes/ids": float(of_ids.sum() * _ID * (1 if self._static else 2)),
            "bytes/vectors": float((back.sum(1) * widths * travels).sum() * tf.as_dtype(self._wire.vectors).size),
            "bytes/gradients": float((there.sum(1) * widths).sum() * tf.as_dtype(self._wire.gradients).size),
        }
        for place, table in enumerate(self._tables):
            of_table = np.array([number for number, (owner, _) in enumerate(self._parts) if owner == place])
            if not ids[place]:
                continue
            # of a part that every rank holds, each is sent the same ids; so is each range of columns
            sent = [sizes[rank, part].sum() if travels[part] else sizes[rank, part, rank] for part in of_table]
            columns = len(table.sharding.columns) or 1
            found[f"distinct/{table.config.name}"] = float(sum(sent) / columns / ids[place])
            load = id_sizes[:, of_table[travels[of_table]]].sum((0, 1))
            if load.any():
                found[f"load/{table.config.name}"] = float(load.max() / load.mean())
        return found
