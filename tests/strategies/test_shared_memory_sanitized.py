"""The shared-memory group under ThreadSanitizer, with threads for ranks."""

import shutil
import subprocess
from pathlib import Path

import pytest

from strategies.shared_memory.communicator import LIBRARY

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler here"),
]


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """threads.cc and the code it calls, which knows no TensorFlow, built with ThreadSanitizer."""
    runtime = subprocess.run(["g++", "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True).stdout
    if not Path(runtime.strip()).is_absolute():
        pytest.skip("no libtsan.so here")
    program = tmp_path_factory.mktemp("watched") / "threads"
    sources = [str(LIBRARY.sources / f"{name}.cc") for name in ("group", "payloads")]
    command = [
        *("g++", "-std=c++17", f"-I{LIBRARY.sources}", "-fsanitize=thread", "-g", "-O1", "-pthread", "-Wno-tsan"),
        *(str(Path(__file__).with_name("threads.cc")), *sources, "-o", str(program)),
    ]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return program


def test_no_two_ranks_meet(watched):
    done = subprocess.run([str(watched)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "done\n"
    assert "ThreadSanitizer" not in done.stderr, done.stderr[:4000]


def test_a_race_would_be_seen(watched):
    done = subprocess.run([str(watched), "race"], capture_output=True, text=True, check=False, timeout=300)
    assert "ThreadSanitizer: data race" in done.stderr
