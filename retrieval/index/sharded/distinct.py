"""No id twice: found in the memory of one shard's ids, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foundation.errors import UserError
from retrieval.index.sharded.shard import Range
from retrieval.index.sources.source import BLOCK, Source

_AT_ONCE = 1 << 18  # ids of each shard that are compared at once


def refuse_repeated_ids(source: Source, ranges: Sequence[Range], folder: Path) -> None:
    """Raises a UserError that names an id that occurs twice, and where; or one that is negative. Each range's ids are
    sorted into a file of `folder`; then the files are merged."""
    files = []
    for number, rows in enumerate(ranges):
        ids = np.sort(source.ids(rows.start, rows.stop))
        if len(ids) and ids[0] < 0:
            raise UserError(
                f"{source.path}: id {ids[0]} is negative.", "Ids are 0 or more: -1 says that none was found."
            )
        if (again := np.flatnonzero(ids[1:] == ids[:-1])).size:
            _refuse(source, int(ids[again[0]]))
        files.append(folder / f"sorted-{number:05d}.npy")
        np.save(files[-1], ids)
    repeated = repeated_value([np.load(file, mmap_mode="r") for file in files], _AT_ONCE)
    if repeated is not None:
        _refuse(source, repeated)


def repeated_value(lists: Sequence[np.ndarray], at_once: int) -> int | None:
    """A value that is in two of the lists, each rising strictly; None if there is none. At most `at_once` values of
    each are in memory."""
    at = [0] * len(lists)
    while any(here < len(values) for here, values in zip(at, lists, strict=True)):
        pieces = [np.asarray(values[here : here + at_once]) for here, values in zip(at, lists, strict=True)]
        # beyond the least of the pieces' ends some list may hold values that are not looked at yet
        ends = [
            piece[-1] for piece, here, values in zip(pieces, at, lists, strict=True) if here + at_once < len(values)
        ]
        if ends:
            pieces = [piece[: np.searchsorted(piece, min(ends), side="right")] for piece in pieces]
        merged = np.sort(np.concatenate(pieces))
        if (again := np.flatnonzero(merged[1:] == merged[:-1])).size:
            return int(merged[again[0]])
        at = [here + len(piece) for here, piece in zip(at, pieces, strict=True)]
    return None


def _refuse(source: Source, repeated: int) -> None:
    places: list[str] = []
    for start in range(0, source.size, BLOCK):
        found = np.flatnonzero(source.ids(start, min(start + BLOCK, source.size)) == repeated)
        places += [source.place(start + int(row)) for row in found]
        if len(places) >= 2:
            break
    raise UserError(
        f"{source.path}: id {repeated} occurs twice: {places[0]} and {places[1]}.",
        "Every vector wants an id of its own.",
    )
