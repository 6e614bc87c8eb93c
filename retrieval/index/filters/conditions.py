"""Which slots a condition holds for, remembered: only slots that came since are looked at again."""

from __future__ import annotations

import threading
from collections import OrderedDict
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

    sequence: int
    holds: np.ndarray


class Conditions:
    """A slot's attributes stay what they are for as long as its item lives, so what was found out about it does too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def mask(self, condition: pc.Expression, view: View) -> np.ndarray:
        """[used] bool: the slots of a view that hold an item which the condition holds for. The view's slots stay what
        they are meanwhile.

        Raises:
          UserError: as `Attributes.matching`.
        """
        attributes, name = view.attributes or _NONE, str(condition)
        with self._lock:
            known = self._known.get(name)
        if known is None or known.sequence > view.sequence:
            holds = attributes.matching(condition, slice(view.used))
        else:
            born = view.born[: view.used]
            holds = np.zeros(view.used, bool)
            holds[: len(known.holds)] = known.holds
            since = np.flatnonzero((born > known.sequence) & (born <= view.sequence))
            if len(since):
                holds[since] = attributes.matching(condition, since)
        with self._lock:
            latest = self._known.get(name)
            if latest is None or latest.sequence <= view.sequence:
                self._known[name] = _Known(view.sequence, holds)
            self._known.move_to_end(name)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return holds & view.visible_mask()
