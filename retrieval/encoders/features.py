"""Which of a query's inputs tell what was watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foundation.errors import UserError, nearest
from inputs.entities import FeatureSpec

HISTORY = "history_"


def chosen(option: str, features: Mapping[str, FeatureSpec], names: Sequence[str] | None) -> dict[str, FeatureSpec]:
    """The inputs that `retrieval.<option>` names of those there are, in their own order; all, where it is None.

    Raises:
      UserError: there is no such input.
    """
    for name in names or ():
        if name not in features:
            raise UserError(f"retrieval.{option}: the log gives no input '{name}'; {nearest(name, features)}")
    return {name: spec for name, spec in features.items() if names is None or name in names}


def history_features(query_features: Mapping[str, FeatureSpec]) -> list[str]:
    """The watch history's inputs, `history_<item feature>`."""
    return [name for name in query_features if name.startswith(HISTORY)]


def one_per_item(query_features: Mapping[str, FeatureSpec], item_features: Mapping[str, FeatureSpec]) -> list[str]:
    """Those of them with one value per watched item, so that the n-th of each is of one item. (A feature of many values
    per item has lost which were whose.)

    item_features: all that items have, also those that the model does not read.
    """
    single = {spec.table for spec in item_features.values() if spec.kind == "category"}
    return [name for name in history_features(query_features) if query_features[name].table in single]
