"""The files of an index's folder, each by its size and digest, as its manifest holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from foundation.files import file_entry


def entries_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Of every file below a folder, by its path there."""
    return {str(file.relative_to(folder)): file_entry(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def check_entries(folder: Path, entries: Mapping[str, Any], remedy: str, what: str = "index") -> None:
    """Raises UserError: a file is missing, or not the one that was written; it is named."""
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file() or file_entry(file) != entry:
            raise UserError(f"{file}: this part of the {what} is missing or damaged.", remedy)
