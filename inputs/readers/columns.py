"""Any CSV or Parquet log whose columns the job file explains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foundation.errors import UserError, first_line
from inputs.cleaning import Cleaner, as_text, lenient_numbers, lenient_times
from inputs.config import ColumnsConfig, InputsConfig
from inputs.readers.delimited import header, need_columns, text_blocks
from inputs.readers.rawlog import (
    MICROSECOND,
    MILLISECOND,
    SECOND,
    EventColumns,
    RawLog,
    entities,
    first_of_each,
    identified,
    typed_events,
)
from inputs.schema import ITEM, USER, Feature, FeatureKind, Label

_UNITS = {"s": SECOND, "ms": MILLISECOND, "us": MICROSECOND}
INTERACTION = "interaction"


def read_columns(config: InputsConfig, cleaner_of: Callable[..., Cleaner]) -> RawLog:
    """Reads the log `config.path` (a CSV file, a Parquet file, or a folder of Parquet files).

    A log without labels gets one, `interaction`, which is 1 on every row.

    Raises:
      UserError: a file or a column is missing, or a column cannot be what the mapping says.
    """
    mapping = config.columns
    assert mapping is not None  # InputsConfig sees to it
    path = Path(str(config.path))
    wanted = [mapping.user, mapping.item, mapping.time, *mapping.labels, *mapping.context]
    wanted = list(dict.fromkeys([*wanted, mapping.list] if mapping.list else wanted))  # a column may play two parts
    cleaner = _cleaner(path, cleaner_of)
    columns = EventColumns(
        mapping.user,
        mapping.item,
        mapping.time,
        mapping.labels,
        mapping.context,
        mapping.list,
        _UNITS[mapping.time_unit],
    )
    events = typed_events(
        _blocks(path, wanted, mapping.delimiter, cleaner), columns, cleaner, label_may_be_unknown=True
    )
    labels = tuple(Label(name=name, kind=kind) for name, kind in mapping.labels.items())
    if not labels:
        labels = (Label(name=INTERACTION, kind="binary"),)
        events = events.append_column(INTERACTION, pa.array([1.0] * events.num_rows, pa.float32()))
    users = _entities(events, USER, mapping.user_file, mapping.user_id, mapping.user_features, mapping, cleaner_of)
    items = _entities(events, ITEM, mapping.item_file, mapping.item_id, mapping.item_features, mapping, cleaner_of)
    return RawLog(
        f"columns of {path.name}",
        events,
        users,
        items,
        labels,
        tuple(Feature(name=name, kind=kind) for name, kind in mapping.context.items()),
        tuple(Feature(name=name, kind=kind) for name, kind in mapping.user_features.items()),
        tuple(Feature(name=name, kind=kind) for name, kind in mapping.item_features.items()),
    )


def _entities(
    events: pa.Table,
    key: str,
    file: str | None,
    id_column: str,
    features: Mapping[str, FeatureKind],
    mapping: ColumnsConfig,
    cleaner_of: Callable[..., Cleaner],
) -> pa.Table:
    if file is None:
        if features:
            raise UserError(f"inputs.columns: features of {key} are named, but no file to find them in.")
        return entities(events.column(key), key, None)
    path = Path(file)
    cleaner = _cleaner(path, cleaner_of)
    ids = events.column(key)
    described: list[pa.Table] = []
    for block in _blocks(path, [id_column, *features], mapping.delimiter, cleaner):
        columns = {id_column: block.column(id_column)}
        for name, kind in features.items():
            columns[name] = _feature(block.column(name), name, kind, _UNITS[mapping.time_unit], cleaner)
        described.append(identified(pa.table(columns), key, id_column, ids.type, cleaner))
        cleaner.rows_seen += block.num_rows
    if not sum(block.num_rows for block in described):
        raise UserError(f"{path}: no usable row in it.", "Get or write it again, or leave it out of the job.")
    return entities(ids, key, first_of_each(pa.concat_tables(described), key, cleaner))


def _feature(
    column: pa.ChunkedArray, name: str, kind: FeatureKind, unit_per_second: int, cleaner: Cleaner
) -> pa.Array | pa.ChunkedArray:
    if kind == "number":
        return lenient_numbers(column, name, cleaner)
    if kind == "time":
        return lenient_times(column, name, unit_per_second, cleaner)
    if kind != "categories":
        return as_text(column, name, cleaner)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        with cleaner.typing(name, column.type, "lists of values that have a text form"):
            return pc.cast(column, pa.list_(pa.string()))
    return pc.split_pattern_regex(as_text(column, name, cleaner), r"[|;]\s*")


def _cleaner(path: Path, cleaner_of: Callable[..., Cleaner]) -> Cleaner:
    return cleaner_of(path, header_rows=0 if _is_parquet(path) else 1)


def _is_parquet(path: Path) -> bool:
    return path.is_dir() or path.suffix in (".parquet", ".pq")


def _blocks(path: Path, wanted: Sequence[str], delimiter: str, cleaner: Cleaner) -> Iterator[pa.Table]:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder.", "Check inputs.path and inputs.columns.")
    if not _is_parquet(path):
        need_columns(path, header(path, delimiter), wanted)
        for block in text_blocks(path, cleaner, delimiter=delimiter):
            yield block.select(list(wanted))
        return
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: no .parquet file in this folder.", "Check inputs.path.")
    for file in files:
        cleaner.enter(str(file))
        try:
            parquet = pq.ParquetFile(file)
            need_columns(file, parquet.schema_arrow.names, wanted)
            for batch in parquet.iter_batches(columns=list(wanted)):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            what = "empty" if file.stat().st_size == 0 else "not whole Parquet"
            raise UserError(f"{file}: this file is {what} ({first_line(error)}).", "Get or write it again.") from error
    cleaner.enter(str(path))
