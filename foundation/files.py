"""Files and folders that exist whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foundation.errors import UserError

_REFUSED = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENAMETOOLONG),
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR),  # a file where a folder is wanted, or the reverse
)
_LEFT_BEHIND = re.compile(r"\.(?P<name>.+)\.\d+\.(?P<kind>partial|old)$")


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what the disk refuses (full, read-only, no permission, a path through a file) into a UserError that names
    `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: the disk is full.", "Free some space and run the same command again.") from error
        if error.errno in _REFUSED:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}).", "Choose a folder you may write to."
            ) from error
        raise


def partial_of(path: Path, pid: int) -> Path:
    """What `path` is called while that process makes it."""
    return path.with_name(f".{path.name}.{pid}.partial")


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; it takes the name `path` when the block ends without an error."""
    path = Path(path)
    temporary = partial_of(path, os.getpid())
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()


def see_writable(path: str | os.PathLike[str]) -> None:
    """Raises a UserError where a file cannot be written at `path`, which stays as it is: to be known before the work
    whose result it is for."""
    path = Path(path)
    temporary = partial_of(path, os.getpid())
    with disk_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`; it replaces `path` when the block ends without an error."""
    path = Path(path)
    temporary = partial_of(path, os.getpid())
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            commit_directory(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def commit_directory(temporary: Path, path: Path) -> None:
    """Gives a folder that is complete the name `path`, in one rename once all of it is on the disk."""
    for entry in temporary.rglob("*"):
        _sync(entry)
    _sync(temporary)
    _replace_directory(temporary, path)
    _sync(path.parent)


def _replace_directory(new: Path, path: Path) -> None:
    if not path.exists():
        os.rename(new, path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_partial(directory: str | os.PathLike[str]) -> list[Path]:
    """Tidies up after killed writers in `directory`: removes what was half-written (`.NAME.PID.partial`) or replaced
    (`.NAME.PID.old`), and gives NAME back where the kill fell between its two renames. Returns the entries dealt with.
    """
    swept = []
    for entry in sorted(Path(directory).glob(".*")):
        match = _LEFT_BEHIND.match(entry.name)
        if match is None:
            continue
        if match["kind"] == "old" and not (entry.parent / match["name"]).exists():
            os.rename(entry, entry.parent / match["name"])
        elif entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        swept.append(entry)
    return swept


def file_entry(path: Path) -> dict[str, Any]:
    """A file's size in bytes and BLAKE2b digest, as a manifest holds them to tell a damaged file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as content:
        while block := content.read(1 << 22):
            digest.update(block)
    return {"bytes": path.stat().st_size, "digest": digest.hexdigest()}


def json_digest(content: Any) -> str:
    """BLAKE2b (16 bytes, hex) of plain JSON values, as a file that carries its own digest holds it."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes `content` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """Reads a JSON file; `what` names it in the error ("the run's metrics").

    Raises:
      UserError: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: {what} is missing.") from error
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be read ({error.strerror}).") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {what} is not valid JSON ({error}).") from error
