"""The global temporal split: one moment ends training, another ends validation, for every user alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foundation.errors import UserError
from inputs.dataset import Dataset
from inputs.schema import TIME


@dataclass(frozen=True)
class Split:
    """Seconds. Training: t < train_end. Validation: train_end <= t < validation_end, perhaps none. Test: validation_end
    <= t.

    A split by user, or at random, would let a model learn from the future of the events it is judged on (Meng et al.,
    "Exploring Data Splitting Strategies for the Evaluation of Recommendation Models", RecSys 2020).
    """

    train_end: int
    validation_end: int
    end: int

    @property
    def has_validation(self) -> bool:
        """Whether there is a period to choose by."""
        return self.train_end < self.validation_end

    @classmethod
    def by_share(cls, dataset: Dataset, validation: float, test: float) -> Split:
        """The moments after which the last `validation` + `test`, and the last `test`, of the events happened.

        Raises:
          UserError: so many events share their time that a period that is wanted would be empty.
        """
        times = np.sort(np.concatenate([table.column(TIME).to_numpy() for table in dataset.scan([TIME])]))
        last = len(times) - 1
        train_end = int(times[min(round(len(times) * (1 - validation - test)), last)])
        validation_end = int(times[min(round(len(times) * (1 - test)), last)])
        held_back = train_end < validation_end or not validation
        if not (times[0] < train_end and held_back and validation_end <= times[-1]):
            raise UserError(
                f"{dataset.path}: {len(times):,} events from {times[0]} to {times[-1]} s cannot be split by time into "
                f"training, validation ({validation:.0%}) and test ({test:.0%}).",
                "Change inputs.split, or use a log that spans more time.",
            )
        return cls(train_end, validation_end, int(times[-1]) + 1)
