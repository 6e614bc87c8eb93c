"""YAML files of the planner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from foundation.errors import UserError


def read_document(path: Path, what: str) -> dict[str, Any]:
    """The mapping a YAML file holds. what: what the file is, for messages ("a topology").

    Raises:
      UserError: the file is missing, is no text, no YAML or no mapping.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"{path}: cannot be read ({reason}).", f"Give the YAML file of {what}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: {what} is a mapping of keys to values; found {type(document).__name__}.")
    return document
