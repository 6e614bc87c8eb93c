"""Which kernels do the work: the compiled ones, or their pure TensorFlow twin."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from embeddings.config import TableConfig
from embeddings.kernels import reference
from embeddings.kernels.build import LIBRARY
from embeddings.kernels.group import Bag, TableGroup
from embeddings.kernels.streams import Numbering, Own, Owners, Requests, Stream
from foundation.errors import UserError
from foundation.progress import say
from foundation.tf import is_being_saved, tf

if TYPE_CHECKING:
    from embeddings.tables.identity import IdPolicy

MODES = ("auto", "off", "require")
_stock = ContextVar("stock", default=False)


class Kernels(Protocol):
    """What tables and layers ask of either."""

    def new_rows(self, config: TableConfig, ids: np.ndarray | None = None, first_column: int = 0) -> tf.Variable: ...
    def new_slot(self, shape: tuple[int, ...], value: float, dtype: tf.DType, name: str) -> tf.Variable: ...
    def empty(self, variables: Sequence[tf.Variable], rows: int) -> None: ...
    def addresses(self, variables: Sequence[tf.Variable]) -> list[int] | None: ...
    def id_table(self, policy: IdPolicy) -> IdTable: ...
    def requests(
        self, bags: Sequence[Bag], tables: Sequence[Owners], ranks: int, counted: bool, row_bytes: Sequence[int]
    ) -> Requests: ...
    def pack(
        self,
        pieces: Sequence[tf.Tensor],
        piece_of: Sequence[int],
        streams: Sequence[Stream],
        starts: tf.Tensor,
        sizes: tf.Tensor,
        unit: int,
        wire: tf.DType,
        stochastic: bool = False,
    ) -> tf.Tensor: ...
    def unpack(self, received: tf.Tensor, streams: Sequence[Stream], sizes: tf.Tensor) -> list[tf.Tensor]: ...
    def merge(
        self,
        rows: Sequence[tf.Tensor],
        splits: Sequence[tf.Tensor | None],
        received: tf.Tensor,
        streams: Sequence[Stream],
        sizes: tf.Tensor,
        own: Own,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]: ...
    def arrived_ids(
        self, received: tf.Tensor, sizes: tf.Tensor, numberings: Sequence[Numbering]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], list[tf.Tensor | None]]: ...
    def pool(
        self,
        received: tf.Tensor,
        local: Mapping[int, tf.Tensor],
        rank: int,
        streams: Sequence[Stream],
        starts: tf.Tensor,
        sizes: tf.Tensor,
        dims: Sequence[int],
        bags: Sequence[Bag],
    ) -> list[tf.Tensor]: ...
    def sums(
        self, bags: Sequence[Bag], gradients: Sequence[tf.Tensor], counts: tf.Tensor, dims: Sequence[int]
    ) -> list[tf.Tensor]: ...
    def dots(self, vectors: Sequence[tf.Tensor]) -> tf.Tensor: ...
    def dots_gradient(self, vectors: Sequence[tf.Tensor], gradient: tf.Tensor) -> list[tf.Tensor]: ...
    def lookup(self, group: TableGroup, bags: list[Bag]) -> list[tf.Tensor]: ...
    def update(self, group: TableGroup, bags: list[Bag], gradients: list[tf.Tensor]) -> None: ...
    def step(self, group: TableGroup, bags: list[Bag], gradients: list[tf.Tensor]) -> None: ...


class IdTable(Protocol):
    """Which ids of a dynamic table have a row, and which row; row 0 is that of all others."""

    def find(self, features: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The rows [n] int64 of each feature's ids [n] int64; nothing is changed or counted."""

    def find_or_insert(
        self,
        features: Sequence[tf.Tensor],
        identities: tf.Variable,
        rows: tf.Variable,
        slots: Sequence[tuple[tf.Variable, float]],
        scale: float,
        occurrences: Sequence[tf.Tensor] = (),
        first_column: int = 0,
    ) -> list[tf.Tensor]:
        """The same in a training step: ids are counted as seen, and those that are new and admitted get a row, its
        initial values (slots: with the initial value of each) written, the variables grown where need be. occurrences:
        how often each id of each feature came, [n] int64; none: once. first_column: of the table, where that of
        `rows` stands."""

    def counts(self) -> tf.Tensor:
        """[5] int64, in the order of COUNTS (embeddings/tables/identity.py)."""

    def state(self) -> dict[str, tf.Tensor]:
        """All there is: ids [n] int64 in rising order, their rows, frequencies, last_seen (steps), and the sketch's
        counters, counted, counts."""

    def restore(self, state: Mapping[str, tf.Tensor]) -> None:
        """Becomes what `state` told of; rows are numbered anew, from 1, in the order of ids."""


def kernels() -> Kernels:
    """The kernels to use here and now: HEADRACE_KERNELS is "auto" (compiled ones if there can be), "off" or "require".

    Raises:
      UserError: HEADRACE_KERNELS is none of these, or is "require" and the kernels cannot be built.
    """
    mode = os.environ.get("HEADRACE_KERNELS", "auto")
    if mode not in MODES:
        raise UserError(f"HEADRACE_KERNELS is {mode!r}.", f"It may be {', '.join(MODES)}.")
    if must_be_stock() or mode == "off":
        return reference
    native = _native()
    if isinstance(native, UserError):
        if mode == "require":
            raise native
        return reference
    return native


def compiled() -> bool:
    """Whether the compiled kernels are what `kernels()` gives."""
    return kernels() is not reference


def must_be_stock() -> bool:
    """Whether what is traced now is to run in a TensorFlow that knows no op of ours."""
    return bool(_stock.get()) or is_being_saved()


@contextlib.contextmanager
def stock_only() -> Iterator[None]:
    """Traces the twin alone: what is exported must run in a TensorFlow that knows no op of ours."""
    token = _stock.set(True)
    try:
        yield
    finally:
        _stock.reset(token)


@cache
def _native() -> Any:
    """The compiled kernels, or why there are none: found out once, and said once."""
    try:
        from embeddings.kernels.native_ops import NativeKernels

        return NativeKernels(LIBRARY.load())
    except UserError as error:
        say(f"{error.message} Tables are looked up and updated by TensorFlow's own ops, several times slower.")
        return error
