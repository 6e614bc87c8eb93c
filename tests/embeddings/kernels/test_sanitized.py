"""The compiled kernels under AddressSanitizer and ThreadSanitizer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embeddings.kernels.build import SOURCES
from foundation.native_library import COMMON
from foundation.tf import tf

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler here"),
]


def _runtime(name):
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    path = Path(found.strip())
    if not path.is_absolute():
        pytest.skip(f"no {name} here")
    return path


def test_no_byte_out_of_bounds(tmp_path):
    """The property tests once more, with kernels that check each access."""
    environment = {
        **os.environ,
        "LD_PRELOAD": f"{_runtime('libasan.so')}:{_runtime('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0",
        "HEADRACE_CXXFLAGS": "-fsanitize=address -fno-omit-frame-pointer -g -O1",
        "HEADRACE_CACHE": str(tmp_path),
        "HEADRACE_KERNELS": "require",
    }
    tests = [str(Path(__file__).with_name(f"test_{name}.py")) for name in ("twins", "ids", "unique", "blocks")]
    tests.append(str(ROOT / "tests" / "embeddings" / "test_interactions.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    symbols = subprocess.run(["nm", "-D", *map(str, tmp_path.glob("*.so"))], capture_output=True, text=True, check=True)
    assert "__asan_report_load4" in symbols.stdout, "they really were checked"


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """threads.cc and the kernels it calls, built with ThreadSanitizer."""
    _runtime("libtsan.so")
    folder = tmp_path_factory.mktemp("watched")
    include = [flag.replace("-I", "-isystem", 1) for flag in tf.sysconfig.get_compile_flags()]
    library = tf.sysconfig.get_lib()
    sources = [SOURCES / f"{name}.cc" for name in ("grouping", "id_table", "growing", "bags")]
    command = [
        *(
            "g++",
            *include,
            f"-I{SOURCES}",
            f"-I{COMMON}",
            "-fsanitize=thread",
            "-g",
            "-O1",
            "-ffp-contract=off",
            "-pthread",
        ),
        *("-Wno-deprecated-declarations", "-DThreadPool=WatchedPool"),
        *(str(Path(__file__).with_name("threads.cc")), *map(str, [*sources, COMMON / "memory.cc"]), f"-L{library}"),
        *("-l:libtensorflow_framework.so.2", "-l:libtensorflow_cc.so.2", f"-Wl,-rpath,{library}"),
        *("-o", str(folder / "threads")),
    ]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return folder / "threads"


def test_no_two_threads_meet(watched):
    done = subprocess.run([str(watched)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "done\n"
    assert "ThreadSanitizer" not in done.stderr


def test_a_race_would_be_seen(watched):
    done = subprocess.run([str(watched), "race"], capture_output=True, text=True, check=False)
    assert "ThreadSanitizer: data race" in done.stderr
