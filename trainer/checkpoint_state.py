"""state.json: what a checkpoint holds beside variables and tables, and the digests of all its files but the tables'."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import UserError, damaged
from foundation.files import file_entry, json_digest, read_json, write_json

STATE, TABLES, VARIABLES = "state.json", "tables", "variables"
FORMAT = 2  # 1 had sizes in place of digests, and was called nothing


@dataclass(frozen=True)
class CheckpointState:
    """state: what the training put there. files: their bytes and digests, by name. saved_at: seconds since 1970, when;
    None: an older version did not say."""

    folder: Path
    state: dict[str, Any]
    files: dict[str, dict[str, Any]]
    saved_at: float | None

    def damages(self) -> dict[Path, str]:
        """Reads every file; of each that is missing, truncated or damaged a message that names it."""
        found = {}
        for name, entry in self.files.items():
            path = self.folder / name
            size = path.stat().st_size if path.exists() else None
            if size != entry["bytes"]:
                what = "missing" if size is None else f"{size:,} bytes long instead of {entry['bytes']:,}"
                found[path] = f"{path}: this checkpoint file is {what}."
            elif "digest" in entry and file_entry(path) != entry:
                found[path] = f"{path}: this checkpoint file is damaged: its digest is another."
        return found

    def check(self) -> None:
        """Raises UserError: a file is missing, truncated or damaged."""
        for message in self.damages().values():
            raise UserError(message, _remedy(self.folder))


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Writes it beside the files that are in the folder, which are complete."""
    files = {entry.name: file_entry(entry) for entry in sorted(folder.iterdir()) if entry.is_file()}
    content = {"format": FORMAT, "saved_at": round(time.time(), 3), "files": files, "state": state}
    content = json.loads(json.dumps(content))  # as it will be read
    write_json(folder / STATE, {"content": content, "digest": json_digest(content)})


def read_state(folder: Path) -> CheckpointState:
    """Raises UserError: it is missing or damaged, or of a newer version."""
    path = folder / STATE
    with damaged(path, _remedy(folder)):
        document = read_json(path, "the checkpoint's state")
        if "content" not in document:
            sizes = {name: {"bytes": size} for name, size in dict(document["sizes"]).items()}
            return CheckpointState(folder, dict(document["state"]), sizes, None)
        content = document["content"]
        if content["format"] > FORMAT:
            raise UserError(
                f"{path}: written by a newer version (format {content['format']}; this one reads {FORMAT}).",
                "Use that version, or train again in a new run directory.",
            )
        if document["digest"] != json_digest(content):
            raise UserError(f"{path}: this checkpoint file is damaged: its digest is another.", _remedy(folder))
        return CheckpointState(folder, dict(content["state"]), dict(content["files"]), content["saved_at"])


def _remedy(folder: Path) -> str:
    return f"Remove {folder} to do without it."
