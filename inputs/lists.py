"""The lists of a period, gathered from Parquet a window of row groups at a time."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foundation.errors import UserError
from inputs.dataset import Dataset, RowGroup
from inputs.features import FeatureSpace
from inputs.order import WINDOW_BLOCKS
from inputs.ragged import Ragged, gather_ranges
from inputs.schema import ITEM, LIST, TIME, USER

Columns = dict[str, np.ndarray]


class PeriodLists:
    """Lists whose every row lies in [start, stop) seconds. Numbered by row group, then by place in it.

    sizes: [row groups] lists in each; rows: rows in all of them.
    """

    def __init__(self, dataset: Dataset, space: FeatureSpace, start: int, stop: int) -> None:
        self._dataset, self._space, self._start, self._stop = dataset, space, start, stop
        self._groups: list[RowGroup] = []
        self._decoded: OrderedDict[int, tuple[Columns, np.ndarray]] = OrderedDict()
        sizes, self.rows = [], 0
        for group in dataset.row_groups:
            table = dataset.read_group(group, [LIST, TIME])
            lengths = np.diff(self._ranges(table), axis=1)
            if len(lengths):
                self._groups.append(group)
                sizes.append(len(lengths))
                self.rows += int(lengths.sum())
        if not sizes:
            raise UserError(f"{dataset.path}: no whole list lies in the period from {start} to {stop} s.")
        self.sizes = np.array(sizes, np.int64)
        self._first = np.concatenate([[0], np.cumsum(self.sizes)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def gather(self, lists: np.ndarray) -> dict[str, Ragged]:
        """Rows of the given lists, in their order: `user`, `item` (positions), `time`, `label_<name>` float32 (NaN:
        unknown), `context_<name>` (encoded); each a Ragged over the same rows."""
        blocks = np.searchsorted(self._first, lists, side="right") - 1
        needed = np.unique(blocks)
        decoded = [self._block(int(block)) for block in needed]
        places = np.searchsorted(needed, blocks)
        offsets = np.cumsum([0] + [len(columns["item"]) for columns, _ in decoded])
        ranges = np.empty((len(lists), 2), np.int64)
        for place, (_, ranges_of_block) in enumerate(decoded):
            here = places == place
            ranges[here] = ranges_of_block[lists[here] - self._first[needed[place]]] + offsets[place]
        where = gather_ranges(np.arange(offsets[-1]), ranges[:, 0], ranges[:, 1])
        return {
            name: where.map_values(_take([columns[name] for columns, _ in decoded], offsets, where.values))
            for name in decoded[0][0]
        }

    def _block(self, block: int) -> tuple[Columns, np.ndarray]:
        """A row group's columns, and the [lists, 2] row ranges of its lists of the period; the last ones are kept."""
        if block not in self._decoded:
            schema = self._dataset.schema
            labels = [label.name for label in schema.labels]
            table = self._dataset.read_group(
                self._groups[block], [USER, ITEM, TIME, LIST, *labels, *self._space.context_columns]
            )
            columns: Columns = {
                "user": self._space.users.position_of(table.column(USER)),
                "item": self._space.items.position_of(table.column(ITEM)),
                "time": table.column(TIME).to_numpy(),
            }
            for name in labels:
                values = pc.fill_null(pc.cast(table.column(name), pa.float32()), np.float32("nan"))
                columns[f"label_{name}"] = values.to_numpy()
            for name, values in self._space.context_inputs(table).items():
                assert isinstance(values, np.ndarray)
                columns[name] = values
            self._decoded[block] = columns, self._ranges(table)
            while len(self._decoded) > 2 * WINDOW_BLOCKS:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(block)
        return self._decoded[block]

    def _ranges(self, table: pa.Table) -> np.ndarray:
        """[lists, 2] row ranges, in the table, of the lists that lie in the period."""
        lists, times = table.column(LIST).to_numpy(), table.column(TIME).to_numpy()
        starts = np.flatnonzero(np.r_[True, lists[1:] != lists[:-1]])
        stops = np.append(starts[1:], len(lists))
        inside = (np.minimum.reduceat(times, starts) >= self._start) & (np.maximum.reduceat(times, starts) < self._stop)
        return np.stack([starts, stops], axis=1)[inside]


def _take(pieces: list[np.ndarray], offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`np.concatenate(pieces)[rows]` without the concatenation: the pieces stay where they are."""
    taken = np.empty(len(rows), pieces[0].dtype)
    for piece, start, stop in zip(pieces, offsets[:-1], offsets[1:], strict=True):
        here = (rows >= start) & (rows < stop)
        taken[here] = piece[rows[here] - start]
    return taken
