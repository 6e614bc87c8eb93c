"""What an answer may hold: allow lists, deny lists, conditions on attributes. Nothing forbidden is ever returned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from foundation.errors import UserError
from inputs.ragged import Ragged


@dataclass(frozen=True)
class Filter:
    """Restrictions that all hold at once.

    allow: row q lists the only ids that query q may have; None allows all. deny: row q lists ids that it must not have.
    Ids that the index does not know change nothing. where: a condition on attributes, for all queries
    (`pyarrow.compute.field("language") == "en"`, `field("published") < 1_700_000_000`,
    `field("category").isin(["news", "music"])`, joined by &, | and ~); an item whose condition is null is not allowed.
    """

    allow: Ragged | None = None
    deny: Ragged | None = None
    where: pc.Expression | None = None

    @classmethod
    def of(
        cls,
        queries: int,
        allow: Sequence[int] | np.ndarray | None = None,
        deny: Sequence[int] | np.ndarray | None = None,
        where: pc.Expression | None = None,
    ) -> Filter:
        """The same lists of ids for each of so many queries."""
        return cls(_repeated(allow, queries), _repeated(deny, queries), where)

    def checked(self, queries: int) -> Filter:
        """Raises UserError where there are more or fewer lists than queries."""
        for name, rows in (("allow", self.allow), ("deny", self.deny)):
            if rows is not None and len(rows) != queries:
                raise UserError(
                    f"the index: {len(rows)} `{name}` lists for {queries} queries.", "Give one list, even empty, each."
                )
        return self


def _repeated(ids: Sequence[int] | np.ndarray | None, queries: int) -> Ragged | None:
    if ids is None:
        return None
    ids = np.asarray(ids, np.int64)
    return Ragged(np.tile(ids, queries), np.arange(queries + 1) * len(ids))
