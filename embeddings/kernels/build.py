"""The compiled ops: built on first use with the system's compiler, kept in a per-user cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from foundation.errors import UserError
from foundation.progress import say
from foundation.tf import tf

SOURCES = Path(__file__).with_name("native")
# No contraction: a product and a sum rounded apart, as the twin's are.
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-pthread", "-Wno-deprecated-declarations")


def library() -> Path:
    """The shared library of this source, TensorFlow, compiler and processor; built if it is not in the cache.

    Raises:
      UserError: there is no compiler, it fails, or the cache cannot be written.
    """
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        raise UserError(f"kernels: no C++ compiler ({compiler}) on PATH.", "Install g++, or name one: CXX=...")
    path = cache() / f"headrace-{_key(compiler)}.so"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock")):
            if not path.exists():  # another process may have built it meanwhile
                _build(compiler, path)
    except OSError as error:
        raise UserError(
            f"{path.parent}: the cache of kernels cannot be written ({error.strerror}).",
            "Name a folder that can: HEADRACE_CACHE=...",
        ) from error
    return path


def cache() -> Path:
    """Where compiled kernels are kept: HEADRACE_CACHE, else the user's own cache folder."""
    if named := os.environ.get("HEADRACE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def _key(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    digest = hashlib.blake2b(digest_size=12)
    sources = [file.read_text() for file in sorted(SOURCES.iterdir())]
    for part in (*sources, tf.__version__, tf.version.GIT_VERSION, version, *_flags(), _processor()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _flags() -> list[str]:
    """HEADRACE_CXXFLAGS adds to ours: a sanitizer's, for one."""
    return [*FLAGS, *os.environ.get("HEADRACE_CXXFLAGS", "").split()]


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("vendor_id", "cpu family", "model\t", "stepping", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _build(compiler: str, path: Path) -> None:
    say("kernels: compiling for this machine (once; some seconds)")
    objects = path.with_name(f".{path.stem}.{os.getpid()}.partial")
    objects.mkdir()
    try:
        include = [flag.replace("-I", "-isystem", 1) for flag in tf.sysconfig.get_compile_flags()]
        files = sorted(SOURCES.glob("*.cc"))
        made = [objects / f"{file.stem}.o" for file in files]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compile_to = [compiler, *include, *_flags(), "-c", "-o"]
            list(pool.map(_run, [[*compile_to, str(o), str(f)] for f, o in zip(files, made, strict=True)]))
        linked = objects / path.name
        _run([compiler, "-shared", *_flags(), *map(str, made), *tf.sysconfig.get_link_flags(), "-o", str(linked)])
        os.replace(linked, path)  # whole or not there: a process that starts now reads one or builds its own
    finally:
        shutil.rmtree(objects, ignore_errors=True)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise UserError(f"kernels: {command[0]} failed: {errors[0] if errors else done.returncode}")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One builder at a time; without locks on the cache's file system several may build, and the last one's stays."""
    with path.open("a") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
