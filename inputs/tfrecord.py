"""Where the records of a TFRecord file begin. A record: length (8 bytes), its checksum (4), data, its checksum (4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from foundation.errors import UserError

_HEADER, _FOOTER = 12, 4  # bytes
_BUFFER = 1 << 20
_CASTAGNOLI = np.uint32(0x82F63B78)
_MASK = np.uint32(0xA282EAD8)


@dataclass(frozen=True)
class RecordBlock:
    """`records` records from byte `offset` of a file on; `first` is the first one's number in it, from 0."""

    file: Path
    offset: int
    first: int
    records: int


def index_records(file: Path, block_records: int) -> list[RecordBlock]:
    """The file as blocks of `block_records` records, the last with what is left. One pass over the headers; the data is
    skipped (whoever decodes it checks it).

    Raises:
      UserError: the file ends within a record, or a length does not match its checksum.
    """
    offsets, headers = [], bytearray()
    size, offset, records = file.stat().st_size, 0, 0
    with _opened(file) as content:
        while offset + _HEADER <= size:
            content.seek(offset)
            header = content.read(_HEADER)
            if records % block_records == 0:
                offsets.append(offset)
            headers += header
            records += 1
            offset += _HEADER + int.from_bytes(header[:8], "little") + _FOOTER
    _check_lengths(file, np.frombuffer(headers, np.uint8).reshape(-1, _HEADER))
    if offset != size:
        number = records if offset > size else records + 1  # its header is cut, and was not counted
        raise UserError(
            f"{file}: record {number:,} is cut short: the file ends at byte {size:,}, within it.",
            "Get or write it again.",
        )
    return [
        RecordBlock(file, offset, first, min(block_records, records - first))
        for offset, first in zip(offsets, range(0, records, block_records), strict=True)
    ]


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb", buffering=_BUFFER)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).", "Choose a file you may read.") from error


def _check_lengths(file: Path, headers: np.ndarray) -> None:
    """headers: [records, 12] uint8."""
    bad = masked_crc32c(headers[:, :8]) != np.ascontiguousarray(headers[:, 8:]).view("<u4")[:, 0]
    if not bad.any():
        return
    number = int(np.argmax(bad))
    if number == 0:
        packed = bytes(headers[0, :2]) == b"\x1f\x8b"
        raise UserError(
            f"{file}: {'a compressed file' if packed else 'not a TFRecord file'}: its first length does not match its "
            "checksum.",
            "Unpack it: records of a compressed file cannot be found by their place." if packed else "Get it again.",
        )
    raise UserError(
        f"{file}: record {number + 1:,} is damaged: its length does not match its checksum.", "Get or write it again."
    )


def masked_crc32c(words: np.ndarray) -> np.ndarray:
    """[n, bytes] uint8 -> [n] uint32: TFRecord's checksum of each row."""
    crc = np.full(len(words), 0xFFFFFFFF, np.uint32)
    for byte in words.T:
        crc = _TABLE[(crc ^ byte) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    crc = ~crc
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + _MASK


def _crc_table() -> np.ndarray:
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & np.uint32(1), (crc >> np.uint32(1)) ^ _CASTAGNOLI, crc >> np.uint32(1))
    return crc


_TABLE = _crc_table()
