"""The positives of a log as three arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from foundation.errors import UserError, nearest
from inputs.dataset import Dataset
from inputs.schema import ITEM, TIME, USER, Positive, Schema

if TYPE_CHECKING:
    from inputs.features import FeatureSpace


def positive_of(schema: Schema, chosen: Positive | None) -> Positive:
    """The events that count as interest: as the job chose, else the log's first binary label being 1.

    Raises:
      UserError: the job named a label the log lacks, or the log has no binary label and the job names none.
    """
    names = [label.name for label in schema.labels]
    if chosen is not None:
        if chosen.label not in names:
            raise UserError(
                f"inputs.positive.label: no label '{chosen.label}' in the log; {nearest(chosen.label, names)}"
            )
        return chosen
    for label in schema.labels:
        if label.kind == "binary":
            return Positive(label=label.name)
    raise UserError(
        f"inputs.positive is missing: the log has no binary label (it has {', '.join(names) or 'none'}).",
        "Say what counts as interest, such as --set 'inputs.positive={label: rating, at_least: 4}'.",
    )


@dataclass(frozen=True)
class Interactions:
    """Positives in time order: `users` and `items` [n] int64 positions, `times` [n] int64 seconds; `labels`: [n]
    float32 by name, what else the log says of them (NaN: nothing)."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, space: FeatureSpace, chosen: Positive | None, labels: Sequence[str] = ()
    ) -> Interactions:
        """Reads every positive of a log, and these labels of it, row group by row group.

        Raises:
          UserError: there is none, or `chosen` or `labels` names a label that the log lacks.
        """
        positive = positive_of(dataset.schema, chosen)
        pieces: list[tuple[np.ndarray, ...]] = []
        for table in dataset.scan(list(dict.fromkeys([USER, ITEM, TIME, positive.label, *labels]))):
            kept = table.filter(np.nan_to_num(_floats(table, positive.label), nan=-np.inf) >= positive.at_least)
            users, items = space.users.position_of(kept.column(USER)), space.items.position_of(kept.column(ITEM))
            told = (_floats(kept, label).astype(np.float32) for label in labels)
            pieces.append((users, items, kept.column(TIME).to_numpy(), *told))
        users, items, times, *values = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        if not len(users):
            raise UserError(
                f"{dataset.path}: no event has {positive.label} >= {positive.at_least:g}.", "Change inputs.positive."
            )
        order = np.argsort(times, kind="stable")  # lists are in time order, rows of two lists may interleave
        of_labels = {label: value[order] for label, value in zip(labels, values, strict=True)}
        return cls(users[order], items[order], times[order], of_labels)

    def between(self, start: int, stop: int) -> Interactions:
        """Those with start <= time < stop (seconds)."""
        first, last = np.searchsorted(self.times, [start, stop])
        rows = slice(first, last)
        labels = {name: values[rows] for name, values in self.labels.items()}
        return Interactions(self.users[rows], self.items[rows], self.times[rows], labels)


def _floats(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, null as NaN."""
    return pc.fill_null(pc.cast(table.column(name), pa.float64()), np.nan).to_numpy()
