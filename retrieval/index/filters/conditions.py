"""Which slots a condition holds for, remembered: only slots that came since are looked at again."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retrieval.index.items.attributes import Attributes
from retrieval.index.items.slots import View

_REMEMBERED = 16  # conditions, those asked for last
_NONE = Attributes(pa.schema([]), 0)


@dataclass(frozen=True)
class _Known:
    """holds: [used] bool, true to what every slot born at most at `sequence` holds."""

    condition: pc.Expression
    sequence: int
    holds: np.ndarray


class Conditions:
    """A slot's attributes stay what they are for as long as its item lives, so what was found out about it does too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: list[_Known] = []  # the latest asked for last

    def mask(self, condition: pc.Expression, view: View) -> np.ndarray:
        """[used] bool: the slots of a view that hold an item which the condition holds for. The view's slots stay what
        they are meanwhile.

        Raises:
          UserError: as `Attributes.matching`.
        """
        attributes = view.attributes or _NONE
        known = self._of(condition)
        if known is None or known.sequence > view.sequence:
            holds = attributes.matching(condition, slice(view.used))
        else:
            born = view.born[: view.used]
            holds = np.zeros(view.used, bool)
            holds[: len(known.holds)] = known.holds
            since = np.flatnonzero((born > known.sequence) & (born <= view.sequence))
            if len(since):
                holds[since] = attributes.matching(condition, since)
        self._remember(_Known(condition, view.sequence, holds))
        return holds & view.visible_mask()

    def _of(self, condition: pc.Expression) -> _Known | None:
        """Conditions are compared whole: their words leave out most of a long list."""
        with self._lock:
            return next((known for known in self._known if known.condition.equals(condition)), None)

    def _remember(self, known: _Known) -> None:
        with self._lock:
            others, latest = [], known
            for other in self._known:
                if not other.condition.equals(known.condition):
                    others.append(other)
                elif other.sequence > known.sequence:
                    latest = other
            self._known = [*others, latest][-_REMEMBERED:]
