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
        columns, lines = (list(names), 0) if names else _first_record(path, delimiter, encoding, quoted)
        reader = csv.open_csv(
            source,
            read_options=csv.ReadOptions(
                block_size=BLOCK_BYTES,
                column_names=columns,
                skip_rows=lines,
                encoding=encoding,
                use_threads=False,
            ),
            parse_options=csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=torn,
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
        raise UserError(
            f"{path}: cannot be read as delimited text ({first_line(error)}).",
            f"Write it again, as text in the encoding {encoding}.",
        ) from error


def header(path: Path, delimiter: str, encoding: str = "utf8", quoted: bool = True) -> list[str]:
    """The column names in a file's first line that is not blank.

    Raises:
      UserError: the file is missing or empty, or that line is no header.
    """
    return _first_record(path, delimiter, encoding, quoted)[0]


def _first_record(path: Path, delimiter: str, encoding: str, quoted: bool) -> tuple[list[str], int]:
    """The column names, and the lines they and blank ones before them take up: a quoted name may go over several."""
    _need_content(path)
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        if file.read(1) != "\ufeff":  # a byte order mark is no part of the first name
            file.seek(0)
        records = python_csv.reader(
            file, delimiter=delimiter, quoting=python_csv.QUOTE_MINIMAL if quoted else python_csv.QUOTE_NONE
        )
        try:
            names = [name.strip() for name in next((record for record in records if record), ())]
            if any("\0" in name for name in names):
                raise python_csv.Error("it holds NUL bytes")
        except python_csv.Error as error:
            raise UserError(
                f"{path}: its first line is no header of delimited text ({error}).",
                f"Write it as text in the encoding {encoding}, with the names of the columns in the first line.",
            ) from error
    return names, records.line_num


def _need_content(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file.", "Check inputs.path.")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: this file is empty.", "Get it again.")


def need_columns(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises UserError, naming the nearest, when a file lacks a wanted column."""
    for column in wanted:
        if list(found).count(column) > 1:
            raise UserError(f"{path}: there are {list(found).count(column)} columns '{column}'.", "Rename all but one.")
        if column not in found:
            raise UserError(f"{path}: no column '{column}'; {nearest(column, found)}", "Check inputs.columns.")


def whole_text(path: Path, cleaner: Cleaner, **options: Any) -> pa.Table:
    """A small file at once.

    Raises:
      UserError: there is no row.
    """
    tables = list(text_blocks(path, cleaner, **options))
    if not sum(table.num_rows for table in tables):
        raise UserError(f"{path}: no row in it.", "Get or write it again, or leave it out of the job.")
    return pa.concat_tables(tables)
