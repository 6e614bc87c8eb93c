"""Batches by (epoch, k): any one can be made on its own; in sequence a thread makes them ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from inputs.features import FeatureSpace, Inputs
from inputs.histories import Histories
from inputs.interactions import Interactions
from inputs.lists import PeriodLists
from inputs.order import BatchOrder, Consecutive, EpochOrder, OfOneStretch
from inputs.part import Part
from inputs.ragged import Ragged, joined
from inputs.sampled_rows import SampledRows, StretchShares
from inputs.sampling import Beside

READ_AHEAD = 4
PATIENCE = 0.1  # seconds a thread waits before it looks whether it is still wanted
BATCHES_PER_STRETCH = 4
FILLED_ITEM, FILLED_LOG_Q = -1, 1e9  # of a row that only fills up a batch: no logit survives that correction


class Batches:
    """The batches of a training. Global batch k of an epoch holds the same units whatever the world size; a rank reads
    its slice of them.

    order_of: epoch -> its batches; make: makes a part's inputs, filled up to its rows; units: in an epoch; size: units
    that every batch is filled up to, None: a batch has as many rows as it has units.
    """

    def __init__(
        self,
        order_of: Callable[[int], BatchOrder],
        make: Callable[[Part], Inputs],
        units: int,
        size: int | None = None,
    ) -> None:
        self._order_of, self._make, self.units, self._size = order_of, make, units, size
        self._epoch, self._order = 0, order_of(0)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    def batch(self, epoch: int, k: int, rank: int = 0, world_size: int = 1) -> Inputs:
        """Global batch `k` of an epoch, or a rank's slice of it."""
        if not 0 <= k < len(self):
            raise IndexError(f"batch {k} of {len(self)}")
        if epoch != self._epoch:
            self._order, self._epoch = self._order_of(epoch), epoch
        units = self._order.batch(k)
        size = len(units) if self._size is None else self._size
        first, end = size * rank // world_size, size * (rank + 1) // world_size
        return self._make(Part(units[first:end], units, end - first, epoch, k, rank, world_size))

    def iterate(self, epoch: int, k: int = 0, rank: int = 0, world_size: int = 1) -> ReadAhead:
        """Batches k, k + 1, ... to the end of the epoch, made ahead by a thread."""
        return ReadAhead(self.batch(epoch, index, rank, world_size) for index in range(k, len(self)))


class ReadAhead(Iterator[Inputs]):
    """Batches made ahead by a thread, READ_AHEAD of them waiting. Leave its `with` block, `close` it or drop it, to
    stop the thread early: whoever waits for a batch, in whatever thread, is then told that there are no more."""

    def __init__(self, batches: Iterator[Inputs]) -> None:
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=READ_AHEAD)
        self._stopped = threading.Event()
        makes = partial(_make_ahead, batches, self._ready, self._stopped)  # without self, so that it can be dropped
        self._thread = threading.Thread(target=makes, name="headrace-batches", daemon=True)
        self._thread.start()

    def __next__(self) -> Inputs:
        while not self._stopped.is_set():
            try:
                what, item = self._ready.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            if what == "batch":
                return item
            self._stopped.set()
            if what == "error":
                raise item
        raise StopIteration

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()


def _make_ahead(batches: Iterator[Inputs], ready: queue.Queue[tuple[str, Any]], stopped: threading.Event) -> None:
    def put(item: tuple[str, Any]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=PATIENCE)
            except queue.Full:
                continue
            return True
        return False

    try:
        for batch in batches:
            if not put(("batch", batch)):
                return
        put(("end", None))
    except BaseException as error:  # handed to the consumer, who raises it
        put(("error", error))


def retrieval_batches(
    space: FeatureSpace,
    positives: Interactions,
    histories: Histories,
    history_length: int,
    batch_size: int,
    seed: int,
    one_size: bool = False,
    rewards: Mapping[str, np.ndarray] | None = None,
    beside: Beside | None = None,
) -> Batches:
    """One row per training positive: query inputs as they stood then, the positive's item inputs, `item_position`
    [B] int64 and `log_q` [B] float32, the log of the item's share of the positives of its time. rewards: [positives]
    float32 by the name that they have in batches too.

    A batch comes from one stretch of time (`BATCHES_PER_STRETCH` batches long): its rows are each other's negatives,
    and what competed for a user then is what was new and liked then. `log_q` is the share within the stretch.

    one_size: a batch with fewer rows is filled up with rows of item_position FILLED_ITEM, which count for nothing.

    beside: what else it holds. Sampled items, or the whole catalogue, stand in the item inputs after the positives
    (`SampledRows`, which says what is told of them); `log_draws` [B] is the log of how often they are expected to hold
    each positive's item. `known_items` is ragged: the positions of every training positive of the row's user.
    """
    length = BATCHES_PER_STRETCH * batch_size
    beside = beside or Beside()
    shares = StretchShares(positives.items, len(space.items), length)
    sampled = SampledRows(space, positives, shares, length, beside, seed)
    known = Histories(positives) if beside.known else None

    def make(part: Part) -> Inputs:
        units = part.units
        users, items, times = positives.users[units], positives.items[units], positives.times[units]
        batch = space.query_inputs(users, histories.before(users, times, history_length))
        batch.update(space.item_inputs(items, times))
        batch["item_position"] = items
        batch["log_q"] = shares.log[units]
        batch.update({name: values[units] for name, values in (rewards or {}).items()})
        if known is not None:
            batch["known_items"] = known.all(users)
        if len(sampled):
            batch["log_draws"] = sampled.log_draws(part)
        batch = {name: _filled(name, value, part.rows - len(units)) for name, value in batch.items()}
        if len(sampled):
            more = sampled.item_inputs(part)
            batch.update({name: joined([batch[name], value]) for name, value in more.items()})
            batch.update(sampled.told(part))
        return batch

    def order_of(epoch: int) -> OfOneStretch:
        return OfOneStretch(len(positives), length, batch_size, seed, epoch)

    return Batches(order_of, make, len(positives), batch_size if one_size else None)


def _filled(name: str, value: np.ndarray | Ragged, rows: int) -> np.ndarray | Ragged:
    """With so many rows more: ids 0, empty lists."""
    if not rows:
        return value
    if isinstance(value, Ragged):
        return Ragged(value.values, np.append(value.row_splits, np.repeat(value.row_splits[-1:], rows)))
    fill = {"item_position": FILLED_ITEM, "log_q": FILLED_LOG_Q}.get(name, 0)
    return np.concatenate([value, np.full((rows, *value.shape[1:]), fill, value.dtype)])


def ranking_batches(
    space: FeatureSpace,
    lists: PeriodLists,
    histories: Histories,
    history_length: int,
    rows_per_batch: int,
    seed: int,
) -> Batches:
    """Whole lists, about `rows_per_batch` rows: query inputs per list as they stood at its first row, and
    `list_row_splits`; per row item and context inputs, `item_position`, and `label_<name>` (NaN: unknown)."""
    mean_rows = max(lists.rows / max(lists.sizes.sum(), 1), 1.0)

    def make(part: Part) -> Inputs:
        return list_inputs(space, lists.gather(part.units), histories, history_length)

    per_batch = max(round(rows_per_batch / mean_rows), 1)
    return Batches(lambda epoch: Consecutive(EpochOrder(lists.sizes, seed, epoch), per_batch), make, len(lists))


def list_inputs(space: FeatureSpace, rows: dict[str, Ragged], histories: Histories, history_length: int) -> Inputs:
    """The inputs of gathered lists (`inputs.lists`)."""
    starts = rows["time"].row_splits[:-1]
    users, times = rows["user"].values[starts], rows["time"].values[starts]
    batch = space.query_inputs(users, histories.before(users, times, history_length))
    batch.update(space.item_inputs(rows["item"].values, rows["time"].values))
    batch["list_row_splits"] = rows["item"].row_splits
    batch["item_position"] = rows["item"].values
    batch.update({name: column.values for name, column in rows.items() if name.startswith(("label_", "context_"))})
    return batch
