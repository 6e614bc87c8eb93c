"""What rounding takes from a gradient, given to the next one of the same row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from embeddings.sharding.sharded import ShardedTable
from foundation.tf import own_variables, tf

if TYPE_CHECKING:
    from embeddings.exchange import Routed


class ErrorFeedback:
    """A rank's residues of rows that every rank has a copy of: static data-parallel tables and hot rows. A gradient
    g travels as r = round(g + e), to the nearest, and e becomes g + e - r (Karimireddy et al., ICML 2019, algorithm 1,
    with rounding as the compressor): over many steps what was applied differs from what was asked by one rounding, not
    by one a step."""

    def __init__(self, tables: Sequence[ShardedTable], precision: str) -> None:
        self._precision = tf.as_dtype(precision)
        with own_variables():
            self._residues = {
                id(part): tf.Variable(tf.zeros([part.held.config.vocabulary_size, part.width]), trainable=False)
                for table in tables
                for part in table.parts
                if part.replicated and table.static and part.held is not None
            }

    def rounded(self, routed: Routed, rank: int, sums: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """sums: [u, dim] of each table that was asked for, by its distinct ids. The same, those of replicated rows as
        they travel, so that rounding them once more changes nothing."""
        result = list(sums)
        for s, each in enumerate(routed.asked):
            residues = self._residues.get(id(each.part))
            rows = routed.rows[s]
            if residues is None or rows is None:
                continue
            own = routed.own(rank, s, rows)
            table, start = each.stream.table, routed.starts[s, rank]
            end = start + tf.size(own, tf.int64)
            wanted = result[table][start:end] + tf.gather(residues, own)
            sent = tf.cast(tf.cast(wanted, self._precision), tf.float32)
            residues.scatter_update(tf.IndexedSlices(wanted - sent, own))
            result[table] = tf.concat([result[table][:start], sent, result[table][end:]], 0)
        return result
