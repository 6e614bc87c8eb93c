"""CSV, TSV and `::`-separated text as blocks of text columns, with errors that name file and row."""

from __future__ import annotations

import csv as python_csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv

from foundation.errors import UserError, first_line, nearest
from inputs.cleaning import Cleaner

BLOCK_BYTES = 1 << 24


def text_blocks(
    path: Path,
    cleaner: Cleaner,
    delimiter: str = ",",
    names: Sequence[str] | None = None,
    quoted: bool = True,
    encoding: str = "utf8",
) -> Iterator[pa.Table]:
    """Blocks of a delimited file, every column as text. names: the columns of a file without a header.

    Raises:
      UserError: the file is missing, empty, or has rows with too many or too few columns (under the policy "error").
    """
    _need_content(path)

    def torn(row: Any) -> str:
        if cleaner.policy == "error":
            broken.append(row)
            return "error"
        cleaner.count("rows with another number of columns", 1)
        return "skip"

    broken: list[Any] = []
    separator = delimiter
    source: Any = str(path)
    if len(delimiter) > 1:
        separator = "\t"
        source = pa.BufferReader(path.read_bytes().replace(delimiter.encode(), b"\t"))
    try:
        columns = list(names) if names else header(path, delimiter, encoding, quoted)
        reader = csv.open_csv(
            source,
            read_options=csv.ReadOptions(
                block_size=BLOCK_BYTES,
                column_names=columns,
                skip_rows=0 if names else 1,
                encoding=encoding,
                use_threads=False,
            ),
            parse_options=csv.ParseOptions(
                delimiter=separator, quote_char='"' if quoted else False, invalid_row_handler=torn
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
            ),
        )
        for batch in reader:
            yield pa.Table.from_batches([batch])
    except pa.ArrowException as error:
        if broken:
            row = broken[0]
            raise UserError(
                f"{path}: row {row.number or '?'}: {row.actual_columns} columns, {row.expected_columns} are wanted: "
                f"{row.text[:80]!r}.",
                "The file may be cut short. Mend it, or leave such rows out: --set inputs.on_bad_row=drop.",
            ) from error
        raise UserError(f"{path}: cannot be read as delimited text ({first_line(error)}).") from error


def header(path: Path, delimiter: str, encoding: str = "utf8", quoted: bool = True) -> list[str]:
    """The column names in a file's first line.

    Raises:
      UserError: the file is missing or empty, or a name stands there twice.
    """
    _need_content(path)
    with path.open(encoding=encoding, errors="replace", newline="") as lines:
        first = lines.readline().rstrip("\r\n").removeprefix("\ufeff")
    split = next(python_csv.reader([first], delimiter=delimiter), []) if quoted else first.split(delimiter)
    names = [name.strip() for name in split]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: the header names column '{name}' {names.count(name)} times.", "Rename one.")
    return names


def _need_content(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file.", "Check inputs.path.")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: this file is empty.", "Get it again.")


def need_columns(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises UserError, naming the nearest, when a file lacks a wanted column."""
    for column in wanted:
        if list(found).count(column) > 1:
            raise UserError(f"{path}: there are several columns '{column}'.", "Rename all but one.")
        if column not in found:
            raise UserError(f"{path}: no column '{column}'; {nearest(column, found)}", "Check inputs.columns.")


def whole_text(path: Path, cleaner: Cleaner, **options: Any) -> pa.Table:
    """A small file at once."""
    return pa.concat_tables(text_blocks(path, cleaner, **options))
