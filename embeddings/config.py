"""The whole public configuration of embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from embeddings.optimizers import OPTIMIZERS, Adam, RowWiseAdagrad, SparseOptimizer, optimizer_from
from embeddings.tables.admission import Admission
from embeddings.tables.eviction import Eviction, LeastFrequentlyUsed, LeastRecentlyUsed
from foundation.precision import PRECISIONS, Precision

Combiner = Literal["sum", "mean", "sqrtn"]
KERAS_SCALE = 0.05
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_./-]*")  # what TensorFlow takes for a scope, which a SavedModel needs


@dataclass(frozen=True)
class TableConfig:
    """One embedding table.

    name: unique in a layer. vocabulary_size: ids are 0..vocabulary_size-1; None: any 64-bit ids, which get a row when
    they come in training (`tables.dynamic`), under `admission`, `eviction` and `capacity`, the most rows it may have
    (new ids are rejected, or others evicted). dim: floats in a row. optimizer: applied to
    this table in the backward pass. seed: row id's initial value at a column is a function of (seed, name, id, column)
    alone. initializer_scale: initial values are uniform in [-scale, scale); None is 0.05, as Keras' Embedding has it.
    precision, slot_precision: how rows and slot variables are stored; sums and steps are in float32 all the same, and
    what does not fit 16 bits is rounded stochastically (`embeddings.precision`). track_updates: a static table knows
    of each row which of its updates was the last to touch it (8 bytes a row), for incremental checkpoints and delta
    exports; a dynamic one knows anyway.
    """

    name: str
    vocabulary_size: int | None
    dim: int
    optimizer: SparseOptimizer = RowWiseAdagrad()  # noqa: RUF009 - frozen, so it may be shared
    seed: int = 0
    initializer_scale: float | None = None
    precision: Precision = "float32"
    slot_precision: Precision = "float32"
    admission: Admission | None = None
    eviction: Eviction | None = None
    capacity: int | None = None
    track_updates: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"table '{self.name}': a name begins with a letter or digit, and has letters, digits and _ . - / in it"
            )
        if self.dim < 1 or (self.vocabulary_size is not None and self.vocabulary_size < 1):
            raise ValueError(f"table '{self.name}': vocabulary_size and dim are at least 1")
        self._check_policies()
        if type(self.optimizer) not in OPTIMIZERS.values():
            raise TypeError(
                f"table '{self.name}': optimizer is {type(self.optimizer).__name__}; a table takes one of embeddings' "
                f"own ({', '.join(OPTIMIZERS)}), which it applies in the backward pass"
            )
        if self.initializer_scale is not None and self.initializer_scale < 0:
            raise ValueError(f"table '{self.name}': initializer_scale is not negative")
        for option, value in (("precision", self.precision), ("slot_precision", self.slot_precision)):
            if value not in PRECISIONS:
                raise ValueError(f"table '{self.name}': {option} is {value!r}; known: {', '.join(PRECISIONS)}")
        if isinstance(self.optimizer, Adam) and self.slot_precision == "float16":
            raise ValueError(f"table '{self.name}': Adam's velocity is too small a number for float16; take bfloat16")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"table '{self.name}': seed fits in 64 bits")

    def _check_policies(self) -> None:
        given = [option for option in ("admission", "eviction", "capacity") if getattr(self, option) is not None]
        if given and self.vocabulary_size is not None:
            raise ValueError(f"table '{self.name}': {given[0]} is for dynamic tables, whose vocabulary_size is None")
        if self.track_updates and self.vocabulary_size is None:
            raise ValueError(f"table '{self.name}': track_updates is for static tables; a dynamic one does so anyway")
        for option, kinds in (("admission", get_args(Admission)), ("eviction", get_args(Eviction))):
            if not isinstance(getattr(self, option), (*kinds, type(None))):
                names = ", ".join(kind.__name__ for kind in kinds)
                raise TypeError(
                    f"table '{self.name}': {option} is {getattr(self, option)!r}; it is one of {names}, or None"
                )
        if self.capacity is not None and self.capacity < 1:
            raise ValueError(f"table '{self.name}': capacity is at least 1")
        if isinstance(self.eviction, LeastRecentlyUsed | LeastFrequentlyUsed) and self.capacity is None:
            raise ValueError(f"table '{self.name}': {type(self.eviction).__name__} evicts at a capacity; give one")

    @property
    def scale(self) -> float:
        """Initial values are uniform in [-scale, scale)."""
        return KERAS_SCALE if self.initializer_scale is None else self.initializer_scale

    def document(self) -> dict[str, Any]:
        """As plain types, for a Keras config."""
        policies = {name: _policy_document(getattr(self, name)) for name in ("admission", "eviction")}
        return {**asdict(self), **policies, "optimizer": self.optimizer.document()}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> TableConfig:
        policies = {name: _policy_from(document.get(name)) for name in ("admission", "eviction")}
        return cls(**{**document, **policies, "optimizer": optimizer_from(document["optimizer"])})


def _policy_document(policy: Admission | Eviction | None) -> dict[str, Any] | None:
    return None if policy is None else {"name": type(policy).__name__, **asdict(policy)}


def _policy_from(document: dict[str, Any] | None) -> Any:
    if document is None:
        return None
    options = dict(document)
    return {kind.__name__: kind for kind in (*get_args(Admission), *get_args(Eviction))}[options.pop("name")](**options)


@dataclass(frozen=True)
class FeatureConfig:
    """One feature: the table its ids are looked up in, and how a row's vectors become one.

    combiner: "sum", "mean" (weighted: over the sum of weights), "sqrtn" (over the root of the sum of squared weights),
    or None: one vector per id, for sequence models. Features that name equal tables share one.
    """

    table: TableConfig
    combiner: Combiner | None = "mean"

    def __post_init__(self) -> None:
        if self.combiner not in ("sum", "mean", "sqrtn", None):
            raise ValueError(f"combiner is {self.combiner!r}; known: 'sum', 'mean', 'sqrtn', None")


def tables_of(features: Mapping[str, FeatureConfig]) -> dict[str, TableConfig]:
    """The features' tables by name.

    Raises:
      ValueError: two different ones have one name, or there is no feature.
    """
    tables: dict[str, TableConfig] = {}
    for feature in features.values():
        known = tables.setdefault(feature.table.name, feature.table)
        if known != feature.table:
            raise ValueError(f"two different tables are named '{known.name}': {known} and {feature.table}")
    if not tables:
        raise ValueError("an embedding layer needs at least one feature")
    return tables


def need_known(layer: str, inputs: Mapping[str, Any], features: Mapping[str, Any]) -> None:
    """Raises ValueError for inputs that are no feature of the layer so named."""
    unknown = inputs.keys() - features.keys()
    if unknown:
        raise ValueError(f"{layer}: no feature {sorted(unknown)}; the layer has {sorted(features)}")
