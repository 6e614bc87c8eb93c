"""C++ ops of ours: built on first use with the system's compiler, kept in a per-user cache."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import UserError, first_line
from foundation.progress import say
from foundation.tf import tf

# No contraction: a product and a sum rounded apart, as TensorFlow's own ops do.
COMMON = Path(__file__).with_name("native")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-pthread", "-Wno-deprecated-declarations")


@dataclass(frozen=True)
class NativeLibrary:
    """A folder of C++ sources that, with those that all libraries share (foundation/native), make one library of
    TensorFlow ops. name: in what is said of it."""

    name: str
    sources: Path

    def path(self) -> Path:
        """The shared library of this source, TensorFlow, compiler and processor; built if it is not in the cache.

        Raises:
          UserError: there is no compiler, it fails, or the cache cannot be written.
        """
        compiler = os.environ.get("CXX") or "g++"
        if shutil.which(compiler) is None:
            raise UserError(f"{self.name}: no C++ compiler ({compiler}) on PATH.", "Install g++, or name one: CXX=...")
        path = cache() / f"headrace-{self._key(compiler)}.so"
        if path.exists():
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(path.with_suffix(".lock")):
                if not path.exists():  # another process may have built it meanwhile
                    self._build(compiler, path)
        except OSError as error:
            raise UserError(
                f"{path.parent}: the cache of {self.name} cannot be written ({error.strerror}).",
                "Name a folder that can: HEADRACE_CACHE=...",
            ) from error
        return path

    def load(self) -> Any:
        """The module of its ops.

        Raises:
          UserError: it cannot be built, as above, or does not load.
        """
        try:
            return tf.load_op_library(str(self.path()))
        except tf.errors.OpError as error:
            raise UserError(f"{self.name}: the compiled library does not load ({first_line(error)}).") from error

    def _key(self, compiler: str) -> str:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
        digest = hashlib.blake2b(digest_size=12)
        sources = [file.read_text() for folder in (COMMON, self.sources) for file in sorted(folder.iterdir())]
        for part in (*sources, tf.__version__, tf.version.GIT_VERSION, version, *_flags(), _processor()):
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()

    def _build(self, compiler: str, path: Path) -> None:
        say(f"{self.name}: compiling for this machine (once; some seconds)")
        objects = path.with_name(f".{path.stem}.{os.getpid()}.partial")
        objects.mkdir()
        try:
            include = [flag.replace("-I", "-isystem", 1) for flag in tf.sysconfig.get_compile_flags()]
            include.append(f"-I{COMMON}")
            files = [*sorted(COMMON.glob("*.cc")), *sorted(self.sources.glob("*.cc"))]
            made = [objects / f"{file.stem}.o" for file in files]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                compile_to = [compiler, *include, *_flags(), "-c", "-o"]
                list(pool.map(self._run, [[*compile_to, str(o), str(f)] for f, o in zip(files, made, strict=True)]))
            linked = objects / path.name
            link = [*tf.sysconfig.get_link_flags(), "-o", str(linked)]
            self._run([compiler, "-shared", *_flags(), *map(str, made), *link])
            os.replace(linked, path)  # whole or not there: a process that starts now reads one or builds its own
        finally:
            shutil.rmtree(objects, ignore_errors=True)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise UserError(f"{self.name}: {command[0]} failed: {errors[0] if errors else done.returncode}")


def cache() -> Path:
    """Where compiled libraries are kept: HEADRACE_CACHE, else the user's own cache folder."""
    if named := os.environ.get("HEADRACE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


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


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One builder at a time; without locks on the cache's file system several may build, and the last one's stays."""
    with path.open("a") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
