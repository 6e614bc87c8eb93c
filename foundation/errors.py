"""Errors that are the user's to mend: one message, no traceback, exit code 2."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from yaml import YAMLError


class UserError(Exception):
    """A failure with a reason the user can act on.

    `message` names the file, row or key, what was found and what was wanted; `remedy` says what to do. The command
    line prints both and exits with code 2; a library user sees them as the exception's text.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message}\n{remedy}" if remedy else message)


def nearest(name: str, options: Iterable[str]) -> str:
    """A phrase that suggests the option most like `name`, or lists them all: for the end of an error message."""
    options = sorted(map(str, options))
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(options)}" if options else "nothing is known here"


def first_line(error: BaseException) -> str:
    """What a library's error says in one line, for the reason in a message of ours."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def damaged(path: str | Path, remedy: str) -> Iterator[None]:
    """Turns the failure of reading a file of ours (a key missing, a value of another kind) into a UserError that names
    it: it was cut short or changed by hand."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, YAMLError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged ({reason}).", remedy) from error
