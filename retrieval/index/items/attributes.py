"""Attributes of items by slot, and which slots a condition on them holds for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from foundation.errors import UserError, first_line, nearest

_NUMPY = {pa.bool_(): np.bool_, pa.int64(): np.int64, pa.float64(): np.float64, pa.string(): np.int32}
_KINDS = "bool, int64, float64 or string"


class Attributes:
    """Columns of bool, int64, float64 or string, one value a slot, any of them null.

    A row is written before its slot is seen by a search and never while it is, so reading needs no lock.
    """

    def __init__(self, schema: pa.Schema, capacity: int) -> None:
        for field in schema:
            if field.type not in _NUMPY:
                raise UserError(
                    f"the index: attribute '{field.name}' is of type {field.type}; {_KINDS} is wanted.",
                    "Cast the column.",
                )
        self.schema = schema
        self._values: dict[str, np.ndarray] = {f.name: np.zeros(capacity, _NUMPY[f.type]) for f in schema}
        self._valid = {f.name: np.zeros(capacity, np.bool_) for f in schema}
        self._words: dict[str, list[str]] = {f.name: [] for f in schema if f.type == pa.string()}
        self._codes: dict[str, dict[str, int]] = {name: {} for name in self._words}

    @staticmethod
    def schema_of(table: pa.Table) -> pa.Schema:
        """The schema of a table's columns as they are kept: integers as int64, floats as float64, large or dictionary
        strings as string."""
        return pa.schema([pa.field(f.name, _kept_as(f.type)) for f in table.schema])

    def grown(self, capacity: int) -> Attributes:
        """The same with room for more slots; this one stays as it is."""
        other = Attributes(self.schema, 0)
        other._words, other._codes = self._words, self._codes  # they only ever grow
        for name, values in self._values.items():
            other._values[name] = _resized(values, capacity)
            other._valid[name] = _resized(self._valid[name], capacity)
        return other

    def checked(self, table: pa.Table | Mapping[str, Any] | None, rows: int) -> pa.Table:
        """Attributes as given (a table, or lists by name) in the kept types.

        Raises:
          UserError: a column is missing, unknown or of another type, or there are more or fewer rows than items.
        """
        if table is None:
            raise UserError(
                "the index: items without attributes.",
                f"Give `attributes` with columns {', '.join(self.schema.names)}.",
            )
        given: pa.Table = table if isinstance(table, pa.Table) else pa.table(dict(table))
        for name in self.schema.names:
            if name not in given.column_names:
                raise UserError(f"the index: attribute '{name}' is missing.", "Give every column; null is a value.")
        for name in given.column_names:
            if name not in self.schema.names:
                raise UserError(f"the index: unknown attribute '{name}'; {nearest(name, self.schema.names)}")
        if len(given) != rows:
            raise UserError(f"the index: {len(given)} rows of attributes for {rows} items.", "Give one for each.")
        columns = []
        for field in self.schema:
            try:
                columns.append(given[field.name].cast(field.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise UserError(
                    f"the index: attribute '{field.name}' is not {field.type} ({first_line(error)})."
                ) from error
        return pa.table(columns, schema=self.schema)

    def write(self, slots: np.ndarray, table: pa.Table) -> None:
        """Writes rows of a `checked` table into slots [n]."""
        for field in self.schema:
            column = table[field.name].combine_chunks()
            valid = column.is_valid().to_numpy(zero_copy_only=False)
            if field.name in self._words:
                values = self._coded(field.name, column)
            else:
                values = column.fill_null(False if field.type == pa.bool_() else 0).to_numpy(zero_copy_only=False)
            self._values[field.name][slots], self._valid[field.name][slots] = values, valid

    def _coded(self, name: str, column: pa.Array) -> np.ndarray:
        codes, words = self._codes[name], self._words[name]
        encoded = column.dictionary_encode()
        table = []
        for word in encoded.dictionary.to_pylist():
            if word not in codes:
                words.append(word)
                codes[word] = len(words) - 1
            table.append(codes[word])
        places = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return np.array([*table, 0], np.int32)[np.where(encoded.is_valid(), places, len(table))]

    def of(self, slots: np.ndarray) -> pa.Table:
        """Rows of the slots [n], strings as strings."""
        table = self._table(slots)
        return pa.table(
            [column.cast(f.type) for column, f in zip(table.columns, self.schema, strict=True)], self.schema
        )

    def matching(self, condition: pc.Expression, slots: np.ndarray | slice) -> np.ndarray:
        """[n] bool: which of the slots the condition holds for. Where it is null, it does not.

        Raises:
          UserError: it names an attribute that there is not, or compares what cannot be.
        """
        table = self._table(slots)
        if not len(self.schema):  # a table knows its length by its columns
            table = pa.table({"": pa.nulls(slots.stop if isinstance(slots, slice) else len(slots))})
        try:
            found = pyarrow.dataset.dataset(table).to_table(columns={"holds": condition})["holds"]
            if found.type != pa.bool_():
                raise pa.ArrowTypeError(f"it is {found.type}, not true or false")
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowKeyError) as error:
            raise UserError(
                f"the index: the condition {condition} cannot be told ({first_line(error)}).",
                f"Attributes: {', '.join(f'{f.name} ({f.type})' for f in self.schema) or 'none'}.",
            ) from error
        return found.combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)

    def _table(self, slots: np.ndarray | slice) -> pa.Table:
        columns = []
        for field in self.schema:
            # a copy, before its words are read: slots that nobody sees may be written meanwhile, with words yet to come
            values, missing = np.array(self._values[field.name][slots]), ~self._valid[field.name][slots]
            column = pa.array(values, mask=missing if missing.any() else None)
            if field.name in self._words:
                column = pa.DictionaryArray.from_arrays(column, pa.array(self._words[field.name], pa.string()))
            columns.append(column)
        return pa.table(columns, names=self.schema.names)


def _kept_as(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    return pa.string() if pa.types.is_large_string(kind) else kind


def _resized(values: np.ndarray, capacity: int) -> np.ndarray:
    larger = np.zeros((capacity, *values.shape[1:]), values.dtype)
    larger[: len(values)] = values
    return larger
