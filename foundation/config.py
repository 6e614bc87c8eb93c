"""What a user writes in YAML, as models: unknown keys are refused, values never change after validation, and one
message names everything that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from foundation.errors import UserError, nearest

Keys = TypeVar("Keys", bound=BaseModel)


class Config(BaseModel):
    """A strict, frozen pydantic model. Each room's options derive from it; `trainer.job.Job` joins them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def validated(model: type[Keys], document: Mapping[str, Any], where: str, what: str) -> Keys:
    """The document as `model`. where, what: its file, and what it is ("job"), for messages.

    Raises:
      UserError: it does not fit; every problem is told on a line of its own.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        lines = [f"  {_explain(model, problem, what)}" for problem in error.errors()]
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise UserError(
            f"{where}: {count} in the {what}:\n" + "\n".join(lines), "Mend the keys named above."
        ) from error


def _explain(model: type[BaseModel], problem: Mapping[str, Any], what: str) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location) or f"the {what}"
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; {nearest(location[-1], _keys_at(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"{key}: this key is missing"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem.get("input")
    told = "found" in message or isinstance(found, dict)
    return f"{key}: {message}" if told else f"{key}: {message} (found {found!r})"


def _keys_at(model: Any, location: list[str]) -> list[str]:
    """The keys known at a place, following models, optional models, lists and mappings of models."""
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        annotation = field.annotation if field else model
        candidates = [annotation, *get_args(annotation)]
        model = next((a for a in candidates if isinstance(a, type) and issubclass(a, BaseModel)), model)
    return list(getattr(model, "model_fields", {}))
