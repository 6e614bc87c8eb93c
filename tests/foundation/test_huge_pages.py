"""Large arrays in huge pages: what they hold stays."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import numpy as np
from pathlib import Path
from foundation.memory import use_huge_pages

def huge():
    return sum(int(line.split()[1]) for line in Path("/proc/self/smaps").read_text().splitlines() if "AnonHuge" in line)

held, sparse = np.arange(20 << 20, dtype=np.float32), np.empty(64 << 20, np.uint8)
sparse[0] = 7
before = huge()
resident = int(Path("/proc/self/statm").read_text().split()[1])
use_huge_pages()
assert (held == np.arange(20 << 20, dtype=np.float32)).all() and sparse[0] == 7
grown = (int(Path("/proc/self/statm").read_text().split()[1]) - resident) * 4096
assert grown < 16 << 20, grown
print(huge() - before)
"""


def test_contents_stay_and_what_is_not_in_use_does_not_grow():
    command = [sys.executable, "-c", PROGRAM]
    told = subprocess.run(command, check=True, cwd=Path(__file__).parents[2], capture_output=True, text=True).stdout
    assert int(told) >= 0  # kilobytes; none where the system has no huge pages to give
