"""YAML files of the planner, read and checked: one message that names the file and every key that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from foundation.errors import UserError, nearest

Keys = TypeVar("Keys", bound=BaseModel)


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


def validated(model: type[Keys], document: Mapping[str, Any], where: str, what: str) -> Keys:
    """The document as `model`.

    Raises:
      UserError: it does not fit; every problem is told on a line of its own.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        lines = [f"  {_explain(model, problem)}" for problem in error.errors()]
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise UserError(
            f"{where}: {count} in the {what}:\n" + "\n".join(lines), "Mend the keys named above."
        ) from error


def _explain(model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; {nearest(location[-1], _keys_at(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"{key}: this key is missing"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem.get("input")
    told = "found" in message or isinstance(found, dict | list)
    return f"{key}: {message}" if told else f"{key}: {message} (found {found!r})"


def _keys_at(model: Any, location: list[str]) -> list[str]:
    """The keys known at a place, following models and lists of models."""
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        annotation = field.annotation if field else model
        candidates = [annotation, *get_args(annotation)]
        model = next((a for a in candidates if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return list(getattr(model, "model_fields", {}))
